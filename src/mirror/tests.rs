//! The story on a scripted platform: what is asked of whom, in which order.

mod answered;
mod authorised;
mod cached;
mod delivered;

use super::*;
use crate::platform::TransportError;
use crate::platform::scripted::{Exchanged, Scripted, StoreIs};
use http::StatusCode;
use std::time::Duration;

const MANIFEST: &str = "/v2/library/alpine/manifests/latest";
const HUB: &str = "https://registry-1.docker.io";
const TOKEN_URL: &str = "https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Alibrary%2Falpine%3Apull";
const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Exchanged {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Ok(response.body(body.as_bytes().to_vec()).unwrap())
}

fn manifest() -> Exchanged {
    answer(
        200,
        &[("content-type", "application/vnd.oci.image.index.v1+json")],
        "{}",
    )
}

fn challenge_of(realm: &str, repository: &str) -> Exchanged {
    let challenge = format!(
        r#"Bearer realm="{realm}",service="registry.docker.io",scope="repository:{repository}:pull""#
    );
    answer(
        401,
        &[("www-authenticate", &challenge), ("set-cookie", "a=b")],
        "secret words",
    )
}

fn challenge() -> Exchanged {
    challenge_of("https://auth.docker.io/token", "library/alpine")
}

fn token(token: &str) -> Exchanged {
    answer(
        200,
        &[],
        &format!(r#"{{"token":"{token}","expires_in":300}}"#),
    )
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://mirror.example{path}"))
        .body(())
        .unwrap()
}

struct Seen {
    response: Response<Body<Vec<u8>>>,
}

impl Seen {
    fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.response
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap())
    }

    fn text(&self) -> String {
        match self.response.body() {
            Body::Own(bytes) | Body::Upstream(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        }
    }

    fn code(&self) -> String {
        let document: serde_json::Value =
            serde_json::from_str(&self.text()).expect("an OCI error document");
        document["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

async fn ask(mirror: &Mirror<Scripted>, request: Request<()>) -> Seen {
    let response = mirror.handle(request).await;
    mirror.platform.settle().await;
    Seen { response }
}

/// A mirror that has fetched the token `one` for library/alpine.
async fn warm() -> (Scripted, Mirror<Scripted>) {
    let platform = Scripted::new([challenge(), token("one"), manifest()]);
    let mirror = Mirror::new(platform.clone());
    assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
    platform.asked();
    (platform, mirror)
}

#[tokio::test]
async fn the_ping_is_answered_here_unless_an_upstream_is_named() {
    let platform = Scripted::new([
        answer(
            401,
            &[(
                "www-authenticate",
                r#"Bearer realm="https://ghcr.io/token""#,
            )],
            "",
        ),
        token("one"),
        answer(200, &[("content-type", "text/html")], "<html>"),
    ]);
    let mirror = Mirror::new(platform.clone());
    for path in ["/v2", "/v2/", "/v2/?ns=docker.io"] {
        let seen = ask(&mirror, get(path)).await;
        assert_eq!((seen.status(), seen.text().as_str()), (200, "{}"));
        assert_eq!(
            seen.header("docker-distribution-api-version"),
            Some("registry/2.0")
        );
    }
    assert_eq!(platform.asked(), [""; 0]);
    let seen = ask(&mirror, get("/v2/?upstream=ghcr.io")).await;
    assert_eq!((seen.status(), seen.text().as_str()), (200, "{}"));
    assert_eq!(
        platform.asked(),
        [
            "GET https://ghcr.io/v2/",
            "GET https://ghcr.io/token",
            "GET https://ghcr.io/v2/ Bearer one"
        ]
    );
}

#[tokio::test]
async fn refusals_say_what_would_be_right() {
    for (path, status, code) in [
        ("/v2/A/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/a/manifests/.x", 404, "MANIFEST_INVALID"),
        ("/v2/a/manifests/sha256:1", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/latest", 400, "DIGEST_INVALID"),
        ("/v2/a/nothing", 404, "UNSUPPORTED"),
        ("/nothing", 404, "UNSUPPORTED"),
        ("/v2/a/tags/list?upstream=a%20b", 400, "UNSUPPORTED"),
        ("/v2/a/tags/list?upstream=", 400, "UNSUPPORTED"),
        (
            "/v2/a/tags/list?upstream=http://ghcr.io",
            400,
            "UNSUPPORTED",
        ),
        ("/v2/a/tags/list?upstream=localhost:5000", 403, "DENIED"),
        ("/v2/a/tags/list?upstream=127.0.0.1", 403, "DENIED"),
        ("/127.0.0.1/v2/a/tags/list", 403, "DENIED"),
        ("/v2/10.0.0.1/a/tags/list", 403, "DENIED"),
        ("/v2/a/tags/list?ns=printer.local", 403, "DENIED"),
    ] {
        let platform = Scripted::new([]);
        let seen = ask(&Mirror::new(platform.clone()), get(path)).await;
        assert_eq!(
            (seen.status(), seen.code().as_str()),
            (status, code),
            "{path}"
        );
        assert_eq!(seen.header("content-type"), Some("application/json"));
        assert_eq!(platform.asked(), [""; 0]);
        assert_eq!(platform.log().len(), 1);
    }
    let write = Request::post("http://mirror.example/v2/a/blobs/uploads/")
        .body(())
        .unwrap();
    let seen = ask(&Mirror::new(Scripted::new([])), write).await;
    assert_eq!(
        (seen.status(), seen.code().as_str(), seen.header("allow")),
        (405, "UNSUPPORTED", Some("GET, HEAD"))
    );
}

#[tokio::test]
async fn a_mistake_in_a_variable_is_named_but_not_shown() {
    let platform = Scripted::new([]);
    platform.set_variable("first_byte_timeout", "my secret");
    let seen = ask(&Mirror::new(platform.clone()), get(MANIFEST)).await;
    assert_eq!((seen.status(), seen.code().as_str()), (500, "UNKNOWN"));
    assert!(seen.text().contains("first_byte_timeout"));
    assert!(!format!("{}{:?}", seen.text(), platform.log()).contains("my secret"));
}

#[tokio::test]
async fn nothing_is_served_while_the_variables_cannot_be_read() {
    let platform = Scripted::new([]);
    platform.let_variables_fail();
    let seen = ask(&Mirror::new(platform.clone()), get(MANIFEST)).await;
    assert_eq!((seen.status(), seen.code().as_str()), (500, "UNKNOWN"));
    assert!(
        seen.text()
            .contains("the variable upstream of this mirror must be readable")
    );
    assert!(platform.log()[0].contains("its provider failed"));
}

#[tokio::test]
async fn a_closed_mirror_shows_itself_to_who_knows_the_secret() {
    let platform = Scripted::new([]);
    platform.set_variable("secret", "0123456789abcdef");
    let mirror = Mirror::new(platform.clone());
    for path in [
        "/",
        "/v2/",
        MANIFEST,
        "/robots.txt",
        "/0123456789abcde/v2/",
        "/0123456789abcdefg/v2/",
        "/v2/0123456789abcdef",
    ] {
        let seen = ask(&mirror, get(path)).await;
        assert_eq!(
            (seen.status(), seen.code().as_str()),
            (404, "UNSUPPORTED"),
            "{path}"
        );
    }
    let write = Request::post("http://mirror.example/v2/a/blobs/uploads/")
        .body(())
        .unwrap();
    assert_eq!(ask(&mirror, write).await.status(), 404);
    for path in [
        "/0123456789abcdef",
        "/0123456789abcdef/",
        "/0123456789abcdef/v2/",
    ] {
        assert_eq!(ask(&mirror, get(path)).await.status(), 200, "{path}");
    }
    let next = [
        ("link", "</v2/a/b/tags/list?last=x>; rel=\"next\""),
        ("content-type", "application/json"),
    ];
    platform.will_answer([answer(200, &next, "{}"), answer(200, &next, "{}")]);
    let seen = ask(&mirror, get("/0123456789abcdef/v2/a/b/tags/list")).await;
    assert_eq!(
        seen.header("link"),
        Some("</0123456789abcdef/v2/a/b/tags/list?last=x>; rel=\"next\"")
    );
    let seen = ask(&mirror, get("/0123456789abcdef/ghcr.io/v2/a/b/tags/list")).await;
    assert_eq!(
        seen.header("link"),
        Some("</0123456789abcdef/ghcr.io/v2/a/b/tags/list?last=x>; rel=\"next\"")
    );
    assert!(!platform.log().join("\n").contains("0123456789abcdef"));
}

#[tokio::test]
async fn a_client_over_its_limit_waits_and_others_do_not() {
    let platform = Scripted::new((0..22).map(|_| manifest()));
    platform.set_variable("client_limit", "10");
    let from = |address: &str| {
        Request::get(format!("http://mirror.example{MANIFEST}"))
            .header("spin-client-addr", "192.0.2.9:1") // what a client claims comes first
            .header("spin-client-addr", address)
            .body(())
            .unwrap()
    };
    // Instances hand on what they have counted.
    for _ in 0..10 {
        assert_eq!(
            ask(&Mirror::new(platform.clone()), from("192.0.2.1:1"))
                .await
                .status(),
            200
        );
    }
    let mirror = Mirror::new(platform.clone());
    let seen = ask(&mirror, from("192.0.2.1:2")).await;
    assert_eq!(
        (
            seen.status(),
            seen.code().as_str(),
            seen.header("retry-after")
        ),
        (429, "TOOMANYREQUESTS", Some("20"))
    );
    for _ in 0..10 {
        assert_eq!(ask(&mirror, from("192.0.2.2:1")).await.status(), 200);
    }
    assert_eq!(ask(&mirror, from("192.0.2.2:1")).await.status(), 429);
    platform.pass(Duration::from_secs(20));
    assert_eq!(ask(&mirror, from("192.0.2.1:1")).await.status(), 200);
    assert_eq!(ask(&mirror, from("192.0.2.2:1")).await.status(), 200);
}

#[tokio::test]
async fn a_limit_holds_too_where_no_instance_answers_a_second_request() {
    let platform = Scripted::new((0..100).map(|_| manifest()));
    platform.set_variable("client_limit", "100");
    for asked in 1..=101 {
        let request = Request::get(format!("http://mirror.example{MANIFEST}"))
            .header("spin-client-addr", "192.0.2.1:1");
        let seen = ask(&Mirror::new(platform.clone()), request.body(()).unwrap()).await;
        assert_eq!(
            seen.status(),
            if asked <= 100 { 200 } else { 429 },
            "{asked}"
        );
    }
}

#[tokio::test]
async fn a_repository_that_is_closed_at_one_upstream_is_asked_of_the_others_only() {
    for (denied, path, asked) in [
        (
            "docker.io/secret/*",
            "/v2/secret/app/manifests/1",
            vec!["GET https://first.example/v2/secret/app/manifests/1"],
        ),
        (
            "docker.io/library/*",
            "/v2/alpine/manifests/1",
            vec!["GET https://first.example/v2/alpine/manifests/1"],
        ),
        (
            "first.example/a/*",
            "/v2/a/b/manifests/1",
            vec!["GET https://registry-1.docker.io/v2/a/b/manifests/1"],
        ),
        ("library/*", "/v2/library/alpine/manifests/1", vec![]),
    ] {
        let platform = Scripted::new([answer(500, &[], ""), manifest()]);
        platform.set_variable("upstream", "first.example, docker.io");
        platform.set_variable("denied_repositories", denied);
        let seen = ask(&Mirror::new(platform.clone()), get(path)).await;
        assert_eq!(
            seen.status(),
            if asked.is_empty() { 403 } else { 502 },
            "{denied}"
        );
        assert_eq!(platform.asked(), asked, "{denied}");
    }
}

#[tokio::test]
async fn what_the_operator_closed_is_not_asked() {
    let platform = Scripted::new([]);
    for (name, value) in [
        ("allowed_upstreams", "ghcr.io, *.example.com"),
        ("denied_upstreams", "bad.example.com"),
        ("allowed_repositories", "library/*, ghcr.io/team/*"),
        ("denied_repositories", "ghcr.io/team/secret"),
    ] {
        platform.set_variable(name, value);
    }
    let mirror = Mirror::new(platform.clone());
    for path in [
        "/v2/a/b/tags/list?upstream=quay.io",
        "/v2/a/b/tags/list?upstream=bad.example.com",
        "/v2/a/b/tags/list?upstream=a.example.com",
        "/v2/a/b/tags/list",
        "/v2/team/secret/tags/list?upstream=ghcr.io",
        "/v2/other/app/tags/list?upstream=ghcr.io",
    ] {
        let seen = ask(&mirror, get(path)).await;
        assert_eq!(
            (seen.status(), seen.code().as_str()),
            (403, "DENIED"),
            "{path}"
        );
    }
    assert_eq!(platform.asked(), [""; 0]);
    platform.will_answer([
        manifest(),
        manifest(),
        challenge_of("https://token.evil.example/", "team/app"),
    ]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
    assert_eq!(
        ask(
            &mirror,
            get("/v2/library/alpine/manifests/latest?upstream=docker.io")
        )
        .await
        .status(),
        200
    );
    assert_eq!(
        ask(&mirror, get("/v2/team/app/manifests/1?upstream=ghcr.io"))
            .await
            .status(),
        502
    );
    assert_eq!(platform.asked().len(), 3);
}

#[tokio::test]
async fn a_request_that_has_come_through_three_mirrors_goes_no_further() {
    let (platform, mirror) = warm().await;
    platform.will_answer([manifest()]);
    let through = |hops: &'static str| {
        let mut request = get(MANIFEST);
        request
            .headers_mut()
            .insert("cdn-loop", hops.parse().unwrap());
        request
    };
    assert_eq!(
        ask(&mirror, through("hammal, cloudflare, hammal"))
            .await
            .status(),
        200
    );
    let sent = platform.requests();
    assert_eq!(sent[0].headers()["cdn-loop"], "hammal, hammal, hammal");
    let seen = ask(&mirror, through("hammal, hammal, hammal")).await;
    assert_eq!((seen.status(), seen.code().as_str()), (508, "UNSUPPORTED"));
    assert!(platform.asked().is_empty());
    assert!(
        platform
            .log()
            .last()
            .unwrap()
            .contains("upstream=registry-1.docker.io status=508 requests=0")
    );
}

#[tokio::test]
async fn the_catalog_is_closed_where_repositories_are() {
    for (variable, value) in [
        ("allowed_repositories", "library/*"),
        ("denied_repositories", "team/secret"),
    ] {
        let platform = Scripted::new([]);
        platform.set_variable(variable, value);
        let mirror = Mirror::new(platform.clone());
        for path in ["/v2/_catalog", "/v2/_catalog?upstream=ghcr.io"] {
            let seen = ask(&mirror, get(path)).await;
            assert_eq!((seen.status(), seen.code().as_str()), (403, "DENIED"));
        }
        assert!(platform.asked().is_empty());
    }
}
