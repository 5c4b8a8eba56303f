//! Many clients, for a while, at a registry of which every twentieth answer is a fault: what they get is whole and right,
//! or it is an error, and the mirror is the same at the end as at the beginning.
//!
//! `HAMMAL_SOAK_SECONDS=600 cargo test --test e2e soak -- --nocapture` is the long run; without it, it is a short one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::support::client::{Answer, Error, Request};
use crate::support::mirror::{Mirror, Options};
use test_support::hub::{Hub, Place};
use test_support::image::{Content, Image, OCI, digest};
use test_support::server::{Pieces, Reply, Seen};

const CLIENTS: usize = 50;
const IMAGES: usize = 12;
/// One answer in so many is a fault.
const FAULTS: u64 = 20;
/// Between two pulls of one client.
const PAUSE: Duration = Duration::from_millis(100);
/// A pull gives up a request after so many tries.
const TRIES: usize = 40;
/// Bytes of resident memory that may come on top of what the first third of the time took.
const GROWTH: u64 = 64 * 1024 * 1024;

/// What happened so far.
#[derive(Default)]
struct Tally {
    pulls: AtomicU64,
    requests: AtomicU64,
    faults: AtomicU64,
    failed: AtomicU64,
}

/// A registry of images that clients know beforehand; the tag of the last one moves between two of them.
struct Stage {
    hub: Hub,
    images: Vec<Image>,
    tally: Arc<Tally>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_get_what_is_right_or_an_error_while_every_twentieth_answer_is_a_fault() {
    let seconds = std::env::var("HAMMAL_SOAK_SECONDS")
        .map_or(5, |text| text.parse().expect("a number of seconds"));
    let stage = Arc::new(Stage::new().await);
    let mut mirrors = Vec::new();
    for delivery in ["redirect", "stream"] {
        let options = Options::default()
            .upstream(stage.hub.address())
            .plain_http(stage.hub.addresses());
        let options = options
            .variable("blob_delivery", delivery)
            .variable("tag_ttl", 1);
        mirrors.push(Arc::new(
            options.variable("first_byte_timeout", 1).start().await,
        ));
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let tally = Arc::clone(&stage.tally);
    stage
        .hub
        .script(move |place, seen| fault(&tally, place, seen));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (stage, mirror) = (
            Arc::clone(&stage),
            Arc::clone(&mirrors[number % mirrors.len()]),
        );
        clients.spawn(async move {
            for turn in number.. {
                if Instant::now() > end {
                    break;
                }
                stage.pull(&mirror, turn % IMAGES).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    let resident = watch(&stage, &mirrors, end).await;
    while let Some(client) = clients.join_next().await {
        client.expect("a client that found nothing wrong");
    }

    stage.hub.script(|_, _| None);
    for mirror in &mirrors {
        for number in 0..IMAGES {
            stage.pull(mirror, number).await;
        }
        // A registry that failed is left alone for 20 seconds, and a tag that moved stays where it was until then.
        let moved = stage.images[IMAGES - 1].index.digest.clone();
        stage
            .hub
            .push(&name(IMAGES - 1), "latest", &stage.images[IMAGES - 1]);
        let begun = Instant::now();
        loop {
            let answer = mirror
                .get(&manifest(IMAGES - 1, "latest"))
                .accept_manifests()
                .send()
                .await
                .expect(200);
            if digest(&answer.body) == moved {
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(40),
                "the tag did not come back to {moved}: {answer:?}"
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let ended: Vec<_> = mirror
            .stderr()
            .into_iter()
            .filter(|line| line.contains("instance of the"))
            .collect();
        assert!(ended.is_empty(), "{ended:?}");
    }
    stage.tally.print(seconds);
    for (mirror, resident) in mirrors.iter().zip(resident) {
        let third = resident.len() / 3;
        let most = |samples: &[u64]| samples.iter().copied().max().unwrap_or_default();
        let (first, last) = (most(&resident[..third]), most(&resident[third..]));
        println!(
            "soak: {} MiB resident in the first third, {} after it",
            first >> 20,
            last >> 20
        );
        assert!(
            last < first + GROWTH,
            "memory of {} grew from {first} to {last} bytes",
            mirror.address()
        );
    }
}

/// Until the end: how much memory each mirror takes, a line of progress, and the tag that moves.
async fn watch(stage: &Stage, mirrors: &[Arc<Mirror>], end: Instant) -> Vec<Vec<u64>> {
    let mut resident = vec![Vec::new(); mirrors.len()];
    let begun = Instant::now();
    for turn in 0_usize.. {
        if Instant::now() > end {
            break;
        }
        let image = &stage.images[IMAGES - 1 - turn % 2];
        stage.hub.push(&name(IMAGES - 1), "latest", image);
        for (mirror, resident) in mirrors.iter().zip(&mut resident) {
            resident.push(mirror.resident());
        }
        // Of minutes of requests nobody wants to know each.
        stage.hub.take_lines();
        if turn % 20 == 19 {
            stage.tally.print(begun.elapsed().as_secs());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    resident
}

impl Tally {
    fn print(&self, seconds: u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "soak: {seconds} s, {} pulls, {} requests, {} faults upstream, {} errors that clients saw",
            of(&self.pulls),
            of(&self.requests),
            of(&self.faults),
            of(&self.failed)
        );
    }
}

fn name(number: usize) -> String {
    format!("team/app-{number}")
}

fn manifest(number: usize, reference: &str) -> String {
    format!("/v2/{}/manifests/{reference}", name(number))
}

impl Stage {
    async fn new() -> Self {
        let hub = Hub::start().await;
        let images: Vec<_> = (0..IMAGES)
            .map(|number| Image::new(OCI, &format!("soak {number}")))
            .collect();
        for (number, image) in images.iter().enumerate() {
            hub.push(&name(number), "latest", image);
        }
        // Both of the images that the last tag is moved between.
        hub.push(&name(IMAGES - 1), "other", &images[IMAGES - 2]);
        Self {
            hub,
            images,
            tally: Arc::default(),
        }
    }

    /// As clients pull: the tag, the manifest of a platform, its blobs; and a look at the tag's manifest by its digest.
    async fn pull(&self, mirror: &Mirror, number: usize) {
        let moves = number == IMAGES - 1;
        let possible = [
            &self.images[number],
            &self.images[number - usize::from(moves)],
        ];
        let pointed = |bytes: &[u8]| {
            possible
                .into_iter()
                .find(|image| image.index.bytes == bytes)
        };
        // What a registry says of its tags can't be checked by a mirror; a fault of it is one for the client.
        let index = self
            .get(mirror, &manifest(number, "latest"), |bytes| {
                pointed(bytes).is_some()
            })
            .await;
        let image = pointed(&index).expect("one of both");
        let platform = image.here();
        self.verified(
            mirror,
            &manifest(number, &platform.manifest.digest),
            &platform.manifest,
        )
        .await;
        for blob in platform.blobs() {
            self.verified(
                mirror,
                &format!("/v2/{}/blobs/{}", name(number), blob.digest),
                blob,
            )
            .await;
        }
        let head = mirror
            .head(&manifest(number, &image.index.digest))
            .accept_manifests()
            .send()
            .await;
        if head.status == 200 {
            assert_eq!(
                head.header("docker-content-digest"),
                Some(&*image.index.digest)
            );
            assert_eq!(
                head.header("content-length"),
                Some(&*image.index.bytes.len().to_string())
            );
        }
        self.tally.pulls.fetch_add(1, Ordering::Relaxed);
    }

    async fn verified(&self, mirror: &Mirror, target: &str, content: &Content) {
        let is_manifest = target.contains("/manifests/");
        let is_right = |bytes: &[u8]| {
            let is_right = bytes == content.bytes;
            assert!(
                is_right || !is_manifest,
                "{target} brought {} bytes that are not it",
                bytes.len()
            );
            // A mirror does not look into the blobs that it hands on.
            is_right
        };
        self.get(mirror, target, is_right).await;
    }

    /// Tries until there is an answer that is whole and right, following a redirect as clients do.
    async fn get(&self, mirror: &Mirror, target: &str, is_right: impl Fn(&[u8]) -> bool) -> Bytes {
        for attempt in 0..TRIES {
            self.tally.requests.fetch_add(1, Ordering::Relaxed);
            match follow(mirror.get(target).accept_manifests()).await {
                Ok(answer) if answer.status == 200 && is_right(&answer.body) => return answer.body,
                _ => {}
            }
            self.tally.failed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20 * attempt as u64)).await;
        }
        panic!("{target} failed {TRIES} times");
    }
}

async fn follow(request: Request) -> Result<Answer, Error> {
    let answer = request.try_send().await?;
    assert!(
        answer.status != 500 && answer.status != 401,
        "no mirror answers so: {answer:?}"
    );
    match answer
        .header("location")
        .filter(|_| answer.status == 307)
        .map(Request::of_url)
    {
        // A delivery network has no time-outs of the mirror's.
        Some(there) => tokio::time::timeout(Duration::from_secs(1), there.try_send()).await?,
        None => Ok(answer),
    }
}

/// What a registry, its token server or its delivery network does instead of answering, every now and then.
fn fault(tally: &Tally, place: Place, seen: &Seen) -> Option<Reply> {
    static STATE: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
    // A generator of Marsaglia's: the same faults in each run, if not at the same requests.
    let scramble = |mut x: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^ (x << 17)
    };
    let random = scramble(
        STATE
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |x| Some(scramble(x)))
            .ok()?,
    );
    if !random.is_multiple_of(FAULTS) {
        return None;
    }
    tally.faults.fetch_add(1, Ordering::Relaxed);
    let half = Pieces::default().data("{\"schemaVersion\":2").then_break();
    Some(match (random / FAULTS) % 10 {
        0 => Reply::new(500, &[], "no"),
        1 => Reply::new(503, &[("retry-after", "1")], "later"),
        2 => Reply::new(429, &[("retry-after", "1")], "too many"),
        3 => Reply::Close,
        4 => Reply::Hang,
        5 => Reply::streamed(
            200,
            &[("content-type", OCI.index), ("content-length", "5000")],
            half,
        ),
        6 => Reply::new(200, &[("content-type", OCI.index)], "{\"of\":\"another\"}"),
        7 => Reply::new(200, &[("content-type", "text/html")], "<html>log in</html>"),
        8 if place == Place::Registry => Reply::new(401, &[], ""),
        8 => Reply::new(403, &[], ""),
        _ => Reply::new(302, &[("location", &*seen.target)], ""),
    })
}
