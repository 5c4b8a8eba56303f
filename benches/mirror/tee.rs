//! A large blob, streamed to one client and into an object store at the same time, against the same
//! without a store.

use crate::arguments::{Arguments, Scale};
use crate::blob::{MIB, Streamed, stream};
use crate::measurements::{median, position};
use crate::systems::{MIRROR, System};
use crate::table::Table;
use crate::targets::Targets;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use test_support::ca::Ca;
use test_support::counting_registry::{BLOB, CountingRegistry};
use test_support::s3;

/// How long the store may take for the rest after the client has all.
const REST: Duration = Duration::from_secs(60);

/// How the mirror with a store is started.
pub struct Teed<'a> {
    pub arguments: &'a Arguments,
    pub upstream: &'a CountingRegistry,
    pub ca: Option<&'a Ca>,
}

impl Teed<'_> {
    pub async fn measure(&self, systems: &[System], scale: &Scale, targets: &mut Targets) {
        let taken = Arc::<AtomicU64>::default();
        let store = s3::sink(&taken).await;
        // The store is asked first, has nothing, and gets the blob again.
        let variables = [
            "blob_delivery=stream".to_owned(),
            format!("blob_store=http://{}/bucket/", store.address),
        ];
        let teed =
            System::start_with_store(self.arguments, self.upstream, self.ca, "off", &variables);
        let teed = teed.await;
        let mut mirrors = systems.iter().filter(|system| system.name == MIRROR);
        let pair = [mirrors.next().expect("the mirror"), &teed];
        let what = format!("blob of {} MiB", scale.blob / (1024 * 1024));
        let mut streamed: [Vec<Streamed>; 2] = Default::default();
        let mut given_up = 0;
        for round in 0..scale.rounds as usize {
            eprint!("\r{what}: round {} of {}", round + 1, scale.rounds);
            for turn in 0..pair.len() {
                let at = position(turn, round, pair.len());
                let end = taken.load(Ordering::SeqCst) + scale.blob;
                streamed[at].push(stream(pair[at], BLOB, scale.blob).await);
                if pair[at].name == MIRROR {
                    continue;
                }
                let rest = async {
                    while taken.load(Ordering::SeqCst) < end {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                let rest = tokio::time::timeout(REST, rest).await;
                rest.expect("the store gets the blob");
                given_up += usize::from(taken.load(Ordering::SeqCst) > end);
            }
        }
        eprintln!();
        let mut table = Table::new(&[&what, "MB/s", "cpu s", "growth MiB"]);
        for (system, streamed) in pair.iter().zip(&streamed) {
            let median_of =
                |value: fn(&Streamed) -> f64| median(streamed.iter().map(value).collect());
            let growth = streamed.iter().map(|one| one.growth).fold(0.0, f64::max);
            table.row(vec![
                system.name.clone(),
                format!("{:.0}", median_of(|streamed| streamed.rate) / 1e6),
                format!("{:.2}", median_of(|streamed| streamed.cpu.as_secs_f64())),
                format!("{:.1}", growth / MIB),
            ]);
        }
        table.print();
        // A client whose upload is given up is faster.
        targets.at_most("uploads given up", 0.0, given_up as f64, "");
        let pairs = streamed[1].iter().zip(&streamed[0]);
        let ratio = median(
            pairs
                .map(|(with, without)| with.rate / without.rate)
                .collect(),
        );
        targets.at_least(
            "blob into a store too, bytes/s against without",
            0.7,
            ratio,
            "",
        );
    }
}
