//! What load leaves behind: upstream requests, tokens, keys in the store, slower responses; and cached
//! responses while the upstream is down.

use crate::arguments::Scale;
use crate::load::{Load, Until};
use crate::measurements::{Measurement, measure_one, median, warm};
use crate::systems::{CACHING, MIRROR, System};
use crate::table::{Table, milliseconds};
use crate::targets::Targets;
use hyper::StatusCode;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use test_support::counting_registry::{CountingRegistry, missing};

/// The mirror may write to its store after the response.
const WRITE_DELAY: Duration = Duration::from_secs(2);

pub async fn steady(systems: &[System], scale: &Scale, targets: &mut Targets) {
    let mut table = Table::new(&["warm requests", "requests", "upstream/req", "tokens/req"]);
    for system in systems.iter().filter(|system| system.is_mirror) {
        eprintln!("steady: {} warm requests of {}", scale.steady, system.name);
        let measurement = measure_one(
            system,
            &warm(scale.connections, Until::Requests(scale.steady)),
        )
        .await;
        let upstream = measurement.upstream as f64 / measurement.requests as f64;
        let tokens = measurement.tokens as f64 / measurement.requests as f64;
        table.row(vec![
            system.name.clone(),
            measurement.requests.to_string(),
            format!("{upstream:.4}"),
            format!("{tokens:.4}"),
        ]);
        if system.name == MIRROR {
            targets.at_most("upstream requests per warm request", 1.0, upstream, "");
            targets.at_most("tokens per warm request", 0.001, tokens, "");
        }
    }
    table.print();
}

pub async fn names(systems: &[System], scale: &Scale, targets: &mut Targets) {
    let mut table = Table::new(&[
        "missing repositories",
        "names",
        "req/s",
        "upstream/req",
        "tokens/req",
        "keys",
        "longest key",
        "largest value",
        "p50 before",
        "p50 after",
        "ratio",
        "peak MiB",
    ]);
    for system in systems.iter().filter(|system| system.is_mirror) {
        eprintln!(
            "names: {} missing repositories for {}",
            scale.names, system.name
        );
        let before = p50(system, scale).await;
        let load = Load {
            connections: scale.connections,
            until: Until::Requests(scale.names),
            path: Arc::new(missing),
            status: StatusCode::NOT_FOUND,
        };
        let measurement = measure_one(system, &load).await;
        tokio::time::sleep(WRITE_DELAY).await;
        let after = p50(system, scale).await;
        let store = StoreStatistics::read(&system.store().expect("the store of a mirror"));
        table.row(row(&system.name, &measurement, &store, before, after));
        if system.name == CACHING {
            targets.at_most(
                "keys after missing repositories",
                1000.0,
                store.keys as f64,
                "",
            );
        }
        if system.name == MIRROR {
            targets.at_most(
                "warm p50 after missing repositories, against before",
                1.1,
                after / before,
                "",
            );
        }
    }
    table.print();
}

/// A cached tag while the upstream is down. It must be the last case.
pub async fn outage(
    systems: &[System],
    upstream: &CountingRegistry,
    scale: &Scale,
    targets: &mut Targets,
) {
    let mut table = Table::new(&["upstream off", "req/s", "p50 ms", "p99 ms"]);
    let caching: Vec<_> = systems
        .iter()
        .filter(|system| system.name == CACHING)
        .collect();
    let load = warm(scale.connections, Until::Time(scale.round));
    for system in &caching {
        load.run(system.address).await;
    }
    tokio::time::sleep(WRITE_DELAY).await;
    upstream.stop();
    for system in caching {
        eprintln!("outage: {}", system.name);
        let result = load.run(system.address).await;
        let (p50, p99) = (
            result.latency(0.50).as_secs_f64(),
            result.latency(0.99).as_secs_f64(),
        );
        table.row(vec![
            system.name.clone(),
            format!("{:.0}", result.rate()),
            milliseconds(p50),
            milliseconds(p99),
        ]);
        targets.at_most("known tag with the upstream off, p50", 5.0, p50 * 1e3, "ms");
    }
    table.print();
}

fn row(
    name: &str,
    measurement: &Measurement,
    store: &StoreStatistics,
    before: f64,
    after: f64,
) -> Vec<String> {
    vec![
        name.to_owned(),
        measurement.requests.to_string(),
        format!("{:.0}", measurement.rate),
        format!(
            "{:.3}",
            measurement.upstream as f64 / measurement.requests as f64
        ),
        format!(
            "{:.3}",
            measurement.tokens as f64 / measurement.requests as f64
        ),
        store.keys.to_string(),
        store.longest_key.to_string(),
        store.largest_value.to_string(),
        milliseconds(before),
        milliseconds(after),
        format!("{:.2}", after / before),
        format!("{:.0}", measurement.peak as f64 / 1048576.0),
    ]
}

/// The median latency of warm requests, in seconds.
async fn p50(system: &System, scale: &Scale) -> f64 {
    let load = warm(scale.connections, Until::Time(scale.round / 2));
    let mut rounds = Vec::new();
    for _ in 0..scale.rounds {
        rounds.push(measure_one(system, &load).await.p50.as_secs_f64());
    }
    median(rounds)
}

/// Statistics of a key-value store file.
struct StoreStatistics {
    keys: u64,
    /// Bytes.
    longest_key: u64,
    largest_value: u64,
}

impl StoreStatistics {
    fn read(file: &Path) -> Self {
        let count = "SELECT count(*), coalesce(max(length(key)), 0), coalesce(max(length(value)), 0) FROM spin_key_value";
        let store = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY);
        let store = store.and_then(|store| {
            store.query_row(count, [], |row| {
                Ok(Self {
                    keys: row.get(0)?,
                    longest_key: row.get(1)?,
                    largest_value: row.get(2)?,
                })
            })
        });
        store.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }
}
