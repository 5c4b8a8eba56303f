//! The secret, the limit of requests, closed upstreams and repositories.

use super::*;

#[tokio::test]
async fn a_closed_mirror_answers_only_below_its_secret() {
    let platform = Scripted::new([]);
    platform.set_variable("secret", "0123456789abcdef");
    let mirror = Mirror::new(platform.clone());
    for path in [
        "/",
        "/v2/",
        MANIFEST,
        "/robots.txt",
        "/0123456789abcde/v2/",
        "/0123456789abcdefg/v2/",
        "/v2/0123456789abcdef",
    ] {
        let received = send(&mirror, get(path)).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (404, "UNSUPPORTED"),
            "{path}"
        );
    }
    let write = Request::post("http://mirror.example/v2/a/blobs/uploads/")
        .body(())
        .unwrap();
    assert_eq!(send(&mirror, write).await.status(), 404);
    for path in [
        "/0123456789abcdef",
        "/0123456789abcdef/",
        "/0123456789abcdef/v2/",
    ] {
        assert_eq!(send(&mirror, get(path)).await.status(), 200, "{path}");
    }
    let next = [
        ("link", "</v2/a/b/tags/list?last=x>; rel=\"next\""),
        ("content-type", "application/json"),
    ];
    platform.add_answers([answer(200, &next, "{}"), answer(200, &next, "{}")]);
    let received = send(&mirror, get("/0123456789abcdef/v2/a/b/tags/list")).await;
    assert_eq!(
        received.header("link"),
        Some("</0123456789abcdef/v2/a/b/tags/list?last=x>; rel=\"next\"")
    );
    let received = send(&mirror, get("/0123456789abcdef/ghcr.io/v2/a/b/tags/list")).await;
    assert_eq!(
        received.header("link"),
        Some("</0123456789abcdef/ghcr.io/v2/a/b/tags/list?last=x>; rel=\"next\"")
    );
    assert!(!platform.log().join("\n").contains("0123456789abcdef"));
}

#[tokio::test]
async fn limits_each_client_by_itself() {
    let platform = Scripted::new((0..22).map(|_| manifest()));
    platform.set_variable("client_limit", "10");
    let from = |address: &str| {
        Request::get(format!("http://mirror.example{MANIFEST}"))
            .header("spin-client-addr", "192.0.2.9:1") // what a client claims comes first
            .header("spin-client-addr", address)
            .body(())
            .unwrap()
    };
    // Instances hand on what they have counted.
    for _ in 0..10 {
        assert_eq!(
            send(&Mirror::new(platform.clone()), from("192.0.2.1:1"))
                .await
                .status(),
            200
        );
    }
    let mirror = Mirror::new(platform.clone());
    let received = send(&mirror, from("192.0.2.1:2")).await;
    assert_eq!(
        (
            received.status(),
            received.code().as_str(),
            received.header("retry-after")
        ),
        (429, "TOOMANYREQUESTS", Some("20"))
    );
    for _ in 0..10 {
        assert_eq!(send(&mirror, from("192.0.2.2:1")).await.status(), 200);
    }
    assert_eq!(send(&mirror, from("192.0.2.2:1")).await.status(), 429);
    platform.advance(Duration::from_secs(20));
    assert_eq!(send(&mirror, from("192.0.2.1:1")).await.status(), 200);
    assert_eq!(send(&mirror, from("192.0.2.2:1")).await.status(), 200);
}

#[tokio::test]
async fn the_limit_holds_where_each_instance_answers_one_request() {
    let platform = Scripted::new((0..100).map(|_| manifest()));
    platform.set_variable("client_limit", "100");
    for sent in 1..=101 {
        let request = Request::get(format!("http://mirror.example{MANIFEST}"))
            .header("spin-client-addr", "192.0.2.1:1");
        let received = send(&Mirror::new(platform.clone()), request.body(()).unwrap()).await;
        assert_eq!(
            received.status(),
            if sent <= 100 { 200 } else { 429 },
            "{sent}"
        );
    }
}

#[tokio::test]
async fn asks_only_the_upstreams_where_a_repository_is_allowed() {
    for (denied, path, sent) in [
        (
            "docker.io/secret/*",
            "/v2/secret/app/manifests/1",
            vec!["GET https://first.example/v2/secret/app/manifests/1"],
        ),
        (
            "docker.io/library/*",
            "/v2/alpine/manifests/1",
            vec!["GET https://first.example/v2/alpine/manifests/1"],
        ),
        (
            "first.example/a/*",
            "/v2/a/b/manifests/1",
            vec!["GET https://registry-1.docker.io/v2/a/b/manifests/1"],
        ),
        ("library/*", "/v2/library/alpine/manifests/1", vec![]),
    ] {
        let platform = Scripted::new([answer(500, &[], ""), manifest()]);
        platform.set_variable("upstream", "first.example, docker.io");
        platform.set_variable("denied_repositories", denied);
        let received = send(&Mirror::new(platform.clone()), get(path)).await;
        assert_eq!(
            received.status(),
            if sent.is_empty() { 403 } else { 502 },
            "{denied}"
        );
        assert_eq!(platform.sent(), sent, "{denied}");
    }
}

#[tokio::test]
async fn does_not_ask_for_what_the_operator_closed() {
    let platform = Scripted::new([]);
    for (name, value) in [
        ("allowed_upstreams", "ghcr.io, *.example.com"),
        ("denied_upstreams", "bad.example.com"),
        ("allowed_repositories", "library/*, ghcr.io/team/*"),
        ("denied_repositories", "ghcr.io/team/secret"),
    ] {
        platform.set_variable(name, value);
    }
    let mirror = Mirror::new(platform.clone());
    for path in [
        "/v2/a/b/tags/list?upstream=quay.io",
        "/v2/a/b/tags/list?upstream=bad.example.com",
        "/v2/a/b/tags/list?upstream=a.example.com",
        "/v2/a/b/tags/list",
        "/v2/team/secret/tags/list?upstream=ghcr.io",
        "/v2/other/app/tags/list?upstream=ghcr.io",
    ] {
        let received = send(&mirror, get(path)).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (403, "DENIED"),
            "{path}"
        );
    }
    assert_eq!(platform.sent(), [""; 0]);
    platform.add_answers([
        manifest(),
        manifest(),
        challenge_of("https://token.evil.example/", "team/app"),
    ]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
    assert_eq!(
        send(
            &mirror,
            get("/v2/library/alpine/manifests/latest?upstream=docker.io")
        )
        .await
        .status(),
        200
    );
    assert_eq!(
        send(&mirror, get("/v2/team/app/manifests/1?upstream=ghcr.io"))
            .await
            .status(),
        502
    );
    assert_eq!(platform.sent().len(), 3);
}

#[tokio::test]
async fn closes_the_catalog_where_repositories_are_closed() {
    for (variable, value) in [
        ("allowed_repositories", "library/*"),
        ("denied_repositories", "team/secret"),
    ] {
        let platform = Scripted::new([]);
        platform.set_variable(variable, value);
        let mirror = Mirror::new(platform.clone());
        for path in ["/v2/_catalog", "/v2/_catalog?upstream=ghcr.io"] {
            let received = send(&mirror, get(path)).await;
            assert_eq!(
                (received.status(), received.code().as_str()),
                (403, "DENIED")
            );
        }
        assert!(platform.sent().is_empty());
    }
}
