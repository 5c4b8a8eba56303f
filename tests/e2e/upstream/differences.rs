//! Registries and token servers that do what the specifications do not say, as public reports have
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use crate::support::public_registries::{Host, PublicRegistries};
use test_support::answers::error;
use test_support::hub::Service;
use test_support::image::digest;
use test_support::server::{ReceivedRequest, Reply};

const REGISTRY: &str = "registry.example.com";

fn list(headers: &[(&str, &str)]) -> Reply {
    let headers = [&[("content-type", "application/json")], headers].concat();
    Reply::new(200, &headers, r#"{"name":"a","tags":[]}"#)
}

fn challenge(realm: &str, name: &str) -> Reply {
    let line = format!(r#"Bearer  realm="{realm}",service="s",scope="repository:{name}:pull""#);
    Reply::new(401, &[("www-authenticate", &line)], "")
}

fn token(token: &str) -> Reply {
    Reply::new(200, &[], format!(r#"{{"token":"{token}"}}"#))
}

async fn registry(
    script: impl Fn(&ReceivedRequest) -> Reply + Send + Sync + 'static,
) -> Option<PublicRegistries> {
    PublicRegistries::start([Host::new(REGISTRY, script)]).await
}

#[tokio::test]
async fn an_error_code_says_no_more_than_the_upstream_did() {
    let Some(registries) = registry(|received| match received.path() {
        "/v2/_catalog" if received.target.contains("n=") => error(400, "PAGINATION_NUMBER_INVALID"),
        path if path.starts_with("/v2/missing/") => error(404, "NAME_UNKNOWN"),
        _ => Reply::new(404, &[("content-type", "text/plain")], "404 page not found"),
    })
    .await
    else {
        return;
    };
    let referrers = format!("a/referrers/{}", digest(b"x"));
    let missing = format!("missing/referrers/{}", digest(b"x"));
    for (path, status, code) in [
        (referrers.as_str(), 404, "UNSUPPORTED"),
        (&missing, 404, "NAME_UNKNOWN"),
        ("a/tags/list", 404, "UNSUPPORTED"),
        ("missing/tags/list", 404, "NAME_UNKNOWN"),
        ("a/manifests/1", 404, "MANIFEST_UNKNOWN"),
        ("_catalog", 404, "UNSUPPORTED"),
    ] {
        let response = registries.request("GET", REGISTRY, path).await;
        let response = response.expect_error(status, code);
        assert!(!response.text().contains("as scripted"), "{path}");
        assert_eq!(
            response.text().contains("has no catalog"),
            path == "_catalog",
            "{path}"
        );
    }
    let target = format!("/v2/_catalog?n=100000&upstream={REGISTRY}");
    let response = registries.mirror.get(&target).send().await;
    response.expect_error(400, "PAGINATION_NUMBER_INVALID");
}

#[tokio::test]
async fn a_head_of_a_list_is_asked_by_get_where_there_is_none() {
    let Some(registries) = registry(|received| match &*received.method {
        "HEAD" => Reply::new(405, &[("allow", "GET")], ""),
        _ => list(&[]),
    })
    .await
    else {
        return;
    };
    for path in ["a/tags/list", "_catalog"] {
        let response = registries.request("HEAD", REGISTRY, path).await.expect(200);
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert!(response.body.is_empty());
        assert_eq!(
            registries.take_requests(),
            ["HEAD", "GET"].map(|method| format!("{method} https://{REGISTRY}/v2/{path}"))
        );
    }
}

#[tokio::test]
async fn a_list_goes_on_where_its_link_names_another_host() {
    for origin in [
        "http://registry.internal:5000",
        "https://registry.example.com:8443",
        "http://127.0.0.1/repository/docker",
        "//my_nexus.",
        "",
    ] {
        let link = format!("<{origin}/v2/a/tags/list?last=b&n=2>; rel=\"next\"");
        let Some(registries) = registry(move |_| list(&[("link", &link)])).await else {
            return;
        };
        let response = registries.request("GET", REGISTRY, "a/tags/list").await;
        assert_eq!(
            response.expect(200).header("link"),
            Some("</v2/a/tags/list?last=b&n=2&upstream=registry.example.com>; rel=\"next\""),
            "{origin}"
        );
    }
}

#[tokio::test]
async fn a_dead_token_is_replaced_after_a_400_or_403() {
    for status in [400, 403] {
        let tokens = Arc::new(AtomicUsize::new(0));
        let dead = Arc::new(AtomicUsize::new(0));
        let (issued, ended) = (Arc::clone(&tokens), Arc::clone(&dead));
        let Some(registries) = registry(move |received| {
            if received.path() == "/token" {
                let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
                return token(&format!("token-{number}"));
            }
            let sent = received.header("authorization").unwrap_or_default();
            let number = sent.strip_prefix("Bearer token-");
            match number.map(|number| number.parse::<usize>().expect("a number")) {
                None => challenge(&format!("https://{REGISTRY}/token"), "a"),
                Some(number) if number <= ended.load(Ordering::SeqCst) => error(status, "DENIED"),
                Some(_) => list(&[]),
            }
        })
        .await
        else {
            return;
        };
        let request = || registries.request("GET", REGISTRY, "a/tags/list");
        request().await.expect(200);
        request().await.expect(200);
        dead.store(1, Ordering::SeqCst);
        request().await.expect(200);
        assert_eq!(tokens.load(Ordering::SeqCst), 2, "{status}");
        // A refusal that is not the token's fault is believed after one more.
        dead.store(usize::MAX, Ordering::SeqCst);
        for _ in 0..3 {
            request().await.expect(status);
        }
        assert_eq!(tokens.load(Ordering::SeqCst), 3, "{status}");
    }
}

#[tokio::test]
async fn a_token_server_may_redirect() {
    for status in [301, 302, 303, 307, 308] {
        for location in ["/new?service=s", "https://auth.example.com/new?service=s"] {
            let registry = Host::new(REGISTRY, move |received| match received.path() {
                "/token" => Reply::new(status, &[("location", location)], ""),
                "/new" => token("good"),
                _ if received.header("authorization") == Some("Bearer good") => list(&[]),
                _ => challenge(&format!("https://{REGISTRY}/token"), "a"),
            });
            let auth = Host::new("auth.example.com", |received| {
                assert_eq!(received.header("authorization"), None);
                token("good")
            });
            let Some(registries) = PublicRegistries::start([registry, auth]).await else {
                return;
            };
            let response = registries.request("GET", REGISTRY, "a/tags/list").await;
            response.expect(200);
            assert_eq!(registries.take_requests().len(), 4, "{status} {location}");
        }
    }
}

#[tokio::test]
async fn repositories_with_realms_of_their_own_cost_one_request_each() {
    let Some(registries) = registry(|received| {
        let name = received.path().trim_start_matches("/v2/");
        let name = name.trim_start_matches('/').split('/').next();
        let name = name.expect("a name");
        let good = format!("Bearer {name}");
        match received.header("authorization") {
            _ if received.path().ends_with("/token") => token(name),
            Some(sent) if sent == good => list(&[]),
            _ => challenge(&format!("https://{REGISTRY}/{name}/token"), name),
        }
    })
    .await
    else {
        return;
    };
    for round in 0..4 {
        for name in ["one", "two"] {
            let path = format!("{name}/tags/list");
            registries.request("GET", REGISTRY, &path).await.expect(200);
            let requests = registries.take_requests();
            let expected = format!("GET https://{REGISTRY}/v2/{path} Bearer {name}");
            assert!(round < 2 || requests == [expected], "{requests:?}");
        }
    }
}

#[tokio::test]
async fn a_browser_may_read_an_open_mirror_and_no_other() {
    const ORIGIN: (&str, &str) = ("origin", "https://ui.example.com");
    let tags = format!("/v2/{NAME}/tags/list");
    let fixture = HubFixture::start().await;
    for (method, status) in [("GET", 200), ("HEAD", 200), ("OPTIONS", 204)] {
        let request = fixture.mirror.request(method, &tags);
        let response = request.header(ORIGIN.0, ORIGIN.1).send().await;
        let response = response.expect(status);
        let header = |name| response.header(name);
        assert_eq!(header("access-control-allow-origin"), Some("*"), "{method}");
        assert_eq!(header("access-control-allow-credentials"), None, "{method}");
        assert_eq!(
            header("access-control-allow-methods"),
            (method == "OPTIONS").then_some("GET, HEAD, OPTIONS")
        );
    }
    let secret = "a-secret-of-20-letters";
    let closed = HubFixture::with(|options| options.variable("secret", secret)).await;
    for (method, status) in [("GET", 200), ("OPTIONS", 405)] {
        let request = closed.mirror.request(method, &format!("/{secret}{tags}"));
        let response = request.header(ORIGIN.0, ORIGIN.1).send().await;
        let response = response.expect(status);
        assert_eq!(response.header("access-control-allow-origin"), None);
    }
}

#[tokio::test]
async fn a_cached_manifest_tells_the_limits_of_its_revalidation() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    hub.take_requests();
    let response = mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    assert!(
        response
            .header("cache-status")
            .is_some_and(|status| status.contains("revalidated")),
        "{response:?}"
    );
    assert_eq!(response.header("ratelimit-remaining"), Some("99;w=21600"));
    assert_eq!(hub.received(Service::Registry).len(), 1);
}

#[tokio::test]
async fn the_manual_shows_https_behind_several_proxies() {
    let HubFixture { mirror, .. } = HubFixture::start().await;
    for (name, value) in [
        ("x-forwarded-proto", "https,http"),
        ("x-forwarded-proto", "HTTPS"),
        (
            "forwarded",
            "for=192.0.2.1;proto=https, for=192.0.2.2;proto=http",
        ),
    ] {
        let request = mirror.get("/").host("mirror.example.org");
        let response = request.header(name, value).send().await.expect(200);
        assert!(
            response.text().contains("https://mirror.example.org"),
            "{name}: {value}"
        );
    }
}

#[tokio::test]
async fn a_registry_that_a_client_names_has_no_realm_elsewhere() {
    let victim = || Host::new("api.victim.test", |_| token("secret"));
    let registry = |realm: &'static str| {
        Host::new(REGISTRY, move |received| match received.path() {
            "/token" => Reply::new(302, &[("location", "https://api.victim.test/api?x=1")], ""),
            _ => challenge(realm, "a"),
        })
    };
    for realm in [
        "https://api.victim.test/api?x=1",
        "https://registry.example.com/token",
    ] {
        let hosts = [registry(realm), victim()];
        let Some(registries) = PublicRegistries::start(hosts).await else {
            return;
        };
        let response = registries.request("GET", REGISTRY, "a/tags/list").await;
        let response = response.expect_error(502, "UNAVAILABLE");
        assert!(!response.text().contains("secret"));
        let requests = registries.take_requests();
        let is_registrys =
            |request: &String| request.contains(REGISTRY) && !request.contains("secret");
        assert!(requests.iter().all(is_registrys), "{requests:?}");
    }
}

/// Buckets have names with `_`, and some registries end a host with a dot.
#[tokio::test]
async fn a_blob_may_be_at_any_host_that_resolves() {
    for location in [
        "https://my_bucket.s3.example.com/layer?sig=a%2Fb",
        "https://cdn.example.com./layer?sig=a%2Fb",
    ] {
        let Some(registries) =
            registry(move |_| Reply::new(307, &[("location", location)], "")).await
        else {
            return;
        };
        let blob = format!("a/blobs/{}", digest(b"a layer"));
        let response = registries.request("GET", REGISTRY, &blob).await.expect(307);
        assert_eq!(response.header("location"), Some(location));
    }
}
