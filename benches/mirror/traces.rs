//! What traffic leaves behind: requests upstream, tokens, keys in the store, slower answers
//! afterwards.

use crate::arguments::Scale;
use crate::contestants::{CACHING, Contestant, MIRROR};
use crate::load::{Load, Until};
use crate::rounds::{Turn, median, turn_of, warm};
use crate::table::{Table, milliseconds};
use crate::targets::Targets;
use hyper::StatusCode;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use test_support::counting_registry::{CountingRegistry, missing};

/// Writes may come after the answer.
const SETTLE: Duration = Duration::from_secs(2);

pub async fn steady(contestants: &[Contestant], scale: &Scale, targets: &mut Targets) {
    let mut table = Table::new(&["warm requests", "requests", "upstream/req", "tokens/req"]);
    for contestant in contestants
        .iter()
        .filter(|contestant| contestant.is_a_mirror)
    {
        eprintln!(
            "steady: {} warm requests of {}",
            scale.steady, contestant.name
        );
        let turn = turn_of(
            contestant,
            &warm(scale.connections, Until::Requests(scale.steady)),
        )
        .await;
        let upstream = turn.upstream as f64 / turn.requests as f64;
        let tokens = turn.tokens as f64 / turn.requests as f64;
        table.row(vec![
            contestant.name.clone(),
            turn.requests.to_string(),
            format!("{upstream:.4}"),
            format!("{tokens:.4}"),
        ]);
        if contestant.name == MIRROR {
            targets.at_most("upstream requests per warm request", 1.0, upstream, "");
            targets.at_most("tokens per warm request", 0.001, tokens, "");
        }
    }
    table.print();
}

pub async fn names(contestants: &[Contestant], scale: &Scale, targets: &mut Targets) {
    let mut table = Table::new(&[
        "invented names",
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
    for contestant in contestants
        .iter()
        .filter(|contestant| contestant.is_a_mirror)
    {
        eprintln!("names: {} of them for {}", scale.names, contestant.name);
        let before = p50(contestant, scale).await;
        let load = Load {
            connections: scale.connections,
            until: Until::Requests(scale.names),
            path: Arc::new(missing),
            status: StatusCode::NOT_FOUND,
        };
        let turn = turn_of(contestant, &load).await;
        tokio::time::sleep(SETTLE).await;
        let after = p50(contestant, scale).await;
        let kept = Kept::read(&contestant.state().expect("a mirror's state"));
        table.row(row(&contestant.name, &turn, &kept, before, after));
        if contestant.name == CACHING {
            targets.at_most("keys after invented names", 1000.0, kept.keys as f64, "");
        }
        if contestant.name == MIRROR {
            targets.at_most(
                "warm p50 after invented names, against before",
                1.1,
                after / before,
                "",
            );
        }
    }
    table.print();
}

/// A tag that is known, while nobody answers upstream. Nothing can be measured after it.
pub async fn outage(
    contestants: &[Contestant],
    upstream: &CountingRegistry,
    scale: &Scale,
    targets: &mut Targets,
) {
    let mut table = Table::new(&["upstream off", "req/s", "p50 ms", "p99 ms"]);
    let caching: Vec<_> = contestants
        .iter()
        .filter(|contestant| contestant.name == CACHING)
        .collect();
    let load = warm(scale.connections, Until::Time(scale.round));
    for contestant in &caching {
        load.run(contestant.address).await;
    }
    tokio::time::sleep(SETTLE).await;
    upstream.stop();
    for contestant in caching {
        eprintln!("outage: {}", contestant.name);
        let outcome = load.run(contestant.address).await;
        let (p50, p99) = (
            outcome.latency(0.50).as_secs_f64(),
            outcome.latency(0.99).as_secs_f64(),
        );
        table.row(vec![
            contestant.name.clone(),
            format!("{:.0}", outcome.rate()),
            milliseconds(p50),
            milliseconds(p99),
        ]);
        targets.at_most("known tag with the upstream off, p50", 5.0, p50 * 1e3, "ms");
    }
    table.print();
}

fn row(name: &str, turn: &Turn, kept: &Kept, before: f64, after: f64) -> Vec<String> {
    vec![
        name.to_owned(),
        turn.requests.to_string(),
        format!("{:.0}", turn.rate),
        format!("{:.3}", turn.upstream as f64 / turn.requests as f64),
        format!("{:.3}", turn.tokens as f64 / turn.requests as f64),
        kept.keys.to_string(),
        kept.longest_key.to_string(),
        kept.largest_value.to_string(),
        milliseconds(before),
        milliseconds(after),
        format!("{:.2}", after / before),
        format!("{:.0}", turn.peak as f64 / 1048576.0),
    ]
}

/// Of warm requests, in seconds.
async fn p50(contestant: &Contestant, scale: &Scale) -> f64 {
    let load = warm(scale.connections, Until::Time(scale.round / 2));
    let mut rounds = Vec::new();
    for _ in 0..scale.rounds {
        rounds.push(turn_of(contestant, &load).await.p50.as_secs_f64());
    }
    median(rounds)
}

/// What is in a key-value store of Spin's.
struct Kept {
    keys: u64,
    /// Bytes.
    longest_key: u64,
    largest_value: u64,
}

impl Kept {
    fn read(file: &Path) -> Self {
        let count = "SELECT count(*), coalesce(max(length(key)), 0), coalesce(max(length(value)), 0) FROM spin_key_value";
        let store = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY);
        let kept = store.and_then(|store| {
            store.query_row(count, [], |row| {
                Ok(Self {
                    keys: row.get(0)?,
                    longest_key: row.get(1)?,
                    largest_value: row.get(2)?,
                })
            })
        });
        kept.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }
}
