//! Measures the mirror beside other programs that do its work: `cargo bench --bench peers -- --help`.
//!
//! It shares everything but the systems and the tables with `main.rs`. The programs that are not
//! installed are left out, and named.

#![allow(
    dead_code,
    unused_imports,
    reason = "the other benchmark uses the rest of the modules"
)]

mod arguments;
mod blob;
mod build;
mod load;
mod measurements;
mod process;
mod run;
mod storm;
mod systems;
mod table;
mod targets;
mod usage;

use arguments::{Arguments, Scale};
use hyper::StatusCode;
use load::{Connection, Load, Until};
use measurements::{compare, median, position, warm};
use process::Process;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use systems::{CACHING, Component, FORWARDER, System, free_address, start_nginx};
use table::Table;
use test_support::counting_registry::{CountingRegistry, SIGNED, WARM, by_digest, repository};
use test_support::image::digest;
use test_support::process::find;

const STREAMING: &str = "mirror, stream";
const MIB: u64 = 1024 * 1024;

/// The systems. The mirror and the caches made for registries have an upstream that asks for tokens,
/// as Docker Hub does; docker-registry pings one that does not before each of its requests. The first
/// ones answer a blob with a redirect, all but the last a manifest.
struct Peers {
    systems: Vec<System>,
    redirecting: usize,
    missing: Vec<String>,
}

fn main() -> ExitCode {
    run::run(measure)
}

/// Shorter than those of the other benchmark: there are more systems.
fn scale(arguments: &Arguments) -> Scale {
    let scale = arguments.scale();
    if arguments.quick {
        return Scale {
            blob: 16 * MIB,
            ..scale
        };
    }
    Scale {
        rounds: arguments.rounds.unwrap_or(3),
        round: arguments.seconds.unwrap_or(Duration::from_secs(1)),
        blob: 128 * MIB,
        ..scale
    }
}

async fn measure(arguments: &Arguments) {
    let scale = scale(arguments);
    let anonymous = CountingRegistry::start(false, scale.blob, None).await;
    let authenticated = CountingRegistry::start(true, scale.blob, None).await;
    let peers = Peers::start(arguments, &anonymous, &authenticated).await;
    println!(
        "{} rounds of {:?} for each, {} connections, {} processors, load average {}",
        scale.rounds,
        scale.round,
        scale.connections,
        std::thread::available_parallelism().map_or(0, usize::from),
        fs::read_to_string("/proc/loadavg")
            .unwrap_or_default()
            .trim(),
    );
    for missing in &peers.missing {
        println!("missing: {missing}");
    }
    requests(&peers, &scale).await;
    stream(&peers, &scale).await;
    storm::measure(peers.of_manifests(), &[&anonymous, &authenticated], &scale).await;
}

impl Peers {
    async fn start(
        arguments: &Arguments,
        anonymous: &CountingRegistry,
        authenticated: &CountingRegistry,
    ) -> Self {
        let host = build::host(arguments);
        let (mut systems, mut missing) = (vec![System::direct(anonymous)], Vec::new());
        let component = |id| Component {
            host: &host,
            ca: None,
            id,
            metrics: false,
        };
        let forwarder = build::repository()
            .join("benches/forwarder")
            .join(arguments.manifest());
        let url = [format!("upstream={}", anonymous.url())];
        let start = component("forwarder");
        systems.push(start.start(FORWARDER, &forwarder, &url, anonymous).await);
        match find("nginx") {
            Some(nginx) => {
                systems.push(start_nginx("nginx proxy_pass", &nginx, anonymous, false).await);
                systems.push(start_nginx("nginx proxy_cache", &nginx, anonymous, true).await);
            }
            None => missing.push("nginx".to_owned()),
        }
        let own = build::repository().join(arguments.manifest());
        let mirror = async |name, delivery| {
            let variables = [
                format!("upstream={}", authenticated.url()),
                format!("plain_http_upstreams={}", authenticated.address),
                format!("blob_delivery={delivery}"),
            ];
            let start = component("hammal");
            start.start(name, &own, &variables, authenticated).await
        };
        systems.push(mirror(CACHING, "redirect").await);
        let redirecting = systems.len();
        match find("docker-registry") {
            Some(program) => {
                add(
                    &mut systems,
                    &mut missing,
                    docker_registry(&program, authenticated).await,
                )
                .await
            }
            None => missing.push("docker-registry".to_owned()),
        }
        match nora() {
            Some(program) => {
                add(
                    &mut systems,
                    &mut missing,
                    start_nora(&program, authenticated).await,
                )
                .await
            }
            None => {
                missing.push("NORA (cargo install nora-registry --root target/peers)".to_owned())
            }
        }
        systems.push(mirror(STREAMING, "stream").await);
        Self {
            systems,
            redirecting,
            missing,
        }
    }

    fn of_manifests(&self) -> &[System] {
        &self.systems[..self.systems.len() - 1]
    }
}

/// Adds a system if it serves the manifest that all are asked for first.
async fn add(systems: &mut Vec<System>, missing: &mut Vec<String>, system: System) {
    let answer = Connection::open(system.address)
        .await
        .exchange("GET", WARM)
        .await;
    if answer.status == StatusCode::OK {
        systems.push(system);
    } else {
        missing.push(format!("{}: answers {}", system.name, answer.status));
    }
}

/// Debian's registry as a pull-through cache.
async fn docker_registry(program: &Path, upstream: &CountingRegistry) -> System {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let address = free_address();
    let config = folder.path().join("config.yml");
    let yaml = serde_json::json!({
        "version": "0.1",
        "log": { "level": "error", "accesslog": { "disabled": true } },
        "storage": {
            "filesystem": { "rootdirectory": folder.path().join("storage") },
            "cache": { "blobdescriptor": "inmemory" },
        },
        "http": { "addr": address.to_string() },
        "proxy": { "remoteurl": upstream.url() },
    });
    fs::write(&config, yaml.to_string()).expect("a configuration");
    let mut command = Command::new(program);
    command.arg("serve").arg(&config);
    listening("docker-registry", command, folder, address, upstream).await
}

/// Looks where `cargo install --root target/peers` puts it, then in `PATH`.
fn nora() -> Option<PathBuf> {
    let installed = build::repository().join("target/peers/bin/nora");
    Some(installed)
        .filter(|path| path.exists())
        .or_else(|| find("nora"))
}

async fn start_nora(program: &Path, upstream: &CountingRegistry) -> System {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let address = free_address();
    let mut command = Command::new(program);
    command
        .current_dir(folder.path())
        .env("NORA_HOST", address.ip().to_string())
        .env("NORA_PORT", address.port().to_string())
        .env("NORA_STORAGE_PATH", folder.path().join("storage"))
        .env("NORA_DOCKER_PROXIES", upstream.url())
        .env("NORA_RATE_LIMIT_ENABLED", "false")
        .env("RUST_LOG", "error");
    listening("NORA", command, folder, address, upstream).await
}

async fn listening(
    name: &str,
    mut command: Command,
    folder: tempfile::TempDir,
    address: std::net::SocketAddr,
    upstream: &CountingRegistry,
) -> System {
    let mut process = Process::spawn(&mut command, folder);
    process
        .wait_for(name, |_| std::net::TcpStream::connect(address).ok())
        .await;
    System::of_process(name, address, process, upstream)
}

async fn requests(peers: &Peers, scale: &Scale) {
    static FRESH: AtomicU64 = AtomicU64::new(0);
    let timed = |status, path: Arc<dyn Fn(u64) -> String + Send + Sync>| Load {
        connections: scale.connections,
        until: Until::Time(scale.round),
        path,
        status,
    };
    let load = || vec![warm(scale.connections, Until::Time(scale.round))];
    show(peers.of_manifests(), scale, "warm tag", load).await;
    let load = || {
        let path = by_digest();
        vec![timed(StatusCode::OK, Arc::new(move |_| path.clone()))]
    };
    show(peers.of_manifests(), scale, "warm digest", load).await;
    let fresh = |_| repository(&format!("cold-{}", FRESH.fetch_add(1, Ordering::Relaxed)));
    let load = || vec![timed(StatusCode::OK, Arc::new(fresh))];
    show(peers.of_manifests(), scale, "cold tag", load).await;
    let load = || {
        let path: Arc<dyn Fn(u64) -> String + Send + Sync> = Arc::new(|_| SIGNED.to_owned());
        vec![timed(StatusCode::TEMPORARY_REDIRECT, path)]
    };
    let redirecting = &peers.systems[..peers.redirecting];
    show(redirecting, scale, "blob redirect", load).await;
}

async fn show(systems: &[System], scale: &Scale, name: &str, loads: impl Fn() -> Vec<Load>) {
    for measurements in compare(systems, scale, &[name], loads).await {
        measurements.print();
    }
}

/// A blob to one client, which caches have after the first time.
async fn stream(peers: &Peers, scale: &Scale) {
    let zeros = vec![0; usize::try_from(scale.blob).expect("a length")];
    let path = format!("/v2/bench/blob/blobs/{}", digest(&zeros));
    drop(zeros);
    let is_streaming = |system: &&System| system.name != CACHING;
    let systems: Vec<&System> = peers.systems.iter().filter(is_streaming).collect();
    let mut streamed: Vec<Vec<blob::Streamed>> = systems.iter().map(|_| Vec::new()).collect();
    let rounds = scale.rounds as usize;
    // The first round fills the caches.
    for round in 0..=rounds {
        eprint!("\rblob: round {round} of {rounds}");
        for turn in 0..systems.len() {
            let at = position(turn, round, systems.len());
            streamed[at].push(blob::stream(systems[at], &path, scale.blob).await);
        }
    }
    eprintln!();
    let what = format!("blob of {} MiB, streamed", scale.blob / MIB);
    let mut table = Table::new(&[&what, "first MB/s", "MB/s", "cpu ms", "growth MiB"]);
    for (system, streamed) in systems.iter().zip(&streamed) {
        let later = streamed.iter().skip(1);
        let cpu = later.clone().map(|one| one.cpu.as_secs_f64() * 1e3);
        let growth = streamed.iter().map(|one| one.growth).fold(0.0, f64::max);
        table.row(vec![
            system.name.clone(),
            format!("{:.0}", streamed[0].rate / 1e6),
            format!("{:.0}", median(later.map(|one| one.rate).collect()) / 1e6),
            format!("{:.0}", median(cpu.collect())),
            format!("{:.0}", growth / MIB as f64),
        ]);
    }
    table.print();
}
