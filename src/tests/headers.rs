//! Headers and media types of upstreams' responses.

use super::*;
use crate::oci::digest::Digest;

#[tokio::test]
async fn passes_on_only_the_headers_of_the_allow_list() {
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
    send(&Mirror::new(platform.clone()), request.unwrap()).await;
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
async fn passes_on_only_media_types_of_registries() {
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
        let received = send(&Mirror::new(platform), get(path)).await;
        assert_eq!(
            received.header("content-type"),
            Some(seen_type.unwrap_or("application/json")),
            "{path} {sent}"
        );
        assert_eq!(
            received.status(),
            if seen_type.is_some() { 200 } else { 502 },
            "{path} {sent}"
        );
    }
}

#[tokio::test]
async fn accepts_a_signed_manifest_by_the_digest_of_its_payload() {
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
        let received = send(&mirror, get(&path)).await;
        assert_eq!((received.status(), received.text()), (200, "{}".to_owned()));
        assert_eq!(
            platform.sent().len(),
            1,
            "it can't be verified, so it is not kept"
        );
    }
}

#[tokio::test]
async fn passes_on_ranges_and_conditions() {
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
        let received = send(&Mirror::new(platform), get(&path)).await;
        assert_eq!(received.status(), status);
        for (name, value) in headers {
            assert_eq!(received.header(name), Some(*value));
        }
    }
}

#[tokio::test]
async fn adds_the_digest_of_the_request_where_it_is_missing() {
    let platform = Scripted::new([manifest(), manifest()]);
    let mirror = Mirror::new(platform);
    let received = send(
        &mirror,
        get(&format!("/v2/library/alpine/manifests/{DIGEST}")),
    )
    .await;
    assert_eq!(received.header("docker-content-digest"), Some(DIGEST));
    assert_eq!(
        send(&mirror, get(MANIFEST))
            .await
            .header("docker-content-digest"),
        None
    );
}

#[tokio::test]
async fn tells_containerd_that_its_namespace_was_understood() {
    let platform = Scripted::new([manifest(), manifest()]);
    let mirror = Mirror::new(platform.clone());
    assert_eq!(
        send(&mirror, get(&format!("{MANIFEST}?ns=docker.io")))
            .await
            .header("oci-namespace"),
        Some("docker.io")
    );
    assert_eq!(
        send(&mirror, get("/v2/a/b/manifests/1?ns=ghcr.io"))
            .await
            .header("oci-namespace"),
        Some("ghcr.io")
    );
    assert_eq!(
        platform.sent(),
        [
            format!("GET {HUB}{MANIFEST}"),
            "GET https://ghcr.io/v2/a/b/manifests/1".to_owned()
        ]
    );
}

#[tokio::test]
async fn a_head_has_the_length_of_the_get_and_no_body() {
    let head = |path: &str| {
        Request::head(format!("http://mirror.example{path}"))
            .body(())
            .unwrap()
    };
    let mirror = Mirror::new(Scripted::new([]));
    for path in ["/", "/robots.txt", "/v2/", "/nothing"] {
        let (received, got) = (
            send(&mirror, head(path)).await,
            send(&mirror, get(path)).await,
        );
        assert_eq!(received.text(), "");
        assert_eq!(
            received.header("content-length"),
            Some(got.text().len().to_string().as_str()),
            "{path}"
        );
        assert_eq!(got.status() == 200, path != "/nothing");
    }
}

/// A manifest with its digest.
fn verified_manifest() -> Answer {
    let digest = Digest::of(b"{}").to_string();
    let index = "application/vnd.oci.image.index.v1+json";
    let headers = [("content-type", index), ("docker-content-digest", &digest)];
    answer(200, &headers, "{}")
}

/// The headers of a response that a cache in front looks at.
fn caching_headers(received: &Received) -> [Option<&str>; 3] {
    ["cache-control", "etag", "vary"].map(|name| received.header(name))
}

#[tokio::test]
async fn tells_caches_in_front_what_may_change() {
    let digest = format!("/v2/library/alpine/manifests/{}", Digest::of(b"{}"));
    let etag = format!("\"{}\"", Digest::of(b"{}"));
    let blob = format!("/v2/library/alpine/blobs/{DIGEST}");
    let immutable = Some("public, max-age=31536000, immutable");
    let etag = Some(etag.as_str());
    for (path, sent, status, expected) in [
        (
            MANIFEST,
            verified_manifest(),
            200,
            [Some("no-cache"), etag, Some("accept")],
        ),
        (&*digest, verified_manifest(), 200, [immutable, etag, None]),
        (
            &blob,
            answer(200, &[("etag", "\"x\""), ("expires", "0")], "a"),
            200,
            [immutable, Some("\"x\""), None],
        ),
        (
            &blob,
            answer(
                307,
                &[
                    ("location", "https://cdn.example/a"),
                    ("cache-control", "public"),
                ],
                "",
            ),
            307,
            [Some("no-store"), None, None],
        ),
        (
            "/v2/library/alpine/tags/list",
            answer(200, &[("cache-control", "max-age=60")], "{}"),
            200,
            [Some("no-cache"), None, None],
        ),
        (
            MANIFEST,
            answer(404, &[], ""),
            404,
            [Some("no-store"), None, None],
        ),
        (
            "/v2/a/b",
            answer(404, &[], ""),
            404,
            [Some("no-store"), None, None],
        ),
    ] {
        let mirror = Mirror::new(Scripted::new([sent]));
        let response = send(&mirror, get(path)).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(caching_headers(&response), expected, "{path}");
        assert_eq!(response.header("expires"), None, "{path}");
    }
}

#[tokio::test]
async fn answers_a_condition_on_a_manifests_digest_itself() {
    let etag = format!("\"{}\"", Digest::of(b"{}"));
    for (condition, status) in [
        (etag.clone(), 304),
        (format!("W/{etag}"), 304),
        (format!("\"sha256:00\", {etag}"), 304),
        ("\"sha256:00\"".to_owned(), 200),
    ] {
        let platform = Scripted::new([verified_manifest()]);
        platform.set_variable("manifest_cache", "on");
        let request = Request::get(format!("http://mirror.example{MANIFEST}"))
            .header("if-none-match", &condition)
            .body(());
        let response = send(&Mirror::new(platform.clone()), request.unwrap()).await;
        assert_eq!(response.status(), status, "{condition}");
        assert_eq!(response.header("etag"), Some(&*etag), "{condition}");
        assert_eq!(response.text().is_empty(), status == 304, "{condition}");
        // The upstream was not told: the manifest is cached as for any other request.
        assert!(
            !platform.requests()[0]
                .headers()
                .contains_key("if-none-match")
        );
    }
}

#[tokio::test]
async fn answers_with_the_request_id_of_the_log() {
    let platform = Scripted::new([manifest(), manifest()]);
    let mirror = Mirror::new(platform.clone());
    let request = |id: &str| {
        let request = Request::get(format!("http://mirror.example{MANIFEST}"));
        request.header("x-request-id", id).body(()).unwrap()
    };
    let kept = send(&mirror, request("abc-1")).await;
    assert_eq!(kept.header("x-request-id"), Some("abc-1"));
    let made = send(&mirror, request("a\"b")).await;
    let made = made.header("x-request-id").unwrap();
    assert_ne!(made, "a\"b");
    let log = platform.log();
    assert!(log[0].contains(" request_id=abc-1"), "{log:?}");
    assert!(log[1].contains(&format!(" request_id={made}")), "{log:?}");
    assert!(
        !platform.requests()[0]
            .headers()
            .contains_key("x-request-id")
    );
}

fn from_page(method: &str, path: &str) -> Request<()> {
    Request::builder()
        .method(method)
        .uri(format!("http://mirror.example{path}"))
        .header("origin", "https://ui.example")
        .header("access-control-request-method", "GET")
        .body(())
        .unwrap()
}

#[tokio::test]
async fn a_page_in_a_browser_may_read_an_open_mirror() {
    let platform = Scripted::new([
        answer(
            200,
            &[
                ("content-type", "application/json"),
                ("access-control-allow-origin", "https://other.example"),
                ("access-control-allow-credentials", "true"),
                ("link", "</v2/library/alpine/tags/list?last=a>; rel=next"),
            ],
            "{}",
        ),
        answer(404, &[], ""),
        redirect("https://cdn.example/blob"),
    ]);
    let mirror = Mirror::new(platform.clone());
    let blob = blob();
    for (method, path, status) in [
        ("OPTIONS", "/v2/", 204),
        ("OPTIONS", "/v2/library/alpine/tags/list", 204),
        ("OPTIONS", "/ghcr.io/v2/a/manifests/1", 204),
        ("GET", "/v2/", 200),
        ("GET", "/v2/library/alpine/tags/list", 200),
        ("GET", MANIFEST, 404),
        ("GET", &blob, 307),
        ("GET", "/v2/A/tags/list", 400),
        ("POST", "/v2/", 405),
    ] {
        let received = send(&mirror, from_page(method, path)).await;
        assert_eq!(received.status(), status, "{method} {path}");
        let header = |name| received.header(name);
        assert_eq!(header("access-control-allow-origin"), Some("*"), "{path}");
        assert_eq!(header("access-control-allow-credentials"), None);
        let exposed = header("access-control-expose-headers").unwrap();
        for name in ["Docker-Content-Digest", "Link", "Content-Length"] {
            assert!(exposed.contains(name), "{name}");
        }
        let is_preflight = method == "OPTIONS";
        assert_eq!(
            header("access-control-allow-methods"),
            is_preflight.then_some("GET, HEAD, OPTIONS")
        );
        let allowed = header("access-control-allow-headers");
        assert!(allowed.is_none_or(|names| names.contains("Accept")));
        assert!(allowed.is_none_or(|names| !names.contains("Authorization")));
    }
    assert_eq!(platform.sent().len(), 3);
    for (method, path, status) in [("OPTIONS", "/", 405), ("GET", "/", 200)] {
        let received = send(&mirror, from_page(method, path)).await;
        assert_eq!(received.status(), status, "{method} {path}");
        assert_eq!(received.header("access-control-allow-origin"), None);
    }
    // Without a page there is nothing to say.
    let received = send(&mirror, get("/v2/")).await;
    assert_eq!(received.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_page_in_a_browser_may_not_read_a_mirror_with_a_secret() {
    let platform = Scripted::new([]);
    platform.set_variable("secret", "a-secret-of-20-letters");
    let mirror = Mirror::new(platform);
    for (method, path, status) in [
        ("OPTIONS", "/v2/", 404),
        ("OPTIONS", "/a-secret-of-20-letters/v2/", 405),
        ("GET", "/a-secret-of-20-letters/v2/", 200),
    ] {
        let received = send(&mirror, from_page(method, path)).await;
        assert_eq!(received.status(), status, "{method} {path}");
        assert_eq!(received.header("access-control-allow-origin"), None);
    }
}

#[tokio::test]
async fn an_answer_tells_where_its_time_went_if_the_operator_says_so() {
    for (setting, tells) in [("on", true), ("off", false)] {
        let platform = Scripted::new([challenge(), token("one"), manifest(), manifest()]);
        platform.set_variable("server_timing", setting);
        platform.set_exchange_duration(Duration::from_micros(12_345));
        let mirror = Mirror::new(platform.clone());
        for expected in [
            "token;dur=12.345, upstream;dur=24.690, store;dur=0.000, total;dur=37.035",
            "token;dur=0.000, upstream;dur=12.345, store;dur=0.000, total;dur=12.345",
        ] {
            let received = send(&mirror, get(MANIFEST)).await;
            let header = received.header("server-timing");
            assert_eq!(header, tells.then_some(expected));
        }
        // A store that hangs is waited for, and then given up.
        let another = Mirror::new(platform.clone());
        platform.set_store(StoreState::Hanging);
        platform.add_answers([manifest()]);
        let received = send(&another, get(MANIFEST)).await;
        let header = received.header("server-timing");
        let expected = "token;dur=0.000, upstream;dur=12.345, store;dur=500.000, total;dur=512.345";
        assert_eq!(header, tells.then_some(expected));
        let refused = send(&another, get("/nothing")).await;
        assert_eq!(refused.header("server-timing").is_some(), tells);
    }
}
