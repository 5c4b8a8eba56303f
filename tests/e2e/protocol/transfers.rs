//! Bodies: complete, in ranges, cut off, and streamed without a copy in memory.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use crate::support::mirror::{Mirror, Options};
use test_support::hub::{Hub, Service};
use test_support::image::{Content, INDEX, digest};
use test_support::server::{Reply, ScriptedBody, Server};

const MIB: usize = 1024 * 1024;

/// A registry that serves its blobs itself.
async fn direct() -> HubFixture {
    let fixture = HubFixture::start().await;
    fixture.hub.serve_blobs_directly();
    fixture
}

#[tokio::test]
async fn a_blob_is_served_with_its_headers() {
    let fixture = direct().await;
    let layer = &fixture.image.native().layers[0];
    let response = fixture
        .mirror
        .get(&fixture.layer())
        .send()
        .await
        .expect(200);
    assert_eq!(response.body, layer.bytes);
    assert_eq!(
        response.header("content-length"),
        Some(&*layer.bytes.len().to_string())
    );
    assert_eq!(
        response.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(
        response.header("docker-content-digest"),
        Some(&*layer.digest)
    );
    assert_eq!(
        response.header("etag"),
        Some(&*format!("\"{}\"", layer.digest))
    );
    assert_eq!(response.header("accept-ranges"), Some("bytes"));
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
}

#[tokio::test]
async fn head_of_a_blob_has_the_length_and_no_body() {
    let fixture = direct().await;
    let layer = &fixture.image.native().layers[0];
    let response = fixture
        .mirror
        .head(&fixture.layer())
        .send()
        .await
        .expect(200);
    assert_eq!(
        response.header("content-length"),
        Some(&*layer.bytes.len().to_string())
    );
    assert!(response.body.is_empty());
    assert!(
        fixture
            .hub
            .received(Service::Registry)
            .iter()
            .all(|received| received.method == "HEAD")
    );
}

#[tokio::test]
async fn a_range_is_a_206_with_its_content_range() {
    let fixture = direct().await;
    let bytes = &fixture.image.native().layers[0].bytes;
    let length = bytes.len();
    let cases = [
        ("bytes=100-".to_string(), 100..length),
        ("bytes=0-0".to_string(), 0..1),
        (format!("bytes=10-{}", length * 2), 10..length),
        ("bytes=-7".to_string(), length - 7..length),
    ];
    for (range, expected) in cases {
        let response = fixture
            .mirror
            .get(&fixture.layer())
            .header("range", &range)
            .send()
            .await
            .expect(206);
        assert_eq!(response.body, bytes.slice(expected.clone()), "{range}");
        let content_range = format!("bytes {}-{}/{length}", expected.start, expected.end - 1);
        assert_eq!(
            response.header("content-range"),
            Some(&*content_range),
            "{range}"
        );
        assert_eq!(
            response.header("content-length"),
            Some(&*expected.len().to_string()),
            "{range}"
        );
    }
}

#[tokio::test]
async fn a_range_past_the_end_is_a_416_with_the_length() {
    let fixture = direct().await;
    let length = fixture.image.native().layers[0].bytes.len();
    let range = format!("bytes={length}-");
    let response = fixture
        .mirror
        .get(&fixture.layer())
        .header("range", range)
        .send()
        .await
        .expect(416);
    assert_eq!(
        response.header("content-range"),
        Some(&*format!("bytes */{length}"))
    );
}

#[tokio::test]
async fn a_matching_etag_is_a_304() {
    let fixture = direct().await;
    let manifest = &fixture.image.index;
    for (target, content) in [
        (MANIFEST_PATH.to_owned(), manifest),
        (fixture.layer(), &fixture.image.native().layers[0]),
    ] {
        let etag = format!("\"{}\"", content.digest);
        let request = fixture
            .mirror
            .get(&target)
            .accept_manifests()
            .header("if-none-match", &etag);
        let response = request.send().await.expect(304);
        assert!(response.body.is_empty(), "{target}");
        assert_eq!(response.header("etag"), Some(&*etag), "{target}");
    }
}

#[tokio::test]
async fn a_chunked_body_is_complete() {
    let server = Server::plain("127.0.0.1", |_| {
        // hyper sends a body of unknown length in chunks.
        let body = ScriptedBody::default()
            .data("first ")
            .pause(Duration::from_millis(20))
            .data("second");
        Reply::streamed(200, &[("content-type", "application/octet-stream")], body)
    })
    .await;
    let mirror = Mirror::with_upstream(server.address).await;
    let response = mirror
        .get(&format!("/v2/a/b/blobs/{}", digest(b"first second")))
        .send()
        .await
        .expect(200);
    assert_eq!(response.text(), "first second");
}

#[tokio::test]
async fn a_large_blob_is_streamed_at_the_pace_of_the_client() {
    const SIZE: usize = 256 * MIB;
    let hub = Hub::start().await;
    let piece = Bytes::from(vec![7; MIB / 16]);
    let counter = std::sync::Arc::new(std::sync::Mutex::new(None));
    let shared = std::sync::Arc::clone(&counter);
    hub.script(move |service, received| {
        let wanted = service == Service::Registry && received.path().contains("/blobs/");
        wanted.then(|| {
            let body = (0..SIZE / piece.len())
                .fold(ScriptedBody::default(), |body, _| body.data(piece.clone()));
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

    // The client stops reading after the first frame: the mirror and the upstream must stop too.
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
        .expect("a body");
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
async fn a_body_cut_off_upstream_is_cut_off_for_the_client() {
    let server = Server::plain("127.0.0.1", |_| {
        let body = ScriptedBody::default().data(vec![1; 1000]).then_break();
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
    let mirror = Mirror::with_upstream(server.address).await;
    let target = format!("/v2/a/b/blobs/{}", digest(b"whatever"));
    let outcome = mirror.get(&target).try_send().await;
    assert!(
        outcome.is_err(),
        "a body that was cut off looks complete: {outcome:?}"
    );
    mirror.get("/v2/").send().await.expect(200);
}

#[tokio::test]
async fn a_body_that_stalls_upstream_is_cut_off() {
    let server = Server::plain("127.0.0.1", |_| {
        Reply::streamed(
            200,
            &[("content-length", "5000")],
            ScriptedBody::default().data(vec![1; 1000]).hang(),
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
    let response = fixture
        .mirror
        .get(&fixture.blob(&empty.digest))
        .send()
        .await
        .expect(200);
    assert_eq!(response.header("content-length"), Some("0"));
}

/// Written separately, the body would wait for the client's delayed acknowledgement of the head
/// where the server leaves Nagle's algorithm on: 40 ms with Spin.
#[tokio::test]
async fn a_manifest_and_its_headers_are_sent_together() {
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
        let mut response = Vec::with_capacity(64 * 1024);
        let mut pieces = 0;
        while !response.ends_with(&fixture.image.index.bytes) {
            let read =
                tokio::time::timeout(Duration::from_secs(10), connection.read_buf(&mut response))
                    .await;
            assert_ne!(
                read.expect("a response in time").expect("no fault"),
                0,
                "{}",
                String::from_utf8_lossy(&response)
            );
            pieces += 1;
        }
        whole += usize::from(pieces == 1);
    }
    assert!(whole > 20, "{whole} of 40 responses came in one piece");
}

#[tokio::test]
async fn a_redirect_before_the_challenge_is_not_followed() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let digest = &image.native().layers[0].digest;
    let location = hub.blob_url(digest);
    hub.script(move |service, _| {
        (service == Service::Registry).then(|| Reply::new(307, &[("location", &location)], ""))
    });
    let response = mirror
        .get(&format!("/v2/{NAME}/blobs/{digest}"))
        .send()
        .await
        .expect(307);
    assert!(response.body.is_empty());
    assert!(
        hub.received(Service::Cdn).is_empty(),
        "{:?}",
        hub.requests()
    );
}
