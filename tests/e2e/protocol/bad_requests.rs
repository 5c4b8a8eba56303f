//! Malformed requests, writes, and content that the upstream does not have: always an OCI error
//! document.

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use test_support::hub::Service;
use test_support::image::digest;
use test_support::server::Reply;

const MANIFEST: &str = "/v2/team/app/manifests/1.0";

fn blob() -> String {
    format!("/v2/team/app/blobs/{}", digest(b"a layer"))
}

#[tokio::test]
async fn malformed_requests_are_refused_with_the_right_code() {
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
        let response = mirror.get_manifest(&target).await;
        let document: serde_json::Value =
            serde_json::from_slice(&response.body).unwrap_or_default();
        let got = document["errors"][0]["code"]
            .as_str()
            .unwrap_or("nothing")
            .to_string();
        if (response.status.as_u16(), &*got) != (status, code) {
            wrong.push(format!(
                "{target}: {} {got}, expected {status} {code}",
                response.status
            ));
        } else {
            response.expect_error(status, code);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        hub.requests().is_empty(),
        "nothing malformed goes upstream: {:?}",
        hub.requests()
    );
}

#[tokio::test]
async fn valid_names_tags_and_digests_are_forwarded() {
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
        let response = mirror.get_manifest(&target).await;
        assert_eq!(response.status, 404, "{target}: {response:?}");
        let last = hub.received(Service::Registry).pop().expect("a request");
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
        let response = mirror.request(method, target).body("{}").send().await;
        assert_eq!(response.status, 405, "{method} {target}: {response:?}");
        let response = response.expect_error(405, "UNSUPPORTED");
        assert_eq!(
            response.header("allow"),
            Some("GET, HEAD"),
            "{method} {target}"
        );
    }
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());
}

#[tokio::test]
async fn the_body_of_a_get_is_not_forwarded() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let response = mirror
        .get(MANIFEST_PATH)
        .accept_manifests()
        .body("smuggled")
        .send()
        .await;
    assert!(
        matches!(response.status.as_u16(), 200 | 400),
        "{response:?}"
    );
    assert!(
        hub.received(Service::Registry)
            .iter()
            .all(|received| received.body.is_empty())
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
        let response = mirror
            .head(target)
            .accept_manifests()
            .send()
            .await
            .expect(status);
        assert!(response.body.is_empty(), "{target}");
        assert_eq!(
            response.header("content-type"),
            Some("application/json"),
            "{target}"
        );
    }
}

#[tokio::test]
async fn missing_content_is_a_404_with_the_right_code() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let response = mirror
        .get_manifest(&format!("/v2/{NAME}/manifests/missing"))
        .await;
    response.expect_error(404, "MANIFEST_UNKNOWN");
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

    // The same where the upstream's 404 is not an OCI document.
    hub.script(|service, _| {
        (service == Service::Registry)
            .then(|| Reply::new(404, &[("content-type", "text/html")], "<h1>Not Found</h1>"))
    });
    let response = mirror
        .get_manifest(&format!("/v2/{NAME}/manifests/missing"))
        .await;
    assert!(
        !response
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
async fn a_429_keeps_its_retry_after() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    hub.script(|service, _| {
        let headers = [
            ("content-type", "text/plain"),
            ("retry-after", "60"),
            ("ratelimit-remaining", "0;w=21600"),
        ];
        (service == Service::Registry)
            .then(|| Reply::new(429, &headers, "Too Many Requests (HAP429)"))
    });
    for target in [
        MANIFEST_PATH.to_owned(),
        format!("/v2/{NAME}/blobs/{}", image.index.digest),
    ] {
        let response = mirror
            .get_manifest(&target)
            .await
            .expect_error(429, "TOOMANYREQUESTS");
        assert_eq!(response.header("retry-after"), Some("60"));
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
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());
}
