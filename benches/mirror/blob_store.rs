//! Blobs with an object store: a kept one, to which clients are sent, and how much longer the first
//! request for one takes that the store does not have.

use crate::arguments::{Arguments, Scale};
use crate::build::{self, repository};
use crate::load::{Connection, Load, Until};
use crate::measurements::{compare, median};
use crate::systems::{CACHING, Component, FORWARDER, System};
use crate::targets::Targets;
use hyper::StatusCode;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use test_support::ca::Ca;
use test_support::counting_registry::CountingRegistry;
use test_support::image::{Image, OCI};
use test_support::s3::{ACCESS_KEY, REGION, S3, SECRET_KEY};

const STORE: &str = "mirror+store";
const KEPT: &str = "bench/kept";
/// How long the store takes for a response while misses are measured.
const DELAY: Duration = Duration::from_millis(20);
/// Requests of one measurement of misses.
const MISSES: u64 = 50;
/// How long a copy may take.
const COPY_TIMEOUT: Duration = Duration::from_secs(20);

/// Numbers of blobs that were not requested before.
static FRESH: AtomicU64 = AtomicU64::new(0);

pub async fn measure(
    arguments: &Arguments,
    upstreams: [&CountingRegistry; 2],
    ca: Option<&Ca>,
    scale: &Scale,
    targets: &mut Targets,
) {
    let store = S3::start().await;
    let systems = start(arguments, upstreams, ca, &store).await;
    kept(&systems, upstreams, &store, scale, targets).await;
    misses(&systems, &store, scale, targets).await;
}

/// Starts the forwarder, and the mirror without the store and with it.
async fn start(
    arguments: &Arguments,
    [anonymous, authenticated]: [&CountingRegistry; 2],
    ca: Option<&Ca>,
    store: &S3,
) -> Vec<System> {
    let host = build::host(arguments);
    let component = |id| Component {
        host: &host,
        ca,
        id,
        metrics: false,
    };
    let forwarder = repository()
        .join("benches/forwarder")
        .join(arguments.manifest());
    let url = [format!("upstream={}", anonymous.url())];
    let start = component("forwarder");
    let forwarder = start.start(FORWARDER, &forwarder, &url, anonymous).await;
    let mut systems = vec![System::direct(anonymous), forwarder];
    let own = repository().join(arguments.manifest());
    let of_store = [
        format!("blob_store={}", store.url()),
        format!("blob_store_region={REGION}"),
        format!("blob_store_access_key={ACCESS_KEY}"),
        format!("blob_store_secret_key={SECRET_KEY}"),
    ];
    for (name, more) in [(CACHING, &[][..]), (STORE, &of_store)] {
        let mut variables = vec![
            format!("upstream={}", authenticated.url()),
            format!("plain_http_upstreams={}", authenticated.address),
        ];
        variables.extend_from_slice(more);
        let start = component("hammal");
        systems.push(start.start(name, &own, &variables, authenticated).await);
    }
    systems
}

/// A blob that the store has.
async fn kept(
    systems: &[System],
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
async fn misses(systems: &[System], store: &S3, scale: &Scale, targets: &mut Targets) {
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
