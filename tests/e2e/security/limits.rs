//! Whoever sends too much, asks too often, or wants to hear what is not for them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::support::client::Answer;
use crate::support::hub_fixture::{HubFixture, NAME};
use crate::support::mirror::{Mirror, Options};
use test_support::hub::{Hub, Place};
use test_support::image::{DOCKER, INDEX, Image, digest};
use test_support::server::{Pieces, Reply, Seen};

/// What an inner host says, and its name; neither is anybody's business.
const WORDS: &str = "dial tcp vault.corp.example: password is hunter2";
const INNER: [&str; 2] = ["vault.corp.example", "hunter2"];
const SECRET: &str = "correct-horse-battery-staple";

async fn manifest(mirror: &Mirror) -> Answer {
    mirror
        .get(&format!("/v2/{NAME}/manifests/latest"))
        .accept_manifests()
        .send()
        .await
}

/// From now on one of the servers answers so.
fn answer_all(hub: &Hub, place: Place, reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
    hub.script(move |at, seen| (at == place).then(|| reply(seen)));
}

/// 64 MiB, of which nobody should take more than the beginning.
fn bomb(begin: &str) -> Pieces {
    let piece = Bytes::from(vec![b' '; 256 * 1024]);
    // A pause keeps it from having a length.
    let pieces = Pieces::default()
        .data(begin.to_owned())
        .pause(Duration::ZERO);
    (0..256).fold(pieces, |pieces, _| pieces.data(piece.clone()))
}

#[tokio::test]
async fn headers_of_more_than_8_kib_are_refused_both_ways() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let long = "x".repeat(8 * 1024 + 1);
    for name in ["accept", "range", "if-none-match"] {
        let request = mirror
            .get(&format!("/v2/{NAME}/manifests/latest"))
            .header(name, &long);
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
    // One by one they are short enough.
    let several = (0..5).fold(
        mirror.get(&format!("/v2/{NAME}/manifests/latest")),
        |request, _| request.header("accept", &long[..2000]),
    );
    several.send().await.expect_error(431, "UNSUPPORTED");
    mirror
        .get(&format!("/v2/{NAME}/tags/list?last={long}"))
        .send()
        .await
        .expect_error(414, "UNSUPPORTED");
    assert!(hub.lines().is_empty(), "{:?}", hub.lines());

    for name in [
        "etag",
        "docker-content-digest",
        "cache-control",
        "ratelimit-limit",
    ] {
        let value = long.clone();
        answer_all(&hub, Place::Registry, move |_| {
            Reply::new(200, &[("content-type", INDEX), (name, &value)], "{}")
        });
        assert!(
            manifest(&mirror)
                .await
                .expect_error(502, "UNAVAILABLE")
                .text()
                .contains("8 KiB"),
            "{name}"
        );
    }
    let moved = format!("http://{}/{long}", hub.cdn());
    answer_all(&hub, Place::Registry, move |_| {
        Reply::new(307, &[("location", &moved)], "")
    });
    manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
    let blob = format!("/v2/{NAME}/blobs/{}", image.here().layers[0].digest);
    mirror
        .get(&blob)
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    let challenge = format!(r#"Bearer realm="http://{}/token?{long}""#, hub.tokens());
    answer_all(&hub, Place::Registry, move |_| {
        Reply::new(401, &[("www-authenticate", &challenge)], "")
    });
    manifest(&mirror).await.expect_error(403, "DENIED");
    assert!(
        hub.seen(Place::Tokens).is_empty() && hub.seen(Place::Cdn).is_empty(),
        "{:?}",
        hub.lines()
    );
}

#[tokio::test]
async fn a_token_answer_of_more_than_1_mib_is_not_read_to_its_end() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let taken: Arc<Mutex<Vec<_>>> = Arc::default();
    let counters = Arc::clone(&taken);
    answer_all(&hub, Place::Tokens, move |_| {
        let body = bomb(r#"{"token":"t""#);
        counters.lock().expect("counters").push(body.counter());
        Reply::streamed(200, &[("content-type", "application/json")], body)
    });
    let answer = manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
    assert!(answer.text().contains("1 MiB"), "{answer:?}");
    for counter in taken.lock().expect("counters").iter() {
        assert!(
            counter.load(Ordering::SeqCst) < 32 * 1024 * 1024,
            "all of it was taken"
        );
    }
}

#[tokio::test]
async fn a_manifest_of_more_than_4_mib_is_refused_with_and_without_its_length() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    for whole in [true, false] {
        answer_all(&hub, Place::Registry, move |_| {
            let body = if whole {
                Pieces::whole(vec![b' '; 4 * 1024 * 1024 + 1])
            } else {
                bomb("{}")
            };
            Reply::streamed(200, &[("content-type", INDEX)], body)
        });
        let answer = manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
        assert!(answer.text().contains("4 MiB"), "{answer:?}");
    }
    // One that is as large as may be comes whole.
    answer_all(&hub, Place::Registry, |_| {
        Reply::new(200, &[("content-type", INDEX)], vec![b' '; 4 * 1024 * 1024])
    });
    assert_eq!(
        manifest(&mirror).await.expect(200).body.len(),
        4 * 1024 * 1024
    );
}

#[tokio::test]
async fn three_thousand_invented_names_leave_a_thousand_keys() {
    let HubFixture {
        mut mirror, hub, ..
    } = HubFixture::with(|options| options.variable("client_limit", 1_000_000)).await;
    manifest(&mirror).await.expect(200);
    // Each has a digest of its own, so that each is worth keeping.
    answer_all(&hub, Place::Registry, |seen| {
        let body = format!(r#"{{"of":{:?}}}"#, seen.target);
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
        for answer in requests.collect::<Vec<_>>() {
            answer.await.expect("an answer").expect(200);
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
async fn a_closed_mirror_shows_nothing_but_its_health_to_who_does_not_know_the_secret() {
    let HubFixture { mirror, hub, .. } =
        HubFixture::with(|options| options.variable("secret", SECRET)).await;
    let manifest = format!("/v2/{NAME}/manifests/latest");
    let guesses = [
        "/".into(),
        "/robots.txt".into(),
        "/v2/".into(),
        manifest.clone(),
        format!("/{}{manifest}", &SECRET[1..]),
        format!("/{SECRET}x{manifest}"),
        format!("/{}{manifest}", SECRET.to_uppercase()),
        format!("//{SECRET}{manifest}"),
        format!("/v2/{SECRET}/manifests/latest"),
        format!("{manifest}?secret={SECRET}"),
        format!("/{}{manifest}", SECRET.replace('-', "%2d")),
    ];
    for target in guesses {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = mirror
                .request(method, &target)
                .accept_manifests()
                .send()
                .await;
            assert_eq!(answer.status, 404, "{method} {target}: {answer:?}");
            assert_eq!(
                answer.body.is_empty(),
                method == "HEAD",
                "{method} {target}: {answer:?}"
            );
            assert!(
                !answer.text().contains(SECRET),
                "{method} {target}: {answer:?}"
            );
        }
    }
    assert!(hub.lines().is_empty(), "{:?}", hub.lines());
    mirror
        .get("/.well-known/spin/health")
        .send()
        .await
        .expect(200);
    mirror
        .get(&format!("/{SECRET}{manifest}"))
        .accept_manifests()
        .send()
        .await
        .expect(200);
    assert!(!mirror.stderr().join("\n").contains(SECRET));
}

#[tokio::test]
async fn a_client_over_its_limit_is_told_to_wait_whatever_it_claims_to_be() {
    let HubFixture {
        mirror, hub: _hub, ..
    } = HubFixture::with(|options| options.variable("client_limit", 3)).await;
    let target = format!("/v2/{NAME}/manifests/latest");
    let mut statuses = Vec::new();
    for number in 0..8 {
        let request = mirror.get(&target).accept_manifests();
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
        let answer = claimed
            .header("spin-client-addr", format!("203.0.113.{number}:80"))
            .send()
            .await;
        statuses.push(answer.status.as_u16());
        if answer.status == 429 {
            let wait: u64 = answer
                .header("retry-after")
                .and_then(|wait| wait.parse().ok())
                .expect("seconds");
            assert!((1..=60).contains(&wait), "{wait}");
            answer.expect_error(429, "TOOMANYREQUESTS");
        }
    }
    // A new minute may begin meanwhile.
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(
        (3..=6).contains(&served) && statuses.contains(&429),
        "{statuses:?}"
    );
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_of_its_clients_has_a_limit_of_its_own() {
    let HubFixture {
        mirror, hub: _hub, ..
    } = HubFixture::with(|options| {
        options
            .variable("client_limit", 3)
            .variable("trusted_proxies", 1)
    })
    .await;
    let ask = |claimed: String, appended: &'static str| {
        let request = mirror
            .get(&format!("/v2/{NAME}/manifests/latest"))
            .accept_manifests();
        request
            .header("x-forwarded-for", claimed)
            .header("x-forwarded-for", appended)
            .send()
    };
    let mut last = 0;
    for number in 0..8 {
        last = ask(format!("198.51.100.{number}"), "192.0.2.1")
            .await
            .status
            .as_u16();
        if last == 429 {
            break;
        }
    }
    assert_eq!(last, 429);
    ask("192.0.2.1".into(), "192.0.2.2").await.expect(200);
}

#[tokio::test]
async fn what_an_inner_host_says_is_heard_by_nobody() {
    let headers = [
        ("content-type", "text/html"),
        ("retry-after", WORDS),
        ("location", "https://vault.corp.example/hunter2"),
        ("warning", WORDS),
        ("www-authenticate", "Basic realm=\"vault.corp.example\""),
        ("server", "vault.corp.example"),
        ("set-cookie", "vault=hunter2"),
    ];
    for place in [Place::Tokens, Place::Registry] {
        for status in [200, 302, 400, 401, 403, 404, 429, 500, 503] {
            let HubFixture { mirror, hub, image } = HubFixture::start().await;
            answer_all(&hub, place, move |_| Reply::new(status, &headers, WORDS));
            let blob = format!("/v2/{NAME}/blobs/{}", image.here().layers[0].digest);
            for target in [
                format!("/v2/{NAME}/manifests/latest"),
                format!("/v2/{NAME}/tags/list"),
                blob,
            ] {
                let answer = mirror.get(&target).accept_manifests().send().await;
                let handed_over = place == Place::Registry && matches!(status, 200 | 302);
                let told = format!(
                    "{:?} {}",
                    answer.headers,
                    String::from_utf8_lossy(&answer.body)
                );
                if !handed_over || target.contains("manifests") {
                    let code = &answer.json()["errors"][0]["code"];
                    assert!(code.is_string(), "{place:?} {status} {target}: {answer:?}");
                    assert!(
                        !INNER.iter().any(|inner| told.contains(inner)),
                        "{place:?} {status} {target}: {told}"
                    );
                }
            }
            mirror.log(3).await;
            let log = mirror.stderr().join("\n");
            assert!(
                !INNER.iter().any(|inner| log.contains(inner)),
                "{place:?} {status}: {log}"
            );
        }
    }
}

#[tokio::test]
async fn where_an_inner_realm_or_redirect_is_stays_unsaid() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.challenge(|_| vec![r#"Bearer realm="https://vault.corp.internal/hunter2""#.into()]);
    let realm = manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
    answer_all(&hub, Place::Registry, |_| {
        Reply::new(
            307,
            &[("location", "https://vault.corp.internal/hunter2")],
            "",
        )
    });
    let redirect = manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
    mirror.log(2).await;
    let told = format!(
        "{} {} {}",
        realm.text(),
        redirect.text(),
        mirror.stderr().join("\n")
    );
    assert!(
        !told.contains("vault") && !told.contains("hunter2"),
        "{told}"
    );
}

#[tokio::test]
async fn what_is_known_of_one_upstream_is_never_anothers() {
    let (one, two) = (Hub::start().await, Hub::start().await);
    let images = [Image::oci(), Image::new(DOCKER, "another")];
    one.push("team/app", "1.0", &images[0]);
    two.push("team/app", "1.0", &images[1]);
    let mirror = Options::default()
        .plain_http(one.addresses())
        .plain_http(two.addresses());
    let mirror = mirror.variable("tag_ttl", 3600).start().await;
    let ask = |hub: &Hub, reference: &str| {
        let target = format!(
            "/v2/team/app/manifests/{reference}?upstream={}",
            hub.address()
        );
        mirror.get(&target).accept_manifests().send()
    };
    for _ in 0..2 {
        assert_eq!(
            ask(&one, "1.0").await.expect(200).body,
            images[0].index.bytes
        );
        assert_eq!(
            ask(&two, "1.0").await.expect(200).body,
            images[1].index.bytes
        );
    }
    // A copy of the one's is not an answer of the other's.
    ask(&two, &images[0].index.digest)
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
    ask(&one, &images[1].index.digest)
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
}
