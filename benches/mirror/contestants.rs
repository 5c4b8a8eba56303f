//! Who is measured: the upstream itself, the bare forwarder and the mirror on the same host, nginx.

use crate::arguments::Arguments;
use crate::build::{self, repository};
use crate::process::{Process, find};
use crate::usage::Tree;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use test_support::ca::Ca;
use test_support::counting_registry::{CountingRegistry, Counts};

/// Without its cache of manifests: every request goes upstream.
pub const MIRROR: &str = "mirror";
/// As it comes.
pub const CACHING: &str = "mirror+cache";
pub const FORWARDER: &str = "forwarder";
pub const DIRECT: &str = "direct";

pub struct Contestant {
    pub name: String,
    pub address: SocketAddr,
    /// Whether it is the mirror, or another version of it.
    pub is_a_mirror: bool,
    /// None where it is the upstream itself.
    process: Option<Process>,
    upstream: Arc<Counts>,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    pub requests: u64,
    pub tokens: u64,
    pub cpu: Duration,
}

impl Contestant {
    /// Starts all of them. The mirror's upstream asks for tokens, the others' does not.
    pub async fn start(
        arguments: &Arguments,
        open: &CountingRegistry,
        guarded: &CountingRegistry,
        ca: Option<&Ca>,
    ) -> Vec<Self> {
        let host = build::host(arguments);
        let mut contestants = vec![Self {
            name: DIRECT.into(),
            address: open.plain,
            is_a_mirror: false,
            process: None,
            upstream: Arc::clone(&open.counts),
        }];
        match find("nginx") {
            Some(nginx) => contestants.push(start_nginx(&nginx, open).await),
            None => eprintln!("nginx is not installed: measured without it"),
        }
        let forwarder = repository()
            .join("benches/forwarder")
            .join(arguments.manifest());
        let url = format!("upstream={}", open.url());
        let component = Component {
            host: &host,
            ca,
            id: "forwarder",
        };
        contestants.push(component.start(FORWARDER, &forwarder, &[url], open).await);
        let own = repository().join(arguments.manifest());
        let mirrors = [(MIRROR, &own, "off"), (CACHING, &own, "on")];
        let beside = arguments
            .beside
            .iter()
            .map(|(name, manifest)| (&**name, manifest, "off"));
        let component = Component {
            id: "hammal",
            ..component
        };
        for (name, manifest, cache) in mirrors.into_iter().chain(beside) {
            let variables = [
                format!("upstream={}", guarded.url()),
                // What is not public has to be listed, with TLS or without.
                format!("plain_http_upstreams={}", guarded.address),
                format!("manifest_cache={cache}"),
            ];
            let mut mirror = component.start(name, manifest, &variables, guarded).await;
            mirror.is_a_mirror = true;
            contestants.push(mirror);
        }
        contestants
    }

    /// The file with what it keeps.
    pub fn state(&self) -> Option<PathBuf> {
        let folder = self.process.as_ref()?.folder();
        Some(folder.join("state/sqlite_key_value.db"))
    }

    pub fn tree(&self) -> Tree {
        self.process
            .as_ref()
            .map_or_else(Tree::default, |process| Tree::of(process.id()))
    }

    pub fn counters(&self, tree: &Tree) -> Counters {
        Counters {
            requests: self.upstream.requests.load(Ordering::Relaxed),
            tokens: self.upstream.tokens.load(Ordering::Relaxed),
            cpu: tree.cpu(),
        }
    }
}

/// How a component is run.
struct Component<'a> {
    host: &'a Path,
    ca: Option<&'a Ca>,
    id: &'a str,
}

impl Component<'_> {
    async fn start(
        &self,
        name: &str,
        manifest: &Path,
        variables: &[String],
        upstream: &CountingRegistry,
    ) -> Contestant {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(self.host);
        command
            .args([
                "up",
                "--listen",
                "127.0.0.1:0",
                "--format",
                "json",
                "--from",
            ])
            .arg(build::absolute(manifest))
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .current_dir(folder.path());
        for variable in variables {
            command.args(["--variable", variable]);
        }
        if let Some(ca) = self.ca {
            let (root, config) = (
                folder.path().join("root.pem"),
                folder.path().join("runtime-config.toml"),
            );
            fs::write(&root, ca.pem()).expect("a file");
            let text = format!(
                "[[client_tls]]\ncomponent_ids = [{:?}]\nhosts = [\"127.0.0.1\"]\nca_roots_file = {root:?}\n",
                self.id
            );
            fs::write(&config, text).expect("a file");
            command.arg("--runtime-config-file").arg(config);
        }
        let mut process = Process::spawn(&mut command, folder);
        let address = process
            .wait_for(&format!("the address of the {name}"), |process| {
                announced(&process.stdout())
            })
            .await;
        Contestant {
            name: name.to_owned(),
            address,
            is_a_mirror: false,
            process: Some(process),
            upstream: Arc::clone(&upstream.counts),
        }
    }
}

/// The address in the first JSON object on stdout, once it is there.
fn announced(stdout: &str) -> Option<SocketAddr> {
    let json = &stdout[stdout.find('{')?..];
    let mut objects = serde_json::Deserializer::from_str(json).into_iter::<serde_json::Value>();
    let announcement = objects.next()?.ok()?;
    let url = announcement["base_url"].as_str()?.strip_prefix("http://")?;
    url.trim_end_matches('/').parse().ok()
}

async fn start_nginx(nginx: &Path, upstream: &CountingRegistry) -> Contestant {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let address = free_address();
    let config = folder.path().join("nginx.conf");
    fs::write(&config, nginx_config(folder.path(), address, upstream)).expect("a configuration");
    let mut command = Command::new(nginx);
    command.arg("-e").arg(folder.path().join("error.log"));
    command.arg("-p").arg(folder.path()).arg("-c").arg(&config);
    let mut process = Process::spawn(&mut command, folder);
    process
        .wait_for("nginx", |_| std::net::TcpStream::connect(address).ok())
        .await;
    Contestant {
        name: "nginx".to_owned(),
        address,
        is_a_mirror: false,
        process: Some(process),
        upstream: Arc::clone(&upstream.counts),
    }
}

/// A plain reverse proxy: connections kept on both sides, nothing stored, nothing logged.
fn nginx_config(folder: &Path, listen: SocketAddr, upstream: &CountingRegistry) -> String {
    let CountingRegistry {
        scheme, address, ..
    } = upstream;
    let folder = folder.display();
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
            upstream registry {{ server {address}; keepalive 64; keepalive_requests 100000000; }}
            server {{
                listen {listen};
                keepalive_requests 100000000;
                location / {{
                    proxy_pass {scheme}://registry;
                    proxy_http_version 1.1;
                    proxy_set_header Connection \"\";
                    proxy_max_temp_file_size 0;
                }}
            }}
        }}
        "
    )
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}
