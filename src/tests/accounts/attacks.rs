//! Attacks: on a password, to have it sent elsewhere; and on what only an account may read.

use super::*;

/// Answers in place of Docker Hub.
type Override = fn(&Request<()>) -> Option<Answer>;

/// Returns whether a request is for this host.
fn is_at(request: &Request<()>, host: &str) -> bool {
    request.uri().host() == Some(host)
}

fn is_registry(request: &Request<()>) -> bool {
    is_at(request, "registry-1.docker.io")
}

fn has_authorization(request: &Request<()>) -> bool {
    request.headers().contains_key("authorization")
}

/// Returns the requests by which a password or an account's token went where it does not belong.
fn leaks(requests: &[Request<()>]) -> Vec<String> {
    let leaks = requests.iter().filter(|request| {
        let header = request.headers().get("authorization");
        let header = header.map_or("", |header| header.to_str().unwrap());
        let (uri, is_https) = (request.uri(), request.uri().scheme_str() == Some("https"));
        let belongs_to = match header.split(' ').next() {
            Some("Basic") => "auth.docker.io",
            Some("Bearer") if header.contains("alice:") => "registry-1.docker.io",
            _ => return false,
        };
        !is_https || uri.authority().unwrap().as_str() != belongs_to
    });
    leaks.map(|request| format!("{request:?}")).collect()
}

/// A mirror, closed or open, whose registry answers as `changed` says.
fn attacked(is_closed: bool, changed: Override, more: &[(&str, &str)]) -> Mirror<Scripted> {
    let mut variables = more.to_vec();
    if is_closed {
        variables.extend([("credentials_serve", "all"), ("secret", SECRET)]);
    }
    let (platform, hub, mirror) = mirror_with(ALICE, &variables);
    platform.respond(move |request| changed(request).unwrap_or_else(|| hub.respond(request)));
    mirror
}

#[tokio::test]
async fn a_password_goes_to_its_own_token_server_only() {
    let attacks: [(&str, Override); 11] = [
        ("a foreign realm", |request| {
            let realm = "https://evil.example/token";
            let is_answered = is_at(request, "evil.example");
            if is_answered {
                return Some(token("alice:team/public"));
            }
            is_registry(request).then(|| challenge_of(realm, "team/public"))
        }),
        ("a realm in clear text", |request| {
            is_registry(request).then(|| challenge_of("http://auth.docker.io/token", "team/public"))
        }),
        ("a realm at a name like the registry's", |request| {
            is_registry(request)
                .then(|| challenge_of("https://auth.docker.io.evil.example/t", "team/public"))
        }),
        ("a realm with a user in it", |request| {
            is_registry(request)
                .then(|| challenge_of("https://auth.docker.io@evil.example/t", "team/public"))
        }),
        ("a token server that redirects", |request| {
            is_at(request, "auth.docker.io").then(|| redirect("https://evil.example/token"))
        }),
        ("a token server that redirects to clear text", |request| {
            is_at(request, "auth.docker.io").then(|| redirect("http://auth.docker.io/token"))
        }),
        ("a token server that redirects to another port", |request| {
            is_at(request, "auth.docker.io").then(|| redirect("https://auth.docker.io:8443/token"))
        }),
        ("a registry that redirects", |request| {
            (is_registry(request) && has_authorization(request))
                .then(|| redirect("https://evil.example/v2/team/public/manifests/1"))
        }),
        ("a registry that redirects at once", |request| {
            is_registry(request)
                .then(|| redirect("https://evil.example/v2/team/public/manifests/1"))
        }),
        ("a registry that redirects to clear text", |request| {
            let url = "http://plain.docker.io/v2/team/public/manifests/1";
            (is_registry(request) && has_authorization(request)).then(|| redirect(url))
        }),
        (
            "a registry that redirects to where a password is asked for",
            |request| {
                is_registry(request)
                    .then(|| redirect("https://evil.example/v2/team/public/manifests/basic"))
            },
        ),
    ];
    for (attack, changed) in attacks {
        for is_closed in [false, true] {
            // Whatever the operator lists besides.
            for plain in ["", "auth.docker.io:80,plain.docker.io:80"] {
                let mirror = attacked(is_closed, changed, &[("plain_http_upstreams", plain)]);
                let platform = mirror.platform.clone();
                let secret = if is_closed {
                    format!("/{SECRET}")
                } else {
                    String::new()
                };
                // What the evil host says, where it is asked.
                let evil = |request: &Request<()>| {
                    let is_evil = request.uri().host().unwrap().ends_with("evil.example");
                    is_evil.then(|| answer_of_evil(request))
                };
                let hub = Hub::default();
                platform.respond(move |request| {
                    let answer = changed(request).or_else(|| evil(request));
                    answer.unwrap_or_else(|| match request.uri().scheme_str() {
                        Some("https") if request.uri().port().is_none() => hub.respond(request),
                        _ => manifest(),
                    })
                });
                for request in [
                    get(&format!("{secret}{PUBLIC}")),
                    head(&format!("{secret}{PUBLIC}")),
                ] {
                    send(&mirror, request).await;
                }
                let requests = platform.requests();
                assert_eq!(leaks(&requests), [""; 0], "{attack} {is_closed} {plain}");
                assert!(!requests.is_empty(), "{attack}");
            }
        }
    }
}

/// A host that asks for whatever it may be given, and answers all.
fn answer_of_evil(request: &Request<()>) -> Answer {
    let bearer = r#"Bearer realm="https://evil.example/token",service="registry.docker.io""#;
    match request.uri().path() {
        "/t" | "/token" => token("evil"),
        _ if has_authorization(request) => manifest(),
        // With a realm in its own domain, or for the password itself.
        path if path.ends_with("/basic") => {
            answer(401, &[("www-authenticate", "Basic realm=\"docker\"")], "")
        }
        _ => answer(401, &[("www-authenticate", bearer)], ""),
    }
}

#[tokio::test]
async fn the_table_of_attacks_would_show_a_leak() {
    let request = |url: &str, header: String| {
        Request::get(url)
            .header("authorization", header)
            .body(())
            .unwrap()
    };
    for (url, header, is_leak) in [
        ("https://auth.docker.io/token", basic("alice"), false),
        ("http://auth.docker.io/token", basic("alice"), true),
        ("https://evil.example/token", basic("alice"), true),
        (
            "https://registry-1.docker.io/v2/",
            "Bearer alice:a".to_owned(),
            false,
        ),
        ("https://cdn.example/", "Bearer alice:a".to_owned(), true),
        (
            "https://cdn.example/",
            "Bearer anonymous:a".to_owned(),
            false,
        ),
    ] {
        assert_eq!(!leaks(&[request(url, header)]).is_empty(), is_leak, "{url}");
    }
}

#[tokio::test]
async fn a_registry_that_relays_anothers_challenge_gets_no_token_of_the_account() {
    for (is_closed, upstream, query) in [
        (false, "docker.io,evil.example", ""),
        (true, "docker.io,evil.example", ""),
        (false, "docker.io", "?upstream=evil.example"),
        (true, "docker.io", "?upstream=evil.example"),
    ] {
        let changed: Override = |request| {
            let realm = "https://auth.docker.io/token";
            match request.uri().host().unwrap() {
                "evil.example" if has_authorization(request) => Some(manifest()),
                "evil.example" => Some(challenge_of(realm, "team/private")),
                "registry-1.docker.io" => Some(Err(TransportError::Connect)),
                _ => None,
            }
        };
        let mirror = attacked(is_closed, changed, &[("upstream", upstream)]);
        let secret = if is_closed {
            format!("/{SECRET}")
        } else {
            String::new()
        };
        send(&mirror, get(&format!("{secret}{PRIVATE}{query}"))).await;
        let requests = mirror.platform.requests();
        assert!(
            requests
                .iter()
                .any(|request| is_at(request, "evil.example"))
        );
        assert_eq!(leaks(&requests), [""; 0], "{upstream}{query}");
        let is_password = |request: &Request<()>| {
            let header = request.headers().get("authorization");
            header.is_some_and(|header| header.as_bytes().starts_with(b"Basic"))
        };
        assert!(!requests.iter().any(is_password), "{upstream}{query}");
    }
}

/// On a closed mirror: whoever owns a registry, or a repository, has others asked for that are not
/// the client's to name.
#[tokio::test]
async fn a_redirect_to_the_registry_of_an_account_is_asked_as_the_anonymous_user() {
    let changed: Override = |request| {
        let is_evil = is_at(request, "evil.example")
            || request.uri().path() == PUBLIC && has_authorization(request);
        is_evil.then(|| redirect("https://registry-1.docker.io/v2/team/private/manifests/1"))
    };
    let allowed = [("allowed_repositories", "team/public,evil.example/*")];
    let mirror = attacked(true, changed, &allowed);
    for path in ["/v2/a/b/manifests/1?upstream=evil.example", PUBLIC] {
        let received = send(&mirror, get(&format!("/{SECRET}{path}"))).await;
        let lines = asked(&mirror.platform);
        assert_eq!(received.status(), 403, "{path} {lines:?}");
        assert!(!received.text().contains("team/private"));
        let is_private = |line: &String| line.contains("alice") && line.contains("private");
        assert!(
            lines.contains(&format!("GET anonymous {PRIVATE}")),
            "{lines:?}"
        );
        assert!(!lines.iter().any(is_private), "{lines:?}");
    }
}

#[tokio::test]
async fn no_token_of_an_account_goes_to_a_delivery_network() {
    let changed: Override =
        |request| is_at(request, "cdn.example").then(|| answer(200, &[], "bytes"));
    for is_closed in [false, true] {
        let mirror = attacked(is_closed, changed, &[("blob_delivery", "stream")]);
        let secret = if is_closed {
            format!("/{SECRET}")
        } else {
            String::new()
        };
        send(&mirror, get(&format!("{secret}{PUBLIC}"))).await;
        let blob = format!("{secret}/v2/team/public/blobs/{}", digest_of("team/public"));
        assert_eq!(send(&mirror, get(&blob)).await.text(), "bytes");
        let requests = mirror.platform.requests();
        assert!(requests.iter().any(|request| is_at(request, "cdn.example")));
        assert_eq!(leaks(&requests), [""; 0]);
    }
}

/// Every way to name the registry that the account is at.
fn ways_to_name(path: &str) -> Vec<String> {
    let rest = path.strip_prefix("/v2/").unwrap();
    let hosts = [
        "docker.io",
        "registry-1.docker.io",
        "registry-1.docker.io:443",
        "https://registry-1.docker.io",
        "https://registry-1.docker.io:443/",
        "REGISTRY-1.Docker.IO",
        "registry-1.docker.io.",
        "index.docker.io",
    ];
    let mut ways = vec![
        path.to_owned(),
        format!("/docker.io{path}"),
        format!("{path}?ns=docker.io"),
    ];
    ways.push(format!("/v2/docker.io/{rest}"));
    ways.push(format!("/v2/REGISTRY-1.docker.io:443/{rest}"));
    ways.extend(hosts.iter().map(|host| format!("{path}?upstream={host}")));
    ways
}

/// Asserts that a client gets nothing of what is private, and that no account asked for it.
async fn assert_is_closed(mirror: &Mirror<Scripted>, path: &str, why: &str) {
    for request in [get(path), head(path)] {
        let received = send(mirror, request).await;
        assert!(
            received.status() >= 400,
            "{why} {path}: {}",
            received.status()
        );
        assert!(!received.text().contains("team/private"), "{why} {path}");
        for header in ["location", "docker-content-digest", "etag"] {
            assert_eq!(received.header(header), None, "{why} {path}");
        }
    }
    let lines = asked(&mirror.platform);
    let is_private = |line: &String| line.contains("alice") && line.contains("team/private");
    assert!(!lines.iter().any(is_private), "{why} {path}: {lines:?}");
}

#[tokio::test]
async fn an_open_mirror_serves_nothing_that_only_the_account_may_read() {
    let digest = digest_of("team/private");
    for cache in ["off", "on"] {
        let (_, _, mirror) = mirror_with(ALICE, &[("manifest_cache", cache)]);
        assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
        for path in [
            PRIVATE.to_owned(),
            format!("/v2/team/private/manifests/{digest}"),
            format!("/v2/team/private/blobs/{digest}"),
            "/v2/team/private/tags/list".to_owned(),
            format!("/v2/team/private/referrers/{digest}"),
            // Under the name of a public repository.
            format!("/v2/team/public/manifests/{digest}"),
            format!("/v2/team/public/blobs/{digest}"),
        ] {
            for path in ways_to_name(&path) {
                assert_is_closed(&mirror, &path, cache).await;
            }
        }
        send(&mirror, get("/v2/_catalog")).await;
        assert!(
            !asked(&mirror.platform)
                .iter()
                .any(|line| line.contains("alice"))
        );
    }
}

#[tokio::test]
async fn every_way_to_name_the_registry_leads_to_the_same_account() {
    for path in ways_to_name(PUBLIC) {
        let (platform, _, mirror) = mirror_with(ALICE, &[]);
        let received = send(&mirror, get(&path)).await;
        if path.ends_with("docker.io.") {
            assert_eq!((received.status(), platform.sent().len()), (400, 0));
        } else {
            assert_eq!(received.status(), 200, "{path}");
            assert_eq!(
                asked(&platform).last().unwrap(),
                &format!("GET alice {PUBLIC}"),
                "{path}"
            );
        }
    }
}

/// What is no proof that a repository is public: the anonymous user is answered so, and the account
/// would be shown the manifest.
#[tokio::test]
async fn only_a_manifest_that_the_anonymous_user_is_shown_is_a_proof() {
    fn is_anonymous(request: &Request<()>) -> bool {
        let header = request.headers().get("authorization");
        is_registry(request) && header.is_some_and(|it| it.as_bytes().starts_with(b"Bearer anon"))
    }
    let answers: [(&str, Override); 9] = [
        ("a 404", |request| {
            is_anonymous(request).then(|| answer(404, &[], ""))
        }),
        ("a 403", |request| {
            is_anonymous(request).then(|| answer(403, &[], ""))
        }),
        ("a 429", |request| {
            is_anonymous(request).then(|| answer(429, &[], ""))
        }),
        ("a 503", |request| {
            is_anonymous(request).then(|| answer(503, &[], ""))
        }),
        ("a page to log in", |request| {
            is_anonymous(request).then(|| answer(200, &[("content-type", "text/html")], "log in"))
        }),
        ("an answer without a type", |request| {
            is_anonymous(request).then(|| answer(200, &[], ""))
        }),
        ("a redirect to what is public elsewhere", |request| {
            if is_at(request, "mirror.gcr.io") {
                return Some(manifest());
            }
            let url = "https://mirror.gcr.io/v2/team/private/manifests/1";
            is_anonymous(request).then(|| redirect(url))
        }),
        ("a redirect to a page to log in", |request| {
            if is_at(request, "login.docker.io") {
                return Some(answer(200, &[("content-type", "text/html")], "log in"));
            }
            is_anonymous(request).then(|| redirect("https://login.docker.io/"))
        }),
        ("no connection", |request| {
            is_anonymous(request).then_some(Err(TransportError::Connect))
        }),
    ];
    let digest = digest_of("team/private");
    let blob = format!("/v2/team/private/blobs/{digest}");
    for (what, changed) in answers {
        let mirror = attacked(false, changed, &[]);
        for path in [PRIVATE, &blob, PRIVATE, &blob] {
            for request in [get(path), head(path)] {
                let received = send(&mirror, request).await;
                assert!(!received.text().contains("team/private"), "{what}");
            }
        }
        let lines = asked(&mirror.platform);
        assert!(
            !lines.iter().any(|line| line.contains("alice")),
            "{what}: {lines:?}"
        );
        assert!(
            !lines.contains(&"token password".to_owned()),
            "{what}: {lines:?}"
        );
    }
}

#[tokio::test]
async fn what_a_closed_mirror_cached_is_not_found_by_an_open_one() {
    let digest = digest_of("team/private");
    let by_digest = format!("/v2/team/private/manifests/{digest}");
    let (platform, hub, mirror) = closed(ALICE);
    for path in [PRIVATE, &by_digest] {
        let received = send(&mirror, get(&format!("/{SECRET}{path}"))).await;
        assert_eq!(received.text(), content("team/private"));
    }
    asked(&platform);
    platform.set_variable("credentials_serve", "public");
    platform.set_variable("tag_ttl", "3600");
    for secret in ["", SECRET] {
        platform.set_variable("secret", secret);
        for credentials in [ALICE, BOTH, ""] {
            platform.set_variable("upstream_credentials", credentials);
            let prefix = if secret.is_empty() {
                String::new()
            } else {
                format!("/{secret}")
            };
            for outage in [
                None,
                Some(TransportError::Connect),
                Some(TransportError::TimedOut),
            ] {
                hub.fail(outage);
                let mirror = Mirror::new(platform.clone());
                for path in [PRIVATE, &by_digest] {
                    let path = format!("{prefix}{path}");
                    assert_is_closed(&mirror, &path, &format!("{outage:?}")).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn another_account_does_not_find_what_one_has_read() {
    let (platform, hub, mirror) = closed(ALICE);
    let path = format!("/{SECRET}{PRIVATE}");
    assert_eq!(send(&mirror, get(&path)).await.status(), 200);
    hub.answer_to("bob", 403, &[]);
    platform.set_variable("upstream_credentials", "alice@docker.io=bob:secret-of-bob");
    platform.set_variable("tag_ttl", "3600");
    let mirror = Mirror::new(platform.clone());
    assert_eq!(send(&mirror, get(&path)).await.status(), 403);
    hub.fail(Some(TransportError::Connect));
    assert_eq!(send(&mirror, get(&path)).await.status(), 502);
}

#[tokio::test]
async fn an_anonymous_refusal_takes_the_proof_back_at_once() {
    let (platform, hub, mirror) = with_cache(ALICE);
    let digest = digest_of("team/public");
    let by_digest = format!("/v2/team/public/manifests/{digest}");
    let blob = format!("/v2/team/public/blobs/{digest}");
    for path in [PUBLIC, &by_digest] {
        assert_eq!(send(&mirror, get(path)).await.status(), 200);
    }
    for cache in [None, Some("hammal; hit")] {
        let received = send(&mirror, get(&blob)).await;
        assert_eq!(received.status(), 307);
        assert!(cache.is_none() || received.header("cache-status") == cache);
    }
    hub.make_private("team/public");
    // The tag is asked for each time, by the anonymous user.
    assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 403);
    asked(&platform);
    for mirror in [mirror, Mirror::new(platform.clone())] {
        for outage in [None, Some(TransportError::Connect)] {
            hub.fail(outage);
            for path in [PUBLIC, &by_digest, &blob] {
                let received = send(&mirror, get(path)).await;
                assert!(received.status() >= 400, "{path} {outage:?}");
                assert!(!received.text().contains("team/public"));
                assert_eq!(received.header("location"), None, "{path} {outage:?}");
            }
        }
        hub.fail(None);
        assert!(!asked(&platform).iter().any(|line| line.contains("alice")));
    }
}

#[tokio::test]
async fn the_day_ends_the_proof_for_copies_too() {
    let digest = digest_of("team/public");
    let by_digest = format!("/v2/team/public/manifests/{digest}");
    let (platform, hub, mirror) = with_cache(ALICE);
    platform.set_variable("max_stale", "2592000");
    let mirror_of = || Mirror::new(platform.clone());
    assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
    hub.fail(Some(TransportError::Connect));
    platform.advance(DAY - Duration::from_secs(1));
    for mirror in [&mirror, &mirror_of()] {
        for path in [PUBLIC, &by_digest] {
            assert_eq!(
                send(mirror, get(path)).await.text(),
                content("team/public"),
                "{path}"
            );
        }
    }
    platform.advance(Duration::from_secs(1));
    for mirror in [&mirror, &mirror_of()] {
        for path in [PUBLIC, &by_digest] {
            assert_eq!(send(mirror, get(path)).await.status(), 502, "{path}");
        }
    }
    // What the anonymous user was sent needs no proof.
    hub.fail(None);
    hub.0.revoked.borrow_mut().insert("alice");
    let mirror = mirror_of();
    assert_eq!(
        send(&mirror, get("/v2/team/other/manifests/1"))
            .await
            .status(),
        200
    );
    platform.advance(2 * DAY);
    hub.fail(Some(TransportError::Connect));
    assert_eq!(
        send(&mirror, get("/v2/team/other/manifests/1"))
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn a_closed_mirror_forgets_what_the_account_may_not_read_any_more() {
    for is_password_wrong in [false, true] {
        let (platform, hub, mirror) = closed(ALICE);
        let path = format!("/{SECRET}{PRIVATE}");
        assert_eq!(send(&mirror, get(&path)).await.status(), 200);
        if is_password_wrong {
            hub.0.revoked.borrow_mut().insert("alice");
            platform.advance(Duration::from_secs(600));
        } else {
            hub.answer_to("alice", 403, &[]);
        }
        assert_eq!(send(&mirror, get(&path)).await.status(), 403);
        hub.fail(Some(TransportError::Connect));
        assert_eq!(send(&mirror, get(&path)).await.status(), 502);
    }
}

#[tokio::test]
async fn repositories_that_clients_name_push_out_no_proof_of_the_operators() {
    let credentials = format!("{ALICE},quay.io=alice:secret-of-alice");
    let (platform, hub, mirror) = mirror_with(&credentials, &[]);
    assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
    platform.respond(move |request| match request.uri().host() {
        Some("quay.io") => manifest(),
        _ => hub.respond(request),
    });
    for number in 0..2000 {
        let path = format!("/v2/invented/name-{number}/manifests/1?upstream=quay.io");
        assert_eq!(send(&mirror, head(&path)).await.status(), 200);
    }
    asked(&platform);
    for mirror in [mirror, Mirror::new(platform.clone())] {
        assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
        assert_eq!(asked(&platform), [format!("GET alice {PUBLIC}")]);
    }
}

#[tokio::test]
async fn no_password_is_in_the_log_the_store_or_an_answer() {
    let (platform, hub, mirror) = with_cache(BOTH);
    let mut seen = String::new();
    for change in ["", "private", "wrong password", "limited", "outage"] {
        match change {
            "private" => hub.make_private("team/public"),
            "wrong password" => {
                hub.0.private.borrow_mut().clear();
                hub.0.revoked.borrow_mut().insert("alice");
                platform.advance(DAY);
            }
            "limited" => hub.answer_to("bob", 429, &[]),
            "outage" => hub.fail(Some(TransportError::Connect)),
            _ => {}
        }
        for path in [
            PUBLIC,
            PRIVATE,
            "/v2/team/public/tags/list",
            "/status.json",
            "/",
        ] {
            let received = send(&mirror, get(path)).await;
            let body = match received.0.body() {
                Body::Buffered(bytes) | Body::Upstream(bytes) | Body::Teed(bytes, _) => {
                    String::from_utf8_lossy(bytes)
                }
            };
            seen += &format!("{:?} {body}", received.0.headers());
        }
    }
    seen += &platform.log().join("\n");
    for (key, value) in platform.store() {
        seen += &format!("{key} {}", String::from_utf8_lossy(&value));
    }
    for user in ["alice", "bob"] {
        let header = basic(user);
        let encoded = header.strip_prefix("Basic ").unwrap();
        assert!(!seen.contains(encoded) && !seen.contains(&format!("secret-of-{user}")));
    }
    assert!(seen.contains("account=bob") && seen.contains("account=alice state=refused"));
}
