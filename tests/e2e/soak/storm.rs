//! A cluster that scales up: a hundred clients pull one image of ten layers at the same time, as
//! containerd does. What counts is how often the registry is asked.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::host::redis::Redis;
use crate::support::client::Request;
use crate::support::hub_fixture::{NAME, TAG};
use crate::support::mirror::{Mirror, Options, is_wasip2};
use test_support::hub::{Hub, Service};
use test_support::image::{Image, OCI};

const CLIENTS: u8 = 100;
const LAYERS: usize = 10;
/// The configuration is a blob too.
const BLOBS: usize = LAYERS + 1;

/// Requests that the registry and its token server got.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    heads: usize,
    manifests: usize,
    blobs: usize,
    refused: usize,
    tokens: usize,
}

struct Storm {
    hub: Hub,
    image: Image,
    /// Of the address of the next clients: each pull comes from others, as one that comes back is
    /// taken for one whom a redirect did not help.
    network: u8,
}

impl Storm {
    async fn new() -> Self {
        let hub = Hub::start().await;
        let image = Image::with_layers(OCI, "storm", LAYERS);
        hub.push(NAME, TAG, &image);
        hub.sign_blob_urls_for(Duration::from_secs(1200));
        Self {
            hub,
            image,
            network: 0,
        }
    }

    /// Lets so many clients pull at the same time, each by one of the mirrors, and returns how often
    /// the registry was asked.
    async fn pull(&mut self, mirrors: &[Mirror], clients: u8) -> Asked {
        self.hub.take_requests();
        self.network += 1;
        let pulls = (1..=clients).map(|number| {
            let client = Ipv4Addr::new(127, 0, self.network, number);
            pull(
                &mirrors[usize::from(number) % mirrors.len()],
                client,
                &self.image,
            )
        });
        join_all(pulls).await;
        self.asked()
    }

    fn asked(&self) -> Asked {
        let mut asked = Asked {
            tokens: self.hub.received(Service::Tokens).len(),
            ..Asked::default()
        };
        for request in self.hub.received(Service::Registry) {
            *match &request {
                request if !request.headers.contains_key("authorization") => &mut asked.refused,
                request if request.method == "HEAD" => &mut asked.heads,
                request if request.target.contains("/blobs/") => &mut asked.blobs,
                _ => &mut asked.manifests,
            } += 1;
        }
        asked
    }

    /// Lets single clients pull until the store has all that can be remembered: hosts that have just
    /// started ask for nothing. When many instances begin to write to an empty store at once, one may
    /// overwrite what another wrote.
    async fn warm_up(&mut self, mirrors: &mut [Mirror]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let count = u8::try_from(mirrors.len()).expect("few mirrors");
        loop {
            for mirror in &mut *mirrors {
                mirror.restart().await;
            }
            let asked = self.pull(mirrors, count).await;
            if asked.manifests + asked.blobs + asked.refused + asked.tokens == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "{asked:?}");
            // It is written after the answers.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Pulls as containerd does: the tag's digest, index, manifest, configuration and layers, these from
/// where the mirror leads to, and all verified.
async fn pull(mirror: &Mirror, client: Ipv4Addr, image: &Image) {
    let address = mirror.address();
    let request = |method, resource: &str, reference: &str| {
        let path = format!("/v2/{NAME}/{resource}/{reference}");
        Request::new(address, method, &path).source(client)
    };
    let platform = image.native();
    let head = request("HEAD", "manifests", TAG).accept_manifests().send();
    let head = head.await.expect(200);
    assert_eq!(
        head.header("docker-content-digest"),
        Some(&*image.index.digest)
    );
    for manifest in [&image.index, &platform.manifest] {
        let get = request("GET", "manifests", &manifest.digest).accept_manifests();
        assert_eq!(get.send().await.expect(200).body, manifest.bytes);
    }
    for blob in platform.blobs() {
        let redirect = request("GET", "blobs", &blob.digest)
            .send()
            .await
            .expect(307);
        let location = redirect.header("location").expect("a location");
        let sent = Request::get_url(location).send().await.expect(200);
        assert_eq!(sent.body, blob.bytes);
    }
}

#[tokio::test]
async fn a_hundred_clients_cost_one_head_each() {
    let mut storm = Storm::new().await;
    let options = Options::default()
        .upstream(storm.hub.address())
        .plain_http(storm.hub.addresses());
    let mut mirrors = [options.start().await];
    let cold = storm.pull(&mirrors, CLIENTS).await;
    println!("cold, one host: {cold:?}");
    check_cold(&cold);
    storm.warm_up(&mut mirrors).await;
    let warm = storm.pull(&mirrors, CLIENTS).await;
    assert_eq!(warm, heads_only());
}

#[tokio::test]
async fn a_hundred_clients_of_a_tag_that_is_fresh_cost_nothing() {
    let mut storm = Storm::new().await;
    let options = Options::default()
        .upstream(storm.hub.address())
        .plain_http(storm.hub.addresses())
        .variable("tag_ttl", 600);
    let mut mirrors = [options.start().await];
    storm.warm_up(&mut mirrors).await;
    let warm = storm.pull(&mirrors, CLIENTS).await;
    assert_eq!(warm, Asked::default());
}

#[tokio::test]
async fn a_hundred_clients_of_three_hosts_on_one_store_cost_no_more() {
    let Some(redis) = Redis::start().await else {
        return;
    };
    let mut storm = Storm::new().await;
    let mut mirrors = Vec::new();
    for _ in 0..3 {
        mirrors.push(redis.options(&storm.hub).start().await);
    }
    let cold = storm.pull(&mirrors, CLIENTS).await;
    println!("cold, three hosts: {cold:?}");
    check_cold(&cold);
    storm.warm_up(&mut mirrors).await;
    let warm = storm.pull(&mirrors, CLIENTS).await;
    assert_eq!(warm, heads_only());
}

/// One `HEAD` for each client, which Docker Hub does not count.
fn heads_only() -> Asked {
    Asked {
        heads: usize::from(CLIENTS),
        ..Asked::default()
    }
}

/// Each instance asks once for what it does not find in the store either. A hundred requests at once
/// begin many instances, and those of the WASIp2 build answer one request each; but what one of them
/// has fetched the next ones know.
fn check_cold(asked: &Asked) {
    let clients = usize::from(CLIENTS);
    assert_eq!(asked.heads, clients, "{asked:?}");
    // One for each of 14 requests would be all. On a busy machine some are lost that instances write
    // to the empty store at the same time.
    assert!(asked.tokens <= clients * 2, "{asked:?}");
    // Two for each client would be all.
    assert!(
        (2..=clients * 3 / 2).contains(&asked.manifests),
        "{asked:?}"
    );
    let most = if is_wasip2() {
        BLOBS * clients * 3 / 4
    } else {
        BLOBS * clients / 2
    };
    assert!((BLOBS..=most).contains(&asked.blobs), "{asked:?}");
}
