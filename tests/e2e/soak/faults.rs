//! Many clients, for a while, with a registry of which every twentieth response is a fault: each
//! response is complete and correct or an error, and the mirror works as before at the end.
//!
//! `HAMMAL_SOAK_SECONDS=600 cargo test --test e2e soak::faults -- --nocapture` is a long run; the default
//! is 5 seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Counters, Fixture, IMAGES, client, manifest, name};
use crate::support::mirror::{Mirror, Options};
use test_support::hub::Service;
use test_support::image::{OCI, digest};
use test_support::server::{ReceivedRequest, Reply, ScriptedBody};

/// One response in so many is a fault.
const FAULTS: u64 = 20;
/// The time between two pulls of one client.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes by which resident memory may grow beyond that of the first third of the time.
const GROWTH: u64 = 64 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_get_correct_content_or_errors_while_upstreams_fail() {
    let seconds = std::env::var("HAMMAL_SOAK_SECONDS")
        .map_or(5, |text| text.parse().expect("a number of seconds"));
    let fixture = Arc::new(Fixture::new().await);
    let mut mirrors = Vec::new();
    for delivery in ["redirect", "stream"] {
        let options = Options::default()
            .upstream(fixture.hub.address())
            .plain_http(fixture.hub.addresses());
        let options = options
            .variable("blob_delivery", delivery)
            .variable("tag_ttl", 1);
        mirrors.push(Arc::new(
            options.variable("first_byte_timeout", 1).start().await,
        ));
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let counters = Arc::clone(&fixture.counters);
    fixture
        .hub
        .script(move |service, received| fault(&counters, service, received));
    let mut clients = fixture.spawn_clients(&mirrors, PAUSE, end);
    let resident = watch(&fixture, &mirrors, end).await;
    while let Some(client) = clients.join_next().await {
        client.expect("a client without failures");
    }

    fixture.hub.script(|_, _| None);
    for mirror in &mirrors {
        for number in 0..IMAGES {
            fixture.pull(mirror, client(0), number).await;
        }
        // The mirror makes no requests for 20 seconds to a registry that failed, and serves the old
        // tag until then.
        let moved = fixture.images[IMAGES - 1].index.digest.clone();
        fixture
            .hub
            .push(&name(IMAGES - 1), "latest", &fixture.images[IMAGES - 1]);
        let start = Instant::now();
        loop {
            let response = mirror
                .get_manifest(&manifest(IMAGES - 1, "latest"))
                .await
                .expect(200);
            if digest(&response.body) == moved {
                break;
            }
            assert!(
                start.elapsed() < Duration::from_secs(40),
                "the tag was not served as {moved}: {response:?}"
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let ended: Vec<_> = mirror
            .stderr()
            .into_iter()
            .filter(|line| line.contains("instance of the"))
            .collect();
        assert!(ended.is_empty(), "{ended:?}");
    }
    fixture.counters.print(seconds);
    for (mirror, resident) in mirrors.iter().zip(resident) {
        let third = resident.len() / 3;
        let most = |samples: &[u64]| samples.iter().copied().max().unwrap_or_default();
        let (first, last) = (most(&resident[..third]), most(&resident[third..]));
        println!(
            "soak: {} MiB resident in the first third, {} after it",
            first >> 20,
            last >> 20
        );
        assert!(
            last < first + GROWTH,
            "memory of {} grew from {first} to {last} bytes",
            mirror.address()
        );
    }
}

/// Samples the memory of each mirror, reports progress and moves the tag, until the end.
async fn watch(fixture: &Fixture, mirrors: &[Arc<Mirror>], end: Instant) -> Vec<Vec<u64>> {
    let mut resident = vec![Vec::new(); mirrors.len()];
    let start = Instant::now();
    for turn in 0_usize.. {
        if Instant::now() > end {
            break;
        }
        let image = &fixture.images[IMAGES - 1 - turn % 2];
        fixture.hub.push(&name(IMAGES - 1), "latest", image);
        for (mirror, resident) in mirrors.iter().zip(&mut resident) {
            resident.push(mirror.resident());
        }
        // The record of requests would grow without limit.
        fixture.hub.take_requests();
        if turn % 20 == 19 {
            fixture.counters.print(start.elapsed().as_secs());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    resident
}

/// The faults of the registry, its token server and its CDN.
fn fault(counters: &Counters, service: Service, received: &ReceivedRequest) -> Option<Reply> {
    static STATE: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
    // Marsaglia's xorshift: the same faults in each run, if not for the same requests.
    let scramble = |mut x: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^ (x << 17)
    };
    let random = scramble(
        STATE
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |x| Some(scramble(x)))
            .ok()?,
    );
    if !random.is_multiple_of(FAULTS) {
        return None;
    }
    counters.faults.fetch_add(1, Ordering::Relaxed);
    let half = ScriptedBody::default()
        .data("{\"schemaVersion\":2")
        .then_break();
    Some(match (random / FAULTS) % 10 {
        0 => Reply::new(500, &[], "no"),
        1 => Reply::new(503, &[("retry-after", "1")], "later"),
        2 => Reply::new(429, &[("retry-after", "1")], "too many"),
        3 => Reply::Close,
        4 => Reply::Hang,
        // To a `HEAD` this would be a length that no check can find wrong.
        5 | 6 if received.method == "HEAD" => Reply::Close,
        5 => Reply::streamed(
            200,
            &[("content-type", OCI.index), ("content-length", "5000")],
            half,
        ),
        6 => Reply::new(200, &[("content-type", OCI.index)], "{\"of\":\"another\"}"),
        7 => Reply::new(200, &[("content-type", "text/html")], "<html>log in</html>"),
        8 if service == Service::Registry => Reply::new(401, &[], ""),
        8 => Reply::new(403, &[], ""),
        _ => Reply::new(302, &[("location", &*received.target)], ""),
    })
}
