//! Requests, realms and redirects to internal addresses, where a listener expects no connection.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use crate::support::docker_registry::pass;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use crate::support::mirror::{Options, can_name_hosts};
use crate::support::public_registries::{Host, PublicRegistries};
use crate::support::skip;
use test_support::hub::{Hub, Service};
use test_support::image::Image;
use test_support::server::{Reply, Server, any_port};

const REST: &str = "team/app/manifests/1.0";

fn redirect(location: &str) -> Reply {
    Reply::new(307, &[("location", location)], "")
}

/// From now on the registry redirects every request to `location`.
fn redirect_all(hub: &Hub, location: String) {
    hub.script(move |service, _| (service == Service::Registry).then(|| redirect(&location)));
}

/// From now on challenges of the registry have `realm`.
fn grant_at(hub: &Hub, realm: &str) {
    let line = format!(r#"Bearer realm="{realm}",service="s",scope="repository:{NAME}:pull""#);
    hub.challenge(move |_| vec![line.clone()]);
}

#[tokio::test]
async fn internal_addresses_are_refused_in_every_notation() {
    let mirror = Options::default().start().await;
    let internal = Server::unwanted("127.0.0.1").await;
    let port = internal.address.port();
    let hosts = [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
        "localhost",
        "LOCALHOST",
        "a.localhost",
        "localhost.localdomain",
        "127.0.0.1.",
        "user@127.0.0.1",
        "ghcr.io@127.0.0.1",
        "ghcr.io%23@127.0.0.1",
        "127.0.0.1%5c",
        "127.0.0.1%00",
        "127.0.0.1%09",
        "%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1",
        "%E2%93%9Bocalhost",
    ];
    for host in hosts {
        let named = format!("{host}:{port}");
        for target in [
            format!("/v2/{REST}?upstream={named}"),
            format!("/v2/{REST}?upstream=https://{named}/"),
            format!("/{named}/v2/{REST}"),
            format!("/v2/{named}/{REST}"),
            format!("/v2/{REST}?ns={named}"),
        ] {
            let response = mirror.get_manifest(&target).await;
            assert!(
                matches!(response.status.as_u16(), 400 | 403 | 404),
                "{target}: {response:?}"
            );
            assert!(
                response.json()["errors"][0]["code"].is_string(),
                "{target}: {response:?}"
            );
        }
    }
    assert_eq!(internal.connections(), 0);
}

#[tokio::test]
async fn names_that_resolve_to_blocked_networks_are_not_reached() {
    if !can_name_hosts() {
        return skip("a name that resolves to a loopback address needs root");
    }
    let (four, six) = (
        Server::unwanted("127.0.0.1").await,
        Server::unwanted("::1").await,
    );
    let names: [(&str, IpAddr, u16); 3] = [
        (
            "four.example.com",
            Ipv4Addr::LOCALHOST.into(),
            four.address.port(),
        ),
        (
            "mapped.example.com",
            Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
            four.address.port(),
        ),
        ("six.example.com", six.address.ip(), six.address.port()),
    ];
    let options = names
        .iter()
        .fold(Options::default(), |options, (name, at, _)| {
            options.host(name, *at)
        });
    let mirror = options.block_networks(&["private"]).start().await;
    for (name, at, port) in names {
        let response = mirror
            .get_manifest(&format!("/v2/{REST}?upstream={name}:{port}"))
            .await;
        let response = response.expect_error(502, "UNAVAILABLE");
        assert!(!response.text().contains(&at.to_string()), "{response:?}");
    }
    assert_eq!((four.connections(), six.connections()), (0, 0));
}

#[tokio::test]
async fn realms_and_redirects_to_blocked_networks_are_not_followed() {
    if !can_name_hosts() {
        return skip("a name that resolves to a loopback address needs root");
    }
    let internal = Server::unwanted("127.77.0.1").await;
    let port = internal.address.port();
    let mapped = Ipv4Addr::new(127, 77, 0, 1).to_ipv6_mapped().into();
    let HubFixture { mirror, hub, image } = HubFixture::with(|options| {
        let options = options
            .host("internal.example.com", internal.address.ip())
            .host("mapped.example.com", mapped);
        options
            .variable("blob_delivery", "stream")
            .block_networks(&["127.77.0.0/16"])
    })
    .await;
    let blob = format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest);
    mirror.get(&blob).send().await.expect(200);
    for name in ["internal.example.com", "mapped.example.com"] {
        redirect_all(
            &hub,
            format!("https://{name}:{port}/v2/{NAME}/manifests/latest"),
        );
        mirror
            .get_manifest(MANIFEST_PATH)
            .await
            .expect_error(502, "UNAVAILABLE");
        redirect_all(&hub, format!("https://{name}:{port}/blob"));
        mirror
            .get(&blob)
            .send()
            .await
            .expect_error(404, "BLOB_UNKNOWN");
        hub.script(|_, _| None);
        hub.revoke_tokens();
        grant_at(&hub, &format!("https://{name}:{port}/token"));
        mirror
            .get_manifest(MANIFEST_PATH)
            .await
            .expect_error(502, "UNAVAILABLE");
    }
    assert_eq!(internal.connections(), 0);
}

#[tokio::test]
async fn streaming_follows_no_redirect_inside_or_in_circles() {
    let HubFixture { mirror, hub, image } =
        HubFixture::with(|options| options.variable("blob_delivery", "stream")).await;
    let internal = Server::unwanted("127.0.0.1").await;
    let blob = format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest);
    let inside = [
        "http://127.0.0.1",
        "https://127.0.0.1",
        "https://localhost",
        "https://[::ffff:7f00:1]",
        "//0x7f.1",
    ];
    for location in inside {
        redirect_all(
            &hub,
            format!("{location}:{}/secret", internal.address.port()),
        );
        mirror
            .get(&blob)
            .send()
            .await
            .expect_error(404, "BLOB_UNKNOWN");
    }
    assert_eq!(internal.connections(), 0);

    let circle = format!("http://{}/again", hub.cdn());
    hub.script(move |service, _| (service != Service::Tokens).then(|| redirect(&circle)));
    hub.take_requests();
    mirror
        .get(&blob)
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    assert!(
        hub.received(Service::Cdn).len() <= 10,
        "{:?}",
        hub.requests()
    );
}

/// A reverse proxy in front of a mirror, under its public name.
async fn front(behind: Arc<OnceLock<SocketAddr>>) -> Server {
    let handler = move |received| {
        let behind = Arc::clone(&behind);
        Reply::Deferred(Box::pin(async move {
            pass(*behind.get().expect("a mirror"), received).await
        }))
    };
    Server::start(any_port("127.0.0.1"), None, Arc::new(handler)).await
}

#[tokio::test]
async fn a_redirect_loop_through_the_mirror_ends_after_three_rounds() {
    let behind = Arc::new(OnceLock::new());
    let front = front(Arc::clone(&behind)).await;
    let HubFixture { mirror, hub, image } = HubFixture::with(|options| {
        options
            .plain_http([front.address])
            .variable("blob_delivery", "stream")
    })
    .await;
    behind.set(mirror.address()).expect("set once");
    hub.script(move |service, received| {
        (service == Service::Registry)
            .then(|| redirect(&format!("http://{}{}", front.address, received.target)))
    });
    mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(502, "UNAVAILABLE");
    let manifests = hub.take_requests().len();
    let blob = format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest);
    mirror
        .get(&blob)
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    // In each round streaming retries each host that does not serve the blob.
    let blobs = hub.requests().len();
    assert!(
        manifests <= 3 && blobs <= 3 * 8,
        "{manifests} and {blobs} requests"
    );
    assert!(mirror.log(2).await.iter().any(|line| line.status == 508));
}

#[tokio::test]
async fn https_registries_redirect_neither_to_http_nor_to_the_mirror() {
    let internal = Server::unwanted("127.0.0.1").await;
    let plain = format!("http://{}/blob", internal.address);
    let moved = |location: String| move |_: &_| redirect(&location);
    let Some(registries) = PublicRegistries::start([
        Host::new("plain.example.com", moved(plain)),
        Host::new(
            "named.example.com",
            moved("http://cdn.example.com/blob".into()),
        ),
        Host::new(
            "back.example.com",
            moved("https://mirror.example.com/v2/a/blobs/x".into()),
        ),
        Host::new(
            "sly.example.com",
            moved("https://cdn.example.com\\@mirror.example.com/x".into()),
        ),
        Host::new("script.example.com", moved("javascript:alert(1)".into())),
    ])
    .await
    else {
        return;
    };
    let blob = format!("team/app/blobs/sha256:{}", "a".repeat(64));
    for registry in ["plain", "named", "back", "script"] {
        let registry = format!("{registry}.example.com");
        let target = format!("/v2/{blob}?upstream={registry}");
        let response = registries
            .mirror
            .get(&target)
            .host("mirror.example.com")
            .send()
            .await
            .expect_error(404, "BLOB_UNKNOWN");
        assert_eq!(response.header("location"), None, "{registry}");
        if registry.starts_with("back") {
            continue;
        }
        registries
            .request("GET", &registry, REST)
            .await
            .expect_error(502, "UNAVAILABLE");
    }
    // No client may read it as a URL of the mirror, or one with a user name.
    let response = registries
        .request("GET", "sly.example.com", &blob)
        .await
        .expect(307);
    assert_eq!(
        response.header("location"),
        Some("https://cdn.example.com/@mirror.example.com/x")
    );
    assert_eq!(internal.connections(), 0);
}

#[tokio::test]
async fn clients_are_redirected_to_plain_http_only_where_listed() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let blob = format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest);
    mirror.get(&blob).send().await.expect(307);
    for (location, status) in [
        (format!("http://{}/blob", hub.cdn()), 307),
        ("http://cdn.example.com/blob".into(), 404),
        (format!("http://127.0.0.1:{}/blob", hub.cdn().port()), 404),
        ("https://cdn.example.com/blob".into(), 307),
    ] {
        redirect_all(&hub, location.clone());
        let response = mirror.get(&blob).send().await;
        assert_eq!(response.status, status, "{location}: {response:?}");
    }
}

#[tokio::test]
async fn a_closed_mirror_contacts_no_other_upstream_or_realm() {
    let other = Hub::start().await;
    let closed = |options: Options| {
        options
            .plain_http(other.addresses())
            .variable("allowed_upstreams", "")
    };
    let HubFixture { mirror, hub, .. } =
        HubFixture::with(|options| closed(options).variable("token_services", "")).await;
    for target in [
        format!("/v2/{REST}?upstream={}", other.address()),
        format!("/{}/v2/{REST}", other.address()),
        format!("/v2/{}/{REST}", other.address()),
        format!("/v2/{REST}?ns={}", other.address()),
        format!("/v2/{REST}?upstream=ghcr.io"),
    ] {
        mirror
            .get_manifest(&target)
            .await
            .expect_error(403, "DENIED");
    }
    // The token server of the registry is another host, and not permitted.
    mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(502, "UNAVAILABLE");
    assert!(
        hub.received(Service::Tokens).is_empty(),
        "{:?}",
        hub.requests()
    );
    redirect_all(
        &hub,
        format!("http://{}/v2/{NAME}/manifests/latest", other.address()),
    );
    mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(502, "UNAVAILABLE");
    assert_eq!(other.connections(), 0);

    let HubFixture { mirror, .. } =
        HubFixture::with(|options| closed(options).variable("token_services", "127.0.0.2:*")).await;
    mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(500, "UNKNOWN");
    let HubFixture { mirror, hub, .. } = HubFixture::with(closed).await;
    let open = Options::default()
        .upstream(hub.address())
        .plain_http(hub.addresses());
    let open = open
        .variable("allowed_upstreams", "")
        .variable("token_services", hub.tokens());
    assert_eq!(mirror.get_manifest(MANIFEST_PATH).await.status, 502);
    open.start()
        .await
        .get_manifest(MANIFEST_PATH)
        .await
        .expect(200);
}

#[tokio::test]
async fn a_denied_host_is_never_contacted() {
    let denied = Server::unwanted("127.0.0.1").await;
    let at = denied.address;
    let HubFixture { mirror, hub, image } = HubFixture::with(|options| {
        options
            .plain_http([at])
            .variable("denied_upstreams", at)
            .variable("blob_delivery", "stream")
    })
    .await;
    let blob = format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest);
    for scheme in ["", "http://", "https://"] {
        let target = format!("/v2/{REST}?upstream={scheme}{at}");
        mirror
            .get_manifest(&target)
            .await
            .expect_error(403, "DENIED");
    }
    redirect_all(&hub, format!("http://{at}/v2/{NAME}/manifests/latest"));
    mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(502, "UNAVAILABLE");
    mirror
        .get(&blob)
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    hub.script(|_, _| None);
    grant_at(&hub, &format!("http://{at}/token"));
    mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(502, "UNAVAILABLE");
    assert_eq!(denied.connections(), 0);
}

#[tokio::test]
async fn a_denied_repository_is_not_requested() {
    let hub = Hub::start().await;
    for name in ["library/alpine", "team/app", "team/secret"] {
        hub.push(name, "1.0", &Image::oci());
    }
    let options = Options::default()
        .upstream(hub.address())
        .plain_http(hub.addresses());
    let options = options.variable("allowed_repositories", "library/*, team/*");
    let mirror = options
        .variable("denied_repositories", "team/secret")
        .start()
        .await;
    for rest in [
        "manifests/1.0",
        "tags/list",
        &format!("blobs/sha256:{}", "a".repeat(64)),
    ] {
        for name in ["team/secret", "other/app", "team%2Fsecret"] {
            mirror
                .get(&format!("/v2/{name}/{rest}"))
                .send()
                .await
                .expect_error(403, "DENIED");
        }
        // With another selector another pattern applies.
        let named = format!("/v2/team/secret/{rest}?upstream={}", hub.address());
        mirror.get(&named).send().await.expect_error(403, "DENIED");
    }
    for catalog in [
        "/v2/_catalog",
        &format!("/v2/_catalog?upstream={}", hub.address()),
    ] {
        mirror.get(catalog).send().await.expect_error(403, "DENIED");
    }
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());
    for name in ["library/alpine", "team/app"] {
        mirror
            .get_manifest(&format!("/v2/{name}/manifests/1.0"))
            .await
            .expect(200);
    }
}
