//! Limits of sizes, of the store, of a client's requests, and access by secret.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use test_support::hub::Service;
use test_support::image::{INDEX, digest};
use test_support::server::{Reply, ScriptedBody};

const SECRET: &str = "correct-horse-battery-staple";

/// A body of 64 MiB, of which the mirror should read no more than the beginning.
fn bomb(begin: &str) -> ScriptedBody {
    let chunk = Bytes::from(vec![b' '; 256 * 1024]);
    // With a pause the body has no length.
    let body = ScriptedBody::default()
        .data(begin.to_owned())
        .pause(Duration::ZERO);
    (0..256).fold(body, |body, _| body.data(chunk.clone()))
}

#[tokio::test]
async fn headers_over_8_kib_are_refused_in_requests_and_responses() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let long = "x".repeat(8 * 1024 + 1);
    for name in ["accept", "range", "if-none-match"] {
        let request = mirror.get(MANIFEST_PATH).header(name, &long);
        assert!(
            request
                .send()
                .await
                .expect_error(431, "UNSUPPORTED")
                .text()
                .contains("8192 bytes"),
            "{name}"
        );
    }
    // Each of them is short enough.
    let several = (0..5).fold(mirror.get(MANIFEST_PATH), |request, _| {
        request.header("accept", &long[..2000])
    });
    several.send().await.expect_error(431, "UNSUPPORTED");
    mirror
        .get(&format!("/v2/{NAME}/tags/list?last={long}"))
        .send()
        .await
        .expect_error(414, "UNSUPPORTED");
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());

    for name in [
        "etag",
        "docker-content-digest",
        "cache-control",
        "ratelimit-limit",
    ] {
        let value = long.clone();
        hub.respond_from(Service::Registry, move |_| {
            Reply::new(200, &[("content-type", INDEX), (name, &value)], "{}")
        });
        assert!(
            mirror
                .get_manifest(MANIFEST_PATH)
                .await
                .expect_error(502, "UNAVAILABLE")
                .text()
                .contains("8192 bytes"),
            "{name}"
        );
    }
    let moved = format!("http://{}/{long}", hub.cdn());
    hub.respond_from(Service::Registry, move |_| {
        Reply::new(307, &[("location", &moved)], "")
    });
    mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(502, "UNAVAILABLE");
    let blob = format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest);
    mirror
        .get(&blob)
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    let challenge = format!(r#"Bearer realm="http://{}/token?{long}""#, hub.tokens());
    hub.respond_from(Service::Registry, move |_| {
        Reply::new(401, &[("www-authenticate", &challenge)], "")
    });
    mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(403, "DENIED");
    assert!(
        hub.received(Service::Tokens).is_empty() && hub.received(Service::Cdn).is_empty(),
        "{:?}",
        hub.requests()
    );
}

#[tokio::test]
async fn a_token_response_over_1_mib_is_not_read_to_its_end() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let taken: Arc<Mutex<Vec<_>>> = Arc::default();
    let counters = Arc::clone(&taken);
    hub.respond_from(Service::Tokens, move |_| {
        let body = bomb(r#"{"token":"t""#);
        counters.lock().expect("counters").push(body.counter());
        Reply::streamed(200, &[("content-type", "application/json")], body)
    });
    let response = mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(502, "UNAVAILABLE");
    assert!(response.text().contains("1 MiB"), "{response:?}");
    for counter in taken.lock().expect("counters").iter() {
        assert!(
            counter.load(Ordering::SeqCst) < 32 * 1024 * 1024,
            "all of it was taken"
        );
    }
}

#[tokio::test]
async fn a_manifest_over_4_mib_is_refused() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    for whole in [true, false] {
        hub.respond_from(Service::Registry, move |_| {
            let body = if whole {
                ScriptedBody::whole(vec![b' '; 4 * 1024 * 1024 + 1])
            } else {
                bomb("{}")
            };
            Reply::streamed(200, &[("content-type", INDEX)], body)
        });
        let response = mirror
            .get_manifest(MANIFEST_PATH)
            .await
            .expect_error(502, "UNAVAILABLE");
        assert!(response.text().contains("4 MiB"), "{response:?}");
    }
    // One of exactly 4 MiB is served.
    hub.respond_from(Service::Registry, |_| {
        Reply::new(200, &[("content-type", INDEX)], vec![b' '; 4 * 1024 * 1024])
    });
    assert_eq!(
        mirror
            .get_manifest(MANIFEST_PATH)
            .await
            .expect(200)
            .body
            .len(),
        4 * 1024 * 1024
    );
}

#[tokio::test]
async fn the_store_keeps_at_most_a_thousand_keys() {
    let HubFixture {
        mut mirror, hub, ..
    } = HubFixture::with(|options| options.variable("client_limit", 1_000_000)).await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    // Each has a digest of its own, so that each is cached.
    hub.respond_from(Service::Registry, |received| {
        let body = format!(r#"{{"of":{:?}}}"#, received.target);
        let named = digest(body.as_bytes());
        Reply::new(
            200,
            &[("content-type", INDEX), ("docker-content-digest", &named)],
            body,
        )
    });
    for batch in 0..100 {
        let requests = (0..30).map(|number| {
            let target = format!("/v2/invented/name-{}/manifests/latest", batch * 30 + number);
            tokio::spawn(mirror.get(&target).accept_manifests().send())
        });
        for response in requests.collect::<Vec<_>>() {
            response.await.expect("a response").expect(200);
        }
    }
    assert!(mirror.stop());
    let store = mirror.state_dir().join("sqlite_key_value.db");
    if std::env::var_os("HAMMAL_TEST_SPIN").is_some() && !store.exists() {
        return crate::support::skip("this Spin keeps its store elsewhere");
    }
    let store = rusqlite::Connection::open(store).expect("the store");
    let count = |sql| {
        store
            .query_row(sql, [], |row| row.get::<_, u64>(0))
            .expect("a number")
    };
    let (keys, largest) = (
        count("SELECT count(*) FROM spin_key_value"),
        count("SELECT max(length(value)) FROM spin_key_value"),
    );
    assert!((300..=1000).contains(&keys), "{keys} keys");
    assert!(largest < 1_000_000, "{largest} bytes");
}

#[tokio::test]
async fn without_the_secret_all_but_health_is_a_404() {
    let HubFixture { mirror, hub, .. } =
        HubFixture::with(|options| options.variable("secret", SECRET)).await;
    let guesses = [
        "/".into(),
        "/robots.txt".into(),
        "/v2/".into(),
        MANIFEST_PATH.to_owned(),
        format!("/{}{MANIFEST_PATH}", &SECRET[1..]),
        format!("/{SECRET}x{MANIFEST_PATH}"),
        format!("/{}{MANIFEST_PATH}", SECRET.to_uppercase()),
        format!("//{SECRET}{MANIFEST_PATH}"),
        format!("/v2/{SECRET}/manifests/latest"),
        format!("{MANIFEST_PATH}?secret={SECRET}"),
        format!("/{}{MANIFEST_PATH}", SECRET.replace('-', "%2d")),
    ];
    for target in guesses {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
            let response = mirror
                .request(method, &target)
                .accept_manifests()
                .send()
                .await;
            assert_eq!(response.status, 404, "{method} {target}: {response:?}");
            assert_eq!(
                response.body.is_empty(),
                method == "HEAD",
                "{method} {target}: {response:?}"
            );
            assert!(
                !response.text().contains(SECRET),
                "{method} {target}: {response:?}"
            );
        }
    }
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());
    mirror
        .get("/.well-known/spin/health")
        .send()
        .await
        .expect(200);
    mirror
        .get_manifest(&format!("/{SECRET}{MANIFEST_PATH}"))
        .await
        .expect(200);
    assert!(!mirror.stderr().join("\n").contains(SECRET));
}

#[tokio::test]
async fn forwarding_headers_do_not_evade_the_client_limit() {
    let HubFixture {
        mirror, hub: _hub, ..
    } = HubFixture::with(|options| options.variable("client_limit", 3)).await;
    let mut statuses = Vec::new();
    for number in 0..8 {
        let request = mirror.get(MANIFEST_PATH).accept_manifests();
        let claims = [
            "x-forwarded-for",
            "forwarded",
            "x-real-ip",
            "spin-client-addr",
            "true-client-ip",
        ];
        let claimed = claims.iter().fold(request, |request, name| {
            request.header(name, format!("198.51.100.{number}"))
        });
        let response = claimed
            .header("spin-client-addr", format!("203.0.113.{number}:80"))
            .send()
            .await;
        statuses.push(response.status.as_u16());
        if response.status == 429 {
            response.expect_over_limit();
        }
    }
    // A new minute may begin during the test.
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(
        (3..=6).contains(&served) && statuses.contains(&429),
        "{statuses:?}"
    );
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_limited_separately() {
    let HubFixture {
        mirror, hub: _hub, ..
    } = HubFixture::with(|options| {
        options
            .variable("client_limit", 3)
            .variable("trusted_proxies", 1)
    })
    .await;
    let get = |claimed: String, appended: &'static str| {
        let request = mirror.get(MANIFEST_PATH).accept_manifests();
        request
            .header("x-forwarded-for", claimed)
            .header("x-forwarded-for", appended)
            .send()
    };
    let mut last = 0;
    for number in 0..8 {
        last = get(format!("198.51.100.{number}"), "192.0.2.1")
            .await
            .status
            .as_u16();
        if last == 429 {
            break;
        }
    }
    assert_eq!(last, 429);
    get("192.0.2.1".into(), "192.0.2.2").await.expect(200);
}
