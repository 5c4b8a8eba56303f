//! `?upstream=`: the forms of its value, invalid values, and addresses that must not be contacted.

use crate::support::client::Response;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME, TAG};
use crate::support::mirror::{Mirror, Options};
use test_support::hub::{Hub, Service};
use test_support::image::{DOCKER, Image};
use test_support::server::{Server, closed_address};

const TARGET: &str = "/v2/team/app/manifests/1.0";

/// A mirror whose default upstream does not exist, and a registry that requests select.
async fn other() -> (Mirror, Hub) {
    let hub = Hub::start().await;
    hub.push("team/app", "1.0", &Image::oci());
    let mirror = Options::default()
        .upstream(closed_address().await)
        .plain_http(hub.addresses())
        .start()
        .await;
    (mirror, hub)
}

async fn get(mirror: &Mirror, query: &str) -> Response {
    mirror.get_manifest(&format!("{TARGET}?{query}")).await
}

#[tokio::test]
async fn an_upstream_is_accepted_in_every_form() {
    let (mirror, hub) = other().await;
    let address = hub.address();
    let encoded = address.to_string().replace(':', "%3A");
    let forms = [
        format!("upstream={address}"),
        format!("upstream={encoded}"),
        format!("upstream=http://{address}"),
        format!("upstream=http://{address}/"),
        format!("upstream=http%3A%2F%2F{encoded}"),
        format!("x=1&upstream={address}"),
    ];
    for form in forms {
        let response = get(&mirror, &form).await;
        assert_eq!(response.status, 200, "{form}: {response:?}");
    }
    assert!(
        hub.received(Service::Registry)
            .iter()
            .all(|received| !received.target.contains("upstream")),
        "{:?}",
        hub.requests()
    );
}

#[tokio::test]
async fn other_query_parameters_are_kept() {
    let (mirror, hub) = other().await;
    let address = hub.address();
    let cases = [
        (
            format!("n=2&upstream={address}&last=a%2Fb+c"),
            "?n=2&last=a%2Fb+c",
        ),
        (format!("upstream={address}&x"), "?x"),
        (format!("upstream={address}"), ""),
        (
            format!("n=1&upstreams=a&upstream={address}"),
            "?n=1&upstreams=a",
        ),
    ];
    for (query, expected) in cases {
        mirror
            .get(&format!("/v2/team/app/tags/list?{query}"))
            .send()
            .await
            .expect(200);
        let last = hub.received(Service::Registry).pop().expect("a request");
        assert_eq!(
            last.target,
            format!("/v2/team/app/tags/list{expected}"),
            "{query}"
        );
    }
}

#[tokio::test]
async fn the_ping_of_a_selected_upstream_is_forwarded() {
    let (mirror, hub) = other().await;
    mirror
        .get(&format!("/v2/?upstream={}", hub.address()))
        .send()
        .await
        .expect(200);
    assert_eq!(hub.requests()[0], "registry GET /v2/");
    let closed = closed_address().await;
    let mirror = Options::default().plain_http([closed]).start().await;
    mirror
        .get(&format!("/v2/?upstream={closed}"))
        .send()
        .await
        .expect_error(502, "UNAVAILABLE");
    mirror.get("/v2/").send().await.expect(200);
}

#[tokio::test]
async fn an_invalid_upstream_is_refused() {
    let (mirror, hub) = other().await;
    let names = [
        "",
        "http://",
        "ftp://example.com",
        "example.com/path",
        "https://example.com/path",
        "https://example.com?x=1",
        "https://user@example.com",
        "https://user:password@example.com",
        "example.com:port",
        "example.com:99999",
        "example.com:",
        "exa mple.com",
        "exa%00mple.com",
        "example.com%0d%0aX-Injected:1",
        "example..com",
        "-example-.com",
        "[::1",
        "//example.com",
        "\\\\example.com",
        "example.com%23",
        "https://example.com%5c@127.0.0.1",
        "%ff.example.com",
    ];
    for name in names {
        let response = get(&mirror, &format!("upstream={}", name.replace(' ', "%20"))).await;
        assert_eq!(response.status, 400, "{name}: {response:?}");
        response.expect_error(400, "UNSUPPORTED");
    }
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());
}

#[tokio::test]
async fn two_upstreams_in_one_request_are_not_forwarded() {
    let (mirror, hub) = other().await;
    let response = get(
        &mirror,
        &format!("upstream={}&upstream=example.com", hub.address()),
    )
    .await;
    // Either may be used, so long as the parameter is not forwarded.
    assert!(
        matches!(response.status.as_u16(), 200 | 400),
        "{response:?}"
    );
    assert!(
        hub.received(Service::Registry)
            .iter()
            .all(|received| !received.target.contains("upstream")),
        "{:?}",
        hub.requests()
    );
}

#[tokio::test]
async fn private_and_literal_addresses_are_denied_without_a_connection() {
    let unwanted = Server::unwanted("127.0.0.1").await;
    let port = unwanted.address.port();
    let mirror = Options::default().start().await;
    let hosts = [
        format!("127.0.0.1:{port}"),
        format!("https://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("LOCALHOST:{port}"),
        format!("localhost.:{port}"),
        format!("http://localhost:{port}"),
        format!("foo.localhost:{port}"),
        format!("127.1:{port}"),
        format!("2130706433:{port}"),
        format!("0x7f000001:{port}"),
        format!("0177.0.0.1:{port}"),
        format!("0:{port}"),
        format!("0.0.0.0:{port}"),
        format!("[::1]:{port}"),
        format!("[::]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[::ffff:7f00:1]:{port}"),
        format!("http://[::ffff:127.0.0.1]:{port}"),
        "169.254.169.254".into(),
        "10.0.0.1".into(),
        "8.8.8.8".into(),
        "registry".into(),
        "metadata.google.internal".into(),
        "printer.local".into(),
        "http://registry.example.com".into(),
        "http://registry.example.com:5000".into(),
    ];
    for host in hosts {
        let response = get(&mirror, &format!("upstream={host}")).await;
        assert!(
            matches!(response.status.as_u16(), 400 | 403),
            "{host}: {response:?}"
        );
        let code = response.json()["errors"][0]["code"].clone();
        let expected = if response.status == 403 {
            "DENIED"
        } else {
            "UNSUPPORTED"
        };
        assert_eq!(code, expected, "{host}: {response:?}");
    }
    assert_eq!(unwanted.connections(), 0);
}

#[tokio::test]
async fn a_listed_registry_permits_no_other_host_or_port() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let unwanted = Server::unwanted("127.0.0.1").await;
    let response = get(&mirror, &format!("upstream={}", unwanted.address)).await;
    response.expect_error(403, "DENIED");
    let response = get(
        &mirror,
        &format!("upstream=127.0.0.9:{}", hub.address().port()),
    )
    .await;
    response.expect_error(403, "DENIED");
    assert_eq!(unwanted.connections(), 0);
    assert!(hub.requests().is_empty());
}

#[tokio::test]
async fn tokens_of_one_upstream_never_reach_another() {
    let one = Hub::start().await;
    let two = Hub::start().await;
    for hub in [&one, &two] {
        hub.push("team/app", "1.0", &Image::oci());
    }
    one.token_body(|token| serde_json::json!({ "token": format!("{token}-of-one") }).to_string());
    let mirror = Options::default()
        .plain_http(one.addresses())
        .plain_http(two.addresses())
        .start()
        .await;
    get(&mirror, &format!("upstream={}", one.address())).await;
    get(&mirror, &format!("upstream={}", two.address()))
        .await
        .expect(200);
    for service in [Service::Registry, Service::Tokens, Service::Cdn] {
        for received in two.received(service) {
            let sent = received.header("authorization").unwrap_or_default();
            assert!(!sent.contains("of-one"), "{received:?}");
        }
    }
}

#[tokio::test]
async fn the_default_upstream_may_be_written_in_every_form() {
    let hub = Hub::start().await;
    hub.push("team/app", "1.0", &Image::oci());
    let address = hub.address();
    for form in [
        address.to_string(),
        format!("http://{address}"),
        format!("http://{address}/"),
    ] {
        let mirror = Options::default()
            .plain_http(hub.addresses())
            .variable("upstream", &form)
            .start()
            .await;
        let response = mirror.get_manifest(TARGET).await;
        assert_eq!(response.status, 200, "{form}: {response:?}");
    }
}

#[tokio::test]
async fn an_invalid_setting_is_an_error_document() {
    for (name, value) in [
        ("upstream", "not a host"),
        ("plain_http_upstreams", "not a host"),
        ("connect_timeout", "soon"),
    ] {
        let mirror = Options::default().variable(name, value).start().await;
        let response = mirror.get_manifest(TARGET).await;
        assert!(response.status.is_server_error(), "{name}: {response:?}");
        assert!(
            response.json()["errors"][0]["code"].is_string(),
            "{name}: {response:?}"
        );
    }
}

#[tokio::test]
async fn an_upstream_keeps_its_port() {
    let hub = Hub::start().await;
    hub.push(NAME, TAG, &Image::oci());
    let mirror = Options::default().plain_http(hub.addresses()).start().await;
    mirror
        .get_manifest(&format!("{MANIFEST_PATH}?upstream={}", hub.address()))
        .await
        .expect(200);
    let host = hub.received(Service::Registry)[0]
        .header("host")
        .map(str::to_string);
    assert_eq!(host, Some(hub.address().to_string()));
}

#[tokio::test]
async fn loopback_and_private_upstreams_are_not_reached() {
    let unwanted = Server::unwanted("127.0.0.1").await;
    let mirror = Options::default().start().await;
    for host in [
        unwanted.address.to_string(),
        format!("localhost:{}", unwanted.address.port()),
        "10.0.0.1".into(),
    ] {
        mirror
            .get(&format!("{MANIFEST_PATH}?upstream={host}"))
            .send()
            .await
            .expect_error(403, "DENIED");
    }
    assert_eq!(unwanted.connections(), 0);
}

#[tokio::test]
async fn a_cached_manifest_is_not_served_for_another_upstream() {
    let (one, two) = (Hub::start().await, Hub::start().await);
    let images = [Image::oci(), Image::new(DOCKER, "another")];
    one.push("team/app", "1.0", &images[0]);
    two.push("team/app", "1.0", &images[1]);
    let mirror = Options::default()
        .plain_http(one.addresses())
        .plain_http(two.addresses());
    let mirror = mirror.variable("tag_ttl", 3600).start().await;
    let get = |hub: &Hub, reference: &str| {
        let target = format!(
            "/v2/team/app/manifests/{reference}?upstream={}",
            hub.address()
        );
        mirror.get(&target).accept_manifests().send()
    };
    for _ in 0..2 {
        assert_eq!(
            get(&one, "1.0").await.expect(200).body,
            images[0].index.bytes
        );
        assert_eq!(
            get(&two, "1.0").await.expect(200).body,
            images[1].index.bytes
        );
    }
    // Nor is a copy served by its digest.
    get(&two, &images[0].index.digest)
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
    get(&one, &images[1].index.digest)
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
}
