//! A registry for load: it answers from memory, asks for tokens or not, and counts requests.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::ca::Ca;
use crate::image::{Content, Image, MANIFEST, digest};
use crate::server::{Server, any_port};

/// Paths of a manifest, of a blob that is redirected to a CDN, by a URL that does not tell how long
/// it is good or by one that does, and of a blob that the registry serves itself.
pub const WARM: &str = "/v2/bench/warm/manifests/latest";
pub const REDIRECT: &str = "/v2/bench/redirect/blobs/sha256:\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const SIGNED: &str = "/v2/bench/signed/blobs/sha256:\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const BLOB: &str = "/v2/bench/blob/blobs/sha256:\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const PING: &str = "/v2/";

/// The path of the manifest in a repository that exists; all below `bench/` do.
pub fn repository(name: &str) -> String {
    format!("/v2/bench/{name}/manifests/latest")
}

/// The path, by digest, of the manifest that every tag points to.
pub fn by_digest() -> String {
    format!("/v2/bench/warm/manifests/{}", digest(&manifest()))
}

/// The path of a manifest in a repository that does not exist.
pub fn missing(number: u64) -> String {
    format!("/v2/{MISSING}/name-{number}/manifests/latest")
}

/// The path of the CDN, which is the registry's own server.
const CDN: &str = "/cdn/";
const MISSING: &str = "missing";
/// Of layers that are never requested.
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// Bytes of a token, as Docker Hub's have in 2026.
const TOKEN_LENGTH: usize = 2_500;
/// Seconds that a URL is good which tells it, as Docker Hub's are.
const REDIRECT_LIFE: u64 = 3000;
const CHUNK: usize = 64 * 1024;
static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// Requests so far.
#[derive(Debug, Default)]
pub struct Counts {
    pub requests: AtomicU64,
    pub tokens: AtomicU64,
}

/// A registry on ports of its own, until it is stopped.
pub struct CountingRegistry {
    /// Its address without TLS, which it always has.
    pub plain: SocketAddr,
    /// Scheme and address for the proxies in front of it.
    pub scheme: &'static str,
    pub address: SocketAddr,
    pub counts: Arc<Counts>,
    registry: Arc<Registry>,
    servers: Vec<Server>,
}

struct Registry {
    /// Set once the address is known.
    url: OnceLock<String>,
    requires_token: bool,
    /// Bytes of every blob that is not redirected.
    blob_length: u64,
    manifest: Bytes,
    /// The manifest's, which clients and mirrors verify.
    digest: String,
    token: Bytes,
    /// By name; the tag of each is `latest`.
    images: Mutex<HashMap<String, Image>>,
    /// How long the registry takes for a response, in milliseconds; its CDN takes no time.
    delay: AtomicU64,
    counts: Arc<Counts>,
}

type RegistryResponse = Response<Either<Full<Bytes>, Zeros>>;

impl CountingRegistry {
    /// Starts one. `requires_token`: it sends challenges, and is its own token server.
    pub async fn start(requires_token: bool, blob_length: u64, ca: Option<&Ca>) -> Self {
        let counts = Arc::default();
        let manifest = manifest();
        let registry = Arc::new(Registry {
            url: OnceLock::new(),
            requires_token,
            blob_length,
            digest: digest(&manifest),
            manifest,
            token: format!(
                r#"{{"token":"{}","expires_in":300}}"#,
                "t".repeat(TOKEN_LENGTH)
            )
            .into(),
            images: Mutex::default(),
            delay: AtomicU64::default(),
            counts: Arc::clone(&counts),
        });
        let served = Arc::clone(&registry);
        let mut servers = vec![
            Server::accept(any_port("127.0.0.1"), move |stream| {
                serve(stream, Arc::clone(&served))
            })
            .await,
        ];
        let plain = servers[0].address;
        let mut scheme = "http";
        if let Some(ca) = ca {
            let acceptor = TlsAcceptor::from(ca.server(&["127.0.0.1"]));
            let served = Arc::clone(&registry);
            let each = move |stream| {
                let (acceptor, served) = (acceptor.clone(), Arc::clone(&served));
                async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, served).await;
                    }
                }
            };
            servers.push(Server::accept(any_port("127.0.0.1"), each).await);
            scheme = "https";
        }
        let address = servers.last().map_or(plain, |server| server.address);
        registry
            .url
            .set(format!("{scheme}://{address}"))
            .expect("set once");
        Self {
            plain,
            scheme,
            address,
            counts,
            registry,
            servers,
        }
    }

    /// Adds an image, whose blobs are redirected to the CDN by URLs that tell how long they are good.
    pub fn push(&self, name: &str, image: Image) {
        let mut images = self.registry.images.lock().expect("images");
        images.insert(name.to_owned(), image);
    }

    /// From now on each response takes so long, as one from another city does.
    pub fn delay(&self, time: Duration) {
        let milliseconds = u64::try_from(time.as_millis()).expect("a short time");
        self.registry.delay.store(milliseconds, Ordering::Relaxed);
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// From now on connections are refused.
    pub fn stop(&self) {
        for server in &self.servers {
            server.stop();
        }
    }
}

async fn serve<S>(stream: S, registry: Arc<Registry>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let response = registry.respond(&request);
        let is_cdn = request.uri().path().starts_with(CDN);
        let delay = Duration::from_millis(registry.delay.load(Ordering::Relaxed));
        async move {
            if !delay.is_zero() && !is_cdn {
                tokio::time::sleep(delay).await;
            }
            Ok::<_, Infallible>(response)
        }
    });
    // An error means that the client has closed the connection.
    let _ = Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Registry {
    fn respond(&self, request: &Request<Incoming>) -> RegistryResponse {
        let path = request.uri().path();
        if path == "/token" {
            self.counts.tokens.fetch_add(1, Ordering::Relaxed);
            return response(
                200,
                &[("content-type", "application/json")],
                self.token.clone(),
            );
        }
        if let Some(digest) = path.strip_prefix(CDN) {
            return self.blob(digest);
        }
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let Some(path) = path.strip_prefix("/v2/") else {
            return response(404, &[], "");
        };
        if self.requires_token && !request.headers().contains_key(header::AUTHORIZATION) {
            return self.challenge(path);
        }
        let parts = path
            .rsplit_once("/manifests/")
            .or(path.rsplit_once("/blobs/"));
        if let Some((name, reference)) = parts
            && let Some(image) = self.images.lock().expect("images").get(name)
        {
            return self.image(image, reference);
        }
        match parts {
            None => response(200, &[("content-type", "application/json")], "{}"),
            Some((name, _)) if name.starts_with(MISSING) => {
                let unknown = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#;
                response(404, &[("content-type", "application/json")], unknown)
            }
            Some((name @ ("bench/redirect" | "bench/signed"), digest)) => {
                self.redirect(digest, name == "bench/signed")
            }
            Some(("bench/blob", digest)) => {
                let zeros = Zeros {
                    left: self.blob_length,
                };
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
                response(200, &headers, self.manifest.clone())
            }
        }
    }

    fn redirect(&self, digest: &str, tells_end: bool) -> RegistryResponse {
        let end = if tells_end {
            format!("verify={}-", unix_time() + REDIRECT_LIFE)
        } else {
            "signature=".to_owned()
        };
        let location = format!("{}{CDN}{digest}?{end}{}", self.url(), "s".repeat(300));
        response(
            307,
            &[("location", &location)],
            "<a href=\"there\">Temporary Redirect</a>.",
        )
    }

    fn image(&self, image: &Image, reference: &str) -> RegistryResponse {
        let mut manifests = image.manifests();
        let is_wanted = |one: &&Content| one.digest == reference;
        let manifest = match reference {
            "latest" => Some(&image.index),
            _ => manifests.find(is_wanted),
        };
        match manifest {
            Some(manifest) => {
                let headers = [
                    ("content-type", manifest.media_type),
                    ("docker-content-digest", &*manifest.digest),
                ];
                response(200, &headers, manifest.bytes.clone())
            }
            None => self.redirect(reference, true),
        }
    }

    /// What the CDN answers.
    fn blob(&self, digest: &str) -> RegistryResponse {
        let images = self.images.lock().expect("images");
        let mut blobs = images.values().flat_map(Image::blobs);
        match blobs.find(|blob| blob.digest == digest) {
            Some(blob) => {
                let headers = [("content-type", "application/octet-stream")];
                response(200, &headers, blob.bytes.clone())
            }
            None => response(404, &[], ""),
        }
    }

    fn url(&self) -> &str {
        self.url.get().expect("the address of the registry")
    }

    fn challenge(&self, path: &str) -> RegistryResponse {
        let name = path
            .rsplit_once("/manifests/")
            .or(path.rsplit_once("/blobs/"));
        let name = name.map_or("", |(name, _)| name);
        let url = self.url();
        let challenge =
            format!(r#"Bearer realm="{url}/token",service="bench",scope="repository:{name}:pull""#);
        response(401, &[("www-authenticate", &challenge)], "")
    }
}

fn unix_time() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a time after 1970").as_secs()
}

fn response(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> RegistryResponse {
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

/// The manifest of an image of ten layers, about 2 KB.
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

/// A body of zeros.
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
        let chunk = self.left.min(CHUNK as u64);
        self.left -= chunk;
        let chunk = &ZEROS[..usize::try_from(chunk).expect("the length of a chunk")];
        Poll::Ready((!chunk.is_empty()).then(|| Ok(Frame::data(Bytes::from_static(chunk)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
