//! Blobs that are streamed through the mirror.

use super::*;

#[tokio::test]
async fn streams_a_blob_without_a_token_for_the_delivery_network() {
    let bytes = answer(
        206,
        &[
            ("content-range", "bytes 5-9/10"),
            ("content-type", "text/html"),
            ("content-length", "5"),
        ],
        "bytes",
    );
    let (platform, mirror) = streaming([
        challenge(),
        token("one"),
        redirect("https://cdn.example/signed?x=1"),
        bytes,
    ]);
    let request = Request::get(format!("http://mirror.example{}", blob()))
        .header("range", "bytes=5-")
        .body(())
        .unwrap();
    let received = send(&mirror, request).await;
    assert_eq!(
        (received.status(), received.text().as_str()),
        (206, "bytes")
    );
    assert_eq!(received.header("content-range"), Some("bytes 5-9/10"));
    assert_eq!(
        received.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(received.header("docker-content-digest"), Some(DIGEST));
    assert_eq!(received.header("location"), None);
    let requests = platform.requests();
    let last = requests.last().unwrap();
    assert_eq!(last.uri(), "https://cdn.example/signed?x=1");
    assert_eq!(last.headers().get("authorization"), None);
    assert_eq!(last.headers()["range"], "bytes=5-");
}

#[tokio::test]
async fn asks_a_failed_delivery_network_once_more() {
    for fault in [
        answer(403, &[], ""),
        answer(500, &[], ""),
        Err(TransportError::Connect),
    ] {
        let (platform, mirror) = streaming([
            redirect("https://a.example/x"),
            fault,
            redirect("https://b.example/x"),
            answer(200, &[], "bytes"),
        ]);
        assert_eq!(send(&mirror, get(&blob())).await.text(), "bytes");
        assert_eq!(platform.sent().last().unwrap(), "GET https://b.example/x");
    }
    let fault = || [redirect("https://a.example/x"), answer(500, &[], "")];
    let (platform, mirror) = streaming(fault().into_iter().chain(fault()));
    let received = send(&mirror, get(&blob())).await;
    assert_eq!(
        (received.status(), received.code().as_str()),
        (404, "BLOB_UNKNOWN")
    );
    assert_eq!(platform.sent().len(), 4);
}

#[tokio::test]
async fn streams_only_from_hosts_that_the_policy_permits() {
    for location in [
        "https://10.0.0.1/x",
        "http://cdn.example/x",
        "https://metadata.internal/x",
        "file:///etc/passwd",
    ] {
        let (platform, mirror) = streaming([redirect(location), redirect(location)]);
        assert_eq!(
            send(&mirror, get(&blob())).await.status(),
            404,
            "{location}"
        );
        assert_eq!(platform.sent().len(), 2);
    }
    let circle = |count| (0..count).map(|_| redirect("https://cdn.example/x"));
    let (platform, mirror) = streaming(circle(12));
    assert_eq!(send(&mirror, get(&blob())).await.status(), 404);
    assert_eq!(platform.sent().len(), 12);
}

#[tokio::test]
async fn does_not_stream_closed_repositories_by_way_of_another_registry() {
    for (location, status) in [
        (
            format!("https://index.docker.io/v2/team/secret/blobs/{DIGEST}"),
            404,
        ),
        (
            format!("https://registry-1.docker.io//v2/team/secret/blobs/{DIGEST}"),
            404,
        ),
        ("https://cdn.example/x".to_owned(), 200),
    ] {
        // By way of a path that is no registry's, or it would be sent as one.
        let lead = || redirect("/cdn");
        let bytes = answer(200, &[], "bytes");
        let (platform, mirror) = streaming([
            lead(),
            redirect(&location),
            if status == 200 { bytes } else { lead() },
        ]);
        platform.add_answers([redirect(&location)]);
        platform.set_variable("denied_repositories", "team/secret");
        assert_eq!(
            send(&mirror, get(&format!("{}?upstream=evil.example", blob())))
                .await
                .status(),
            status,
            "{location}"
        );
        assert!(
            !platform
                .sent()
                .iter()
                .any(|sent| sent.contains("docker.io")),
            "{location}"
        );
    }
}

#[tokio::test]
async fn does_not_stream_from_a_listed_host_by_way_of_another_registry() {
    let inside = || redirect("http://registry.lan:5000/anything");
    for (path, then, status) in [
        (blob(), answer(200, &[], "bytes"), 200),
        // A second redirect is asked for, and no more followed than the first.
        (format!("{}?upstream=evil.example", blob()), inside(), 404),
    ] {
        let (platform, mirror) = streaming([inside(), then]);
        platform.set_variable("plain_http_upstreams", "registry.lan:5000");
        assert_eq!(send(&mirror, get(&path)).await.status(), status, "{path}");
        let sent = platform.sent();
        assert_eq!(
            sent.iter().any(|sent| sent.contains("registry.lan")),
            status == 200,
            "{sent:?}"
        );
    }
}

#[tokio::test]
async fn passes_on_several_ranges_or_refuses_them() {
    let ranges = || {
        let request = Request::get(format!("http://mirror.example{}", blob()))
            .header("range", "bytes=0-1,4-5");
        request.body(()).unwrap()
    };
    let parts = answer(
        206,
        &[("content-type", "multipart/byteranges; boundary=x")],
        "--x",
    );
    let (_, mirror) = streaming([redirect("https://cdn.example/x"), parts]);
    let received = send(&mirror, ranges()).await;
    assert_eq!(
        received.header("content-type"),
        Some("multipart/byteranges; boundary=x")
    );

    let refused = || answer(400, &[], "");
    let at_the_network = vec![redirect("https://cdn.example/x"), refused()];
    for refused in [vec![refused()], at_the_network] {
        let (_, mirror) = streaming(refused);
        let received = send(&mirror, ranges()).await;
        assert_eq!(
            (received.status(), received.code().as_str()),
            (400, "RANGE_INVALID")
        );
    }
    let (_, mirror) = streaming([
        answer(
            206,
            &[("content-type", "multipart/byteranges; boundary=x")],
            "",
        ),
        refused(),
    ]);
    assert_eq!(send(&mirror, ranges()).await.status(), 206);
    assert_eq!(send(&mirror, get(&blob())).await.status(), 404);
}
