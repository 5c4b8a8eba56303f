//! A pull from beginning to end, and what it costs the upstream.

use crate::support::client::Request;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use crate::support::mirror::Options;
use test_support::hub::{Hub, Place};
use test_support::image::{INDEX, Image, digest};
use test_support::server::Reply;

#[tokio::test]
async fn a_pull_as_dockerd_does_it_costs_one_token_and_one_request_each() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let platform = image.here();

    let ping = mirror.get("/v2/").send().await.expect(200);
    assert_eq!(
        ping.header("docker-distribution-api-version"),
        Some("registry/2.0")
    );
    assert!(
        hub.lines().is_empty(),
        "the ping is answered here: {:?}",
        hub.lines()
    );

    let tag = format!("/v2/{NAME}/manifests/latest");
    let head = mirror
        .head(&tag)
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
        let answer = mirror
            .get(&target)
            .accept_manifests()
            .send()
            .await
            .expect(200);
        assert_eq!(answer.body, content.bytes);
        assert_eq!(answer.header("content-type"), Some(content.media_type));
        assert_eq!(
            answer.header("docker-content-digest"),
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
        let answer = Request::of_url(redirect.header("location").expect("a location"))
            .send()
            .await
            .expect(200);
        assert_eq!(digest(&answer.body), blob.digest);
    }

    let mut expected = vec![
        format!("registry HEAD {tag}"),
        "tokens GET".into(),
        format!("registry HEAD {tag}"),
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
    assert_eq!(hub.lines(), expected);
    let token = &hub.seen(Place::Tokens)[0];
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
async fn a_new_repository_on_a_known_upstream_costs_one_token_and_one_request() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.push("other/image", "1.0", &Image::oci());
    mirror
        .get(&format!("/v2/{NAME}/manifests/latest"))
        .accept_manifests()
        .send()
        .await
        .expect(200);
    hub.take_lines();

    mirror
        .get("/v2/other/image/manifests/1.0")
        .accept_manifests()
        .send()
        .await
        .expect(200);
    assert_eq!(
        hub.lines(),
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
    let target = format!("/v2/{NAME}/manifests/latest");
    mirror
        .get(&target)
        .accept_manifests()
        .send()
        .await
        .expect(200);
    hub.take_lines();

    // What is written after the answer has left is written before its line of the log.
    mirror.log(1).await;
    mirror.restart().await;
    let answer = mirror
        .get(&target)
        .accept_manifests()
        .send()
        .await
        .expect(200);
    assert_eq!(answer.body, image.index.bytes);
    assert_eq!(hub.lines(), [format!("registry HEAD {target}")]);
}

#[tokio::test]
async fn the_process_ends_cleanly_on_sigterm() {
    let HubFixture { mut mirror, .. } = HubFixture::start().await;
    mirror.get("/v2/").send().await.expect(200);
    assert!(mirror.stop(), "{:?}", mirror.stderr());
}

#[tokio::test]
async fn a_one_part_name_stays_as_it_is_outside_docker_hub() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    hub.push("alpine", "latest", &image);
    mirror
        .get("/v2/alpine/manifests/latest")
        .accept_manifests()
        .send()
        .await
        .expect(200);
    assert_eq!(hub.lines()[2], "registry GET /v2/alpine/manifests/latest");
}

#[tokio::test]
async fn tags_page_through_their_links_to_the_end() {
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

/// The target of `Link: <...>; rel="next"`, which has to lead back to the mirror.
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
async fn a_list_of_another_upstream_pages_on_there() {
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
    let asked = other.seen(Place::Registry);
    assert!(
        asked.iter().all(|seen| !seen.target.contains("upstream")),
        "{asked:?}"
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
    assert_eq!(hub.lines().last(), Some(&format!("registry GET {target}")));
}

#[tokio::test]
async fn a_manifest_that_is_redirected_is_followed_here() {
    let elsewhere = Hub::start().await;
    let HubFixture { mirror, hub, image } =
        HubFixture::with(|options| options.plain_http(elsewhere.addresses())).await;
    elsewhere.push(NAME, "latest", &image);
    let target = format!("/v2/{NAME}/manifests/latest");
    let location = format!("http://{}{target}", elsewhere.address());
    hub.script(move |place, seen| {
        let moved = place == Place::Registry && seen.path().contains("/manifests/");
        moved.then(|| Reply::new(307, &[("location", &location)], ""))
    });

    for _ in 0..2 {
        let head = mirror
            .head(&target)
            .accept_manifests()
            .send()
            .await
            .expect(200);
        assert_eq!(
            head.header("docker-content-digest"),
            Some(&*image.index.digest)
        );
        let answer = mirror
            .get(&target)
            .accept_manifests()
            .send()
            .await
            .expect(200);
        assert_eq!(answer.body, image.index.bytes);
    }
    let moved = elsewhere.seen(Place::Registry);
    assert!(
        moved.iter().any(|seen| seen.method == "HEAD"),
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
async fn connections_to_the_upstream_are_used_again() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    for _ in 0..20 {
        mirror
            .get(&format!("/v2/{NAME}/manifests/latest"))
            .accept_manifests()
            .send()
            .await
            .expect(200);
    }
    assert_eq!(hub.lines().len(), 22);
    assert!(
        hub.connections() <= 5,
        "{} connections for 22 requests",
        hub.connections()
    );
}

#[tokio::test]
async fn a_request_does_not_ask_the_upstream_twice() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    mirror
        .get(MANIFEST_PATH)
        .accept_manifests()
        .send()
        .await
        .expect(200);
    hub.take_lines();
    for _ in 0..3 {
        mirror
            .get(MANIFEST_PATH)
            .accept_manifests()
            .send()
            .await
            .expect(200);
    }
    assert_eq!(
        hub.lines(),
        vec![format!("registry HEAD {MANIFEST_PATH}"); 3]
    );
}
