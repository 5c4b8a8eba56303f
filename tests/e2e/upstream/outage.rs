//! Pulls by real clients of an image that the mirror has cached, while its registry and its token
//! server are down.

use std::path::Path;

use crate::support::hub_fixture::{NAME, TAG};
use crate::support::mirror::{Mirror, Options};
use crate::support::pulls;
use test_support::hub::{Hub, Service};
use test_support::image::{DOCKER, Image};
use test_support::server::Reply;

/// Pulls three times into an empty client: cold, warm, and while the registry responds to nothing
/// but blob requests, which it redirects to its CDN. `pull` is given an empty folder, and returns
/// text with the digests that it pulled.
async fn pulls_cached_image(client: &str, pull: impl AsyncFn(&Mirror, &Path) -> String) {
    let (hub, image) = (Hub::start().await, Image::with_layers(DOCKER, "outage", 6));
    hub.push(NAME, TAG, &image);
    let mirror = Options::default()
        .upstream(hub.address())
        .plain_http(hub.addresses())
        .start()
        .await;
    for state in ["cold", "warm", "off"] {
        if state == "off" {
            hub.script(|service, received| {
                let is_down = service == Service::Tokens || !received.target.contains("/blobs/");
                (is_down && service != Service::Cdn).then_some(Reply::Close)
            });
        }
        hub.take_requests();
        let folder = tempfile::tempdir().expect("a folder");
        let pulled = pull(&mirror, folder.path()).await;
        assert!(
            pulled.contains(&image.native().config.digest),
            "{client}, {state}: {pulled}"
        );
        let requests = hub.requests();
        let count = |method: &str, what: &str| {
            let line = format!("registry {method} /v2/{NAME}/{what}/");
            requests
                .iter()
                .filter(|request| request.starts_with(&line))
                .count()
        };
        let (heads, gets, blobs) = (
            count("HEAD", "manifests"),
            count("GET", "manifests"),
            count("GET", "blobs"),
        );
        println!(
            "{client}, six layers, {state}: upstream {heads} HEAD and {gets} GET of manifests, {blobs} of blobs"
        );
        assert!(
            state == "cold" || gets == 0,
            "{client}, {state}: {requests:?}"
        );
    }
}

#[tokio::test]
async fn dockerd_28_pulls_a_cached_image_during_an_outage() {
    if let Some(programs) = pulls::dockerd_28() {
        pulls_cached_image("dockerd 28", async |mirror, folder| {
            pulls::pull_with_dockerd(&programs, mirror, folder).await
        })
        .await;
    }
}

#[tokio::test]
async fn containerd_2_pulls_a_cached_image_during_an_outage() {
    if let Some(programs) = pulls::containerd_2() {
        pulls_cached_image("containerd 2", async |mirror, folder| {
            pulls::pull_with_containerd(&programs, mirror, folder).await
        })
        .await;
    }
}
