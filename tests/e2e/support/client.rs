//! An HTTP client without redirects and retries, which keeps headers as they were received.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use test_support::ca::Ca;
use test_support::image::{DOCKER_LIST, DOCKER_MANIFEST, INDEX, MANIFEST};

use super::log_line::LogLine;

/// Longer than any timeout of the mirror.
const TIMEOUT: Duration = Duration::from_secs(60);

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// One request on a connection of its own.
pub struct Request {
    address: SocketAddr,
    source: Option<Ipv4Addr>,
    tls: Option<(Arc<rustls::ClientConfig>, String)>,
    request: hyper::http::request::Builder,
    host: Option<String>,
    body: Bytes,
    log_sync: Option<LogSync>,
}

/// Waits for the line of the log after each response.
///
/// Where each request has an instance of its own, the next one shares no more with it than the
/// store, which is written after the response and before the line of the log.
#[derive(Clone, Default)]
pub struct LogSync {
    pub log: Arc<Mutex<Vec<String>>>,
    responses: Arc<AtomicUsize>,
}

impl LogSync {
    /// Returns once the log has a line for each response so far, or after a time: the host's own
    /// responses have none.
    async fn wait(&self) {
        let responses = self.responses.fetch_add(1, Ordering::SeqCst) + 1;
        let deadline = Instant::now() + Duration::from_secs(2);
        let lines = || {
            self.log
                .lock()
                .expect("the log")
                .iter()
                .filter_map(|line| LogLine::find(line))
                .count()
        };
        while lines() < responses && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Request {
    pub fn new(address: SocketAddr, method: &str, target: &str) -> Self {
        let request = hyper::Request::builder().method(method).uri(target);
        Self {
            address,
            source: None,
            tls: None,
            request,
            host: None,
            body: Bytes::new(),
            log_sync: None,
        }
    }

    /// Waits, after the response, until the mirror has logged it too.
    pub fn wait_for_log(mut self, log_sync: LogSync) -> Self {
        self.log_sync = Some(log_sync);
        self
    }

    /// A GET of an absolute http URL whose host is an address, such as a `Location`.
    pub fn get_url(url: &str) -> Self {
        let url: hyper::Uri = url.parse().unwrap_or_else(|_| panic!("not a URL: {url}"));
        assert_eq!(url.scheme_str(), Some("http"), "{url}");
        let address = url
            .authority()
            .expect("an authority")
            .as_str()
            .parse()
            .expect("an address");
        Self::new(
            address,
            "GET",
            url.path_and_query().expect("a path").as_str(),
        )
    }

    /// Connects from this address of the loopback network, so that it is another client's.
    pub fn source(mut self, address: Ipv4Addr) -> Self {
        self.source = Some(address);
        self
    }

    /// Uses HTTPS with `name`, and trusts `ca` alone.
    pub fn tls(mut self, ca: &Ca, name: &str) -> Self {
        self.tls = Some((ca.client(), name.into()));
        self.host(name)
    }

    /// Adds a header line; a second one of the same name is sent as a second line.
    pub fn header(mut self, name: &str, value: impl Display) -> Self {
        self.request = self.request.header(name, value.to_string());
        self
    }

    /// Adds the `Accept` lines of dockerd, one for each type.
    pub fn accept_manifests(self) -> Self {
        [DOCKER_MANIFEST, DOCKER_LIST, INDEX, MANIFEST]
            .iter()
            .fold(self, |request, line| request.header("accept", line))
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.into());
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Returns the complete response.
    pub async fn send(self) -> Response {
        self.try_send().await.expect("a response")
    }

    /// Returns the complete response, or the error that ended the exchange.
    pub async fn try_send(self) -> Result<Response, Error> {
        let log_sync = self.log_sync.clone();
        let exchange = async {
            let (head, body) = self.open().await?.into_parts();
            let body = body.collect().await?.to_bytes();
            if let Some(log_sync) = log_sync {
                log_sync.wait().await;
            }
            Ok(Response {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(TIMEOUT, exchange).await?
    }

    /// Returns the head of the response; the caller reads the body.
    pub async fn open(self) -> Result<hyper::Response<Incoming>, Error> {
        let host = self.host.unwrap_or_else(|| self.address.to_string());
        let request = self
            .request
            .header("host", host)
            .body(Full::new(self.body))?;
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(source) = self.source {
            socket.bind((source, 0).into())?;
        }
        let stream = socket.connect(self.address).await?;
        match self.tls {
            None => exchange(TokioIo::new(stream), request).await,
            Some((config, name)) => {
                let stream = TlsConnector::from(config)
                    .connect(name.try_into()?, stream)
                    .await?;
                exchange(TokioIo::new(stream), request).await
            }
        }
    }
}

async fn exchange<I>(
    io: I,
    request: hyper::Request<Full<Bytes>>,
) -> Result<hyper::Response<Incoming>, Error>
where
    I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Response {
    /// The value of the header; there must not be two lines of it.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.get_all(name).iter();
        let first = lines.next()?;
        assert!(
            lines.next().is_none(),
            "several {name} lines: {:?}",
            self.headers
        );
        Some(first.to_str().expect("a readable header"))
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Expects 429 for the rest of a minute.
    #[track_caller]
    pub fn expect_over_limit(self) -> Self {
        let wait: u64 = self
            .header("retry-after")
            .and_then(|wait| wait.parse().ok())
            .expect("seconds");
        assert!((1..=60).contains(&wait), "{wait}");
        self.expect_error(429, "TOOMANYREQUESTS")
    }

    /// Expects an error document of the OCI specification, with this status and code.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Self {
        let response = self.expect(status);
        assert_eq!(
            response.header("content-type"),
            Some("application/json"),
            "{response:?}"
        );
        assert_eq!(response.header("www-authenticate"), None, "{response:?}");
        let document = response.json();
        let errors = document["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("no errors: {response:?}"));
        assert_eq!(errors[0]["code"], code, "{response:?}");
        let message = errors[0]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "no message: {response:?}");
        response
    }
}
