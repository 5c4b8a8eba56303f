//! Redirects of blobs that are remembered.

use super::*;
use futures_util::future::{FutureExt, join_all};
use http::request::Builder;

/// How far the scripted clock is from the Unix epoch at first.
const START: u64 = 1_000_000;

/// A URL as CloudFront signs them, which is good for `life` seconds from the start.
fn signed(host: &str, life: u64) -> String {
    let end = START + life;
    format!("https://{host}/data?Expires={end}&Signature=a~b_&Key-Pair-Id=K")
}

fn redirected(life: u64) -> Answer {
    redirect(&signed("cdn.example", life))
}

/// A request for the blob by the client with this address.
fn from_client(address: &str) -> Builder {
    Request::get(format!("http://mirror.example{}", blob()))
        .header("spin-client-addr", format!("{address}:4711"))
}

fn by(address: &str) -> Request<()> {
    from_client(address).body(()).unwrap()
}

/// What a client gets: status, `Location`, and how the cache took part.
fn summary(received: &Received) -> (u16, Option<&str>, Option<&str>) {
    let (location, cache) = (received.header("location"), received.header("cache-status"));
    (received.status(), location, cache)
}

fn statuses(received: Vec<Response<Body<Vec<u8>>>>) -> Vec<u16> {
    received.iter().map(|it| it.status().as_u16()).collect()
}

const HIT: Option<&str> = Some("hammal; hit");
const MISS: Option<&str> = Some("hammal; fwd=miss");

#[tokio::test]
async fn a_redirect_serves_all_clients_without_a_request_or_a_token() {
    let platform = Scripted::new([challenge(), token("one"), redirected(1200)]);
    let mirror = Mirror::new(platform.clone());
    let location = signed("cdn.example", 1200);
    let received = send(&mirror, by("192.0.2.1")).await;
    assert_eq!(summary(&received), (307, Some(&*location), MISS));
    assert_eq!(platform.sent().len(), 3);
    for number in 2..200 {
        let received = send(&mirror, by(&format!("192.0.2.{number}"))).await;
        assert_eq!(summary(&received), (307, Some(&*location), HIT));
        assert_eq!(received.header("cache-control"), Some("no-store"));
        assert_eq!(received.header("content-length"), Some("0"));
        assert_eq!(received.text(), "");
    }
    // A new instance finds it in the store.
    let received = send(&Mirror::new(platform.clone()), by("192.0.2.250")).await;
    assert_eq!(summary(&received), (307, Some(&*location), HIT));
    assert_eq!(platform.sent(), [""; 0]);
    let log = platform.log();
    let line = log.last().unwrap();
    let fields = "status=307 upstream_requests=0 token_requests=0 token_source=none cache=hit";
    assert!(line.contains(fields), "{line}");
    assert!(line.contains(" upstream=registry-1.docker.io "), "{line}");
}

#[tokio::test]
async fn another_method_repository_or_upstream_has_a_redirect_of_its_own() {
    let platform = Scripted::new([redirected(1200)]);
    let mirror = Mirror::new(platform.clone());
    send(&mirror, by("192.0.2.1")).await;
    for (method, path) in [
        ("HEAD", blob()),
        ("GET", format!("/v2/library/ubuntu/blobs/{DIGEST}")),
        ("GET", blob().replace('a', "b").replace("/vb/", "/v2/")),
        ("GET", format!("{}?upstream=other.example", blob())),
    ] {
        let own = signed("own.example", 1200);
        platform.add_answers([redirect(&own)]);
        for cache in [MISS, HIT] {
            let request = Request::builder().method(method);
            let request = request.uri(format!("http://mirror.example{path}"));
            let received = send(&mirror, request.body(()).unwrap()).await;
            assert_eq!(
                summary(&received),
                (307, Some(&*own), cache),
                "{method} {path}"
            );
        }
    }
    // A name of Docker Hub's, in any of its forms, is one.
    let path = format!("/v2/alpine/blobs/{DIGEST}?ns=docker.io");
    assert_eq!(send(&mirror, get(&path)).await.header("cache-status"), HIT);
}

#[tokio::test]
async fn a_url_that_ends_within_a_minute_is_handed_out_to_nobody_else() {
    for life in [0, 59, 60, 61, 1199, 1200] {
        let platform = Scripted::new([redirected(life)]);
        let first = Mirror::new(platform.clone());
        send(&first, by("192.0.2.1")).await;
        let mut now = 0;
        for (number, time) in [0, 1, 1138, 1, 1].into_iter().enumerate() {
            platform.advance(Duration::from_secs(time));
            now += time;
            let has_enough = life > now + 60;
            let next = signed("next.example", 0);
            // Where the upstream is asked although it need not be, the script is at its end.
            platform.add_answers((!has_enough).then(|| redirect(&next)));
            let new = Mirror::new(platform.clone());
            let instance = if number % 2 == 0 { &first } else { &new };
            let received = send(instance, by(&format!("192.0.2.1{number}"))).await;
            let is_next = received.header("location") == Some(&next);
            assert_eq!(is_next, !has_enough, "{life}, {now}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_used_for_an_hour_at_most() {
    let platform = Scripted::new([redirected(1_000_000), redirected(1_000_000)]);
    let mirror = Mirror::new(platform.clone());
    for (number, (time, cache)) in [(0, MISS), (3599, HIT), (1, MISS)].into_iter().enumerate() {
        platform.advance(Duration::from_secs(time));
        let received = send(&mirror, by(&format!("192.0.2.{number}"))).await;
        assert_eq!(received.header("cache-status"), cache, "{time}");
    }
}

#[tokio::test]
async fn a_url_that_does_not_tell_its_end_is_not_kept() {
    for location in [
        "https://cdn.example/blob?token=x",
        "https://cdn.example/blob",
        "https://cdn.example/blob?Expires=soon&Signature=x",
    ] {
        let platform = Scripted::new([redirect(location), redirect(location)]);
        let mirror = Mirror::new(platform.clone());
        for client in ["192.0.2.1", "192.0.2.2"] {
            let received = send(&mirror, by(client)).await;
            assert_eq!(summary(&received), (307, Some(location), MISS));
        }
        assert_eq!(platform.store().len(), 0);
    }
}

#[tokio::test]
async fn a_clock_that_is_behind_the_upstreams_hands_out_no_dead_url() {
    // The upstream's clock is 1,000 seconds ahead, and its URL is good for 200.
    let location = signed("cdn.example", 1200);
    let headers = [
        ("location", location.as_str()),
        ("date", "Mon, 12 Jan 1970 14:03:20 GMT"),
    ];
    let platform = Scripted::new([answer(307, &headers, ""), redirected(0)]);
    let mirror = Mirror::new(platform.clone());
    for (client, time, cache) in [
        ("192.0.2.1", 0, MISS),
        ("192.0.2.2", 139, HIT),
        ("192.0.2.3", 1, MISS),
    ] {
        platform.advance(Duration::from_secs(time));
        let received = send(&mirror, by(client)).await;
        assert_eq!(received.header("cache-status"), cache, "{client}");
    }
}

#[tokio::test]
async fn simultaneous_first_requests_share_one() {
    let platform = Scripted::new([redirected(1200)]);
    let mirror = Mirror::new(platform.clone());
    let clients = (0..40).map(|number| mirror.handle(by(&format!("192.0.2.{number}"))));
    let received: Vec<_> = join_all(clients).await.into_iter().map(Received).collect();
    let location = signed("cdn.example", 1200);
    let collapsed = Some("hammal; fwd=miss; collapsed");
    for (number, received) in received.iter().enumerate() {
        let cache = if number == 0 { MISS } else { collapsed };
        assert_eq!(summary(received), (307, Some(&*location), cache));
    }
    assert_eq!(platform.sent().len(), 1);
}

#[tokio::test]
async fn a_request_through_another_mirror_waits_for_none() {
    let platform = Scripted::new([redirected(1200), redirected(1200)]);
    let mirror = Mirror::new(platform.clone());
    let through = from_client("192.0.2.2").header("cdn-loop", "hammal");
    let both = [by("192.0.2.1"), through.body(()).unwrap()].map(|request| mirror.handle(request));
    for response in join_all(both).await {
        assert_eq!(Received(response).header("cache-status"), MISS);
    }
    assert_eq!(platform.sent().len(), 2);
}

#[tokio::test]
async fn what_is_for_one_client_only_is_not_shared() {
    let bytes = || answer(200, &[], "bytes");
    let range_refused = || answer(416, &[], "");
    let unsigned = || redirect("https://cdn.example/once?token=x");
    for (answers, expected) in [
        ([bytes(), bytes(), bytes()], [200, 200, 200]),
        ([unsigned(), unsigned(), unsigned()], [307, 307, 307]),
        ([range_refused(), bytes(), bytes()], [416, 200, 200]),
    ] {
        let platform = Scripted::new(answers);
        let mirror = Mirror::new(platform.clone());
        let clients = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
        let received = join_all(clients.map(|client| mirror.handle(by(client)))).await;
        assert_eq!(statuses(received), expected);
        assert_eq!(platform.sent().len(), 3);
    }
    // An error is shared: it would be the same for all.
    let platform = Scripted::new([answer(500, &[], "")]);
    let mirror = Mirror::new(platform.clone());
    let clients = ["192.0.2.1", "192.0.2.2"];
    let received = join_all(clients.map(|client| mirror.handle(by(client)))).await;
    assert_eq!(statuses(received), [404, 404]);
    assert_eq!(platform.sent().len(), 1);
}

#[tokio::test]
async fn nobody_waits_for_an_answer_that_is_known_not_to_be_shared() {
    let bytes = || answer(200, &[], "bytes");
    let platform = Scripted::new([bytes()]);
    let mirror = Mirror::new(platform.clone());
    send(&mirror, by("192.0.2.1")).await;
    let store_calls = platform.store_calls();
    platform.add_answers([bytes(), redirected(1200)]);
    let both = ["192.0.2.2", "192.0.2.3"].map(|client| Box::pin(mirror.handle(by(client))));
    let mut waiting = join_all(both);
    // Both are on their way before either is answered.
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!(platform.sent().len(), 3);
    assert_eq!(statuses(waiting.await), [200, 307]);
    assert_eq!(platform.store_calls(), store_calls);
    // The upstream has begun to sign.
    let received = send(&mirror, by("192.0.2.4")).await;
    assert_eq!(received.header("cache-status"), HIT);
    assert_eq!(platform.sent().len(), 0);
}

#[tokio::test]
async fn a_redirect_is_fetched_anew_for_a_client_that_comes_back() {
    let platform = Scripted::new([redirected(1200)]);
    let first = Mirror::new(platform.clone());
    for (time, client, fresh) in [
        (0, "192.0.2.1", true),
        // So soon, the upstream would say the same.
        (4, "192.0.2.1", false),
        (0, "192.0.2.2", false),
        (1, "192.0.2.1", true),
        (0, "192.0.2.2", false),
        (4, "192.0.2.2", false),
        (1, "192.0.2.2", true),
        (40, "192.0.2.2", false),
        (29, "192.0.2.2", true),
    ] {
        platform.advance(Duration::from_secs(time));
        if fresh {
            platform.add_answers([redirected(1200)]);
        }
        send(&first, by(client)).await;
        let expected = usize::from(fresh);
        assert_eq!(platform.sent().len(), expected, "{client} after {time}");
    }
}

#[tokio::test]
async fn a_client_that_comes_back_is_known_to_every_instance() {
    let platform = Scripted::new([redirected(1200)]);
    for (time, client, fresh) in [
        (0, "192.0.2.1", true),
        (5, "192.0.2.1", true),
        (31, "192.0.2.2", false),
        (5, "192.0.2.2", true),
    ] {
        platform.advance(Duration::from_secs(time));
        if fresh {
            platform.add_answers([redirected(1200)]);
        }
        send(&Mirror::new(platform.clone()), by(client)).await;
        assert_eq!(
            platform.sent().len(),
            usize::from(fresh),
            "{client} after {time}"
        );
    }
}

#[tokio::test]
async fn a_client_that_fetches_a_blob_in_parts_does_not_come_back() {
    let platform = Scripted::new([redirected(1200)]);
    let mirror = Mirror::new(platform.clone());
    for part in 0..20 {
        platform.advance(Duration::from_secs(6));
        let request = from_client("192.0.2.1").header("range", format!("bytes={part}00-{part}99"));
        let received = send(&mirror, request.body(()).unwrap()).await;
        assert_eq!(received.status(), 307);
    }
    assert_eq!(platform.sent().len(), 1);
}

#[tokio::test]
async fn clients_behind_one_address_cost_a_request_every_five_seconds_at_most() {
    let platform = Scripted::new([redirected(1200)]);
    let mirror = Mirror::new(platform.clone());
    for _ in 0..600 {
        platform.add_answers([redirected(1200)]);
        assert_eq!(send(&mirror, by("192.0.2.1")).await.status(), 307);
        platform.advance(Duration::from_millis(100));
    }
    assert_eq!(platform.sent().len(), 12);
}

#[tokio::test]
async fn conditions_are_the_upstreams_to_judge() {
    let platform = Scripted::new([redirected(1200)]);
    let mirror = Mirror::new(platform.clone());
    send(&mirror, by("192.0.2.1")).await;
    let conditional = from_client("192.0.2.2").header("if-none-match", "\"x\"");
    platform.add_answers([answer(304, &[], "")]);
    let received = send(&mirror, conditional.body(()).unwrap()).await;
    assert_eq!(summary(&received), (304, None, None));
    let resumed = from_client("192.0.2.3")
        .header("range", "bytes=5-")
        .header("if-range", "\"x\"");
    let received = send(&mirror, resumed.body(()).unwrap()).await;
    assert_eq!(received.header("cache-status"), HIT);
}

#[tokio::test]
async fn nothing_is_remembered_where_blobs_are_streamed() {
    for (variable, value, prefix) in [
        ("blob_delivery", "stream", ""),
        ("secret", "0123456789abcdef", "/0123456789abcdef"),
    ] {
        let platform = Scripted::new([redirected(1200)]);
        send(&Mirror::new(platform.clone()), by("192.0.2.1")).await;
        let stored = platform.store();
        platform.set_variable(variable, value);
        let bytes = || answer(200, &[], "bytes");
        platform.add_answers([redirected(1200), bytes(), redirected(1200), bytes()]);
        let mirror = Mirror::new(platform.clone());
        for _ in 0..2 {
            let received = send(&mirror, get(&format!("{prefix}{}", blob()))).await;
            assert_eq!(
                (received.status(), received.text().as_str()),
                (200, "bytes")
            );
        }
        assert_eq!(platform.sent().len(), 5);
        assert_eq!(platform.store(), stored);
    }
}

#[tokio::test]
async fn a_closed_repository_or_upstream_is_refused_before_what_is_remembered() {
    for (variable, value, query) in [
        ("denied_repositories", "library/alpine", ""),
        ("allowed_repositories", "library/ubuntu", ""),
        (
            "denied_upstreams",
            "other.example",
            "?upstream=other.example",
        ),
    ] {
        let platform = Scripted::new([redirected(1200)]);
        let path = format!("{}{query}", blob());
        assert_eq!(
            send(&Mirror::new(platform.clone()), get(&path))
                .await
                .status(),
            307
        );
        platform.set_variable(variable, value);
        let received = send(&Mirror::new(platform.clone()), get(&path)).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (403, "DENIED"),
            "{variable}"
        );
    }
}

#[tokio::test]
async fn a_blob_that_is_gone_or_private_is_forgotten_and_a_fault_forgets_nothing() {
    let location = signed("cdn.example", 1200);
    let stale = Some("hammal; fwd=stale; detail=upstream-failed");
    for (status, expected, forgets) in [
        (404, (404, None, None), true),
        (403, (403, None, None), true),
        (500, (307, Some(&*location), stale), false),
        (429, (307, Some(&*location), stale), false),
    ] {
        let platform = Scripted::new([redirected(1200), answer(status, &[], "")]);
        let mirror = Mirror::new(platform.clone());
        send(&mirror, by("192.0.2.1")).await;
        platform.advance(Duration::from_secs(5));
        let received = send(&mirror, by("192.0.2.1")).await;
        assert_eq!(summary(&received), expected);
        platform.sent();
        platform.add_answers([redirected(1200)]);
        for instance in [mirror, Mirror::new(platform.clone())] {
            send(&instance, by("192.0.2.9")).await;
        }
        assert_eq!(platform.sent().len(), usize::from(forgets), "{status}");
    }
}

#[tokio::test]
async fn a_redirect_that_was_changed_in_the_store_is_judged_like_a_fresh_one() {
    let location = signed("cdn.example", 1200);
    for changed in [
        signed("mirror.example", 1200),
        location.replace("https://", "http://"),
        location.replace("https://", "javascript://"),
        location.replace("Expires", "Expired"),
        signed("cdn.example", 59),
        format!("https://cdn.example/{}?{location}", "x".repeat(2048)),
        location.replace("cdn.example", "cdn.example\\r\\nset-cookie: a=b"),
        "7".to_owned(),
    ] {
        let platform = Scripted::new([redirected(1200), redirected(1200)]);
        send(&Mirror::new(platform.clone()), by("192.0.2.1")).await;
        platform.change_store(|value| {
            let text = String::from_utf8(value.clone()).unwrap();
            *value = text.replace(&location, &changed).into_bytes();
        });
        platform.sent();
        let received = send(&Mirror::new(platform.clone()), by("192.0.2.2")).await;
        assert_eq!(
            summary(&received),
            (307, Some(&*location), MISS),
            "{changed}"
        );
        assert_eq!(platform.sent().len(), 1);
    }
}

#[tokio::test]
async fn a_name_of_the_mirror_is_never_redirected_to_itself() {
    let platform = Scripted::new([redirected(1200)]);
    let mirror = Mirror::new(platform.clone());
    send(&mirror, by("192.0.2.1")).await;
    // The mirror is asked by the name that the redirect leads to.
    let request = Request::get(format!("https://cdn.example{}", blob()));
    platform.add_answers([redirected(1200)]);
    let received = send(&mirror, request.body(()).unwrap()).await;
    assert_eq!(
        (received.status(), received.code().as_str()),
        (404, "BLOB_UNKNOWN")
    );
}

#[tokio::test]
async fn redirects_of_clients_upstreams_never_push_out_the_operators() {
    let platform = Scripted::new([redirected(1200)]);
    send(&Mirror::new(platform.clone()), by("192.0.2.1")).await;
    // More than all buckets hold.
    for number in 0..2000 {
        platform.add_answers([redirected(1200)]);
        let path = format!("/v2/a{number}/blobs/{DIGEST}?upstream=evil.example");
        assert_eq!(
            send(&Mirror::new(platform.clone()), get(&path))
                .await
                .status(),
            307
        );
    }
    platform.sent();
    let received = send(&Mirror::new(platform.clone()), by("192.0.2.2")).await;
    assert_eq!(received.header("cache-status"), HIT);
    let redirects = platform
        .store()
        .into_keys()
        .filter(|key| key.starts_with('b'))
        .count();
    assert_eq!(redirects, 32);
}

#[tokio::test]
async fn without_a_store_an_instance_remembers_for_itself() {
    let platform = Scripted::new([redirected(1200)]);
    platform.set_variable("store", "off");
    let mirror = Mirror::new(platform.clone());
    for cache in [MISS, HIT, HIT] {
        assert_eq!(
            send(&mirror, get(&blob())).await.header("cache-status"),
            cache
        );
    }
    assert_eq!(platform.store_calls(), 0);
}
