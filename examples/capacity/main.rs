//! Simulates pulls through the mirror, and prints what each takes of the upstream, the token server
//! and the store: the tables of docs/capacity.md. The component is the real one, compiled natively;
//! the platform below it, the upstream and the clock are simulated.
//!
//! ```sh
//! cargo run --release --example capacity
//! cargo run --release --example capacity -- "200 images"
//! ```

mod hub;
mod platform;

use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt as _;
use hammal::mirror::Mirror;
use http::Request;

use hub::Hub;
use platform::{Counts, Simulated, Store, World};

/// How many images there are; the k-th most popular is pulled 1/k as often as the first.
const IMAGES: usize = 1_000;
const FEW_IMAGES: usize = 200;
/// Pulls of one run: the first half warms, the second is counted.
const PULLS: u32 = 4_000;
/// How long a client takes from one request of a pull to the next.
const STEP: Duration = Duration::from_millis(50);
/// An instance of WASIp3 ends after so many requests, or after this time without one.
const REQUESTS_PER_INSTANCE: u32 = 128;
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// A host of the mirror, with what it has in common with the others.
#[derive(Clone, Copy)]
struct Setup {
    name: &'static str,
    wasip3: bool,
    replicas: usize,
    shared_store: bool,
    images: usize,
    variables: &'static [(&'static str, &'static str)],
}

const SETUPS: [Setup; 7] = [
    Setup {
        name: "WASIp3, one host, 200 images",
        wasip3: true,
        replicas: 1,
        shared_store: false,
        images: FEW_IMAGES,
        variables: &[],
    },
    Setup {
        name: "WASIp3, one host",
        wasip3: true,
        replicas: 1,
        shared_store: false,
        images: IMAGES,
        variables: &[],
    },
    Setup {
        name: "WASIp3, 4 hosts, own stores",
        wasip3: true,
        replicas: 4,
        shared_store: false,
        images: IMAGES,
        variables: &[],
    },
    Setup {
        name: "WASIp3, 4 hosts, one store",
        wasip3: true,
        replicas: 4,
        shared_store: true,
        images: IMAGES,
        variables: &[],
    },
    Setup {
        name: "WASIp2, 4 pods, own stores",
        wasip3: false,
        replicas: 4,
        shared_store: false,
        images: IMAGES,
        variables: &[],
    },
    Setup {
        name: "WASIp2, `tag_ttl=60`",
        wasip3: false,
        replicas: 4,
        shared_store: false,
        images: IMAGES,
        variables: &[("tag_ttl", "60")],
    },
    Setup {
        name: "WASIp2, `store=off`",
        wasip3: false,
        replicas: 4,
        shared_store: false,
        images: IMAGES,
        variables: &[("store", "off")],
    },
];

/// An instance of the component.
struct Instance {
    mirror: Mirror<Simulated>,
    requests: u32,
    last_used: Duration,
}

struct Replica {
    store: Store,
    instance: Option<Instance>,
}

/// Deterministic numbers (SplitMix64): each run prints the same table.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns the number of an image, by Zipf's law.
    fn image(&mut self, cumulated: &[f64]) -> usize {
        let at = self.fraction() * cumulated.last().copied().unwrap_or_default();
        cumulated.partition_point(|sum| *sum <= at)
    }
}

/// Runs `pulls` pulls at a rate, and returns what the second half of them took.
fn run(setup: &Setup, pulls_per_hour: f64, pulls: u32, hub: &Rc<Hub>) -> Counts {
    let world = Rc::new(World::new(Rc::clone(hub), setup.variables));
    let shared = Store::default();
    let mut replicas: Vec<Replica> = (0..setup.replicas)
        .map(|_| Replica {
            store: if setup.shared_store {
                Rc::clone(&shared)
            } else {
                Store::default()
            },
            instance: None,
        })
        .collect();
    let mut random = Random(1);
    let mut sum = 0.0;
    let cumulated: Vec<f64> = (1..=setup.images)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();

    // Pulls come at random; the requests of those that overlap take turns.
    let mut start = Duration::from_secs(1_000_000);
    let mut requests = Vec::new();
    for pull in 0..pulls {
        let gap = -(1.0 - random.fraction()).ln() * 3600.0 / pulls_per_hour;
        start += Duration::from_secs_f64(gap);
        let image = random.image(&cumulated);
        let steps = hub.pull(image);
        let times = (0..steps.len() as u32).map(|step| start + step * STEP);
        requests.extend(times.zip(steps).map(|(time, step)| (time, pull, step)));
    }
    requests.sort_by_key(|(time, pull, _)| (*time, *pull));

    let mut counted = false;
    for (time, pull, request) in requests {
        if !counted && pull >= pulls / 2 {
            counted = true;
            world.counts.take();
        }
        world.now.set(time);
        let replica = random.next() as usize % replicas.len();
        answer(setup, &mut replicas[replica], &world, request);
    }
    world.counts.take()
}

/// Lets a replica answer one request, by its instance or by a new one.
fn answer(setup: &Setup, replica: &mut Replica, world: &Rc<World>, request: Request<()>) {
    let now = world.now.get();
    let reused = replica.instance.take().filter(|instance| {
        setup.wasip3
            && instance.requests < REQUESTS_PER_INSTANCE
            && now.saturating_sub(instance.last_used) < IDLE_TIMEOUT
    });
    let mut instance = reused.unwrap_or_else(|| {
        let platform = Simulated {
            world: Rc::clone(world),
            store: Rc::clone(&replica.store),
        };
        Instance {
            mirror: Mirror::new(platform),
            requests: 0,
            last_used: now,
        }
    });
    let response = instance.mirror.handle(request).now_or_never();
    let response = response.expect("nothing here waits");
    let status = response.status().as_u16();
    assert!(matches!(status, 200 | 307), "{status}");
    world.run_deferred();
    instance.requests += 1;
    instance.last_used = now;
    replica.instance = Some(instance);
}

fn main() {
    let hub = Rc::new(Hub::new(IMAGES));
    println!(
        "| set-up | pulls an hour | manifests, `GET` | manifests, `HEAD` | without a token | tokens \
         | store reads | store writes |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for setup in SETUPS.iter().filter(|setup| setup.name.contains(&wanted)) {
        for rate in [1.0, 100.0, 10_000.0, 1_000_000.0] {
            // At one pull an hour, no more are needed to know what one takes.
            let pulls = if rate < 100.0 { PULLS / 2 } else { PULLS };
            let counts = run(setup, rate, pulls, &hub);
            let per_pull = |count: u32| f64::from(count) / f64::from(pulls / 2);
            println!(
                "| {} | {rate} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} |",
                setup.name,
                per_pull(counts.manifests),
                per_pull(counts.manifest_heads),
                per_pull(counts.refused),
                per_pull(counts.tokens),
                per_pull(counts.store_reads),
                per_pull(counts.store_writes),
            );
        }
    }
}
