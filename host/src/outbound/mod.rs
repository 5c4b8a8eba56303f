//! Sends the component's outbound requests: checks them, sends them, and applies their time-outs.

pub mod connector;
mod framing;
mod idle_timeout;
pub mod limit;
mod resolver;
pub mod tls;
mod transport;

use self::connector::{CONNECT_TIMEOUT, ConnectError, Connector, DEFAULT_TIMEOUT};
use self::idle_timeout::{IdleTimeoutBody, LargeRead};
use crate::component::lifetime::InstanceLife;
use crate::egress::allowed_hosts::AllowedHosts;
use crate::metrics::UpstreamRequest;
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

/// The most concurrent requests to a host that share one HTTP/2 connection. Upstreams allow 100
/// (the least that RFC 9113, section 6.5.2, recommends) to 250 streams. hyper's client queues
/// requests beyond that until a stream ends, which takes minutes for a download. Requests beyond
/// this limit use HTTP/1.1, each on a connection of its own.
const MAX_STREAMS: usize = 64;

/// Bytes of one HTTP/2 response that are buffered until the component, or its client, reads them.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// Bytes of all responses on one HTTP/2 connection that are buffered: enough for all streams, so
/// that downloads that nobody reads don't block others.
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;

/// Bytes of one HTTP/1.1 response that are buffered: also the most that its head may have.
const HTTP1_BUFFER: usize = 64 * 1024;

/// The most idle connections to one host. Each is a file descriptor, and clients choose the hosts.
const MAX_IDLE_PER_HOST: usize = 32;

/// How long a connection may be idle if their number is limited: others wait for it meanwhile.
const LIMITED_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// The number of hosts beyond which those without requests in progress are removed from the table
/// of free streams. Clients choose the hosts, so the table would grow without limit.
const MAX_HOSTS: usize = 1024;

/// How long an HTTP/2 connection may be silent until a ping is sent, and how long the ping may
/// remain unanswered. A dead connection, which all requests to a host share, has to be closed
/// before they reach their time-outs, 15 seconds by default in hammal.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The most large manifests that the component reads at one time. Each takes three times its size
/// of an instance's memory, which hardly any client needs: those that people build have some KiB.
const MAX_LARGE_READS: usize = 8;

/// A header that marks a request to the component, until its headers are checked. See [`Outbound`].
pub const INCOMING_MARKER: HeaderName = HeaderName::from_static("hammal-host-incoming");

/// Sends the component's outbound requests. Each instance has a clone; all clones share their
/// connections.
#[derive(Clone)]
pub struct Outbound {
    shared: Arc<Shared>,
    /// The instance that sends.
    life: Arc<InstanceLife>,
    /// Whether the header that is checked next is the `Host` of an incoming request. The component
    /// may see that one, and must not set its own. wasmtime-wasi-http checks both by name alone, so
    /// the server inserts [`INCOMING_MARKER`] directly before the incoming one.
    is_incoming: bool,
}

struct Shared {
    allowed: AllowedHosts,
    client: Client<Connector, WasiBody>,
    /// For requests beyond [`MAX_STREAMS`].
    http1_client: Client<Connector, WasiBody>,
    /// The part of [`MAX_STREAMS`] that is free, by host and port.
    free_streams: Mutex<HashMap<Authority, Arc<Semaphore>>>,
    /// The part of [`MAX_LARGE_READS`] that is free.
    large_reads: Arc<Semaphore>,
}

impl Outbound {
    /// Sends to `allowed` hosts only. `pooling` says whether connections are reused.
    pub fn new(allowed: AllowedHosts, connector: Connector, pooling: bool) -> Self {
        Self::with_keep_alive(allowed, connector, pooling, KEEP_ALIVE)
    }

    fn with_keep_alive(
        allowed: AllowedHosts,
        connector: Connector,
        pooling: bool,
        keep_alive: Duration,
    ) -> Self {
        let mut client = Client::builder(TokioExecutor::new());
        client
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new());
        client.http2_initial_stream_window_size(STREAM_WINDOW);
        client.http2_initial_connection_window_size(CONNECTION_WINDOW);
        client
            .http2_keep_alive_interval(keep_alive)
            .http2_keep_alive_timeout(keep_alive)
            .http2_keep_alive_while_idle(true);
        client.http1_max_buf_size(HTTP1_BUFFER);
        client.pool_max_idle_per_host(if pooling { MAX_IDLE_PER_HOST } else { 0 });
        if connector.is_limited() {
            client.pool_idle_timeout(LIMITED_IDLE_TIMEOUT);
        }
        let http1_client = client.build(connector.clone().http1_only());
        let shared = Shared {
            allowed,
            client: client.build(connector),
            http1_client,
            free_streams: Mutex::default(),
            large_reads: Arc::new(Semaphore::new(MAX_LARGE_READS)),
        };
        Self {
            shared: Arc::new(shared),
            life: Arc::default(),
            is_incoming: false,
        }
    }

    /// Returns a clone for a new instance.
    pub fn of_instance(&self, life: &Arc<InstanceLife>) -> Self {
        Self {
            life: Arc::clone(life),
            ..self.clone()
        }
    }
}

/// The result of sending a request's body. hyper's client reports it with the response, so it is
/// always `Ok` here.
type BodyOutcome = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Outbound {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        if name == INCOMING_MARKER {
            self.is_incoming = true;
            return true;
        }
        let is_incoming_host = std::mem::take(&mut self.is_incoming) && name == header::HOST;
        !is_incoming_host && DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn set_host_header(&mut self) -> bool {
        // hyper's client sets it for HTTP/1.1. In HTTP/2 some servers reject it.
        false
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: BodyOutcome,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, BodyOutcome), Error>> + Send> {
        let shared = Arc::clone(&self.shared);
        let upload = (*request.method() == Method::PUT).then(|| self.life.upload());
        Box::new(async move {
            let _upload = upload;
            let measured = UpstreamRequest::start(request.uri());
            let response = shared.send(request, options.unwrap_or_default()).await;
            let response = match (measured, response) {
                (Some(measured), Ok(response)) => measured.answered(response),
                (None, Ok(response)) => response,
                (measured, Err(error)) => {
                    if let Some(measured) = measured {
                        measured.failed(error_word(&error));
                    }
                    return Err(error);
                }
            };
            Ok((
                response,
                Box::new(std::future::ready(Ok(()))) as BodyOutcome,
            ))
        })
    }
}

impl Shared {
    /// Sends `request`, and returns the response as soon as its head has arrived.
    async fn send(
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
                "the component's allowed_outbound_hosts don't include {scheme}://{authority}"
            ));
            return Err(Error::HttpRequestDenied);
        }
        let stream = uri
            .authority()
            .and_then(|authority| self.try_acquire_stream(authority));
        let client = if stream.is_some() {
            &self.client
        } else {
            &self.http1_client
        };
        let large = is_read_by_the_component(&request)
            .then(|| LargeRead::new(Arc::clone(&self.large_reads)));
        request.headers_mut().remove(header::HOST);
        let request = without_undeclared_body(request);

        let connect_timeout = options.connect_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let first_byte_timeout = options.first_byte_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let between_bytes_timeout = options.between_bytes_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let response = CONNECT_TIMEOUT.scope(connect_timeout, client.request(request));
        let response = tokio::time::timeout(first_byte_timeout, response)
            .await
            .map_err(|_| Error::ConnectionReadTimeout)?
            .map_err(|error| error_code(&error))?;
        let response = framing::with_one_length(response)?;
        Ok(response.map(|body| {
            IdleTimeoutBody::new(body, between_bytes_timeout, stream, large).boxed_unsync()
        }))
    }

    /// Takes one of the [`MAX_STREAMS`] to `host`; `None` if all are in use.
    fn try_acquire_stream(&self, host: &Authority) -> Option<OwnedSemaphorePermit> {
        // No code panics while it holds the lock.
        let mut hosts = self
            .free_streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MAX_HOSTS {
            hosts.retain(|_, streams| streams.available_permits() < MAX_STREAMS);
        }
        let streams = hosts
            .entry(host.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(MAX_STREAMS)));
        Arc::clone(streams).try_acquire_owned().ok()
    }
}

/// Whether the component may read the response to verify it: that of a manifest, also where a
/// redirect leads to another path.
fn is_read_by_the_component<B>(request: &Request<B>) -> bool {
    let accept = request.headers().get_all(header::ACCEPT);
    let mut accept = accept.iter().map(|value| value.as_bytes());
    request.uri().path().contains("/manifests/")
        || accept.any(|value| value.windows(8).any(|part| part == b"manifest"))
}

/// Removes the body of a GET or HEAD without `Content-Length`, as hyper does for HTTP/1.1. For
/// HTTP/2, a body that may have trailers keeps its stream open until the component ends it. A
/// server that has responded by then resets the stream, and hyper's server closes a connection,
/// with all its streams, after 1,024 resets.
fn without_undeclared_body(request: Request<WasiBody>) -> Request<WasiBody> {
    if matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.headers().contains_key(header::CONTENT_LENGTH)
    {
        request.map(|_| Empty::new().map_err(Into::into).boxed_unsync())
    } else {
        request
    }
}

/// Returns the error code that Spin returns to a component for the same failure.
fn error_code(error: &hyper_util::client::legacy::Error) -> Error {
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

/// Returns the label of a failure in the metrics.
fn error_word(error: &Error) -> &'static str {
    match error {
        Error::DnsError { .. } => "dns",
        Error::DestinationIpProhibited => "blocked",
        Error::ConnectionRefused => "refused",
        Error::ConnectionTimeout => "connect_timeout",
        Error::ConnectionReadTimeout => "first_byte_timeout",
        Error::TlsProtocolError => "tls",
        Error::HttpRequestDenied => "denied",
        _ => "protocol",
    }
}

#[cfg(test)]
mod tests;
