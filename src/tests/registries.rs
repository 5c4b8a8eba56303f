//! Registries and token servers that do what the specifications do not say, as public reports have
//! it.

use super::*;

const REGISTRY: &str = "https://registry.example";
const TAGS: &str = "/v2/a/tags/list?upstream=registry.example";
const CATALOG: &str = "/v2/_catalog?upstream=registry.example";

fn document(status: u16, code: &str) -> Answer {
    let text = format!(r#"{{"errors":[{{"code":"{code}","message":"secret words"}}]}}"#);
    answer(status, &[("content-type", "application/json")], &text)
}

fn list() -> Answer {
    answer(200, &[("content-type", "application/json")], "{}")
}

fn head(path: &str) -> Request<()> {
    let uri = format!("http://mirror.example{path}");
    Request::head(uri).body(()).unwrap()
}

#[tokio::test]
async fn no_code_says_more_than_the_upstream_did() {
    let referrers = format!("/v2/a/referrers/{DIGEST}?upstream=registry.example");
    let blob = format!("/v2/a/blobs/{DIGEST}?upstream=registry.example");
    let manifest = "/v2/a/manifests/1?upstream=registry.example";
    let bare = |status| answer(status, &[("content-type", "text/html")], "secret words");
    for (path, fault, status, code) in [
        (referrers.as_str(), bare(404), 404, "UNSUPPORTED"),
        (&referrers, bare(410), 404, "UNSUPPORTED"),
        (&referrers, document(404, "UNSUPPORTED"), 404, "UNSUPPORTED"),
        (
            &referrers,
            document(404, "MANIFEST_UNKNOWN"),
            404,
            "UNSUPPORTED",
        ),
        (
            &referrers,
            document(404, "NAME_UNKNOWN"),
            404,
            "NAME_UNKNOWN",
        ),
        (
            &referrers,
            document(400, "NAME_UNKNOWN"),
            404,
            "UNSUPPORTED",
        ),
        (TAGS, bare(404), 404, "UNSUPPORTED"),
        (TAGS, bare(405), 404, "UNSUPPORTED"),
        (TAGS, bare(501), 404, "UNSUPPORTED"),
        (TAGS, document(404, "NAME_UNKNOWN"), 404, "NAME_UNKNOWN"),
        (
            TAGS,
            document(400, "PAGINATION_NUMBER_INVALID"),
            400,
            "PAGINATION_NUMBER_INVALID",
        ),
        (TAGS, document(400, "NAME_INVALID"), 400, "NAME_INVALID"),
        (TAGS, document(400, "UNAUTHORIZED"), 400, "UNSUPPORTED"),
        (TAGS, document(422, "WHATEVER"), 422, "UNSUPPORTED"),
        (TAGS, bare(414), 414, "UNSUPPORTED"),
        (CATALOG, bare(404), 404, "UNSUPPORTED"),
        (CATALOG, bare(405), 404, "UNSUPPORTED"),
        (CATALOG, document(404, "NAME_UNKNOWN"), 404, "UNSUPPORTED"),
        (
            CATALOG,
            document(400, "PAGINATION_NUMBER_INVALID"),
            400,
            "PAGINATION_NUMBER_INVALID",
        ),
        (manifest, bare(400), 400, "UNSUPPORTED"),
        (manifest, document(400, "TAG_INVALID"), 400, "TAG_INVALID"),
        (
            manifest,
            document(404, "NAME_UNKNOWN"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (manifest, bare(405), 502, "UNAVAILABLE"),
        (manifest, bare(408), 502, "UNAVAILABLE"),
        (&blob, document(404, "NAME_UNKNOWN"), 404, "BLOB_UNKNOWN"),
        (&blob, document(400, "DIGEST_INVALID"), 404, "BLOB_UNKNOWN"),
        (
            "/v2/?upstream=registry.example",
            bare(404),
            404,
            "UNSUPPORTED",
        ),
    ] {
        let described = format!("{path} {fault:?}");
        let received = send(&Mirror::new(Scripted::new([fault])), get(path)).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (status, code),
            "{described}"
        );
        assert!(!received.text().contains("secret words"), "{described}");
    }
}

#[tokio::test]
async fn says_of_a_catalog_that_it_is_missing() {
    for status in [404, 405, 410, 501] {
        let platform = Scripted::new([answer(status, &[], "")]);
        let received = send(&Mirror::new(platform), get(CATALOG)).await;
        assert!(received.text().contains("has no catalog"), "{status}");
    }
}

#[tokio::test]
async fn an_error_document_that_does_not_end_soon_is_not_read() {
    let long = format!(
        r#"{{"errors":[{{"code":"NAME_UNKNOWN"}}],"x":"{}"}}"#,
        " ".repeat(16 * 1024)
    );
    for breaks in [false, true] {
        let fault = if breaks {
            document(404, "NAME_UNKNOWN")
        } else {
            answer(404, &[], &long)
        };
        let platform = Scripted::new([fault]);
        if breaks {
            platform.break_next_body();
        }
        let received = send(&Mirror::new(platform), get(TAGS)).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (404, "UNSUPPORTED")
        );
    }
}

#[tokio::test]
async fn a_list_without_head_is_asked_by_get() {
    let referrers = format!("/v2/a/referrers/{DIGEST}?upstream=registry.example");
    for status in [400, 405, 406, 501] {
        for (path, media_type) in [
            (TAGS, "application/json"),
            (CATALOG, "application/json"),
            (&referrers, "application/vnd.oci.image.index.v1+json"),
        ] {
            let found = answer(200, &[("content-type", media_type)], "{}");
            let platform = Scripted::new([answer(status, &[], ""), found]);
            let received = send(&Mirror::new(platform.clone()), head(path)).await;
            assert_eq!(received.status(), 200, "{status} {path}");
            assert_eq!(received.text(), "");
            let url = format!("{REGISTRY}{}", path.split_once('?').unwrap().0);
            assert_eq!(
                platform.sent(),
                [format!("HEAD {url}"), format!("GET {url}")]
            );
        }
    }
    // What the `GET` says is the answer.
    let platform = Scripted::new([answer(405, &[], ""), document(404, "NAME_UNKNOWN")]);
    let received = send(&Mirror::new(platform), head(TAGS)).await;
    assert_eq!(received.status(), 404);
}

/// public.ecr.aws answers 400 to a token that has ended, others 403.
#[tokio::test]
async fn replaces_a_token_that_is_dead_by_a_400_or_403() {
    for status in [400, 403] {
        for is_new_instance in [false, true] {
            let (platform, mut mirror) = warm().await;
            if is_new_instance {
                mirror = Mirror::new(platform.clone());
            }
            let dead = || answer(status, &[], "");
            platform.add_answers([dead(), token("two"), manifest(), manifest()]);
            assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
            assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
            let sent = |token: &str| format!("GET {HUB}{MANIFEST} Bearer {token}");
            assert_eq!(
                platform.sent(),
                [
                    sent("one"),
                    format!("GET {TOKEN_URL}"),
                    sent("two"),
                    sent("two")
                ]
            );
        }
    }
}

#[tokio::test]
async fn believes_a_400_or_403_to_a_new_token() {
    for status in [400, 403] {
        let refused = || answer(status, &[], "");
        let (platform, mirror) = warm().await;
        platform.add_answers([refused(), token("two"), refused(), refused()]);
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), status);
        assert_eq!(platform.sent().len(), 3);
        // Nor is another fetched for each request of a repository that is closed like this.
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), status);
        assert_eq!(platform.sent().len(), 1);
        // A new instance knows it too, and so does one after a request that was answered.
        platform.add_answers([refused(), manifest(), refused()]);
        let mirror = Mirror::new(platform.clone());
        for expected in [status, 200, status] {
            assert_eq!(send(&mirror, get(MANIFEST)).await.status(), expected);
        }
        assert_eq!(platform.sent().len(), 3);
        // Later the token may be dead.
        platform.advance(Duration::from_secs(61));
        platform.add_answers([refused(), token("three"), manifest()]);
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);

        // A token that was never good is not replaced.
        let platform = Scripted::new([challenge(), token("one"), refused(), refused()]);
        let mirror = Mirror::new(platform.clone());
        for _ in 0..2 {
            assert_eq!(send(&mirror, get(MANIFEST)).await.status(), status);
        }
        assert_eq!(platform.sent().len(), 4);
        // Where the token server fails, neither.
        let (platform, mirror) = warm().await;
        platform.add_answers([refused(), answer(503, &[], "")]);
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), status);
    }
}

#[tokio::test]
async fn follows_redirects_of_token_servers() {
    for status in [301, 302, 303, 307, 308] {
        for (location, url) in [
            ("/other?x=1", "https://auth.docker.io/other?x=1"),
            ("https://new.example/t", "https://new.example/t"),
            ("//new.example/t?a=b", "https://new.example/t?a=b"),
        ] {
            let moved = answer(status, &[("location", location), ("set-cookie", "a=b")], "");
            let platform = Scripted::new([challenge(), moved, token("one"), manifest()]);
            let received = send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
            assert_eq!(received.status(), 200, "{status} {location}");
            assert_eq!(
                platform.sent(),
                [
                    format!("GET {HUB}{MANIFEST}"),
                    format!("GET {TOKEN_URL}"),
                    format!("GET {url}"),
                    format!("GET {HUB}{MANIFEST} Bearer one"),
                ]
            );
        }
    }
}

#[tokio::test]
async fn does_not_follow_a_token_server_to_where_it_may_not_lead() {
    for location in [
        "http://auth.docker.io/token",
        "https://10.0.0.1/token",
        "https://token.svc/",
        "ftp://auth.example/",
        "https://user@auth.example/",
    ] {
        let platform = Scripted::new([challenge(), redirect(location)]);
        let received = send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (502, "UNAVAILABLE"),
            "{location}"
        );
        assert_eq!(platform.sent().len(), 2, "{location}");
    }
    // An operator who closes the upstreams closes these with them.
    let platform = Scripted::new([challenge(), redirect("https://auth.example/token")]);
    platform.set_variable("allowed_upstreams", "docker.io");
    let received = send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
    assert_eq!((received.status(), platform.sent().len()), (502, 2));
    let circle = (0..6).map(|_| redirect("/token"));
    let platform = Scripted::new([challenge()].into_iter().chain(circle));
    let received = send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
    assert_eq!((received.status(), platform.sent().len()), (502, 7));
}

/// Artifactory has a realm for each repository.
#[tokio::test]
async fn repositories_with_realms_of_their_own_cost_one_request_each() {
    let path = |name: &str| format!("/v2/{name}/tags/list?upstream=registry.example");
    let url = |name: &str| format!("GET {REGISTRY}/v2/{name}/tags/list");
    let challenge = |name: &str| challenge_of(&format!("{REGISTRY}/{name}/token"), name);
    let platform = Scripted::new([challenge("a"), token("a"), list()]);
    let mirror = Mirror::new(platform.clone());
    assert_eq!(send(&mirror, get(&path("a"))).await.status(), 200);
    // The first time each is guessed to be like the other. The token of the first is still there.
    for (name, own) in [("b", Some(token("b"))), ("a", None)] {
        let guessed = [token("wrong"), challenge(name), challenge(name)];
        platform.add_answers(guessed.into_iter().chain(own).chain([list()]));
        assert_eq!(send(&mirror, get(&path(name))).await.status(), 200);
    }
    platform.sent();
    for round in 0..3 {
        for mirror in [&mirror, &Mirror::new(platform.clone())] {
            for name in ["a", "b"] {
                platform.add_answers([list()]);
                assert_eq!(send(mirror, get(&path(name))).await.status(), 200);
                assert_eq!(platform.sent(), [format!("{} Bearer {name}", url(name))]);
            }
        }
        if round == 1 {
            // A new token comes from the repository's own realm at once.
            platform.advance(Duration::from_secs(301));
            for name in ["a", "b"] {
                platform.add_answers([token(name), list()]);
                assert_eq!(send(&mirror, get(&path(name))).await.status(), 200);
                assert!(platform.sent()[0].contains(&format!("/{name}/token")));
            }
        }
    }
    // In another instance too.
    platform.advance(Duration::from_secs(301));
    let mirror = Mirror::new(platform.clone());
    for name in ["a", "b"] {
        platform.add_answers([token(name), list()]);
        assert_eq!(send(&mirror, get(&path(name))).await.status(), 200);
        assert_eq!(platform.sent().len(), 2);
    }
}

/// What somebody's registry, which only a client named, can have the mirror do elsewhere.
#[tokio::test]
async fn a_registry_that_a_client_names_gets_no_token_of_others() {
    let challenge = |realm: &str| challenge_of(realm, "a");
    // Another owner's host is not asked, by a redirect neither.
    for answers in [
        vec![challenge("https://victim.example/api?delete=1")],
        vec![
            challenge(&format!("{REGISTRY}/token")),
            redirect("https://victim.example/api?delete=1"),
        ],
    ] {
        let number = answers.len();
        let platform = Scripted::new(answers);
        let received = send(&Mirror::new(platform.clone()), get(TAGS)).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (502, "UNAVAILABLE")
        );
        let sent = platform.sent();
        assert_eq!(sent.len(), number);
        assert!(sent.iter().all(|sent| sent.contains(REGISTRY)), "{sent:?}");
    }
    // One that grants tokens to everybody is asked with the protocol's query only, ...
    let query = "service=registry.docker.io&scope=repository%3Aa%3Apull";
    for answers in [
        vec![challenge("https://auth.docker.io/token?account=x")],
        vec![
            challenge(&format!("{REGISTRY}/token?x=1")),
            redirect("https://auth.docker.io/token?account=x"),
        ],
    ] {
        let answers = answers.into_iter().chain([token("one"), list()]);
        let platform = Scripted::new(answers);
        let received = send(&Mirror::new(platform.clone()), get(TAGS)).await;
        assert_eq!(received.status(), 200);
        let realm = format!("GET https://auth.docker.io/token?{query}");
        assert_eq!(platform.sent().iter().rev().nth(1), Some(&realm));
    }
    // ... and once, however often the registry leads to itself.
    let other = |name: &str| redirect(&format!("{REGISTRY}/v2/{name}/tags/list"));
    let platform = Scripted::new([
        challenge("https://auth.docker.io/token"),
        token("one"),
        other("b"),
        challenge_of("https://auth.docker.io/token", "b"),
    ]);
    let received = send(&Mirror::new(platform.clone()), get(TAGS)).await;
    assert_eq!(received.status(), 502);
    let sent = platform.sent();
    let asked = sent.iter().filter(|sent| sent.contains("auth.docker.io"));
    assert_eq!(asked.count(), 1, "{sent:?}");
}
