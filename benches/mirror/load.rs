//! The load: clients with persistent connections, each with one request at a time.

use hyper::StatusCode;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// How long a load may take beyond its own time.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Bytes.
const READ_BUFFER: usize = 256 * 1024;

/// Requests over a number of connections, for a time or up to a number.
#[derive(Clone)]
pub struct Load {
    pub connections: usize,
    pub until: Until,
    /// The path of the n-th request.
    pub path: Arc<dyn Fn(u64) -> String + Send + Sync>,
    pub status: StatusCode,
}

#[derive(Clone, Copy, Debug)]
pub enum Until {
    Time(Duration),
    Requests(u64),
}

/// Counts and latencies of a load.
#[derive(Debug)]
pub struct LoadResult {
    pub requests: u64,
    pub took: Duration,
    /// Ascending.
    latencies: Vec<Duration>,
}

impl LoadResult {
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64()
    }

    /// The latency within which `share` of the requests were answered.
    pub fn latency(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies[(last as f64 * share).round() as usize]
    }
}

impl Load {
    pub async fn run(&self, target: SocketAddr) -> LoadResult {
        let next = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(target).await);
        }
        let start = Instant::now();
        for connection in connections {
            clients.spawn(self.clone().client(connection, Arc::clone(&next), start));
        }
        let time = match self.until {
            Until::Time(time) => time,
            Until::Requests(_) => Duration::ZERO,
        };
        let latencies = tokio::time::timeout(time + TIMEOUT, clients.join_all()).await;
        let mut latencies = latencies.expect("a load that ends").concat();
        let took = start.elapsed();
        latencies.sort_unstable();
        LoadResult {
            requests: latencies.len() as u64,
            took,
            latencies,
        }
    }

    async fn client(
        self,
        mut connection: Connection,
        next: Arc<AtomicU64>,
        start: Instant,
    ) -> Vec<Duration> {
        let mut latencies = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let over = match self.until {
                Until::Time(time) => start.elapsed() >= time,
                Until::Requests(count) => number >= count,
            };
            if over {
                return latencies;
            }
            let path = (self.path)(number);
            let sent = Instant::now();
            connection.get(&path, self.status).await;
            latencies.push(sent.elapsed());
        }
    }
}

/// A persistent connection, without a task of its own, that parses no more of a response than its
/// head: the processor time of the load is not available to the systems that are measured.
pub struct Connection {
    target: SocketAddr,
    stream: TcpStream,
    request: String,
    /// What was read last.
    response: Vec<u8>,
}

impl Connection {
    pub async fn open(target: SocketAddr) -> Self {
        Self::open_from(Ipv4Addr::UNSPECIFIED, target).await
    }

    /// Opens one from this address of the machine: all of 127.0.0.0/8 are.
    pub async fn open_from(source: Ipv4Addr, target: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("an address");
        let stream = socket.connect(target).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Self {
            target,
            stream,
            request: String::new(),
            response: Vec::with_capacity(READ_BUFFER),
        }
    }

    /// Reads a response to its end, which must have the status, and returns the length of its body.
    pub async fn get(&mut self, path: &str, status: StatusCode) -> u64 {
        let target = self.target;
        let head = self.exchange("GET", path).await;
        let location = head.location;
        assert_eq!(
            head.status, status,
            "GET http://{target}{path} (location: {location:?})"
        );
        head.body
    }

    /// Reads a response to its end.
    pub async fn exchange(&mut self, method: &str, path: &str) -> Head {
        let target = self.target;
        self.request.clear();
        let written = write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nhost: {target}\r\nuser-agent: containerd/2.1.0\r\n\
             accept: application/vnd.oci.image.manifest.v1+json, \
             application/vnd.oci.image.index.v1+json, */*\r\n\r\n"
        );
        written.expect("a request");
        let sent = self.stream.write_all(self.request.as_bytes()).await;
        sent.unwrap_or_else(|error| panic!("GET http://{target}{path}: {error}"));
        self.response.clear();
        let mut head = loop {
            self.read(path).await;
            if let Some(head) = Head::parse(&self.response) {
                break head;
            }
        };
        if method == "HEAD" {
            head.body = 0;
        }
        let mut bytes = (self.response.len() - head.length) as u64;
        while bytes < head.body {
            self.response.clear();
            bytes += self.read(path).await;
        }
        assert_eq!(
            bytes, head.body,
            "{method} http://{target}{path}: more bytes than Content-Length says"
        );
        head
    }

    async fn read(&mut self, path: &str) -> u64 {
        let target = self.target;
        let read = self.stream.read_buf(&mut self.response).await;
        let read = read.unwrap_or_else(|error| panic!("GET http://{target}{path}: {error}"));
        assert_ne!(read, 0, "GET http://{target}{path}: the connection closed");
        read as u64
    }
}

/// The parts of a response head that matter.
pub struct Head {
    /// Bytes of the head itself, and of the body after it.
    length: usize,
    pub body: u64,
    pub status: u16,
    pub location: Option<String>,
}

impl Head {
    /// Returns `None` where the head is not complete.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes).expect("an HTTP response") {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return None,
        };
        let value = |name: &str| {
            let mut headers = response.headers.iter();
            let header = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
            str::from_utf8(header.value).ok()
        };
        let body = value("content-length").and_then(|length| length.parse().ok());
        let location = value("location").map(str::to_owned);
        Some(Self {
            length,
            body: body.expect("a Content-Length"),
            status: response.code.expect("a status"),
            location,
        })
    }
}
