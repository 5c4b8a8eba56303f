//! Requests that the mirror answers by itself.

use super::*;

#[tokio::test]
async fn answers_the_ping_itself_unless_an_upstream_is_named() {
    let platform = Scripted::new([
        answer(
            401,
            &[(
                "www-authenticate",
                r#"Bearer realm="https://ghcr.io/token""#,
            )],
            "",
        ),
        token("one"),
        answer(200, &[("content-type", "text/html")], "<html>"),
    ]);
    let mirror = Mirror::new(platform.clone());
    for path in ["/v2", "/v2/", "/v2/?ns=docker.io"] {
        let received = send(&mirror, get(path)).await;
        assert_eq!((received.status(), received.text().as_str()), (200, "{}"));
        assert_eq!(
            received.header("docker-distribution-api-version"),
            Some("registry/2.0")
        );
    }
    assert_eq!(platform.sent(), [""; 0]);
    let received = send(&mirror, get("/v2/?upstream=ghcr.io")).await;
    assert_eq!((received.status(), received.text().as_str()), (200, "{}"));
    assert_eq!(
        platform.sent(),
        [
            "GET https://ghcr.io/v2/",
            "GET https://ghcr.io/token",
            "GET https://ghcr.io/v2/ Bearer one"
        ]
    );
}

#[tokio::test]
async fn errors_say_what_would_be_right() {
    for (path, status, code) in [
        ("/v2/A/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/a/manifests/.x", 404, "MANIFEST_INVALID"),
        ("/v2/a/manifests/sha256:1", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/latest", 400, "DIGEST_INVALID"),
        ("/v2/a/nothing", 404, "UNSUPPORTED"),
        ("/nothing", 404, "UNSUPPORTED"),
        ("/v2/a/tags/list?upstream=a%20b", 400, "UNSUPPORTED"),
        ("/v2/a/tags/list?upstream=", 400, "UNSUPPORTED"),
        (
            "/v2/a/tags/list?upstream=http://ghcr.io",
            400,
            "UNSUPPORTED",
        ),
        ("/v2/a/tags/list?upstream=localhost:5000", 403, "DENIED"),
        ("/v2/a/tags/list?upstream=127.0.0.1", 403, "DENIED"),
        ("/127.0.0.1/v2/a/tags/list", 403, "DENIED"),
        ("/v2/10.0.0.1/a/tags/list", 403, "DENIED"),
        ("/v2/a/tags/list?ns=printer.local", 403, "DENIED"),
    ] {
        let platform = Scripted::new([]);
        let received = send(&Mirror::new(platform.clone()), get(path)).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (status, code),
            "{path}"
        );
        assert_eq!(received.header("content-type"), Some("application/json"));
        assert_eq!(platform.sent(), [""; 0]);
        assert_eq!(platform.log().len(), 1);
    }
    let write = Request::post("http://mirror.example/v2/a/blobs/uploads/")
        .body(())
        .unwrap();
    let received = send(&Mirror::new(Scripted::new([])), write).await;
    assert_eq!(
        (
            received.status(),
            received.code().as_str(),
            received.header("allow")
        ),
        (405, "UNSUPPORTED", Some("GET, HEAD"))
    );
}

#[tokio::test]
async fn refuses_a_request_that_came_through_three_mirrors() {
    let (platform, mirror) = warm().await;
    platform.add_answers([manifest()]);
    let through = |hops: &'static str| {
        let mut request = get(MANIFEST);
        request
            .headers_mut()
            .insert("cdn-loop", hops.parse().unwrap());
        request
    };
    assert_eq!(
        send(&mirror, through("hammal, cloudflare, hammal"))
            .await
            .status(),
        200
    );
    let sent = platform.requests();
    assert_eq!(sent[0].headers()["cdn-loop"], "hammal, hammal, hammal");
    let received = send(&mirror, through("hammal, hammal, hammal")).await;
    assert_eq!(
        (received.status(), received.code().as_str()),
        (508, "UNSUPPORTED")
    );
    assert!(platform.sent().is_empty());
    assert!(
        platform
            .log()
            .last()
            .unwrap()
            .contains("upstream=registry-1.docker.io status=508 upstream_requests=0")
    );
}
