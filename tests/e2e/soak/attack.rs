//! Many clients, and one that means harm: all pulls of the others succeed at the first attempt, as
//! they do without it.
//!
//! `HAMMAL_SOAK_SECONDS=600 cargo test --test e2e soak::attack -- --nocapture` is a long run; it
//! prints how long the requests of the others took. In its first half the attacker is at another
//! mirror of the same machine: attacker, clients and registry take their part of the processors
//! then, too.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::{Fixture, IMAGES, client};
use crate::support::attacker::{connect, get, http2, http2_request, large_manifest, never};
use crate::support::mirror::{Mirror, Options, is_spin};
use crate::support::skip;
use test_support::hub::Service;

/// The time between two pulls of one client.
const PAUSE: Duration = Duration::from_millis(250);
/// Bytes by which memory may grow for the attacker.
const GROWTH: u64 = 256 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_attacker_harms_no_other_client() {
    if is_spin() {
        return skip("the limits are those of the embedded host");
    }
    let seconds = std::env::var("HAMMAL_SOAK_SECONDS")
        .map_or(8, |text| text.parse().expect("a number of seconds"));
    let half = Duration::from_secs(seconds) / 2;
    let fixture = Arc::new(Fixture::new().await);
    let start = async || {
        Options::default()
            .upstream(fixture.hub.address())
            .plain_http(fixture.hub.addresses())
            .start()
            .await
    };
    let (mirror, other) = (Arc::new(start().await), start().await);
    let (open, most) = (Arc::default(), Arc::default());
    let sent_to_attacker = Arc::<AtomicUsize>::default();
    let sent = Arc::clone(&sent_to_attacker);
    fixture.hub.script(move |service, received| {
        let is_slow = service == Service::Registry && received.target.contains("/slow/");
        if is_slow {
            return Some(never(&open, &most));
        }
        let large = large_manifest(received)?;
        sent.fetch_add(1, Ordering::Relaxed);
        Some(large)
    });
    // The first pulls fill the caches.
    for number in 0..IMAGES {
        fixture.pull(&mirror, client(0), number).await;
    }

    let mut elsewhere = attack(&other);
    let quiet = run_clients(&fixture, &mirror, half).await;
    elsewhere.shutdown().await;
    drop(other);
    let before = mirror.resident();
    sent_to_attacker.store(0, Ordering::Relaxed);
    let mut attacker = attack(&mirror);
    let attacked = run_clients(&fixture, &mirror, half).await;
    attacker.shutdown().await;
    let sent = sent_to_attacker.load(Ordering::Relaxed);
    println!("soak: another attacked: {quiet}");
    println!("soak: this one attacked: {attacked}; {sent} large manifests for the attacker");
    assert!(sent > 0, "the attacker was not at work");
    let last_failure = fixture.counters.last_failure.lock().expect("text");
    assert_eq!((quiet.failed, attacked.failed), (0, 0), "{last_failure}");
    let growth = attacked.resident.saturating_sub(before);
    assert!(growth < GROWTH, "{} MiB", growth >> 20);
}

/// What the clients saw.
struct Seen {
    requests: usize,
    failed: u64,
    median: Duration,
    p99: Duration,
    /// Bytes, the most.
    resident: u64,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Seen {
            requests,
            failed,
            median,
            p99,
            resident,
        } = self;
        let mebibytes = resident >> 20;
        write!(
            f,
            "{requests} requests, {failed} failed, p50 {median:.1?}, p99 {p99:.1?}, {mebibytes} MiB"
        )
    }
}

async fn run_clients(fixture: &Arc<Fixture>, mirror: &Arc<Mirror>, time: Duration) -> Seen {
    fixture
        .counters
        .durations
        .lock()
        .expect("durations")
        .clear();
    let failed = fixture.counters.failed.load(Ordering::Relaxed);
    let end = Instant::now() + time;
    let mut clients = fixture.spawn_clients(std::slice::from_ref(mirror), PAUSE, end);
    let mut resident = 0;
    while Instant::now() < end {
        resident = resident.max(mirror.resident());
        // The record of requests would grow without limit.
        fixture.hub.take_requests();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    while let Some(client) = clients.join_next().await {
        client.expect("a client without failures");
    }
    let mut durations = std::mem::take(&mut *fixture.counters.durations.lock().expect("durations"));
    durations.sort_unstable();
    Seen {
        requests: durations.len(),
        failed: fixture.counters.failed.load(Ordering::Relaxed) - failed,
        median: durations[durations.len() / 2],
        p99: durations[durations.len() * 99 / 100],
        resident,
    }
}

/// Starts to reset, stall, flood and invent names, all from one address, until it is aborted.
fn attack(mirror: &Mirror) -> JoinSet<()> {
    let address = mirror.address();
    let mut attacker = JoinSet::new();
    // Requests that are reset, over HTTP/2 and HTTP/1.1.
    attacker.spawn(async move {
        let mut sender = http2(address, 65_535).await;
        for number in 0_u64.. {
            let target = format!("/v2/team/slow/manifests/{number}");
            drop(get(address, &target).await);
            if sender.is_closed() {
                sender = http2(address, 65_535).await;
            }
            let response = sender.send_request(http2_request(&target));
            let _ = tokio::time::timeout(Duration::from_millis(2), response).await;
        }
    });
    // Large manifests that nobody reads.
    for connection in 0..4 {
        attacker.spawn(async move {
            for round in 0_u64.. {
                let mut sender = http2(address, 0).await;
                let mut unread = JoinSet::new();
                for tag in 0..60 {
                    let target = format!("/v2/team/large/manifests/{connection}-{round}-{tag}");
                    let response = sender.send_request(http2_request(&target));
                    unread.spawn(async move {
                        let response = response.await;
                        pending::<()>().await;
                        drop(response);
                    });
                }
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
    }
    // Requests that never end.
    attacker.spawn(async move {
        let mut open = Vec::new();
        loop {
            let mut stream = connect(address).await;
            // Above its share of connections the host has closed it.
            let _ = stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: mirror").await;
            open.push(stream);
            if open.len() > 300 {
                open.clear();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    // As many requests as it gets in, for repositories and registries that do not exist.
    for connection in 0..4 {
        attacker.spawn(async move {
            let mut sender = http2(address, 65_535).await;
            for number in 0_u64.. {
                let target = match number % 3 {
                    0 => format!("/v2/team/nothing-{connection}-{number}/manifests/latest"),
                    1 => format!("/v2/a/b/tags/list?upstream=r{connection}-{number}.invalid"),
                    _ => format!("/v2/{}/manifests/latest", super::name(0)),
                };
                if sender.is_closed() {
                    sender = http2(address, 65_535).await;
                }
                let response = sender.send_request(http2_request(&target));
                let _ = tokio::time::timeout(Duration::from_secs(1), response).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    attacker
}
