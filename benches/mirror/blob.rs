//! A large blob, streamed to one client: throughput, and growth of the host's memory.

use crate::arguments::Scale;
use crate::load::{Connection, Until};
use crate::measurements::{median, position, warm};
use crate::systems::{DIRECT, FORWARDER, MIRROR, System};
use crate::table::Table;
use crate::targets::Targets;
use hyper::StatusCode;
use std::time::{Duration, Instant};
use test_support::counting_registry::BLOB;

pub const MIB: f64 = 1048576.0;

pub struct Streamed {
    /// Bytes per second.
    pub rate: f64,
    /// Bytes.
    pub growth: f64,
    pub cpu: Duration,
}

pub async fn measure(systems: &[System], scale: &Scale, targets: &mut Targets) {
    let what = format!("blob of {} MiB", scale.blob / (1024 * 1024));
    let mut streamed: Vec<Vec<Streamed>> = systems.iter().map(|_| Vec::new()).collect();
    for round in 0..scale.rounds as usize {
        eprint!("\r{what}: round {} of {}", round + 1, scale.rounds);
        for turn in 0..systems.len() {
            let at = position(turn, round, systems.len());
            streamed[at].push(stream(&systems[at], BLOB, scale.blob).await);
        }
    }
    eprintln!();

    let of = |name: &str| {
        systems
            .iter()
            .position(|system| system.name == name)
            .expect("a system")
    };
    let ratio = |one: usize, other: usize| {
        let pairs = streamed[one].iter().zip(&streamed[other]);
        median(pairs.map(|(one, other)| one.rate / other.rate).collect())
    };
    let growth = |at: usize| {
        streamed[at]
            .iter()
            .map(|streamed| streamed.growth)
            .fold(0.0, f64::max)
            / MIB
    };
    let mut table = Table::new(&[
        &what,
        "MB/s",
        "x forwarder",
        "x direct",
        "cpu s",
        "growth MiB",
    ]);
    for (at, system) in systems.iter().enumerate() {
        let unless_direct = |text: String| {
            if system.name == DIRECT {
                "-".to_owned()
            } else {
                text
            }
        };
        let median_of =
            |value: fn(&Streamed) -> f64| median(streamed[at].iter().map(value).collect());
        table.row(vec![
            system.name.clone(),
            format!("{:.0}", median_of(|streamed| streamed.rate) / 1e6),
            format!("{:.2}", ratio(at, of(FORWARDER))),
            format!("{:.2}", ratio(at, of(DIRECT))),
            unless_direct(format!(
                "{:.2}",
                median_of(|streamed| streamed.cpu.as_secs_f64())
            )),
            unless_direct(format!("{:.1}", growth(at))),
        ]);
    }
    table.print();
    let mirror = of(MIRROR);
    targets.at_least(
        "blob, bytes/s against direct",
        0.90,
        ratio(mirror, of(DIRECT)),
        "",
    );
    targets.at_most(
        "blob, growth of the host's memory",
        scale.growth,
        growth(mirror),
        "MiB",
    );
}

pub async fn stream(system: &System, path: &str, size: u64) -> Streamed {
    // Starts the instance and opens the upstream connection.
    warm(1, Until::Requests(50)).run(system.address).await;
    let tree = system.tree();
    let (cpu, resident) = (tree.cpu(), tree.resident());
    let watch = tree.watch();
    let mut connection = Connection::open(system.address).await;
    let start = Instant::now();
    let bytes = connection.get(path, StatusCode::OK).await;
    let took = start.elapsed();
    assert_eq!(bytes, size, "the blob is complete");
    Streamed {
        rate: bytes as f64 / took.as_secs_f64(),
        growth: watch.peak().await.saturating_sub(resident) as f64,
        cpu: tree.cpu() - cpu,
    }
}
