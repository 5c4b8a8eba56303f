//! A server of ours on a port of its own: hands each request to a function, and can also misbehave.

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

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query, raw.
    pub target: String,
    pub headers: HeaderMap,
    pub version: Version,
    pub body: Bytes,
}

impl Seen {
    pub fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(&*self.target, |(path, _)| path)
    }

    /// The decoded pairs of the query, in order.
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
    Answer(Response<Pieces>),
    /// What is known later.
    Later(Pin<Box<dyn Future<Output = Reply> + Send>>),
    /// Takes the request and never says a word.
    Hang,
    /// Takes the request and ends the connection.
    Close,
}

impl Reply {
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Self {
        Self::streamed(status, headers, Pieces::whole(body))
    }

    pub fn streamed(status: u16, headers: &[(&str, &str)], body: Pieces) -> Self {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        Self::Answer(answer.body(body).expect("a response"))
    }

    pub fn after(self, wait: Duration) -> Self {
        Self::Later(Box::pin(async move {
            sleep(wait).await;
            self
        }))
    }
}

pub type Handler = Arc<dyn Fn(Seen) -> Reply + Send + Sync>;

/// Ends with its owner, and so does every connection that it has.
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

    pub async fn plain(ip: &str, handler: impl Fn(Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(any_port(ip), None, Arc::new(handler)).await
    }

    /// Reads what the client sends, answers with these very bytes, ends the connection.
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
                // A close with unread input would be a reset, which may overtake the answer.
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
            }
        })
        .await
    }

    /// A server that nobody should connect to: look at [`Server::connections`] afterwards.
    pub async fn unwanted(ip: &str) -> Self {
        Self::accept(any_port(ip), |_| async {}).await
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    async fn accept<F, T>(at: SocketAddr, each: F) -> Self
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
        self.task.abort();
    }
}

pub fn any_port(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), 0)
}

/// A server whose queue is full: the kernel answers nobody who connects.
pub struct Full {
    pub address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Full {
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

/// An address that refuses connections: taken, so that nobody else gets it while the tests run, and not listened on.
pub async fn nobody() -> SocketAddr {
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
            let seen = Seen {
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
            let mut reply = handler(seen);
            loop {
                reply = match reply {
                    Reply::Answer(answer) => return Ok(answer),
                    Reply::Hang => std::future::pending().await,
                    Reply::Close => return Err(std::io::Error::other("closed as scripted")),
                    Reply::Later(reply) => reply.await,
                }
            }
        }
    });
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(io, service)
        .await;
}

/// A body in pieces, which can pause and break off.
#[derive(Default)]
pub struct Pieces {
    pieces: VecDeque<Piece>,
    pause: Option<Pin<Box<Sleep>>>,
    taken: Arc<AtomicU64>,
}

enum Piece {
    Data(Bytes),
    Pause(Duration),
    Hang,
    Break,
}

impl Pieces {
    pub fn whole(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        if body.is_empty() {
            Self::default()
        } else {
            Self::default().data(body)
        }
    }

    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.pieces.push_back(Piece::Data(data.into()));
        self
    }

    pub fn pause(mut self, wait: Duration) -> Self {
        self.pieces.push_back(Piece::Pause(wait));
        self
    }

    pub fn hang(mut self) -> Self {
        self.pieces.push_back(Piece::Hang);
        self
    }

    /// Ends the connection here, once what came before is on its way.
    pub fn then_break(self) -> Self {
        let mut pieces = self.pause(Duration::from_millis(50));
        pieces.pieces.push_back(Piece::Break);
        pieces
    }

    /// Counts the bytes that the connection has taken so far.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.taken)
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            match self.pieces.front_mut() {
                None => return Poll::Ready(None),
                Some(Piece::Hang) => return Poll::Pending,
                Some(Piece::Break) => {
                    return Poll::Ready(Some(Err(std::io::Error::other("broken as scripted"))));
                }
                Some(Piece::Pause(wait)) => {
                    let wait = *wait;
                    let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(wait)));
                    if pause.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    self.pause = None;
                    self.pieces.pop_front();
                }
                Some(Piece::Data(data)) => {
                    let data = std::mem::take(data);
                    self.pieces.pop_front();
                    self.taken.fetch_add(data.len() as u64, Ordering::SeqCst);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        let sum = |sum: Option<u64>, piece: &Piece| match piece {
            Piece::Data(data) => sum.map(|sum| sum + data.len() as u64),
            _ => None,
        };
        let mut hint = hyper::body::SizeHint::new();
        if let Some(length) = self
            .pieces
            .iter()
            .try_fold(0, |length, piece| sum(Some(length), piece))
        {
            hint.set_exact(length);
        }
        hint
    }
}
