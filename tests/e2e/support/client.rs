//! A client that does what it is told and nothing else: no redirects, no retries, headers as they came.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use test_support::ca::Ca;
use test_support::image::{DOCKER_LIST, DOCKER_MANIFEST, INDEX, MANIFEST};

/// Longer than any time-out of the mirror: a client that waits this long has found a bug.
const PATIENCE: Duration = Duration::from_secs(60);

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// One request on a connection of its own.
pub struct Request {
    address: SocketAddr,
    tls: Option<(Arc<rustls::ClientConfig>, String)>,
    request: hyper::http::request::Builder,
    host: Option<String>,
    body: Bytes,
    settling: Option<Settling>,
}

/// Where each request has an instance of its own, the next one knows of it what is in the store, and that is written after
/// the answer, before the line of the log.
#[derive(Clone, Default)]
pub struct Settling {
    pub log: Arc<Mutex<Vec<String>>>,
    answered: Arc<AtomicUsize>,
}

impl Settling {
    /// Returns once the log has a line for each answer so far. A host that answers by itself writes none.
    async fn settle(&self) {
        let answered = self.answered.fetch_add(1, Ordering::SeqCst) + 1;
        let deadline = Instant::now() + Duration::from_secs(2);
        let lines = || {
            self.log
                .lock()
                .expect("the log")
                .iter()
                .filter(|line| line.contains("hammal method="))
                .count()
        };
        while lines() < answered && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Request {
    pub fn new(address: SocketAddr, method: &str, target: &str) -> Self {
        let request = hyper::Request::builder().method(method).uri(target);
        Self {
            address,
            tls: None,
            request,
            host: None,
            body: Bytes::new(),
            settling: None,
        }
    }

    /// The answer is whole once what the mirror does after it is done too.
    pub fn settling(mut self, settling: Settling) -> Self {
        self.settling = Some(settling);
        self
    }

    /// A GET of an absolute http URL whose host is an address, as it stands in a `Location`.
    pub fn of_url(url: &str) -> Self {
        let url: hyper::Uri = url.parse().unwrap_or_else(|_| panic!("no URL: {url}"));
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

    /// Speaks https with `name`, trusting `ca` alone.
    pub fn tls(mut self, ca: &Ca, name: &str) -> Self {
        self.tls = Some((ca.client(), name.into()));
        self.host(name)
    }

    /// Adds a line; a second of the same name stays a second line.
    pub fn header(mut self, name: &str, value: impl Display) -> Self {
        self.request = self.request.header(name, value.to_string());
        self
    }

    /// The `Accept` lines of dockerd, one per type.
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

    /// The answer, whole.
    pub async fn send(self) -> Answer {
        self.try_send().await.expect("an answer")
    }

    /// The answer, or how the exchange broke off.
    pub async fn try_send(self) -> Result<Answer, Error> {
        let settling = self.settling.clone();
        let exchange = async {
            let (head, body) = self.open().await?.into_parts();
            let body = body.collect().await?.to_bytes();
            if let Some(settling) = settling {
                settling.settle().await;
            }
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(PATIENCE, exchange).await?
    }

    /// The head of the answer; the body is for the caller to read.
    pub async fn open(self) -> Result<Response<Incoming>, Error> {
        let host = self.host.unwrap_or_else(|| self.address.to_string());
        let request = self
            .request
            .header("host", host)
            .body(Full::new(self.body))?;
        let stream = TcpStream::connect(self.address).await?;
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
) -> Result<Response<Incoming>, Error>
where
    I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The value of the one line of this name.
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

    /// An error as every client understands it: the status, and a document of the OCI specification.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(
            answer.header("content-type"),
            Some("application/json"),
            "{answer:?}"
        );
        assert_eq!(answer.header("www-authenticate"), None, "{answer:?}");
        let document = answer.json();
        let errors = document["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("no errors: {answer:?}"));
        assert_eq!(errors[0]["code"], code, "{answer:?}");
        let message = errors[0]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "no message: {answer:?}");
        answer
    }
}
