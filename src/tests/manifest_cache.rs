//! The manifest cache.

use super::*;
use crate::oci::digest::Digest;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OLD: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
const NEW: &str = r#"{"schemaVersion":2,"manifests":[],"new":1}"#;
/// Seconds.
const HOUR: u64 = 60 * 60;

fn by_digest(content: &str) -> String {
    format!(
        "/v2/library/alpine/manifests/{}",
        Digest::of(content.as_bytes())
    )
}

fn sends(content: &str) -> Answer {
    let (digest, length) = (Digest::of(content.as_bytes()), content.len().to_string());
    answer(
        200,
        &[
            ("content-type", INDEX),
            ("docker-content-digest", digest.as_str()),
            ("content-length", &length),
        ],
        content,
    )
}

/// What a `HEAD` of the same brings.
fn points_at(content: &str) -> Answer {
    sends(content).map(|response| response.map(|_| Vec::new()))
}

fn takes(path: &str, accept: &[&str]) -> Request<()> {
    let mut request = Request::get(format!("http://mirror.example{path}"));
    for accept in accept {
        request = request.header("accept", *accept);
    }
    request.body(()).unwrap()
}

fn caching(answers: impl IntoIterator<Item = Answer>) -> (Scripted, Mirror<Scripted>) {
    let platform = Scripted::new(answers);
    platform.set_variable("manifest_cache", "on");
    (platform.clone(), Mirror::new(platform))
}

fn caching_from_two(answers: impl IntoIterator<Item = Answer>) -> (Scripted, Mirror<Scripted>) {
    let (platform, mirror) = caching(answers);
    platform.set_variable("upstream", "first.example, docker.io");
    (platform, mirror)
}

#[tokio::test]
async fn asks_the_next_upstream_where_a_manifest_is_truncated_too_large_or_another() {
    let path = by_digest(OLD);
    let large = " ".repeat(crate::upstream::manifest_body::MAX_MANIFEST + 1);
    for (sent, breaks) in [(NEW, false), (OLD, true), (&large, false)] {
        let (platform, mirror) = caching_from_two([sends(sent), sends(OLD), sends(NEW)]);
        if breaks {
            platform.break_next_body();
        }
        let received = send(&mirror, get(&path)).await;
        assert_eq!((received.status(), received.text().as_str()), (200, OLD));
        assert_eq!(
            platform.sent(),
            [
                format!("GET https://first.example{path}"),
                format!("GET {HUB}{path}")
            ]
        );
        // The one that failed is sent last for a while.
        send(&mirror, get(&by_digest(NEW))).await;
        assert_eq!(platform.sent(), [format!("GET {HUB}{}", by_digest(NEW))]);
    }
}

#[tokio::test]
async fn asks_no_upstream_twice_where_none_has_a_manifest() {
    for first in [sends(NEW), answer(500, &[], "")] {
        let (platform, mirror) = caching_from_two([first, sends(NEW)]);
        assert_eq!(send(&mirror, get(&by_digest(OLD))).await.status(), 502);
        assert_eq!(platform.sent().len(), 2);
    }
}

#[tokio::test]
async fn a_lower_upstreams_404_does_not_speak_for_a_broken_manifest() {
    let (platform, mirror) = caching_from_two([sends(NEW), answer(404, &[], "")]);
    assert_eq!(send(&mirror, get(&by_digest(OLD))).await.status(), 502);
    assert_eq!(platform.sent().len(), 2);
    // The other one is sent first now; it is no answer for the first, but the first is one for it.
    platform.add_answers([sends(NEW), answer(404, &[], "")]);
    assert_eq!(send(&mirror, get(&by_digest(OLD))).await.status(), 404);
    assert!(platform.sent()[1].contains("first.example"));
}

#[tokio::test]
async fn fetches_a_manifest_by_digest_once() {
    let (platform, mirror) = caching([sends(OLD)]);
    let path = by_digest(OLD);
    let first = send(&mirror, get(&path)).await;
    assert_eq!((first.status(), first.text().as_str()), (200, OLD));
    assert_eq!(first.header("cache-status"), Some("hammal; fwd=miss"));
    for mirror in [mirror, Mirror::new(platform.clone())] {
        let received = send(&mirror, get(&path)).await;
        assert_eq!((received.status(), received.text().as_str()), (200, OLD));
        let headers = [
            "content-type",
            "docker-content-digest",
            "content-length",
            "cache-status",
        ]
        .map(|name| received.header(name));
        let (digest, length) = (Digest::of(OLD.as_bytes()), OLD.len().to_string());
        assert_eq!(
            headers,
            [
                Some(INDEX),
                Some(digest.as_str()),
                Some(length.as_str()),
                Some("hammal; hit")
            ]
        );
        let head = send(
            &mirror,
            Request::head(format!("http://mirror.example{path}"))
                .body(())
                .unwrap(),
        )
        .await;
        assert_eq!(
            (head.text().as_str(), head.header("content-length")),
            ("", Some(length.as_str()))
        );
    }
    assert_eq!(platform.sent().len(), 1);
    assert!(
        platform.log()[1]
            .contains("upstream_requests=0 token_requests=0 token_source=none cache=hit")
    );
}

#[tokio::test]
async fn an_unchanged_tag_costs_a_head_and_no_get() {
    let (platform, mirror) = caching([sends(OLD), points_at(OLD)]);
    send(&mirror, get(MANIFEST)).await;
    let received = send(&mirror, get(MANIFEST)).await;
    assert_eq!(
        (received.text().as_str(), received.header("age")),
        (OLD, Some("0"))
    );
    assert_eq!(
        platform.sent(),
        [
            format!("GET {HUB}{MANIFEST}"),
            format!("HEAD {HUB}{MANIFEST}")
        ]
    );
    // The digest that the tag points at is known too.
    send(&mirror, get(&by_digest(OLD))).await;
    assert_eq!(platform.sent(), [""; 0]);
}

#[tokio::test]
async fn fetches_a_tag_that_moved() {
    let (platform, mirror) = caching([sends(OLD), points_at(NEW), sends(NEW), points_at(OLD)]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.text(), OLD);
    assert_eq!(send(&mirror, get(MANIFEST)).await.text(), NEW);
    // And back again: what is known already need not be fetched.
    assert_eq!(send(&mirror, get(MANIFEST)).await.text(), OLD);
    assert_eq!(
        platform.sent(),
        ["GET", "HEAD", "GET", "HEAD"].map(|method| format!("{method} {HUB}{MANIFEST}"))
    );
}

#[tokio::test]
async fn serves_a_tag_without_asking_for_tag_ttl() {
    let (platform, mirror) = caching([sends(OLD)]);
    platform.set_variable("tag_ttl", "60");
    send(&mirror, get(MANIFEST)).await;
    platform.advance(Duration::from_secs(59));
    assert_eq!(send(&mirror, get(MANIFEST)).await.header("age"), Some("59"));
    let head = Request::head(format!("http://mirror.example{MANIFEST}"))
        .body(())
        .unwrap();
    assert_eq!(
        send(&mirror, head).await.header("docker-content-digest"),
        Some(Digest::of(OLD.as_bytes()).as_str())
    );
    assert_eq!(platform.sent().len(), 1);
    platform.advance(Duration::from_secs(1));
    platform.add_answers([points_at(OLD)]);
    send(&mirror, get(MANIFEST)).await;
    assert_eq!(platform.sent(), [format!("HEAD {HUB}{MANIFEST}")]);
}

#[tokio::test]
async fn each_client_gets_a_type_that_it_accepts() {
    let manifest = "application/vnd.docker.distribution.manifest.v2+json";
    let (platform, mirror) = caching([
        sends(OLD),
        answer(200, &[("content-type", manifest)], "{}"),
        points_at(OLD),
    ]);
    send(&mirror, takes(MANIFEST, &[INDEX, manifest])).await;
    assert_eq!(
        send(&mirror, takes(MANIFEST, &[manifest])).await.text(),
        "{}"
    );
    // The same types in another order, and in one line.
    assert_eq!(
        send(&mirror, takes(MANIFEST, &[&format!("{manifest}, {INDEX}")]))
            .await
            .text(),
        OLD
    );
    assert_eq!(platform.sent()[2], format!("HEAD {HUB}{MANIFEST}"));
    // An index that is known is not for who does not take it.
    platform.add_answers([answer(404, &[], "")]);
    assert_eq!(
        send(&mirror, takes(&by_digest(OLD), &[manifest]))
            .await
            .status(),
        404
    );
    assert_eq!(
        send(&mirror, takes(&by_digest(OLD), &["*/*"])).await.text(),
        OLD
    );
}

#[tokio::test]
async fn keeps_repositories_and_upstreams_apart() {
    let (platform, mirror) = caching([sends(OLD)]);
    send(&mirror, get(&by_digest(OLD))).await;
    platform.sent();
    let elsewhere = by_digest(OLD).replace("alpine", "other");
    for path in [elsewhere, format!("{}?upstream=ghcr.io", by_digest(OLD))] {
        platform.add_answers([answer(404, &[], "")]);
        assert_eq!(send(&mirror, get(&path)).await.status(), 404, "{path}");
        assert_eq!(platform.sent().len(), 1);
    }
}

#[tokio::test]
async fn keeps_lists_of_candidates_apart() {
    let (platform, mirror) = caching_from_two([Err(TransportError::Connect), sends(OLD)]);
    send(&mirror, get(&by_digest(OLD))).await;
    platform.sent();
    assert_eq!(send(&mirror, get(&by_digest(OLD))).await.text(), OLD);
    assert_eq!(platform.sent(), [""; 0]);
    platform.add_answers([answer(404, &[], "")]);
    assert_eq!(
        send(
            &mirror,
            get(&format!("{}?upstream=first.example", by_digest(OLD)))
        )
        .await
        .status(),
        404
    );
    assert_eq!(platform.sent().len(), 1);
}

#[tokio::test]
async fn serves_the_old_manifest_of_a_tag_until_the_new_one_is_cached() {
    let (platform, mirror) = caching([sends(OLD)]);
    send(&mirror, get(MANIFEST)).await;
    // Docker Hub counts GET, and says by HEAD all the while that the tag has moved.
    for instance in [&mirror, &mirror, &Mirror::new(platform.clone())] {
        platform.advance(Duration::from_secs(21));
        platform.add_answers([points_at(NEW), points_at(NEW), answer(429, &[], "")]);
        let head = Request::head(format!("http://mirror.example{MANIFEST}"))
            .body(())
            .unwrap();
        let received = send(instance, head).await;
        assert_eq!(
            received.header("docker-content-digest"),
            Some(Digest::of(NEW.as_bytes()).as_str())
        );
        let received = send(instance, get(MANIFEST)).await;
        assert_eq!((received.status(), received.text().as_str()), (200, OLD));
    }
    platform.advance(Duration::from_secs(21));
    platform.add_answers([points_at(NEW), sends(NEW)]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.text(), NEW);
    platform.add_answers([points_at(NEW)]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.text(), NEW);
}

#[tokio::test]
async fn simultaneous_requests_for_one_manifest_share_one_get() {
    let other = [("content-type", INDEX), ("docker-content-digest", DIGEST)];
    let unkept = || answer(200, &other, NEW);
    for (path, answers, status, gets) in [
        (by_digest(OLD), vec![sends(OLD)], 200, 1),
        (MANIFEST.to_owned(), vec![sends(OLD)], 200, 1),
        (MANIFEST.to_owned(), vec![answer(429, &[], "")], 429, 1),
        (
            MANIFEST.to_owned(),
            (0..16).map(|_| unkept()).collect(),
            200,
            16,
        ),
    ] {
        let (platform, mirror) = caching(answers);
        let received =
            futures_util::future::join_all((0..16).map(|_| send(&mirror, get(&path)))).await;
        assert!(
            received.iter().all(|received| received.status() == status),
            "{path} {status}"
        );
        assert_eq!(platform.sent().len(), gets, "{path} {status}");
        let waited = received.iter().filter(|received| {
            received.header("cache-status") == Some("hammal; fwd=miss; collapsed")
        });
        assert_eq!(
            waited.count(),
            if (status, gets) == (200, 1) { 15 } else { 0 },
            "{path} {status}"
        );
    }
    // Who waited does not get what was held before, where what was brought is not kept.
    let large = format!(
        "{{\"schemaVersion\":2,\"x\":\"{}\"}}",
        "x".repeat(300 * 1024)
    );
    let (platform, mirror) = caching([sends(OLD)]);
    send(&mirror, get(MANIFEST)).await;
    platform.add_answers(
        (0..16)
            .map(|_| points_at(&large))
            .chain((0..16).map(|_| sends(&large))),
    );
    let received =
        futures_util::future::join_all((0..16).map(|_| send(&mirror, get(MANIFEST)))).await;
    assert!(received.iter().all(|received| received.text() == large));
    // What came through a mirror may be what the GET that it would wait for leads to.
    let (platform, mirror) = caching((0..16).map(|_| sends(OLD)));
    let request =
        || Request::get(format!("http://mirror.example{MANIFEST}")).header("cdn-loop", "hammal");
    let received =
        futures_util::future::join_all((0..16).map(|_| send(&mirror, request().body(()).unwrap())))
            .await;
    assert!(received.iter().all(|received| received.status() == 200));
    assert_eq!(platform.sent().len(), 16);
}

#[tokio::test]
async fn an_upstream_without_referrers_is_not_down() {
    let (platform, mirror) = caching([sends(OLD), answer(501, &[], ""), points_at(OLD)]);
    send(&mirror, get(MANIFEST)).await;
    assert_eq!(
        send(
            &mirror,
            get(&format!("/v2/library/alpine/referrers/{DIGEST}"))
        )
        .await
        .status(),
        404
    );
    let received = send(&mirror, get(MANIFEST)).await;
    assert!(
        received
            .header("cache-status")
            .unwrap()
            .contains("revalidated")
    );
    assert_eq!(platform.sent().len(), 3);
}

#[tokio::test]
async fn refuses_content_that_does_not_match_its_digest() {
    let (platform, mirror) = caching([answer(200, &[("content-type", INDEX)], NEW), sends(OLD)]);
    let received = send(&mirror, get(&by_digest(OLD))).await;
    assert_eq!(
        (received.status(), received.code().as_str()),
        (502, "UNAVAILABLE")
    );
    assert!(platform.store().keys().all(|key| !key.starts_with("m-")));
    assert_eq!(send(&mirror, get(&by_digest(OLD))).await.text(), OLD);

    // A store that was tampered with.
    platform.change_store(|value| {
        *value = String::from_utf8(value.clone())
            .unwrap()
            .replace("manifests", "malicious")
            .into_bytes()
    });
    let mirror = Mirror::new(platform.clone());
    for (answer, status) in [
        (Err(TransportError::Connect), 502),
        (Err(TransportError::Connect), 502),
        (sends(OLD), 200),
    ] {
        platform.add_answers([answer]);
        assert_eq!(send(&mirror, get(&by_digest(OLD))).await.status(), status);
    }
    assert_eq!(send(&mirror, get(&by_digest(OLD))).await.text(), OLD);
}

#[tokio::test]
async fn refuses_a_manifest_of_more_than_4_mib() {
    let large = format!("\"{}\"", "x".repeat(4 * 1024 * 1024));
    for sent in [
        sends(&large),
        answer(200, &[("content-type", INDEX)], &large),
    ] {
        let (_, mirror) = caching([sent]);
        let received = send(&mirror, get(MANIFEST)).await;
        assert_eq!(received.status(), 502);
        assert!(received.text().contains("4 MiB"));
    }
}

#[tokio::test]
async fn serves_stale_manifests_until_max_stale() {
    for fault in [
        Err(TransportError::Connect),
        Err(TransportError::TimedOut),
        answer(429, &[("retry-after", "60")], ""),
        answer(500, &[], ""),
        answer(503, &[], ""),
        answer(200, &[("content-type", "text/html")], "<html>"),
    ] {
        let described = format!("{fault:?}");
        // Where it is no answer to a HEAD at all, a GET is tried.
        let again = fault
            .as_ref()
            .ok()
            .filter(|response| response.status() == 200)
            .cloned()
            .map(Ok);
        let (platform, mirror) = caching([sends(OLD), fault].into_iter().chain(again));
        platform.set_variable("max_stale", "3600");
        send(&mirror, get(MANIFEST)).await;
        platform.advance(Duration::from_secs(100));
        let received = send(&mirror, get(MANIFEST)).await;
        assert_eq!(
            (received.status(), received.text().as_str()),
            (200, OLD),
            "{described}"
        );
        assert_eq!(
            (received.header("age"), received.header("cache-status")),
            (
                Some("100"),
                Some("hammal; fwd=stale; detail=upstream-failed")
            )
        );
        assert_eq!(received.header("retry-after"), None);
        platform.advance(Duration::from_secs(3500));
        platform.add_answers([Err(TransportError::Connect)]);
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 502);
    }
}

#[tokio::test]
async fn does_not_wait_for_an_upstream_that_is_down_where_there_is_a_copy() {
    let (platform, mirror) = caching([sends(OLD), Err(TransportError::TimedOut)]);
    send(&mirror, get(MANIFEST)).await;
    for mirror in [&mirror, &mirror, &Mirror::new(platform.clone())] {
        assert_eq!(send(mirror, get(MANIFEST)).await.text(), OLD);
    }
    assert_eq!(platform.sent().len(), 2);
    // Where there is none, it is sent.
    platform.add_answers([sends(OLD)]);
    assert_eq!(
        send(&mirror, get("/v2/library/other/manifests/latest"))
            .await
            .status(),
        200
    );
    platform.advance(Duration::from_secs(21));
    platform.add_answers([points_at(OLD)]);
    let received = send(&mirror, get(MANIFEST)).await;
    assert!(
        received
            .header("cache-status")
            .unwrap()
            .contains("revalidated")
    );
}

#[tokio::test]
async fn forgets_what_the_upstream_says_is_gone() {
    let gone = || answer(404, &[], "");
    for (path, hours, accept, comes_back) in [
        (MANIFEST.to_owned(), 1, &[][..], false),
        (by_digest(OLD), 25, &[INDEX], false),
        // It may be gone for those only who ask like this.
        (by_digest(OLD), 25, &["*/*"], true),
    ] {
        let (platform, mirror) = caching([sends(OLD), gone(), gone()]);
        send(&mirror, takes(&path, accept)).await;
        platform.advance(Duration::from_secs(hours * HOUR));
        assert_eq!(send(&mirror, takes(&path, accept)).await.status(), 404);
        assert_eq!(
            platform.sent()[1..],
            ["HEAD", "GET"].map(|method| format!("{method} {HUB}{path}"))
        );
        // Where the upstream fails next.
        for mirror in [&mirror, &Mirror::new(platform.clone())] {
            platform.add_answers([Err(TransportError::Connect)]);
            let status = send(mirror, takes(&path, accept)).await.status();
            assert_eq!(
                status,
                if comes_back { 200 } else { 502 },
                "{path} {accept:?}"
            );
            platform.advance(Duration::from_secs(21));
        }
    }
    // A HEAD proves nothing.
    let (platform, mirror) = caching([sends(OLD), gone(), Err(TransportError::Connect)]);
    send(&mirror, get(MANIFEST)).await;
    let head = Request::head(format!("http://mirror.example{MANIFEST}"))
        .body(())
        .unwrap();
    assert_eq!(send(&mirror, head).await.status(), 404);
    assert_eq!(send(&mirror, get(MANIFEST)).await.text(), OLD);
    assert_eq!(platform.sent().len(), 3);
}

#[tokio::test]
async fn keeps_what_is_pulled_often_for_when_the_upstream_fails() {
    let (platform, mirror) = caching([sends(OLD)]);
    send(&mirror, get(MANIFEST)).await;
    for _ in 0..9 {
        platform.advance(Duration::from_secs(15 * HOUR));
        platform.add_answers([points_at(OLD)]);
        assert_eq!(
            send(&Mirror::new(platform.clone()), get(MANIFEST))
                .await
                .text(),
            OLD
        );
    }
    platform.advance(Duration::from_secs(23 * HOUR));
    for path in [MANIFEST, &by_digest(OLD)] {
        platform.add_answers([Err(TransportError::Connect)]);
        assert_eq!(
            send(&Mirror::new(platform.clone()), get(path)).await.text(),
            OLD
        );
    }
}

#[tokio::test]
async fn revalidates_a_manifest_by_digest_after_a_day() {
    let (platform, mirror) = caching([sends(OLD)]);
    let path = by_digest(OLD);
    send(&mirror, get(&path)).await;
    platform.advance(Duration::from_secs(24 * HOUR));
    for (answer, status) in [
        (
            Err(TransportError::Connect),
            "hammal; fwd=stale; detail=upstream-failed",
        ),
        (
            points_at(OLD),
            "hammal; fwd=stale; fwd-status=200; detail=revalidated",
        ),
    ] {
        platform.add_answers([answer]);
        let received = send(&mirror, get(&path)).await;
        assert_eq!(
            (received.text().as_str(), received.header("cache-status")),
            (OLD, Some(status))
        );
        platform.advance(Duration::from_secs(21));
    }
    for mirror in [&mirror, &Mirror::new(platform.clone())] {
        assert_eq!(
            send(mirror, get(&path)).await.header("cache-status"),
            Some("hammal; hit")
        );
    }
    platform.advance(Duration::from_secs(48 * HOUR));
    platform.add_answers([Err(TransportError::Connect)]);
    assert_eq!(send(&mirror, get(&path)).await.status(), 502);
}

#[tokio::test]
async fn revalidates_by_get_where_head_is_not_supported() {
    for head in [
        answer(405, &[], ""),
        answer(501, &[], ""),
        answer(200, &[], ""),
    ] {
        let (platform, mirror) = caching([sends(OLD), head, sends(NEW)]);
        send(&mirror, get(MANIFEST)).await;
        assert_eq!(send(&mirror, get(MANIFEST)).await.text(), NEW);
        assert_eq!(platform.sent().len(), 3);
    }
}

#[tokio::test]
async fn answers_a_head_by_a_get_where_head_is_not_supported() {
    let head = || {
        Request::head(format!("http://mirror.example{MANIFEST}"))
            .body(())
            .unwrap()
    };
    let (platform, mirror) = caching([]);
    for (refused, content) in [
        (answer(405, &[], ""), OLD),
        (answer(501, &[], ""), NEW),
        (answer(200, &[("content-type", "text/plain")], ""), OLD),
    ] {
        platform.add_answers([refused, sends(content)]);
        let received = send(&mirror, head()).await;
        assert_eq!((received.status(), received.text().as_str()), (200, ""));
        assert_eq!(
            received.header("docker-content-digest"),
            Some(Digest::of(content.as_bytes()).as_str())
        );
        assert_eq!(
            received.header("content-length"),
            Some(content.len().to_string().as_str())
        );
        assert_eq!(
            platform.sent(),
            ["HEAD", "GET"].map(|method| format!("{method} {HUB}{MANIFEST}"))
        );
    }
    platform.add_answers([answer(405, &[], ""), answer(404, &[], "")]);
    assert_eq!(send(&mirror, head()).await.status(), 404);
}

#[tokio::test]
async fn a_get_decides_where_a_head_is_denied() {
    let (platform, mirror) = caching([sends(OLD)]);
    send(&mirror, get(MANIFEST)).await;
    platform.add_answers([answer(401, &[], ""), answer(401, &[], ""), sends(OLD)]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.text(), OLD);
}

#[tokio::test]
async fn revalidates_by_head_however_short_max_stale_is() {
    let (platform, mirror) = caching([sends(OLD)]);
    platform.set_variable("max_stale", "0");
    send(&mirror, get(MANIFEST)).await;
    platform.advance(Duration::from_secs(HOUR));
    platform.add_answers([points_at(OLD)]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.text(), OLD);
    platform.add_answers([Err(TransportError::Connect)]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 502);
}

#[tokio::test]
async fn asks_an_upstream_that_failed_at_head_where_the_others_get_breaks() {
    let (platform, mirror) = caching_from_two([sends(OLD)]);
    send(&mirror, get(MANIFEST)).await;
    let large = " ".repeat(crate::upstream::manifest_body::MAX_MANIFEST + 1);
    platform.add_answers([
        Err(TransportError::Connect),
        points_at(NEW),
        sends(&large),
        sends(NEW),
    ]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.text(), NEW);
}

#[tokio::test]
async fn leaves_conditions_and_ranges_to_the_upstream() {
    let (platform, mirror) = caching([sends(OLD), answer(304, &[("etag", "\"x\"")], "")]);
    send(&mirror, get(&by_digest(OLD))).await;
    let request = Request::get(format!("http://mirror.example{}", by_digest(OLD)))
        .header("if-none-match", "\"x\"");
    assert_eq!(send(&mirror, request.body(()).unwrap()).await.status(), 304);
    assert_eq!(platform.sent().len(), 2);
}

#[tokio::test]
async fn does_not_write_to_the_store_with_every_pull() {
    let (platform, mirror) = caching([sends(OLD)]);
    send(&mirror, get(MANIFEST)).await;
    let calls = platform.store_calls();
    for _ in 0..10 {
        platform.add_answers([points_at(OLD)]);
        send(&mirror, get(MANIFEST)).await;
    }
    // One read: whether another instance has received the upstream fail.
    assert_eq!(platform.store_calls(), calls + 1);
}

#[tokio::test]
async fn the_limits_that_a_revalidation_tells_go_with_the_cached_manifest() {
    let (platform, mirror) = caching([sends("one")]);
    send(&mirror, get(MANIFEST)).await;
    let mut head = points_at("one").unwrap();
    for (name, value) in [
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "76;w=21600"),
        ("docker-ratelimit-source", "192.0.2.1"),
        ("set-cookie", "a=b"),
    ] {
        head.headers_mut().insert(name, value.parse().unwrap());
    }
    platform.add_answers([Ok(head)]);
    let received = send(&mirror, get(MANIFEST)).await;
    assert!(
        received
            .header("cache-status")
            .unwrap()
            .contains("revalidated")
    );
    for (name, value) in [
        ("ratelimit-limit", Some("100;w=21600")),
        ("ratelimit-remaining", Some("76;w=21600")),
        ("docker-ratelimit-source", Some("192.0.2.1")),
        ("ratelimit-reset", None),
        ("set-cookie", None),
    ] {
        assert_eq!(received.header(name), value, "{name}");
    }
    // They are the last known of an answer without asking, too.
    let received = send(&mirror, get(&by_digest("one"))).await;
    assert_eq!(received.header("cache-status"), Some("hammal; hit"));
    assert_eq!(received.header("ratelimit-remaining"), Some("76;w=21600"));
    // An upstream that has none any more.
    platform.add_answers([points_at("one")]);
    let received = send(&mirror, get(MANIFEST)).await;
    assert_eq!(received.header("ratelimit-remaining"), None);
}
