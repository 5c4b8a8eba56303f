//! The first response of a new instance, compared with the second.

use crate::arguments::Scale;
use crate::load::{Connection, Until};
use crate::measurements::{median, position, warm};
use crate::systems::{MIRROR, System};
use crate::table::{Table, milliseconds};
use crate::targets::Targets;
use hyper::StatusCode;
use std::time::{Duration, Instant};
use test_support::counting_registry::WARM;

/// Hosts drop an instance that was idle for a second.
const IDLE: Duration = Duration::from_millis(1400);

pub async fn measure(systems: &[System], scale: &Scale, targets: &mut Targets) {
    let mut connections = Vec::new();
    for system in systems {
        warm(scale.connections, Until::Requests(200))
            .run(system.address)
            .await;
        connections.push(Connection::open(system.address).await);
    }
    let mut measured: Vec<Vec<(f64, f64)>> = systems.iter().map(|_| Vec::new()).collect();
    for round in 0..scale.instances {
        eprint!("\rnew instance: {} of {}", round + 1, scale.instances);
        tokio::time::sleep(IDLE).await;
        for turn in 0..systems.len() {
            let at = position(turn, round, systems.len());
            let first = timed(&mut connections[at]).await;
            let second = timed(&mut connections[at]).await;
            measured[at].push((first, second));
        }
    }
    eprintln!();

    let mut table = Table::new(&["after 1.4 s idle", "first ms", "second ms", "more ms"]);
    for (system, measured) in systems.iter().zip(&measured) {
        let median_of =
            |value: fn(&(f64, f64)) -> f64| median(measured.iter().map(value).collect());
        let more = median_of(|(first, second)| first - second);
        table.row(vec![
            system.name.clone(),
            milliseconds(median_of(|(first, _)| *first)),
            milliseconds(median_of(|(_, second)| *second)),
            milliseconds(more),
        ]);
        if system.name == MIRROR {
            targets.at_most(
                "first response of a new instance, beyond a warm one",
                3.0,
                more * 1e3,
                "ms",
            );
        }
    }
    table.print();
}

/// Seconds.
async fn timed(connection: &mut Connection) -> f64 {
    let start = Instant::now();
    connection.get(WARM, StatusCode::OK).await;
    start.elapsed().as_secs_f64()
}
