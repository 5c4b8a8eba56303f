//! `?upstream=`: how a registry is named, which names are no registry, and which must not be contacted.

use crate::support::client::Answer;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME, TAG};
use crate::support::mirror::{Mirror, Options};
use test_support::hub::{Hub, Place};
use test_support::image::Image;
use test_support::server::{Server, nobody};

const TARGET: &str = "/v2/team/app/manifests/1.0";

/// A mirror whose default upstream doesn't exist, and a registry that it is told about.
async fn other() -> (Mirror, Hub) {
    let hub = Hub::start().await;
    hub.push("team/app", "1.0", &Image::oci());
    let nobody = nobody().await;
    let mirror = Options::default()
        .upstream(nobody)
        .plain_http(hub.addresses())
        .start()
        .await;
    (mirror, hub)
}

async fn ask(mirror: &Mirror, query: &str) -> Answer {
    mirror
        .get(&format!("{TARGET}?{query}"))
        .accept_manifests()
        .send()
        .await
}

#[tokio::test]
async fn another_upstream_is_named_in_every_form() {
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
        let answer = ask(&mirror, &form).await;
        assert_eq!(answer.status, 200, "{form}: {answer:?}");
    }
    assert!(
        hub.seen(Place::Registry)
            .iter()
            .all(|seen| !seen.target.contains("upstream")),
        "{:?}",
        hub.lines()
    );
}

#[tokio::test]
async fn everything_else_of_the_query_stays_as_it_was() {
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
        let last = hub.seen(Place::Registry).pop().expect("a request");
        assert_eq!(
            last.target,
            format!("/v2/team/app/tags/list{expected}"),
            "{query}"
        );
    }
}

#[tokio::test]
async fn the_ping_of_a_named_upstream_is_forwarded() {
    let (mirror, hub) = other().await;
    mirror
        .get(&format!("/v2/?upstream={}", hub.address()))
        .send()
        .await
        .expect(200);
    assert_eq!(hub.lines()[0], "registry GET /v2/");
    let lost = nobody().await;
    let mirror = Options::default().plain_http([lost]).start().await;
    mirror
        .get(&format!("/v2/?upstream={lost}"))
        .send()
        .await
        .expect_error(502, "UNAVAILABLE");
    mirror.get("/v2/").send().await.expect(200);
}

#[tokio::test]
async fn what_names_no_registry_is_refused() {
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
        let answer = ask(&mirror, &format!("upstream={}", name.replace(' ', "%20"))).await;
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
        answer.expect_error(400, "UNSUPPORTED");
    }
    assert!(hub.lines().is_empty(), "{:?}", hub.lines());
}

#[tokio::test]
async fn two_upstreams_in_one_request_are_never_mixed_up() {
    let (mirror, hub) = other().await;
    let answer = ask(
        &mirror,
        &format!("upstream={}&upstream=example.com", hub.address()),
    )
    .await;
    // Which of them wins is nobody's business, so long as none of it goes upstream.
    assert!(matches!(answer.status.as_u16(), 200 | 400), "{answer:?}");
    assert!(
        hub.seen(Place::Registry)
            .iter()
            .all(|seen| !seen.target.contains("upstream")),
        "{:?}",
        hub.lines()
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
        let answer = ask(&mirror, &format!("upstream={host}")).await;
        assert!(
            matches!(answer.status.as_u16(), 400 | 403),
            "{host}: {answer:?}"
        );
        let code = answer.json()["errors"][0]["code"].clone();
        let expected = if answer.status == 403 {
            "DENIED"
        } else {
            "UNSUPPORTED"
        };
        assert_eq!(code, expected, "{host}: {answer:?}");
    }
    assert_eq!(unwanted.connections(), 0);
}

#[tokio::test]
async fn a_listed_registry_does_not_open_its_neighbours() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let unwanted = Server::unwanted("127.0.0.1").await;
    let answer = ask(&mirror, &format!("upstream={}", unwanted.address)).await;
    answer.expect_error(403, "DENIED");
    let answer = ask(
        &mirror,
        &format!("upstream=127.0.0.9:{}", hub.address().port()),
    )
    .await;
    answer.expect_error(403, "DENIED");
    assert_eq!(unwanted.connections(), 0);
    assert!(hub.lines().is_empty());
}

#[tokio::test]
async fn tokens_of_one_upstream_never_reach_another() {
    let one = Hub::start().await;
    let two = Hub::start().await;
    for hub in [&one, &two] {
        hub.push("team/app", "1.0", &Image::oci());
    }
    one.token_answer(|token| serde_json::json!({ "token": format!("{token}-of-one") }).to_string());
    let mirror = Options::default()
        .plain_http(one.addresses())
        .plain_http(two.addresses())
        .start()
        .await;
    ask(&mirror, &format!("upstream={}", one.address())).await;
    ask(&mirror, &format!("upstream={}", two.address()))
        .await
        .expect(200);
    for place in [Place::Registry, Place::Tokens, Place::Cdn] {
        for seen in two.seen(place) {
            let sent = seen.header("authorization").unwrap_or_default();
            assert!(!sent.contains("of-one"), "{seen:?}");
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
        let answer = mirror.get(TARGET).accept_manifests().send().await;
        assert_eq!(answer.status, 200, "{form}: {answer:?}");
    }
}

#[tokio::test]
async fn a_default_upstream_that_is_none_is_an_error_document() {
    for (name, value) in [
        ("upstream", "not a host"),
        ("plain_http_upstreams", "not a host"),
        ("connect_timeout", "soon"),
    ] {
        let mirror = Options::default().variable(name, value).start().await;
        let answer = mirror.get(TARGET).accept_manifests().send().await;
        assert!(answer.status.is_server_error(), "{name}: {answer:?}");
        assert!(
            answer.json()["errors"][0]["code"].is_string(),
            "{name}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn an_upstream_keeps_its_port() {
    let hub = Hub::start().await;
    hub.push(NAME, TAG, &Image::oci());
    let mirror = Options::default().plain_http(hub.addresses()).start().await;
    mirror
        .get(&format!("{MANIFEST_PATH}?upstream={}", hub.address()))
        .accept_manifests()
        .send()
        .await
        .expect(200);
    let host = hub.seen(Place::Registry)[0]
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
