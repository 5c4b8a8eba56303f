//! The story with several upstreams, and of blobs that pass through the mirror.

use super::*;

fn blob() -> String {
    format!("/v2/library/alpine/blobs/{DIGEST}")
}

fn redirect(location: &str) -> Exchanged {
    answer(307, &[("location", location)], "")
}

fn two_upstreams(answers: impl IntoIterator<Item = Exchanged>) -> (Scripted, Mirror<Scripted>) {
    let platform = Scripted::new(answers);
    platform.set_variable("upstream", "first.example, docker.io");
    (platform.clone(), Mirror::new(platform))
}

fn streaming(answers: impl IntoIterator<Item = Exchanged>) -> (Scripted, Mirror<Scripted>) {
    let platform = Scripted::new(answers);
    platform.set_variable("blob_delivery", "stream");
    (platform.clone(), Mirror::new(platform))
}

#[tokio::test]
async fn the_next_upstream_is_asked_where_one_fails() {
    for fault in [
        Err(TransportError::Connect),
        Err(TransportError::TimedOut),
        answer(429, &[], ""),
        answer(500, &[], ""),
        answer(503, &[], ""),
    ] {
        let (platform, mirror) = two_upstreams([fault, manifest(), manifest()]);
        assert_eq!(
            ask(&mirror, get("/v2/alpine/manifests/latest"))
                .await
                .status(),
            200
        );
        // The one that failed is left alone for a while, by other instances too.
        assert_eq!(
            ask(
                &Mirror::new(platform.clone()),
                get("/v2/alpine/manifests/latest")
            )
            .await
            .status(),
            200
        );
        assert_eq!(
            platform.asked(),
            [
                "GET https://first.example/v2/alpine/manifests/latest".to_owned(),
                format!("GET {HUB}{MANIFEST}"),
                format!("GET {HUB}{MANIFEST}"),
            ]
        );
        assert!(platform.log()[0].contains("upstream=registry-1.docker.io status=200 requests=2"));
        platform.pass(Duration::from_secs(21));
        platform.will_answer([manifest()]);
        ask(&Mirror::new(platform.clone()), get(MANIFEST)).await;
        assert_eq!(
            platform.asked(),
            ["GET https://first.example/v2/library/alpine/manifests/latest"]
        );
    }
}

#[tokio::test]
async fn the_next_upstream_is_asked_where_one_sends_a_web_page_which_is_no_fault_of_all_of_it() {
    let page = || {
        answer(
            200,
            &[("content-type", "text/html")],
            "<html>log in here</html>",
        )
    };
    let (platform, mirror) = two_upstreams([page(), manifest(), page(), manifest()]);
    for _ in 0..2 {
        assert_eq!(
            ask(&mirror, get("/v2/alpine/manifests/latest"))
                .await
                .status(),
            200
        );
        let first = "GET https://first.example/v2/alpine/manifests/latest".to_owned();
        assert_eq!(platform.asked(), [first, format!("GET {HUB}{MANIFEST}")]);
    }
}

#[tokio::test]
async fn an_answer_is_an_answer_whichever_it_is() {
    for (sent, status) in [(answer(404, &[], ""), 404), (answer(403, &[], ""), 403)] {
        let (platform, mirror) = two_upstreams([sent]);
        assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), status);
        assert_eq!(platform.asked().len(), 1);
    }
}

#[tokio::test]
async fn what_a_lower_upstream_lacks_is_not_the_last_word_on_one_that_failed() {
    let lacks = || answer(404, &[], "");
    let limit = || answer(429, &[("retry-after", "9")], "");
    for path in [MANIFEST, "/v2/library/alpine/tags/list"] {
        let (platform, mirror) = two_upstreams([limit(), lacks()]);
        let seen = ask(&mirror, get(path)).await;
        assert_eq!(
            (seen.status(), seen.header("retry-after")),
            (429, Some("9"))
        );
        // While it rests it is asked last, but it is asked.
        platform.will_answer([lacks(), manifest()]);
        assert_eq!(ask(&mirror, get(path)).await.status(), 200);
        platform.will_answer([lacks(), limit()]);
        assert_eq!(ask(&mirror, get(path)).await.status(), 429);
        platform.will_answer([lacks(), lacks()]);
        assert_eq!(ask(&mirror, get(path)).await.status(), 404);
        assert_eq!(platform.asked().len(), 8);
    }
}

#[tokio::test]
async fn what_one_upstream_answers_with_something_else_is_not_gone_because_another_lacks_it() {
    let page = || answer(200, &[("content-type", "text/html")], "<html>");
    let lacks = || answer(404, &[], "");
    let referrers = &format!("/v2/library/alpine/referrers/{DIGEST}");
    for (path, answers, status) in [
        (MANIFEST, [page(), lacks()], 502),
        (MANIFEST, [lacks(), page()], 404),
        // Who hears of no referrers looks for their tag, which the second one may have.
        (referrers, [Err(TransportError::Connect), lacks()], 404),
        (
            referrers,
            [Err(TransportError::Connect), answer(400, &[], "")],
            404,
        ),
    ] {
        let (_, mirror) = two_upstreams(answers);
        assert_eq!(
            ask(&mirror, get(path)).await.status(),
            status,
            "{path} {status}"
        );
    }
    // The range is wrong there too.
    let (platform, mirror) = two_upstreams([Err(TransportError::Connect), answer(416, &[], "")]);
    assert_eq!(ask(&mirror, get(&blob())).await.status(), 416);
    platform.will_answer([answer(416, &[], "")]);
    assert_eq!(ask(&mirror, get(&blob())).await.status(), 416);
}

#[tokio::test]
async fn the_next_page_of_a_list_is_asked_of_the_upstream_that_sent_the_first() {
    let headers = [
        ("content-type", "application/json"),
        (
            "link",
            "</v2/library/alpine/tags/list?last=x>; rel=\"next\"",
        ),
    ];
    let page = || answer(200, &headers, "{}");
    let (platform, mirror) = two_upstreams([Err(TransportError::Connect), page(), page()]);
    // As an operator who has closed all others.
    platform.set_variable("allowed_upstreams", "ghcr.io");
    let seen = ask(&mirror, get("/v2/alpine/tags/list")).await;
    let next = seen
        .header("link")
        .unwrap()
        .split(['<', '>'])
        .nth(1)
        .unwrap()
        .to_owned();
    assert_eq!(
        next,
        "/v2/library/alpine/tags/list?last=x&upstream=https%3A%2F%2Fregistry-1.docker.io"
    );
    platform.pass(Duration::from_secs(21));
    assert_eq!(ask(&mirror, get(&next)).await.status(), 200);
    assert_eq!(
        platform.asked()[2],
        format!("GET {HUB}/v2/library/alpine/tags/list?last=x")
    );

    // Where an upstream is that only the operator can open is not told.
    let (platform, mirror) = two_upstreams([page()]);
    platform.set_variable("upstream", "http://10.0.0.5:5000, docker.io");
    platform.set_variable("plain_http_upstreams", "10.0.0.5:5000");
    let seen = ask(&mirror, get("/v2/alpine/tags/list")).await;
    assert_eq!(
        seen.header("link"),
        Some("</v2/library/alpine/tags/list?last=x>; rel=\"next\"")
    );
}

#[tokio::test]
async fn a_redirect_that_cannot_be_passed_on_is_asked_of_the_next_upstream() {
    let good = || redirect("https://cdn.example/x");
    for bad in [
        redirect("http://cdn.example/x"),
        redirect("https://mirror.example/x"),
        answer(307, &[], ""),
    ] {
        let (_, mirror) = two_upstreams([bad, good()]);
        assert_eq!(
            ask(&mirror, get(&blob())).await.header("location"),
            Some("https://cdn.example/x")
        );
    }
    let (_, mirror) = two_upstreams([answer(307, &[], ""), manifest()]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
    let (_, mirror) = two_upstreams([
        redirect("http://cdn.example/x"),
        redirect("javascript:alert(1)"),
    ]);
    assert_eq!(ask(&mirror, get(&blob())).await.status(), 404);
}

#[tokio::test]
async fn what_concerns_one_repository_lets_no_upstream_rest() {
    let manifest_refused = || [answer(307, &[("location", "https://10.0.0.1/x")], "")];
    let token_refused = || [challenge(), answer(410, &[], "")];
    let (platform, mirror) = two_upstreams([]);
    for refused in [&manifest_refused() as &[Exchanged], &token_refused()] {
        let again = refused
            .iter()
            .map(|exchanged| Ok(exchanged.as_ref().unwrap().clone()));
        platform.will_answer(again.chain([manifest()]));
        assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
        assert_eq!(
            platform.asked()[0],
            format!("GET https://first.example{MANIFEST}")
        );
    }
    let (platform, mirror) = streaming([]);
    platform.set_variable("upstream", "first.example, docker.io");
    for _ in 0..2 {
        let missing = || [redirect("https://cdn.example/x"), answer(404, &[], "")];
        platform.will_answer(missing().into_iter().chain(missing()).chain([answer(
            200,
            &[],
            "bytes",
        )]));
        assert_eq!(ask(&mirror, get(&blob())).await.text(), "bytes");
        assert_eq!(
            platform.asked()[0],
            format!("GET https://first.example{}", blob())
        );
    }
}

#[tokio::test]
async fn a_blob_comes_from_any_upstream_that_has_it() {
    let (platform, mirror) =
        two_upstreams([answer(404, &[], ""), redirect("https://cdn.example/x")]);
    let seen = ask(&mirror, get(&blob())).await;
    assert_eq!(
        (seen.status(), seen.header("location")),
        (307, Some("https://cdn.example/x"))
    );
    assert_eq!(platform.asked().len(), 2);
}

#[tokio::test]
async fn where_all_fail_the_last_one_says_how() {
    let (platform, mirror) = two_upstreams([
        Err(TransportError::Connect),
        answer(429, &[("retry-after", "9")], ""),
    ]);
    let seen = ask(&mirror, get(MANIFEST)).await;
    assert_eq!(
        (seen.status(), seen.header("retry-after")),
        (429, Some("9"))
    );
    // And the next request tries all the same.
    platform.will_answer([manifest()]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
}

#[tokio::test]
async fn a_blob_is_streamed_without_a_token_for_its_network() {
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
    let seen = ask(&mirror, request).await;
    assert_eq!((seen.status(), seen.text().as_str()), (206, "bytes"));
    assert_eq!(seen.header("content-range"), Some("bytes 5-9/10"));
    assert_eq!(
        seen.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(seen.header("docker-content-digest"), Some(DIGEST));
    assert_eq!(seen.header("location"), None);
    let requests = platform.requests();
    let last = requests.last().unwrap();
    assert_eq!(last.uri(), "https://cdn.example/signed?x=1");
    assert_eq!(last.headers().get("authorization"), None);
    assert_eq!(last.headers()["range"], "bytes=5-");
}

#[tokio::test]
async fn a_network_that_fails_gets_one_more_chance() {
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
        assert_eq!(ask(&mirror, get(&blob())).await.text(), "bytes");
        assert_eq!(platform.asked().last().unwrap(), "GET https://b.example/x");
    }
    let fault = || [redirect("https://a.example/x"), answer(500, &[], "")];
    let (platform, mirror) = streaming(fault().into_iter().chain(fault()));
    let seen = ask(&mirror, get(&blob())).await;
    assert_eq!((seen.status(), seen.code().as_str()), (404, "BLOB_UNKNOWN"));
    assert_eq!(platform.asked().len(), 4);
}

#[tokio::test]
async fn streaming_goes_only_where_the_policy_lets_it() {
    for location in [
        "https://10.0.0.1/x",
        "http://cdn.example/x",
        "https://metadata.internal/x",
        "file:///etc/passwd",
    ] {
        let (platform, mirror) = streaming([redirect(location), redirect(location)]);
        assert_eq!(ask(&mirror, get(&blob())).await.status(), 404, "{location}");
        assert_eq!(platform.asked().len(), 2);
    }
    let circle = |count| (0..count).map(|_| redirect("https://cdn.example/x"));
    let (platform, mirror) = streaming(circle(12));
    assert_eq!(ask(&mirror, get(&blob())).await.status(), 404);
    assert_eq!(platform.asked().len(), 12);
}

#[tokio::test]
async fn what_the_operator_has_closed_is_not_streamed_from_where_another_registry_leads_to_it() {
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
        // By way of a path that is no registry's, or it would be asked as one.
        let lead = || redirect("/cdn");
        let bytes = answer(200, &[], "bytes");
        let (platform, mirror) = streaming([
            lead(),
            redirect(&location),
            if status == 200 { bytes } else { lead() },
        ]);
        platform.will_answer([redirect(&location)]);
        platform.set_variable("denied_repositories", "team/secret");
        assert_eq!(
            ask(&mirror, get(&format!("{}?upstream=evil.example", blob())))
                .await
                .status(),
            status,
            "{location}"
        );
        assert!(
            !platform
                .asked()
                .iter()
                .any(|asked| asked.contains("docker.io")),
            "{location}"
        );
    }
}

#[tokio::test]
async fn a_listed_host_is_not_streamed_from_where_another_registry_leads_there() {
    let inside = || redirect("http://registry.lan:5000/anything");
    for (path, then, status) in [
        (blob(), answer(200, &[], "bytes"), 200),
        // A second redirect is asked for, and no more followed than the first.
        (format!("{}?upstream=evil.example", blob()), inside(), 404),
    ] {
        let (platform, mirror) = streaming([inside(), then]);
        platform.set_variable("plain_http_upstreams", "registry.lan:5000");
        assert_eq!(ask(&mirror, get(&path)).await.status(), status, "{path}");
        let asked = platform.asked();
        assert_eq!(
            asked.iter().any(|asked| asked.contains("registry.lan")),
            status == 200,
            "{asked:?}"
        );
    }
}

#[tokio::test]
async fn several_ranges_come_as_they_are_or_are_refused_as_too_many() {
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
    let seen = ask(&mirror, ranges()).await;
    assert_eq!(
        seen.header("content-type"),
        Some("multipart/byteranges; boundary=x")
    );

    let refused = || answer(400, &[], "");
    let at_the_network = vec![redirect("https://cdn.example/x"), refused()];
    for refused in [vec![refused()], at_the_network] {
        let (_, mirror) = streaming(refused);
        let seen = ask(&mirror, ranges()).await;
        assert_eq!(
            (seen.status(), seen.code().as_str()),
            (400, "RANGE_INVALID")
        );
    }
    let (_, mirror) = streaming([
        answer(206, &[("content-type", "multipart/byteranges")], ""),
        refused(),
    ]);
    assert_eq!(ask(&mirror, ranges()).await.status(), 206);
    assert_eq!(ask(&mirror, get(&blob())).await.status(), 404);
}
