//! The load: clients on keep-alive connections, each with one request under way.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Beyond its own time, how long a load may take before something must be wrong.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is asked, by how many, for how long.
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

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub requests: u64,
    pub took: Duration,
    /// Ascending.
    latencies: Vec<Duration>,
}

impl Outcome {
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64()
    }

    /// What `share` of the requests were answered within.
    pub fn latency(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies[(last as f64 * share).round() as usize]
    }
}

impl Load {
    pub async fn run(&self, target: SocketAddr) -> Outcome {
        let next = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(target).await);
        }
        let begun = Instant::now();
        for connection in connections {
            clients.spawn(self.clone().client(connection, Arc::clone(&next), begun));
        }
        let time = match self.until {
            Until::Time(time) => time,
            Until::Requests(_) => Duration::ZERO,
        };
        let latencies = tokio::time::timeout(time + PATIENCE, clients.join_all()).await;
        let mut latencies = latencies.expect("a load that ends").concat();
        let took = begun.elapsed();
        latencies.sort_unstable();
        Outcome { requests: latencies.len() as u64, took, latencies }
    }

    async fn client(self, mut connection: Connection, next: Arc<AtomicU64>, begun: Instant) -> Vec<Duration> {
        let mut latencies = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let over = match self.until {
                Until::Time(time) => begun.elapsed() >= time,
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

/// One keep-alive connection.
pub struct Connection {
    target: SocketAddr,
    sender: SendRequest<Empty<Bytes>>,
}

impl Connection {
    pub async fn open(target: SocketAddr) -> Self {
        let stream = TcpStream::connect(target).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        Self { target, sender }
    }

    /// Reads a whole answer, which has to be as expected, and says how many bytes its body had.
    pub async fn get(&mut self, path: &str, status: StatusCode) -> u64 {
        let request = Request::get(path)
            .header("host", self.target.to_string())
            .header("user-agent", "containerd/2.1.0")
            .header("accept", "application/vnd.oci.image.manifest.v1+json, */*")
            .body(Empty::new())
            .expect("a request");
        let target = self.target;
        self.sender.ready().await.expect("a connection that stays open");
        let response = self.sender.send_request(request).await;
        let response = response.unwrap_or_else(|error| panic!("GET http://{target}{path}: {error}"));
        assert_eq!(response.status(), status, "GET http://{target}{path}");
        let mut body = response.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.unwrap_or_else(|error| panic!("GET http://{target}{path}: {error}"));
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        bytes
    }
}
