//! Faults of upstreams, and the errors that clients get.

use super::*;

#[tokio::test]
async fn each_fault_of_an_upstream_has_its_error() {
    let blob = format!("/v2/library/alpine/blobs/{DIGEST}");
    for (fault, manifest_sees, blob_sees) in [
        (
            Err(TransportError::Dns),
            (502, "UNAVAILABLE"),
            (404, "BLOB_UNKNOWN"),
        ),
        (
            Err(TransportError::Connect),
            (502, "UNAVAILABLE"),
            (404, "BLOB_UNKNOWN"),
        ),
        (
            Err(TransportError::Tls),
            (502, "UNAVAILABLE"),
            (404, "BLOB_UNKNOWN"),
        ),
        (
            Err(TransportError::TimedOut),
            (504, "UNAVAILABLE"),
            (404, "BLOB_UNKNOWN"),
        ),
        (
            Err(TransportError::Forbidden),
            (502, "UNAVAILABLE"),
            (404, "BLOB_UNKNOWN"),
        ),
        (
            Err(TransportError::Broken),
            (502, "UNAVAILABLE"),
            (404, "BLOB_UNKNOWN"),
        ),
        (
            answer(400, &[], "secret words"),
            (400, "UNSUPPORTED"),
            (404, "BLOB_UNKNOWN"),
        ),
        (
            answer(403, &[], "secret words"),
            (403, "DENIED"),
            (403, "DENIED"),
        ),
        (
            answer(404, &[], "secret words"),
            (404, "MANIFEST_UNKNOWN"),
            (404, "BLOB_UNKNOWN"),
        ),
        (
            answer(429, &[("retry-after", "7")], "secret words"),
            (429, "TOOMANYREQUESTS"),
            (429, "TOOMANYREQUESTS"),
        ),
        (
            answer(451, &[], "secret words"),
            (403, "DENIED"),
            (403, "DENIED"),
        ),
        (
            answer(500, &[], "secret words"),
            (502, "UNAVAILABLE"),
            (404, "BLOB_UNKNOWN"),
        ),
        (
            answer(503, &[], "secret words"),
            (503, "UNAVAILABLE"),
            (404, "BLOB_UNKNOWN"),
        ),
        (
            answer(204, &[], ""),
            (502, "UNAVAILABLE"),
            (404, "BLOB_UNKNOWN"),
        ),
        (
            answer(307, &[], ""),
            (502, "UNAVAILABLE"),
            (404, "BLOB_UNKNOWN"),
        ),
    ] {
        for (path, (status, code)) in [(MANIFEST, manifest_sees), (blob.as_str(), blob_sees)] {
            let fault = match &fault {
                Err(fault) => Err(*fault),
                Ok(response) => Ok(response.clone()),
            };
            let described = format!("{path} {fault:?}");
            let again = (fault.as_ref().err() == Some(&TransportError::Broken))
                .then_some(Err(TransportError::Broken));
            let platform = Scripted::new([fault].into_iter().chain(again));
            let received = send(&Mirror::new(platform.clone()), get(path)).await;
            assert_eq!(
                (received.status(), received.code().as_str()),
                (status, code),
                "{described}"
            );
            assert!(!received.text().contains("secret words"));
            assert_eq!(
                received.header("retry-after"),
                (code == "TOOMANYREQUESTS").then_some("7")
            );
        }
    }
}

#[tokio::test]
async fn repeats_a_request_that_a_closing_connection_lost() {
    let broken = || Err(TransportError::Broken);
    let platform = Scripted::new([
        broken(),
        challenge(),
        broken(),
        token("one"),
        broken(),
        manifest(),
    ]);
    assert_eq!(
        send(&Mirror::new(platform.clone()), get(MANIFEST))
            .await
            .status(),
        200
    );
    let (hub, bearer) = (
        format!("GET {HUB}{MANIFEST}"),
        format!("GET {HUB}{MANIFEST} Bearer one"),
    );
    let fetch = format!("GET {TOKEN_URL}");
    assert_eq!(
        platform.sent(),
        [&hub, &hub, &fetch, &fetch, &bearer, &bearer].map(String::as_str)
    );
    assert!(
        platform.log()[0].contains("upstream_requests=4"),
        "{:?}",
        platform.log()
    );

    // What breaks later is no retiring connection's.
    let platform = Scripted::new([broken()]);
    platform.set_exchange_duration(Duration::from_secs(2));
    assert_eq!(
        send(&Mirror::new(platform.clone()), get(MANIFEST))
            .await
            .status(),
        502
    );
    assert_eq!(platform.sent().len(), 1);
}

#[tokio::test]
async fn passes_on_only_the_content_of_registries() {
    let headers = [
        ("content-type", "application/vnd.oci.image.index.v1+json"),
        ("docker-content-digest", DIGEST),
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "99;w=21600"),
        ("docker-ratelimit-source", "192.0.2.1"),
        ("set-cookie", "a=b"),
        ("server", "nginx"),
        ("www-authenticate", "Bearer x=y"),
        ("content-security-policy", "upgrade"),
        ("strict-transport-security", "max-age=1"),
        ("access-control-allow-origin", "*"),
    ];
    let platform = Scripted::new([answer(200, &headers, "{}")]);
    let received = send(&Mirror::new(platform), get(MANIFEST)).await;
    let mut names: Vec<_> = received
        .0
        .headers()
        .keys()
        .map(|name| name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "cache-control",
            "content-security-policy",
            "content-type",
            "docker-content-digest",
            "docker-distribution-api-version",
            "docker-ratelimit-source",
            "etag",
            "ratelimit-limit",
            "ratelimit-remaining",
            "vary",
            "x-content-type-options",
            "x-request-id",
        ]
    );
    assert_eq!(
        received.header("content-security-policy"),
        Some("default-src 'none'; sandbox")
    );
}

#[tokio::test]
async fn tells_clients_that_referrers_are_not_supported() {
    let referrers = format!("/v2/library/alpine/referrers/{DIGEST}");
    for (status, content_type, seen_status) in [
        (400, "application/json", 404),
        (404, "application/json", 404),
        (405, "application/json", 404),
        (406, "application/json", 404),
        (501, "application/json", 404),
        (200, "text/html", 404),
        (200, "image/svg+xml", 404),
        (500, "application/json", 502),
        (503, "application/json", 503),
    ] {
        let platform = Scripted::new([answer(
            status,
            &[("content-type", content_type)],
            "<script>",
        )]);
        let received = send(&Mirror::new(platform), get(&referrers)).await;
        assert_eq!(received.status(), seen_status, "{status} {content_type}");
        assert_eq!(
            received.header("content-type"),
            Some("application/json"),
            "{status} {content_type}"
        );
        assert!(
            !received.text().contains("<script>"),
            "{status} {content_type}"
        );
    }
    let platform = Scripted::new([answer(406, &[], "")]);
    let received = send(&Mirror::new(platform), get("/v2/library/alpine/tags/list")).await;
    assert_eq!(
        (received.status(), received.code().as_str()),
        (406, "UNSUPPORTED")
    );
}
