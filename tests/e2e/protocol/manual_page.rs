//! The manual page, `robots.txt`, the ping, and paths that do not exist.

use crate::support::hub_fixture::HubFixture;
use test_support::hub::Service;

#[tokio::test]
async fn the_page_shows_the_address_of_the_mirror() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let page = mirror.get("/").send().await.expect(200);
    assert!(
        page.header("content-type")
            .is_some_and(|value| value.starts_with("text/html")),
        "{page:?}"
    );
    let own = mirror.address().to_string();
    assert!(page.text().contains(&own), "{}", page.text());
    assert!(page.text().contains("registry-mirrors"), "{}", page.text());
    assert!(page.text().contains("/speed/docker.io"), "{}", page.text());
    assert_eq!(
        page.header("content-length"),
        Some(&*page.body.len().to_string())
    );
    assert!(hub.requests().is_empty());

    let named = mirror
        .get("/")
        .host("mirror.example.com")
        .send()
        .await
        .expect(200);
    assert!(
        named.text().contains("mirror.example.com"),
        "{}",
        named.text()
    );
}

#[tokio::test]
async fn the_page_escapes_the_host_header() {
    let HubFixture { mirror, .. } = HubFixture::start().await;
    for host in [
        "a\"><script>alert(1)</script>",
        "a<b",
        "a&b=c",
        "a'onload='x",
    ] {
        let Ok(page) = mirror.get("/").host(host).try_send().await else {
            continue;
        };
        let text = String::from_utf8_lossy(&page.body);
        assert!(
            !text.contains("<script>alert") && !text.contains("a<b") && !text.contains("'onload='"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn head_of_the_page_has_its_length() {
    let HubFixture { mirror, .. } = HubFixture::start().await;
    let page = mirror.get("/").send().await.expect(200);
    let head = mirror.head("/").send().await.expect(200);
    assert!(head.body.is_empty());
    assert_eq!(
        head.header("content-length"),
        Some(&*page.body.len().to_string())
    );
}

#[tokio::test]
async fn the_page_and_its_files_are_sent_once() {
    let HubFixture { mirror, .. } = HubFixture::start().await;
    for path in [
        "/",
        "/page/page.css",
        "/page/page.js",
        "/page/icon.svg",
        "/speedtest.sh",
    ] {
        let first = mirror.get(path).send().await.expect(200);
        let policy = first.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        let etag = first.header("etag").expect("an ETag");
        let again = mirror.get(path).header("if-none-match", etag).send().await;
        assert_eq!(
            (again.status.as_u16(), again.body.len()),
            (304, 0),
            "{path}"
        );
        assert_eq!(again.header("etag"), Some(etag), "{path}");
        let head = mirror.head(path).send().await.expect(200);
        assert_eq!(
            head.header("content-length"),
            first.header("content-length"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn robots_txt_disallows_everything() {
    let HubFixture { mirror, .. } = HubFixture::start().await;
    let robots = mirror.get("/robots.txt").send().await.expect(200);
    assert!(
        robots
            .header("content-type")
            .is_some_and(|value| value.starts_with("text/plain")),
        "{robots:?}"
    );
    assert_eq!(robots.text().trim(), "User-agent: *\nDisallow: /");
}

#[tokio::test]
async fn other_paths_are_not_found() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    for target in [
        "/index.html",
        "/favicon.ico",
        "/v1/",
        "/v3/",
        "/.env",
        "/v2x",
        "//v2/",
        "/%2e%2e/etc/passwd",
        "/V2/",
    ] {
        let response = mirror.get(target).send().await;
        assert_eq!(response.status, 404, "{target}: {response:?}");
        assert_eq!(
            response.header("content-type"),
            Some("application/json"),
            "{target}: {response:?}"
        );
        assert!(
            response.json()["errors"][0]["code"].is_string(),
            "{target}: {response:?}"
        );
    }
    assert!(hub.received(Service::Registry).is_empty());
}

#[tokio::test]
async fn the_ping_works_with_and_without_its_slash() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    for target in ["/v2", "/v2/", "/v2/?x=1"] {
        for method in ["GET", "HEAD"] {
            let ping = mirror.request(method, target).send().await.expect(200);
            assert_eq!(
                ping.header("docker-distribution-api-version"),
                Some("registry/2.0")
            );
            assert_eq!(ping.header("content-type"), Some("application/json"));
            assert_eq!(ping.header("content-length"), Some("2"));
            assert_eq!(ping.text(), if method == "GET" { "{}" } else { "" });
        }
    }
    assert!(hub.requests().is_empty());
}
