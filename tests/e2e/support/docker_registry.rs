//! Debian's `docker-registry` behind a token server of ours, with a proxy in front that counts.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::client::{Answer, Request};
use super::process::{Process, find};
use super::token_server::{ISSUER, SERVICE, TokenServer};
use test_support::image::{Content, Image};
use test_support::server::{Reply, Seen, Server};

pub struct DockerRegistry {
    pub tokens: TokenServer,
    front: Server,
    seen: Arc<Mutex<Vec<Seen>>>,
    backend: SocketAddr,
    _process: Process,
    _files: TempDir,
}

impl DockerRegistry {
    /// `None` where it isn't installed.
    pub async fn start() -> Option<Self> {
        let program = find("docker-registry")?;
        let tokens = TokenServer::start().await;
        let files = tempfile::tempdir().expect("a temporary directory");
        let certificate = files.path().join("root.pem");
        std::fs::write(&certificate, tokens.certificate()).expect("the certificate");
        let config = files.path().join("config.yml");
        let realm = format!("http://{}/token", tokens.address());
        let storage = files.path().join("storage");
        let yaml = serde_json::json!({
            "version": "0.1",
            "log": { "level": "info" },
            "storage": { "filesystem": { "rootdirectory": storage } },
            "http": { "addr": "127.0.0.1:0" },
            "auth": { "token": { "realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": certificate } },
        });
        std::fs::write(&config, yaml.to_string()).expect("the configuration");
        let mut process = Process::spawn(Command::new(program).arg("serve").arg(&config));
        let listening = |process: &Process| {
            let log = process.stderr() + &process.stdout();
            let rest = log.split("listening on ").nth(1)?;
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
            rest[..end].parse::<SocketAddr>().ok()
        };
        let backend = process.wait_for("the registry's address", listening).await;

        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let recorded = Arc::clone(&seen);
        let front = Server::plain("127.0.0.1", move |seen| {
            recorded.lock().expect("requests").push(seen.clone());
            Reply::Later(Box::pin(async move { pass(backend, seen).await }))
        })
        .await;
        Some(Self {
            tokens,
            front,
            seen,
            backend,
            _process: process,
            _files: files,
        })
    }

    /// Where the counting proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.front.address
    }

    pub fn requests(&self) -> usize {
        self.seen.lock().expect("requests").len()
    }

    /// Everything of `image`, as `docker push` does it, past the proxy.
    pub async fn push(&self, name: &str, tag: &str, image: &Image) {
        let bearer = format!("Bearer {}", self.tokens.for_pushing(name));
        let ask = |method, target: &str| {
            Request::new(self.backend, method, target).header("authorization", &bearer)
        };
        for blob in image.blobs() {
            let begun = ask("POST", &format!("/v2/{name}/blobs/uploads/"))
                .send()
                .await
                .expect(202);
            let location = location(&begun);
            let target = format!("{location}&digest={}", blob.digest);
            ask("PUT", &target)
                .body(blob.bytes.clone())
                .send()
                .await
                .expect(201);
        }
        let put = async |content: &Content, reference: &str| {
            let request = ask("PUT", &format!("/v2/{name}/manifests/{reference}"));
            request
                .header("content-type", content.media_type)
                .body(content.bytes.clone())
                .send()
                .await
                .expect(201);
        };
        for platform in &image.platforms {
            put(&platform.manifest, &platform.manifest.digest).await;
        }
        put(&image.index, tag).await;
    }
}

/// Path and query of an upload's `Location`.
fn location(answer: &Answer) -> String {
    let location: hyper::Uri = answer
        .header("location")
        .expect("a location")
        .parse()
        .expect("a URL");
    location.path_and_query().expect("a path").to_string()
}

/// Hands a request on as it is, and the answer back.
pub async fn pass(backend: SocketAddr, seen: Seen) -> Reply {
    let mut request = Request::new(backend, &seen.method, &seen.target).body(seen.body);
    for (name, value) in &seen.headers {
        let value = value.to_str().expect("a readable header");
        request = if name == "host" {
            request.host(value)
        } else {
            request.header(name.as_str(), value)
        };
    }
    let answer = request.send().await;
    let line = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (
            name.to_string(),
            value.to_str().expect("a readable header").to_string(),
        )
    };
    let headers = answer
        .headers
        .iter()
        .map(line)
        .filter(|(name, _)| name != "transfer-encoding")
        .collect::<Vec<_>>();
    let headers = headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect::<Vec<_>>();
    Reply::new(answer.status.as_u16(), &headers, answer.body)
}
