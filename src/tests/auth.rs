//! Tokens: which are fetched, from where, and how often.

use super::*;

#[tokio::test]
async fn the_first_request_takes_two_upstream_requests_and_one_token() {
    let platform = Scripted::new([challenge(), token("one"), manifest()]);
    let mirror = Mirror::new(platform.clone());
    let received = send(&mirror, get("/v2/alpine/manifests/latest")).await;
    assert_eq!(received.status(), 200);
    assert_eq!(received.header("www-authenticate"), None);
    assert_eq!(
        platform.sent(),
        [
            format!("GET {HUB}{MANIFEST}"),
            format!("GET {TOKEN_URL}"),
            format!("GET {HUB}{MANIFEST} Bearer one"),
        ]
    );
    let log = platform.log();
    assert_eq!(log.len(), 1);
    assert!(log[0].contains("repository=library/alpine reference=latest upstream=registry-1.docker.io status=200 upstream_requests=2 token_requests=1 token_source=fetched"));
}

#[tokio::test]
async fn a_warm_request_takes_one_upstream_request_and_no_store_call() {
    let (platform, mirror) = warm().await;
    let store_calls = platform.store_calls();
    platform.add_answers([manifest(), manifest_head()]);
    send(&mirror, get(MANIFEST)).await;
    let head = Request::head(format!("http://mirror.example{MANIFEST}"))
        .body(())
        .unwrap();
    send(&mirror, head).await;
    assert_eq!(
        platform.sent(),
        [
            format!("GET {HUB}{MANIFEST} Bearer one"),
            format!("HEAD {HUB}{MANIFEST} Bearer one")
        ]
    );
    assert_eq!(platform.store_calls(), store_calls);
}

#[tokio::test]
async fn a_new_repository_on_a_known_upstream_costs_one_token() {
    let (platform, mirror) = warm().await;
    platform.add_answers([token("two"), manifest()]);
    send(&mirror, get("/v2/grafana/grafana/manifests/latest")).await;
    assert_eq!(
        platform.sent(),
        [
            "GET https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Agrafana%2Fgrafana%3Apull"
                .to_owned(),
            format!("GET {HUB}/v2/grafana/grafana/manifests/latest Bearer two"),
        ]
    );
}

#[tokio::test]
async fn asks_an_upstream_without_authentication_once() {
    let platform = Scripted::new([manifest(), manifest()]);
    let mirror = Mirror::new(platform.clone());
    let path = "/v2/dotnet/sdk/manifests/8.0?upstream=mcr.microsoft.com";
    send(&mirror, get(path)).await;
    let store_calls = platform.store_calls();
    send(&mirror, get(path)).await;
    assert_eq!(
        platform.sent(),
        ["GET https://mcr.microsoft.com/v2/dotnet/sdk/manifests/8.0"; 2]
    );
    assert_eq!(platform.store_calls(), store_calls);
}

#[tokio::test]
async fn a_new_instance_reads_the_salt_and_one_key_of_the_store() {
    let (platform, _) = warm().await;
    let store_calls = platform.store_calls();
    let mirror = Mirror::new(platform.clone());
    for token in ["token_source=store", "token_source=memory"] {
        platform.add_answers([manifest()]);
        send(&mirror, get(MANIFEST)).await;
        assert_eq!(platform.sent(), [format!("GET {HUB}{MANIFEST} Bearer one")]);
        assert!(platform.log().last().unwrap().contains(token));
        assert_eq!(platform.store_calls(), store_calls + 2);
    }
}

/// Docker Hub's tokens come from elsewhere now, and the mirror has learnt it by asking for another
/// repository.
async fn moved() -> (Scripted, Mirror<Scripted>) {
    let (platform, mirror) = warm().await;
    let moved = || challenge_of("https://auth.example/token", "grafana/grafana");
    platform.add_answers([token("other"), moved(), moved(), token("new"), manifest()]);
    send(&mirror, get("/v2/grafana/grafana/manifests/latest")).await;
    platform.run_deferred().await;
    platform.sent();
    (platform, mirror)
}

#[tokio::test]
async fn a_stored_token_says_nothing_of_other_repositories() {
    let (platform, _) = moved().await;
    let mirror = Mirror::new(platform.clone());
    platform.add_answers([manifest(), token("third"), manifest()]);
    send(&mirror, get(MANIFEST)).await;
    send(&mirror, get("/v2/library/debian/manifests/latest")).await;
    let realm = TOKEN_URL
        .replace("auth.docker.io", "auth.example")
        .replace("alpine", "debian");
    assert_eq!(platform.sent()[1], format!("GET {realm}"));
}

#[tokio::test]
async fn a_new_instance_refreshes_a_token_near_its_end() {
    let (platform, _) = warm().await;
    platform.advance(Duration::from_secs(280));
    platform.add_answers([token("two"), manifest()]);
    send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
    assert_eq!(
        platform.sent(),
        [
            format!("GET {TOKEN_URL}"),
            format!("GET {HUB}{MANIFEST} Bearer two")
        ]
    );
}

#[tokio::test]
async fn does_not_use_a_token_of_a_former_token_server() {
    for is_new_instance in [false, true] {
        let (platform, mut mirror) = moved().await;
        if is_new_instance {
            // It has heard of the new one, and finds the old token in the store.
            mirror = Mirror::new(platform.clone());
            platform.add_answers([token("three"), manifest()]);
            send(&mirror, get("/v2/library/debian/manifests/latest")).await;
            platform.sent();
        }
        platform.add_answers([token("two"), manifest()]);
        send(&mirror, get(MANIFEST)).await;
        let realm = TOKEN_URL.replace("auth.docker.io", "auth.example");
        assert_eq!(
            platform.sent(),
            [
                format!("GET {realm}"),
                format!("GET {HUB}{MANIFEST} Bearer two")
            ]
        );
    }
}

#[tokio::test]
async fn the_challenge_of_a_catalog_says_nothing_of_repositories() {
    let asks_for = |scope: &str| {
        let challenge = format!(r#"Bearer realm="https://auth.example.com/token",scope="{scope}""#);
        answer(401, &[("www-authenticate", &challenge)], "")
    };
    let list = || answer(200, &[("content-type", "application/json")], "{}");
    let tags = "/v2/a/tags/list?upstream=registry.example.com";
    for catalogs in [
        vec![asks_for("registry:catalog:*"), token("catalog"), list()],
        vec![list()],
    ] {
        let platform = Scripted::new([asks_for("repository:a:pull"), token("one"), list()]);
        let mirror = Mirror::new(platform.clone());
        assert_eq!(send(&mirror, get(tags)).await.status(), 200);
        platform.add_answers(catalogs);
        assert_eq!(
            send(&mirror, get("/v2/_catalog?upstream=registry.example.com"))
                .await
                .status(),
            200
        );
        platform.advance(Duration::from_secs(301));
        platform.sent();
        for mirror in [mirror, Mirror::new(platform.clone())] {
            platform.add_answers([token("two"), list()]);
            assert_eq!(send(&mirror, get(tags)).await.status(), 200);
            assert_eq!(
                platform.sent(),
                [
                    "GET https://auth.example.com/token?scope=repository%3Aa%3Apull",
                    "GET https://registry.example.com/v2/a/tags/list Bearer two"
                ]
            );
            platform.advance(Duration::from_secs(301));
        }
    }
}

/// A registry that knows its repositories by other names than it is asked for.
#[tokio::test]
async fn fetches_a_token_for_the_scope_of_another_repository() {
    let other_name = |repository: &str| challenge_of("https://auth.example/token", repository);
    let (platform, mirror) = warm().await;
    platform.add_answers([
        token("a"),
        other_name("other/a"),
        other_name("other/a"),
        token("b"),
        manifest(),
    ]);
    assert_eq!(
        send(&mirror, get("/v2/library/a/manifests/latest"))
            .await
            .status(),
        200
    );
    platform.advance(Duration::from_secs(301));
    platform.sent();
    platform.add_answers([
        token("old"),
        other_name("other/b"),
        token("new"),
        manifest(),
    ]);
    assert_eq!(
        send(&mirror, get("/v2/library/b/manifests/latest"))
            .await
            .status(),
        200
    );
    let realm = |repository: &str| {
        format!(
            "GET https://auth.example/token?service=registry.docker.io&scope=repository%3Aother%2F{repository}%3Apull"
        )
    };
    let sent = |token: &str| format!("GET {HUB}/v2/library/b/manifests/latest Bearer {token}");
    assert_eq!(
        platform.sent(),
        [realm("a"), sent("old"), realm("b"), sent("new")]
    );
    platform.advance(Duration::from_secs(301));
    // It is where the scope is the very one that was asked for.
    platform.add_answers([token("newer"), other_name("other/b")]);
    assert_eq!(
        send(&mirror, get("/v2/library/b/manifests/latest"))
            .await
            .status(),
        403
    );
    assert_eq!(platform.sent(), [realm("b"), sent("newer")]);
}

#[tokio::test]
async fn uses_a_token_until_shortly_before_its_end() {
    let (platform, mirror) = warm().await;
    platform.advance(Duration::from_secs(269));
    platform.add_answers([manifest()]);
    send(&mirror, get(MANIFEST)).await;
    assert_eq!(platform.sent(), [format!("GET {HUB}{MANIFEST} Bearer one")]);
    platform.advance(Duration::from_secs(2));
    platform.add_answers([token("two"), manifest()]);
    send(&mirror, get(MANIFEST)).await;
    assert_eq!(
        platform.sent(),
        [
            format!("GET {TOKEN_URL}"),
            format!("GET {HUB}{MANIFEST} Bearer two")
        ]
    );
}

#[tokio::test]
async fn uses_a_valid_token_to_its_end_where_refreshing_fails() {
    for fault in [
        Err(TransportError::TimedOut),
        answer(429, &[], ""),
        answer(403, &[], ""),
        answer(200, &[], "garbage"),
    ] {
        let (platform, mirror) = warm().await;
        platform.advance(Duration::from_secs(280));
        platform.add_answers([fault, manifest()]);
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
        assert_eq!(
            platform.sent(),
            [
                format!("GET {TOKEN_URL}"),
                format!("GET {HUB}{MANIFEST} Bearer one")
            ]
        );
        platform.advance(Duration::from_secs(20));
        platform.add_answers([Err(TransportError::Connect)]);
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 502);
    }
}

#[tokio::test]
async fn clocks_may_differ_and_tokens_may_be_expired_at_once() {
    for (life, issued, fetches) in [
        ("300", "1970-01-12T13:36:40Z", 1), // ten minutes behind this mirror's clock
        ("300", "1970-01-12T13:56:40Z", 1), // and before it
        ("0", "1970-01-12T13:46:40Z", 2),
        ("-5", "1970-01-12T13:46:40Z", 2),
    ] {
        let granted = || {
            answer(
                200,
                &[],
                &format!(r#"{{"token":"t","expires_in":{life},"issued_at":"{issued}"}}"#),
            )
        };
        let platform = Scripted::new([challenge(), granted(), manifest()]);
        let mirror = Mirror::new(platform.clone());
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
        platform.add_answers((1..fetches).map(|_| granted()).chain([manifest()]));
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
        let sent = platform.sent();
        assert_eq!(
            sent.iter().filter(|sent| sent.contains("/token")).count(),
            fetches,
            "{life} {issued}"
        );
    }
}

#[tokio::test]
async fn refreshes_a_dead_token_once() {
    for instance_is_new in [false, true] {
        let (platform, mut mirror) = warm().await;
        if instance_is_new {
            mirror = Mirror::new(platform.clone());
        }
        platform.add_answers([challenge(), token("two"), manifest(), manifest()]);
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
        assert_eq!(
            platform.sent(),
            [
                format!("GET {HUB}{MANIFEST} Bearer one"),
                format!("GET {TOKEN_URL}"),
                format!("GET {HUB}{MANIFEST} Bearer two"),
                format!("GET {HUB}{MANIFEST} Bearer two"),
            ]
        );
    }
}

#[tokio::test]
async fn a_second_401_means_denied() {
    let (platform, mirror) = warm().await;
    platform.add_answers([challenge(), token("two"), challenge()]);
    let received = send(&mirror, get(MANIFEST)).await;
    assert_eq!(
        (received.status(), received.code().as_str()),
        (403, "DENIED")
    );
    assert_eq!(received.header("www-authenticate"), None);
    assert_eq!(received.header("set-cookie"), None);
    assert!(!received.text().contains("secret words"));
    assert_eq!(platform.sent().len(), 3);
}

#[tokio::test]
async fn follows_an_upstream_that_changes_its_requirement() {
    // To another token server. What it answers to the old token may name one that has no anonymous
    // users (nvcr.io).
    let (platform, mirror) = warm().await;
    platform.add_answers([
        challenge_of("https://private.example/token", "library/alpine"),
        challenge_of("https://new.example/token", "library/alpine"),
        token("new"),
        manifest(),
        manifest(),
    ]);
    send(&mirror, get(MANIFEST)).await;
    send(&mirror, get(MANIFEST)).await;
    assert_eq!(
        platform.sent(),
        [
            format!("GET {HUB}{MANIFEST} Bearer one"),
            format!("GET {HUB}{MANIFEST}"),
            TOKEN_URL.replace("https://auth.docker.io", "GET https://new.example"),
            format!("GET {HUB}{MANIFEST} Bearer new"),
            format!("GET {HUB}{MANIFEST} Bearer new"),
        ]
    );

    // To a token server that replaces one that is gone.
    let (platform, mirror) = warm().await;
    platform.advance(Duration::from_secs(300));
    platform.add_answers([Err(TransportError::Connect)]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 502);
    platform.sent();
    platform.add_answers([
        challenge_of("https://new.example/token", "library/alpine"),
        token("new"),
        manifest(),
    ]);
    // Another instance knows it too.
    assert_eq!(
        send(&Mirror::new(platform.clone()), get(MANIFEST))
            .await
            .status(),
        200
    );
    assert_eq!(platform.sent()[0], format!("GET {HUB}{MANIFEST}"));
}

#[tokio::test]
async fn a_private_repository_does_not_close_public_ones() {
    let platform = Scripted::new([
        manifest(),
        challenge_of("https://auth.example.com/token", "closed/app"),
        answer(401, &[], ""),
        manifest(),
        manifest(),
    ]);
    let mirror = Mirror::new(platform.clone());
    let (open, closed) = (
        "/v2/open/app/manifests/1?upstream=registry.example.com",
        "/v2/closed/app/manifests/1?upstream=registry.example.com",
    );
    for (path, status) in [(open, 200), (closed, 403), (open, 200)] {
        assert_eq!(send(&mirror, get(path)).await.status(), status, "{path}");
    }
    assert_eq!(
        send(&Mirror::new(platform.clone()), get(open))
            .await
            .status(),
        200
    );
    assert_eq!(
        platform
            .sent()
            .iter()
            .filter(|sent| sent.contains("/token"))
            .count(),
        1
    );
}

#[tokio::test]
async fn one_scope_for_all_repositories_is_one_token() {
    let aws = || {
        answer(
            401,
            &[(
                "www-authenticate",
                r#"Bearer realm="https://public.ecr.aws/token/",scope="aws""#,
            )],
            "",
        )
    };
    let platform = Scripted::new([aws(), token("one"), manifest(), manifest()]);
    let mirror = Mirror::new(platform.clone());
    send(&mirror, get("/v2/a/b/manifests/1?upstream=public.ecr.aws")).await;
    send(&mirror, get("/v2/c/d/manifests/1?upstream=public.ecr.aws")).await;
    assert_eq!(
        platform.sent(),
        [
            "GET https://public.ecr.aws/v2/a/b/manifests/1",
            "GET https://public.ecr.aws/token/?scope=aws",
            "GET https://public.ecr.aws/v2/a/b/manifests/1 Bearer one",
            "GET https://public.ecr.aws/v2/c/d/manifests/1 Bearer one",
        ]
    );
}

#[tokio::test]
async fn looks_for_a_missing_challenge_at_the_ping() {
    let ping = answer(
        401,
        &[(
            "www-authenticate",
            r#"Bearer realm="https://gcr.io/v2/token",service="gcr.io""#,
        )],
        "",
    );
    let platform = Scripted::new([answer(401, &[], ""), ping, token("one"), manifest()]);
    assert_eq!(
        send(
            &Mirror::new(platform.clone()),
            get("/v2/p/i/manifests/1?upstream=gcr.io")
        )
        .await
        .status(),
        200
    );
    assert_eq!(
        platform.sent(),
        [
            "GET https://gcr.io/v2/p/i/manifests/1",
            "GET https://gcr.io/v2/",
            "GET https://gcr.io/v2/token?service=gcr.io&scope=repository%3Ap%2Fi%3Apull",
            "GET https://gcr.io/v2/p/i/manifests/1 Bearer one",
        ]
    );
}

#[tokio::test]
async fn simultaneous_first_requests_share_one_token() {
    let answers = (0..40)
        .map(|_| challenge())
        .chain([token("one")])
        .chain((0..40).map(|_| manifest()));
    let platform = Scripted::new(answers);
    let mirror = Mirror::new(platform.clone());
    let received =
        futures_util::future::join_all((0..40).map(|_| mirror.handle(get(MANIFEST)))).await;
    assert!(received.iter().all(|response| response.status() == 200));
    let sent = platform.sent();
    assert_eq!(
        sent.iter().filter(|sent| sent.contains("/token")).count(),
        1
    );
    assert_eq!(sent.len(), 81);
}

#[tokio::test]
async fn a_failed_shared_fetch_fails_all_and_the_next_request_tries_again() {
    let answers = (0..40).map(|_| challenge()).chain([answer(503, &[], "")]);
    let platform = Scripted::new(answers);
    let mirror = Mirror::new(platform.clone());
    let received =
        futures_util::future::join_all((0..40).map(|_| mirror.handle(get(MANIFEST)))).await;
    assert!(received.iter().all(|response| response.status() == 502));
    platform.add_answers([challenge(), token("one"), manifest()]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
}

#[tokio::test]
async fn each_fault_of_a_token_server_has_its_error() {
    let large = format!(r#"{{"token":"t","padding":"{}"}}"#, " ".repeat(1024 * 1024));
    for (fault, status, code) in [
        (Err(TransportError::Connect), 502, "UNAVAILABLE"),
        (Err(TransportError::TimedOut), 504, "UNAVAILABLE"),
        (answer(401, &[], "secret words"), 403, "DENIED"),
        (answer(403, &[], "secret words"), 403, "DENIED"),
        (
            answer(429, &[("retry-after", "60")], "secret words"),
            429,
            "TOOMANYREQUESTS",
        ),
        (answer(500, &[], "secret words"), 502, "UNAVAILABLE"),
        (
            answer(307, &[("location", "ftp://elsewhere.example/")], ""),
            502,
            "UNAVAILABLE",
        ),
        (answer(200, &[], "secret words"), 502, "UNAVAILABLE"),
        (answer(200, &[], &large), 502, "UNAVAILABLE"),
    ] {
        let described = format!("{fault:?}").chars().take(80).collect::<String>();
        let platform = Scripted::new([challenge(), fault]);
        let received = send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (status, code),
            "{described}"
        );
        assert!(!received.text().contains("secret words"));
        assert!(!platform.log()[0].contains("secret words"));
        assert_eq!(
            received.header("retry-after"),
            (code == "TOOMANYREQUESTS").then_some("60")
        );
        assert!(platform.store().keys().all(|key| !key.starts_with("t-")));
    }
}

#[tokio::test]
async fn a_store_in_any_state_costs_speed_only() {
    for state in [StoreState::Failing, StoreState::Hanging] {
        let platform = Scripted::new([challenge(), token("one"), manifest(), manifest()]);
        platform.set_store(state);
        let mirror = Mirror::new(platform.clone());
        assert_eq!(mirror.handle(get(MANIFEST)).await.status(), 200);
        assert_eq!(platform.store_calls(), 1, "it is left alone after a fault");
        assert_eq!(mirror.handle(get(MANIFEST)).await.status(), 200);
        assert!(platform.log()[0].starts_with("app=hammal store=failed reading="));
    }
}

#[tokio::test]
async fn does_not_trust_the_store() {
    let nonsense = |value: &mut Vec<u8>| *value = b"\xff{".to_vec();
    let another = |value: &mut Vec<u8>| {
        let text = String::from_utf8(value.clone()).unwrap();
        *value = text
            .replace("library/alpine", "library/debian")
            .replace("registry-1.docker.io", "evil.example")
            .into_bytes();
    };
    let split = |value: &mut Vec<u8>| {
        let text = String::from_utf8(value.clone()).unwrap();
        *value = text
            .replace("\"one\"", r#""one\r\nHost: evil.example""#)
            .replace("https://auth", "file://auth")
            .into_bytes();
    };
    for change in [&nonsense as &dyn Fn(&mut Vec<u8>), &another, &split] {
        let (platform, _) = warm().await;
        platform.change_store(change);
        platform.add_answers([challenge(), token("two"), manifest()]);
        let received = send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
        assert_eq!(received.status(), 200);
        assert_eq!(
            platform.sent().last().unwrap(),
            &format!("GET {HUB}{MANIFEST} Bearer two")
        );
    }
}

#[tokio::test]
async fn the_store_does_not_grow_with_invented_names() {
    let (platform, mirror) = warm().await;
    for number in 0..3000 {
        platform.add_answers([token("t"), answer(404, &[], "")]);
        send(
            &mirror,
            get(&format!("/v2/invented/name-{number}/manifests/latest")),
        )
        .await;
    }
    let store = platform.store();
    assert!(store.len() <= 1000, "{}", store.len());
    for (key, value) in store {
        assert!(
            key.len() <= 255
                && key
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "{key}"
        );
        assert!(value.len() < 1_000_000);
    }
}

#[tokio::test]
async fn does_not_contact_an_internal_realm() {
    for realm in [
        "http://auth.docker.io/token",
        "https://10.0.0.1/token",
        "https://token.svc/",
        "https://localhost/",
    ] {
        let platform = Scripted::new([challenge_of(realm, "library/alpine")]);
        let received = send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (502, "UNAVAILABLE"),
            "{realm}"
        );
        assert_eq!(platform.sent().len(), 1);
    }
}

#[tokio::test]
async fn no_token_is_in_the_log() {
    let platform = Scripted::new([challenge(), token("token-one"), challenge()]);
    let mirror = Mirror::new(platform.clone());
    send(&mirror, get(MANIFEST)).await;
    platform.add_answers([challenge(), token("token-two"), challenge()]);
    send(&mirror, get(MANIFEST)).await;
    let log = platform.log().join("\n");
    assert!(
        !log.contains("token-one") && !log.contains("token-two"),
        "{log}"
    );
}
