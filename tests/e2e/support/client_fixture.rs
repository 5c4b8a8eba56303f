//! What a real client pulls: a registry with one image, a mirror of it, over http or https, and a folder for the client.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::daemons::Environment;
use super::docker_registry::{DockerRegistry, pass};
use super::mirror::{Mirror, Options, repository};
use super::skip;
use test_support::ca::Ca;
use test_support::hub::{Hub, Place};
use test_support::image::{DOCKER, Image, OCI, Platform, digest};
use test_support::server::{Reply, Server, any_port};

pub const NAME: &str = "library/alpine";
pub const REFERENCE: &str = "docker.io/library/alpine:latest";

pub struct ClientFixture {
    upstream: Upstream,
    pub image: Image,
    pub mirror: Mirror,
    tls: Option<(Server, PathBuf)>,
    files: TempDir,
}

enum Upstream {
    Debian(DockerRegistry),
    Ours(Hub),
}

/// What was asked so far: by the client, pings excluded; of the registry; of its token server.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub asked: usize,
    pub requests: usize,
    pub fetches: usize,
}

impl ClientFixture {
    /// Debian's registry over http and https, and ours with its redirects to a CDN; ours alone where Debian's is missing.
    pub async fn all() -> Vec<Self> {
        let mut fixtures = Vec::new();
        for https in [false, true] {
            fixtures.extend(Self::debian(https, 3).await);
        }
        fixtures.push(Self::ours().await);
        fixtures
    }

    pub async fn debian(https: bool, layers: usize) -> Option<Self> {
        let Some(registry) = DockerRegistry::start().await else {
            skip("docker-registry is not installed");
            return None;
        };
        let image = Image::of_layers(OCI, "debian", layers);
        registry.push(NAME, "latest", &image).await;
        let options = Options::default()
            .upstream(registry.address())
            .plain_http([registry.tokens.address()]);
        Some(Self::of(Upstream::Debian(registry), image, options, https).await)
    }

    async fn ours() -> Self {
        let hub = Hub::start().await;
        let image = Image::new(DOCKER, "ours");
        hub.push(NAME, "latest", &image);
        let options = Options::default()
            .upstream(hub.address())
            .plain_http(hub.addresses());
        Self::of(Upstream::Ours(hub), image, options, false).await
    }

    async fn of(upstream: Upstream, image: Image, options: Options, https: bool) -> Self {
        let (mirror, files) = (
            options.start().await,
            tempfile::tempdir().expect("a folder"),
        );
        let mut tls = None;
        if https {
            let (ca, behind) = (Ca::new(), mirror.address());
            let root = files.path().join("root.pem");
            std::fs::write(&root, ca.pem()).expect("a certificate");
            let handler =
                move |seen| Reply::Later(Box::pin(async move { pass(behind, seen).await }));
            let config = ca.server(&["127.0.0.1"]);
            tls = Some((
                Server::start(
                    any_port("127.0.0.1"),
                    Some(config),
                    std::sync::Arc::new(handler),
                )
                .await,
                root,
            ));
        }
        Self {
            upstream,
            image,
            mirror,
            tls,
            files,
        }
    }

    pub fn is_https(&self) -> bool {
        self.tls.is_some()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// A file of `deploy/clients/`, for this mirror. Over http podman and its relatives have to be told so.
    pub fn recipe(&self, name: &str) -> String {
        let recipe = std::fs::read_to_string(repository().join("deploy/clients").join(name))
            .expect("a recipe");
        let (scheme, address) = match &self.tls {
            Some((server, _)) => ("https", server.address),
            None => ("http", self.mirror.address()),
        };
        let own = recipe.replace("https://mirror.example", &format!("{scheme}://{address}"));
        let own = own.replace("mirror.example", &address.to_string());
        if scheme == "https" || !name.ends_with(".conf") {
            return own;
        }
        let insecure = |line: &str| match line.contains(&address.to_string()) {
            true => format!("{line}\ninsecure = true\n"),
            false => format!("{line}\n"),
        };
        own.lines().map(insecure).collect()
    }

    /// What a client needs to know of this fixture's folder and certificate authority.
    pub fn environment(&self) -> Environment {
        let home = self.files.path().to_path_buf();
        self.write(
            ".config/containers/policy.json",
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        );
        let mut environment = vec![("HOME", home.clone()), ("XDG_RUNTIME_DIR", home)];
        environment.extend(
            self.tls
                .as_ref()
                .map(|(_, root)| ("SSL_CERT_FILE", root.clone())),
        );
        environment
    }

    /// Waits until the mirror has logged `least` requests of the client.
    pub async fn cost(&self, least: usize) -> Cost {
        let mut lines = self.mirror.log(least).await;
        let asked = |lines: &[String]| {
            lines
                .iter()
                .filter(|line| !line.contains("what=ping"))
                .count()
        };
        while asked(&lines) < least {
            lines = self.mirror.log(lines.len() + 1).await;
        }
        let (requests, fetches) = match &self.upstream {
            Upstream::Debian(registry) => (registry.requests(), registry.tokens.fetches()),
            Upstream::Ours(hub) => (
                hub.seen(Place::Registry).len(),
                hub.seen(Place::Tokens).len(),
            ),
        };
        Cost {
            asked: asked(&lines),
            requests,
            fetches,
        }
    }

    /// What a first pull cost: one upstream request for each of the client's, one more for the first challenge, one token.
    pub async fn expect_its_cost(&self, client: &str, least: usize) {
        let cost = self.cost(least).await;
        println!("{client} from {}: {cost:?}", self.name());
        for line in self.mirror.log(0).await {
            let is_dear = !line.contains("requests=0 ") && !line.contains("requests=1 ");
            if is_dear {
                println!("  {line}");
            }
            // With a token from the start there is no reason to ask twice.
            assert!(!is_dear || !line.contains("token=memory"), "{line}");
        }
        // Requests that arrive while the first token is on its way can meet the challenge too.
        assert!(cost.requests <= cost.asked + 1 + cost.fetches, "{cost:?}");
        assert!((1..=3).contains(&cost.fetches), "{cost:?}");
    }

    fn name(&self) -> &'static str {
        match (&self.upstream, self.is_https()) {
            (Upstream::Debian(_), false) => "docker-registry over http",
            (Upstream::Debian(_), true) => "docker-registry over https",
            (Upstream::Ours(_), _) => "our registry",
        }
    }
}

pub fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

/// Blobs in a folder, under the hexadecimal part of their digests.
pub fn expect_blobs(dir: &Path, platform: &Platform) {
    for blob in platform.blobs() {
        let bytes = std::fs::read(dir.join(hex(&blob.digest))).expect("a blob");
        assert_eq!(digest(&bytes), blob.digest);
    }
}
