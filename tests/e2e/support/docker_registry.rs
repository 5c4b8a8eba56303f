//! Debian's `docker-registry`, with a token server, behind a proxy that records requests.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::client::{Request, Response};
use super::process::Process;
use super::token_server::{ISSUER, SERVICE, TokenServer};
use test_support::hub::basic;
use test_support::image::{Content, Image};
use test_support::process::find;
use test_support::server::{ReceivedRequest, Reply, Server};

pub struct DockerRegistry {
    pub tokens: TokenServer,
    front: Server,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
    backend: SocketAddr,
    /// The `Authorization` that it asks everybody for, and not for a token.
    password: Option<String>,
    _process: Process,
    _files: TempDir,
}

impl DockerRegistry {
    /// Returns `None` where it is not installed.
    pub async fn start() -> Option<Self> {
        Self::launch(None).await
    }

    /// The same, but it asks everybody for the password of `user` itself. `hash` is that of the
    /// password, by bcrypt.
    pub async fn start_with_password(user: &str, password: &str, hash: &str) -> Option<Self> {
        let line = format!("{user}:{hash}\n");
        Self::launch(Some((basic(user, password), line))).await
    }

    async fn launch(user: Option<(String, String)>) -> Option<Self> {
        let program = find("docker-registry")?;
        let tokens = TokenServer::start().await;
        let files = tempfile::tempdir().expect("a temporary directory");
        let certificate = files.path().join("root.pem");
        std::fs::write(&certificate, tokens.certificate()).expect("the certificate");
        let config = files.path().join("config.yml");
        let realm = format!("http://{}/token", tokens.address());
        let storage = files.path().join("storage");
        let (password, users) = user.unzip();
        let auth = match users {
            None => serde_json::json!({
                "token": { "realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": certificate },
            }),
            Some(users) => {
                let path = files.path().join("htpasswd");
                std::fs::write(&path, users).expect("the users");
                serde_json::json!({ "htpasswd": { "realm": "registry", "path": path } })
            }
        };
        let yaml = serde_json::json!({
            "version": "0.1",
            "log": { "level": "info" },
            "storage": { "filesystem": { "rootdirectory": storage } },
            "http": { "addr": "127.0.0.1:0" },
            "auth": auth,
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

        let received: Arc<Mutex<Vec<ReceivedRequest>>> = Arc::default();
        let recorded = Arc::clone(&received);
        let front = Server::plain("127.0.0.1", move |received| {
            recorded.lock().expect("requests").push(received.clone());
            Reply::Deferred(Box::pin(async move { pass(backend, received).await }))
        })
        .await;
        Some(Self {
            tokens,
            front,
            received,
            backend,
            password,
            _process: process,
            _files: files,
        })
    }

    /// The address of the proxy.
    pub fn address(&self) -> SocketAddr {
        self.front.address
    }

    pub fn requests(&self) -> usize {
        self.received.lock().expect("requests").len()
    }

    /// Pushes all content of `image` to the registry itself, as `docker push` does.
    pub async fn push(&self, name: &str, tag: &str, image: &Image) {
        let bearer = || format!("Bearer {}", self.tokens.push_token(name));
        let authorization = self.password.clone().unwrap_or_else(bearer);
        let request = |method, target: &str| {
            Request::new(self.backend, method, target).header("authorization", &authorization)
        };
        for blob in image.blobs() {
            let upload = request("POST", &format!("/v2/{name}/blobs/uploads/"))
                .send()
                .await
                .expect(202);
            let location = location(&upload);
            let target = format!("{location}&digest={}", blob.digest);
            request("PUT", &target)
                .body(blob.bytes.clone())
                .send()
                .await
                .expect(201);
        }
        let put = async |content: &Content, reference: &str| {
            request("PUT", &format!("/v2/{name}/manifests/{reference}"))
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

/// The path and query of an upload's `Location`.
fn location(response: &Response) -> String {
    let location: hyper::Uri = response
        .header("location")
        .expect("a location")
        .parse()
        .expect("a URL");
    location.path_and_query().expect("a path").to_string()
}

/// Forwards a request to `backend`, and returns its response.
pub async fn pass(backend: SocketAddr, received: ReceivedRequest) -> Reply {
    let mut request = Request::new(backend, &received.method, &received.target).body(received.body);
    for (name, value) in &received.headers {
        let value = value.to_str().expect("a readable header");
        request = if name == "host" {
            request.host(value)
        } else {
            request.header(name.as_str(), value)
        };
    }
    let response = request.send().await;
    let line = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (
            name.to_string(),
            value.to_str().expect("a readable header").to_string(),
        )
    };
    let headers = response
        .headers
        .iter()
        .map(line)
        .filter(|(name, _)| name != "transfer-encoding")
        .collect::<Vec<_>>();
    let headers = headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect::<Vec<_>>();
    Reply::new(response.status.as_u16(), &headers, response.body)
}
