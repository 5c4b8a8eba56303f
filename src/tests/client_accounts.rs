//! Accounts of clients: who is let in, what others see, and what is limited.

use super::*;
use crate::access::account::tests::{basic, entry};
use crate::access::rate_limit::MAX_WRONG_LOGINS;

const TOKEN: &str = "4f1c0a7e9b2d";
const CHALLENGE: Option<&str> = Some("Basic realm=\"hammal\"");

/// A mirror for `alice` and `bob`, whose tokens are the same but for the first letter.
fn closed(answers: impl IntoIterator<Item = Answer>) -> (Scripted, Mirror<Scripted>) {
    let platform = Scripted::new(answers);
    let entries = [("alice", 'a'), ("bob", 'b')].map(|(name, first)| entry(name, &token_of(first)));
    platform.set_variable("clients", &entries.join(","));
    (platform.clone(), Mirror::new(platform))
}

fn token_of(first: char) -> String {
    format!("{first}{TOKEN}")
}

fn request(method: &str, path: &str, login: Option<&str>) -> Request<()> {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://mirror.example{path}"));
    let request = match login {
        Some(login) => request.header("authorization", login),
        None => request,
    };
    request.body(()).unwrap()
}

/// A request of `alice`, from an address.
fn from(address: &str, path: &str, token: &str) -> Request<()> {
    let mut request = request("GET", path, Some(&basic("alice", token)));
    let address = address.parse().unwrap();
    request.headers_mut().insert("spin-client-addr", address);
    request
}

#[tokio::test]
async fn everything_but_the_page_and_the_probes_needs_a_login() {
    let (platform, mirror) = closed([]);
    let wrong = [
        None,
        Some(basic("alice", &token_of('b'))),
        Some(basic("carol", &token_of('a'))),
        Some(format!("Bearer {}", token_of('a'))),
    ];
    for path in [
        "/v2",
        "/v2/",
        "/v2/?upstream=ghcr.io",
        MANIFEST,
        &blob(),
        "/v2/a/b/tags/list?ns=quay.io",
        "/v2/_catalog",
        "/ghcr.io/v2/a/b/tags/list",
        "/v2/ghcr.io/a/b/tags/list",
        "/v1/search?q=nginx",
        "/v1/_ping",
        "/speed/docker.io",
        "/v2/A/manifests/..",
        "/nothing",
        "/page/nothing",
        "/%",
    ] {
        for login in &wrong {
            for method in ["GET", "HEAD", "POST", "OPTIONS"] {
                let mut request = request(method, path, login.as_deref());
                let origin = "https://ui.example".parse().unwrap();
                request.headers_mut().insert("origin", origin);
                let received = send(&mirror, request).await;
                let what = format!("{method} {path} {login:?}");
                assert_eq!(received.status(), 401, "{what}");
                assert_eq!(received.header("www-authenticate"), CHALLENGE, "{what}");
                assert_eq!(received.header("access-control-allow-origin"), None);
                assert_eq!(received.header("cache-control"), Some("no-store"));
                assert_eq!(
                    received.header("docker-distribution-api-version"),
                    Some("registry/2.0")
                );
                if method == "HEAD" {
                    assert_eq!(received.text(), "", "{what}");
                } else {
                    assert_eq!(received.code(), "UNAUTHORIZED", "{what}");
                }
            }
        }
    }
    assert_eq!(platform.sent(), [""; 0]);
    for path in [
        "/",
        "/page/page.css",
        "/robots.txt",
        "/speedtest.sh",
        "/status.json",
        "/healthz",
        "/readyz",
    ] {
        let received = send(&mirror, get(path)).await;
        assert_eq!(received.status(), 200, "{path}");
    }
    platform.set_variable("page", "off");
    let without_page = Mirror::new(platform);
    assert_eq!(send(&without_page, get("/")).await.status(), 404);
    let login = basic("alice", &token_of('a'));
    for (method, path, status) in [
        ("GET", "/v2/", 200),
        ("GET", "/nothing", 404),
        ("OPTIONS", "/v2/", 405),
        ("POST", "/v2/a/blobs/uploads/", 405),
    ] {
        let received = send(&mirror, request(method, path, Some(&login))).await;
        assert_eq!(received.status(), status, "{method} {path}");
        assert_eq!(received.header("www-authenticate"), None);
    }
}

#[tokio::test]
async fn a_login_opens_the_mirror_and_goes_nowhere_else() {
    let (platform, mirror) = closed([challenge(), token("one"), manifest()]);
    let login = basic("bob", &token_of('b'));
    let received = send(&mirror, request("GET", MANIFEST, Some(&login))).await;
    assert_eq!(received.status(), 200);
    let sent = platform.sent();
    assert_eq!(sent.len(), 3);
    let log = platform.log().join("\n");
    let all = format!("{sent:?}{log}{:?}", platform.store());
    let encoded = login.trim_start_matches("Basic ");
    assert!(!all.contains(TOKEN) && !all.contains(encoded), "{all}");
    assert!(log.contains(" client=bob upstream=registry-1.docker.io status=200 "));
}

#[tokio::test]
async fn an_upstreams_challenge_does_not_go_back_to_a_client_with_a_login() {
    let basic_challenge = [("www-authenticate", "Basic realm=\"give me your password\"")];
    let answers = (0..5).map(|_| answer(401, &basic_challenge, ""));
    let (_, mirror) = closed(answers);
    let login = basic("alice", &token_of('a'));
    let received = send(&mirror, request("GET", MANIFEST, Some(&login))).await;
    assert_eq!(
        (received.status(), received.header("www-authenticate")),
        (403, None)
    );
}

#[tokio::test]
async fn a_secret_and_an_account_each_open_the_mirror() {
    let (platform, mirror) = closed([]);
    platform.set_variable("secret", "0123456789abcdef");
    let (right, wrong) = (
        basic("alice", &token_of('a')),
        basic("alice", &token_of('b')),
    );
    for (path, login, status) in [
        ("/v2/", None, 401),
        ("/v2/", Some(&wrong), 401),
        ("/v2/", Some(&right), 200),
        ("/0123456789abcdef/v2/", None, 200),
        ("/0123456789abcdef/v2/", Some(&wrong), 200),
        ("/0123456789abcdef/", None, 200),
        ("/0123456789abcdeF/v2/", None, 401),
        ("/", None, 401),
        ("/status.json", None, 401),
        ("/", Some(&right), 200),
        ("/healthz", None, 200),
    ] {
        let login = login.map(String::as_str);
        let received = send(&mirror, request("GET", path, login)).await;
        assert_eq!(received.status(), status, "{path} {login:?}");
    }
}

#[tokio::test]
async fn wrong_logins_are_limited_for_each_address_without_a_client_limit() {
    let (platform, first) = closed([]);
    let (wrong, right) = (token_of('x'), token_of('a'));
    let statuses = async |mirror: &Mirror<Scripted>, address: &str, token: &str, count: u32| {
        let mut statuses = Vec::new();
        for _ in 0..count {
            let received = send(mirror, from(address, "/v2/", token)).await;
            assert_eq!(
                received.header("www-authenticate").is_some(),
                received.status() == 401
            );
            statuses.push(received.status());
        }
        statuses.dedup();
        statuses
    };
    let attacker = "192.0.2.1:1";
    assert_eq!(
        statuses(&first, attacker, &wrong, MAX_WRONG_LOGINS - 1).await,
        [401]
    );
    assert_eq!(statuses(&first, attacker, &right, 1).await, [200]);
    assert_eq!(statuses(&first, attacker, &wrong, 5).await, [401, 429]);
    // Another instance knows it, and a right token is not told from the guesses.
    for mirror in [&first, &Mirror::new(platform.clone())] {
        let received = send(mirror, from(attacker, "/v2/", &right)).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (429, "TOOMANYREQUESTS")
        );
        assert_eq!(received.header("retry-after"), Some("20"));
        assert_eq!(statuses(mirror, attacker, &wrong, 2).await, [429]);
    }
    assert_eq!(statuses(&first, "192.0.2.2:1", &right, 50).await, [200]);
    // Clients ask for the challenge before they log in.
    let mut ping = request("GET", "/v2/", None);
    let headers = ping.headers_mut();
    headers.insert("spin-client-addr", "192.0.2.3:1".parse().unwrap());
    for _ in 0..2 * MAX_WRONG_LOGINS {
        assert_eq!(send(&first, ping.clone()).await.status(), 401);
    }
    assert_eq!(statuses(&first, "192.0.2.3:1", &right, 1).await, [200]);
    platform.advance(Duration::from_secs(20));
    assert_eq!(statuses(&first, attacker, &right, 1).await, [200]);
}

#[tokio::test]
async fn a_right_login_costs_one_read_of_the_store_for_an_instance() {
    let (platform, mirror) = closed([]);
    let calls = async |mirror: &Mirror<Scripted>| {
        let before = platform.store_calls();
        let request = from("192.0.2.1:1", "/v2/", &token_of('a'));
        assert_eq!(send(mirror, request).await.status(), 200);
        platform.store_calls() - before
    };
    // There is no salt yet, so nothing can be stored under it.
    assert_eq!(calls(&mirror).await, 1);
    assert_eq!(calls(&mirror).await, 0);
    let wrong = from("192.0.2.9:1", "/v2/", "wrong");
    assert_eq!(send(&mirror, wrong).await.status(), 401);
    assert_eq!(calls(&mirror).await, 0);
    let another = Mirror::new(platform.clone());
    assert_eq!(calls(&another).await, 2, "the salt, and the bucket");
    assert_eq!(calls(&another).await, 0);
}

#[tokio::test]
async fn the_client_limit_counts_accounts_wherever_they_come_from() {
    let (platform, mirror) = closed((0..30).map(|_| manifest()));
    platform.set_variable("client_limit", "10");
    let mut bob = request("GET", MANIFEST, Some(&basic("bob", &token_of('b'))));
    let shared = "192.0.2.1:1".parse().unwrap();
    bob.headers_mut().insert("spin-client-addr", shared);
    for number in 0..10 {
        let address = format!("192.0.2.{}:1", number % 3);
        let request = from(&address, MANIFEST, &token_of('a'));
        assert_eq!(send(&mirror, request).await.status(), 200, "{number}");
        assert_eq!(send(&mirror, bob.clone()).await.status(), 200, "{number}");
    }
    for request in [from("192.0.2.9:1", MANIFEST, &token_of('a')), bob] {
        assert_eq!(send(&mirror, request).await.status(), 429);
    }
}

#[tokio::test]
async fn what_a_login_opened_is_for_no_shared_cache() {
    let content = || {
        let headers = [("content-type", "application/octet-stream")];
        answer(200, &headers, "bytes")
    };
    let (_, mirror) = closed([content()]);
    let login = basic("alice", &token_of('a'));
    let received = send(&mirror, request("GET", &blob(), Some(&login))).await;
    assert_eq!(
        received.header("cache-control"),
        Some("private, max-age=31536000, immutable")
    );
    let open = Mirror::new(Scripted::new([content()]));
    let received = send(&open, get(&blob())).await;
    assert_eq!(
        received.header("cache-control"),
        Some("public, max-age=31536000, immutable")
    );
}

/// Go's HTTP library sends `Authorization` again to the same host at any port, and to names below
/// it.
#[tokio::test]
async fn no_redirect_takes_the_login_along() {
    for (location, is_redirected) in [
        ("https://cdn.example/signed", true),
        ("https://evilmirror.example/signed", true),
        ("https://example/signed", true),
        ("https://cdn.mirror.example/signed", false),
        ("https://mirror.example:8443/signed", false),
        ("https://MIRROR.example:8443/signed", false),
    ] {
        let bytes = [("content-type", "application/octet-stream")];
        let answers = [
            redirect(location),
            redirect(location),
            answer(200, &bytes, "bytes"),
        ];
        let (_, mirror) = closed(answers.clone());
        let login = basic("alice", &token_of('a'));
        let received = send(&mirror, request("GET", &blob(), Some(&login))).await;
        if is_redirected {
            assert_eq!(received.status(), 307, "{location}");
            assert_eq!(received.header("location"), Some(location));
        } else {
            assert_eq!(received.status(), 200, "{location}");
            assert_eq!(received.text(), "bytes");
        }
        let open = Mirror::new(Scripted::new(answers));
        assert_eq!(send(&open, get(&blob())).await.status(), 307, "{location}");
    }
}

/// The mirror's own name is another for each client.
#[tokio::test]
async fn no_remembered_redirect_takes_the_login_along() {
    let signed = "https://cdn.mirror.example/a?Expires=1003000&Signature=x";
    let bytes = [("content-type", "application/octet-stream")];
    let (platform, mirror) = closed([redirect(signed)]);
    let login = basic("alice", &token_of('a'));
    let ask = |host: &str| {
        let mut request = request("GET", &blob(), Some(&login));
        request.headers_mut().insert("host", host.parse().unwrap());
        request
    };
    let received = send(&mirror, ask("elsewhere.example")).await;
    assert_eq!(received.header("location"), Some(signed));
    let received = send(&mirror, ask("elsewhere.example")).await;
    assert_eq!(received.header("cache-status"), Some("hammal; hit"));
    platform.add_answers([
        redirect(signed),
        redirect(signed),
        answer(200, &bytes, "bytes"),
    ]);
    let received = send(&mirror, ask("mirror.example")).await;
    assert_eq!((received.status(), &*received.text()), (200, "bytes"));
}

#[tokio::test]
async fn the_status_does_not_tell_a_right_login_from_a_wrong_one() {
    let (platform, mirror) = closed([]);
    platform.set_variable("client_limit", "2");
    let mut statuses = Vec::new();
    for token in ['x', 'x', 'x', 'a', 'x'] {
        let received = send(
            &mirror,
            from("192.0.2.1:1", "/status.json", &token_of(token)),
        )
        .await;
        statuses.push(received.status());
    }
    // The page needs no login, and each request of the address counts.
    assert_eq!(statuses, [200, 200, 429, 429, 429]);
}

#[tokio::test]
async fn the_status_tells_no_upstream_to_who_has_no_account() {
    let (_, mirror) = closed([]);
    let status = send(&mirror, get("/status.json")).await.text();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["login"], true);
    assert_eq!(status["upstreams"][0]["host"], serde_json::Value::Null);
    assert_eq!(status["upstreams"][0]["state"], "up");
}
