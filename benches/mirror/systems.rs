//! The systems that are measured: the upstream itself, the forwarder and the mirror on the same host,
//! and nginx.

use crate::arguments::Arguments;
use crate::build::{self, repository};
use crate::process::Process;
use crate::usage::ProcessTree;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use test_support::announcement;
use test_support::ca::Ca;
use test_support::counting_registry::{CountingRegistry, Counts};
use test_support::process::find;
use test_support::s3::{ACCESS_KEY, SECRET_KEY};

/// The mirror with `manifest_cache=off`: every request goes upstream.
pub const MIRROR: &str = "mirror";
/// The mirror with its default settings.
pub const CACHING: &str = "mirror+cache";
/// As `mirror`, with `--metrics`.
const METRICS: &str = "mirror+metrics";
/// With an object store.
pub const STORE: &str = "mirror+store";
pub const FORWARDER: &str = "forwarder";
pub const DIRECT: &str = "direct";

pub struct System {
    pub name: String,
    pub address: SocketAddr,
    /// Whether it is the mirror, or another version of it.
    pub is_mirror: bool,
    /// `None` for the upstream itself.
    process: Option<Process>,
    upstream: Arc<Counts>,
}

/// Counters at one time.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    pub requests: u64,
    pub tokens: u64,
    pub cpu: Duration,
}

impl System {
    /// Starts all of them. The upstream of the mirror requires tokens, that of the others does not.
    pub async fn start(
        arguments: &Arguments,
        anonymous: &CountingRegistry,
        authenticated: &CountingRegistry,
        ca: Option<&Ca>,
    ) -> Vec<Self> {
        let host = build::host(arguments);
        let mut systems = vec![Self::direct(anonymous)];
        match find("nginx") {
            Some(nginx) => systems.push(start_nginx("nginx", &nginx, anonymous, false).await),
            None => eprintln!("nginx is not installed: measured without it"),
        }
        let forwarder = repository()
            .join("benches/forwarder")
            .join(arguments.manifest());
        let url = format!("upstream={}", anonymous.url());
        let component = Component {
            host: &host,
            ca,
            id: "forwarder",
            metrics: false,
        };
        systems.push(
            component
                .start(FORWARDER, &forwarder, &[url], anonymous)
                .await,
        );
        let own = repository().join(arguments.manifest());
        let mut mirrors = vec![(MIRROR, &own, "off"), (CACHING, &own, "on")];
        if arguments.metrics {
            mirrors.push((METRICS, &own, "off"));
        }
        let beside = arguments
            .beside
            .iter()
            .map(|(name, manifest)| (&**name, manifest, "off"));
        let component = Component {
            id: "hammal",
            ..component
        };
        for (name, manifest, cache) in mirrors.into_iter().chain(beside) {
            let variables = mirror_variables(authenticated, cache);
            let component = Component {
                metrics: name == METRICS,
                ..component
            };
            let mut mirror = component
                .start(name, manifest, &variables, authenticated)
                .await;
            mirror.is_mirror = true;
            systems.push(mirror);
        }
        systems
    }

    /// Starts a mirror that keeps blobs in the object store that `variables` name.
    pub async fn start_with_store(
        arguments: &Arguments,
        upstream: &CountingRegistry,
        ca: Option<&Ca>,
        cache: &str,
        variables: &[String],
    ) -> Self {
        let component = Component {
            host: &build::host(arguments),
            ca,
            id: "hammal",
            metrics: false,
        };
        let keys = [
            format!("blob_store_access_key={ACCESS_KEY}"),
            format!("blob_store_secret_key={SECRET_KEY}"),
        ];
        let of_mirror = mirror_variables(upstream, cache);
        let variables = [&of_mirror[..], &keys, variables].concat();
        let manifest = repository().join(arguments.manifest());
        component
            .start(STORE, &manifest, &variables, upstream)
            .await
    }

    /// The upstream itself.
    pub fn direct(upstream: &CountingRegistry) -> Self {
        Self {
            name: DIRECT.into(),
            address: upstream.plain,
            is_mirror: false,
            process: None,
            upstream: Arc::clone(&upstream.counts),
        }
    }

    /// A process that listens at `address`.
    pub fn of_process(
        name: &str,
        address: SocketAddr,
        process: Process,
        upstream: &CountingRegistry,
    ) -> Self {
        Self {
            name: name.to_owned(),
            address,
            is_mirror: false,
            process: Some(process),
            upstream: Arc::clone(&upstream.counts),
        }
    }

    /// The file of its key-value store.
    pub fn store(&self) -> Option<PathBuf> {
        let folder = self.process.as_ref()?.folder();
        Some(folder.join("state/sqlite_key_value.db"))
    }

    pub fn tree(&self) -> ProcessTree {
        self.process
            .as_ref()
            .map_or_else(ProcessTree::default, |process| {
                ProcessTree::of(process.id())
            })
    }

    pub fn counters(&self, tree: &ProcessTree) -> Counters {
        Counters {
            requests: self.upstream.requests.load(Ordering::Relaxed),
            tokens: self.upstream.tokens.load(Ordering::Relaxed),
            cpu: tree.cpu(),
        }
    }
}

fn mirror_variables(upstream: &CountingRegistry, cache: &str) -> [String; 3] {
    [
        format!("upstream={}", upstream.url()),
        // An address that is not public must be listed, with TLS or without.
        format!("plain_http_upstreams={}", upstream.address),
        format!("manifest_cache={cache}"),
    ]
}

/// How to run a component.
pub struct Component<'a> {
    pub host: &'a Path,
    pub ca: Option<&'a Ca>,
    pub id: &'a str,
    /// Whether the host counts for Prometheus.
    pub metrics: bool,
}

impl Component<'_> {
    pub async fn start(
        &self,
        name: &str,
        manifest: &Path,
        variables: &[String],
        upstream: &CountingRegistry,
    ) -> System {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(self.host);
        command
            .args(["up", "--listen", "127.0.0.1:0"])
            .args(announcement::format(self.host))
            .arg("--from")
            .arg(build::absolute(manifest))
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .current_dir(folder.path());
        if self.metrics {
            command.args(["--metrics", "127.0.0.1:0"]);
        }
        for variable in variables {
            command.args(["--variable", variable]);
        }
        // The upstream is on a loopback address.
        let mut text = "[outbound_networking]\nblock_networks = []\n".to_owned();
        if let Some(ca) = self.ca {
            let root = folder.path().join("root.pem");
            fs::write(&root, ca.pem()).expect("a file");
            text += &format!(
                "[[client_tls]]\ncomponent_ids = [{:?}]\nhosts = [\"127.0.0.1\"]\nca_roots_file = {root:?}\n",
                self.id
            );
        }
        let config = folder.path().join("runtime-config.toml");
        fs::write(&config, text).expect("a file");
        command.arg("--runtime-config-file").arg(config);
        let mut process = Process::spawn(&mut command, folder);
        let address = process
            .wait_for(&format!("the address of the {name}"), |process| {
                announcement::address(&process.stdout())
            })
            .await;
        System::of_process(name, address, process, upstream)
    }
}

/// `caches`: it keeps what it has fetched for ten minutes, without asking again.
pub async fn start_nginx(
    name: &str,
    nginx: &Path,
    upstream: &CountingRegistry,
    caches: bool,
) -> System {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let address = free_address();
    let config = folder.path().join("nginx.conf");
    let text = nginx_config(folder.path(), address, upstream, caches);
    fs::write(&config, text).expect("a configuration");
    let mut command = Command::new(nginx);
    command.arg("-e").arg(folder.path().join("error.log"));
    command.arg("-p").arg(folder.path()).arg("-c").arg(&config);
    let mut process = Process::spawn(&mut command, folder);
    process
        .wait_for("nginx", |_| std::net::TcpStream::connect(address).ok())
        .await;
    System::of_process(name, address, process, upstream)
}

/// A reverse proxy with persistent connections on both sides, and without a log.
fn nginx_config(
    folder: &Path,
    listen: SocketAddr,
    upstream: &CountingRegistry,
    caches: bool,
) -> String {
    let CountingRegistry {
        scheme, address, ..
    } = upstream;
    let folder = folder.display();
    let (zone, cache) = if caches {
        (
            format!("proxy_cache_path {folder}/cache keys_zone=cache:16m max_size=4g;"),
            "proxy_cache cache; proxy_cache_valid 200 307 10m; proxy_cache_lock on;",
        )
    } else {
        (String::new(), "")
    };
    format!(
        "daemon off;
        worker_processes 1;
        pid {folder}/nginx.pid;
        events {{ worker_connections 1024; }}
        http {{
            access_log off;
            client_body_temp_path {folder}/client;
            proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi;
            scgi_temp_path {folder}/scgi;
            uwsgi_temp_path {folder}/uwsgi;
            {zone}
            upstream registry {{ server {address}; keepalive 64; keepalive_requests 100000000; }}
            server {{
                listen {listen};
                keepalive_requests 100000000;
                location / {{
                    proxy_pass {scheme}://registry;
                    proxy_http_version 1.1;
                    proxy_set_header Connection \"\";
                    proxy_max_temp_file_size 0;
                    {cache}
                }}
            }}
        }}
        "
    )
}

pub fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}
