//! Redirects of upstreams.

use super::*;

#[tokio::test]
async fn follows_redirects_of_manifests_and_keeps_tokens_with_their_registry() {
    let moved = answer(
        307,
        &[(
            "location",
            "https://europe.pkg.example/v2/k8s/images/pause/manifests/3.9",
        )],
        "",
    );
    let elsewhere = challenge_of("https://europe.pkg.example/v2/token", "k8s/images/pause");
    let first = challenge_of("https://registry.k8s.io/token", "pause");
    let platform = Scripted::new([
        first,
        token("here"),
        moved,
        elsewhere,
        token("there"),
        manifest_head(),
    ]);
    let head =
        Request::head("http://mirror.example/v2/pause/manifests/3.9?upstream=registry.k8s.io")
            .body(())
            .unwrap();
    assert_eq!(
        send(&Mirror::new(platform.clone()), head).await.status(),
        200
    );
    let service = "service=registry.docker.io&scope=repository";
    assert_eq!(
        platform.sent(),
        [
            "HEAD https://registry.k8s.io/v2/pause/manifests/3.9".to_owned(),
            format!("GET https://registry.k8s.io/token?{service}%3Apause%3Apull"),
            "HEAD https://registry.k8s.io/v2/pause/manifests/3.9 Bearer here".to_owned(),
            "HEAD https://europe.pkg.example/v2/k8s/images/pause/manifests/3.9".to_owned(),
            format!(
                "GET https://europe.pkg.example/v2/token?{service}%3Ak8s%2Fimages%2Fpause%3Apull"
            ),
            "HEAD https://europe.pkg.example/v2/k8s/images/pause/manifests/3.9 Bearer there"
                .to_owned(),
        ]
    );
}

#[tokio::test]
async fn refuses_circular_and_internal_redirects() {
    let circle = || answer(302, &[("location", MANIFEST)], "");
    let platform = Scripted::new((0..6).map(|_| circle()));
    assert_eq!(
        send(&Mirror::new(platform.clone()), get(MANIFEST))
            .await
            .status(),
        502
    );
    assert_eq!(platform.sent().len(), 6);
    for location in [
        "http://registry-1.docker.io/",
        "https://127.0.0.1/",
        "https://metadata.internal/",
        "https://a@b.example/",
        "ftp://a.example/",
    ] {
        let platform = Scripted::new([answer(302, &[("location", location)], "")]);
        assert_eq!(
            send(&Mirror::new(platform.clone()), get(MANIFEST))
                .await
                .status(),
            502,
            "{location}"
        );
        assert_eq!(platform.sent().len(), 1);
    }
}

#[tokio::test]
async fn a_redirect_does_not_reach_what_the_operator_closed() {
    let query = "?upstream=evil.example";
    for (path, location) in [
        (
            MANIFEST,
            "http://registry.lan:5000/v2/internal/app/manifests/1",
        ),
        (
            MANIFEST,
            "https://registry-1.docker.io/v2/secret/app/manifests/1",
        ),
        (
            MANIFEST,
            "https://index.docker.io/v2/secret/app/manifests/1",
        ),
        (
            MANIFEST,
            "https://index.docker.io/v2/team/secret/manifests/1",
        ),
        (
            MANIFEST,
            "https://registry.hub.docker.com/v2/library/ubuntu/manifests/1",
        ),
        (MANIFEST, "https://ghcr.io/team/secret"),
        (
            MANIFEST,
            "https://registry-1.docker.io//v2/secret/app/manifests/1",
        ),
        ("/v2/a/tags/list", "https://ghcr.io/v2/_catalog"),
        (
            "/v2/a/tags/list",
            "http://registry.lan:5000/api/v2.0/projects",
        ),
    ] {
        let platform = Scripted::new([answer(307, &[("location", location)], ""), manifest()]);
        platform.set_variable("plain_http_upstreams", "registry.lan:5000");
        let denied = "registry.lan:5000/internal/*, docker.io/secret/*, team/secret, ubuntu, ghcr.io/team/secret";
        platform.set_variable("denied_repositories", denied);
        let received = send(
            &Mirror::new(platform.clone()),
            get(&format!("{path}{query}")),
        )
        .await;
        assert_eq!(received.status(), 502, "{location}");
        assert_eq!(platform.sent().len(), 1, "{location}");
    }
    // The operator's own registry leads to a listed host, and any to a repository there that is not
    // closed.
    for (path, location) in [
        (MANIFEST.to_owned(), "http://registry.lan:5000/cache/1"),
        (
            format!("{MANIFEST}{query}"),
            "http://registry.lan:5000/v2/open/app/manifests/1",
        ),
    ] {
        let platform = Scripted::new([answer(307, &[("location", location)], ""), manifest()]);
        platform.set_variable("plain_http_upstreams", "registry.lan:5000");
        platform.set_variable("denied_repositories", "registry.lan:5000/internal/*");
        assert_eq!(
            send(&Mirror::new(platform.clone()), get(&path))
                .await
                .status(),
            200,
            "{location}"
        );
    }
}

#[tokio::test]
async fn returns_the_redirect_of_a_blob_untouched() {
    let path = format!("/v2/library/alpine/blobs/{DIGEST}");
    let signed = "https://cdn.example/blob?X-Sig=a%2Fb%3D&verify=1~2|3";
    for (location, sent) in [
        (signed, Some(signed)),
        ("/cdn/blob", Some("https://registry-1.docker.io/cdn/blob")),
        ("//cdn.example/x", Some("https://cdn.example/x")),
        ("http://cdn.example/x", None),
        ("https://mirror.example/v2/", None),
        ("javascript:alert(1)", None),
    ] {
        let platform = Scripted::new([answer(307, &[("location", location)], "<a href=...>")]);
        let received = send(&Mirror::new(platform.clone()), get(&path)).await;
        assert_eq!(received.header("location"), sent, "{location}");
        assert_eq!(
            received.status(),
            if sent.is_some() { 307 } else { 404 },
            "{location}"
        );
        assert_eq!(platform.sent().len(), 1);
    }
}
