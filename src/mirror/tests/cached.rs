//! The story where manifests are kept.

use super::*;
use crate::oci::digest::Digest;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OLD: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
const NEW: &str = r#"{"schemaVersion":2,"manifests":[],"new":1}"#;

const HOUR: u64 = 60 * 60;

fn by_digest(content: &str) -> String {
    format!(
        "/v2/library/alpine/manifests/{}",
        Digest::of(content.as_bytes())
    )
}

fn sends(content: &str) -> Exchanged {
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
fn points_at(content: &str) -> Exchanged {
    sends(content).map(|response| response.map(|_| Vec::new()))
}

fn takes(path: &str, accept: &[&str]) -> Request<()> {
    let mut request = Request::get(format!("http://mirror.example{path}"));
    for accept in accept {
        request = request.header("accept", *accept);
    }
    request.body(()).unwrap()
}

fn caching(answers: impl IntoIterator<Item = Exchanged>) -> (Scripted, Mirror<Scripted>) {
    let platform = Scripted::new(answers);
    platform.set_variable("manifest_cache", "on");
    (platform.clone(), Mirror::new(platform))
}

fn caching_from_two(answers: impl IntoIterator<Item = Exchanged>) -> (Scripted, Mirror<Scripted>) {
    let (platform, mirror) = caching(answers);
    platform.set_variable("upstream", "first.example, docker.io");
    (platform, mirror)
}

#[tokio::test]
async fn the_next_upstream_is_asked_where_a_manifest_breaks_off_is_too_large_or_another_one() {
    let path = by_digest(OLD);
    let large = " ".repeat(crate::manifest::cache::MAX_MANIFEST + 1);
    for (sent, breaks) in [(NEW, false), (OLD, true), (&large, false)] {
        let (platform, mirror) = caching_from_two([sends(sent), sends(OLD), sends(NEW)]);
        if breaks {
            platform.will_break();
        }
        let seen = ask(&mirror, get(&path)).await;
        assert_eq!((seen.status(), seen.text().as_str()), (200, OLD));
        assert_eq!(
            platform.asked(),
            [
                format!("GET https://first.example{path}"),
                format!("GET {HUB}{path}")
            ]
        );
        // The one that failed is asked last for a while.
        ask(&mirror, get(&by_digest(NEW))).await;
        assert_eq!(platform.asked(), [format!("GET {HUB}{}", by_digest(NEW))]);
    }
}

#[tokio::test]
async fn no_upstream_is_asked_twice_where_none_has_a_manifest() {
    for first in [sends(NEW), answer(500, &[], "")] {
        let (platform, mirror) = caching_from_two([first, sends(NEW)]);
        assert_eq!(ask(&mirror, get(&by_digest(OLD))).await.status(), 502);
        assert_eq!(platform.asked().len(), 2);
    }
}

#[tokio::test]
async fn what_a_lower_upstream_lacks_is_not_the_last_word_on_a_manifest_that_came_broken() {
    let (platform, mirror) = caching_from_two([sends(NEW), answer(404, &[], "")]);
    assert_eq!(ask(&mirror, get(&by_digest(OLD))).await.status(), 502);
    assert_eq!(platform.asked().len(), 2);
    // The other one is asked first now; it is no answer for the first, but the first is one for it.
    platform.will_answer([sends(NEW), answer(404, &[], "")]);
    assert_eq!(ask(&mirror, get(&by_digest(OLD))).await.status(), 404);
    assert!(platform.asked()[1].contains("first.example"));
}

#[tokio::test]
async fn what_a_digest_names_is_asked_for_once() {
    let (platform, mirror) = caching([sends(OLD)]);
    let path = by_digest(OLD);
    let first = ask(&mirror, get(&path)).await;
    assert_eq!((first.status(), first.text().as_str()), (200, OLD));
    assert_eq!(first.header("cache-status"), Some("hammal; fwd=miss"));
    for mirror in [mirror, Mirror::new(platform.clone())] {
        let seen = ask(&mirror, get(&path)).await;
        assert_eq!((seen.status(), seen.text().as_str()), (200, OLD));
        let headers = [
            "content-type",
            "docker-content-digest",
            "content-length",
            "cache-status",
        ]
        .map(|name| seen.header(name));
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
        let head = ask(
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
    assert_eq!(platform.asked().len(), 1);
    assert!(platform.log()[1].contains("requests=0 fetches=0 token=none cache=hit"));
}

#[tokio::test]
async fn an_unchanged_tag_costs_a_head_and_no_get() {
    let (platform, mirror) = caching([sends(OLD), points_at(OLD)]);
    ask(&mirror, get(MANIFEST)).await;
    let seen = ask(&mirror, get(MANIFEST)).await;
    assert_eq!((seen.text().as_str(), seen.header("age")), (OLD, Some("0")));
    assert_eq!(
        platform.asked(),
        [
            format!("GET {HUB}{MANIFEST}"),
            format!("HEAD {HUB}{MANIFEST}")
        ]
    );
    // The digest that the tag points at is known too.
    ask(&mirror, get(&by_digest(OLD))).await;
    assert_eq!(platform.asked(), [""; 0]);
}

#[tokio::test]
async fn a_tag_that_moved_is_fetched() {
    let (platform, mirror) = caching([sends(OLD), points_at(NEW), sends(NEW), points_at(OLD)]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.text(), OLD);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.text(), NEW);
    // And back again: what is known already need not be fetched.
    assert_eq!(ask(&mirror, get(MANIFEST)).await.text(), OLD);
    assert_eq!(
        platform.asked(),
        ["GET", "HEAD", "GET", "HEAD"].map(|method| format!("{method} {HUB}{MANIFEST}"))
    );
}

#[tokio::test]
async fn a_tag_is_taken_on_trust_for_as_long_as_the_operator_says() {
    let (platform, mirror) = caching([sends(OLD)]);
    platform.set_variable("tag_ttl", "60");
    ask(&mirror, get(MANIFEST)).await;
    platform.pass(Duration::from_secs(59));
    assert_eq!(ask(&mirror, get(MANIFEST)).await.header("age"), Some("59"));
    let head = Request::head(format!("http://mirror.example{MANIFEST}"))
        .body(())
        .unwrap();
    assert_eq!(
        ask(&mirror, head).await.header("docker-content-digest"),
        Some(Digest::of(OLD.as_bytes()).as_str())
    );
    assert_eq!(platform.asked().len(), 1);
    platform.pass(Duration::from_secs(1));
    platform.will_answer([points_at(OLD)]);
    ask(&mirror, get(MANIFEST)).await;
    assert_eq!(platform.asked(), [format!("HEAD {HUB}{MANIFEST}")]);
}

#[tokio::test]
async fn each_client_gets_what_it_takes() {
    let manifest = "application/vnd.docker.distribution.manifest.v2+json";
    let (platform, mirror) = caching([
        sends(OLD),
        answer(200, &[("content-type", manifest)], "{}"),
        points_at(OLD),
    ]);
    ask(&mirror, takes(MANIFEST, &[INDEX, manifest])).await;
    assert_eq!(
        ask(&mirror, takes(MANIFEST, &[manifest])).await.text(),
        "{}"
    );
    // The same types in another order, and in one line.
    assert_eq!(
        ask(&mirror, takes(MANIFEST, &[&format!("{manifest}, {INDEX}")]))
            .await
            .text(),
        OLD
    );
    assert_eq!(platform.asked()[2], format!("HEAD {HUB}{MANIFEST}"));
    // An index that is known is not for who does not take it.
    platform.will_answer([answer(404, &[], "")]);
    assert_eq!(
        ask(&mirror, takes(&by_digest(OLD), &[manifest]))
            .await
            .status(),
        404
    );
    assert_eq!(
        ask(&mirror, takes(&by_digest(OLD), &["*/*"])).await.text(),
        OLD
    );
}

#[tokio::test]
async fn what_is_known_of_one_place_is_not_known_of_another() {
    let (platform, mirror) = caching([sends(OLD)]);
    ask(&mirror, get(&by_digest(OLD))).await;
    platform.asked();
    let elsewhere = by_digest(OLD).replace("alpine", "other");
    for path in [elsewhere, format!("{}?upstream=ghcr.io", by_digest(OLD))] {
        platform.will_answer([answer(404, &[], "")]);
        assert_eq!(ask(&mirror, get(&path)).await.status(), 404, "{path}");
        assert_eq!(platform.asked().len(), 1);
    }
}

#[tokio::test]
async fn what_one_of_several_upstreams_sent_is_no_answer_of_another() {
    let (platform, mirror) = caching_from_two([Err(TransportError::Connect), sends(OLD)]);
    ask(&mirror, get(&by_digest(OLD))).await;
    platform.asked();
    assert_eq!(ask(&mirror, get(&by_digest(OLD))).await.text(), OLD);
    assert_eq!(platform.asked(), [""; 0]);
    platform.will_answer([answer(404, &[], "")]);
    assert_eq!(
        ask(
            &mirror,
            get(&format!("{}?upstream=first.example", by_digest(OLD)))
        )
        .await
        .status(),
        404
    );
    assert_eq!(platform.asked().len(), 1);
}

#[tokio::test]
async fn what_a_tag_pointed_at_is_answered_with_until_the_new_content_is_here() {
    let (platform, mirror) = caching([sends(OLD)]);
    ask(&mirror, get(MANIFEST)).await;
    // Docker Hub counts GET, and says by HEAD all the while that the tag has moved.
    for instance in [&mirror, &mirror, &Mirror::new(platform.clone())] {
        platform.pass(Duration::from_secs(21));
        platform.will_answer([points_at(NEW), points_at(NEW), answer(429, &[], "")]);
        let head = Request::head(format!("http://mirror.example{MANIFEST}"))
            .body(())
            .unwrap();
        let seen = ask(instance, head).await;
        assert_eq!(
            seen.header("docker-content-digest"),
            Some(Digest::of(NEW.as_bytes()).as_str())
        );
        let seen = ask(instance, get(MANIFEST)).await;
        assert_eq!((seen.status(), seen.text().as_str()), (200, OLD));
    }
    platform.pass(Duration::from_secs(21));
    platform.will_answer([points_at(NEW), sends(NEW)]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.text(), NEW);
    platform.will_answer([points_at(NEW)]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.text(), NEW);
}

#[tokio::test]
async fn simultaneous_requests_for_one_manifest_share_one_get() {
    let unkept = || answer(200, &[("content-type", INDEX)], NEW);
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
        let seen = futures_util::future::join_all((0..16).map(|_| ask(&mirror, get(&path)))).await;
        assert!(
            seen.iter().all(|seen| seen.status() == status),
            "{path} {status}"
        );
        assert_eq!(platform.asked().len(), gets, "{path} {status}");
        let waited = seen
            .iter()
            .filter(|seen| seen.header("cache-status") == Some("hammal; fwd=miss; collapsed"));
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
    ask(&mirror, get(MANIFEST)).await;
    platform.will_answer(
        (0..16)
            .map(|_| points_at(&large))
            .chain((0..16).map(|_| sends(&large))),
    );
    let seen = futures_util::future::join_all((0..16).map(|_| ask(&mirror, get(MANIFEST)))).await;
    assert!(seen.iter().all(|seen| seen.text() == large));
    // What came through a mirror may be what the GET that it would wait for leads to.
    let (platform, mirror) = caching((0..16).map(|_| sends(OLD)));
    let request =
        || Request::get(format!("http://mirror.example{MANIFEST}")).header("cdn-loop", "hammal");
    let seen =
        futures_util::future::join_all((0..16).map(|_| ask(&mirror, request().body(()).unwrap())))
            .await;
    assert!(seen.iter().all(|seen| seen.status() == 200));
    assert_eq!(platform.asked().len(), 16);
}

#[tokio::test]
async fn an_upstream_without_referrers_has_not_failed() {
    let (platform, mirror) = caching([sends(OLD), answer(501, &[], ""), points_at(OLD)]);
    ask(&mirror, get(MANIFEST)).await;
    assert_eq!(
        ask(
            &mirror,
            get(&format!("/v2/library/alpine/referrers/{DIGEST}"))
        )
        .await
        .status(),
        404
    );
    let seen = ask(&mirror, get(MANIFEST)).await;
    assert!(seen.header("cache-status").unwrap().contains("revalidated"));
    assert_eq!(platform.asked().len(), 3);
}

#[tokio::test]
async fn content_that_is_not_what_its_digest_names_is_refused_and_not_kept() {
    let (platform, mirror) = caching([answer(200, &[("content-type", INDEX)], NEW), sends(OLD)]);
    let seen = ask(&mirror, get(&by_digest(OLD))).await;
    assert_eq!((seen.status(), seen.code().as_str()), (502, "UNAVAILABLE"));
    assert!(platform.store().keys().all(|key| !key.starts_with("m-")));
    assert_eq!(ask(&mirror, get(&by_digest(OLD))).await.text(), OLD);

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
        platform.will_answer([answer]);
        assert_eq!(ask(&mirror, get(&by_digest(OLD))).await.status(), status);
    }
    assert_eq!(ask(&mirror, get(&by_digest(OLD))).await.text(), OLD);
}

#[tokio::test]
async fn a_manifest_of_more_than_4_mib_is_refused() {
    let large = format!("\"{}\"", "x".repeat(4 * 1024 * 1024));
    for sent in [
        sends(&large),
        answer(200, &[("content-type", INDEX)], &large),
    ] {
        let (_, mirror) = caching([sent]);
        let seen = ask(&mirror, get(MANIFEST)).await;
        assert_eq!(seen.status(), 502);
        assert!(seen.text().contains("4 MiB"));
    }
}

#[tokio::test]
async fn stale_beats_nothing_until_it_is_too_old() {
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
        ask(&mirror, get(MANIFEST)).await;
        platform.pass(Duration::from_secs(100));
        let seen = ask(&mirror, get(MANIFEST)).await;
        assert_eq!(
            (seen.status(), seen.text().as_str()),
            (200, OLD),
            "{described}"
        );
        assert_eq!(
            (seen.header("age"), seen.header("cache-status")),
            (Some("100"), Some("hammal; hit; detail=stale"))
        );
        assert_eq!(seen.header("retry-after"), None);
        platform.pass(Duration::from_secs(3500));
        platform.will_answer([Err(TransportError::Connect)]);
        assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 502);
    }
}

#[tokio::test]
async fn an_upstream_that_failed_is_not_waited_for_where_there_is_a_copy() {
    let (platform, mirror) = caching([sends(OLD), Err(TransportError::TimedOut)]);
    ask(&mirror, get(MANIFEST)).await;
    for mirror in [&mirror, &mirror, &Mirror::new(platform.clone())] {
        assert_eq!(ask(mirror, get(MANIFEST)).await.text(), OLD);
    }
    assert_eq!(platform.asked().len(), 2);
    // Where there is none, it is asked.
    platform.will_answer([sends(OLD)]);
    assert_eq!(
        ask(&mirror, get("/v2/library/other/manifests/latest"))
            .await
            .status(),
        200
    );
    platform.pass(Duration::from_secs(21));
    platform.will_answer([points_at(OLD)]);
    let seen = ask(&mirror, get(MANIFEST)).await;
    assert!(seen.header("cache-status").unwrap().contains("revalidated"));
}

#[tokio::test]
async fn what_the_upstream_says_is_gone_is_gone() {
    let gone = || answer(404, &[], "");
    for (path, hours, accept, comes_back) in [
        (MANIFEST.to_owned(), 1, &[][..], false),
        (by_digest(OLD), 25, &[INDEX], false),
        // It may be gone for those only who ask like this.
        (by_digest(OLD), 25, &["*/*"], true),
    ] {
        let (platform, mirror) = caching([sends(OLD), gone(), gone()]);
        ask(&mirror, takes(&path, accept)).await;
        platform.pass(Duration::from_secs(hours * HOUR));
        assert_eq!(ask(&mirror, takes(&path, accept)).await.status(), 404);
        assert_eq!(
            platform.asked()[1..],
            ["HEAD", "GET"].map(|method| format!("{method} {HUB}{path}"))
        );
        // Where the upstream fails next.
        for mirror in [&mirror, &Mirror::new(platform.clone())] {
            platform.will_answer([Err(TransportError::Connect)]);
            let status = ask(mirror, takes(&path, accept)).await.status();
            assert_eq!(
                status,
                if comes_back { 200 } else { 502 },
                "{path} {accept:?}"
            );
            platform.pass(Duration::from_secs(21));
        }
    }
    // A HEAD proves nothing.
    let (platform, mirror) = caching([sends(OLD), gone(), Err(TransportError::Connect)]);
    ask(&mirror, get(MANIFEST)).await;
    let head = Request::head(format!("http://mirror.example{MANIFEST}"))
        .body(())
        .unwrap();
    assert_eq!(ask(&mirror, head).await.status(), 404);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.text(), OLD);
    assert_eq!(platform.asked().len(), 3);
}

#[tokio::test]
async fn what_is_pulled_again_and_again_is_there_when_the_upstream_fails() {
    let (platform, mirror) = caching([sends(OLD)]);
    ask(&mirror, get(MANIFEST)).await;
    for _ in 0..9 {
        platform.pass(Duration::from_secs(15 * HOUR));
        platform.will_answer([points_at(OLD)]);
        assert_eq!(
            ask(&Mirror::new(platform.clone()), get(MANIFEST))
                .await
                .text(),
            OLD
        );
    }
    platform.pass(Duration::from_secs(23 * HOUR));
    for path in [MANIFEST, &by_digest(OLD)] {
        platform.will_answer([Err(TransportError::Connect)]);
        assert_eq!(
            ask(&Mirror::new(platform.clone()), get(path)).await.text(),
            OLD
        );
    }
}

#[tokio::test]
async fn what_a_digest_names_is_looked_at_again_after_a_day() {
    let (platform, mirror) = caching([sends(OLD)]);
    let path = by_digest(OLD);
    ask(&mirror, get(&path)).await;
    platform.pass(Duration::from_secs(24 * HOUR));
    for (answer, status) in [
        (Err(TransportError::Connect), "hammal; hit; detail=stale"),
        (
            points_at(OLD),
            "hammal; fwd=stale; fwd-status=200; detail=revalidated",
        ),
    ] {
        platform.will_answer([answer]);
        let seen = ask(&mirror, get(&path)).await;
        assert_eq!(
            (seen.text().as_str(), seen.header("cache-status")),
            (OLD, Some(status))
        );
        platform.pass(Duration::from_secs(21));
    }
    for mirror in [&mirror, &Mirror::new(platform.clone())] {
        assert_eq!(
            ask(mirror, get(&path)).await.header("cache-status"),
            Some("hammal; hit")
        );
    }
    platform.pass(Duration::from_secs(48 * HOUR));
    platform.will_answer([Err(TransportError::Connect)]);
    assert_eq!(ask(&mirror, get(&path)).await.status(), 502);
}

#[tokio::test]
async fn a_registry_that_has_no_head_or_none_with_a_type_is_asked_by_get() {
    for head in [
        answer(405, &[], ""),
        answer(501, &[], ""),
        answer(200, &[], ""),
    ] {
        let (platform, mirror) = caching([sends(OLD), head, sends(NEW)]);
        ask(&mirror, get(MANIFEST)).await;
        assert_eq!(ask(&mirror, get(MANIFEST)).await.text(), NEW);
        assert_eq!(platform.asked().len(), 3);
    }
}

#[tokio::test]
async fn a_head_at_a_registry_that_has_none_is_answered_by_a_get() {
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
        platform.will_answer([refused, sends(content)]);
        let seen = ask(&mirror, head()).await;
        assert_eq!((seen.status(), seen.text().as_str()), (200, ""));
        assert_eq!(
            seen.header("docker-content-digest"),
            Some(Digest::of(content.as_bytes()).as_str())
        );
        assert_eq!(
            seen.header("content-length"),
            Some(content.len().to_string().as_str())
        );
        assert_eq!(
            platform.asked(),
            ["HEAD", "GET"].map(|method| format!("{method} {HUB}{MANIFEST}"))
        );
    }
    platform.will_answer([answer(405, &[], ""), answer(404, &[], "")]);
    assert_eq!(ask(&mirror, head()).await.status(), 404);
}

#[tokio::test]
async fn what_a_head_is_not_shown_a_get_may_be() {
    let (platform, mirror) = caching([sends(OLD)]);
    ask(&mirror, get(MANIFEST)).await;
    platform.will_answer([answer(401, &[], ""), answer(401, &[], ""), sends(OLD)]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.text(), OLD);
}

#[tokio::test]
async fn a_tag_is_looked_at_by_head_however_short_max_stale_is() {
    let (platform, mirror) = caching([sends(OLD)]);
    platform.set_variable("max_stale", "0");
    ask(&mirror, get(MANIFEST)).await;
    platform.pass(Duration::from_secs(HOUR));
    platform.will_answer([points_at(OLD)]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.text(), OLD);
    platform.will_answer([Err(TransportError::Connect)]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 502);
}

#[tokio::test]
async fn an_upstream_that_failed_at_head_is_asked_where_the_others_get_breaks() {
    let (platform, mirror) = caching_from_two([sends(OLD)]);
    ask(&mirror, get(MANIFEST)).await;
    let large = " ".repeat(crate::manifest::cache::MAX_MANIFEST + 1);
    platform.will_answer([
        Err(TransportError::Connect),
        points_at(NEW),
        sends(&large),
        sends(NEW),
    ]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.text(), NEW);
}

#[tokio::test]
async fn conditions_and_ranges_are_the_upstreams_to_judge() {
    let (platform, mirror) = caching([sends(OLD), answer(304, &[("etag", "\"x\"")], "")]);
    ask(&mirror, get(&by_digest(OLD))).await;
    let request = Request::get(format!("http://mirror.example{}", by_digest(OLD)))
        .header("if-none-match", "\"x\"");
    assert_eq!(ask(&mirror, request.body(()).unwrap()).await.status(), 304);
    assert_eq!(platform.asked().len(), 2);
}

#[tokio::test]
async fn the_store_is_not_written_to_with_every_pull() {
    let (platform, mirror) = caching([sends(OLD)]);
    ask(&mirror, get(MANIFEST)).await;
    let calls = platform.store_calls();
    for _ in 0..10 {
        platform.will_answer([points_at(OLD)]);
        ask(&mirror, get(MANIFEST)).await;
    }
    // One read: whether another instance has seen the upstream fail.
    assert_eq!(platform.store_calls(), calls + 1);
}
