//! The story on a scripted platform: what is asked of whom, in which order.

mod cached;
mod delivered;

use super::*;
use crate::platform::Fault;
use crate::scripted::{Exchanged, Scripted, StoreIs};
use http::StatusCode;
use std::time::Duration;

const MANIFEST: &str = "/v2/library/alpine/manifests/latest";
const HUB: &str = "https://registry-1.docker.io";
const TOKEN_URL: &str =
    "https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Alibrary%2Falpine%3Apull";
const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Exchanged {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Ok(response.body(body.as_bytes().to_vec()).unwrap())
}

fn manifest() -> Exchanged {
    answer(200, &[("content-type", "application/vnd.oci.image.index.v1+json")], "{}")
}

fn challenge_of(realm: &str, repository: &str) -> Exchanged {
    let challenge =
        format!(r#"Bearer realm="{realm}",service="registry.docker.io",scope="repository:{repository}:pull""#);
    answer(401, &[("www-authenticate", &challenge), ("set-cookie", "a=b")], "secret words")
}

fn challenge() -> Exchanged {
    challenge_of("https://auth.docker.io/token", "library/alpine")
}

fn token(token: &str) -> Exchanged {
    answer(200, &[], &format!(r#"{{"token":"{token}","expires_in":300}}"#))
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://mirror.example{path}")).body(()).unwrap()
}

struct Seen {
    response: Response<Body<Vec<u8>>>,
}

impl Seen {
    fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    fn text(&self) -> String {
        match self.response.body() {
            Body::Own(bytes) | Body::Upstream(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        }
    }

    fn code(&self) -> String {
        let document: serde_json::Value = serde_json::from_str(&self.text()).expect("an OCI error document");
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
async fn first_contact_asks_twice_and_fetches_one_token() {
    let platform = Scripted::new([challenge(), token("one"), manifest()]);
    let mirror = Mirror::new(platform.clone());
    let seen = ask(&mirror, get("/v2/alpine/manifests/latest")).await;
    assert_eq!(seen.status(), 200);
    assert_eq!(seen.header("www-authenticate"), None);
    assert_eq!(
        platform.asked(),
        [format!("GET {HUB}{MANIFEST}"), format!("GET {TOKEN_URL}"), format!("GET {HUB}{MANIFEST} Bearer one"),]
    );
    let log = platform.log();
    assert_eq!(log.len(), 1);
    assert!(log[0].contains("name=library/alpine reference=latest upstream=registry-1.docker.io status=200 requests=2 fetches=1 token=fetched"));
}

#[tokio::test]
async fn a_warm_request_asks_once_and_touches_no_store() {
    let (platform, mirror) = warm().await;
    let store_calls = platform.store_calls();
    platform.will_answer([manifest(), manifest()]);
    ask(&mirror, get(MANIFEST)).await;
    let head = Request::head(format!("http://mirror.example{MANIFEST}")).body(()).unwrap();
    ask(&mirror, head).await;
    assert_eq!(
        platform.asked(),
        [format!("GET {HUB}{MANIFEST} Bearer one"), format!("HEAD {HUB}{MANIFEST} Bearer one")]
    );
    assert_eq!(platform.store_calls(), store_calls);
}

#[tokio::test]
async fn a_new_repository_on_a_known_upstream_costs_one_token() {
    let (platform, mirror) = warm().await;
    platform.will_answer([token("two"), manifest()]);
    ask(&mirror, get("/v2/grafana/grafana/manifests/latest")).await;
    assert_eq!(
        platform.asked(),
        [
            "GET https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Agrafana%2Fgrafana%3Apull"
                .to_owned(),
            format!("GET {HUB}/v2/grafana/grafana/manifests/latest Bearer two"),
        ]
    );
}

#[tokio::test]
async fn an_upstream_without_authentication_is_asked_once_always() {
    let platform = Scripted::new([manifest(), manifest()]);
    let mirror = Mirror::new(platform.clone());
    let path = "/v2/dotnet/sdk/manifests/8.0?upstream=mcr.microsoft.com";
    ask(&mirror, get(path)).await;
    let store_calls = platform.store_calls();
    ask(&mirror, get(path)).await;
    assert_eq!(platform.asked(), ["GET https://mcr.microsoft.com/v2/dotnet/sdk/manifests/8.0"; 2]);
    assert_eq!(platform.store_calls(), store_calls);
}

#[tokio::test]
async fn a_new_instance_takes_the_token_from_the_store() {
    let (platform, _) = warm().await;
    platform.will_answer([manifest()]);
    ask(&Mirror::new(platform.clone()), get(MANIFEST)).await;
    assert_eq!(platform.asked(), [format!("GET {HUB}{MANIFEST} Bearer one")]);
    assert!(platform.log()[1].contains("token=store"));
}

#[tokio::test]
async fn a_token_is_used_until_shortly_before_its_end() {
    let (platform, mirror) = warm().await;
    platform.pass(Duration::from_secs(269));
    platform.will_answer([manifest()]);
    ask(&mirror, get(MANIFEST)).await;
    assert_eq!(platform.asked(), [format!("GET {HUB}{MANIFEST} Bearer one")]);
    platform.pass(Duration::from_secs(2));
    platform.will_answer([token("two"), manifest()]);
    ask(&mirror, get(MANIFEST)).await;
    assert_eq!(platform.asked(), [format!("GET {TOKEN_URL}"), format!("GET {HUB}{MANIFEST} Bearer two")]);
}

#[tokio::test]
async fn a_good_token_is_used_to_its_end_where_refreshing_fails() {
    for fault in [Err(Fault::TimedOut), answer(429, &[], ""), answer(403, &[], ""), answer(200, &[], "garbage")] {
        let (platform, mirror) = warm().await;
        platform.pass(Duration::from_secs(280));
        platform.will_answer([fault, manifest()]);
        assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
        assert_eq!(platform.asked(), [format!("GET {TOKEN_URL}"), format!("GET {HUB}{MANIFEST} Bearer one")]);
        platform.pass(Duration::from_secs(20));
        platform.will_answer([Err(Fault::Connect)]);
        assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 502);
    }
}

#[tokio::test]
async fn clocks_may_differ_and_tokens_may_have_no_life() {
    for (life, issued, fetches) in [
        ("300", "1970-01-12T13:36:40Z", 1), // ten minutes behind this mirror's clock
        ("300", "1970-01-12T13:56:40Z", 1), // and before it
        ("0", "1970-01-12T13:46:40Z", 2),
        ("-5", "1970-01-12T13:46:40Z", 2),
    ] {
        let granted = || answer(200, &[], &format!(r#"{{"token":"t","expires_in":{life},"issued_at":"{issued}"}}"#));
        let platform = Scripted::new([challenge(), granted(), manifest()]);
        let mirror = Mirror::new(platform.clone());
        assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
        platform.will_answer((1..fetches).map(|_| granted()).chain([manifest()]));
        assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
        let asked = platform.asked();
        assert_eq!(asked.iter().filter(|asked| asked.contains("/token")).count(), fetches, "{life} {issued}");
    }
}

#[tokio::test]
async fn refreshes_a_dead_token_once() {
    for instance_is_new in [false, true] {
        let (platform, mut mirror) = warm().await;
        if instance_is_new {
            mirror = Mirror::new(platform.clone());
        }
        platform.will_answer([challenge(), token("two"), manifest(), manifest()]);
        assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
        assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
        assert_eq!(
            platform.asked(),
            [
                format!("GET {HUB}{MANIFEST} Bearer one"),
                format!("GET {TOKEN_URL}"),
                format!("GET {HUB}{MANIFEST} Bearer two"),
                format!("GET {HUB}{MANIFEST} Bearer two"),
            ]
        );
    }
}

#[tokio::test]
async fn a_second_refusal_means_denied() {
    let (platform, mirror) = warm().await;
    platform.will_answer([challenge(), token("two"), challenge()]);
    let seen = ask(&mirror, get(MANIFEST)).await;
    assert_eq!((seen.status(), seen.code().as_str()), (403, "DENIED"));
    assert_eq!(seen.header("www-authenticate"), None);
    assert_eq!(seen.header("set-cookie"), None);
    assert!(!seen.text().contains("secret words"));
    assert_eq!(platform.asked().len(), 3);
}

#[tokio::test]
async fn an_upstream_may_change_its_mind() {
    // To another token server. What it answers to the old token may name one that has no anonymous users (nvcr.io).
    let (platform, mirror) = warm().await;
    platform.will_answer([
        challenge_of("https://private.example/token", "library/alpine"),
        challenge_of("https://new.example/token", "library/alpine"),
        token("new"),
        manifest(),
        manifest(),
    ]);
    ask(&mirror, get(MANIFEST)).await;
    ask(&mirror, get(MANIFEST)).await;
    assert_eq!(
        platform.asked(),
        [
            format!("GET {HUB}{MANIFEST} Bearer one"),
            format!("GET {HUB}{MANIFEST}"),
            TOKEN_URL.replace("https://auth.docker.io", "GET https://new.example"),
            format!("GET {HUB}{MANIFEST} Bearer new"),
            format!("GET {HUB}{MANIFEST} Bearer new"),
        ]
    );

    // To a token server that replaces one that is gone.
    let (platform, mirror) = warm().await;
    platform.pass(Duration::from_secs(300));
    platform.will_answer([Err(Fault::Connect)]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 502);
    platform.asked();
    platform.will_answer([challenge_of("https://new.example/token", "library/alpine"), token("new"), manifest()]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
    assert_eq!(platform.asked()[0], format!("GET {HUB}{MANIFEST}"));
}

#[tokio::test]
async fn the_same_scope_for_every_repository_is_one_token() {
    let aws =
        || answer(401, &[("www-authenticate", r#"Bearer realm="https://public.ecr.aws/token/",scope="aws""#)], "");
    let platform = Scripted::new([aws(), token("one"), manifest(), manifest()]);
    let mirror = Mirror::new(platform.clone());
    ask(&mirror, get("/v2/a/b/manifests/1?upstream=public.ecr.aws")).await;
    ask(&mirror, get("/v2/c/d/manifests/1?upstream=public.ecr.aws")).await;
    assert_eq!(
        platform.asked(),
        [
            "GET https://public.ecr.aws/v2/a/b/manifests/1",
            "GET https://public.ecr.aws/token/?scope=aws",
            "GET https://public.ecr.aws/v2/a/b/manifests/1 Bearer one",
            "GET https://public.ecr.aws/v2/c/d/manifests/1 Bearer one",
        ]
    );
}

#[tokio::test]
async fn a_missing_challenge_is_looked_for_at_the_ping() {
    let ping = answer(401, &[("www-authenticate", r#"Bearer realm="https://gcr.io/v2/token",service="gcr.io""#)], "");
    let platform = Scripted::new([answer(401, &[], ""), ping, token("one"), manifest()]);
    assert_eq!(ask(&Mirror::new(platform.clone()), get("/v2/p/i/manifests/1?upstream=gcr.io")).await.status(), 200);
    assert_eq!(
        platform.asked(),
        [
            "GET https://gcr.io/v2/p/i/manifests/1",
            "GET https://gcr.io/v2/",
            "GET https://gcr.io/v2/token?service=gcr.io&scope=repository%3Ap%2Fi%3Apull",
            "GET https://gcr.io/v2/p/i/manifests/1 Bearer one",
        ]
    );
}

#[tokio::test]
async fn simultaneous_first_requests_share_one_token() {
    let answers = (0..40).map(|_| challenge()).chain([token("one")]).chain((0..40).map(|_| manifest()));
    let platform = Scripted::new(answers);
    let mirror = Mirror::new(platform.clone());
    let seen = futures_util::future::join_all((0..40).map(|_| mirror.handle(get(MANIFEST)))).await;
    assert!(seen.iter().all(|response| response.status() == 200));
    let asked = platform.asked();
    assert_eq!(asked.iter().filter(|asked| asked.contains("/token")).count(), 1);
    assert_eq!(asked.len(), 81);
}

#[tokio::test]
async fn a_shared_fetch_that_fails_fails_all_and_the_next_request_tries_again() {
    let answers = (0..40).map(|_| challenge()).chain([answer(503, &[], "")]);
    let platform = Scripted::new(answers);
    let mirror = Mirror::new(platform.clone());
    let seen = futures_util::future::join_all((0..40).map(|_| mirror.handle(get(MANIFEST)))).await;
    assert!(seen.iter().all(|response| response.status() == 502));
    platform.will_answer([token("one"), manifest()]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
}

#[tokio::test]
async fn each_fault_of_a_token_server_has_its_answer() {
    let large = format!(r#"{{"token":"t","padding":"{}"}}"#, " ".repeat(1024 * 1024));
    for (fault, status, code) in [
        (Err(Fault::Connect), 502, "UNAVAILABLE"),
        (Err(Fault::TimedOut), 504, "UNAVAILABLE"),
        (answer(401, &[], "secret words"), 403, "DENIED"),
        (answer(403, &[], "secret words"), 403, "DENIED"),
        (answer(429, &[("retry-after", "60")], "secret words"), 429, "TOOMANYREQUESTS"),
        (answer(500, &[], "secret words"), 502, "UNAVAILABLE"),
        (answer(307, &[("location", "https://elsewhere.example/")], ""), 502, "UNAVAILABLE"),
        (answer(200, &[], "secret words"), 502, "UNAVAILABLE"),
        (answer(200, &[], &large), 502, "UNAVAILABLE"),
    ] {
        let described = format!("{fault:?}").chars().take(80).collect::<String>();
        let platform = Scripted::new([challenge(), fault]);
        let seen = ask(&Mirror::new(platform.clone()), get(MANIFEST)).await;
        assert_eq!((seen.status(), seen.code().as_str()), (status, code), "{described}");
        assert!(!seen.text().contains("secret words"));
        assert!(!platform.log()[0].contains("secret words"));
        assert_eq!(seen.header("retry-after"), (code == "TOOMANYREQUESTS").then_some("60"));
        assert!(platform.store().keys().all(|key| !key.starts_with("t-")));
    }
}

#[tokio::test]
async fn each_fault_of_an_upstream_has_its_answer() {
    let blob = format!("/v2/library/alpine/blobs/{DIGEST}");
    for (fault, manifest_sees, blob_sees) in [
        (Err(Fault::Dns), (502, "UNAVAILABLE"), (404, "BLOB_UNKNOWN")),
        (Err(Fault::Connect), (502, "UNAVAILABLE"), (404, "BLOB_UNKNOWN")),
        (Err(Fault::Tls), (502, "UNAVAILABLE"), (404, "BLOB_UNKNOWN")),
        (Err(Fault::TimedOut), (504, "UNAVAILABLE"), (404, "BLOB_UNKNOWN")),
        (Err(Fault::Forbidden), (502, "UNAVAILABLE"), (404, "BLOB_UNKNOWN")),
        (Err(Fault::Broken), (502, "UNAVAILABLE"), (404, "BLOB_UNKNOWN")),
        (answer(400, &[], "secret words"), (502, "UNAVAILABLE"), (404, "BLOB_UNKNOWN")),
        (answer(403, &[], "secret words"), (403, "DENIED"), (403, "DENIED")),
        (answer(404, &[], "secret words"), (404, "MANIFEST_UNKNOWN"), (404, "BLOB_UNKNOWN")),
        (answer(429, &[("retry-after", "7")], "secret words"), (429, "TOOMANYREQUESTS"), (429, "TOOMANYREQUESTS")),
        (answer(451, &[], "secret words"), (403, "DENIED"), (403, "DENIED")),
        (answer(500, &[], "secret words"), (502, "UNAVAILABLE"), (404, "BLOB_UNKNOWN")),
        (answer(503, &[], "secret words"), (503, "UNAVAILABLE"), (404, "BLOB_UNKNOWN")),
        (answer(204, &[], ""), (502, "UNAVAILABLE"), (404, "BLOB_UNKNOWN")),
        (answer(307, &[], ""), (502, "UNAVAILABLE"), (404, "BLOB_UNKNOWN")),
    ] {
        for (path, (status, code)) in [(MANIFEST, manifest_sees), (blob.as_str(), blob_sees)] {
            let fault = match &fault {
                Err(fault) => Err(*fault),
                Ok(response) => Ok(response.clone()),
            };
            let described = format!("{path} {fault:?}");
            let platform = Scripted::new([fault]);
            let seen = ask(&Mirror::new(platform.clone()), get(path)).await;
            assert_eq!((seen.status(), seen.code().as_str()), (status, code), "{described}");
            assert!(!seen.text().contains("secret words"));
            assert_eq!(seen.header("retry-after"), (code == "TOOMANYREQUESTS").then_some("7"));
        }
    }
}

#[tokio::test]
async fn a_store_in_any_state_costs_speed_only() {
    for state in [StoreIs::Broken, StoreIs::Hanging] {
        let platform = Scripted::new([challenge(), token("one"), manifest(), manifest()]);
        platform.set_store(state);
        let mirror = Mirror::new(platform.clone());
        assert_eq!(mirror.handle(get(MANIFEST)).await.status(), 200);
        assert_eq!(platform.store_calls(), 1, "it is left alone after a fault");
        assert_eq!(mirror.handle(get(MANIFEST)).await.status(), 200);
        assert!(platform.log()[0].starts_with("hammal store=failed reading="));
    }
}

#[tokio::test]
async fn what_the_store_holds_is_not_believed() {
    let nonsense = |value: &mut Vec<u8>| *value = b"\xff{".to_vec();
    let another = |value: &mut Vec<u8>| {
        let text = String::from_utf8(value.clone()).unwrap();
        *value = text
            .replace("library/alpine", "library/debian")
            .replace("registry-1.docker.io", "evil.example")
            .into_bytes();
    };
    let split = |value: &mut Vec<u8>| {
        let text = String::from_utf8(value.clone()).unwrap();
        *value = text
            .replace("\"one\"", r#""one\r\nHost: evil.example""#)
            .replace("https://auth", "file://auth")
            .into_bytes();
    };
    for change in [&nonsense as &dyn Fn(&mut Vec<u8>), &another, &split] {
        let (platform, _) = warm().await;
        platform.change_store(change);
        platform.will_answer([challenge(), token("two"), manifest()]);
        let seen = ask(&Mirror::new(platform.clone()), get(MANIFEST)).await;
        assert_eq!(seen.status(), 200);
        assert_eq!(platform.asked().last().unwrap(), &format!("GET {HUB}{MANIFEST} Bearer two"));
    }
}

#[tokio::test]
async fn a_million_names_would_not_grow_the_store() {
    let (platform, mirror) = warm().await;
    for number in 0..3000 {
        platform.will_answer([token("t"), answer(404, &[], "")]);
        ask(&mirror, get(&format!("/v2/invented/name-{number}/manifests/latest"))).await;
    }
    let store = platform.store();
    assert!(store.len() <= 1000, "{}", store.len());
    for (key, value) in store {
        assert!(key.len() <= 255 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{key}");
        assert!(value.len() < 1_000_000);
    }
}

#[tokio::test]
async fn manifests_are_followed_and_tokens_stay_with_their_registry() {
    let moved = answer(307, &[("location", "https://europe.pkg.example/v2/k8s/images/pause/manifests/3.9")], "");
    let elsewhere = challenge_of("https://europe.pkg.example/v2/token", "k8s/images/pause");
    let first = challenge_of("https://registry.k8s.io/token", "pause");
    let platform = Scripted::new([first, token("here"), moved, elsewhere, token("there"), manifest()]);
    let head = Request::head("http://mirror.example/v2/pause/manifests/3.9?upstream=registry.k8s.io").body(()).unwrap();
    assert_eq!(ask(&Mirror::new(platform.clone()), head).await.status(), 200);
    let service = "service=registry.docker.io&scope=repository";
    assert_eq!(
        platform.asked(),
        [
            "HEAD https://registry.k8s.io/v2/pause/manifests/3.9".to_owned(),
            format!("GET https://registry.k8s.io/token?{service}%3Apause%3Apull"),
            "HEAD https://registry.k8s.io/v2/pause/manifests/3.9 Bearer here".to_owned(),
            "HEAD https://europe.pkg.example/v2/k8s/images/pause/manifests/3.9".to_owned(),
            format!("GET https://europe.pkg.example/v2/token?{service}%3Ak8s%2Fimages%2Fpause%3Apull"),
            "HEAD https://europe.pkg.example/v2/k8s/images/pause/manifests/3.9 Bearer there".to_owned(),
        ]
    );
}

#[tokio::test]
async fn redirects_that_lead_in_circles_or_inside_are_refused() {
    let circle = || answer(302, &[("location", MANIFEST)], "");
    let platform = Scripted::new((0..6).map(|_| circle()));
    assert_eq!(ask(&Mirror::new(platform.clone()), get(MANIFEST)).await.status(), 502);
    assert_eq!(platform.asked().len(), 6);
    for location in [
        "http://registry-1.docker.io/",
        "https://127.0.0.1/",
        "https://metadata.internal/",
        "https://a@b.example/",
        "ftp://a.example/",
    ] {
        let platform = Scripted::new([answer(302, &[("location", location)], "")]);
        assert_eq!(ask(&Mirror::new(platform.clone()), get(MANIFEST)).await.status(), 502, "{location}");
        assert_eq!(platform.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_realm_inside_is_not_contacted() {
    for realm in ["http://auth.docker.io/token", "https://10.0.0.1/token", "https://token.svc/", "https://localhost/"] {
        let platform = Scripted::new([challenge_of(realm, "library/alpine")]);
        let seen = ask(&Mirror::new(platform.clone()), get(MANIFEST)).await;
        assert_eq!((seen.status(), seen.code().as_str()), (502, "UNAVAILABLE"), "{realm}");
        assert_eq!(platform.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_blobs_redirect_goes_back_untouched() {
    let path = format!("/v2/library/alpine/blobs/{DIGEST}");
    let signed = "https://cdn.example/blob?X-Sig=a%2Fb%3D&verify=1~2|3";
    for (location, sent) in [
        (signed, Some(signed)),
        ("/cdn/blob", Some("https://registry-1.docker.io/cdn/blob")),
        ("//cdn.example/x", Some("https://cdn.example/x")),
        ("http://cdn.example/x", None),
        ("https://mirror.example/v2/", None),
        ("javascript:alert(1)", None),
    ] {
        let platform = Scripted::new([answer(307, &[("location", location)], "<a href=...>")]);
        let seen = ask(&Mirror::new(platform.clone()), get(&path)).await;
        assert_eq!(seen.header("location"), sent, "{location}");
        assert_eq!(seen.status(), if sent.is_some() { 307 } else { 404 }, "{location}");
        assert_eq!(platform.asked().len(), 1);
    }
}

#[tokio::test]
async fn what_is_private_stays_here_and_what_matters_arrives() {
    let platform = Scripted::new([manifest()]);
    let request = Request::get(format!("http://mirror.example{MANIFEST}"))
        .header("authorization", "Basic c2VjcmV0")
        .header("cookie", "a=b")
        .header("x-forwarded-for", "192.0.2.1")
        .header("spin-client-addr", "192.0.2.1")
        .header("accept-encoding", "zstd")
        .header("accept", "application/vnd.oci.image.index.v1+json")
        .header("accept", "application/vnd.docker.distribution.manifest.v2+json")
        .header("if-none-match", "\"x\"")
        .header("range", "bytes=5-")
        .body(());
    ask(&Mirror::new(platform.clone()), request.unwrap()).await;
    let requests = platform.requests();
    let headers = requests[0].headers();
    let mut names: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "accept-encoding", "if-none-match", "range", "user-agent"]);
    assert_eq!(headers.get_all("accept").iter().count(), 2);
    assert_eq!(headers["accept-encoding"], "identity");
}

#[tokio::test]
async fn only_what_a_registry_says_comes_back() {
    let headers = [
        ("content-type", "application/vnd.oci.image.index.v1+json"),
        ("docker-content-digest", DIGEST),
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "99;w=21600"),
        ("docker-ratelimit-source", "192.0.2.1"),
        ("set-cookie", "a=b"),
        ("server", "nginx"),
        ("www-authenticate", "Bearer x=y"),
        ("content-security-policy", "upgrade"),
        ("strict-transport-security", "max-age=1"),
        ("access-control-allow-origin", "*"),
    ];
    let platform = Scripted::new([answer(200, &headers, "{}")]);
    let seen = ask(&Mirror::new(platform), get(MANIFEST)).await;
    let mut names: Vec<_> = seen.response.headers().keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "content-security-policy",
            "content-type",
            "docker-content-digest",
            "docker-distribution-api-version",
            "docker-ratelimit-source",
            "ratelimit-limit",
            "ratelimit-remaining",
            "x-content-type-options",
        ]
    );
    assert_eq!(seen.header("content-security-policy"), Some("default-src 'none'; sandbox"));
}

#[tokio::test]
async fn content_types_are_a_registrys() {
    let blob = format!("/v2/library/alpine/blobs/{DIGEST}");
    let referrers = format!("/v2/library/alpine/referrers/{DIGEST}");
    for (path, sent, seen_type) in [
        (
            MANIFEST,
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
        ),
        (MANIFEST, "application/json; charset=utf-8", Some("application/json; charset=utf-8")),
        (MANIFEST, "text/html", None),
        (MANIFEST, "application/vnd.evil", None),
        (&blob, "text/html", Some("application/octet-stream")),
        ("/v2/library/alpine/tags/list", "application/json", Some("application/json")),
        ("/v2/library/alpine/tags/list", "text/html", None),
        (&referrers, "application/vnd.oci.image.index.v1+json", Some("application/vnd.oci.image.index.v1+json")),
        (&referrers, "image/svg+xml", None),
    ] {
        let platform = Scripted::new([answer(200, &[("content-type", sent)], "<script>")]);
        let seen = ask(&Mirror::new(platform), get(path)).await;
        assert_eq!(seen.header("content-type"), Some(seen_type.unwrap_or("application/json")), "{path} {sent}");
        assert_eq!(seen.status(), if seen_type.is_some() { 200 } else { 502 }, "{path} {sent}");
    }
}

#[tokio::test]
async fn parts_and_conditions_come_back_with_their_headers() {
    let path = format!("/v2/library/alpine/blobs/{DIGEST}");
    for (status, headers) in [
        (206, &[("content-range", "bytes 5-9/10"), ("content-length", "5"), ("accept-ranges", "bytes")][..]),
        (304, &[("etag", "\"x\"")]),
        (416, &[("content-range", "bytes */10")]),
        (412, &[]),
    ] {
        let platform = Scripted::new([answer(status, headers, "")]);
        let seen = ask(&Mirror::new(platform), get(&path)).await;
        assert_eq!(seen.status(), status);
        for (name, value) in headers {
            assert_eq!(seen.header(name), Some(*value));
        }
    }
}

#[tokio::test]
async fn the_digest_that_a_manifest_was_asked_by_is_added_where_it_is_missing() {
    let platform = Scripted::new([manifest(), manifest()]);
    let mirror = Mirror::new(platform);
    let seen = ask(&mirror, get(&format!("/v2/library/alpine/manifests/{DIGEST}"))).await;
    assert_eq!(seen.header("docker-content-digest"), Some(DIGEST));
    assert_eq!(ask(&mirror, get(MANIFEST)).await.header("docker-content-digest"), None);
}

#[tokio::test]
async fn the_ping_is_answered_here_unless_an_upstream_is_named() {
    let platform = Scripted::new([
        answer(401, &[("www-authenticate", r#"Bearer realm="https://ghcr.io/token""#)], ""),
        token("one"),
        answer(200, &[("content-type", "text/html")], "<html>"),
    ]);
    let mirror = Mirror::new(platform.clone());
    for path in ["/v2", "/v2/", "/v2/?ns=docker.io"] {
        let seen = ask(&mirror, get(path)).await;
        assert_eq!((seen.status(), seen.text().as_str()), (200, "{}"));
        assert_eq!(seen.header("docker-distribution-api-version"), Some("registry/2.0"));
    }
    assert_eq!(platform.asked(), [""; 0]);
    let seen = ask(&mirror, get("/v2/?upstream=ghcr.io")).await;
    assert_eq!((seen.status(), seen.text().as_str()), (200, "{}"));
    assert_eq!(
        platform.asked(),
        ["GET https://ghcr.io/v2/", "GET https://ghcr.io/token", "GET https://ghcr.io/v2/ Bearer one"]
    );
}

#[tokio::test]
async fn containerd_is_told_that_its_namespace_was_understood() {
    let platform = Scripted::new([manifest(), manifest()]);
    let mirror = Mirror::new(platform.clone());
    assert_eq!(ask(&mirror, get(&format!("{MANIFEST}?ns=docker.io"))).await.header("oci-namespace"), Some("docker.io"));
    assert_eq!(ask(&mirror, get("/v2/a/b/manifests/1?ns=ghcr.io")).await.header("oci-namespace"), Some("ghcr.io"));
    assert_eq!(platform.asked(), [format!("GET {HUB}{MANIFEST}"), "GET https://ghcr.io/v2/a/b/manifests/1".to_owned()]);
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
        ("/v2/a/tags/list?upstream=http://ghcr.io", 400, "UNSUPPORTED"),
        ("/v2/a/tags/list?upstream=localhost:5000", 403, "DENIED"),
        ("/v2/a/tags/list?upstream=127.0.0.1", 403, "DENIED"),
        ("/127.0.0.1/v2/a/tags/list", 403, "DENIED"),
        ("/v2/10.0.0.1/a/tags/list", 403, "DENIED"),
        ("/v2/a/tags/list?ns=printer.local", 403, "DENIED"),
    ] {
        let platform = Scripted::new([]);
        let seen = ask(&Mirror::new(platform.clone()), get(path)).await;
        assert_eq!((seen.status(), seen.code().as_str()), (status, code), "{path}");
        assert_eq!(seen.header("content-type"), Some("application/json"));
        assert_eq!(platform.asked(), [""; 0]);
        assert_eq!(platform.log().len(), 1);
    }
    let write = Request::post("http://mirror.example/v2/a/blobs/uploads/").body(()).unwrap();
    let seen = ask(&Mirror::new(Scripted::new([])), write).await;
    assert_eq!((seen.status(), seen.code().as_str(), seen.header("allow")), (405, "UNSUPPORTED", Some("GET, HEAD")));
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
async fn heads_have_the_length_of_what_a_get_would_bring_and_no_body() {
    let head = |path: &str| Request::head(format!("http://mirror.example{path}")).body(()).unwrap();
    let mirror = Mirror::new(Scripted::new([]));
    for path in ["/", "/robots.txt", "/v2/", "/nothing"] {
        let (seen, got) = (ask(&mirror, head(path)).await, ask(&mirror, get(path)).await);
        assert_eq!(seen.text(), "");
        assert_eq!(seen.header("content-length"), Some(got.text().len().to_string().as_str()), "{path}");
        assert_eq!(got.response.status() == StatusCode::OK, path != "/nothing");
    }
}

#[tokio::test]
async fn no_token_is_in_the_log() {
    let platform = Scripted::new([challenge(), token("token-one"), challenge()]);
    let mirror = Mirror::new(platform.clone());
    ask(&mirror, get(MANIFEST)).await;
    platform.will_answer([challenge(), token("token-two"), challenge()]);
    ask(&mirror, get(MANIFEST)).await;
    let log = platform.log().join("\n");
    assert!(!log.contains("token-one") && !log.contains("token-two"), "{log}");
}

#[tokio::test]
async fn a_closed_mirror_shows_itself_to_who_knows_the_secret() {
    let platform = Scripted::new([]);
    platform.set_variable("secret", "0123456789abcdef");
    let mirror = Mirror::new(platform.clone());
    for path in
        ["/", "/v2/", MANIFEST, "/robots.txt", "/0123456789abcde/v2/", "/0123456789abcdefg/v2/", "/v2/0123456789abcdef"]
    {
        let seen = ask(&mirror, get(path)).await;
        assert_eq!((seen.status(), seen.code().as_str()), (404, "UNSUPPORTED"), "{path}");
    }
    let write = Request::post("http://mirror.example/v2/a/blobs/uploads/").body(()).unwrap();
    assert_eq!(ask(&mirror, write).await.status(), 404);
    for path in ["/0123456789abcdef", "/0123456789abcdef/", "/0123456789abcdef/v2/"] {
        assert_eq!(ask(&mirror, get(path)).await.status(), 200, "{path}");
    }
    let next = [("link", "</v2/a/b/tags/list?last=x>; rel=\"next\""), ("content-type", "application/json")];
    platform.will_answer([answer(200, &next, "{}"), answer(200, &next, "{}")]);
    let seen = ask(&mirror, get("/0123456789abcdef/v2/a/b/tags/list")).await;
    assert_eq!(seen.header("link"), Some("</0123456789abcdef/v2/a/b/tags/list?last=x>; rel=\"next\""));
    let seen = ask(&mirror, get("/0123456789abcdef/ghcr.io/v2/a/b/tags/list")).await;
    assert_eq!(seen.header("link"), Some("</0123456789abcdef/ghcr.io/v2/a/b/tags/list?last=x>; rel=\"next\""));
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
        assert_eq!(ask(&Mirror::new(platform.clone()), from("192.0.2.1:1")).await.status(), 200);
    }
    let mirror = Mirror::new(platform.clone());
    let seen = ask(&mirror, from("192.0.2.1:2")).await;
    assert_eq!((seen.status(), seen.code().as_str(), seen.header("retry-after")), (429, "TOOMANYREQUESTS", Some("20")));
    for _ in 0..10 {
        assert_eq!(ask(&mirror, from("192.0.2.2:1")).await.status(), 200);
    }
    assert_eq!(ask(&mirror, from("192.0.2.2:1")).await.status(), 429);
    platform.pass(Duration::from_secs(20));
    assert_eq!(ask(&mirror, from("192.0.2.1:1")).await.status(), 200);
    assert_eq!(ask(&mirror, from("192.0.2.2:1")).await.status(), 200);
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
        assert_eq!((seen.status(), seen.code().as_str()), (403, "DENIED"), "{path}");
    }
    assert_eq!(platform.asked(), [""; 0]);
    platform.will_answer([manifest(), manifest(), challenge_of("https://token.evil.example/", "team/app")]);
    assert_eq!(ask(&mirror, get(MANIFEST)).await.status(), 200);
    assert_eq!(ask(&mirror, get("/v2/library/alpine/manifests/latest?upstream=docker.io")).await.status(), 200);
    assert_eq!(ask(&mirror, get("/v2/team/app/manifests/1?upstream=ghcr.io")).await.status(), 502);
    assert_eq!(platform.asked().len(), 3);
}
