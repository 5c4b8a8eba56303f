//! One client that takes what it can, from 127.0.0.9, while another, from 127.0.0.1, pulls.
//!
//! The limits are those of the embedded host, so these are not run on Spin.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::attacker::{
    connect, get, http2, http2_request, large_manifest, never_answer_slow,
};
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH};
use crate::support::mirror::{Mirror, is_spin};
use crate::support::{skip, wait_for};
use test_support::hub::Service;
use test_support::server::{Reply, ScriptedBody};

/// Bytes by which the memory of the host may grow for one client.
const MAX_GROWTH: u64 = 256 * 1024 * 1024;

/// Within which time an exchange ends that nobody waits for.
const END_OF_EXCHANGES: Duration = Duration::from_secs(8);

/// Requests with the component that the host admits at one time for one client: 32 MiB at 4 MiB.
const TURNS: usize = 8;

fn is_skipped() -> bool {
    if is_spin() {
        skip("the limits are those of the embedded host");
    }
    is_spin()
}

/// Pulls as another client does, some times, and returns the longest time that it took.
async fn pull(mirror: &Mirror) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let start = Instant::now();
        mirror.get_manifest(MANIFEST_PATH).await.expect(200);
        longest = longest.max(start.elapsed());
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_manifests_over_http2_take_little_memory() {
    if is_skipped() {
        return;
    }
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    hub.script(|_, received| large_manifest(received));
    let before = mirror.resident();
    let mut most = before;
    let mut connections = Vec::new();
    for number in 0..6 {
        let mut sender = http2(mirror.address(), 0).await;
        for tag in 0..60 {
            let target = format!("/v2/team/large/manifests/{number}-{tag}");
            let response = sender.send_request(http2_request(&target));
            tokio::spawn(async move {
                // The head may come; the body is never read.
                let Ok(response) = response.await else {
                    return;
                };
                pending::<()>().await;
                drop(response);
            });
        }
        connections.push(sender);
    }
    for _ in 0..20 {
        assert!(pull(&mirror).await < Duration::from_secs(5));
        most = most.max(mirror.resident());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let growth = most - before;
    println!("unread manifests: {} MiB", growth >> 20);
    assert!(growth < MAX_GROWTH, "{} MiB", growth >> 20);
    // While others of the same client wait, a connection that takes nothing is closed. Each waits
    // for 10 s, so new ones come in.
    let mut late = Vec::new();
    let ends = async {
        while !connections.iter().any(SendRequest::is_closed) {
            let mut sender = http2(mirror.address(), 0).await;
            for tag in 0..40 {
                let target = format!("/v2/team/large/manifests/late-{}-{tag}", late.len());
                tokio::spawn(sender.send_request(http2_request(&target)));
            }
            late.push(sender);
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    };
    let closed = tokio::time::timeout(Duration::from_secs(60), ends).await;
    closed.expect("the end of a connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_blobs_take_little_memory() {
    if is_skipped() {
        return;
    }
    let fixture = HubFixture::with(|options| options.variable("blob_delivery", "stream")).await;
    let (mirror, hub) = (&fixture.mirror, &fixture.hub);
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    let blob = fixture.layer();
    hub.respond_from(Service::Cdn, |_| {
        let piece = Bytes::from(vec![7; 256 * 1024]);
        let body = (0..256).fold(ScriptedBody::default(), |body, _| body.data(piece.clone()));
        Reply::streamed(200, &[("content-type", "application/octet-stream")], body)
    });
    let before = mirror.resident();
    let mut most = before;
    let mut unread = Vec::new();
    for _ in 0..400 {
        unread.push(get(mirror.address(), &blob).await);
    }
    for _ in 0..20 {
        assert!(pull(mirror).await < Duration::from_secs(5));
        most = most.max(mirror.resident());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let growth = most - before;
    println!("unread blobs: {} MiB", growth >> 20);
    assert!(growth < MAX_GROWTH, "{} MiB", growth >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_clients_that_hang_up_are_counted_and_cancelled_upstream() {
    if is_skipped() {
        return;
    }
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    let (open, most) = never_answer_slow(&hub);
    // Aborted HTTP/1.1 requests, and streams that are reset.
    let mut sender = http2(mirror.address(), 65_535).await;
    for number in 0..600 {
        let target = format!("/v2/team/slow/manifests/{number}");
        drop(get(mirror.address(), &target).await);
        let response = sender.send_request(http2_request(&target));
        if sender.is_closed() {
            sender = http2(mirror.address(), 65_535).await;
        }
        let _ = tokio::time::timeout(Duration::from_millis(1), response).await;
    }
    assert!(pull(&mirror).await < Duration::from_secs(5));
    let peak = most.load(Ordering::SeqCst);
    // The registry may not have seen the end of one yet when the next begins.
    assert!((1..=TURNS * 2).contains(&peak), "{peak} at one time");
    drop(sender);
    let start = Instant::now();
    wait_for("the end of the exchanges", || {
        open.load(Ordering::SeqCst) == 0
    })
    .await;
    assert!(start.elapsed() < END_OF_EXCHANGES, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_leaves_the_mirror_to_others() {
    if is_skipped() {
        return;
    }
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    let (_, most) = never_answer_slow(&hub);
    let mut requests = Vec::new();
    for connection in 0..10 {
        let mut sender = http2(mirror.address(), 65_535).await;
        for number in 0..60 {
            let target = format!("/v2/team/slow/manifests/{connection}-{number}");
            requests.push(tokio::spawn(sender.send_request(http2_request(&target))));
        }
        requests.push(tokio::spawn(async move {
            pending::<()>().await;
            drop(sender);
            unreachable!()
        }));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(pull(&mirror).await < Duration::from_secs(5));
    let peak = most.load(Ordering::SeqCst);
    assert!((1..=TURNS).contains(&peak), "{peak} at one time");
    // Those that find no place in the queue are told at once, in a form that clients understand.
    let mut extra = get(mirror.address(), "/v2/team/slow/manifests/extra").await;
    let mut text = vec![0; 4096];
    let read = extra.read(&mut text).await.expect("a response");
    let text = String::from_utf8_lossy(&text[..read]).into_owned();
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert!(
        text.contains("retry-after: 5") && text.contains("UNAVAILABLE"),
        "{text}"
    );
    for request in requests {
        request.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_limit_is_exact_within_one_host() {
    if is_skipped() {
        return;
    }
    let fixture = HubFixture::with(|options| options.variable("client_limit", 60)).await;
    let mirror = &fixture.mirror;
    // All within one minute, on fewer connections than one client may have.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    if now.as_secs() % 60 > 40 {
        tokio::time::sleep(Duration::from_secs(60 - now.as_secs() % 60)).await;
    }
    let requests: Vec<_> = (0..200)
        .map(|_| tokio::spawn(mirror.get(MANIFEST_PATH).accept_manifests().send()))
        .collect();
    let mut served = 0;
    for request in requests {
        let response = request.await.expect("a response");
        if response.status == 200 {
            served += 1;
        } else {
            response.expect_error(429, "TOOMANYREQUESTS");
        }
    }
    assert_eq!(served, 60);
}

#[tokio::test]
async fn connections_of_one_client_are_limited() {
    if is_skipped() {
        return;
    }
    let HubFixture { mirror, .. } = HubFixture::start().await;
    let mut open = Vec::new();
    for _ in 0..300 {
        open.push(connect(mirror.address()).await);
    }
    mirror.get("/v2/").send().await.expect(200);
    let mut closed = 0;
    for stream in &mut open {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(5), stream.read(&mut byte)).await;
        closed += usize::from(read.is_ok());
    }
    assert_eq!(closed, 300 - 256);
}

#[tokio::test]
async fn requests_without_exactly_one_host_are_refused_but_for_http10() {
    if is_skipped() {
        return;
    }
    let HubFixture { mirror, .. } = HubFixture::start().await;
    for (request, status) in [
        ("GET /v2/ HTTP/1.0\r\n\r\n", "200"),
        ("GET /v2/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "200"),
        ("GET /v2/ HTTP/1.1\r\n\r\n", "400"),
        (
            "GET /v2/ HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
            "400",
        ),
        (
            "GET /v2/ HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n",
            "400",
        ),
    ] {
        let mut stream = connect(mirror.address()).await;
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.expect("a response");
        assert_eq!(&head[9..], status.as_bytes(), "{request}");
    }
}

#[tokio::test]
async fn trailers_of_an_upstream_stay_here() {
    if is_skipped() {
        return;
    }
    let fixture = HubFixture::with(|options| options.variable("blob_delivery", "stream")).await;
    let raw = test_support::server::Server::raw(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\
         Transfer-Encoding: chunked\r\nTrailer: Set-Cookie\r\n\r\n\
         4\r\nblob\r\n0\r\nSet-Cookie: a=b\r\n\r\n",
    )
    .await;
    let mirror = crate::support::mirror::Options::default()
        .upstream(raw.address)
        .variable("blob_delivery", "stream")
        .start()
        .await;
    let mut sender = http2(mirror.address(), 65_535).await;
    let response = sender.send_request(http2_request(&fixture.layer())).await;
    let response: hyper::Response<Incoming> = response.expect("a response");
    assert_eq!(response.status(), 200);
    let collected = response.into_body().collect().await.expect("a body");
    assert_eq!(collected.trailers(), None);
    assert_eq!(collected.to_bytes(), "blob");
}

#[tokio::test]
async fn contradictory_lengths_of_an_upstream_are_well_formed_here() {
    if is_skipped() {
        return;
    }
    let fixture = HubFixture::start().await;
    // Faults of blobs are 404, on which clients go on to their next source.
    for (head, method, status) in [
        (
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nblob\r\n0\r\n\r\n",
            "GET",
            200,
        ),
        (
            "Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HEAD",
            404,
        ),
        ("Content-Length: 4, 4\r\n\r\n", "HEAD", 200),
    ] {
        let raw = test_support::server::Server::raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n{head}"
        ))
        .await;
        let mirror = Mirror::with_upstream(raw.address).await;
        let response = mirror.request(method, &fixture.layer()).send().await;
        assert_eq!(response.status, status, "{head:?}: {response:?}");
    }
}
