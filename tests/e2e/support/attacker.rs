//! A client that takes what it can, from 127.0.0.9, and a registry that helps it.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use test_support::hub::{Hub, Service};
use test_support::image::INDEX;
use test_support::server::{ReceivedRequest, Reply};

/// Connects from the attacker's address.
pub async fn connect(mirror: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let from = SocketAddr::from(([127, 0, 0, 9], 0));
    socket.bind(from).expect("a loopback address");
    socket.connect(mirror).await.expect("a connection")
}

/// Sends a GET on a connection of its own, from the attacker's address.
pub async fn get(mirror: SocketAddr, target: &str) -> TcpStream {
    let mut stream = connect(mirror).await;
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: mirror.example\r\nAccept: {INDEX}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream
}

/// An HTTP/2 connection from the attacker's address that never opens its windows beyond `window`.
pub async fn http2(mirror: SocketAddr, window: u32) -> SendRequest<Empty<Bytes>> {
    let stream = TokioIo::new(connect(mirror).await);
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(stream)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

pub fn http2_request(target: &str) -> hyper::Request<Empty<Bytes>> {
    hyper::Request::get(format!("http://mirror.example{target}"))
        .header("accept", INDEX)
        .body(Empty::new())
        .expect("a request")
}

/// A manifest of 4 MiB, less a little, that differs for each tag.
pub fn large_manifest(received: &ReceivedRequest) -> Option<Reply> {
    received.target.contains("/large/").then(|| {
        let text = format!("{{\"of\":{:?},\"x\":\"", received.target);
        let mut body = text.into_bytes();
        body.resize(4 * 1024 * 1024 - 2, b'x');
        body.extend(b"\"}");
        Reply::new(200, &[("content-type", INDEX)], body)
    })
}

/// A reply that never comes. Counts those that are awaited now, and the most at one time.
pub fn never(open: &Arc<AtomicUsize>, most: &Arc<AtomicUsize>) -> Reply {
    struct Open(Arc<AtomicUsize>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let now = open.fetch_add(1, Ordering::SeqCst) + 1;
    most.fetch_max(now, Ordering::SeqCst);
    let guard = Open(Arc::clone(open));
    Reply::Deferred(Box::pin(async move {
        pending::<()>().await;
        drop(guard);
        Reply::Hang
    }))
}

/// Lets the registry never answer for repositories with `/slow/` in the path. Returns how many
/// replies are awaited now, and the most at one time.
pub fn never_answer_slow(hub: &Hub) -> (Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (open, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (counted, peak) = (Arc::clone(&open), Arc::clone(&most));
    hub.script(move |service, received| {
        let is_slow = service == Service::Registry && received.target.contains("/slow/");
        is_slow.then(|| never(&counted, &peak))
    });
    (open, most)
}
