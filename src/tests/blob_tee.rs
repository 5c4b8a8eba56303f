//! Blobs that go through the mirror, and fill the blob store on the way.

use super::*;
use crate::platform::Platform as _;
use crate::platform::pipe::MAX_PIPE_BYTES;
use futures_util::future::join_all;

const CDN: &str = "https://cdn.example/signed";
const BYTES: &[u8] = b"the bytes of a layer";
/// The SHA-256 in [`DIGEST`].
const HEX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A client of a blob.
#[derive(Clone, Copy)]
enum Client {
    /// Takes each piece as it comes.
    Steady,
    /// Has all before the store takes anything.
    Fast,
    /// Goes away after so many pieces.
    Leaves(usize),
    /// Takes no second piece before the store is tired of it.
    Slow,
}

/// A mirror that streams blobs, with a store that has none and answers a `PUT` with `put`. The
/// delivery network sends `blob`.
fn mirror(put: fn() -> Answer, blob: fn() -> Answer) -> (Scripted, Mirror<Scripted>) {
    let (platform, mirror) = streaming([]);
    for (name, value) in [
        ("blob_store", "https://s3.example/bucket/"),
        ("blob_store_access_key", "access"),
        ("blob_store_secret_key", "secret"),
    ] {
        platform.set_variable(name, value);
    }
    platform.respond(move |request| match request.uri().host() {
        Some("s3.example") if *request.method() == http::Method::PUT => put(),
        Some("s3.example") => answer(404, &[], ""),
        Some("cdn.example") => blob(),
        _ => redirect(CDN),
    });
    (platform, mirror)
}

fn stored() -> Answer {
    answer(200, &[("etag", "\"etag\"")], "")
}

fn layer() -> Answer {
    let length = BYTES.len().to_string();
    let text = std::str::from_utf8(BYTES).unwrap();
    answer(200, &[("content-length", &length)], text)
}

/// Sends the response to a client as a platform does, and does the work that is left for
/// afterwards. Returns what the client got.
async fn deliver(mirror: &Mirror<Scripted>, request: Request<()>, client: Client) -> Vec<u8> {
    let response = mirror.handle(request).await;
    let mut received = Vec::new();
    match response.into_body() {
        Body::Buffered(bytes) | Body::Upstream(bytes) => received = bytes,
        Body::Teed(bytes, mut tee) => {
            let pieces = bytes.chunks(bytes.len().div_ceil(10).max(1));
            let count = match client {
                Client::Leaves(count) => count,
                _ => usize::MAX,
            };
            for piece in pieces.take(count) {
                received.extend_from_slice(piece);
                tee.pipe.write(piece);
                while matches!(client, Client::Slow) && tee.pipe.is_open() {
                    tee.beside(tokio::task::yield_now()).await;
                }
                if !matches!(client, Client::Fast) {
                    for _ in 0..5 {
                        tee.beside(tokio::task::yield_now()).await;
                    }
                }
            }
            tee.finish().await;
        }
    }
    mirror.platform.run_deferred().await;
    received
}

/// Returns the requests of a kind that were sent.
fn count(sent: &[String], start: &str) -> usize {
    sent.iter().filter(|one| one.starts_with(start)).count()
}

/// Returns the lines of the log about the store.
fn told(platform: &Scripted) -> Vec<String> {
    let mut lines = platform.log();
    lines.retain(|line| line.contains("blob_store="));
    lines
}

#[tokio::test]
async fn the_bytes_that_a_client_gets_fill_the_store() {
    let (platform, mirror) = mirror(stored, layer);
    assert_eq!(deliver(&mirror, get(&blob()), Client::Steady).await, BYTES);
    let requests = platform.requests();
    let put = requests
        .iter()
        .find(|one| *one.method() == http::Method::PUT);
    let headers = put.unwrap().headers();
    assert_eq!(headers["content-length"], BYTES.len().to_string());
    assert_eq!(headers["x-amz-content-sha256"], HEX);
    let hosts: Vec<_> = requests
        .iter()
        .map(|one| one.uri().host().unwrap())
        .collect();
    assert_eq!(
        hosts,
        [
            "s3.example",
            "registry-1.docker.io",
            "cdn.example",
            // Whether another instance was faster, and the upload.
            "s3.example",
            "s3.example"
        ]
    );
    assert_eq!(platform.uploads(), [BYTES]);
    let told = told(&platform);
    assert!(
        told.len() == 1 && told[0].contains("blob_store=kept"),
        "{told:?}"
    );
    assert!(
        told[0].contains("bytes=20 ") && told[0].ends_with("by=tee"),
        "{told:?}"
    );
    // The store is known to have it.
    mirror.handle(get(&blob())).await;
    assert_eq!(count(&platform.sent(), "HEAD https://s3.example"), 0);
}

#[tokio::test]
async fn a_client_gets_all_bytes_whatever_the_store_does() {
    let refused = || answer(507, &[], "<Error><Code>XMinioStorageFull</Code></Error>");
    let closed = || Err(TransportError::Connect);
    let broken = || Err(TransportError::Broken);
    let other_bytes = || {
        answer(
            400,
            &[],
            "<Error><Code>XAmzContentSHA256Mismatch</Code></Error>",
        )
    };
    for (put, word, rests) in [
        (
            refused as fn() -> Answer,
            "failed operation=put status=507",
            true,
        ),
        (closed, "failed operation=put status=none", true),
        (broken, "failed operation=put status=none", true),
        (other_bytes, "not_kept", false),
    ] {
        let (platform, mirror) = mirror(put, layer);
        assert_eq!(deliver(&mirror, get(&blob()), Client::Steady).await, BYTES);
        let sent = platform.sent();
        assert_eq!(
            (count(&sent, "PUT"), count(&sent, "GET https://cdn")),
            (1, 1),
            "{word}"
        );
        let told = told(&platform);
        assert!(told.len() == 1 && told[0].contains(word), "{told:?}");
        assert_eq!(deliver(&mirror, get(&blob()), Client::Steady).await, BYTES);
        let sent = platform.sent();
        assert_eq!(count(&sent, "PUT"), usize::from(!rests), "{word}");
        assert_eq!(count(&sent, "HEAD"), if rests { 0 } else { 2 }, "{word}");
    }
}

#[tokio::test]
async fn a_blob_is_copied_afterwards_where_the_store_is_slower_or_the_client_leaves() {
    let large = || {
        let length = MAX_PIPE_BYTES + 1;
        let headers = [("content-length", &*length.to_string())];
        answer(200, &headers, &"x".repeat(length))
    };
    for (blob_answer, client, length, hint) in [
        (
            large as fn() -> Answer,
            Client::Fast,
            MAX_PIPE_BYTES + 1,
            "the store is slower than the client",
        ),
        (layer, Client::Slow, 20, "the client is too slow"),
        (layer, Client::Leaves(0), 0, "the client went away"),
        (layer, Client::Leaves(1), 2, "the client went away"),
        (layer, Client::Leaves(9), 18, "the client went away"),
    ] {
        let (platform, mirror) = mirror(stored, blob_answer);
        let received = deliver(&mirror, get(&blob()), client).await;
        assert_eq!(received.len(), length, "{hint}");
        let sent = platform.sent();
        // Of what was broken off nothing is recorded.
        let uploads = platform.uploads();
        assert_eq!(uploads.len(), 1, "{hint}");
        assert_eq!(uploads[0], blob_answer().unwrap().into_body(), "{hint}");
        assert_eq!(count(&sent, "GET https://cdn"), 2, "{hint}");
        let told = told(&platform);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("blob_store=tee_given_up object=public/"),
            "{told:?}"
        );
        assert!(told[0].contains(hint), "{told:?}");
        assert!(told[1].ends_with("by=copy"), "{told:?}");
    }
}

#[tokio::test]
async fn a_small_blob_fills_the_store_also_after_a_fast_client_has_it() {
    let (platform, mirror) = mirror(stored, layer);
    assert_eq!(deliver(&mirror, get(&blob()), Client::Fast).await, BYTES);
    assert_eq!(platform.uploads(), [BYTES]);
    assert_eq!(count(&platform.sent(), "GET https://cdn"), 1);
}

#[tokio::test]
async fn only_whole_blobs_as_they_are_go_into_the_store() {
    let encoded = || {
        answer(
            200,
            &[("content-length", "2"), ("content-encoding", "gzip")],
            "xx",
        )
    };
    let without_length = || answer(200, &[], "xx");
    let part = || {
        answer(
            206,
            &[("content-length", "2"), ("content-range", "bytes 0-1/20")],
            "xx",
        )
    };
    let empty = || answer(200, &[("content-length", "0")], "");
    let too_large = || answer(200, &[("content-length", "1001")], "xx");
    for (blob_answer, range) in [
        (encoded as fn() -> Answer, None),
        (without_length, None),
        (part, None),
        (part, Some("bytes=0-1")),
        (layer, Some("bytes=0-1")),
        (empty, None),
        (too_large, None),
    ] {
        let (platform, mirror) = mirror(stored, blob_answer);
        platform.set_variable("blob_store_max_blob", "1000");
        let mut request = get(&blob());
        if let Some(range) = range {
            request
                .headers_mut()
                .insert("range", range.parse().unwrap());
        }
        let response = mirror.handle(request).await;
        assert!(
            !matches!(response.body(), Body::Teed(..)),
            "{:?}",
            response.headers()
        );
    }
    for (name, value) in [("blob_store", ""), ("blob_store_repositories", "ghcr.io/*")] {
        let (platform, mirror) = mirror(stored, layer);
        platform.set_variable(name, value);
        let response = mirror.handle(get(&blob())).await;
        assert!(matches!(response.body(), Body::Upstream(_)), "{name}");
    }
}

#[tokio::test]
async fn a_blob_that_is_too_large_is_not_asked_for_again() {
    let too_large = || answer(200, &[("content-length", "1001")], "xx");
    let (platform, mirror) = mirror(stored, too_large);
    platform.set_variable("blob_store_max_blob", "1000");
    deliver(&mirror, get(&blob()), Client::Steady).await;
    assert_eq!(count(&platform.sent(), "GET https://cdn"), 1);
}

#[tokio::test]
async fn one_of_many_clients_fills_the_store() {
    let (platform, mirror) = mirror(stored, layer);
    let clients = (0..40).map(|_| deliver(&mirror, get(&blob()), Client::Steady));
    for received in join_all(clients).await {
        assert_eq!(received, BYTES);
    }
    assert_eq!(platform.uploads(), [BYTES]);
    assert_eq!(count(&platform.sent(), "GET https://cdn"), 40);
}

#[tokio::test]
async fn a_few_blobs_fill_the_store_at_a_time_and_the_others_are_copied() {
    let (platform, mirror) = mirror(stored, layer);
    let mut teed = Vec::new();
    for number in 0..6 {
        let path = format!("/v2/library/alpine/blobs/sha256:{number:064}");
        let response = mirror.handle(get(&path)).await;
        if let Body::Teed(_, tee) = response.into_body() {
            teed.push(tee);
        }
    }
    assert_eq!(teed.len(), 4);
    for tee in teed {
        tee.pipe.write(BYTES);
        tee.finish().await;
    }
    platform.run_deferred().await;
    assert_eq!(platform.uploads(), [BYTES; 6]);
    let told = told(&platform);
    assert_eq!(
        told.iter().filter(|line| line.ends_with("by=tee")).count(),
        4
    );
    assert_eq!(
        told.iter().filter(|line| line.ends_with("by=copy")).count(),
        2
    );
}

#[tokio::test]
async fn a_blob_that_another_instance_copies_is_not_uploaded() {
    let (platform, mirror) = mirror(stored, layer);
    let object = format!("public/blobs/https/registry-1.docker.io/library/alpine/sha256/{HEX}");
    let ledger = format!("16666 0\n{object} 7 1000050\n");
    platform.save("copies1", ledger.into_bytes()).await.unwrap();
    assert_eq!(deliver(&mirror, get(&blob()), Client::Steady).await, BYTES);
    assert_eq!(platform.uploads(), [[0; 0]; 0]);
    assert_eq!(told(&platform), [""; 0]);
}

#[tokio::test]
async fn an_upload_whose_claim_another_instance_overwrote_is_broken_off() {
    let object = format!("public/blobs/https/registry-1.docker.io/library/alpine/sha256/{HEX}");
    let of_this = format!("16666 0\n{object} 7 1000050\n");
    for (ledger, uploads, lines) in [
        // Another has the blob.
        (of_this, vec![], vec![]),
        // Others have the places.
        (
            "16666 0\na 1 1000030\nb 2 1000030\nc 3 1000030\nd 4 1000030\n".to_owned(),
            vec![BYTES],
            vec!["too much is copied now", "by=copy"],
        ),
        (String::new(), vec![BYTES], vec!["too much", "by=copy"]),
    ] {
        let (platform, mirror) = mirror(stored, layer);
        let response = mirror.handle(get(&blob())).await;
        let Body::Teed(bytes, mut tee) = response.into_body() else {
            panic!("a body that fills the store");
        };
        tee.pipe.write(&bytes);
        tee.beside(tokio::task::yield_now()).await;
        assert!(platform.store()["copies1"].len() > 30, "a claim");
        let ledger = ledger.into_bytes();
        platform.save("copies1", ledger).await.unwrap();
        tee.finish().await;
        platform.run_deferred().await;
        assert_eq!(platform.uploads(), uploads);
        let told = told(&platform);
        assert_eq!(told.len(), lines.len(), "{told:?}");
        for (line, text) in told.iter().zip(lines) {
            assert!(line.contains(text), "{line}");
        }
    }
}

#[tokio::test]
async fn an_upload_is_broken_off_where_another_instance_was_faster() {
    let (platform, mirror) = mirror(stored, layer);
    let response = mirror.handle(get(&blob())).await;
    let Body::Teed(bytes, tee) = response.into_body() else {
        panic!("a body that fills the store");
    };
    platform.respond(|_| answer(200, &[("etag", "\"etag\""), ("content-length", "20")], ""));
    tee.pipe.write(&bytes);
    tee.finish().await;
    platform.run_deferred().await;
    assert_eq!(platform.uploads(), [[0; 0]; 0]);
    assert_eq!(told(&platform), [""; 0]);
}

#[tokio::test]
async fn a_slow_client_makes_room_where_others_wait() {
    const LENGTH: usize = 4 << 20;
    let large = || {
        let bytes = "x".repeat(LENGTH);
        answer(200, &[("content-length", &LENGTH.to_string())], &bytes)
    };
    let others = "a 1 1000090\nb 2 1000090\nc 3 1000090\n";
    for (others, seconds) in [("", 10), (others, 5)] {
        let (platform, mirror) = mirror(stored, large);
        let ledger = format!("16666 0\n{others}");
        platform.save("copies1", ledger.into_bytes()).await.unwrap();
        let begun = platform.now();
        let response = mirror.handle(get(&blob())).await;
        let Body::Teed(bytes, mut tee) = response.into_body() else {
            panic!("a body that fills the store");
        };
        // Within the first five seconds; nothing after that.
        tee.pipe.write(&bytes[..LENGTH / 2]);
        while tee.pipe.is_open() {
            tee.beside(tokio::task::yield_now()).await;
        }
        let passed = (platform.now() - begun).as_secs();
        assert_eq!(passed, seconds, "{others}");
    }
}

#[tokio::test]
async fn what_a_client_did_not_take_is_not_counted() {
    let (platform, mirror) = mirror(stored, layer);
    platform.set_variable("blob_store_bytes_per_minute", "1000");
    deliver(&mirror, get(&blob()), Client::Leaves(5)).await;
    assert_eq!(platform.uploads(), [BYTES]);
    // Ten by the client that left, and all by the copy.
    let ledger = String::from_utf8(platform.store()["copies1"].clone()).unwrap();
    assert!(ledger.trim_end().ends_with(" 30"), "{ledger}");
}

#[tokio::test]
async fn the_bytes_of_a_minute_hold_for_what_clients_get_too() {
    let (platform, mirror) = mirror(stored, layer);
    platform.set_variable("blob_store_bytes_per_minute", "20");
    for number in 0..2 {
        let path = format!("/v2/library/alpine/blobs/sha256:{number:064}");
        deliver(&mirror, get(&path), Client::Steady).await;
    }
    // The second waits for the next minute, and is copied then.
    let told = told(&platform);
    assert!(
        told[0].ends_with("by=tee") && told[1].ends_with("by=copy"),
        "{told:?}"
    );
    assert!(
        platform.now() >= Duration::from_secs(1_000_020),
        "the next minute"
    );
}
