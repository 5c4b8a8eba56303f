//! Registries that send what no host takes, what browsers misread, or what leads elsewhere; and
//! what a client learns of the mirror's network by them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hammal::upstream::RESPONSE_HEADERS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::client::Request;
use crate::support::hub_fixture::{HubFixture, NAME};
use crate::support::mirror::{Mirror, Options, can_name_hosts};
use crate::support::public_registries::{Host, PublicRegistries};
use test_support::image::{INDEX, digest};
use test_support::server::{ReceivedRequest, Reply, Server, any_port, closed_address};

const CONTENT: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
const SECRET: &str = "correct-horse-battery-staple";

/// A registry that answers the repository `cN` with the header lines `cases[N]`, as they are.
async fn raw_registry(cases: Arc<Vec<Vec<u8>>>) -> Server {
    Server::accept(any_port("127.0.0.1"), move |mut stream| {
        let cases = Arc::clone(&cases);
        async move {
            let (mut head, mut piece) = (Vec::new(), [0; 4096]);
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut piece).await {
                    Ok(read @ 1..) => head.extend_from_slice(&piece[..read]),
                    _ => return,
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let number = head
                .split_once("/v2/c")
                .and_then(|(_, rest)| rest.split('/').next()?.parse::<usize>().ok())
                .expect("the number of a case");
            let lines = &cases[number];
            let begin =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {INDEX}\r\n");
            let body = if head.starts_with("HEAD") {
                ""
            } else {
                CONTENT
            };
            let response = [begin.as_bytes(), lines, b"\r\n", body.as_bytes()].concat();
            let _ = stream.write_all(&response).await;
            let _ = stream.shutdown().await;
            while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
        }
    })
    .await
}

fn paths(case: usize) -> [String; 3] {
    [
        format!("/v2/c{case}/manifests/1"),
        format!("/v2/c{case}/blobs/{}", digest(CONTENT.as_bytes())),
        format!("/v2/c{case}/tags/list"),
    ]
}

#[tokio::test]
async fn no_header_of_a_registry_ends_in_a_bare_500() {
    let length = CONTENT.len().to_string();
    let (same, listed) = (length.as_bytes(), format!("{length}, {length}"));
    let (signed, other) = (format!("+{length}"), format!("{length}, 35"));
    let half = vec![b'9'; 5000];
    let values: [&[&[u8]]; 11] = [
        &[b""],
        &[same, same],
        &[listed.as_bytes()],
        &[signed.as_bytes()],
        &[b"-1"],
        &[same, b"35"],
        &[other.as_bytes()],
        &[b"18446744073709551616"],
        &[b"\xe9\xff"],
        &[b",;=\"\\ </script>"],
        &[&half, &half],
    ];
    let mut cases = Vec::new();
    for name in &RESPONSE_HEADERS {
        for values in values {
            let line = |value: &&[u8]| [name.as_str().as_bytes(), b": ", value, b"\r\n"].concat();
            cases.push(values.iter().map(line).collect::<Vec<_>>().concat());
        }
    }
    let cases = Arc::new(cases);
    let server = raw_registry(Arc::clone(&cases)).await;
    let mirror = Mirror::with_upstream(server.address).await;
    for (case, lines) in cases.iter().enumerate() {
        for path in paths(case) {
            for method in ["GET", "HEAD"] {
                let described = format!("{method} {path} {}", lines.escape_ascii());
                let received = mirror
                    .request(method, &path)
                    .accept_manifests()
                    .send()
                    .await;
                let status = received.status.as_u16();
                assert!(
                    matches!(status, 200 | 404 | 502),
                    "{described}: {received:?}"
                );
                if status != 200 && method == "GET" {
                    assert!(
                        received.json()["errors"][0]["code"].is_string(),
                        "{described}"
                    );
                }
                // Two lines of it would be a panic here.
                if let Some(length) = received.header("content-length") {
                    assert!(
                        length.bytes().all(|byte| byte.is_ascii_digit()),
                        "{described}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn a_length_is_one_number_whatever_was_sent() {
    let cases = [
        ("Content-Length: 34\r\nContent-Length: 34\r\n", 200),
        ("Content-Length: 34, 34\r\n", 200),
        // A GET breaks, a HEAD is a fault.
        ("Content-Length: +34\r\n", 404),
        ("Content-Length: 34\r\nContent-Length: 35\r\n", 404),
    ];
    assert_eq!(CONTENT.len(), 34);
    let lines = cases.iter().map(|(lines, _)| lines.as_bytes().to_vec());
    let server = raw_registry(Arc::new(lines.collect())).await;
    let mirror = Mirror::with_upstream(server.address).await;
    for (case, (lines, status)) in cases.into_iter().enumerate() {
        let [manifest, blob, _] = paths(case);
        for method in ["GET", "HEAD"] {
            let received = mirror.request(method, &blob).send().await;
            assert_eq!(received.status, status, "{method} {lines:?}: {received:?}");
            if status != 200 {
                continue;
            }
            assert_eq!(received.header("content-length"), Some("34"), "{lines:?}");
            let request = mirror.request(method, &manifest).accept_manifests();
            let received = request.send().await.expect(200);
            assert_eq!(received.header("content-length"), Some("34"), "{lines:?}");
        }
    }
}

#[tokio::test]
async fn no_browser_reads_a_web_page_out_of_a_content_type() {
    let types = [
        "application/vnd.a+json;,text/html",
        "application/vnd.a+json, text/html",
        "application/json;,text/html",
        "multipart/byteranges;,text/html",
        "multipart/byteranges; boundary=\",text/html\"",
        "text/html",
        "text/html;,application/json",
    ];
    let server = Server::plain("127.0.0.1", move |received: ReceivedRequest| {
        let number = received.path().split("/c").nth(1).expect("a case");
        let number: usize = number
            .split('/')
            .next()
            .expect("a number")
            .parse()
            .expect("it");
        let status = if received.header("range").is_some() {
            206
        } else {
            200
        };
        let page = "<!DOCTYPE html><script>alert(1)</script>";
        Reply::new(status, &[("content-type", types[number])], page)
    })
    .await;
    let mirror = Mirror::with_upstream(server.address).await;
    for (number, sent) in types.iter().enumerate() {
        for path in paths(number) {
            for range in [None, Some("bytes=0-1,4-5")] {
                let mut request = mirror.get(&path).accept_manifests();
                if let Some(range) = range {
                    request = request.header("range", range);
                }
                let received = request.send().await;
                let seen = received.header("content-type").expect("a type");
                assert!(
                    matches!(seen, "application/json" | "application/octet-stream"),
                    "{sent} {path} {range:?}: {seen}"
                );
                assert_eq!(received.header("x-content-type-options"), Some("nosniff"));
            }
        }
    }
}

#[tokio::test]
async fn a_registry_that_only_a_client_names_leads_to_registry_paths_only() {
    let evil = Host::new("evil.example.com", |received| {
        let location = match received.path() {
            path if path.contains("/moved/") => "https://other.example.com/v2/b/manifests/1?x=1",
            path if path.contains("/tags/") => "https://victim.example.com/api/tags",
            path if path.contains("/referrers/") => "https://victim.example.com/docs",
            _ => "https://victim.example.com/api?x=1",
        };
        Reply::new(307, &[("location", location)], "")
    });
    let json = |_: &ReceivedRequest| {
        let headers = [("content-type", "application/json")];
        Reply::new(200, &headers, r#"{"internal":"words"}"#)
    };
    let victim = Host::new("victim.example.com", json);
    let other = Host::new("other.example.com", json);
    let Some(registries) = PublicRegistries::start([evil, victim, other]).await else {
        return;
    };
    let referrers = format!("a/referrers/{}", digest(CONTENT.as_bytes()));
    for (rest, status) in [
        ("a/manifests/1", 502),
        ("a/tags/list", 502),
        (&*referrers, 404),
    ] {
        let received = registries.request("GET", "evil.example.com", rest).await;
        assert_eq!(received.status, status, "{rest}: {received:?}");
        assert!(!received.text().contains("words"), "{received:?}");
        let sent = registries.take_requests();
        assert!(!sent.iter().any(|line| line.contains("victim")), "{sent:?}");
    }
    let moved = registries.request("GET", "evil.example.com", "a/moved/manifests/1");
    moved.await.expect(200);
    let sent = registries.take_requests();
    assert_eq!(sent[1], "GET https://other.example.com/v2/b/manifests/1");
}

#[tokio::test]
async fn faults_of_a_connection_look_alike_to_a_client() {
    let closed = closed_address().await;
    let not_http = Server::raw(&b"SSH-2.0-OpenSSH_9.2\r\n"[..]).await;
    let silent = Server::raw(Bytes::new()).await;
    let mut options = Options::default().plain_http([closed, not_http.address, silent.address]);
    let mut upstreams = vec![
        format!("http://{closed}"),
        format!("http://{}", not_http.address),
        format!("http://{}", silent.address),
        "no-such-registry.example.com".to_owned(),
    ];
    // A port without TLS, and one that is closed.
    if can_name_hosts() {
        options = options.host(
            "jenkins.example.com",
            "127.0.0.1".parse().expect("an address"),
        );
        for port in [not_http.address.port(), closed.port()] {
            upstreams.push(format!("jenkins.example.com:{port}"));
        }
    }
    let mirror = options.start().await;
    for (path, status) in [("a/manifests/1", 502), ("a/tags/list", 502)] {
        let mut texts = BTreeSet::new();
        for upstream in &upstreams {
            let target = format!("/v2/{path}?upstream={upstream}");
            let received = mirror.get_manifest(&target).await;
            texts.insert(
                received
                    .expect_error(status, "UNAVAILABLE")
                    .text()
                    .to_owned(),
            );
        }
        assert_eq!(texts.len(), 1, "{texts:?}");
    }
    let log = mirror.log(2 * upstreams.len()).await;
    let causes: BTreeSet<_> = log
        .into_iter()
        .map(|line| line.cause.expect("a cause"))
        .collect();
    assert!(causes.len() >= 3, "{causes:?}");
}

/// Follows redirects as Go's HTTP library does: with a `Referer`, unless from https to http.
async fn follow_as_go(mirror: &Mirror, path: &str) -> (u16, Bytes) {
    let mut url = format!("http://{}{path}", mirror.address());
    let mut request = mirror.get(path);
    for _ in 0..10 {
        let received = request.send().await;
        let Some(location) = received.header("location") else {
            return (received.status.as_u16(), received.body);
        };
        request = Request::get_url(location).header("referer", &url);
        url = location.to_owned();
    }
    panic!("ten redirects");
}

#[tokio::test]
async fn the_secret_reaches_only_the_mirror() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let fixture = HubFixture::with(|options| {
        options
            .variable("secret", SECRET)
            .variable("blob_delivery", "redirect")
    })
    .await;
    let record = Arc::clone(&seen);
    fixture.hub.script(move |_, received| {
        let line = format!("{} {:?}", received.target, received.headers);
        record.lock().expect("requests").push(line);
        None
    });
    let layer = &fixture.image.native().layers[0];
    let path = format!("/{SECRET}/v2/{NAME}/blobs/{}", layer.digest);
    let (status, body) = follow_as_go(&fixture.mirror, &path).await;
    assert_eq!((status, &body), (200, &layer.bytes));
    let manifest = format!("/{SECRET}/v2/{NAME}/manifests/latest");
    fixture.mirror.get_manifest(&manifest).await.expect(200);
    let seen = seen.lock().expect("requests").clone();
    assert!(
        seen.len() >= 4,
        "the registry, its tokens and its CDN: {seen:#?}"
    );
    assert!(!seen.iter().any(|line| line.contains(SECRET)), "{seen:#?}");
    let page = fixture.mirror.get(&format!("/{SECRET}/")).send().await;
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
}

#[tokio::test]
async fn a_method_of_any_length_is_logged_by_one_word() {
    let mirror = Options::default().start().await;
    let long = "X".repeat(2000);
    let received = mirror.request(&long, "/v2/").send().await;
    assert!(
        matches!(received.status.as_u16(), 400 | 405),
        "{received:?}"
    );
    if received.status == 405 {
        assert_eq!(mirror.log(1).await[0].method, "other");
    }
    assert!(!mirror.stderr().join("\n").contains("XXXX"));
}
