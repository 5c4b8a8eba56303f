//! A hundred clients pull one image of ten layers at the same time, as containerd does, each with
//! three downloads at once: the time to the last of them, and what it costs the upstream.

use crate::arguments::Scale;
use crate::load::{Connection, Head};
use crate::measurements::median;
use crate::systems::System;
use crate::table::Table;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use test_support::counting_registry::CountingRegistry;
use test_support::image::{Image, OCI};
use tokio::task::JoinSet;

const CLIENTS: u8 = 100;
const LAYERS: usize = 10;
const DOWNLOADS: usize = 3;
/// How long the upstream takes for a response: one in another city.
const DELAY: Duration = Duration::from_millis(50);
/// A client that has not got its image by then counts as failed.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The mirror writes to its store after the response.
const WRITE_DELAY: Duration = Duration::from_millis(500);

/// One storm on one system.
struct Storm {
    /// Seconds to the last client.
    took: f64,
    upstream: f64,
    tokens: f64,
    cpu: f64,
    /// Bytes.
    peak: f64,
    /// Clients that did not get all of it.
    failed: usize,
}

pub async fn measure(systems: &[System], upstreams: &[&CountingRegistry], scale: &Scale) {
    for upstream in upstreams {
        upstream.delay(DELAY);
    }
    let what = format!(
        "{CLIENTS} clients, {LAYERS} layers, upstream {} ms away",
        DELAY.as_millis()
    );
    let mut table = Table::new(&[
        &what, "cold s", "upstream", "tokens", "cpu s", "warm s", "upstream", "tokens", "cpu s",
        "peak MiB", "failed",
    ]);
    for system in systems {
        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        for round in 0..scale.rounds {
            eprintln!(
                "storm: {}, round {} of {}",
                system.name,
                round + 1,
                scale.rounds
            );
            let name = format!("bench/storm-{round}");
            let image = Image::with_layers(OCI, &name, LAYERS);
            for upstream in upstreams {
                upstream.push(&name, image.clone());
            }
            let image = Arc::new(image);
            cold.push(storm(system, &name, &image, 1).await);
            tokio::time::sleep(WRITE_DELAY).await;
            warm.push(storm(system, &name, &image, 2).await);
        }
        let mut cells = vec![system.name.clone()];
        for storms in [&cold, &warm] {
            let of = |value: fn(&Storm) -> f64| median(storms.iter().map(value).collect());
            cells.extend([
                format!("{:.2}", of(|storm| storm.took)),
                format!("{:.0}", of(|storm| storm.upstream)),
                format!("{:.0}", of(|storm| storm.tokens)),
                format!("{:.2}", of(|storm| storm.cpu)),
            ]);
        }
        let peak = cold
            .iter()
            .chain(&warm)
            .map(|storm| storm.peak)
            .fold(0.0, f64::max);
        cells.push(format!("{:.0}", peak / 1048576.0));
        let failed = cold.iter().chain(&warm).map(|storm| storm.failed);
        cells.push(failed.sum::<usize>().to_string());
        table.row(cells);
    }
    table.print();
    for upstream in upstreams {
        upstream.delay(Duration::ZERO);
    }
}

async fn storm(system: &System, name: &str, image: &Arc<Image>, network: u8) -> Storm {
    let tree = system.tree();
    let watch = tree.watch();
    let before = system.counters(&tree);
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for number in 1..=CLIENTS {
        let source = Ipv4Addr::new(127, 0, network, number);
        clients.spawn(pull(
            source,
            system.address,
            name.to_owned(),
            Arc::clone(image),
        ));
    }
    let mut failed = 0;
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while let Ok(Some(pulled)) = tokio::time::timeout_at(deadline, clients.join_next()).await {
        failed += usize::from(!pulled.unwrap_or_default());
    }
    failed += clients.len();
    let took = start.elapsed().as_secs_f64();
    let after = system.counters(&tree);
    Storm {
        took,
        upstream: (after.requests - before.requests) as f64,
        tokens: (after.tokens - before.tokens) as f64,
        cpu: (after.cpu - before.cpu).as_secs_f64(),
        peak: watch.peak().await as f64,
        failed,
    }
}

/// Returns whether the client got all of the image.
async fn pull(source: Ipv4Addr, target: SocketAddr, name: String, image: Arc<Image>) -> bool {
    let path = |resource: &str, reference: &str| format!("/v2/{name}/{resource}/{reference}");
    let platform = image.native();
    let mut connection = Connection::open_from(source, target).await;
    let manifests = [
        ("HEAD", "latest", 0),
        ("GET", &*image.index.digest, image.index.bytes.len()),
        (
            "GET",
            &*platform.manifest.digest,
            platform.manifest.bytes.len(),
        ),
    ];
    for (method, reference, length) in manifests {
        let head = connection
            .exchange(method, &path("manifests", reference))
            .await;
        if (head.status, head.body) != (200, length as u64) {
            return false;
        }
    }
    let blobs: Vec<_> = platform
        .blobs()
        .map(|blob| (path("blobs", &blob.digest), blob.bytes.len() as u64))
        .collect();
    let mut downloads = JoinSet::new();
    for part in blobs.chunks(blobs.len().div_ceil(DOWNLOADS)) {
        let part = part.to_vec();
        downloads.spawn(async move {
            let mut connection = Connection::open_from(source, target).await;
            let mut cdn = None;
            for (path, length) in part {
                let head = connection.exchange("GET", &path).await;
                let head = follow(source, head, &mut cdn).await;
                if (head.status, head.body) != (200, length) {
                    return false;
                }
            }
            true
        });
    }
    let mut is_complete = true;
    while let Some(downloaded) = downloads.join_next().await {
        is_complete &= downloaded.unwrap_or_default();
    }
    is_complete
}

/// Follows a redirect to the CDN, on a connection that the next ones use too.
async fn follow(source: Ipv4Addr, head: Head, cdn: &mut Option<Connection>) -> Head {
    if head.status != 307 {
        return head;
    }
    let location = head.location.expect("a location");
    let (host, path) = location
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .expect("a URL of the upstream's CDN");
    let host = host.parse().expect("an address");
    let connection = match cdn {
        Some(connection) => connection,
        None => cdn.insert(Connection::open_from(source, host).await),
    };
    connection.exchange("GET", &format!("/{path}")).await
}
