//! The first answer of a new instance, beside the one after it.

use crate::arguments::Scale;
use crate::contestants::{Contestant, MIRROR};
use crate::load::{Connection, Until};
use crate::rounds::{median, place, warm};
use crate::table::{Table, milliseconds};
use crate::targets::Targets;
use hyper::StatusCode;
use std::time::{Duration, Instant};
use test_support::counting_registry::WARM;

/// Hosts drop an instance that had nothing to do for a second.
const IDLE: Duration = Duration::from_millis(1400);

pub async fn measure(contestants: &[Contestant], scale: &Scale, targets: &mut Targets) {
    let mut connections = Vec::new();
    for contestant in contestants {
        warm(scale.connections, Until::Requests(200))
            .run(contestant.address)
            .await;
        connections.push(Connection::open(contestant.address).await);
    }
    let mut measured: Vec<Vec<(f64, f64)>> = contestants.iter().map(|_| Vec::new()).collect();
    for round in 0..scale.instances {
        eprint!("\rnew instance: {} of {}", round + 1, scale.instances);
        tokio::time::sleep(IDLE).await;
        for turn in 0..contestants.len() {
            let at = place(turn, round, contestants.len());
            let first = timed(&mut connections[at]).await;
            let second = timed(&mut connections[at]).await;
            measured[at].push((first, second));
        }
    }
    eprintln!();

    let mut table = Table::new(&["after 1.4 s idle", "first ms", "second ms", "more ms"]);
    for (contestant, measured) in contestants.iter().zip(&measured) {
        let middle = |value: fn(&(f64, f64)) -> f64| median(measured.iter().map(value).collect());
        let more = middle(|(first, second)| first - second);
        table.row(vec![
            contestant.name.clone(),
            milliseconds(middle(|(first, _)| *first)),
            milliseconds(middle(|(_, second)| *second)),
            milliseconds(more),
        ]);
        if contestant.name == MIRROR {
            targets.at_most(
                "first answer of a new instance, more than a warm one",
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
    let begun = Instant::now();
    connection.get(WARM, StatusCode::OK).await;
    begun.elapsed().as_secs_f64()
}
