//! Answers of upstreams that no host would take as they are, that lack what clients need to know,
//! or that are said to be something else than they are.

use super::*;
use crate::oci::digest::Digest;
use crate::upstream::RESPONSE_HEADERS;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONTENT: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
const TAGS: &str = "/v2/library/alpine/tags/list";

fn caching(answers: impl IntoIterator<Item = Answer>) -> (Scripted, Mirror<Scripted>) {
    let platform = Scripted::new(answers);
    platform.set_variable("manifest_cache", "on");
    (platform.clone(), Mirror::new(platform))
}

fn head(path: &str) -> Request<()> {
    let uri = format!("http://mirror.example{path}");
    Request::head(uri).body(()).unwrap()
}

/// An answer with header values of any bytes.
fn answer_of_bytes(lines: &[(&str, &[u8])]) -> Answer {
    let mut response = Response::builder().header("content-type", INDEX);
    for (name, value) in lines {
        response = response.header(*name, *value);
    }
    Ok(response.body(CONTENT.as_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn no_header_of_an_upstream_costs_the_answer() {
    let long = [b'9'; 9000];
    let values: [&[&[u8]]; 14] = [
        &[b""],
        &[b"93", b"93"],
        &[b"93, 93"],
        &[b"+93"],
        &[b"-1"],
        &[b"93", b"94"],
        &[b"93, 94"],
        &[b"18446744073709551616"],
        &[b"\xe9\xff"],
        &[b"\t x \t"],
        &[b",;=\"\\"],
        &[b"</script>"],
        &[&long],
        &[&long[..5000], &long[..5000]],
    ];
    for name in &RESPONSE_HEADERS {
        for values in values {
            let lines: Vec<_> = values.iter().map(|value| (name.as_str(), *value)).collect();
            for path in [MANIFEST, &blob(), TAGS] {
                for request in [get(path), head(path)] {
                    let described = format!("{} {path} {lines:?}", request.method());
                    // A HEAD that tells no length is asked again.
                    let platform = Scripted::new([answer_of_bytes(&lines), answer_of_bytes(&[])]);
                    let received = send(&Mirror::new(platform), request).await;
                    let status = received.status();
                    assert!(matches!(status, 200 | 404 | 502), "{described}: {status}");
                    let headers = received.0.headers();
                    let lengths: Vec<_> = headers.get_all("content-length").iter().collect();
                    assert!(lengths.len() <= 1, "{described}: {lengths:?}");
                    let is_number = |length: &&http::HeaderValue| {
                        let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
                        digits && length.to_str().unwrap().parse::<u64>().is_ok()
                    };
                    assert!(lengths.iter().all(is_number), "{described}: {lengths:?}");
                    let size: usize = headers.values().map(http::HeaderValue::len).sum();
                    assert!(size < 16 * 1024, "{described}: {size}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_length_of_a_head_is_one_number_or_a_fault() {
    let blob = blob();
    for (lengths, status, length) in [
        (&["93", "93"][..], 200, Some("93")),
        (&["93, 93"], 200, Some("93")),
        (&["+93"], 404, None),
        (&["93", "94"], 404, None),
        (&["93, 94"], 404, None),
    ] {
        let lines: Vec<_> = lengths.iter().map(|it| ("content-length", *it)).collect();
        let platform = Scripted::new([answer(200, &lines, "")]);
        let received = send(&Mirror::new(platform.clone()), head(&blob)).await;
        assert_eq!(received.status(), status, "{lengths:?}");
        if let Some(length) = length {
            assert_eq!(received.header("content-length"), Some(length));
        } else {
            let line = platform.log().join("\n");
            assert!(line.contains("code=BLOB_UNKNOWN"), "{line}");
            assert!(line.contains("a length that is no number"), "{line}");
        }
    }
}

#[tokio::test]
async fn a_tag_without_a_digest_is_cached_by_the_digest_of_its_bytes() {
    let digest = Digest::of(CONTENT.as_bytes());
    let sends = || answer(200, &[("content-type", INDEX)], CONTENT);
    let (platform, mirror) = caching([sends()]);
    let received = send(&mirror, get(MANIFEST)).await;
    assert_eq!(
        received.header("docker-content-digest"),
        Some(digest.as_str())
    );
    assert_eq!(platform.sent().len(), 1);
    // By the digest it is there already, for other instances too.
    let by_digest = get(&format!("/v2/library/alpine/manifests/{digest}"));
    assert_eq!(
        send(&Mirror::new(platform.clone()), by_digest).await.text(),
        CONTENT
    );
    assert!(platform.sent().is_empty());
    // A HEAD would say no more, and is spared.
    platform.add_answers([sends()]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.text(), CONTENT);
    assert_eq!(platform.sent(), [format!("GET {HUB}{MANIFEST}")]);
    // Its outage is bridged, for other instances too.
    platform.fail_at_end(TransportError::TimedOut);
    for mirror in [mirror, Mirror::new(platform.clone())] {
        let received = send(&mirror, get(MANIFEST)).await;
        assert_eq!(
            (received.status(), received.text().as_str()),
            (200, CONTENT)
        );
        assert_eq!(
            received.header("docker-content-digest"),
            Some(digest.as_str())
        );
    }
}

#[tokio::test]
async fn a_signed_manifest_without_a_digest_is_not_given_one() {
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let (_, mirror) = caching([answer(200, &[("content-type", signed)], "{}")]);
    let received = send(&mirror, get(MANIFEST)).await;
    assert_eq!(
        (received.status(), received.header("docker-content-digest")),
        (200, None)
    );
}

#[tokio::test]
async fn a_manifest_under_a_type_that_says_nothing_goes_out_under_its_own() {
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let typed = format!(r#"{{"schemaVersion":2,"mediaType":"{docker}","layers":[]}}"#);
    for sent in [
        Some("text/plain"),
        Some("text/plain; charset=utf-8"),
        Some("application/octet-stream"),
        Some("binary/octet-stream"),
        Some(""),
        None,
    ] {
        let headers: Vec<_> = sent.iter().map(|it| ("content-type", *it)).collect();
        for (body, seen) in [
            (CONTENT, Some(INDEX)),
            (&typed, Some(docker)),
            ("<!DOCTYPE html><script>alert(1)</script>", None),
            (r#"{"token":"x"}"#, None),
        ] {
            for is_cached in ["on", "off"] {
                let sends = || answer(200, &headers, body);
                let platform = Scripted::new([sends()]);
                platform.set_variable("manifest_cache", is_cached);
                let mirror = Mirror::new(platform.clone());
                let received = send(&mirror, get(MANIFEST)).await;
                let described = format!("{sent:?} {body} {is_cached}");
                assert_eq!(
                    received.status(),
                    if seen.is_some() { 200 } else { 502 },
                    "{described}"
                );
                let json = Some("application/json");
                assert_eq!(
                    received.header("content-type"),
                    seen.or(json),
                    "{described}"
                );
                assert_eq!(received.header("x-content-type-options"), Some("nosniff"));
                assert_eq!(
                    received.header("content-security-policy"),
                    Some("default-src 'none'; sandbox")
                );
                if seen.is_some() {
                    assert_eq!(received.text(), body, "{described}");
                }
                // The HEAD is answered from a GET.
                let platform = Scripted::new([answer(200, &headers, ""), sends()]);
                platform.set_variable("manifest_cache", is_cached);
                let received = send(&Mirror::new(platform.clone()), head(MANIFEST)).await;
                assert_eq!(
                    received.status(),
                    if seen.is_some() { 200 } else { 502 },
                    "{described}"
                );
                assert_eq!(platform.sent().len(), 2, "{described}");
                if seen.is_some() {
                    let length = body.len().to_string();
                    assert_eq!(
                        received.header("content-length"),
                        Some(&*length),
                        "{described}"
                    );
                    assert_eq!(received.header("content-type"), seen, "{described}");
                    assert_eq!(received.text(), "");
                }
            }
        }
    }
    for sent in [
        "text/html",
        "application/xml",
        "image/svg+xml",
        "text/plain, text/html",
    ] {
        let platform = Scripted::new([answer(200, &[("content-type", sent)], CONTENT)]);
        let received = send(&Mirror::new(platform), get(MANIFEST)).await;
        assert_eq!(received.status(), 502, "{sent}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_tell_the_size_or_the_digest_is_asked_by_get() {
    let digest = Digest::of(CONTENT.as_bytes());
    let known = [
        ("content-type", INDEX),
        ("docker-content-digest", digest.as_str()),
    ];
    let length = CONTENT.len().to_string();
    for is_cached in ["on", "off"] {
        for told in [
            &known[..],
            &[known[0], known[1], ("content-length", "0")],
            &[known[0], known[1], ("content-length", "+34")],
            &[known[0], ("content-length", &length)],
        ] {
            let platform =
                Scripted::new([answer(200, told, ""), answer(200, &known[..1], CONTENT)]);
            platform.set_variable("manifest_cache", is_cached);
            let mirror = Mirror::new(platform.clone());
            let received = send(&mirror, head(MANIFEST)).await;
            assert_eq!((received.status(), received.text().as_str()), (200, ""));
            assert_eq!(
                received.header("content-length"),
                Some(&*length),
                "{told:?}"
            );
            assert_eq!(
                received.header("docker-content-digest"),
                Some(digest.as_str())
            );
            let (asked, got) = (
                format!("HEAD {HUB}{MANIFEST}"),
                format!("GET {HUB}{MANIFEST}"),
            );
            assert_eq!(platform.sent(), [asked, got], "{told:?}");
        }
        // What is complete is passed on.
        let told = [known[0], known[1], ("content-length", &*length)];
        let platform = Scripted::new([answer(200, &told, "")]);
        platform.set_variable("manifest_cache", is_cached);
        assert_eq!(
            send(&Mirror::new(platform), head(MANIFEST)).await.status(),
            200
        );
    }
    // Where the manifest is cached, its size is known.
    let (platform, mirror) = caching([
        answer(200, &known, CONTENT),
        answer(200, &known, ""),
        answer(200, &known, ""),
    ]);
    send(&mirror, get(MANIFEST)).await;
    for request in [head(MANIFEST), get(MANIFEST)] {
        let received = send(&mirror, request).await;
        assert_eq!(received.header("content-length"), Some(&*length));
    }
    assert_eq!(platform.sent().len(), 3);
}

#[tokio::test]
async fn a_url_that_is_signed_for_get_answers_a_head_by_the_head_of_a_get() {
    let bytes = || answer(200, &[("content-length", "5"), ("etag", "\"x\"")], "bytes");
    for refusal in [400, 401, 403, 405, 501] {
        let cdn = || redirect("https://cdn.example/signed");
        let (platform, mirror) = streaming([cdn(), answer(refusal, &[], ""), bytes()]);
        let received = send(&mirror, head(&blob())).await;
        assert_eq!(
            (received.status(), received.text().as_str()),
            (200, ""),
            "{refusal}"
        );
        assert_eq!(received.header("content-length"), Some("5"), "{refusal}");
        let url = "https://cdn.example/signed";
        assert_eq!(
            platform.sent(),
            [
                format!("HEAD {HUB}{}", blob()),
                format!("HEAD {url}"),
                format!("GET {url}")
            ]
        );
        // Where the GET is refused too, it is a fault as before.
        let refused = || answer(refusal, &[], "");
        let (platform, mirror) =
            streaming([cdn(), refused(), refused(), cdn(), refused(), refused()]);
        assert_eq!(
            send(&mirror, head(&blob())).await.status(),
            404,
            "{refusal}"
        );
        assert_eq!(platform.sent().len(), 6, "{refusal}");
    }
    // What is not there is not asked twice by the same URL.
    let gone = || [redirect("https://cdn.example/x"), answer(404, &[], "")];
    let (platform, mirror) = streaming(gone().into_iter().chain(gone()));
    assert_eq!(send(&mirror, head(&blob())).await.status(), 404);
    assert_eq!(platform.sent().len(), 4);
    // A manifest in a bucket.
    let platform = Scripted::new([
        redirect("https://bucket.example/signed"),
        answer(403, &[], ""),
        answer(
            200,
            &[
                ("content-type", INDEX),
                ("content-length", "34"),
                ("docker-content-digest", DIGEST),
            ],
            CONTENT,
        ),
    ]);
    let received = send(&Mirror::new(platform), head(MANIFEST)).await;
    assert_eq!(
        (received.status(), received.header("content-length")),
        (200, Some("34"))
    );
}

#[tokio::test]
async fn a_content_type_that_is_no_single_media_type_is_refused() {
    for (path, status, sent, seen) in [
        (MANIFEST, 200, "application/vnd.a+json;,text/html", None),
        (MANIFEST, 200, "application/vnd.a+json, text/html", None),
        (MANIFEST, 200, "application/vnd.a+json text/html", None),
        (
            MANIFEST,
            200,
            r#"Application/VND.a+json; x=",text/html"; charset="utf-8""#,
            Some("application/vnd.a+json; charset=utf-8"),
        ),
        (TAGS, 200, "application/json;,text/html", None),
        (&blob(), 206, "multipart/byteranges;,text/html", None),
        (&blob(), 206, "multipart/byteranges", None),
        (
            &blob(),
            206,
            r#"multipart/byteranges; boundary=",text/html""#,
            None,
        ),
        (
            &blob(),
            206,
            r#"Multipart/ByteRanges; boundary="a-b"; x=y"#,
            Some("multipart/byteranges; boundary=a-b"),
        ),
        (
            &blob(),
            206,
            "text/html;,",
            Some("application/octet-stream"),
        ),
        (
            &blob(),
            200,
            "multipart/byteranges;,text/html",
            Some("application/octet-stream"),
        ),
    ] {
        let platform = Scripted::new([answer(status, &[("content-type", sent)], "{}")]);
        let received = send(&Mirror::new(platform), get(path)).await;
        let json = "application/json";
        assert_eq!(
            received.header("content-type"),
            Some(seen.unwrap_or(json)),
            "{sent}"
        );
        assert_eq!(received.status() == status, seen.is_some(), "{sent}");
    }
    let two = [("content-type", INDEX), ("content-type", "text/html")];
    let platform = Scripted::new([answer(200, &two, "{}")]);
    assert_eq!(
        send(&Mirror::new(platform), get(MANIFEST)).await.status(),
        502
    );
}

#[tokio::test]
async fn a_media_type_that_was_changed_in_the_store_is_not_served() {
    let digest = Digest::of(CONTENT.as_bytes());
    let length = CONTENT.len().to_string();
    let known = [
        ("content-type", INDEX),
        ("docker-content-digest", digest.as_str()),
        ("content-length", &length),
    ];
    for changed in ["text/html", "application/vnd.a+json;,text/html"] {
        let (platform, mirror) = caching([answer(200, &known, CONTENT)]);
        platform.set_variable("tag_ttl", "600");
        send(&mirror, get(MANIFEST)).await;
        platform.change_store(|value| {
            let text = String::from_utf8(value.clone()).unwrap();
            *value = text.replace(INDEX, changed).into_bytes();
        });
        platform.add_answers([
            answer(200, &known, CONTENT),
            answer(200, &known, ""),
            answer(200, &known, CONTENT),
        ]);
        let by_digest = get(&format!("/v2/library/alpine/manifests/{digest}"));
        for request in [by_digest, head(MANIFEST), get(MANIFEST)] {
            let received = send(&Mirror::new(platform.clone()), request).await;
            let seen = (received.status(), received.header("content-type"));
            assert_eq!(seen, (200, Some(INDEX)), "{changed}");
        }
    }
}

#[tokio::test]
async fn one_text_for_every_fault_of_a_connection_and_the_cause_in_the_log() {
    let mut texts = std::collections::BTreeSet::new();
    let mut causes = std::collections::BTreeSet::new();
    for fault in [
        TransportError::Dns,
        TransportError::Connect,
        TransportError::Tls,
        TransportError::TimedOut,
        TransportError::Forbidden,
        TransportError::Broken,
    ] {
        let platform = Scripted::new([]);
        platform.fail_at_end(fault);
        let path = format!("{MANIFEST}?upstream=jenkins.example:8443");
        texts.insert(
            send(&Mirror::new(platform.clone()), get(&path))
                .await
                .text(),
        );
        let log = platform.log().join("\n");
        let (_, cause) = log.split_once(" cause=").unwrap();
        causes.insert(cause.to_owned());
    }
    assert_eq!((texts.len(), causes.len()), (1, 6), "{texts:?} {causes:?}");

    // Neither does a redirect tell which hosts the operator has listed.
    let mut texts = std::collections::BTreeSet::new();
    for location in [
        "http://registry.lan:5000/v2/library/alpine/manifests/1",
        "http://other.lan:5000/v2/library/alpine/manifests/1",
        "https://10.0.0.1/v2/library/alpine/manifests/1",
        "https://a.internal/v2/library/alpine/manifests/1",
    ] {
        let platform = Scripted::new([redirect(location)]);
        platform.set_variable("plain_http_upstreams", "registry.lan:5000");
        platform.set_variable("denied_repositories", "registry.lan:5000/*");
        let path = format!("{MANIFEST}?upstream=evil.example");
        texts.insert(
            send(&Mirror::new(platform.clone()), get(&path))
                .await
                .text(),
        );
        assert!(platform.log().join("\n").contains(" cause="));
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
}

#[tokio::test]
async fn a_method_that_nobody_knows_is_logged_by_one_word() {
    let platform = Scripted::new([]);
    let mirror = Mirror::new(platform.clone());
    let long = "X".repeat(10_000);
    for method in [&*long, "PROPFIND", "PATCH"] {
        let method = http::Method::from_bytes(method.as_bytes()).unwrap();
        let uri = "http://mirror.example/v2/";
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        assert_eq!(send(&mirror, request).await.status(), 405);
    }
    for (line, method) in platform.log().iter().zip(["other", "other", "PATCH"]) {
        assert!(line.contains(&format!(" method={method} ")), "{line}");
        assert!(line.len() < 400, "{line}");
    }
}

#[tokio::test]
async fn a_closed_mirror_streams_blobs_whatever_blob_delivery_says() {
    for delivery in ["redirect", "stream"] {
        let platform = Scripted::new([
            redirect("https://cdn.example/signed"),
            answer(200, &[("content-length", "5")], "bytes"),
        ]);
        platform.set_variable("secret", "0123456789abcdef");
        platform.set_variable("blob_delivery", delivery);
        let path = format!("/0123456789abcdef{}", blob());
        let received = send(&Mirror::new(platform.clone()), get(&path)).await;
        assert_eq!(
            (received.status(), received.text().as_str()),
            (200, "bytes")
        );
        assert_eq!(received.header("location"), None);
        for request in platform.requests() {
            assert!(!format!("{request:?}").contains("0123456789abcdef"));
        }
        let page = send(&Mirror::new(platform), get("/0123456789abcdef/")).await;
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    }
}
