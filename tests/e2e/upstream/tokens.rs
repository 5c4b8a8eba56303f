//! Token responses, how long tokens are used, and upstreams that refuse them.

use std::time::Duration;

use serde_json::json;

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use crate::support::mirror::{is_spin, is_wasip2};
use test_support::hub::Service;
use test_support::server::Reply;

/// Makes the body of a token response, given a valid token.
type TokenResponse = fn(&str) -> String;

#[tokio::test]
async fn every_form_of_token_response_is_understood() {
    let cases: [(&str, TokenResponse); 7] = [
        ("token alone", |t| json!({ "token": t }).to_string()),
        ("access_token alone", |t| {
            json!({ "access_token": t, "expires_in": 300 }).to_string()
        }),
        ("an empty token beside an access_token", |t| {
            json!({ "token": "", "access_token": t }).to_string()
        }),
        ("a null token beside an access_token", |t| {
            json!({ "token": null, "access_token": t }).to_string()
        }),
        ("unknown fields", |t| {
            json!({ "token": t, "refresh_token": "r", "scope": ["a"] }).to_string()
        }),
        ("an issue date", |t| {
            json!({ "token": t, "expires_in": 300, "issued_at": "2020-01-01T00:00:00Z" })
                .to_string()
        }),
        ("a long life", |t| {
            json!({ "token": t, "expires_in": 4_000_000_000_u64 }).to_string()
        }),
    ];
    for (name, response) in cases {
        let HubFixture { mirror, hub, .. } = HubFixture::start().await;
        hub.token_body(response);
        let response = mirror.get_manifest(MANIFEST_PATH).await;
        assert_eq!(response.status, 200, "{name}: {response:?}");
        let request = &hub.received(Service::Registry)[1];
        assert_eq!(
            request.header("authorization"),
            Some("Bearer anonymous-token-1"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_token_without_expires_in_is_reused() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.token_body(|token| json!({ "token": token }).to_string());
    for _ in 0..3 {
        mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    }
    assert_eq!(
        hub.received(Service::Tokens).len(),
        1,
        "{:?}",
        hub.requests()
    );
}

#[tokio::test]
async fn an_expired_token_is_not_used() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.token_body(|token| json!({ "token": token, "expires_in": 1 }).to_string());
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    let last = hub
        .received(Service::Registry)
        .last()
        .cloned()
        .expect("a request");
    assert_eq!(
        last.header("authorization"),
        Some("Bearer anonymous-token-2"),
        "{:?}",
        hub.requests()
    );
    let refused = hub.received(Service::Registry).len();
    assert_eq!(
        refused,
        3,
        "the first contact, and one request each: {:?}",
        hub.requests()
    );
}

#[tokio::test]
async fn a_malformed_token_response_is_a_502() {
    let cases: [(&str, TokenResponse); 8] = [
        ("no JSON", |_| "<html>token</html>".into()),
        ("nothing", |_| String::new()),
        ("JSON of another kind", |_| "[]".into()),
        ("no token in it", |_| {
            json!({ "expires_in": 300 }).to_string()
        }),
        ("a token that is a number", |_| {
            json!({ "token": 1 }).to_string()
        }),
        ("a token that no header can hold", |t| {
            json!({ "token": format!("{t}\r\nX-Injected: 1") }).to_string()
        }),
        ("JSON nested without end", |_| "[".repeat(100_000)),
        ("more than 1 MiB", |t| {
            json!({ "token": t, "padding": "x".repeat(1024 * 1024 + 1) }).to_string()
        }),
    ];
    for (name, response) in cases {
        let HubFixture { mirror, hub, .. } = HubFixture::start().await;
        hub.token_body(response);
        let response = mirror.get_manifest(MANIFEST_PATH).await;
        assert_eq!(response.status, 502, "{name}: {response:?}");
        response.expect_error(502, "UNAVAILABLE");
        assert_eq!(
            hub.received(Service::Registry).len(),
            1,
            "{name}: {:?}",
            hub.requests()
        );
        // The instance goes on serving.
        hub.token_body(|token| json!({ "token": token }).to_string());
        let response = mirror.get_manifest(MANIFEST_PATH).await;
        assert_eq!(response.status, 200, "{name}: {response:?}");
    }
}

#[tokio::test]
async fn token_server_errors_are_distinguished() {
    let cases: [(u16, u16, &str); 5] = [
        (401, 403, "DENIED"),
        (403, 403, "DENIED"),
        (429, 429, "TOOMANYREQUESTS"),
        (500, 502, "UNAVAILABLE"),
        (302, 502, "UNAVAILABLE"),
    ];
    for (status, expected, code) in cases {
        let HubFixture { mirror, hub, .. } = HubFixture::start().await;
        hub.script(move |service, _| {
            let headers = [
                ("retry-after", "7"),
                ("www-authenticate", "Basic realm=\"x\""),
                ("location", "http://127.0.0.9/"),
            ];
            (service == Service::Tokens)
                .then(|| Reply::new(status, &headers, "secret words of an internal host"))
        });
        let response = mirror.get_manifest(MANIFEST_PATH).await;
        assert_eq!(response.status, expected, "{status}: {response:?}");
        let response = response.expect_error(expected, code);
        assert!(!response.text().contains("secret words"), "{response:?}");
        if status == 429 {
            assert_eq!(response.header("retry-after"), Some("7"));
        }
    }
}

#[tokio::test]
async fn a_dead_token_is_refreshed_once() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    hub.take_requests();
    hub.revoke_tokens();
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    let request = format!("registry HEAD {MANIFEST_PATH}");
    assert_eq!(hub.take_requests(), [&*request, "tokens GET", &*request]);
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    assert_eq!(hub.take_requests(), [request]);
}

#[tokio::test]
async fn a_private_repository_is_denied_with_few_requests() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.make_private(NAME);
    mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(403, "DENIED");
    let first = hub.take_requests();
    assert!(first.len() <= 5, "{first:?}");
    mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(403, "DENIED");
    let second = hub.take_requests();
    assert!(second.len() <= 3, "{second:?}");
}

#[tokio::test]
async fn each_repository_has_a_token_of_its_own() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    hub.push("other/image", "latest", &image);
    for name in [NAME, "other/image", NAME, "other/image"] {
        mirror
            .get_manifest(&format!("/v2/{name}/manifests/latest"))
            .await
            .expect(200);
    }
    let sent = hub.received(Service::Registry);
    let sent = sent.iter().skip(1).map(|received| {
        (
            received.target.contains("other/"),
            received.header("authorization"),
        )
    });
    let expected = [1, 2, 1, 2].map(|number| format!("Bearer anonymous-token-{number}"));
    let expected = [false, true, false, true]
        .into_iter()
        .zip(expected.iter().map(|token| Some(&**token)));
    assert_eq!(sent.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn an_access_token_is_used_like_a_token() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.token_body(|token| json!({ "access_token": token, "expires_in": 300 }).to_string());
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
}

#[tokio::test]
async fn a_dead_cached_token_is_replaced() {
    let HubFixture {
        mut mirror, hub, ..
    } = HubFixture::start().await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    hub.revoke_tokens();
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    // The same for a token that only the store has.
    hub.revoke_tokens();
    mirror.restart().await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
}

#[tokio::test]
async fn a_short_lived_token_is_reused() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.token_body(|token| json!({ "token": token, "expires_in": 30 }).to_string());
    for _ in 0..5 {
        mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    }
    assert_eq!(
        hub.received(Service::Tokens).len(),
        1,
        "{:?}",
        hub.requests()
    );
}

#[tokio::test]
async fn simultaneous_first_requests_share_tokens() {
    if is_wasip2() {
        eprintln!("SKIPPED: an instance of the WASIp2 build serves one request and shares nothing");
        return;
    }
    // The number of instances that Spin 4.1 starts meanwhile varies, and was once one for each
    // request.
    let (limit, tries) = if is_spin() { (40, 3) } else { (30, 1) };
    let mut received = Vec::new();
    for _ in 0..tries {
        let fetched = count_tokens_of_forty_simultaneous_requests().await;
        if fetched < limit {
            return;
        }
        received.push(fetched);
    }
    panic!("{received:?} tokens for 40 requests");
}

async fn count_tokens_of_forty_simultaneous_requests() -> usize {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    // A running instance takes 16 requests at a time. Without one, the platform starts an instance
    // for each request.
    mirror.get("/v2/").send().await.expect(200);
    // So that every request that can miss the token does.
    hub.delay(Service::Tokens, Duration::from_millis(300));
    let requests =
        (0..40).map(|_| tokio::spawn(mirror.get(MANIFEST_PATH).accept_manifests().send()));
    for request in requests.collect::<Vec<_>>() {
        request.await.expect("a task").expect(200);
    }
    hub.received(Service::Tokens).len()
}
