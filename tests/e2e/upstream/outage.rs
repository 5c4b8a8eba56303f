//! Pulls by real clients of an image that the mirror has cached, while its registry and its token
//! server are down.

use std::path::Path;

use serde_json::json;

use crate::support::daemons::{Containerd, Dockerd};
use crate::support::hub_fixture::{NAME, TAG};
use crate::support::mirror::{Mirror, Options};
use crate::support::programs::{Programs, is_root};
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
    let names = ["dockerd", "docker", "containerd"];
    let Some(programs) = Programs::newer(&names).filter(|_| is_root("dockerd 28")) else {
        return;
    };
    pulls_cached_image("dockerd 28", async |mirror, folder| {
        let config = json!({ "registry-mirrors": [format!("http://{}", mirror.address())] });
        let home = vec![("HOME", folder.to_path_buf())];
        let dockerd = Dockerd::start(&programs, &folder.join("d"), &config, "vfs", home).await;
        dockerd.docker(&["pull", "alpine"]).await.expect("a pull");
        let id = dockerd
            .docker(&["image", "inspect", "alpine", "--format", "{{.Id}}"])
            .await
            .expect("an image");
        dockerd.stop();
        id
    })
    .await;
}

#[tokio::test]
async fn containerd_2_pulls_a_cached_image_during_an_outage() {
    let Some(programs) =
        Programs::newer(&["containerd", "ctr"]).filter(|_| is_root("containerd 2"))
    else {
        return;
    };
    pulls_cached_image("containerd 2", async |mirror, folder| {
        let hosts = folder.join("hosts");
        std::fs::create_dir_all(hosts.join("docker.io")).expect("a folder");
        let text = format!(
            "[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            mirror.address()
        );
        std::fs::write(hosts.join("docker.io/hosts.toml"), text).expect("hosts.toml");
        let containerd = Containerd::start(&programs, &folder.join("c"), vec![]).await;
        containerd
            .pull(&hosts, &format!("docker.io/{NAME}:{TAG}"))
            .await
            .expect("a pull");
        let content = containerd
            .ctr(&["content", "ls", "--quiet"])
            .await
            .expect("content");
        containerd.stop();
        content
    })
    .await;
}
