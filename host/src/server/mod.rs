//! The HTTP server: accepts connections, passes requests to the component, drains on shutdown.

mod detached;
mod refusal;
mod request;
pub mod tls;

use self::detached::Detached;
use self::request::Peer;
use self::tls::Tls;
use crate::component::Handler;
use crate::component::lifetime::{Interest, RequestLife};
use crate::config::route::Route;
use crate::limits::admission::{Admission, Turn};
use crate::limits::client::{Client, FORWARDED_FOR};
use crate::limits::connections::{Connections, IDLE_TIMEOUT, STALL_TIMEOUT};
use crate::limits::delivery::{self, ClientBody};
use crate::limits::rate::{OverLimit, Rates};
use crate::limits::{Limits, Settings};
use crate::metrics;
use crate::stderr::warn;
use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::SockRef;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::handler::{ExpirationError, InstantiationError, TrapOrPanicError};

/// The most streams of one HTTP/2 connection, and bytes of its buffers for each. Nobody sends a
/// body to a mirror.
const HTTP2_STREAMS: u32 = 64;
const HTTP2_SEND_BUFFER: usize = 64 * 1024;
const HTTP2_WINDOW: u32 = 64 * 1024;

/// Bytes of a connection's buffers over HTTP/1.1: also the most that a request's head may have.
const HTTP1_BUFFER: usize = 64 * 1024;

/// Bytes that the kernel holds beyond what is on its way to the client. Without this limit it
/// holds up to 4 MiB for each, and progress is seen late.
const UNSENT: u32 = 128 * 1024;

/// How long requests may go on after the signal to shut down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Paths below this one are answered by the host, as Spin answers them.
const WELL_KNOWN: &str = "/.well-known/spin/";

/// The HTTP server of the process.
pub struct Server {
    handler: Handler,
    route: Route,
    limits: Limits,
    settings: Settings,
    connections: Arc<Connections>,
    admission: Arc<Admission>,
    rates: Rates,
    tls: Option<Tls>,
    http: Builder<TokioExecutor>,
    proxy_warning: Once,
}

/// How the server is reached.
#[derive(Default)]
pub struct ServerOptions {
    /// Serves https instead of http.
    pub tls: Option<Tls>,
    /// Bytes that are buffered of one HTTP/1.1 connection; `None` is [`HTTP1_BUFFER`].
    pub http1_max_buf_size: Option<usize>,
}

impl Server {
    /// A server that passes requests for `route` to `handler`.
    /// Clients get what `limits` and the component's own `settings` say.
    pub fn new(
        handler: Handler,
        route: Route,
        limits: Limits,
        settings: Settings,
        options: ServerOptions,
    ) -> Arc<Self> {
        let mut http = Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .max_buf_size(options.http1_max_buf_size.unwrap_or(HTTP1_BUFFER))
            .header_read_timeout(IDLE_TIMEOUT);
        // Closes connections whose peer is gone without closing them: it answers no ping.
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(IDLE_TIMEOUT)
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_send_buf_size(HTTP2_SEND_BUFFER)
            .initial_stream_window_size(HTTP2_WINDOW)
            .initial_connection_window_size(HTTP2_WINDOW);
        Arc::new(Self {
            handler,
            route,
            connections: Connections::new(&limits, settings.trusted_proxies > 0),
            admission: Admission::new(&limits),
            rates: Rates::new(settings.client_limit),
            limits,
            settings,
            tls: options.tls,
            http,
            proxy_warning: Once::new(),
        })
    }

    /// Serves `listener` until `shutdown` resolves, then waits for requests in progress, at most
    /// [`SHUTDOWN_TIMEOUT`].
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let sweeper =
            tokio::spawn(Arc::clone(&self.connections).sweep(Arc::clone(&self.admission)));
        let connections = GracefulShutdown::new();
        tokio::pin!(shutdown);
        loop {
            let (stream, client) = tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Mostly out of file descriptors: wait until some connections are closed.
                        warn(&format!("can't accept a connection: {error}"));
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            self.spawn_connection(stream, client, connections.watcher());
        }
        // Clients that the kernel has let connect already would get a reset.
        if let Ok(listener) = listener.into_std() {
            while let Ok((stream, client)) = listener.accept() {
                let stream = stream
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(stream));
                if let Ok(stream) = stream {
                    self.spawn_connection(stream, client, connections.watcher());
                }
            }
        }
        sweeper.abort();
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, connections.shutdown()).await;
    }

    /// Serves a connection that was accepted, if its client may have one more.
    fn spawn_connection(self: &Arc<Self>, stream: TcpStream, client: SocketAddr, watcher: Watcher) {
        let Some(counted) = self.connections.open(client.ip()) else {
            return;
        };
        // Otherwise a response in two writes waits 40 ms for the client's delayed ACK.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
        let peer = Peer {
            address: client,
            local: stream.local_addr().ok(),
            scheme: if self.tls.is_some() {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            },
            connection: Arc::new(counted),
        };
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let stream = with_write_timeout(stream, STALL_TIMEOUT);
            match server.tls.clone() {
                None => server.serve_connection(stream, peer, watcher).await,
                // Errors are the client's fault: it doesn't trust the certificate, say.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        server.serve_connection(stream, peer, watcher).await;
                    }
                }
            }
        });
    }

    /// Warns, once, that clients may share an address because the operator has not said that there
    /// is a proxy. A client can write the header too: then this line is all that comes of it.
    fn warn_of_proxy(&self, headers: &HeaderMap, client: Client, what: &str) {
        if self.settings.trusted_proxies == 0 && headers.contains_key(FORWARDED_FOR) {
            self.proxy_warning.call_once(|| {
                warn(&format!(
                    "{client} has used up its {what}, and its requests have X-Forwarded-For: if \
                     that is a proxy in front, set trusted_proxies"
                ));
            });
        }
    }

    /// Serves one connection, until it is closed or `watcher` sees the shutdown.
    async fn serve_connection<S>(self: Arc<Self>, stream: S, peer: Peer, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (server, counted) = (Arc::clone(&self), Arc::clone(&peer.connection));
        let service = service_fn(move |request| {
            let (server, peer) = (Arc::clone(&server), peer.clone());
            async move {
                let response = server.handle(request, peer);
                Ok::<_, Infallible>(metrics::count_response(response).await)
            }
        });
        let connection = self
            .http
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        tokio::select! {
            // Errors are the client's fault: it is gone, or does not speak HTTP.
            _ = watcher.watch(connection) => {}
            () = counted.to_be_closed() => {}
        }
    }

    async fn handle(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Response<WasiBody> {
        let active = peer.connection.request();
        if let Some(name) = request.uri().path().strip_prefix(WELL_KNOWN) {
            return match name {
                "health" => text_response(StatusCode::OK, "OK"),
                _ => text_response(StatusCode::NOT_FOUND, ""),
            };
        }
        let (mut parts, body) = request.into_parts();
        let is_http2 = parts.version == Version::HTTP_2;
        let client = Client::from_request(
            peer.address.ip(),
            &parts.headers,
            self.settings.trusted_proxies,
        );
        match request::prepare(&mut parts, &self.route, &peer) {
            Ok(true) => {}
            Ok(false) => return text_response(StatusCode::NOT_FOUND, ""),
            Err(error) => return text_response(StatusCode::BAD_REQUEST, &format!("{error:#}\n")),
        }
        let path = parts.uri.path();
        match self
            .rates
            .check(&self.settings, client, path, &parts.headers)
        {
            Ok(()) => {}
            Err(OverLimit::Requests(wait)) => {
                self.warn_of_proxy(&parts.headers, client, "client_limit");
                return refusal::over_client_limit(&parts.method, &self.settings, wait);
            }
            Err(OverLimit::WrongLogins(wait)) => {
                self.warn_of_proxy(&parts.headers, client, "wrong logins");
                return refusal::too_many_wrong_logins(&parts.method, &self.settings, wait);
            }
        }
        if self.admission.has_used_up(client) {
            self.warn_of_proxy(&parts.headers, client, "--client-memory");
        }
        let is_blob = delivery::is_blob(parts.uri.path());
        let named = self.settings.own_upstreams.named_by_client(&parts.uri);
        let queued = metrics::request_queued();
        let Ok(turn) = self.admission.admit(client, named).await else {
            return refusal::busy(&parts.method, &self.settings);
        };
        drop(queued);
        let request = Request::from_parts(parts, body.map_err(Into::into).boxed_unsync());
        let life = Arc::<RequestLife>::default();
        // Dropped with this future if the client hangs up. The exchange goes on then, with its
        // turn, until the component has noticed.
        let mut interest = Interest::new(Arc::clone(&life));
        let server = Arc::clone(self);
        let exchange = Detached::new(async move { server.exchange(request, life, turn).await });
        match exchange.await {
            Ok((response, turn)) => {
                interest.answered();
                let length = response
                    .headers()
                    .get(header::CONTENT_LENGTH)
                    .and_then(|length| length.to_str().ok()?.parse().ok());
                let progress = active.deliver(turn.client());
                response.map(|body| {
                    ClientBody::new(body, length, is_blob, is_http2, turn, progress, interest)
                        .boxed_unsync()
                })
            }
            Err(response) => response,
        }
    }

    /// Has the component answer `request`. The `turn` is given back with the response, or once the
    /// component no longer works on the request.
    async fn exchange(
        &self,
        request: Request<WasiBody>,
        life: Arc<RequestLife>,
        turn: Turn,
    ) -> Result<(Response<WasiBody>, Turn), Response<WasiBody>> {
        let limit = self.limits.request_timeout;
        // The handler's own time-out can't stop a component that computes without ever waiting.
        let handled = self.handler.handle(Arc::clone(&life), request);
        match tokio::time::timeout(limit, handled).await {
            Ok(Ok(response)) => Ok((response, turn)),
            Ok(Err(error)) if error.is::<InstantiationError<Arc<RequestLife>>>() => {
                warn(&format!("can't instantiate the component: {error:#}"));
                Err(text_response(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the component can't be instantiated now\n",
                ))
            }
            Ok(Err(error)) if !error.is::<ExpirationError>() => {
                // The end of an instance is told of where it ends, if somebody waited for it.
                if !life.is_given_up() && !error.is::<TrapOrPanicError>() {
                    warn(&format!("the component failed to respond: {error:#}"));
                }
                Err(text_response(StatusCode::INTERNAL_SERVER_ERROR, ""))
            }
            Ok(Err(_)) | Err(_) => {
                // The component goes on with it, until its own time-outs are over.
                tokio::spawn(async move {
                    tokio::time::sleep(limit).await;
                    drop(turn);
                });
                Err(text_response(
                    StatusCode::GATEWAY_TIMEOUT,
                    "the component took too long to respond\n",
                ))
            }
        }
    }
}

/// Makes writes to `stream` fail once one has made no progress for `limit`.
fn with_write_timeout(stream: TcpStream, limit: Duration) -> Pin<Box<TimeoutStream<TcpStream>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limit));
    Box::pin(stream)
}

/// A response that the host makes itself.
fn text_response(status: StatusCode, text: &str) -> Response<WasiBody> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = Response::new(body.map_err(Into::into).boxed_unsync());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn fails_a_write_to_a_client_that_stops_reading() {
        let limit = Duration::from_secs(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for reads in [false, true] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let mut stream = with_write_timeout(listener.accept().await.unwrap().0, limit);
            let reader = tokio::spawn(async move {
                if !reads {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(limit / 2).await;
                tokio::io::copy(&mut client, &mut tokio::io::sink())
                    .await
                    .unwrap()
            });
            // More than the send and receive buffers hold.
            let written = stream.write_all(&vec![0; 64 * 1024 * 1024]).await;
            assert_eq!(
                written.map_err(|error| error.kind()),
                if reads {
                    Ok(())
                } else {
                    Err(ErrorKind::TimedOut)
                }
            );
            reader.abort();
        }
    }
}
