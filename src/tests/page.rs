//! The page, the speed test, the search and the status.

use super::*;

const LAYER: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn json(body: &str) -> Answer {
    answer(200, &[("content-type", "application/json")], body)
}

fn index() -> Answer {
    let index = "application/vnd.oci.image.index.v1+json";
    let body = format!(
        r#"{{"manifests":[{{"digest":"{LAYER}","platform":{{"os":"linux","architecture":"arm64"}}}},
            {{"digest":"{DIGEST}","platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
    );
    answer(200, &[("content-type", index)], &body)
}

fn image() -> Answer {
    let image = "application/vnd.oci.image.manifest.v1+json";
    let body = format!(
        r#"{{"layers":[{{"digest":"{DIGEST}","size":10}},{{"digest":"{LAYER}","size":11}}]}}"#
    );
    answer(200, &[("content-type", image)], &body)
}

fn mirror(
    answers: impl IntoIterator<Item = Answer>,
    settings: &[(&str, &str)],
) -> (Scripted, Mirror<Scripted>) {
    let platform = Scripted::new(answers);
    for (name, value) in settings {
        platform.set_variable(name, value);
    }
    (platform.clone(), Mirror::new(platform))
}

#[tokio::test]
async fn a_speed_test_is_led_to_the_largest_layer() {
    let cdn = "https://cdn.example/layer?signed";
    let (platform, mirror) = mirror([index(), image(), redirect(cdn)], &[]);
    let response = send(&mirror, get("/speed/m.example/a/b:1")).await;
    assert_eq!(response.status(), 307);
    assert_eq!(response.header("location"), Some(cdn));
    assert_eq!(response.header("docker-content-digest"), Some(LAYER));
    assert_eq!(response.header("content-length"), Some("0"));
    assert_eq!(
        platform.sent(),
        [
            "GET https://m.example/v2/a/b/manifests/1".to_owned(),
            format!("GET https://m.example/v2/a/b/manifests/{DIGEST}"),
            format!("GET https://m.example/v2/a/b/blobs/{LAYER}"),
        ]
    );
}

#[tokio::test]
async fn a_warm_speed_test_takes_two_requests() {
    let digest = |answer: Answer, digest: &str| {
        answer.map(|mut response| {
            let length = response.body().len().into();
            let headers = response.headers_mut();
            headers.insert("docker-content-digest", digest.parse().unwrap());
            headers.insert("content-length", length);
            response
        })
    };
    let body = |answer: &Answer| answer.as_ref().unwrap().body().clone();
    let image_digest = crate::oci::digest::Digest::of(&body(&image()));
    let index = || {
        let text = String::from_utf8(body(&index())).unwrap();
        let text = text.replace(DIGEST, image_digest.as_str());
        let digest_of_it = crate::oci::digest::Digest::of(text.as_bytes());
        let index = "application/vnd.oci.image.index.v1+json";
        let index = answer(200, &[("content-type", index)], &text);
        digest(index, digest_of_it.as_str())
    };
    let image = || digest(image(), image_digest.as_str());
    let redirect = || redirect("https://cdn.example/layer");
    let answers = [index(), image(), redirect(), index(), redirect()];
    let (platform, mirror) = mirror(answers, &[("manifest_cache", "on")]);
    platform.fail_at_end(TransportError::Connect);
    for requests in [3, 2] {
        let response = send(&mirror, get("/speed/m.example/a:1")).await;
        let sent = platform.sent();
        assert_eq!((response.status(), sent.len()), (307, requests), "{sent:?}");
    }
}

#[tokio::test]
async fn without_a_redirect_a_speed_test_goes_through_this_mirror() {
    let blob = answer(
        200,
        &[("content-type", "application/octet-stream")],
        "layer",
    );
    let own = format!("/v2/library/alpine/blobs/{LAYER}?upstream=docker.io");
    let (_, direct) = mirror([index(), image(), blob], &[]);
    let (platform, streaming) = mirror([index(), image()], &[("blob_delivery", "stream")]);
    for mirror in [direct, streaming] {
        let response = send(&mirror, get("/speed/docker.io/alpine")).await;
        assert_eq!(response.status(), 307);
        assert_eq!(response.header("location"), Some(own.as_str()));
    }
    assert_eq!(platform.sent().len(), 2);
}

#[tokio::test]
async fn a_speed_test_gets_the_real_status() {
    for (answers, status, code) in [
        (vec![answer(404, &[], "")], 404, "MANIFEST_UNKNOWN"),
        (vec![Err(TransportError::TimedOut)], 504, "UNAVAILABLE"),
        (
            vec![index(), image(), answer(404, &[], "")],
            404,
            "BLOB_UNKNOWN",
        ),
        (vec![index(), index()], 404, "MANIFEST_UNKNOWN"),
    ] {
        let (_, mirror) = mirror(answers, &[]);
        let response = send(&mirror, get("/speed/m.example")).await;
        assert_eq!(
            (response.status(), response.code().as_str()),
            (status, code)
        );
    }
    let settings = [("denied_repositories", "m.example/closed")];
    for (path, status) in [
        ("/speed/m.example/closed", 403),
        ("/speed/127.0.0.1", 403),
        ("/speed/m.example/A", 400),
        ("/speed/a b", 400),
    ] {
        let (platform, mirror) = mirror([], &settings);
        let path = path.replace(' ', "%20");
        assert_eq!(send(&mirror, get(&path)).await.status(), status, "{path}");
        assert!(platform.sent().is_empty());
    }
}

const FOUND: &str = r#"{"num_results":2,"query":"x","page":1,"extra":"<script>","results":[
    {"name":"nginx","description":"Web server","star_count":9,"is_official":true,"html":"<b>"},
    {"name":"bitnami/nginx","description":null},{"name":"../x"}]}"#;

#[tokio::test]
async fn a_search_passes_on_what_is_known_and_permitted() {
    let (platform, mirror) = mirror([json(FOUND)], &[("denied_repositories", "bitnami/*")]);
    let response = send(&mirror, get("/v1/search?q=nginx+a%26b&n=500&x=1")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        platform.sent(),
        ["GET https://index.docker.io/v1/search?q=nginx%20a%26b&n=100"]
    );
    let found: serde_json::Value = serde_json::from_str(&response.text()).unwrap();
    assert_eq!(found["results"].as_array().unwrap().len(), 1);
    assert_eq!(found["results"][0]["name"], "nginx");
    assert_eq!(found["query"], "nginx a&b");
    assert!(!response.text().contains('<'), "{}", response.text());
}

#[tokio::test]
async fn a_search_has_limits() {
    for (answer, status) in [
        (answer(404, &[], ""), 404),
        (answer(429, &[], ""), 429),
        (json("<html>"), 502),
        (json(&format!("\"{}\"", "x".repeat(600_000))), 502),
        (Err(TransportError::TimedOut), 504),
    ] {
        let (_, mirror) = mirror([answer], &[]);
        assert_eq!(send(&mirror, get("/v1/search?q=a")).await.status(), status);
    }
    let long = format!("/v1/search?q={}", "x".repeat(257));
    for path in ["/v1/search", "/v1/search?q=", "/v1/search?q=a&q=b", &long] {
        let (platform, mirror) = mirror([], &[]);
        assert_eq!(send(&mirror, get(path)).await.status(), 400, "{path}");
        assert!(platform.sent().is_empty());
    }
    let (_, limited) = mirror([json(FOUND)], &[("client_limit", "1")]);
    for status in [200, 429] {
        let mut request = get("/v1/search?q=a");
        let address = "192.0.2.1:1".parse().unwrap();
        request.headers_mut().insert("spin-client-addr", address);
        assert_eq!(send(&limited, request).await.status(), status);
    }
}

#[tokio::test]
async fn the_status_names_no_internal_host() {
    let settings = [
        ("upstream", "http://registry.lan:5000, mirror.gcr.io"),
        ("plain_http_upstreams", "registry.lan:5000"),
        ("allowed_upstreams", "ghcr.io"),
        ("client_limit", "60"),
    ];
    let (platform, mirror) = mirror([Err(TransportError::Connect), manifest()], &settings);
    let status = async || -> serde_json::Value {
        let response = send(&mirror, get("/status.json")).await;
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert!(!response.text().contains("lan"), "{}", response.text());
        serde_json::from_str(&response.text()).unwrap()
    };
    let first = status().await;
    assert_eq!(first["upstreams"][0]["state"], "up");
    assert_eq!(first["upstreams"][1]["host"], "mirror.gcr.io");
    assert_eq!(
        (&first["named_upstreams"], &first["client_limit"]),
        (&"listed".into(), &60.into())
    );
    assert!(platform.sent().is_empty());

    assert_eq!(send(&mirror, get("/v2/a/manifests/b")).await.status(), 200);
    assert_eq!(status().await["upstreams"][0]["state"], "down");
}

#[tokio::test]
async fn the_page_can_be_off_or_elsewhere() {
    const PAGE: [&str; 4] = ["/", "/page/page.js", "/status.json", "/speedtest.sh"];
    let (_, on) = mirror([], &[]);
    let (_, off) = mirror([json(FOUND)], &[("page", "off")]);
    let (_, elsewhere) = mirror([], &[("page", "https://example.org/docs?x")]);
    for path in PAGE {
        assert_eq!(send(&on, get(path)).await.status(), 200, "{path}");
        assert_eq!(send(&off, get(path)).await.status(), 404, "{path}");
        let status = if path == "/" { 302 } else { 404 };
        assert_eq!(send(&elsewhere, get(path)).await.status(), status, "{path}");
    }
    let sent = send(&elsewhere, get("/")).await;
    assert_eq!(sent.header("location"), Some("https://example.org/docs?x"));
    assert_eq!(send(&off, get("/robots.txt")).await.status(), 200);
    assert_eq!(send(&off, get("/v2/")).await.status(), 200);
    assert_eq!(send(&off, get("/v1/search?q=a")).await.status(), 200);
}

#[tokio::test]
async fn everything_is_behind_the_secret() {
    let secret = "0123456789abcdef";
    let (_, mirror) = mirror([], &[("secret", secret)]);
    for path in [
        "/",
        "/page/page.css",
        "/status.json",
        "/speedtest.sh",
        "/v1/_ping",
    ] {
        assert_eq!(send(&mirror, get(path)).await.status(), 404, "{path}");
        let behind = format!("/{secret}{path}");
        assert_eq!(send(&mirror, get(&behind)).await.status(), 200, "{path}");
    }
}
