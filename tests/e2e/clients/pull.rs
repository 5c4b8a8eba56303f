//! The requests of a pull, one by one, and the upstream requests that they take.

use crate::support::client::Request;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use crate::support::mirror::Options;
use test_support::hub::{Hub, Service};
use test_support::image::{INDEX, Image, digest};
use test_support::server::Reply;

#[tokio::test]
async fn a_pull_needs_one_token_and_one_request_each() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let platform = image.native();

    let ping = mirror.get("/v2/").send().await.expect(200);
    assert_eq!(
        ping.header("docker-distribution-api-version"),
        Some("registry/2.0")
    );
    assert!(
        hub.requests().is_empty(),
        "the ping is answered here: {:?}",
        hub.requests()
    );
    let head = mirror
        .head(MANIFEST_PATH)
        .accept_manifests()
        .send()
        .await
        .expect(200);
    assert_eq!(
        head.header("docker-content-digest"),
        Some(&*image.index.digest)
    );
    assert_eq!(head.header("content-type"), Some(INDEX));
    assert_eq!(
        head.header("content-length"),
        Some(&*image.index.bytes.len().to_string())
    );
    assert!(head.body.is_empty());

    for content in [&image.index, &platform.manifest] {
        let target = format!("/v2/{NAME}/manifests/{}", content.digest);
        let response = mirror.get_manifest(&target).await.expect(200);
        assert_eq!(response.body, content.bytes);
        assert_eq!(response.header("content-type"), Some(content.media_type));
        assert_eq!(
            response.header("docker-content-digest"),
            Some(&*content.digest)
        );
    }
    for blob in platform.blobs() {
        let redirect = mirror
            .get(&format!("/v2/{NAME}/blobs/{}", blob.digest))
            .send()
            .await
            .expect(307);
        assert_eq!(
            redirect.header("location"),
            Some(&*hub.blob_url(&blob.digest))
        );
        let response = Request::get_url(redirect.header("location").expect("a location"))
            .send()
            .await
            .expect(200);
        assert_eq!(digest(&response.body), blob.digest);
    }

    let mut expected = vec![
        format!("registry HEAD {MANIFEST_PATH}"),
        "tokens GET".into(),
        format!("registry HEAD {MANIFEST_PATH}"),
        format!("registry GET /v2/{NAME}/manifests/{}", image.index.digest),
        format!(
            "registry GET /v2/{NAME}/manifests/{}",
            platform.manifest.digest
        ),
    ];
    for blob in platform.blobs() {
        expected.push(format!("registry GET /v2/{NAME}/blobs/{}", blob.digest));
        expected.push("cdn GET".into());
    }
    assert_eq!(hub.requests(), expected);
    let token = &hub.received(Service::Tokens)[0];
    let scope = format!("repository:{NAME}:pull");
    assert_eq!(
        token.query(),
        [
            ("service".into(), "registry.docker.io".into()),
            ("scope".into(), scope)
        ]
    );
}

#[tokio::test]
async fn a_new_repository_needs_one_token_and_one_request() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.push("other/image", "1.0", &Image::oci());
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    hub.take_requests();

    mirror
        .get_manifest("/v2/other/image/manifests/1.0")
        .await
        .expect(200);
    assert_eq!(
        hub.requests(),
        ["tokens GET", "registry GET /v2/other/image/manifests/1.0"]
    );
}

#[tokio::test]
async fn the_token_survives_a_restart() {
    let HubFixture {
        mut mirror,
        hub,
        image,
    } = HubFixture::start().await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    hub.take_requests();

    // The store is written after the response, and before the line of the log.
    mirror.log(1).await;
    mirror.restart().await;
    let response = mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    assert_eq!(response.body, image.index.bytes);
    assert_eq!(hub.requests(), [format!("registry HEAD {MANIFEST_PATH}")]);
}

#[tokio::test]
async fn the_process_ends_cleanly_on_sigterm() {
    let HubFixture { mut mirror, .. } = HubFixture::start().await;
    mirror.get("/v2/").send().await.expect(200);
    assert!(mirror.stop(), "{:?}", mirror.stderr());
}

#[tokio::test]
async fn a_one_part_name_is_kept_outside_docker_hub() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    hub.push("alpine", "latest", &image);
    mirror
        .get_manifest("/v2/alpine/manifests/latest")
        .await
        .expect(200);
    assert_eq!(
        hub.requests()[2],
        "registry GET /v2/alpine/manifests/latest"
    );
}

#[tokio::test]
async fn tags_are_listed_page_by_page() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    for tag in ["3.18", "3.19", "3.20", "edge"] {
        hub.push(NAME, tag, &image);
    }
    let mut target = format!("/v2/{NAME}/tags/list?n=2");
    let mut tags = Vec::new();
    for _ in 0..5 {
        let page = mirror.get(&target).send().await.expect(200);
        let document = page.json();
        assert_eq!(document["name"], NAME);
        let names = document["tags"].as_array().expect("tags").iter();
        tags.extend(names.map(|tag| tag.as_str().expect("a tag").to_string()));
        let Some(link) = page.header("link") else {
            break;
        };
        target = next(link, &mirror.address().to_string());
    }
    assert_eq!(tags, ["3.18", "3.19", "3.20", "edge", "latest"]);
}

/// Returns the target of `Link: <...>; rel="next"`, on the mirror.
fn next(link: &str, mirror: &str) -> String {
    let (url, rel) = link
        .strip_prefix('<')
        .and_then(|link| link.split_once('>'))
        .expect("a link");
    assert!(
        rel.contains("rel=\"next\"") || rel.contains("rel=next"),
        "{link}"
    );
    url.strip_prefix(&format!("http://{mirror}"))
        .unwrap_or(url)
        .to_string()
}

#[tokio::test]
async fn a_list_of_another_upstream_links_to_that_upstream() {
    let other = Hub::start().await;
    for tag in ["a", "b", "c"] {
        other.push("team/app", tag, &Image::oci());
    }
    let mirror = Options::default()
        .plain_http(other.addresses())
        .start()
        .await;
    let upstream = other.address();
    let page = mirror
        .get(&format!("/v2/team/app/tags/list?upstream={upstream}&n=2"))
        .send()
        .await
        .expect(200);
    let target = next(
        page.header("link").expect("a link"),
        &mirror.address().to_string(),
    );
    let page = mirror.get(&target).send().await.expect(200);
    assert_eq!(page.json()["tags"], serde_json::json!(["c"]), "{target}");
    let requests = other.received(Service::Registry);
    assert!(
        requests
            .iter()
            .all(|received| !received.target.contains("upstream")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn the_catalog_and_referrers_are_forwarded() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let catalog = mirror.get("/v2/_catalog?n=10").send().await.expect(200);
    assert_eq!(catalog.json()["repositories"], serde_json::json!([NAME]));

    let target = format!(
        "/v2/{NAME}/referrers/{}?artifactType=application%2Fspdx%2Bjson",
        image.index.digest
    );
    let referrers = mirror.get(&target).send().await.expect(200);
    assert_eq!(referrers.json()["manifests"], serde_json::json!([]));
    assert_eq!(referrers.header("content-type"), Some(INDEX));
    assert_eq!(
        referrers.header("oci-filters-applied"),
        Some("artifactType")
    );
    assert_eq!(
        hub.requests().last(),
        Some(&format!("registry GET {target}"))
    );
}

#[tokio::test]
async fn a_manifest_redirect_is_followed_by_the_mirror() {
    let elsewhere = Hub::start().await;
    let HubFixture { mirror, hub, image } =
        HubFixture::with(|options| options.plain_http(elsewhere.addresses())).await;
    elsewhere.push(NAME, "latest", &image);
    let location = format!("http://{}{MANIFEST_PATH}", elsewhere.address());
    hub.script(move |service, received| {
        let moved = service == Service::Registry && received.path().contains("/manifests/");
        moved.then(|| Reply::new(307, &[("location", &location)], ""))
    });

    for _ in 0..2 {
        let head = mirror
            .head(MANIFEST_PATH)
            .accept_manifests()
            .send()
            .await
            .expect(200);
        assert_eq!(
            head.header("docker-content-digest"),
            Some(&*image.index.digest)
        );
        let response = mirror.get_manifest(MANIFEST_PATH).await.expect(200);
        assert_eq!(response.body, image.index.bytes);
    }
    let moved = elsewhere.received(Service::Registry);
    assert!(
        moved.iter().any(|received| received.method == "HEAD"),
        "a HEAD stays a HEAD"
    );
    assert_eq!(
        moved[0].headers.get_all("accept").iter().count(),
        4,
        "{:?}",
        moved[0]
    );
}

#[tokio::test]
async fn upstream_connections_are_reused() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    for _ in 0..20 {
        mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    }
    assert_eq!(hub.requests().len(), 22);
    assert!(
        hub.connections() <= 5,
        "{} connections for 22 requests",
        hub.connections()
    );
}

#[tokio::test]
async fn a_request_needs_one_upstream_request() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    hub.take_requests();
    for _ in 0..3 {
        mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    }
    assert_eq!(
        hub.requests(),
        vec![format!("registry HEAD {MANIFEST_PATH}"); 3]
    );
}
