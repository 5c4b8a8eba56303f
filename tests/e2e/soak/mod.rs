//! Many clients for a while: with a registry that fails at random, beside an attacker, and all for
//! one image.

mod attack;
mod faults;
mod storm;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::support::client::{Error, Request, Response};
use crate::support::mirror::Mirror;
use test_support::hub::Hub;
use test_support::image::{Content, Image, OCI};

const CLIENTS: usize = 50;
const IMAGES: usize = 12;
/// The number of attempts at one request.
const TRIES: usize = 40;

/// Counters of the run.
#[derive(Default)]
struct Counters {
    pulls: AtomicU64,
    requests: AtomicU64,
    faults: AtomicU64,
    failed: AtomicU64,
    last_failure: Mutex<String>,
    /// How long each answered request took.
    durations: Mutex<Vec<Duration>>,
}

/// A registry with images that the clients know; the tag of the last one moves between two of them.
struct Fixture {
    hub: Hub,
    images: Vec<Image>,
    counters: Arc<Counters>,
}

impl Counters {
    fn print(&self, seconds: u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "soak: {seconds} s, {} pulls, {} requests, {} faults upstream, {} errors at clients",
            of(&self.pulls),
            of(&self.requests),
            of(&self.faults),
            of(&self.failed)
        );
    }
}

/// The address of a client: each has its own, as the limits are of an address.
fn client(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1).expect("few clients"))
}

fn name(number: usize) -> String {
    format!("team/app-{number}")
}

fn manifest(number: usize, reference: &str) -> String {
    format!("/v2/{}/manifests/{reference}", name(number))
}

impl Fixture {
    async fn new() -> Self {
        let hub = Hub::start().await;
        let images: Vec<_> = (0..IMAGES)
            .map(|number| Image::new(OCI, &format!("soak {number}")))
            .collect();
        for (number, image) in images.iter().enumerate() {
            hub.push(&name(number), "latest", image);
        }
        // The last tag moves between these two images.
        hub.push(&name(IMAGES - 1), "other", &images[IMAGES - 2]);
        Self {
            hub,
            images,
            counters: Arc::default(),
        }
    }

    /// Starts the clients, each of which pulls from one of the mirrors, and pauses, until `end`.
    fn spawn_clients(
        self: &Arc<Self>,
        mirrors: &[Arc<Mirror>],
        pause: Duration,
        end: Instant,
    ) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let mirror = Arc::clone(&mirrors[number % mirrors.len()]);
            let fixture = Arc::clone(self);
            clients.spawn(async move {
                for turn in number.. {
                    if Instant::now() > end {
                        break;
                    }
                    fixture.pull(&mirror, client(number), turn % IMAGES).await;
                    tokio::time::sleep(pause).await;
                }
            });
        }
        clients
    }

    /// Pulls as clients do: the tag, the manifest of a platform, its blobs; and a HEAD of the tag's
    /// manifest by digest.
    async fn pull(&self, mirror: &Mirror, client: Ipv4Addr, number: usize) {
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
        // A mirror can't verify what a tag points to, so that a wrong response is retried.
        let index = self
            .get(mirror, client, &manifest(number, "latest"), |bytes| {
                pointed(bytes).is_some()
            })
            .await;
        let image = pointed(&index).expect("one of the two images");
        let platform = image.native();
        self.verified(
            mirror,
            client,
            &manifest(number, &platform.manifest.digest),
            &platform.manifest,
        )
        .await;
        for blob in platform.blobs() {
            self.verified(
                mirror,
                client,
                &format!("/v2/{}/blobs/{}", name(number), blob.digest),
                blob,
            )
            .await;
        }
        let target = manifest(number, &image.index.digest);
        let head = request(mirror, client, "HEAD", &target).send().await;
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
        self.counters.pulls.fetch_add(1, Ordering::Relaxed);
    }

    async fn verified(&self, mirror: &Mirror, client: Ipv4Addr, target: &str, content: &Content) {
        let is_manifest = target.contains("/manifests/");
        let is_right = |bytes: &[u8]| {
            let is_right = bytes == content.bytes;
            assert!(
                is_right || !is_manifest,
                "{target} brought {} bytes that are not it",
                bytes.len()
            );
            // A mirror does not verify blobs.
            is_right
        };
        self.get(mirror, client, target, is_right).await;
    }

    /// Retries until a response is complete and correct. Follows a redirect, as clients do.
    async fn get(
        &self,
        mirror: &Mirror,
        client: Ipv4Addr,
        target: &str,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Bytes {
        for attempt in 0..TRIES {
            self.counters.requests.fetch_add(1, Ordering::Relaxed);
            let request = request(mirror, client, "GET", target);
            let start = Instant::now();
            match follow(request).await {
                Ok(response) if response.status == 200 && is_right(&response.body) => {
                    let mut durations = self.counters.durations.lock().expect("durations");
                    durations.push(start.elapsed());
                    return response.body;
                }
                failure => {
                    *self.counters.last_failure.lock().expect("text") =
                        format!("{target}: {failure:?}");
                }
            }
            self.counters.failed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20 * attempt as u64)).await;
        }
        let last = self.counters.last_failure.lock().expect("text").clone();
        panic!("{target} failed {TRIES} times; the last failure of a client: {last}");
    }
}

/// Not [`Mirror::request`], which waits for the line of the log on WASIp2.
fn request(mirror: &Mirror, client: Ipv4Addr, method: &str, target: &str) -> Request {
    Request::new(mirror.address(), method, target)
        .source(client)
        .accept_manifests()
}

async fn follow(request: Request) -> Result<Response, Error> {
    let response = request.try_send().await?;
    assert!(
        response.status != 500 && response.status != 401,
        "unexpected status: {response:?}"
    );
    match response
        .header("location")
        .filter(|_| response.status == 307)
        .map(Request::get_url)
    {
        // The timeouts of the mirror do not apply to the CDN.
        Some(there) => tokio::time::timeout(Duration::from_secs(3), there.try_send()).await?,
        None => Ok(response),
    }
}
