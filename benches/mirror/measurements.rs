//! The systems are measured in turn, in short rounds, so that noise affects all of them alike.

use crate::arguments::Scale;
use crate::load::{Load, Until};
use crate::systems::{DIRECT, FORWARDER, MIRROR, System};
use crate::table::{Table, milliseconds};
use hyper::StatusCode;
use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Duration;
use test_support::counting_registry::WARM;

/// The time of load without measurement before each measurement: instances and connections may have
/// been closed meanwhile.
const WARM_UP: Duration = Duration::from_millis(150);

/// One measurement of one system.
#[derive(Clone, Copy, Debug)]
pub struct Measurement {
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
    pub requests: u64,
    /// Upstream requests, without those for tokens.
    pub upstream: u64,
    pub tokens: u64,
    pub cpu: Duration,
    /// Peak resident memory, in bytes.
    pub peak: u64,
}

/// The measurements of one load, by system; the n-th ones of all systems are of the n-th round.
pub struct Measurements {
    pub what: String,
    by_system: Vec<(String, Vec<Measurement>)>,
}

/// Measures each system with all loads, once in each round. `loads` makes the loads of one measurement.
pub async fn compare<S: Borrow<System>>(
    systems: &[S],
    scale: &Scale,
    names: &[&str],
    loads: impl Fn() -> Vec<Load>,
) -> Vec<Measurements> {
    let empty = |name: &&str| Measurements {
        what: (*name).to_owned(),
        by_system: systems
            .iter()
            .map(|system| (system.borrow().name.clone(), Vec::new()))
            .collect(),
    };
    let mut all: Vec<Measurements> = names.iter().map(empty).collect();
    for round in 0..scale.rounds as usize {
        eprint!("\r{}: round {} of {}", names[0], round + 1, scale.rounds);
        for turn in 0..systems.len() {
            let at = position(turn, round, systems.len());
            for (load, measurements) in loads().into_iter().zip(&mut all) {
                measurements.by_system[at]
                    .1
                    .push(measure_one(systems[at].borrow(), &load).await);
            }
        }
    }
    eprintln!();
    all
}

/// Returns the index of the system to measure. The order differs by round, so that each system is
/// first, last, before and after every other one about equally often.
pub fn position(turn: usize, round: usize, systems: usize) -> usize {
    let along = if round.is_multiple_of(2) {
        turn
    } else {
        systems - 1 - turn
    };
    (along + round / 2) % systems
}

pub async fn measure_one(system: &System, load: &Load) -> Measurement {
    warm(load.connections, Until::Time(WARM_UP))
        .run(system.address)
        .await;
    let tree = system.tree();
    let watch = tree.watch();
    let before = system.counters(&tree);
    let result = load.run(system.address).await;
    let after = system.counters(&tree);
    Measurement {
        rate: result.rate(),
        p50: result.latency(0.50),
        p99: result.latency(0.99),
        requests: result.requests,
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

impl Measurements {
    fn of(&self, name: &str) -> &[Measurement] {
        let found = self.by_system.iter().find(|(system, _)| system == name);
        found.map_or(&[], |(_, measurements)| measurements)
    }

    /// The median of the ratios of `one` to `other` within each round.
    pub fn ratio(&self, one: &str, other: &str, value: impl Fn(&Measurement) -> f64) -> f64 {
        let pairs = self.of(one).iter().zip(self.of(other));
        median(
            pairs
                .map(|(one, other)| value(one) / value(other))
                .collect(),
        )
    }

    /// The median of one system's measurements.
    pub fn median(&self, name: &str, value: impl Fn(&Measurement) -> f64) -> f64 {
        median(self.of(name).iter().map(value).collect())
    }

    pub fn mirror_against_forwarder(&self, value: impl Fn(&Measurement) -> f64) -> f64 {
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
        for (name, measurements) in &self.by_system {
            let median_of =
                |value: fn(&Measurement) -> f64| median(measurements.iter().map(value).collect());
            let total =
                |value: fn(&Measurement) -> f64| measurements.iter().map(value).sum::<f64>();
            let requests = total(|one| one.requests as f64);
            let cpu = total(|one| one.cpu.as_secs_f64());
            let unless_direct = |text: String| if name == DIRECT { "-".to_owned() } else { text };
            table.row(vec![
                name.clone(),
                format!("{:.0}", median_of(|one| one.rate)),
                format!("{:.2}", self.ratio(name, FORWARDER, |one| one.rate)),
                format!("{:.2}", self.ratio(name, DIRECT, |one| one.rate)),
                milliseconds(median_of(|one| one.p50.as_secs_f64())),
                milliseconds(median_of(|one| one.p99.as_secs_f64())),
                format!("{:.3}", total(|one| one.upstream as f64) / requests),
                format!("{:.3}", total(|one| one.tokens as f64) / requests),
                unless_direct(format!("{cpu:.2}")),
                unless_direct(format!("{:.0}", cpu / requests * 1e6)),
                unless_direct(format!(
                    "{:.0}",
                    median_of(|one| one.peak as f64) / 1048576.0
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
