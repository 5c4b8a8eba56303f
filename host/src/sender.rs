//! One outbound exchange: may it be asked, send it, wait no longer than the component said.

use crate::allowed_hosts::AllowedHosts;
use crate::connector::{CONNECT_TIMEOUT, ConnectError, Connector};
use crate::output::note;
use crate::timed_body::TimedBody;
use http::{HeaderName, Request, Response, header};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttpHooks};

/// For each of the three time-outs that the component doesn't set, as in Spin.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// How many bytes of an HTTP/2 response wait here for who reads it, and of all responses of a connection: a download that
/// nobody reads must leave the others room, of which there are as many as the upstream lets be, 100 to 250 mostly.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024 * 1024;

/// How long an HTTP/2 connection is silent before it is tried, and how long it then has to answer. All requests to a host
/// share it, so one on a path that went dead has to go before they reach their time-outs, 15 seconds here.
const SILENCE: Duration = Duration::from_secs(5);

/// Marks, for one moment, the headers of a request that is on its way to the component. See [`Outbound`].
pub const INCOMING: HeaderName = HeaderName::from_static("hammal-host-incoming");

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
}

impl Outbound {
    /// `pooling` keeps connections for the next request.
    pub fn new(allowed: AllowedHosts, connector: Connector, pooling: bool) -> Self {
        Self::with_silence(allowed, connector, pooling, SILENCE)
    }

    fn with_silence(allowed: AllowedHosts, connector: Connector, pooling: bool, silence: Duration) -> Self {
        let mut client = Client::builder(TokioExecutor::new());
        client.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
        client.http2_initial_stream_window_size(STREAM_WINDOW);
        client.http2_initial_connection_window_size(CONNECTION_WINDOW);
        client.http2_keep_alive_interval(silence).http2_keep_alive_timeout(silence).http2_keep_alive_while_idle(true);
        if !pooling {
            client.pool_max_idle_per_host(0);
        }
        Self { shared: Arc::new(Shared { allowed, client: client.build(connector) }), incoming: false }
    }
}

/// What became of sending the request, which hyper's client reports through the response instead.
type RequestOutcome = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Outbound {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        if name == INCOMING {
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
            let response = shared.exchange(request, options.unwrap_or_default()).await?;
            Ok((response, Box::new(std::future::ready(Ok(()))) as RequestOutcome))
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
        if !self.allowed.allow(uri) {
            let (scheme, authority) =
                (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()));
            note(&format!("{scheme}://{authority} is not in the component's allowed_outbound_hosts"));
            return Err(Error::HttpRequestDenied);
        }
        request.headers_mut().remove(header::HOST);

        let connect = options.connect_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let first_byte = options.first_byte_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let between_bytes = options.between_bytes_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let response = CONNECT_TIMEOUT.scope(connect, self.client.request(request));
        let response = tokio::time::timeout(first_byte, response)
            .await
            .map_err(|_| Error::ConnectionReadTimeout)?
            .map_err(|error| code(&error))?;
        Ok(response.map(|body| TimedBody::new(body, between_bytes).boxed_unsync()))
    }
}

/// The code that Spin gives the component for the same failure.
fn code(error: &hyper_util::client::legacy::Error) -> Error {
    match error.source().and_then(|source| source.downcast_ref::<ConnectError>()) {
        Some(ConnectError::Unresolved) => {
            Error::DnsError { rcode: Some("address not available".to_owned()), info_code: Some(0) }
        }
        Some(ConnectError::Prohibited) => Error::DestinationIpProhibited,
        Some(ConnectError::Refused) => Error::ConnectionRefused,
        Some(ConnectError::TimedOut) => Error::ConnectionTimeout,
        Some(ConnectError::Tls) => Error::TlsProtocolError,
        None => Error::HttpProtocolError,
    }
}

#[cfg(test)]
mod tests;
