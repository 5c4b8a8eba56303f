//! Images that were pulled once, pulled again from the store alone.

use std::path::Path;

use serde_json::json;

use super::{Fixture, with_store};
use crate::support::hub_fixture::{MANIFEST_PATH, NAME, TAG};
use crate::support::mirror::{Mirror, Options};
use crate::support::pulls;
use crate::support::wait_for;
use test_support::hub::{Hub, Service};
use test_support::image::{Content, DOCKER, INDEX, Image};
use test_support::s3::S3;
use test_support::server::Reply;

/// A mirror whose key-value store is empty, with the object store of another.
async fn fresh_mirror(hub: &Hub, s3: &S3) -> Mirror {
    let options = Options::default()
        .upstream(hub.address())
        .plain_http(hub.addresses());
    with_store(options, s3).start().await
}

#[tokio::test]
async fn a_new_mirror_asks_the_upstream_for_nothing_by_digest_and_for_a_head_by_tag() {
    let fixture = Fixture::start().await;
    let (hub, image) = (&fixture.hub.hub, &fixture.hub.image);
    let native = image.native();
    let by_digest = |content: &Content| format!("/v2/{NAME}/manifests/{}", content.digest);
    fixture
        .hub
        .mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect(200);
    let own = by_digest(&native.manifest);
    fixture.hub.mirror.get_manifest(&own).await.expect(200);
    for blob in native.blobs() {
        let path = fixture.hub.blob(&blob.digest);
        fixture.hub.mirror.get(&path).send().await.expect(307);
    }
    // A tag, two manifests, and the blobs.
    let objects = native.blobs().count() + 3;
    wait_for("all objects", || fixture.s3.objects().len() == objects).await;

    let mirror = fresh_mirror(hub, &fixture.s3).await;
    hub.take_requests();
    for content in [&image.index, &native.manifest] {
        let answer = mirror.get_manifest(&by_digest(content)).await.expect(200);
        assert_eq!(answer.body, content.bytes);
        assert_eq!(answer.header("content-type"), Some(content.media_type));
        assert_eq!(answer.header("cache-status"), Some("hammal; hit"));
    }
    for blob in native.blobs() {
        let path = fixture.hub.blob(&blob.digest);
        let answer = mirror.get(&path).send().await.expect(307);
        let location = answer.header("location").expect("a location");
        assert!(location.starts_with(&fixture.s3.url()), "{location}");
    }
    assert_eq!(hub.take_requests(), [""; 0]);

    let mirror = fresh_mirror(hub, &fixture.s3).await;
    let answer = mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    assert_eq!(answer.body, image.index.bytes);
    let requests = hub.take_requests();
    let of_manifests = |method: &str| {
        let line = format!("registry {method} {MANIFEST_PATH}");
        requests.iter().filter(|one| one.starts_with(&line)).count()
    };
    // The first one of the instance is challenged.
    assert_eq!(
        (of_manifests("HEAD"), of_manifests("GET")),
        (2, 0),
        "{requests:?}"
    );
}

#[tokio::test]
async fn more_manifests_are_kept_than_the_key_value_store_holds() {
    const IMAGES: usize = 600;
    let fixture = Fixture::start().await;
    let (hub, s3) = (&fixture.hub.hub, &fixture.s3);
    let path = |number: usize| format!("/v2/library/image-{number}/manifests/{TAG}");
    let index = |number: usize| {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": { "number": number.to_string() } });
        Content::new(INDEX, index.to_string())
    };
    for number in 0..IMAGES {
        let image = Image {
            index: index(number),
            platforms: Vec::new(),
        };
        hub.push(&format!("library/image-{number}"), TAG, &image);
        fixture
            .hub
            .mirror
            .get_manifest(&path(number))
            .await
            .expect(200);
    }
    wait_for("all objects", || s3.objects().len() == 2 * IMAGES).await;
    hub.script(|_, _| Some(Reply::Close));
    let mirror = fresh_mirror(hub, s3).await;
    for number in 0..IMAGES {
        let answer = mirror.get_manifest(&path(number)).await.expect(200);
        assert_eq!(answer.body, index(number).bytes);
    }
}

#[tokio::test]
async fn a_manifest_that_is_gone_upstream_does_not_come_back_from_the_store() {
    let fixture = Fixture::start().await;
    let (mirror, hub) = (&fixture.hub.mirror, &fixture.hub.hub);
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    wait_for("both objects", || fixture.s3.objects().len() == 2).await;
    hub.script(|service, received| {
        let is_gone = service == Service::Registry && received.header("authorization").is_some();
        let document = r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#;
        is_gone.then(|| Reply::new(404, &[("content-type", "application/json")], document))
    });
    mirror.get_manifest(MANIFEST_PATH).await.expect(404);
    wait_for("the tag's removal", || {
        let objects = fixture.s3.objects();
        let mut contents = objects.iter().filter_map(|name| fixture.s3.object(name));
        contents.any(|content| content.is_empty())
    })
    .await;
    hub.script(|_, _| Some(Reply::Close));
    let fresh = fresh_mirror(hub, &fixture.s3).await;
    let answer = fresh.get_manifest(MANIFEST_PATH).await;
    assert!(answer.status.is_server_error(), "{answer:?}");
}

#[tokio::test]
async fn a_changed_entry_of_the_store_is_not_believed() {
    let fixture = Fixture::start().await;
    let path = format!("/v2/{NAME}/manifests/{}", fixture.hub.image.index.digest);
    fixture.hub.mirror.get_manifest(&path).await.expect(200);
    wait_for("the object", || fixture.s3.objects().len() == 1).await;
    for entry in [
        "",
        "{}",
        r#"{"media_type":"application/vnd.oci.image.index.v1+json","text":"{}","validated_at":99999999999}"#,
    ] {
        fixture.s3.script(move |received| {
            let headers = [("etag", "\"x\"")];
            (received.method == "GET").then(|| Reply::new(200, &headers, entry))
        });
        let mirror = fresh_mirror(&fixture.hub.hub, &fixture.s3).await;
        let answer = mirror.get_manifest(&path).await.expect(200);
        assert_eq!(answer.body, fixture.hub.image.index.bytes);
        assert_eq!(answer.header("cache-status"), Some("hammal; fwd=miss"));
    }
}

/// Pulls an image while its registry works, and again through a mirror that has nothing but the
/// store, while the registry, its token server and its delivery network respond to nothing.
async fn pulls_from_the_store_alone(client: &str, pull: impl AsyncFn(&Mirror, &Path) -> String) {
    let (hub, s3) = (Hub::start().await, S3::start().await);
    let image = Image::with_layers(DOCKER, "outage", 6);
    hub.push(NAME, TAG, &image);
    for state in ["on", "off"] {
        let mirror = fresh_mirror(&hub, &s3).await;
        if state == "off" {
            hub.script(|_, _| Some(Reply::Close));
        }
        hub.take_requests();
        let folder = tempfile::tempdir().expect("a folder");
        let pulled = pull(&mirror, folder.path()).await;
        assert!(
            pulled.contains(&image.native().config.digest),
            "{client}, {state}: {pulled}"
        );
        let requests = hub.take_requests();
        println!(
            "{client}, six layers, upstream {state}: {} upstream requests",
            requests.len()
        );
        let is_kept = |blob: &Content| {
            let hex = blob.digest.trim_start_matches("sha256:");
            s3.objects().iter().any(|name| name.ends_with(hex))
        };
        wait_for("the copies", || image.native().blobs().all(is_kept)).await;
    }
}

#[tokio::test]
async fn dockerd_28_pulls_a_kept_image_from_the_store_alone() {
    if let Some(programs) = pulls::dockerd_28() {
        pulls_from_the_store_alone("dockerd 28", async |mirror, folder| {
            pulls::pull_with_dockerd(&programs, mirror, folder).await
        })
        .await;
    }
}

#[tokio::test]
async fn containerd_2_pulls_a_kept_image_from_the_store_alone() {
    if let Some(programs) = pulls::containerd_2() {
        pulls_from_the_store_alone("containerd 2", async |mirror, folder| {
            pulls::pull_with_containerd(&programs, mirror, folder).await
        })
        .await;
    }
}
