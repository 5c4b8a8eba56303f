//! Upstreams and token servers that fail: the client gets an error document, within the timeouts.

use std::time::{Duration, Instant};

use crate::support::client::Response;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use crate::support::mirror::{Mirror, Options};
use test_support::hub::Service;
use test_support::image::digest;
use test_support::server::{FullBacklog, Reply, ScriptedBody, Server, closed_address};

const MANIFEST: &str = "/v2/team/app/manifests/1.0";

fn blob() -> String {
    format!("/v2/team/app/blobs/{}", digest(b"a layer"))
}

/// Expects 502 or 504 with UNAVAILABLE; for a blob 404 with BLOB_UNKNOWN, which makes dockerd fall
/// back at once.
async fn expect_a_fault(mirror: &Mirror, what: &str, statuses: &[u16]) -> Response {
    let response = mirror.get(&blob()).send().await;
    assert_eq!(response.status, 404, "{what}, a blob: {response:?}");
    response.expect_error(404, "BLOB_UNKNOWN");
    let response = mirror.get_manifest(MANIFEST).await;
    let status = response.status.as_u16();
    assert!(statuses.contains(&status), "{what}: {response:?}");
    response.expect_error(status, "UNAVAILABLE")
}

fn patient(upstream: &Server) -> Options {
    let options = Options::default().upstream(upstream.address);
    [
        "connect_timeout",
        "first_byte_timeout",
        "between_bytes_timeout",
        "exchange_timeout",
    ]
    .iter()
    .fold(options, |options, name| options.variable(name, 2))
}

#[tokio::test]
async fn a_refused_connection_is_a_502() {
    let mirror = Mirror::with_upstream(closed_address().await).await;
    expect_a_fault(&mirror, "refused", &[502]).await;
    mirror.get("/v2/").send().await.expect(200);
}

#[tokio::test]
async fn an_unknown_host_name_is_a_502() {
    let mirror = Options::default()
        .variable("upstream", "no-such-registry.example.com")
        .start()
        .await;
    expect_a_fault(&mirror, "no such name", &[502, 504]).await;
}

#[tokio::test]
async fn a_silent_upstream_is_a_504_in_time() {
    let server = Server::plain("127.0.0.1", |_| Reply::Hang).await;
    let mirror = patient(&server).start().await;
    let start = Instant::now();
    expect_a_fault(&mirror, "silent", &[504]).await;
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_connection_that_is_not_accepted_is_a_504_in_time() {
    let server = FullBacklog::start().await;
    let options = Options::default()
        .upstream(server.address)
        .variable("connect_timeout", 1);
    let mirror = options.start().await;
    let start = Instant::now();
    expect_a_fault(&mirror, "full", &[502, 504]).await;
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_token_exchange_has_a_time_limit() {
    let HubFixture { mirror, hub, .. } = HubFixture::with(|options| {
        let options = options
            .variable("first_byte_timeout", 600)
            .variable("between_bytes_timeout", 600);
        options.variable("exchange_timeout", 2)
    })
    .await;
    hub.script(|service, _| {
        let drip = (0..1000).fold(ScriptedBody::default(), |body, _| {
            body.data(" ").pause(Duration::from_millis(300))
        });
        (service == Service::Tokens).then(|| Reply::streamed(200, &[], drip))
    });
    let start = Instant::now();
    let response = mirror.get_manifest(MANIFEST_PATH).await;
    response.expect_error(504, "UNAVAILABLE");
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_silent_token_server_is_a_504_in_time() {
    let HubFixture { mirror, hub, .. } =
        HubFixture::with(|options| options.variable("first_byte_timeout", 2)).await;
    hub.script(|service, _| (service == Service::Tokens).then_some(Reply::Hang));
    let response = mirror.get_manifest(MANIFEST_PATH).await;
    let status = response.status.as_u16();
    assert!(matches!(status, 502 | 504), "{response:?}");
    response.expect_error(status, "UNAVAILABLE");
}

#[tokio::test]
async fn a_closed_connection_is_a_502() {
    let server = Server::plain("127.0.0.1", |_| Reply::Close).await;
    expect_a_fault(&patient(&server).start().await, "closed", &[502]).await;
}

#[tokio::test]
async fn a_response_that_is_not_http_is_a_502() {
    let cases: [(&str, Vec<u8>); 7] = [
        ("nothing at all", vec![]),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("noise", (0..=255).cycle().take(4096).collect()),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        (
            "a status that is none",
            b"HTTP/1.1 9999 What\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        (
            "two lengths",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy".to_vec(),
        ),
        (
            "a head without end",
            [
                b"HTTP/1.1 200 OK\r\nX: ".to_vec(),
                vec![b'x'; 4 * 1024 * 1024],
            ]
            .concat(),
        ),
    ];
    for (what, bytes) in cases {
        let server = Server::raw(bytes).await;
        expect_a_fault(&patient(&server).start().await, what, &[502, 504]).await;
    }
}

#[tokio::test]
async fn unexpected_statuses_are_upstream_errors() {
    for status in [500, 502, 503, 504, 418, 204, 300, 301, 303] {
        let server = Server::plain("127.0.0.1", move |_| {
            let headers = [("content-type", "text/html")];
            Reply::streamed(
                status,
                &headers,
                if status == 204 {
                    ScriptedBody::default()
                } else {
                    ScriptedBody::whole("an internal secret")
                },
            )
        })
        .await;
        let response = expect_a_fault(
            &patient(&server).start().await,
            &status.to_string(),
            &[502, 503, 504],
        )
        .await;
        assert!(
            !response.text().contains("internal secret"),
            "{status}: {response:?}"
        );
    }
}

#[tokio::test]
async fn an_endless_redirect_is_a_502() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let location = format!("http://{}/v2/{NAME}/manifests/latest", hub.address());
    hub.script(move |service, _| {
        (service == Service::Registry).then(|| Reply::new(307, &[("location", &location)], ""))
    });
    let response = mirror.get_manifest(MANIFEST_PATH).await;
    response.expect_error(502, "UNAVAILABLE");
    assert!(
        hub.requests().len() <= 6,
        "{} requests",
        hub.requests().len()
    );
}

#[tokio::test]
async fn a_manifest_redirect_to_a_private_address_is_not_followed() {
    let unwanted = Server::unwanted("127.0.0.1").await;
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    for scheme in ["http", "https"] {
        let location = format!("{scheme}://{}/latest/meta-data/", unwanted.address);
        hub.script(move |service, _| {
            (service == Service::Registry).then(|| Reply::new(307, &[("location", &location)], ""))
        });
        let response = mirror.get_manifest(MANIFEST_PATH).await;
        assert!(
            matches!(response.status.as_u16(), 403 | 502),
            "{response:?}"
        );
        assert!(
            response.json()["errors"][0]["code"].is_string(),
            "{response:?}"
        );
    }
    assert_eq!(unwanted.connections(), 0);
}

#[tokio::test]
async fn a_failed_request_does_not_affect_others() {
    let HubFixture { mirror, hub, .. } =
        HubFixture::with(|options| options.variable("first_byte_timeout", 3)).await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    hub.script(|service, received| match (service, &*received.target) {
        (Service::Registry, "/v2/library/alpine/manifests/hang") => Some(Reply::Hang),
        (Service::Registry, "/v2/library/alpine/manifests/close") => Some(Reply::Close),
        _ => None,
    });
    let request = |tag: &str| {
        mirror
            .get(&format!("/v2/{NAME}/manifests/{tag}"))
            .accept_manifests()
            .send()
    };
    let (hang, close, one, two) = tokio::join!(
        request("hang"),
        request("close"),
        request("latest"),
        request("latest")
    );
    assert_eq!(
        [hang.status, close.status, one.status, two.status],
        [504, 502, 200, 200]
    );
}

#[tokio::test]
async fn an_error_has_no_stack_trace() {
    let mirror = Options::default()
        .upstream(closed_address().await)
        .start()
        .await;
    let response = mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(502, "UNAVAILABLE");
    for word in ["panicked", "backtrace", ".rs:", "wasm", "   at ", "Stack"] {
        assert!(!response.text().contains(word), "{response:?}");
    }
}
