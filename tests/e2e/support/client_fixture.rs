//! The fixture of tests with real clients: a registry with one image, a mirror of it over http or
//! https, and a folder for the client.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tempfile::TempDir;

use super::daemons::Environment;
use super::docker_registry::{DockerRegistry, pass};
use super::log_line::LogLine;
use super::mirror::{Mirror, Options, repository};
use super::skip;
use test_support::ca::Ca;
use test_support::hub::{Hub, Service};
use test_support::image::{DOCKER, Image, OCI, Platform, digest};
use test_support::server::{Reply, Server, any_port};

pub const NAME: &str = "library/alpine";
pub const REFERENCE: &str = "docker.io/library/alpine:latest";
/// The account of [`ClientFixture::with_account`].
pub const ACCOUNT: &str = "ci.runner-1";
pub const TOKEN: &str = "d6c7a1f0b35e48929e0af7c4416d2b8895f3ac07";

pub struct ClientFixture {
    upstream: Upstream,
    pub image: Image,
    pub mirror: Mirror,
    tls: Option<(Server, PathBuf)>,
    files: TempDir,
}

enum Upstream {
    DockerRegistry(DockerRegistry),
    Hub(Hub),
}

/// Requests so far.
#[derive(Clone, Copy, Debug)]
pub struct RequestCounts {
    /// Of the client, without pings.
    pub client: usize,
    pub upstream: usize,
    pub tokens: usize,
}

impl ClientFixture {
    /// Three fixtures: `docker-registry` over http and https, and [`Hub`] with its redirects to a
    /// CDN. Only the last where `docker-registry` is not installed.
    pub async fn all() -> Vec<Self> {
        let mut fixtures = Vec::new();
        for https in [false, true] {
            fixtures.extend(Self::docker_registry(https, 3).await);
        }
        fixtures.push(Self::hub().await);
        fixtures
    }

    pub async fn docker_registry(https: bool, layers: usize) -> Option<Self> {
        let Some(registry) = DockerRegistry::start().await else {
            skip("docker-registry is not installed");
            return None;
        };
        let image = Image::with_layers(OCI, "docker-registry", layers);
        registry.push(NAME, "latest", &image).await;
        let options = Options::default()
            .upstream(registry.address())
            .plain_http([registry.tokens.address()]);
        Some(Self::build(Upstream::DockerRegistry(registry), image, options, https).await)
    }

    async fn hub() -> Self {
        Self::hub_with(|options| options).await
    }

    async fn hub_with(more: impl FnOnce(Options) -> Options) -> Self {
        let hub = Hub::start().await;
        let image = Image::new(DOCKER, "hub");
        hub.push(NAME, "latest", &image);
        let options = Options::default()
            .upstream(hub.address())
            .plain_http(hub.addresses());
        Self::build(Upstream::Hub(hub), image, more(options), false).await
    }

    /// A mirror of [`Hub`] that only [`ACCOUNT`] may use.
    pub async fn with_account() -> Self {
        Self::with_account_and(|options| options).await
    }

    /// The same with more settings.
    pub async fn with_account_and(more: impl FnOnce(Options) -> Options) -> Self {
        let entry = format!("{ACCOUNT}:{}", hex(&digest(TOKEN.as_bytes())));
        Self::hub_with(|options| more(options.variable("clients", entry))).await
    }

    /// Expects that the client has pulled with its account, and that neither the registry, nor its
    /// token server, nor its CDN, nor the log has seen the login.
    pub async fn expect_login_here_only(&self, least: usize) {
        let counts = self.request_counts(least).await;
        let lines = self.mirror.log(counts.client).await;
        let pulled = |line: &&LogLine| matches!(&*line.endpoint, "manifest" | "blob");
        assert!(lines.iter().filter(pulled).count() > 0, "{lines:?}");
        for line in lines.iter().filter(pulled) {
            assert_eq!(line.client.as_deref(), Some(ACCOUNT), "{line:?}");
        }
        let Upstream::Hub(hub) = &self.upstream else {
            panic!("only Hub records what it receives");
        };
        let login = basic_login();
        let mut seen = self.mirror.stderr();
        for service in [Service::Registry, Service::Tokens, Service::Cdn] {
            let received = hub.received(service);
            assert!(!received.is_empty(), "{service:?} was not asked");
            seen.extend(received.iter().map(|received| format!("{received:?}")));
        }
        for line in seen {
            let shows = line.contains(TOKEN) || line.contains(&login) || line.contains("Basic ");
            assert!(!shows, "{line}");
        }
    }

    async fn build(upstream: Upstream, image: Image, options: Options, https: bool) -> Self {
        let (mirror, files) = (
            options.start().await,
            tempfile::tempdir().expect("a folder"),
        );
        let mut tls = None;
        if https {
            let (ca, behind) = (Ca::generate(), mirror.address());
            let root = files.path().join("root.pem");
            std::fs::write(&root, ca.pem()).expect("a certificate");
            let handler = move |received| {
                Reply::Deferred(Box::pin(async move { pass(behind, received).await }))
            };
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

    /// A file of `deploy/clients/`, with the address of this mirror. `registries.conf` has to say
    /// so where that is http.
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

    /// The environment of a client: its home folder, and the certificate authority to trust.
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

    /// Waits until the mirror has logged `least` requests of the client, and counts requests.
    pub async fn request_counts(&self, least: usize) -> RequestCounts {
        let mut lines = self.mirror.log(least).await;
        let without_pings =
            |lines: &[LogLine]| lines.iter().filter(|line| line.endpoint != "ping").count();
        while without_pings(&lines) < least {
            lines = self.mirror.log(lines.len() + 1).await;
        }
        let (upstream, tokens) = match &self.upstream {
            Upstream::DockerRegistry(registry) => (registry.requests(), registry.tokens.requests()),
            Upstream::Hub(hub) => (
                hub.received(Service::Registry).len(),
                hub.received(Service::Tokens).len(),
            ),
        };
        RequestCounts {
            client: without_pings(&lines),
            upstream,
            tokens,
        }
    }

    /// Expects of a first pull: an upstream request for each request of the client, one more for
    /// the challenge, one token.
    pub async fn expect_first_pull(&self, client: &str, least: usize) {
        let counts = self.request_counts(least).await;
        println!("{client} from {}: {counts:?}", self.name());
        for line in self.mirror.log(0).await {
            let has_several = line.upstream_requests > 1;
            if has_several {
                println!("  {line:?}");
            }
            // A request that had a token from the start needs no second one.
            assert!(!has_several || line.token_source != "memory", "{line:?}");
        }
        // Requests that arrive before the first token can get a challenge too.
        assert!(
            counts.upstream <= counts.client + 1 + counts.tokens,
            "{counts:?}"
        );
        assert!((1..=3).contains(&counts.tokens), "{counts:?}");
    }

    fn name(&self) -> &'static str {
        match (&self.upstream, self.is_https()) {
            (Upstream::DockerRegistry(_), false) => "docker-registry over http",
            (Upstream::DockerRegistry(_), true) => "docker-registry over https",
            (Upstream::Hub(_), _) => "the scripted registry",
        }
    }
}

/// Name and token as Basic authorisation encodes them.
pub fn basic_login() -> String {
    BASE64_STANDARD.encode(format!("{ACCOUNT}:{TOKEN}"))
}

pub fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

/// Expects the blobs of `platform` in a folder, each named by the hexadecimal part of its digest.
pub fn expect_blobs(dir: &Path, platform: &Platform) {
    for blob in platform.blobs() {
        let bytes = std::fs::read(dir.join(hex(&blob.digest))).expect("a blob");
        assert_eq!(digest(&bytes), blob.digest);
    }
}
