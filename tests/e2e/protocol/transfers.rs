//! Bodies come through as they are: whole, in ranges, not at all, and never by way of the mirror's memory.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use crate::support::mirror::Options;
use test_support::hub::{Hub, Place};
use test_support::image::{Content, INDEX, digest};
use test_support::server::{Pieces, Reply, Server};

const MIB: usize = 1024 * 1024;

/// A registry that serves its blobs itself.
async fn direct() -> HubFixture {
    let fixture = HubFixture::start().await;
    fixture.hub.serve_blobs_directly();
    fixture
}

#[tokio::test]
async fn a_blob_comes_whole_with_its_headers() {
    let fixture = direct().await;
    let layer = &fixture.image.here().layers[0];
    let answer = fixture
        .mirror
        .get(&fixture.layer())
        .send()
        .await
        .expect(200);
    assert_eq!(answer.body, layer.bytes);
    assert_eq!(
        answer.header("content-length"),
        Some(&*layer.bytes.len().to_string())
    );
    assert_eq!(
        answer.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(answer.header("docker-content-digest"), Some(&*layer.digest));
    assert_eq!(
        answer.header("etag"),
        Some(&*format!("\"{}\"", layer.digest))
    );
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
}

#[tokio::test]
async fn head_of_a_blob_has_the_length_and_no_body() {
    let fixture = direct().await;
    let layer = &fixture.image.here().layers[0];
    let answer = fixture
        .mirror
        .head(&fixture.layer())
        .send()
        .await
        .expect(200);
    assert_eq!(
        answer.header("content-length"),
        Some(&*layer.bytes.len().to_string())
    );
    assert!(answer.body.is_empty());
    assert!(
        fixture
            .hub
            .seen(Place::Registry)
            .iter()
            .all(|seen| seen.method == "HEAD")
    );
}

#[tokio::test]
async fn a_range_is_a_206_with_its_content_range() {
    let fixture = direct().await;
    let bytes = &fixture.image.here().layers[0].bytes;
    let length = bytes.len();
    let cases = [
        ("bytes=100-".to_string(), 100..length),
        ("bytes=0-0".to_string(), 0..1),
        (format!("bytes=10-{}", length * 2), 10..length),
        ("bytes=-7".to_string(), length - 7..length),
    ];
    for (range, expected) in cases {
        let answer = fixture
            .mirror
            .get(&fixture.layer())
            .header("range", &range)
            .send()
            .await
            .expect(206);
        assert_eq!(answer.body, bytes.slice(expected.clone()), "{range}");
        let content_range = format!("bytes {}-{}/{length}", expected.start, expected.end - 1);
        assert_eq!(
            answer.header("content-range"),
            Some(&*content_range),
            "{range}"
        );
        assert_eq!(
            answer.header("content-length"),
            Some(&*expected.len().to_string()),
            "{range}"
        );
    }
}

#[tokio::test]
async fn a_range_past_the_end_is_a_416_with_the_length() {
    let fixture = direct().await;
    let length = fixture.image.here().layers[0].bytes.len();
    let range = format!("bytes={length}-");
    let answer = fixture
        .mirror
        .get(&fixture.layer())
        .header("range", range)
        .send()
        .await
        .expect(416);
    assert_eq!(
        answer.header("content-range"),
        Some(&*format!("bytes */{length}"))
    );
}

#[tokio::test]
async fn what_the_client_has_already_is_a_304() {
    let fixture = direct().await;
    let manifest = &fixture.image.index;
    for (target, content) in [
        (MANIFEST_PATH.to_owned(), manifest),
        (fixture.layer(), &fixture.image.here().layers[0]),
    ] {
        let etag = format!("\"{}\"", content.digest);
        let request = fixture
            .mirror
            .get(&target)
            .accept_manifests()
            .header("if-none-match", &etag);
        let answer = request.send().await.expect(304);
        assert!(answer.body.is_empty(), "{target}");
        assert_eq!(answer.header("etag"), Some(&*etag), "{target}");
    }
}

#[tokio::test]
async fn a_chunked_body_comes_whole() {
    let server = Server::plain("127.0.0.1", |_| {
        // Without a length known beforehand hyper sends chunks.
        let body = Pieces::default()
            .data("first ")
            .pause(Duration::from_millis(20))
            .data("second");
        Reply::streamed(200, &[("content-type", "application/octet-stream")], body)
    })
    .await;
    let mirror = crate::support::mirror::Mirror::of(server.address).await;
    let answer = mirror
        .get(&format!("/v2/a/b/blobs/{}", digest(b"first second")))
        .send()
        .await
        .expect(200);
    assert_eq!(answer.text(), "first second");
}

#[tokio::test]
async fn a_large_blob_is_streamed_at_the_pace_of_the_client() {
    const SIZE: usize = 256 * MIB;
    let hub = Hub::start().await;
    let piece = Bytes::from(vec![7; MIB / 16]);
    let counter = std::sync::Arc::new(std::sync::Mutex::new(None));
    let shared = std::sync::Arc::clone(&counter);
    hub.script(move |place, seen| {
        let wanted = place == Place::Registry && seen.path().contains("/blobs/");
        wanted.then(|| {
            let body =
                (0..SIZE / piece.len()).fold(Pieces::default(), |body, _| body.data(piece.clone()));
            *shared.lock().expect("the counter") = Some(body.counter());
            Reply::streamed(200, &[("content-length", &SIZE.to_string())], body)
        })
    });
    let mirror = Options::default().upstream(hub.address()).start().await;
    let target = format!("/v2/{NAME}/blobs/{}", digest(b"anything"));
    let (head, mut body) = mirror
        .get(&target)
        .open()
        .await
        .expect("a head")
        .into_parts();
    assert_eq!(head.headers["content-length"], SIZE.to_string());

    // The client stops reading after the first piece: so must everybody before it.
    let mut read = body
        .frame()
        .await
        .expect("a frame")
        .expect("data")
        .into_data()
        .expect("data")
        .len();
    let sent = counter
        .lock()
        .expect("the counter")
        .clone()
        .expect("a body was begun");
    let mut last = 0;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = sent.load(Ordering::SeqCst);
        if now == last {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "still sending after {now} bytes, to a client that doesn't read"
        );
        last = now;
    }
    assert!(
        last < 64 * MIB as u64,
        "{last} bytes were taken for a client that read {read}"
    );

    while let Some(frame) = body.frame().await {
        read += frame.expect("data").into_data().expect("data").len();
    }
    assert_eq!(read, SIZE);
}

#[tokio::test]
async fn a_body_that_breaks_off_upstream_breaks_off_here() {
    let server = Server::plain("127.0.0.1", |_| {
        let body = Pieces::default().data(vec![1; 1000]).then_break();
        Reply::streamed(
            200,
            &[
                ("content-length", "5000"),
                ("content-type", "application/octet-stream"),
            ],
            body,
        )
    })
    .await;
    let mirror = crate::support::mirror::Mirror::of(server.address).await;
    let target = format!("/v2/a/b/blobs/{}", digest(b"whatever"));
    let outcome = mirror.get(&target).try_send().await;
    assert!(
        outcome.is_err(),
        "a short body must not look like a whole one: {outcome:?}"
    );
    mirror.get("/v2/").send().await.expect(200);
}

#[tokio::test]
async fn a_body_that_stalls_upstream_is_cut_off() {
    let server = Server::plain("127.0.0.1", |_| {
        Reply::streamed(
            200,
            &[("content-length", "5000")],
            Pieces::default().data(vec![1; 1000]).hang(),
        )
    })
    .await;
    let options = Options::default()
        .upstream(server.address)
        .variable("between_bytes_timeout", 1);
    let mirror = options.start().await;
    let outcome = mirror
        .get(&format!("/v2/a/b/blobs/{}", digest(b"whatever")))
        .try_send()
        .await;
    assert!(outcome.is_err(), "{outcome:?}");
}

#[tokio::test]
async fn an_empty_blob_has_a_length_of_zero() {
    let fixture = direct().await;
    let empty = Content::new("application/octet-stream", "");
    fixture.hub.push_blob(NAME, &empty);
    let answer = fixture
        .mirror
        .get(&fixture.blob(&empty.digest))
        .send()
        .await
        .expect(200);
    assert_eq!(answer.header("content-length"), Some("0"));
}

/// In two pieces, the second waits for the client's delayed acknowledgement of the first where the server does not turn
/// Nagle's algorithm off: 40 ms on a real Spin.
#[tokio::test]
async fn the_head_and_the_body_of_a_manifest_leave_in_one_piece() {
    let fixture = HubFixture::start().await;
    let address = fixture.mirror.address();
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: {address}\r\naccept: {INDEX}\r\n\r\n",
        MANIFEST_PATH
    );
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    let mut whole = 0;
    for _ in 0..40 {
        connection
            .write_all(request.as_bytes())
            .await
            .expect("written");
        let mut answer = Vec::with_capacity(64 * 1024);
        let mut pieces = 0;
        while !answer.ends_with(&fixture.image.index.bytes) {
            let read =
                tokio::time::timeout(Duration::from_secs(10), connection.read_buf(&mut answer))
                    .await;
            assert_ne!(
                read.expect("an answer in time").expect("no fault"),
                0,
                "{}",
                String::from_utf8_lossy(&answer)
            );
            pieces += 1;
        }
        whole += usize::from(pieces == 1);
    }
    assert!(whole > 20, "{whole} of 40 answers came in one piece");
}

#[tokio::test]
async fn a_redirect_before_the_challenge_is_not_followed() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let digest = &image.here().layers[0].digest;
    let location = hub.blob_url(digest);
    hub.script(move |place, _| {
        (place == Place::Registry).then(|| Reply::new(307, &[("location", &location)], ""))
    });
    let answer = mirror
        .get(&format!("/v2/{NAME}/blobs/{digest}"))
        .send()
        .await
        .expect(307);
    assert!(answer.body.is_empty());
    assert!(hub.seen(Place::Cdn).is_empty(), "{:?}", hub.lines());
}
