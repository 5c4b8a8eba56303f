//! What the mirror refuses by itself, and what an upstream doesn't have. Always an OCI document.

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use test_support::hub::Place;
use test_support::image::digest;
use test_support::server::Reply;

const MANIFEST: &str = "/v2/team/app/manifests/1.0";

fn blob() -> String {
    format!("/v2/team/app/blobs/{}", digest(b"a layer"))
}

#[tokio::test]
async fn malformed_requests_are_refused_here_with_the_right_code() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let hex = "a".repeat(64);
    let long = format!("{}/x", "a".repeat(254));
    let tag = "t".repeat(129);
    let cases = [
        (
            "/v2/Team/app/manifests/1.0".to_string(),
            400,
            "NAME_INVALID",
        ),
        (
            "/v2/team//app/manifests/1.0".to_string(),
            400,
            "NAME_INVALID",
        ),
        ("/v2//manifests/1.0".to_string(), 400, "NAME_INVALID"),
        ("/v2/-team/manifests/1.0".to_string(), 400, "NAME_INVALID"),
        (
            "/v2/team/app.../manifests/1.0".to_string(),
            400,
            "NAME_INVALID",
        ),
        ("/v2/team/../manifests/1.0".to_string(), 400, "NAME_INVALID"),
        (
            "/v2/team/%2e%2e/manifests/1.0".to_string(),
            400,
            "NAME_INVALID",
        ),
        ("/v2/te%20am/manifests/1.0".to_string(), 400, "NAME_INVALID"),
        ("/v2/te%00am/manifests/1.0".to_string(), 400, "NAME_INVALID"),
        ("/v2/te%ffam/manifests/1.0".to_string(), 400, "NAME_INVALID"),
        (
            "/v2/team%2Fapp%3Fx/manifests/1.0".to_string(),
            400,
            "NAME_INVALID",
        ),
        (format!("/v2/{long}/manifests/1.0"), 400, "NAME_INVALID"),
        (
            "/v2/team/app/manifests/.INVALID_MANIFEST_NAME".to_string(),
            404,
            "MANIFEST_INVALID",
        ),
        (
            "/v2/team/app/manifests/a%0d%0ab".to_string(),
            404,
            "MANIFEST_INVALID",
        ),
        (
            format!("/v2/team/app/manifests/{tag}"),
            404,
            "MANIFEST_INVALID",
        ),
        (
            "/v2/team/app/manifests/sha256:abc".to_string(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "/v2/team/app/blobs/latest".to_string(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "/v2/team/app/blobs/sha256:".to_string(),
            400,
            "DIGEST_INVALID",
        ),
        (
            format!("/v2/team/app/blobs/sha256:{}", &hex[1..]),
            400,
            "DIGEST_INVALID",
        ),
        (
            format!("/v2/team/app/blobs/sha256:{}g", &hex[1..]),
            400,
            "DIGEST_INVALID",
        ),
        (
            format!("/v2/team/app/blobs/SHA256:{hex}"),
            400,
            "DIGEST_INVALID",
        ),
        (
            "/v2/team/app/referrers/latest".to_string(),
            400,
            "DIGEST_INVALID",
        ),
        ("/v2/team/app".to_string(), 404, "UNSUPPORTED"),
        ("/v2/team/app/nothing/x".to_string(), 404, "UNSUPPORTED"),
        (
            "/v2/team/app/blobs/uploads/".to_string(),
            404,
            "UNSUPPORTED",
        ),
        ("/v2/_other".to_string(), 404, "UNSUPPORTED"),
    ];
    let mut wrong = Vec::new();
    for (target, status, code) in cases {
        let answer = mirror.get(&target).accept_manifests().send().await;
        let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let got = document["errors"][0]["code"]
            .as_str()
            .unwrap_or("nothing")
            .to_string();
        if (answer.status.as_u16(), &*got) != (status, code) {
            wrong.push(format!(
                "{target}: {} {got}, expected {status} {code}",
                answer.status
            ));
        } else {
            answer.expect_error(status, code);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        hub.lines().is_empty(),
        "nothing malformed goes upstream: {:?}",
        hub.lines()
    );
}

#[tokio::test]
async fn names_tags_and_digests_of_every_allowed_form_are_forwarded() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let sha512 = format!("sha512:{}", "b".repeat(128));
    let long = format!("{}/{}", "a".repeat(127), "b".repeat(127));
    let targets = [
        "/v2/a/manifests/_".to_string(),
        "/v2/a0/b__c/d.e/f---g/manifests/V1.0_rc-1".to_string(),
        format!("/v2/{long}/manifests/{}", "t".repeat(128)),
        format!("/v2/team/app/blobs/{sha512}"),
        format!("/v2/team/app/manifests/{sha512}"),
        "/v2/manifests/manifests/manifests".to_string(),
        format!("/v2/team/blobs/manifests/{}", digest(b"")),
        "/v2/team/tags/tags/list".to_string(),
    ];
    for target in targets {
        let answer = mirror.get(&target).accept_manifests().send().await;
        assert_eq!(answer.status, 404, "{target}: {answer:?}");
        let last = hub.seen(Place::Registry).pop().expect("a request");
        assert_eq!(last.target, target);
    }
}

#[tokio::test]
async fn writes_are_refused_and_never_forwarded() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let layer = blob();
    let cases = [
        ("PUT", MANIFEST),
        ("DELETE", MANIFEST),
        ("DELETE", &*layer),
        ("POST", "/v2/team/app/blobs/uploads/"),
        ("POST", "/v2/"),
        ("PATCH", "/v2/team/app/blobs/uploads/1"),
        ("OPTIONS", MANIFEST),
        ("BREW", MANIFEST),
    ];
    for (method, target) in cases {
        let answer = mirror.request(method, target).body("{}").send().await;
        assert_eq!(answer.status, 405, "{method} {target}: {answer:?}");
        let answer = answer.expect_error(405, "UNSUPPORTED");
        assert_eq!(
            answer.header("allow"),
            Some("GET, HEAD"),
            "{method} {target}"
        );
    }
    assert!(hub.lines().is_empty(), "{:?}", hub.lines());
}

#[tokio::test]
async fn the_body_of_a_get_stays_here() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let answer = mirror
        .get(&format!("/v2/{NAME}/manifests/latest"))
        .accept_manifests()
        .body("smuggled")
        .send()
        .await;
    assert!(matches!(answer.status.as_u16(), 200 | 400), "{answer:?}");
    assert!(
        hub.seen(Place::Registry)
            .iter()
            .all(|seen| seen.body.is_empty())
    );
}

#[tokio::test]
async fn head_of_an_error_has_no_body() {
    let HubFixture {
        mirror, hub: _hub, ..
    } = HubFixture::start().await;
    for (target, status) in [
        ("/v2/Team/app/manifests/1.0", 400),
        ("/v2/team/app/manifests/1.0", 404),
        ("/nowhere", 404),
    ] {
        let answer = mirror
            .head(target)
            .accept_manifests()
            .send()
            .await
            .expect(status);
        assert!(answer.body.is_empty(), "{target}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/json"),
            "{target}"
        );
    }
}

#[tokio::test]
async fn what_the_upstream_does_not_have_is_a_404_of_the_right_kind() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let answer = mirror
        .get(&format!("/v2/{NAME}/manifests/missing"))
        .accept_manifests()
        .send()
        .await;
    answer.expect_error(404, "MANIFEST_UNKNOWN");
    let missing = digest(b"missing");
    mirror
        .get(&format!("/v2/{NAME}/blobs/{missing}"))
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    mirror
        .get("/v2/nobody/nothing/tags/list")
        .send()
        .await
        .expect_error(404, "NAME_UNKNOWN");

    // The same where the upstream says it in its own way.
    hub.script(|place, _| {
        (place == Place::Registry)
            .then(|| Reply::new(404, &[("content-type", "text/html")], "<h1>Not Found</h1>"))
    });
    let answer = mirror
        .get(&format!("/v2/{NAME}/manifests/missing"))
        .accept_manifests()
        .send()
        .await;
    assert!(
        !answer
            .expect_error(404, "MANIFEST_UNKNOWN")
            .text()
            .contains("<h1>")
    );
    mirror
        .get(&format!("/v2/{NAME}/blobs/{missing}"))
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn docker_hubs_429_becomes_a_document_with_its_retry_after() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    hub.script(|place, _| {
        let headers = [
            ("content-type", "text/plain"),
            ("retry-after", "60"),
            ("ratelimit-remaining", "0;w=21600"),
        ];
        (place == Place::Registry).then(|| Reply::new(429, &headers, "Too Many Requests (HAP429)"))
    });
    for target in [
        format!("/v2/{NAME}/manifests/latest"),
        format!("/v2/{NAME}/blobs/{}", image.index.digest),
    ] {
        let answer = mirror
            .get(&target)
            .accept_manifests()
            .send()
            .await
            .expect_error(429, "TOOMANYREQUESTS");
        assert_eq!(answer.header("retry-after"), Some("60"));
    }
}

#[tokio::test]
async fn writes_are_not_forwarded() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    for method in ["PUT", "POST", "PATCH", "DELETE"] {
        mirror
            .request(method, MANIFEST_PATH)
            .body("{}")
            .send()
            .await
            .expect_error(405, "UNSUPPORTED");
    }
    assert!(hub.lines().is_empty(), "{:?}", hub.lines());
}
