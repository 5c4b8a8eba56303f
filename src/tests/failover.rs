//! Several upstreams.

use super::*;

fn two_upstreams(answers: impl IntoIterator<Item = Answer>) -> (Scripted, Mirror<Scripted>) {
    let platform = Scripted::new(answers);
    platform.set_variable("upstream", "first.example, docker.io");
    (platform.clone(), Mirror::new(platform))
}

#[tokio::test]
async fn asks_the_next_upstream_where_one_fails() {
    for fault in [
        Err(TransportError::Connect),
        Err(TransportError::TimedOut),
        answer(429, &[], ""),
        answer(500, &[], ""),
        answer(503, &[], ""),
    ] {
        let (platform, mirror) = two_upstreams([fault, manifest(), manifest()]);
        assert_eq!(
            send(&mirror, get("/v2/alpine/manifests/latest"))
                .await
                .status(),
            200
        );
        // The one that failed is left alone for a while, by other instances too.
        assert_eq!(
            send(
                &Mirror::new(platform.clone()),
                get("/v2/alpine/manifests/latest")
            )
            .await
            .status(),
            200
        );
        assert_eq!(
            platform.sent(),
            [
                "GET https://first.example/v2/alpine/manifests/latest".to_owned(),
                format!("GET {HUB}{MANIFEST}"),
                format!("GET {HUB}{MANIFEST}"),
            ]
        );
        assert!(
            platform.log()[0]
                .contains("upstream=registry-1.docker.io status=200 upstream_requests=2")
        );
        platform.advance(Duration::from_secs(21));
        platform.add_answers([manifest()]);
        send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
        assert_eq!(
            platform.sent(),
            ["GET https://first.example/v2/library/alpine/manifests/latest"]
        );
    }
}

#[tokio::test]
async fn asks_the_next_upstream_after_a_web_page_without_marking_it_down() {
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
            send(&mirror, get("/v2/alpine/manifests/latest"))
                .await
                .status(),
            200
        );
        let first = "GET https://first.example/v2/alpine/manifests/latest".to_owned();
        assert_eq!(platform.sent(), [first, format!("GET {HUB}{MANIFEST}")]);
    }
}

#[tokio::test]
async fn a_negative_answer_of_the_first_upstream_is_final() {
    for (sent, status) in [(answer(404, &[], ""), 404), (answer(403, &[], ""), 403)] {
        let (platform, mirror) = two_upstreams([sent]);
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), status);
        assert_eq!(platform.sent().len(), 1);
    }
}

#[tokio::test]
async fn a_lower_upstreams_404_does_not_speak_for_one_that_failed() {
    let lacks = || answer(404, &[], "");
    let limit = || answer(429, &[("retry-after", "9")], "");
    for path in [MANIFEST, "/v2/library/alpine/tags/list"] {
        let (platform, mirror) = two_upstreams([limit(), lacks()]);
        let received = send(&mirror, get(path)).await;
        assert_eq!(
            (received.status(), received.header("retry-after")),
            (429, Some("9"))
        );
        // While it is down it is asked last, but it is asked.
        platform.add_answers([lacks(), manifest()]);
        assert_eq!(send(&mirror, get(path)).await.status(), 200);
        platform.add_answers([lacks(), limit()]);
        assert_eq!(send(&mirror, get(path)).await.status(), 429);
        platform.add_answers([lacks(), lacks()]);
        assert_eq!(send(&mirror, get(path)).await.status(), 404);
        assert_eq!(platform.sent().len(), 8);
    }
}

#[tokio::test]
async fn a_lower_upstreams_404_does_not_speak_for_one_that_sent_something_else() {
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
            send(&mirror, get(path)).await.status(),
            status,
            "{path} {status}"
        );
    }
    // The range is wrong there too.
    let (platform, mirror) = two_upstreams([Err(TransportError::Connect), answer(416, &[], "")]);
    assert_eq!(send(&mirror, get(&blob())).await.status(), 416);
    platform.add_answers([answer(416, &[], "")]);
    assert_eq!(send(&mirror, get(&blob())).await.status(), 416);
}

#[tokio::test]
async fn asks_for_the_next_page_where_the_first_came_from() {
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
    let received = send(&mirror, get("/v2/alpine/tags/list")).await;
    let next = received
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
    platform.advance(Duration::from_secs(21));
    assert_eq!(send(&mirror, get(&next)).await.status(), 200);
    assert_eq!(
        platform.sent()[2],
        format!("GET {HUB}/v2/library/alpine/tags/list?last=x")
    );

    // Where an upstream is that only the operator can open is not told.
    let (platform, mirror) = two_upstreams([page()]);
    platform.set_variable("upstream", "http://10.0.0.5:5000, docker.io");
    platform.set_variable("plain_http_upstreams", "10.0.0.5:5000");
    let received = send(&mirror, get("/v2/alpine/tags/list")).await;
    assert_eq!(
        received.header("link"),
        Some("</v2/library/alpine/tags/list?last=x>; rel=\"next\"")
    );
}

#[tokio::test]
async fn asks_the_next_upstream_where_a_redirect_is_unusable() {
    let good = || redirect("https://cdn.example/x");
    for bad in [
        redirect("http://cdn.example/x"),
        redirect("https://mirror.example/x"),
        answer(307, &[], ""),
    ] {
        let (_, mirror) = two_upstreams([bad, good()]);
        assert_eq!(
            send(&mirror, get(&blob())).await.header("location"),
            Some("https://cdn.example/x")
        );
    }
    let (_, mirror) = two_upstreams([answer(307, &[], ""), manifest()]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
    let (_, mirror) = two_upstreams([
        redirect("http://cdn.example/x"),
        redirect("javascript:alert(1)"),
    ]);
    assert_eq!(send(&mirror, get(&blob())).await.status(), 404);
}

#[tokio::test]
async fn a_fault_of_one_repository_marks_no_upstream_down() {
    let manifest_refused = || [answer(307, &[("location", "https://10.0.0.1/x")], "")];
    let token_refused = || [challenge(), answer(410, &[], "")];
    let (platform, mirror) = two_upstreams([]);
    for refused in [&manifest_refused() as &[Answer], &token_refused()] {
        let again = refused
            .iter()
            .map(|exchanged| Ok(exchanged.as_ref().unwrap().clone()));
        platform.add_answers(again.chain([manifest()]));
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
        assert_eq!(
            platform.sent()[0],
            format!("GET https://first.example{MANIFEST}")
        );
    }
    let (platform, mirror) = streaming([]);
    platform.set_variable("upstream", "first.example, docker.io");
    for _ in 0..2 {
        let missing = || [redirect("https://cdn.example/x"), answer(404, &[], "")];
        platform.add_answers(missing().into_iter().chain(missing()).chain([answer(
            200,
            &[],
            "bytes",
        )]));
        assert_eq!(send(&mirror, get(&blob())).await.text(), "bytes");
        assert_eq!(
            platform.sent()[0],
            format!("GET https://first.example{}", blob())
        );
    }
}

#[tokio::test]
async fn gets_a_blob_from_any_upstream_that_has_it() {
    let (platform, mirror) =
        two_upstreams([answer(404, &[], ""), redirect("https://cdn.example/x")]);
    let received = send(&mirror, get(&blob())).await;
    assert_eq!(
        (received.status(), received.header("location")),
        (307, Some("https://cdn.example/x"))
    );
    assert_eq!(platform.sent().len(), 2);
}

#[tokio::test]
async fn where_all_fail_the_last_error_counts() {
    let (platform, mirror) = two_upstreams([
        Err(TransportError::Connect),
        answer(429, &[("retry-after", "9")], ""),
    ]);
    let received = send(&mirror, get(MANIFEST)).await;
    assert_eq!(
        (received.status(), received.header("retry-after")),
        (429, Some("9"))
    );
    // And the next request tries all the same.
    platform.add_answers([manifest()]);
    assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
}
