//! Registries that only a client names: their owners may be anybody.

use super::*;

const EVIL: &str = "?upstream=evil.example";

#[tokio::test]
async fn they_lead_to_registry_paths_of_the_same_kind_only() {
    let tags = "/v2/library/alpine/tags/list";
    let referrers = format!("/v2/library/alpine/referrers/{DIGEST}");
    let is_list = |path: &str| path == tags;
    for (path, location, followed) in [
        (MANIFEST, "https://victim.example/api?x=1", None),
        (MANIFEST, "https://victim.example/", None),
        (MANIFEST, "https://evil.example/api", None),
        (MANIFEST, "https://victim.example/v2/", None),
        (MANIFEST, "https://victim.example/v2/_catalog", None),
        (MANIFEST, "https://victim.example/v2/a/tags/list", None),
        (MANIFEST, "https://victim.example/x/v2/a/manifests/1", None),
        (
            MANIFEST,
            "https://other.example/v2/a/manifests/1?delete=all&ns=b",
            Some("https://other.example/v2/a/manifests/1?ns=b"),
        ),
        (
            MANIFEST,
            "https://other.example/v2/a%2Fb/manifests/1",
            Some("https://other.example/v2/a/b/manifests/1"),
        ),
        (
            MANIFEST,
            "/v2/b/manifests/1",
            Some("https://evil.example/v2/b/manifests/1"),
        ),
        (tags, "https://victim.example/api/tags", None),
        (tags, "https://victim.example/v2/a/manifests/1", None),
        (
            tags,
            "https://other.example/v2/a/tags/list?n=5&last=x&y=z",
            Some("https://other.example/v2/a/tags/list?n=5&last=x"),
        ),
        (&referrers, "https://victim.example/docs", None),
    ] {
        let json = "application/json";
        let content = if is_list(path) {
            answer(200, &[("content-type", json)], "{}")
        } else {
            manifest()
        };
        let platform = Scripted::new([redirect(location), content]);
        let received = send(
            &Mirror::new(platform.clone()),
            get(&format!("{path}{EVIL}")),
        )
        .await;
        let sent = platform.sent();
        assert_eq!(
            sent.get(1).map(String::as_str),
            followed.map(|url| format!("GET {url}")).as_deref(),
            "{location}"
        );
        let refused = if path == referrers { 404 } else { 502 };
        assert_eq!(
            received.status(),
            followed.map_or(refused, |_| 200),
            "{location}"
        );
    }
}

#[tokio::test]
async fn what_the_operator_names_may_keep_manifests_in_a_bucket() {
    let bucket = "https://bucket.example/signed?x=1";
    for (variable, value) in [
        ("upstream", "registry.example"),
        ("allowed_upstreams", "registry.example, bucket.example"),
        ("allowed_upstreams", "*.example"),
        ("host_upstreams", "m.example=registry.example"),
    ] {
        let platform = Scripted::new([redirect(bucket), redirect(bucket), manifest()]);
        platform.set_variable(variable, value);
        let path = "/v2/a/manifests/1?upstream=registry.example";
        let received = send(&Mirror::new(platform.clone()), get(path)).await;
        assert_eq!(received.status(), 200, "{variable}={value}");
        assert_eq!(platform.sent().last().unwrap(), &format!("GET {bucket}"));
    }
}

#[tokio::test]
async fn their_entries_never_push_out_the_operators() {
    let platform = Scripted::new([]);
    platform.set_variable("manifest_cache", "on");
    let content = r#"{"schemaVersion":2,"manifests":[]}"#;
    let digest = crate::oci::digest::Digest::of(content.as_bytes());
    let headers = [
        ("content-type", "application/vnd.oci.image.index.v1+json"),
        ("docker-content-digest", digest.as_str()),
    ];
    let sends = || answer(200, &headers, content);
    platform.add_answers([sends()]);
    send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
    // More than all buckets hold.
    for number in 0..3000 {
        platform.add_answers([sends()]);
        let path = format!("/v2/a/manifests/t{number}?upstream=evil.example");
        assert_eq!(
            send(&Mirror::new(platform.clone()), get(&path))
                .await
                .status(),
            200
        );
    }
    platform.fail_at_end(TransportError::Connect);
    let received = send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
    assert_eq!(
        (received.status(), received.text().as_str()),
        (200, content)
    );
    assert!(platform.store().len() <= 993, "{}", platform.store().len());
}
