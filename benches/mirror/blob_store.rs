//! Blobs with an object store: a kept one, to which clients are sent, and how much longer the first
//! request for one takes that the store does not have.

use crate::arguments::{Arguments, Scale};
use crate::load::{Connection, Load, Until};
use crate::measurements::{compare, median};
use crate::systems::{CACHING, DIRECT, FORWARDER, STORE, System};
use crate::targets::Targets;
use hyper::StatusCode;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use test_support::ca::Ca;
use test_support::counting_registry::CountingRegistry;
use test_support::image::{Image, OCI};
use test_support::s3::{REGION, S3};

const KEPT: &str = "bench/kept";
/// How long the store takes for a response while misses are measured.
const DELAY: Duration = Duration::from_millis(20);
/// Requests of one measurement of misses.
const MISSES: u64 = 50;
/// How long a copy may take.
const COPY_TIMEOUT: Duration = Duration::from_secs(20);

/// Numbers of blobs that were not requested before.
static FRESH: AtomicU64 = AtomicU64::new(0);

/// Measures a mirror with a store beside the upstream itself, the forwarder and the mirror without
/// one.
pub async fn measure(
    arguments: &Arguments,
    upstreams: [&CountingRegistry; 2],
    ca: Option<&Ca>,
    systems: &[System],
    scale: &Scale,
    targets: &mut Targets,
) {
    let store = S3::start().await;
    let variables = [
        format!("blob_store={}", store.url()),
        format!("blob_store_region={REGION}"),
    ];
    let mirror = System::start_with_store(arguments, upstreams[1], ca, "on", &variables).await;
    let is_measured = |system: &&System| [DIRECT, FORWARDER, CACHING].contains(&&*system.name);
    let mut systems: Vec<_> = systems.iter().filter(is_measured).collect();
    systems.push(&mirror);
    kept(&systems, upstreams, &store, scale, targets).await;
    misses(&systems, &store, scale, targets).await;
}

/// A blob that the store has.
async fn kept(
    systems: &[&System],
    upstreams: [&CountingRegistry; 2],
    store: &S3,
    scale: &Scale,
    targets: &mut Targets,
) {
    let image = Image::new(OCI, KEPT);
    for upstream in upstreams {
        upstream.push(KEPT, image.clone());
    }
    let path = format!("/v2/{KEPT}/blobs/{}", image.native().layers[0].digest);
    let mirror = systems.last().expect("the mirror with the store");
    let mut client = Connection::open(mirror.address).await;
    client.get(&path, StatusCode::TEMPORARY_REDIRECT).await;
    let start = Instant::now();
    while store.objects().is_empty() {
        assert!(start.elapsed() < COPY_TIMEOUT, "the blob is not copied");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let load = || {
        let path = path.clone();
        vec![Load {
            connections: scale.connections,
            until: Until::Time(scale.round),
            path: Arc::new(move |_| path.clone()),
            status: StatusCode::TEMPORARY_REDIRECT,
        }]
    };
    let measurements = compare(systems, scale, &["kept blob"], load)
        .await
        .remove(0);
    measurements.print();
    let rate = measurements.ratio(STORE, FORWARDER, |one| one.rate);
    targets.at_least("kept blob, req/s against the forwarder", 1.3, rate, "");
}

/// Blobs that the store does not have, one after the other: until the response begins.
async fn misses(systems: &[&System], store: &S3, scale: &Scale, targets: &mut Targets) {
    store.delay(DELAY);
    let load = || {
        vec![Load {
            connections: 1,
            until: Until::Requests(MISSES),
            path: Arc::new(|_| {
                let number = FRESH.fetch_add(1, Ordering::Relaxed);
                format!("/v2/bench/signed/blobs/sha256:{number:064x}")
            }),
            status: StatusCode::TEMPORARY_REDIRECT,
        }]
    };
    let what = format!("blob that is not kept, store {} ms away", DELAY.as_millis());
    let measurements = compare(systems, scale, &[&what], load).await.remove(0);
    measurements.print();
    let p50 = |name| measurements.median(name, |one| one.p50.as_secs_f64());
    let round_trip = round_trip(store.address()).await;
    targets.at_most(
        "blob that is not kept, time more with a store",
        1.15,
        (p50(STORE) - p50(CACHING)) / round_trip,
        "round trips",
    );
    store.delay(Duration::ZERO);
}

/// Measures how long the store takes for a response, in seconds.
async fn round_trip(store: SocketAddr) -> f64 {
    let mut client = Connection::open(store).await;
    let mut times = Vec::new();
    for _ in 0..MISSES {
        let start = Instant::now();
        client.exchange("HEAD", "/").await;
        times.push(start.elapsed().as_secs_f64());
    }
    median(times)
}
