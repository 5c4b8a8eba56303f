//! Inbound HTTP: accept, hand each request to the component, drain at the end.

use crate::component::{ANSWER, Handler};
use crate::config::route::Route;
use crate::outbound::INCOMING;
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
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_io_timeout::TimeoutStream;
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::handler::{ExpirationError, InstantiationError};

/// How many requests may be with the component, answer not begun, at one time.
const REQUESTS: usize = 1024;

/// How long a request waits for its turn among them.
const TURN: Duration = Duration::from_secs(10);

/// How long a client may take for a request's head, and a connection may idle: longer than the load balancers in front of
/// it, most of which have 60 s, or they would send a request on a connection that is about to close.
const HEAD: Duration = Duration::from_secs(75);

/// How long a client may take nothing of an answer that waits for it: what waits is memory and file descriptors here, and an
/// instance of a WASIp2 component. The kernel has up to 4 MiB for each connection and calls a third of it progress. Over
/// HTTP/2 a client that answers pings may leave an answer where it is for as long as it likes.
const STALL: Duration = Duration::from_secs(5 * 60);

/// How long requests that are under way at the end may go on.
const DRAIN: Duration = Duration::from_secs(5);

/// Where a component learns whom it is talking to, as from Spin: IP address and port.
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("spin-client-addr");

const WELL_KNOWN: &str = "/.well-known/spin/";

/// The server. One per process.
pub struct Server {
    handler: Handler,
    route: Route,
    turns: Semaphore,
}

impl Server {
    pub fn new(handler: Handler, route: Route) -> Arc<Self> {
        Arc::new(Self {
            handler,
            route,
            turns: Semaphore::new(REQUESTS),
        })
    }

    /// Serves `listener` until `stop`, then lets what is under way finish, for a moment.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut http = Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD);
        // A peer that is gone without a word does not answer it.
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HEAD);
        let connections = GracefulShutdown::new();
        tokio::pin!(stop);
        loop {
            let (stream, client) = tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, mostly: let some connections end.
                        warn(&format!("can't accept a connection: {error}"));
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            // Otherwise an answer in two pieces waits 40 ms for the client's delayed acknowledgement.
            let _ = stream.set_nodelay(true);
            let server = Arc::clone(&self);
            // Digits, points and colons: there is no address that is no header.
            let Ok(client) = HeaderValue::try_from(client.to_string()) else {
                continue;
            };
            let begun = Arc::new(Notify::new());
            let asked = Arc::clone(&begun);
            let service = service_fn(move |request| {
                asked.notify_one();
                let (server, client) = (Arc::clone(&server), client.clone());
                async move { Ok::<_, Infallible>(server.answer(request, client).await) }
            });
            let connection = http
                .serve_connection(TokioIo::new(stalling(stream, STALL)), service)
                .into_owned();
            let connection = connections.watch(connection);
            // Errors here are the client's: gone, or not speaking HTTP.
            tokio::spawn(async move { drop(unless_silent(connection, &begun, HEAD).await) });
        }
        drop(listener);
        let _ = tokio::time::timeout(DRAIN, connections.shutdown()).await;
    }

    async fn answer(&self, request: Request<Incoming>, client: HeaderValue) -> Response<WasiBody> {
        if let Some(name) = request.uri().path().strip_prefix(WELL_KNOWN) {
            return match name {
                "health" => plain(StatusCode::OK, "OK"),
                _ => plain(StatusCode::NOT_FOUND, ""),
            };
        }
        let (mut parts, body) = request.into_parts();
        match prepare(&mut parts, &self.route, client) {
            Ok(true) => {}
            Ok(false) => return plain(StatusCode::NOT_FOUND, ""),
            Err(error) => return plain(StatusCode::BAD_REQUEST, &format!("{error:#}\n")),
        }
        let request = Request::from_parts(parts, body.map_err(Into::into).boxed_unsync());
        let Ok(Ok(_turn)) = tokio::time::timeout(TURN, self.turns.acquire()).await else {
            return plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests at one time\n",
            );
        };
        // The handler's own limit can't stop a component that never lets go of its thread's turn.
        match tokio::time::timeout(ANSWER, self.handler.handle((), request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is::<InstantiationError<()>>() => {
                warn(&format!("the component can't be instantiated: {error:#}"));
                plain(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "no instance of the component can be made now\n",
                )
            }
            Ok(Err(error)) if !error.is::<ExpirationError>() => {
                warn(&format!("the component failed to answer: {error:#}"));
                plain(StatusCode::INTERNAL_SERVER_ERROR, "")
            }
            Ok(Err(_)) | Err(_) => plain(
                StatusCode::GATEWAY_TIMEOUT,
                "the component took too long to answer\n",
            ),
        }
    }
}

/// A connection that fails where nothing can be written to it for longer than `limit`.
fn stalling(stream: TcpStream, limit: Duration) -> Pin<Box<TimeoutStream<TcpStream>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limit));
    Box::pin(stream)
}

/// Lets a connection go on once its first request has `begun`, and drops it where that takes longer than `limit`: until it
/// is clear which HTTP it speaks, no time-out of hyper's holds. `None` where it is dropped.
async fn unless_silent<T>(
    connection: impl Future<Output = T>,
    begun: &Notify,
    limit: Duration,
) -> Option<T> {
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return Some(ended),
        begun = tokio::time::timeout(limit, begun.notified()) => begun.ok()?,
    }
    Some(connection.await)
}

/// An answer of the host itself.
fn plain(status: StatusCode, text: &str) -> Response<WasiBody> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = Response::new(body.map_err(Into::into).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// Makes a request what the component expects of Spin: absolute, with its `host`, and with the address of the `client`.
/// `false` where the route doesn't lead to the component.
fn prepare(parts: &mut Parts, route: &Route, client: HeaderValue) -> Result<bool> {
    if !route.leads_to(parts.uri.path()) {
        return Ok(false);
    }
    let said = parts
        .headers
        .get(header::HOST)
        .map(|host| Authority::try_from(host.as_bytes()))
        .transpose();
    let said = said.context("the Host header is not a host")?;
    let authority = match (said, parts.uri.authority()) {
        (Some(said), None) => said,
        (None, Some(named)) => named.clone(),
        (Some(said), Some(named)) if said == *named => said,
        (Some(_), Some(_)) => anyhow::bail!("the Host header and the request's authority differ"),
        (None, None) => anyhow::bail!("the request has no Host header"),
    };

    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority.clone());
    parts.uri = Uri::from_parts(uri)?;

    // A client's own copies stay and come first: the last one is the host's. Spin tells of the route and the URL in six
    // headers more, which a mirror has no use for, and each has to be copied into the component.
    parts.headers.append(CLIENT_ADDRESS, client);
    parts.headers.remove(header::CONNECTION);
    // The marker right before `host`: see `outbound::Outbound`.
    parts.headers.remove(header::HOST);
    parts
        .headers
        .insert(INCOMING, HeaderValue::from_static("1"));
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

    fn prepared(request: http::request::Builder, route: &str) -> Result<Option<Parts>> {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let leads = prepare(&mut parts, &Route::parse(route).unwrap(), CLIENT)?;
        Ok(leads.then_some(parts))
    }

    #[test]
    fn tells_the_component_whom_it_talks_to_and_as_whom() {
        let request = Request::get("/v2//a%2Fb?n=1&m")
            .header("host", "mirror.lan:3000")
            .header("connection", "close")
            .header("spin-client-addr", "6.6.6.6:1");
        let parts = prepared(request, "/...").unwrap().unwrap();
        assert_eq!(parts.uri, "http://mirror.lan:3000/v2//a%2Fb?n=1&m");
        let last = |name| parts.headers.get_all(name).iter().next_back().unwrap();
        assert_eq!(last("host"), "mirror.lan:3000");
        assert_eq!(last("spin-client-addr"), CLIENT);
        assert!(!parts.headers.contains_key("connection"));
        let names: Vec<_> = parts.headers.keys().collect();
        assert_eq!(names[names.len() - 2..], [&INCOMING, &header::HOST]);
    }

    #[test]
    fn http2_requests_have_an_authority_instead_of_a_host() {
        let parts = prepared(Request::get("http://a.lan/x"), "/...")
            .unwrap()
            .unwrap();
        assert_eq!(parts.headers["host"], "a.lan");
    }

    #[test]
    fn a_request_without_a_clear_host_is_refused() {
        for request in [
            Request::get("/"),
            Request::get("/").header("host", "a b"),
            Request::get("http://a.lan/").header("host", "b.lan"),
        ] {
            assert!(prepared(request, "/...").is_err());
        }
    }

    #[tokio::test]
    async fn a_connection_that_never_asks_is_dropped_and_one_that_asked_is_not() {
        let (silent, asked, limit) = (Notify::new(), Notify::new(), Duration::from_millis(20));
        assert_eq!(
            unless_silent(std::future::pending::<()>(), &silent, limit).await,
            None
        );
        asked.notify_one();
        let long = async { tokio::time::sleep(3 * limit).await };
        assert_eq!(unless_silent(long, &asked, limit).await, Some(()));
    }

    #[tokio::test]
    async fn a_connection_whose_client_reads_nothing_fails_and_one_whose_client_does_goes_on() {
        let limit = Duration::from_secs(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for reads in [false, true] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let mut stream = stalling(listener.accept().await.unwrap().0, limit);
            let reader = tokio::spawn(async move {
                if !reads {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(limit / 2).await;
                tokio::io::copy(&mut client, &mut tokio::io::sink())
                    .await
                    .unwrap()
            });
            // More than the buffers of both sockets take.
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
    fn other_routes_do_not_lead_to_the_component() {
        assert!(
            prepared(Request::get("/x").header("host", "a"), "/v2/...")
                .unwrap()
                .is_none()
        );
    }
}
