//! An HTTP server that answers each request from a function, and that can hang, close early or send
//! a broken body.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use hyper::service::service_fn;
use hyper::{HeaderMap, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;

/// A request as the server received it.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub method: String,
    /// Path and query, not decoded.
    pub target: String,
    pub headers: HeaderMap,
    pub version: Version,
    pub body: Bytes,
}

impl ReceivedRequest {
    pub fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(&*self.target, |(path, _)| path)
    }

    /// The name-value pairs of the query, decoded, in order.
    pub fn query(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("a readable header"))
    }
}

/// What the server does with a request.
pub enum Reply {
    Response(Response<ScriptedBody>),
    /// A reply that takes time to make.
    Deferred(Pin<Box<dyn Future<Output = Reply> + Send>>),
    /// Reads the request and never responds.
    Hang,
    /// Reads the request and closes the connection.
    Close,
}

impl Reply {
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Self {
        Self::streamed(status, headers, ScriptedBody::whole(body))
    }

    pub fn streamed(status: u16, headers: &[(&str, &str)], body: ScriptedBody) -> Self {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        Self::Response(response.body(body).expect("a response"))
    }

    pub fn after(self, wait: Duration) -> Self {
        Self::Deferred(Box::pin(async move {
            sleep(wait).await;
            self
        }))
    }
}

pub type Handler = Arc<dyn Fn(ReceivedRequest) -> Reply + Send + Sync>;

/// Stops when dropped, and closes its connections.
pub struct Server {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start(
        at: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        handler: Handler,
    ) -> Self {
        let tls = tls.map(TlsAcceptor::from);
        Self::accept(at, move |stream| {
            let (tls, handler) = (tls.clone(), Arc::clone(&handler));
            async move {
                match tls {
                    None => serve(TokioIo::new(stream), handler).await,
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else {
                            return;
                        };
                        serve(TokioIo::new(stream), handler).await;
                    }
                }
            }
        })
        .await
    }

    pub async fn plain(
        ip: &str,
        handler: impl Fn(ReceivedRequest) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start(any_port(ip), None, Arc::new(handler)).await
    }

    /// Reads what the client sends, writes `bytes`, whatever they are, and closes the connection.
    pub async fn raw(bytes: impl Into<Bytes>) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let bytes = bytes.into();
        Self::accept(any_port("127.0.0.1"), move |mut stream| {
            let bytes = bytes.clone();
            async move {
                let mut request = [0; 65536];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                // Closing with unread input would send a reset, which can overtake the response.
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
            }
        })
        .await
    }

    /// A server that nothing should connect to; [`Server::connections`] tells whether something
    /// did.
    pub async fn unwanted(ip: &str) -> Self {
        Self::accept(any_port(ip), |_| async {}).await
    }

    /// The number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Stops listening and closes every connection.
    pub fn stop(&self) {
        self.task.abort();
    }

    /// Runs `each` on every connection.
    pub async fn accept<F, T>(at: SocketAddr, each: F) -> Self
    where
        F: Fn(TcpStream) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(at)
            .await
            .unwrap_or_else(|error| panic!("cannot listen on {at}: {error}"));
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                open.spawn(each(stream));
                while open.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            connections,
            task,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn any_port(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), 0)
}

/// A listening socket whose backlog is full: the kernel leaves new connections without a reply.
pub struct FullBacklog {
    pub address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl FullBacklog {
    pub async fn start() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(any_port("127.0.0.1")).expect("a free port");
        let listener = socket.listen(0).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let mut waiting = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            waiting.push(stream.expect("a connection"));
        }
        Self {
            address,
            _listener: listener,
            _waiting: waiting,
        }
    }
}

/// Returns an address that refuses connections. The port stays bound, so that no other test is
/// given it.
pub async fn closed_address() -> SocketAddr {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(any_port("127.0.0.1")).expect("a free port");
    let address = socket.local_addr().expect("an address");
    std::mem::forget(socket);
    address
}

async fn serve<I>(io: I, handler: Handler)
where
    I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let handler = Arc::clone(&handler);
        async move {
            let (head, body) = request.into_parts();
            let received = ReceivedRequest {
                method: head.method.to_string(),
                target: head
                    .uri
                    .path_and_query()
                    .map_or("/", |target| target.as_str())
                    .to_string(),
                headers: head.headers,
                version: head.version,
                body: body
                    .collect()
                    .await
                    .map_err(std::io::Error::other)?
                    .to_bytes(),
            };
            let mut reply = handler(received);
            loop {
                reply = match reply {
                    Reply::Response(response) => return Ok(response),
                    Reply::Hang => std::future::pending().await,
                    Reply::Close => return Err(std::io::Error::other("closed as scripted")),
                    Reply::Deferred(reply) => reply.await,
                }
            }
        }
    });
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(io, service)
        .await;
}

/// A response body in parts, which can pause, hang and break off.
#[derive(Default)]
pub struct ScriptedBody {
    parts: VecDeque<BodyPart>,
    pause: Option<Pin<Box<Sleep>>>,
    sent: Arc<AtomicU64>,
}

enum BodyPart {
    Data(Bytes),
    Pause(Duration),
    Hang,
    Break,
}

impl ScriptedBody {
    pub fn whole(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        if body.is_empty() {
            Self::default()
        } else {
            Self::default().data(body)
        }
    }

    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.parts.push_back(BodyPart::Data(data.into()));
        self
    }

    pub fn pause(mut self, wait: Duration) -> Self {
        self.parts.push_back(BodyPart::Pause(wait));
        self
    }

    pub fn hang(mut self) -> Self {
        self.parts.push_back(BodyPart::Hang);
        self
    }

    /// Closes the connection here, once the parts before have been sent.
    pub fn then_break(self) -> Self {
        let mut body = self.pause(Duration::from_millis(50));
        body.parts.push_back(BodyPart::Break);
        body
    }

    /// The number of bytes handed to the connection so far.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }
}

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            match self.parts.front_mut() {
                None => return Poll::Ready(None),
                Some(BodyPart::Hang) => return Poll::Pending,
                Some(BodyPart::Break) => {
                    return Poll::Ready(Some(Err(std::io::Error::other("broken as scripted"))));
                }
                Some(BodyPart::Pause(wait)) => {
                    let wait = *wait;
                    let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(wait)));
                    if pause.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    self.pause = None;
                    self.parts.pop_front();
                }
                Some(BodyPart::Data(data)) => {
                    let data = std::mem::take(data);
                    self.parts.pop_front();
                    self.sent.fetch_add(data.len() as u64, Ordering::SeqCst);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        let sum = |sum: Option<u64>, part: &BodyPart| match part {
            BodyPart::Data(data) => sum.map(|sum| sum + data.len() as u64),
            _ => None,
        };
        let mut hint = hyper::body::SizeHint::new();
        if let Some(length) = self
            .parts
            .iter()
            .try_fold(0, |length, part| sum(Some(length), part))
        {
            hint.set_exact(length);
        }
        hint
    }
}
