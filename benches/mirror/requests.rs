//! Cases of many small requests: rate, latency, upstream requests, CPU and memory.

use crate::arguments::{Case, Scale};
use crate::load::{Load, Until};
use crate::measurements::{compare, warm};
use crate::systems::{CACHING, FORWARDER, System};
use crate::targets::Targets;
use hyper::StatusCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use test_support::counting_registry::{PING, REDIRECT, SIGNED, by_digest, repository};

/// Numbers of repositories that were not requested before.
static FRESH: AtomicU64 = AtomicU64::new(0);

pub async fn measure(case: Case, systems: &[System], scale: &Scale, targets: &mut Targets) {
    let timed = |status, path: Arc<dyn Fn(u64) -> String + Send + Sync>| Load {
        connections: scale.connections,
        until: Until::Time(scale.round),
        path,
        status,
    };
    match case {
        Case::Warm => {
            let load = || vec![warm(scale.connections, Until::Time(scale.round))];
            let measurements = compare(systems, scale, &["warm manifest"], load)
                .await
                .remove(0);
            measurements.print();
            let rate = measurements.mirror_against_forwarder(|one| one.rate);
            targets.at_least(
                "warm manifest, req/s against the forwarder",
                scale.warm,
                rate,
                "",
            );
            let p99 = measurements.mirror_against_forwarder(|one| one.p99.as_secs_f64());
            targets.at_most("warm manifest, p99 against the forwarder", 1.25, p99, "");
        }
        Case::Cold => {
            let load = || {
                let fresh =
                    |_| repository(&format!("cold-{}", FRESH.fetch_add(1, Ordering::Relaxed)));
                vec![timed(StatusCode::OK, Arc::new(fresh))]
            };
            show(systems, scale, &["cold repository"], load).await;
        }
        Case::Redirect => {
            let load = || {
                vec![timed(
                    StatusCode::TEMPORARY_REDIRECT,
                    Arc::new(|_| REDIRECT.to_owned()),
                )]
            };
            show(systems, scale, &["blob redirect"], load).await;
        }
        Case::KnownRedirect => {
            let load = || {
                vec![timed(
                    StatusCode::TEMPORARY_REDIRECT,
                    Arc::new(|_| SIGNED.to_owned()),
                )]
            };
            let measurements = compare(systems, scale, &["known blob redirect"], load)
                .await
                .remove(0);
            measurements.print();
            let rate = measurements.ratio(CACHING, FORWARDER, |one| one.rate);
            targets.at_least(
                "known blob redirect, req/s against the forwarder",
                1.5,
                rate,
                "",
            );
        }
        Case::Digest => {
            let load = || {
                let path = by_digest();
                vec![timed(StatusCode::OK, Arc::new(move |_| path.clone()))]
            };
            let measurements = compare(systems, scale, &["manifest by digest"], load)
                .await
                .remove(0);
            measurements.print();
            let rate = measurements.ratio(CACHING, FORWARDER, |one| one.rate);
            targets.at_least(
                "manifest by digest, req/s against the forwarder",
                2.0,
                rate,
                "",
            );
        }
        Case::Memory => {
            let load = || vec![timed(StatusCode::OK, Arc::new(|_| PING.to_owned()))];
            show(systems, scale, &["/v2/ from memory"], load).await;
        }
        Case::Repositories => {
            let count = scale.repositories;
            let loads = || {
                let first = FRESH.fetch_add(count, Ordering::Relaxed);
                let load = Load {
                    connections: scale.connections,
                    until: Until::Requests(count),
                    path: Arc::new(move |number| {
                        repository(&format!("repository-{}", first + number % count))
                    }),
                    status: StatusCode::OK,
                };
                vec![load.clone(), load]
            };
            let names = [
                format!("{count} repositories, first time"),
                format!("{count} repositories, again"),
            ];
            show(systems, scale, &names.each_ref().map(String::as_str), loads).await;
        }
        Case::Blob
        | Case::BlobStore
        | Case::Tee
        | Case::Steady
        | Case::Names
        | Case::Instance
        | Case::Outage => {}
    }
}

async fn show(systems: &[System], scale: &Scale, names: &[&str], loads: impl Fn() -> Vec<Load>) {
    for measurements in compare(systems, scale, names, loads).await {
        measurements.print();
    }
}
