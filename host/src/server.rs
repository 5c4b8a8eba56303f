//! The HTTP server: accepts connections, passes requests to the component, drains on shutdown.

pub mod tls;

use self::tls::Tls;
use crate::component::Handler;
use crate::config::route::Route;
use crate::metrics;
use crate::outbound::INCOMING_MARKER;
use crate::stderr::warn;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_io_timeout::TimeoutStream;
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::handler::{ExpirationError, InstantiationError};

/// The most requests that the component handles at one time, counted until the response's head.
const MAX_CONCURRENT_REQUESTS: usize = 1024;

/// How long a request waits while [`MAX_CONCURRENT_REQUESTS`] are being handled.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to send a request's head, and a connection may be idle. Longer than
/// the idle time-out of load balancers, 60 s in most: otherwise one of them sends a request on a
/// connection that this server is about to close.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a write to a client may make no progress. A client that stops reading costs memory,
/// file descriptors and, with a WASIp2 component, an instance. The kernel buffers up to 4 MiB for
/// each connection and reports progress once a third of it is free. This does not cover an HTTP/2
/// client that answers pings and never opens its flow-control window.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How long requests may go on after the signal to shut down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Tells the component the client's IP address and port, as Spin does.
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("spin-client-addr");

/// Tells the component, whose SDK doesn't give it the URL's scheme, that its URL starts with
/// `https:`. A proxy in front may have said so already.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Paths below this one are answered by the host, as Spin answers them.
const WELL_KNOWN: &str = "/.well-known/spin/";

/// The HTTP server of the process.
pub struct Server {
    handler: Handler,
    route: Route,
    permits: Semaphore,
    options: ServerOptions,
    http: Builder<TokioExecutor>,
}

/// How the server is reached, and for how long the component may take.
pub struct ServerOptions {
    /// Serves https instead of http.
    pub tls: Option<Tls>,
    /// Bytes that are buffered of one HTTP/1.1 connection; `None` is hyper's default.
    pub http1_max_buf_size: Option<usize>,
    /// How long a request may take until its response begins.
    pub request_timeout: Duration,
}

impl Server {
    /// A server that passes requests for `route` to `handler`.
    pub fn new(handler: Handler, route: Route, options: ServerOptions) -> Arc<Self> {
        let mut http = Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_READ_TIMEOUT);
        if let Some(size) = options.http1_max_buf_size {
            http.http1().max_buf_size(size);
        }
        // Closes connections whose peer is gone without closing them: it answers no ping.
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HEADER_READ_TIMEOUT);
        Arc::new(Self {
            handler,
            route,
            permits: Semaphore::new(MAX_CONCURRENT_REQUESTS),
            options,
            http,
        })
    }

    /// Serves `listener` until `shutdown` resolves, then waits for requests in progress, at most
    /// [`SHUTDOWN_TIMEOUT`].
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
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
            // Otherwise a response in two writes waits 40 ms for the client's delayed ACK.
            let _ = stream.set_nodelay(true);
            let server = Arc::clone(&self);
            // Can't fail: an address is written in digits, letters, points, colons and brackets.
            let Ok(client) = HeaderValue::try_from(client.to_string()) else {
                continue;
            };
            let watcher = connections.watcher();
            tokio::spawn(async move {
                let stream = with_write_timeout(stream, WRITE_STALL_TIMEOUT);
                match server.options.tls.clone() {
                    None => {
                        server
                            .serve_connection(stream, Scheme::HTTP, client, watcher)
                            .await;
                    }
                    // Errors are the client's fault: it doesn't trust the certificate, say.
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            server
                                .serve_connection(stream, Scheme::HTTPS, client, watcher)
                                .await;
                        }
                    }
                }
            });
        }
        drop(listener);
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, connections.shutdown()).await;
    }

    /// Serves one connection, until it is closed or `watcher` sees the shutdown.
    async fn serve_connection<S>(
        self: Arc<Self>,
        stream: S,
        scheme: Scheme,
        client: HeaderValue,
        watcher: Watcher,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let first_request = Arc::new(Notify::new());
        let request_received = Arc::clone(&first_request);
        let server = Arc::clone(&self);
        let service = service_fn(move |request| {
            request_received.notify_one();
            let (server, scheme, client) = (Arc::clone(&server), scheme.clone(), client.clone());
            async move {
                let response = server.handle(request, scheme, client);
                Ok::<_, Infallible>(metrics::count_response(response).await)
            }
        });
        let connection = self
            .http
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        let connection = watcher.watch(connection);
        // Errors are the client's fault: it is gone, or does not speak HTTP.
        drop(with_first_request_timeout(connection, &first_request, HEADER_READ_TIMEOUT).await);
    }

    async fn handle(
        &self,
        request: Request<Incoming>,
        scheme: Scheme,
        client: HeaderValue,
    ) -> Response<WasiBody> {
        if let Some(name) = request.uri().path().strip_prefix(WELL_KNOWN) {
            return match name {
                "health" => text_response(StatusCode::OK, "OK"),
                _ => text_response(StatusCode::NOT_FOUND, ""),
            };
        }
        let (mut parts, body) = request.into_parts();
        match prepare_request(&mut parts, &self.route, scheme, client) {
            Ok(true) => {}
            Ok(false) => return text_response(StatusCode::NOT_FOUND, ""),
            Err(error) => return text_response(StatusCode::BAD_REQUEST, &format!("{error:#}\n")),
        }
        let request = Request::from_parts(parts, body.map_err(Into::into).boxed_unsync());
        let queued = metrics::request_queued();
        let Ok(Ok(_permit)) = tokio::time::timeout(QUEUE_TIMEOUT, self.permits.acquire()).await
        else {
            return text_response(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many concurrent requests\n",
            );
        };
        drop(queued);
        // The handler's own time-out can't stop a component that computes without ever waiting.
        let limit = self.options.request_timeout;
        match tokio::time::timeout(limit, self.handler.handle((), request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is::<InstantiationError<()>>() => {
                warn(&format!("can't instantiate the component: {error:#}"));
                text_response(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the component can't be instantiated now\n",
                )
            }
            Ok(Err(error)) if !error.is::<ExpirationError>() => {
                warn(&format!("the component failed to respond: {error:#}"));
                text_response(StatusCode::INTERNAL_SERVER_ERROR, "")
            }
            Ok(Err(_)) | Err(_) => text_response(
                StatusCode::GATEWAY_TIMEOUT,
                "the component took too long to respond\n",
            ),
        }
    }
}

/// Makes writes to `stream` fail once one has made no progress for `limit`.
fn with_write_timeout(stream: TcpStream, limit: Duration) -> Pin<Box<TimeoutStream<TcpStream>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limit));
    Box::pin(stream)
}

/// Runs `connection`, and drops it if `first_request` is not notified within `limit`: hyper applies
/// none of its time-outs until it can tell HTTP/1 from HTTP/2. Returns `None` if dropped.
async fn with_first_request_timeout<T>(
    connection: impl Future<Output = T>,
    first_request: &Notify,
    limit: Duration,
) -> Option<T> {
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return Some(ended),
        received = tokio::time::timeout(limit, first_request.notified()) => received.ok()?,
    }
    Some(connection.await)
}

/// A response that the host makes itself.
fn text_response(status: StatusCode, text: &str) -> Response<WasiBody> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = Response::new(body.map_err(Into::into).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// Gives a request the form in which Spin passes it to a component: with an absolute URI, `Host`
/// and the address of the `client`. Returns `false` if the route doesn't match. Fails if there is
/// no valid host, or two different ones.
fn prepare_request(
    parts: &mut Parts,
    route: &Route,
    scheme: Scheme,
    client: HeaderValue,
) -> Result<bool> {
    if !route.matches(parts.uri.path()) {
        return Ok(false);
    }
    let host = parts
        .headers
        .get(header::HOST)
        .map(|host| Authority::try_from(host.as_bytes()))
        .transpose();
    let host = host.context("the Host header is not a host")?;
    let authority = match (host, parts.uri.authority()) {
        (Some(host), None) => host,
        (None, Some(authority)) => authority.clone(),
        (Some(host), Some(authority)) if host == *authority => host,
        (Some(_), Some(_)) => anyhow::bail!("the Host header and the request's authority differ"),
        (None, None) => anyhow::bail!("the request has no Host header"),
    };

    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    if scheme == Scheme::HTTPS && !parts.headers.contains_key(FORWARDED_PROTO) {
        let https = HeaderValue::from_static("https");
        parts.headers.insert(FORWARDED_PROTO, https);
    }
    uri.scheme = Some(scheme);
    uri.authority = Some(authority.clone());
    parts.uri = Uri::from_parts(uri)?;

    // Values that the client sent stay in front: the last one is the host's. Spin adds six more
    // headers, about the route and the URL. A mirror doesn't need them, and each costs a copy.
    parts.headers.append(CLIENT_ADDRESS, client);
    parts.headers.remove(header::CONNECTION);
    // The marker directly before `Host`: see `outbound::Outbound`.
    parts.headers.remove(header::HOST);
    parts
        .headers
        .insert(INCOMING_MARKER, HeaderValue::from_static("1"));
    parts
        .headers
        .insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::ErrorKind;
    use tokio::io::AsyncWriteExt as _;

    const CLIENT: HeaderValue = HeaderValue::from_static("127.0.0.1:4711");

    fn prepare(request: http::request::Builder, route: &str) -> Result<Option<Parts>> {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let matches = prepare_request(
            &mut parts,
            &Route::parse(route).unwrap(),
            Scheme::HTTP,
            CLIENT,
        )?;
        Ok(matches.then_some(parts))
    }

    #[test]
    fn passes_the_request_uri_host_and_client_address() {
        let request = Request::get("/v2//a%2Fb?n=1&m")
            .header("host", "mirror.lan:3000")
            .header("connection", "close")
            .header("spin-client-addr", "6.6.6.6:1");
        let parts = prepare(request, "/...").unwrap().unwrap();
        assert_eq!(parts.uri, "http://mirror.lan:3000/v2//a%2Fb?n=1&m");
        let last = |name| parts.headers.get_all(name).iter().next_back().unwrap();
        assert_eq!(last("host"), "mirror.lan:3000");
        assert_eq!(last("spin-client-addr"), CLIENT);
        assert!(!parts.headers.contains_key("connection"));
        let names: Vec<_> = parts.headers.keys().collect();
        assert_eq!(names[names.len() - 2..], [&INCOMING_MARKER, &header::HOST]);
    }

    #[test]
    fn says_that_the_request_came_over_tls() {
        let route = Route::parse("/...").unwrap();
        for (sent, seen) in [(None, "https"), (Some("http"), "http")] {
            let mut request = Request::get("/").header("host", "a.lan");
            if let Some(sent) = sent {
                request = request.header("x-forwarded-proto", sent);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            assert!(prepare_request(&mut parts, &route, Scheme::HTTPS, CLIENT).unwrap());
            assert_eq!(parts.uri, "https://a.lan/");
            assert_eq!(parts.headers["x-forwarded-proto"], seen);
        }
    }

    #[test]
    fn takes_the_host_from_the_authority_of_http2() {
        let parts = prepare(Request::get("http://a.lan/x"), "/...")
            .unwrap()
            .unwrap();
        assert_eq!(parts.headers["host"], "a.lan");
    }

    #[test]
    fn rejects_a_request_without_one_valid_host() {
        for request in [
            Request::get("/"),
            Request::get("/").header("host", "a b"),
            Request::get("http://a.lan/").header("host", "b.lan"),
        ] {
            assert!(prepare(request, "/...").is_err());
        }
    }

    #[tokio::test]
    async fn drops_a_connection_without_a_request() {
        let (never, received, limit) = (Notify::new(), Notify::new(), Duration::from_millis(20));
        assert_eq!(
            with_first_request_timeout(std::future::pending::<()>(), &never, limit).await,
            None
        );
        received.notify_one();
        let long = async { tokio::time::sleep(3 * limit).await };
        assert_eq!(
            with_first_request_timeout(long, &received, limit).await,
            Some(())
        );
    }

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

    #[test]
    fn does_not_match_other_routes() {
        assert!(
            prepare(Request::get("/x").header("host", "a"), "/v2/...")
                .unwrap()
                .is_none()
        );
    }
}
