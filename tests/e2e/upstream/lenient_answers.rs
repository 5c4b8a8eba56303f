//! Registries that leave out what clients need, or say it only to a `GET`; and what of a registry
//! rests after which fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::mirror::{Mirror, Options};
use test_support::image::{INDEX, digest};
use test_support::server::{ReceivedRequest, Reply, Server};

const CONTENT: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
const MANIFEST: &str = "/v2/team/app/manifests/1.0";

fn content_for(received: &ReceivedRequest) -> &'static str {
    if received.method == "HEAD" {
        ""
    } else {
        CONTENT
    }
}

#[tokio::test]
async fn a_tag_without_a_digest_is_served_through_an_outage() {
    let server = Server::plain("127.0.0.1", |received| {
        Reply::new(200, &[("content-type", INDEX)], content_for(&received))
    })
    .await;
    let mut mirror = Mirror::with_upstream(server.address).await;
    let digest = digest(CONTENT.as_bytes());
    for _ in 0..2 {
        let received = mirror.get_manifest(MANIFEST).await.expect(200);
        assert_eq!(received.header("docker-content-digest"), Some(&*digest));
    }
    server.stop();
    // Where the store put it is found by the next process too.
    for _ in 0..2 {
        let received = mirror.get_manifest(MANIFEST).await.expect(200);
        assert_eq!(received.header("docker-content-digest"), Some(&*digest));
        assert_eq!(received.text(), CONTENT);
        mirror.restart().await;
    }
    server.stop();
}

#[tokio::test]
async fn a_manifest_in_a_bucket_goes_out_under_its_own_type() {
    for sent in [
        Some("text/plain"),
        Some("binary/octet-stream"),
        Some("application/octet-stream"),
        None,
    ] {
        let headers: Vec<(&str, &str)> = sent.iter().map(|it| ("content-type", *it)).collect();
        let server = Server::plain("127.0.0.1", move |received: ReceivedRequest| {
            let is_page = received.path().ends_with("/page");
            let body = if is_page {
                "<html>log in</html>"
            } else {
                CONTENT
            };
            let body = if received.method == "HEAD" { "" } else { body };
            Reply::new(200, &headers, body)
        })
        .await;
        for cache in ["on", "off"] {
            let options = Options::default().upstream(server.address);
            let mirror = options.variable("manifest_cache", cache).start().await;
            for method in ["HEAD", "GET"] {
                let request = mirror.request(method, MANIFEST).accept_manifests();
                let received = request.send().await.expect(200);
                assert_eq!(
                    received.header("content-type"),
                    Some(INDEX),
                    "{sent:?} {method}"
                );
                assert_eq!(
                    received.header("content-length"),
                    Some("34"),
                    "{sent:?} {method}"
                );
                assert_eq!(received.header("x-content-type-options"), Some("nosniff"));
            }
            let page = mirror.get_manifest("/v2/team/app/manifests/page").await;
            page.expect_error(502, "UNAVAILABLE");
        }
    }
}

#[tokio::test]
async fn a_head_without_a_size_is_asked_by_get() {
    for length in [None, Some("0")] {
        let server = Server::plain("127.0.0.1", move |received: ReceivedRequest| {
            let digest = digest(CONTENT.as_bytes());
            let mut headers = vec![("content-type", INDEX), ("docker-content-digest", &*digest)];
            if received.method == "HEAD" {
                headers.extend(length.map(|length| ("content-length", length)));
            }
            Reply::new(200, &headers, content_for(&received))
        })
        .await;
        for cache in ["on", "off"] {
            let options = Options::default().upstream(server.address);
            let mirror = options.variable("manifest_cache", cache).start().await;
            let request = mirror.head(MANIFEST).accept_manifests();
            let received = request.send().await.expect(200);
            assert_eq!(
                received.header("content-length"),
                Some("34"),
                "{length:?} {cache}"
            );
            assert!(received.body.is_empty());
        }
    }
}

#[tokio::test]
async fn a_url_that_is_signed_for_get_answers_a_head() {
    for refusal in [400, 403, 405] {
        let cdn = Server::plain("127.0.0.2", move |received: ReceivedRequest| {
            if received.method == "HEAD" {
                Reply::new(refusal, &[], "")
            } else {
                Reply::new(200, &[("etag", "\"x\"")], "a layer")
            }
        })
        .await;
        let location = format!("http://{}/signed", cdn.address);
        let registry = Server::plain("127.0.0.1", move |_| {
            Reply::new(307, &[("location", &location)], "")
        })
        .await;
        let mirror = Options::default()
            .upstream(registry.address)
            .plain_http([cdn.address])
            .variable("blob_delivery", "stream")
            .start()
            .await;
        let path = format!("/v2/team/app/blobs/{}", digest(b"a layer"));
        let received = mirror.head(&path).send().await.expect(200);
        assert_eq!(received.header("content-length"), Some("7"), "{refusal}");
        assert!(received.body.is_empty());
        assert_eq!(mirror.get(&path).send().await.expect(200).text(), "a layer");
    }
}

#[tokio::test]
async fn a_blob_that_breaks_does_not_rest_the_manifests() {
    let (heads, breaks) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (count, is_down) = (Arc::clone(&heads), Arc::clone(&breaks));
    let server = Server::plain("127.0.0.1", move |received: ReceivedRequest| {
        if received.path().contains("/blobs/") || is_down.load(Ordering::SeqCst) {
            return Reply::Close;
        }
        if received.method == "HEAD" {
            count.fetch_add(1, Ordering::SeqCst);
        }
        let digest = digest(CONTENT.as_bytes());
        let headers = [
            ("content-type", INDEX),
            ("docker-content-digest", &*digest),
            ("content-length", "34"),
        ];
        Reply::new(200, &headers, content_for(&received))
    })
    .await;
    let mirror = Mirror::with_upstream(server.address).await;
    mirror.get_manifest(MANIFEST).await.expect(200);
    let blob = format!("/v2/team/app/blobs/{}", digest(b"a layer"));
    let request = mirror.get(&blob).header("range", "bytes=999999-");
    request.send().await.expect_error(404, "BLOB_UNKNOWN");
    let received = mirror.get_manifest(MANIFEST).await.expect(200);
    assert_eq!(heads.load(Ordering::SeqCst), 1, "it was asked");
    let status = received.header("cache-status").expect("a status");
    assert!(status.contains("revalidated"), "{status}");
    // A manifest that breaks does.
    breaks.store(true, Ordering::SeqCst);
    for expected in [
        "hammal; fwd=stale; detail=upstream-failed",
        "hammal; hit; detail=stale",
    ] {
        let received = mirror.get_manifest(MANIFEST).await.expect(200);
        assert_eq!(received.header("cache-status"), Some(expected));
    }
}
