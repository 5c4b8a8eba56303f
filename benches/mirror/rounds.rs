//! Contestants take turns, round by round, so that what disturbs the machine disturbs all of them alike.

use crate::arguments::Scale;
use crate::contestants::{Contestant, DIRECT, FORWARDER, MIRROR};
use crate::load::{Load, Until};
use crate::table::{Table, milliseconds};
use hyper::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use test_support::counting_registry::WARM;

/// Unmeasured load at the start of each turn: instances and connections that others' turns have cost.
const RUN_IN: Duration = Duration::from_millis(150);

/// One turn of one contestant.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
    pub requests: u64,
    /// Asked of the upstream, without tokens.
    pub upstream: u64,
    pub tokens: u64,
    pub cpu: Duration,
    /// The most that was resident, in bytes.
    pub peak: u64,
}

/// A load's turns, by contestant, in the order of the contestants; the n-th ones of all belong together.
pub struct Turns {
    pub what: String,
    by_contestant: Vec<(String, Vec<Turn>)>,
}

/// Each contestant runs all `loads` in its turn; they are made anew for each turn.
pub async fn compare(
    contestants: &[Contestant],
    scale: &Scale,
    names: &[&str],
    loads: impl Fn() -> Vec<Load>,
) -> Vec<Turns> {
    let empty = |name: &&str| Turns {
        what: (*name).to_owned(),
        by_contestant: contestants
            .iter()
            .map(|c| (c.name.clone(), Vec::new()))
            .collect(),
    };
    let mut all: Vec<Turns> = names.iter().map(empty).collect();
    for round in 0..scale.rounds as usize {
        eprint!("\r{}: round {} of {}", names[0], round + 1, scale.rounds);
        for turn in 0..contestants.len() {
            let at = place(turn, round, contestants.len());
            for (load, turns) in loads().into_iter().zip(&mut all) {
                turns.by_contestant[at]
                    .1
                    .push(turn_of(&contestants[at], &load).await);
            }
        }
    }
    eprintln!();
    all
}

/// Whose turn it is. Everybody is first, last, before and behind everybody else about equally often: who runs twice in a
/// row finds caches warm.
pub fn place(turn: usize, round: usize, contestants: usize) -> usize {
    let along = if round.is_multiple_of(2) {
        turn
    } else {
        contestants - 1 - turn
    };
    (along + round / 2) % contestants
}

pub async fn turn_of(contestant: &Contestant, load: &Load) -> Turn {
    warm(load.connections, Until::Time(RUN_IN))
        .run(contestant.address)
        .await;
    let tree = contestant.tree();
    let watch = tree.watch();
    let before = contestant.counters(&tree);
    let outcome = load.run(contestant.address).await;
    let after = contestant.counters(&tree);
    Turn {
        rate: outcome.rate(),
        p50: outcome.latency(0.50),
        p99: outcome.latency(0.99),
        requests: outcome.requests,
        upstream: after.requests - before.requests,
        tokens: after.tokens - before.tokens,
        cpu: after.cpu - before.cpu,
        peak: watch.peak().await,
    }
}

/// The same manifest again and again.
pub fn warm(connections: usize, until: Until) -> Load {
    Load {
        connections,
        until,
        path: Arc::new(|_| WARM.to_owned()),
        status: StatusCode::OK,
    }
}

impl Turns {
    fn of(&self, name: &str) -> &[Turn] {
        let found = self
            .by_contestant
            .iter()
            .find(|(contestant, _)| contestant == name);
        found.map_or(&[], |(_, turns)| turns)
    }

    /// The median, over the rounds, of what the one measured divided by what the other measured in the same round.
    pub fn ratio(&self, one: &str, other: &str, value: impl Fn(&Turn) -> f64) -> f64 {
        let pairs = self.of(one).iter().zip(self.of(other));
        median(
            pairs
                .map(|(one, other)| value(one) / value(other))
                .collect(),
        )
    }

    pub fn mirror_against_forwarder(&self, value: impl Fn(&Turn) -> f64) -> f64 {
        self.ratio(MIRROR, FORWARDER, value)
    }

    pub fn print(&self) {
        let mut table = Table::new(&[
            &self.what,
            "req/s",
            "x forwarder",
            "x direct",
            "p50 ms",
            "p99 ms",
            "upstream/req",
            "tokens/req",
            "cpu s",
            "cpu us/req",
            "peak MiB",
        ]);
        for (name, turns) in &self.by_contestant {
            let middle = |value: fn(&Turn) -> f64| median(turns.iter().map(value).collect());
            let total = |value: fn(&Turn) -> f64| turns.iter().map(value).sum::<f64>();
            let requests = total(|turn| turn.requests as f64);
            let cpu = total(|turn| turn.cpu.as_secs_f64());
            let of_a_process = |text: String| if name == DIRECT { "-".to_owned() } else { text };
            table.row(vec![
                name.clone(),
                format!("{:.0}", middle(|turn| turn.rate)),
                format!("{:.2}", self.ratio(name, FORWARDER, |turn| turn.rate)),
                format!("{:.2}", self.ratio(name, DIRECT, |turn| turn.rate)),
                milliseconds(middle(|turn| turn.p50.as_secs_f64())),
                milliseconds(middle(|turn| turn.p99.as_secs_f64())),
                format!("{:.3}", total(|turn| turn.upstream as f64) / requests),
                format!("{:.3}", total(|turn| turn.tokens as f64) / requests),
                of_a_process(format!("{cpu:.2}")),
                of_a_process(format!("{:.0}", cpu / requests * 1e6)),
                of_a_process(format!(
                    "{:.0}",
                    middle(|turn| turn.peak as f64) / 1048576.0
                )),
            ]);
        }
        table.print();
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}
