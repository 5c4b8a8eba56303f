//! One outbound exchange: may it be asked, send it, wait no longer than the component said.

use self::connector::{CONNECT_TIMEOUT, ConnectError, Connector, DEFAULT_TIMEOUT};
pub mod connector;
mod idle_timeout;
pub mod tls;

use self::idle_timeout::TimedBody;
use crate::egress::allowed_hosts::AllowedHosts;
use crate::stderr::warn;
use http::uri::Authority;
use http::{HeaderName, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttpHooks,
};

/// How many exchanges with an upstream may share one HTTP/2 connection. Upstreams let 100 (the least that RFC 9113, section
/// 6.5.2, recommends) to 250 be, and hyper's client leaves what is beyond that waiting until another one ends, which a
/// download takes minutes for. What is beyond this goes by HTTP/1.1, each exchange on a connection of its own.
const STREAMS: usize = 64;

/// How many bytes of an HTTP/2 response wait here for who reads it, and of all responses of a connection: a download that
/// nobody reads must leave the others room.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = STREAMS as u32 * STREAM_WINDOW;

/// How many idle connections are kept to a host: names of hosts come from clients, and each is a file descriptor.
const IDLE: usize = 32;

/// How many hosts are remembered, at most, that nothing is under way with.
const HOSTS: usize = 1024;

/// How long an HTTP/2 connection is silent before it is tried, and how long it then has to answer. All requests to a host
/// share it, so one on a path that went dead has to go before they reach their time-outs, 15 seconds here.
const SILENCE: Duration = Duration::from_secs(5);

/// Marks, for one moment, the headers of a request that is on its way to the component. See [`Outbound`].
pub const INCOMING_MARKER: HeaderName = HeaderName::from_static("hammal-host-incoming");

/// The component's way out. Cloned for each instance; connections are shared by all.
#[derive(Clone)]
pub struct Outbound {
    shared: Arc<Shared>,
    /// Whether the header names that are asked about now belong to an incoming request: the component sees its `host`
    /// but can't set one. Only the names tell the two apart, hence the marker, which goes right before `host`.
    incoming: bool,
}

struct Shared {
    allowed: AllowedHosts,
    client: Client<Connector, WasiBody>,
    /// By HTTP/1.1 alone.
    overflow: Client<Connector, WasiBody>,
    /// What is left of `STREAMS` at each host.
    streams: Mutex<HashMap<Authority, Arc<Semaphore>>>,
}

impl Outbound {
    /// `pooling` keeps connections for the next request.
    pub fn new(allowed: AllowedHosts, connector: Connector, pooling: bool) -> Self {
        Self::with_silence(allowed, connector, pooling, SILENCE)
    }

    fn with_silence(
        allowed: AllowedHosts,
        connector: Connector,
        pooling: bool,
        silence: Duration,
    ) -> Self {
        let mut client = Client::builder(TokioExecutor::new());
        client
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new());
        client.http2_initial_stream_window_size(STREAM_WINDOW);
        client.http2_initial_connection_window_size(CONNECTION_WINDOW);
        client
            .http2_keep_alive_interval(silence)
            .http2_keep_alive_timeout(silence)
            .http2_keep_alive_while_idle(true);
        client.pool_max_idle_per_host(if pooling { IDLE } else { 0 });
        let overflow = client.build(connector.clone().by_http1());
        let shared = Shared {
            allowed,
            client: client.build(connector),
            overflow,
            streams: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            incoming: false,
        }
    }
}

/// What became of sending the request, which hyper's client reports through the response instead.
type RequestOutcome = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Outbound {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        if name == INCOMING_MARKER {
            self.incoming = true;
            return true;
        }
        let incoming_host = std::mem::take(&mut self.incoming) && name == header::HOST;
        !incoming_host && DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn set_host_header(&mut self) -> bool {
        // HTTP/1.1 gets it from hyper's client; with HTTP/2 some servers refuse it beside `:authority`.
        false
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: RequestOutcome,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, RequestOutcome), Error>> + Send> {
        let shared = Arc::clone(&self.shared);
        Box::new(async move {
            let response = shared
                .exchange(request, options.unwrap_or_default())
                .await?;
            Ok((
                response,
                Box::new(std::future::ready(Ok(()))) as RequestOutcome,
            ))
        })
    }
}

impl Shared {
    async fn exchange(
        &self,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let uri = request.uri();
        if !self.allowed.allows(uri) {
            let (scheme, authority) = (
                uri.scheme_str().unwrap_or_default(),
                uri.authority().map_or("", |a| a.as_str()),
            );
            warn(&format!(
                "{scheme}://{authority} is not in the component's allowed_outbound_hosts"
            ));
            return Err(Error::HttpRequestDenied);
        }
        let stream = uri.authority().and_then(|authority| self.stream(authority));
        let client = if stream.is_some() {
            &self.client
        } else {
            &self.overflow
        };
        request.headers_mut().remove(header::HOST);
        let request = without_empty_body(request);

        let connect = options.connect_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let first_byte = options.first_byte_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let between_bytes = options.between_bytes_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let response = CONNECT_TIMEOUT.scope(connect, client.request(request));
        let response = tokio::time::timeout(first_byte, response)
            .await
            .map_err(|_| Error::ConnectionReadTimeout)?
            .map_err(|error| code(&error))?;
        Ok(response.map(|body| TimedBody::new(body, between_bytes, stream).boxed_unsync()))
    }

    /// A place on the shared connection to this host; `None` where all are taken.
    fn stream(&self, host: &Authority) -> Option<OwnedSemaphorePermit> {
        // Nothing panics while it is locked.
        let mut hosts = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= HOSTS {
            hosts.retain(|_, streams| streams.available_permits() < STREAMS);
        }
        let streams = hosts
            .entry(host.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(STREAMS)));
        Arc::clone(streams).try_acquire_owned().ok()
    }
}

/// Over HTTP/2 a body that may have trailers keeps its stream open until the component says that it has none. A server that
/// has answered by then resets the stream, and one of hyper's ends the connection, with all that is under way there, once
/// it has reset 1,024. A GET whose length nobody says has no body, as hyper takes it to be over HTTP/1.1.
fn without_empty_body(request: Request<WasiBody>) -> Request<WasiBody> {
    if matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.headers().contains_key(header::CONTENT_LENGTH)
    {
        request.map(|_| Empty::new().map_err(Into::into).boxed_unsync())
    } else {
        request
    }
}

/// The code that Spin gives the component for the same failure.
fn code(error: &hyper_util::client::legacy::Error) -> Error {
    match error
        .source()
        .and_then(|source| source.downcast_ref::<ConnectError>())
    {
        Some(ConnectError::Unresolved) => Error::DnsError {
            rcode: Some("address not available".to_owned()),
            info_code: Some(0),
        },
        Some(ConnectError::Prohibited) => Error::DestinationIpProhibited,
        Some(ConnectError::Refused) => Error::ConnectionRefused,
        Some(ConnectError::TimedOut) => Error::ConnectionTimeout,
        Some(ConnectError::Tls) => Error::TlsProtocolError,
        None => Error::HttpProtocolError,
    }
}

#[cfg(test)]
mod tests;
