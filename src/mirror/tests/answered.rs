//! The story of what goes to an upstream, and of what a client gets of its answer.

use super::*;

#[tokio::test]
async fn each_fault_of_an_upstream_has_its_answer() {
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
            (502, "UNAVAILABLE"),
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
            let seen = ask(&Mirror::new(platform.clone()), get(path)).await;
            assert_eq!(
                (seen.status(), seen.code().as_str()),
                (status, code),
                "{described}"
            );
            assert!(!seen.text().contains("secret words"));
            assert_eq!(
                seen.header("retry-after"),
                (code == "TOOMANYREQUESTS").then_some("7")
            );
        }
    }
}

#[tokio::test]
async fn what_a_retiring_connection_loses_is_asked_once_more() {
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
        ask(&Mirror::new(platform.clone()), get(MANIFEST))
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
        platform.asked(),
        [&hub, &hub, &fetch, &fetch, &bearer, &bearer].map(String::as_str)
    );
    assert!(
        platform.log()[0].contains("requests=4"),
        "{:?}",
        platform.log()
    );

    // What breaks later is no retiring connection's.
    let platform = Scripted::new([broken()]);
    platform.exchanges_take(Duration::from_secs(2));
    assert_eq!(
        ask(&Mirror::new(platform.clone()), get(MANIFEST))
            .await
            .status(),
        502
    );
    assert_eq!(platform.asked().len(), 1);
}

#[tokio::test]
async fn manifests_are_followed_and_tokens_stay_with_their_registry() {
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
        manifest(),
    ]);
    let head =
        Request::head("http://mirror.example/v2/pause/manifests/3.9?upstream=registry.k8s.io")
            .body(())
            .unwrap();
    assert_eq!(
        ask(&Mirror::new(platform.clone()), head).await.status(),
        200
    );
    let service = "service=registry.docker.io&scope=repository";
    assert_eq!(
        platform.asked(),
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
async fn redirects_that_lead_in_circles_or_inside_are_refused() {
    let circle = || answer(302, &[("location", MANIFEST)], "");
    let platform = Scripted::new((0..6).map(|_| circle()));
    assert_eq!(
        ask(&Mirror::new(platform.clone()), get(MANIFEST))
            .await
            .status(),
        502
    );
    assert_eq!(platform.asked().len(), 6);
    for location in [
        "http://registry-1.docker.io/",
        "https://127.0.0.1/",
        "https://metadata.internal/",
        "https://a@b.example/",
        "ftp://a.example/",
    ] {
        let platform = Scripted::new([answer(302, &[("location", location)], "")]);
        assert_eq!(
            ask(&Mirror::new(platform.clone()), get(MANIFEST))
                .await
                .status(),
            502,
            "{location}"
        );
        assert_eq!(platform.asked().len(), 1);
    }
}

#[tokio::test]
async fn what_the_operator_has_closed_is_not_reached_by_a_redirect() {
    let asked = "?upstream=evil.example";
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
        let seen = ask(
            &Mirror::new(platform.clone()),
            get(&format!("{path}{asked}")),
        )
        .await;
        assert_eq!(seen.status(), 502, "{location}");
        assert_eq!(platform.asked().len(), 1, "{location}");
    }
    // The operator's own registry leads to a listed host, and any to a repository there that is not closed.
    for (path, location) in [
        (MANIFEST.to_owned(), "http://registry.lan:5000/cache/1"),
        (
            format!("{MANIFEST}{asked}"),
            "http://registry.lan:5000/v2/open/app/manifests/1",
        ),
    ] {
        let platform = Scripted::new([answer(307, &[("location", location)], ""), manifest()]);
        platform.set_variable("plain_http_upstreams", "registry.lan:5000");
        platform.set_variable("denied_repositories", "registry.lan:5000/internal/*");
        assert_eq!(
            ask(&Mirror::new(platform.clone()), get(&path))
                .await
                .status(),
            200,
            "{location}"
        );
    }
}

#[tokio::test]
async fn a_blobs_redirect_goes_back_untouched() {
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
        let seen = ask(&Mirror::new(platform.clone()), get(&path)).await;
        assert_eq!(seen.header("location"), sent, "{location}");
        assert_eq!(
            seen.status(),
            if sent.is_some() { 307 } else { 404 },
            "{location}"
        );
        assert_eq!(platform.asked().len(), 1);
    }
}

#[tokio::test]
async fn what_is_private_stays_here_and_what_matters_arrives() {
    let platform = Scripted::new([manifest()]);
    let request = Request::get(format!("http://mirror.example{MANIFEST}"))
        .header("authorization", "Basic c2VjcmV0")
        .header("cookie", "a=b")
        .header("x-forwarded-for", "192.0.2.1")
        .header("spin-client-addr", "192.0.2.1")
        .header("accept-encoding", "zstd")
        .header("accept", "application/vnd.oci.image.index.v1+json")
        .header(
            "accept",
            "application/vnd.docker.distribution.manifest.v2+json",
        )
        .header("if-none-match", "\"x\"")
        .header("range", "bytes=5-")
        .body(());
    ask(&Mirror::new(platform.clone()), request.unwrap()).await;
    let requests = platform.requests();
    let headers = requests[0].headers();
    let mut names: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "accept-encoding",
            "cdn-loop",
            "if-none-match",
            "range",
            "user-agent"
        ]
    );
    assert_eq!(headers.get_all("accept").iter().count(), 2);
    assert_eq!(headers["accept-encoding"], "identity");
}

#[tokio::test]
async fn only_what_a_registry_says_comes_back() {
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
    let seen = ask(&Mirror::new(platform), get(MANIFEST)).await;
    let mut names: Vec<_> = seen
        .response
        .headers()
        .keys()
        .map(|name| name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "content-security-policy",
            "content-type",
            "docker-content-digest",
            "docker-distribution-api-version",
            "docker-ratelimit-source",
            "ratelimit-limit",
            "ratelimit-remaining",
            "x-content-type-options",
        ]
    );
    assert_eq!(
        seen.header("content-security-policy"),
        Some("default-src 'none'; sandbox")
    );
}

#[tokio::test]
async fn content_types_are_a_registrys() {
    let blob = format!("/v2/library/alpine/blobs/{DIGEST}");
    let referrers = format!("/v2/library/alpine/referrers/{DIGEST}");
    for (path, sent, seen_type) in [
        (
            MANIFEST,
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
        ),
        (
            MANIFEST,
            "application/json; charset=utf-8",
            Some("application/json; charset=utf-8"),
        ),
        (MANIFEST, "text/html", None),
        (MANIFEST, "application/vnd.evil", None),
        (&blob, "text/html", Some("application/octet-stream")),
        (
            "/v2/library/alpine/tags/list",
            "application/json",
            Some("application/json"),
        ),
        (
            "/v2/library/alpine/tags/list",
            "text/plain; charset=utf-8",
            Some("application/json"),
        ),
        ("/v2/library/alpine/tags/list", "text/html", None),
        (
            &referrers,
            "application/vnd.oci.image.index.v1+json",
            Some("application/vnd.oci.image.index.v1+json"),
        ),
    ] {
        let platform = Scripted::new([answer(200, &[("content-type", sent)], "<script>")]);
        let seen = ask(&Mirror::new(platform), get(path)).await;
        assert_eq!(
            seen.header("content-type"),
            Some(seen_type.unwrap_or("application/json")),
            "{path} {sent}"
        );
        assert_eq!(
            seen.status(),
            if seen_type.is_some() { 200 } else { 502 },
            "{path} {sent}"
        );
    }
}

#[tokio::test]
async fn clients_can_fall_back_where_an_upstream_has_no_referrers() {
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
        let seen = ask(&Mirror::new(platform), get(&referrers)).await;
        assert_eq!(seen.status(), seen_status, "{status} {content_type}");
        assert_eq!(
            seen.header("content-type"),
            Some("application/json"),
            "{status} {content_type}"
        );
        assert!(!seen.text().contains("<script>"), "{status} {content_type}");
    }
    let platform = Scripted::new([answer(406, &[], "")]);
    let seen = ask(&Mirror::new(platform), get("/v2/library/alpine/tags/list")).await;
    assert_eq!(seen.status(), 502);
}

#[tokio::test]
async fn a_signed_manifest_comes_by_the_digest_of_what_is_signed() {
    let path = format!("/v2/library/alpine/manifests/{DIGEST}");
    let signed = || {
        answer(
            200,
            &[(
                "content-type",
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
            )],
            "{}",
        )
    };
    let platform = Scripted::new([signed(), signed()]);
    let mirror = Mirror::new(platform.clone());
    for _ in 0..2 {
        let seen = ask(&mirror, get(&path)).await;
        assert_eq!((seen.status(), seen.text()), (200, "{}".to_owned()));
        assert_eq!(
            platform.asked().len(),
            1,
            "it can't be verified, so it is not kept"
        );
    }
}

#[tokio::test]
async fn parts_and_conditions_come_back_with_their_headers() {
    let path = format!("/v2/library/alpine/blobs/{DIGEST}");
    for (status, headers) in [
        (
            206,
            &[
                ("content-range", "bytes 5-9/10"),
                ("content-length", "5"),
                ("accept-ranges", "bytes"),
            ][..],
        ),
        (304, &[("etag", "\"x\"")]),
        (416, &[("content-range", "bytes */10")]),
        (412, &[]),
    ] {
        let platform = Scripted::new([answer(status, headers, "")]);
        let seen = ask(&Mirror::new(platform), get(&path)).await;
        assert_eq!(seen.status(), status);
        for (name, value) in headers {
            assert_eq!(seen.header(name), Some(*value));
        }
    }
}

#[tokio::test]
async fn the_digest_that_a_manifest_was_asked_by_is_added_where_it_is_missing() {
    let platform = Scripted::new([manifest(), manifest()]);
    let mirror = Mirror::new(platform);
    let seen = ask(
        &mirror,
        get(&format!("/v2/library/alpine/manifests/{DIGEST}")),
    )
    .await;
    assert_eq!(seen.header("docker-content-digest"), Some(DIGEST));
    assert_eq!(
        ask(&mirror, get(MANIFEST))
            .await
            .header("docker-content-digest"),
        None
    );
}

#[tokio::test]
async fn containerd_is_told_that_its_namespace_was_understood() {
    let platform = Scripted::new([manifest(), manifest()]);
    let mirror = Mirror::new(platform.clone());
    assert_eq!(
        ask(&mirror, get(&format!("{MANIFEST}?ns=docker.io")))
            .await
            .header("oci-namespace"),
        Some("docker.io")
    );
    assert_eq!(
        ask(&mirror, get("/v2/a/b/manifests/1?ns=ghcr.io"))
            .await
            .header("oci-namespace"),
        Some("ghcr.io")
    );
    assert_eq!(
        platform.asked(),
        [
            format!("GET {HUB}{MANIFEST}"),
            "GET https://ghcr.io/v2/a/b/manifests/1".to_owned()
        ]
    );
}

#[tokio::test]
async fn heads_have_the_length_of_what_a_get_would_bring_and_no_body() {
    let head = |path: &str| {
        Request::head(format!("http://mirror.example{path}"))
            .body(())
            .unwrap()
    };
    let mirror = Mirror::new(Scripted::new([]));
    for path in ["/", "/robots.txt", "/v2/", "/nothing"] {
        let (seen, got) = (
            ask(&mirror, head(path)).await,
            ask(&mirror, get(path)).await,
        );
        assert_eq!(seen.text(), "");
        assert_eq!(
            seen.header("content-length"),
            Some(got.text().len().to_string().as_str()),
            "{path}"
        );
        assert_eq!(got.response.status() == StatusCode::OK, path != "/nothing");
    }
}

#[tokio::test]
async fn simultaneous_first_requests_share_one_reading_of_the_variables() {
    let platform = Scripted::default();
    let mirror = Mirror::new(platform.clone());
    let seen = futures_util::future::join_all((0..16).map(|_| ask(&mirror, get("/v2/")))).await;
    assert!(seen.iter().all(|seen| seen.status() == 200));
    assert_eq!(platform.variables_read(), crate::config::VARIABLES.len());
}
