//! The upstream: a registry in this process, once open and once behind a token, that counts what it is asked.

use crate::ca::Ca;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub const WARM: &str = "/v2/bench/warm/manifests/latest";
pub const REDIRECT: &str = "/v2/bench/redirect/blobs/sha256:\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const BLOB: &str = "/v2/bench/blob/blobs/sha256:\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const PING: &str = "/v2/";

/// A repository that exists, as every name does but the invented ones.
pub fn repository(name: &str) -> String {
    format!("/v2/bench/{name}/manifests/latest")
}

/// The manifest that every tag points at.
pub fn by_digest() -> String {
    format!("/v2/bench/warm/manifests/{}", digest())
}

fn digest() -> String {
    format!("sha256:{:x}", Sha256::digest(manifest()))
}

/// A repository that doesn't.
pub fn invented(number: u64) -> String {
    format!("/v2/{INVENTED}/name-{number}/manifests/latest")
}

const INVENTED: &str = "invented";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Of layers that nobody asks for.
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// The length of Docker Hub's in 2026, in bytes.
const TOKEN: usize = 2_500;
const PIECE: usize = 64 * 1024;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// How often an upstream was asked.
#[derive(Debug, Default)]
pub struct Counts {
    pub requests: AtomicU64,
    pub tokens: AtomicU64,
}

/// A registry on ports of its own, until it is stopped.
pub struct CountingRegistry {
    /// Where it is without TLS, whatever it has besides.
    pub plain: SocketAddr,
    /// Where contestants find it.
    pub scheme: &'static str,
    pub address: SocketAddr,
    pub counts: Arc<Counts>,
    serving: Vec<JoinHandle<()>>,
}

struct Registry {
    url: String,
    guarded: bool,
    /// Bytes of every blob that isn't redirected.
    blob: u64,
    manifest: Bytes,
    /// The manifest's, which clients and mirrors verify.
    digest: String,
    token: Bytes,
    counts: Arc<Counts>,
}

type Answer = Response<Either<Full<Bytes>, Zeros>>;

impl CountingRegistry {
    /// `guarded`: asks for a token, and grants them too.
    pub async fn start(guarded: bool, blob: u64, ca: Option<&Ca>) -> Self {
        let (listener, plain) = listen().await;
        let (secure, scheme, address) = match ca {
            Some(ca) => {
                let (listener, address) = listen().await;
                let acceptor = TlsAcceptor::from(ca.server(&["127.0.0.1"]));
                (Some((listener, acceptor)), "https", address)
            }
            None => (None, "http", plain),
        };
        let counts = Arc::default();
        let registry = Arc::new(Registry {
            url: format!("{scheme}://{address}"),
            guarded,
            blob,
            digest: digest(),
            manifest: manifest(),
            token: format!(r#"{{"token":"{}","expires_in":300}}"#, "t".repeat(TOKEN)).into(),
            counts: Arc::clone(&counts),
        });
        let mut serving = vec![tokio::spawn(serve(
            listener,
            Arc::clone(&registry),
            async |stream| Some(stream),
        ))];
        if let Some((listener, acceptor)) = secure {
            let accept = async move |stream| acceptor.accept(stream).await.ok();
            serving.push(tokio::spawn(serve(listener, registry, accept)));
        }
        Self {
            plain,
            scheme,
            address,
            counts,
            serving,
        }
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// From now on nobody answers there.
    pub fn stop(&self) {
        for serving in &self.serving {
            serving.abort();
        }
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// Answers on every connection that `accept` makes something of.
async fn serve<S, A>(listener: TcpListener, registry: Arc<Registry>, accept: A)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: AsyncFn(TcpStream) -> Option<S>,
{
    // They end with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let Some(stream) = accept(stream).await else {
            continue;
        };
        let registry = Arc::clone(&registry);
        let service = service_fn(move |request| {
            let answer = registry.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        connections.spawn(async move {
            // Errors are the client's: gone.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl Registry {
    fn answer(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if path == "/token" {
            self.counts.tokens.fetch_add(1, Ordering::Relaxed);
            return answer(
                200,
                &[("content-type", "application/json")],
                self.token.clone(),
            );
        }
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let Some(path) = path.strip_prefix("/v2/") else {
            return answer(404, &[], "");
        };
        if self.guarded && !request.headers().contains_key(header::AUTHORIZATION) {
            return self.challenge(path);
        }
        match path
            .rsplit_once("/manifests/")
            .or(path.rsplit_once("/blobs/"))
        {
            None => answer(200, &[("content-type", "application/json")], "{}"),
            Some((name, _)) if name.starts_with(INVENTED) => {
                let unknown = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#;
                answer(404, &[("content-type", "application/json")], unknown)
            }
            Some(("bench/redirect", digest)) => {
                let location = format!("{}/cdn/{digest}?verify={}", self.url, "s".repeat(300));
                answer(
                    307,
                    &[("location", &location)],
                    "<a href=\"there\">Temporary Redirect</a>.",
                )
            }
            Some(("bench/blob", digest)) => {
                let zeros = Zeros { left: self.blob };
                head(
                    200,
                    &[
                        ("content-type", "application/octet-stream"),
                        ("docker-content-digest", digest),
                    ],
                )
                .body(Either::Right(zeros))
                .expect("a response")
            }
            Some(_) => {
                let headers = [
                    ("content-type", MANIFEST),
                    ("docker-content-digest", &*self.digest),
                    ("docker-distribution-api-version", "registry/2.0"),
                    ("etag", &format!("\"{}\"", self.digest)),
                    ("strict-transport-security", "max-age=31536000"),
                    ("ratelimit-limit", "100;w=21600"),
                    ("ratelimit-remaining", "99;w=21600"),
                ];
                answer(200, &headers, self.manifest.clone())
            }
        }
    }

    fn challenge(&self, path: &str) -> Answer {
        let name = path
            .rsplit_once("/manifests/")
            .or(path.rsplit_once("/blobs/"));
        let name = name.map_or("", |(name, _)| name);
        let url = &self.url;
        let challenge =
            format!(r#"Bearer realm="{url}/token",service="bench",scope="repository:{name}:pull""#);
        answer(401, &[("www-authenticate", &challenge)], "")
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    head(status, headers)
        .body(Either::Left(Full::new(body.into())))
        .expect("a response")
}

fn head(status: u16, headers: &[(&str, &str)]) -> hyper::http::response::Builder {
    let start = Response::builder().status(status);
    headers
        .iter()
        .fold(start, |head, (name, value)| head.header(*name, *value))
}

/// About 2 KB, as an image of ten layers has.
fn manifest() -> Bytes {
    let layer = |size| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": DIGEST, "size": size,
        })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 1470 },
        "layers": (0..10).map(layer).collect::<Vec<_>>(),
    });
    manifest.to_string().into()
}

/// A body of zeros, from memory.
struct Zeros {
    left: u64,
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.left.min(PIECE as u64);
        self.left -= piece;
        let piece = &ZEROS[..usize::try_from(piece).expect("a piece's length")];
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(Bytes::from_static(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
