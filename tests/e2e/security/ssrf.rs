//! Whoever tries to lead the mirror, or its clients, where they should not go: a listener stands there and sees nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use crate::support::client::Answer;
use crate::support::docker_registry::pass;
use crate::support::hub_fixture::{HubFixture, NAME};
use crate::support::mirror::{Mirror, Options, can_name_hosts};
use crate::support::public_registries::{Host, PublicRegistries};
use crate::support::skip;
use test_support::hub::{Hub, Place};
use test_support::image::Image;
use test_support::server::{Reply, Server, any_port};

const REST: &str = "team/app/manifests/1.0";

async fn manifest(mirror: &Mirror) -> Answer {
    mirror
        .get(&format!("/v2/{NAME}/manifests/latest"))
        .accept_manifests()
        .send()
        .await
}

fn redirect(location: &str) -> Reply {
    Reply::new(307, &[("location", location)], "")
}

/// From now on the registry sends everybody to `location`.
fn redirect_all(hub: &Hub, location: String) {
    hub.script(move |place, _| (place == Place::Registry).then(|| redirect(&location)));
}

/// From now on the registry's tokens come from `realm`.
fn grant_at(hub: &Hub, realm: &str) {
    let line = format!(r#"Bearer realm="{realm}",service="s",scope="repository:{NAME}:pull""#);
    hub.challenge(move |_| vec![line.clone()]);
}

#[tokio::test]
async fn an_inner_host_is_not_reached_by_any_form_in_any_way_of_naming() {
    let mirror = Options::default().start().await;
    let inner = Server::unwanted("127.0.0.1").await;
    let port = inner.address.port();
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
            let answer = mirror.get(&target).accept_manifests().send().await;
            assert!(
                matches!(answer.status.as_u16(), 400 | 403 | 404),
                "{target}: {answer:?}"
            );
            assert!(
                answer.json()["errors"][0]["code"].is_string(),
                "{target}: {answer:?}"
            );
        }
    }
    assert_eq!(inner.connections(), 0);
}

#[tokio::test]
async fn no_public_name_leads_to_a_private_address_where_the_host_blocks_them() {
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
    let blocked = "[outbound_networking]\nblock_networks = [\"private\"]\n";
    let options = names
        .iter()
        .fold(Options::default(), |options, (name, at, _)| {
            options.host(name, *at)
        });
    let mirror = options.runtime_config(blocked).start().await;
    for (name, at, port) in names {
        let answer = mirror
            .get(&format!("/v2/{REST}?upstream={name}:{port}"))
            .accept_manifests()
            .send()
            .await;
        let answer = answer.expect_error(502, "UNAVAILABLE");
        assert!(!answer.text().contains(&at.to_string()), "{answer:?}");
    }
    assert_eq!((four.connections(), six.connections()), (0, 0));
}

#[tokio::test]
async fn neither_a_realm_nor_a_redirect_leads_to_an_address_that_the_host_blocks() {
    if !can_name_hosts() {
        return skip("a name that resolves to a loopback address needs root");
    }
    let inner = Server::unwanted("127.77.0.1").await;
    let port = inner.address.port();
    let mapped = Ipv4Addr::new(127, 77, 0, 1).to_ipv6_mapped().into();
    let blocked = "[outbound_networking]\nblock_networks = [\"127.77.0.0/16\"]\n";
    let HubFixture { mirror, hub, image } = HubFixture::with(|options| {
        let options = options
            .host("inner.example.com", inner.address.ip())
            .host("mapped.example.com", mapped);
        options
            .variable("blob_delivery", "stream")
            .runtime_config(blocked)
    })
    .await;
    let blob = format!("/v2/{NAME}/blobs/{}", image.here().layers[0].digest);
    mirror.get(&blob).send().await.expect(200);
    for name in ["inner.example.com", "mapped.example.com"] {
        redirect_all(
            &hub,
            format!("https://{name}:{port}/v2/{NAME}/manifests/latest"),
        );
        manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
        redirect_all(&hub, format!("https://{name}:{port}/blob"));
        mirror
            .get(&blob)
            .send()
            .await
            .expect_error(404, "BLOB_UNKNOWN");
        hub.script(|_, _| None);
        hub.revoke_tokens();
        grant_at(&hub, &format!("https://{name}:{port}/token"));
        manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
    }
    assert_eq!(inner.connections(), 0);
}

#[tokio::test]
async fn a_streamed_blob_is_not_fetched_from_inside_nor_in_circles() {
    let HubFixture { mirror, hub, image } =
        HubFixture::with(|options| options.variable("blob_delivery", "stream")).await;
    let inner = Server::unwanted("127.0.0.1").await;
    let blob = format!("/v2/{NAME}/blobs/{}", image.here().layers[0].digest);
    let inside = [
        "http://127.0.0.1",
        "https://127.0.0.1",
        "https://localhost",
        "https://[::ffff:7f00:1]",
        "//0x7f.1",
    ];
    for location in inside {
        redirect_all(&hub, format!("{location}:{}/secret", inner.address.port()));
        mirror
            .get(&blob)
            .send()
            .await
            .expect_error(404, "BLOB_UNKNOWN");
    }
    assert_eq!(inner.connections(), 0);

    let circle = format!("http://{}/again", hub.cdn());
    hub.script(move |place, _| (place != Place::Tokens).then(|| redirect(&circle)));
    hub.take_lines();
    mirror
        .get(&blob)
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    assert!(hub.seen(Place::Cdn).len() <= 10, "{:?}", hub.lines());
}

/// What stands in front of a mirror under its public name, and hands everything on to it.
async fn front(behind: Arc<OnceLock<SocketAddr>>) -> Server {
    let handler = move |seen| {
        let behind = Arc::clone(&behind);
        Reply::Later(Box::pin(async move {
            pass(*behind.get().expect("a mirror"), seen).await
        }))
    };
    Server::start(any_port("127.0.0.1"), None, Arc::new(handler)).await
}

#[tokio::test]
async fn a_redirect_back_to_the_mirror_by_its_public_name_ends_after_three_rounds() {
    let behind = Arc::new(OnceLock::new());
    let front = front(Arc::clone(&behind)).await;
    let HubFixture { mirror, hub, image } = HubFixture::with(|options| {
        options
            .plain_http([front.address])
            .variable("blob_delivery", "stream")
    })
    .await;
    behind.set(mirror.address()).expect("set once");
    hub.script(move |place, seen| {
        (place == Place::Registry)
            .then(|| redirect(&format!("http://{}{}", front.address, seen.target)))
    });
    manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
    let manifests = hub.take_lines().len();
    let blob = format!("/v2/{NAME}/blobs/{}", image.here().layers[0].digest);
    mirror
        .get(&blob)
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    // Streaming gives each place that does not deliver one more chance, in each round.
    let blobs = hub.lines().len();
    assert!(
        manifests <= 3 && blobs <= 3 * 8,
        "{manifests} and {blobs} requests"
    );
    assert!(
        mirror
            .log(2)
            .await
            .iter()
            .any(|line| line.contains("status=508"))
    );
}

#[tokio::test]
async fn an_https_registry_leads_nobody_to_plain_http_or_back_to_the_mirror() {
    let inner = Server::unwanted("127.0.0.1").await;
    let plain = format!("http://{}/blob", inner.address);
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
        let answer = registries
            .mirror
            .get(&target)
            .host("mirror.example.com")
            .send()
            .await
            .expect_error(404, "BLOB_UNKNOWN");
        assert_eq!(answer.header("location"), None, "{registry}");
        if registry.starts_with("back") {
            continue;
        }
        registries
            .ask("GET", &registry, REST)
            .await
            .expect_error(502, "UNAVAILABLE");
    }
    // A client that reads it in its own way must not come back here, or see a user's name.
    let answer = registries
        .ask("GET", "sly.example.com", &blob)
        .await
        .expect(307);
    assert_eq!(
        answer.header("location"),
        Some("https://cdn.example.com/@mirror.example.com/x")
    );
    assert_eq!(inner.connections(), 0);
}

#[tokio::test]
async fn a_registry_over_plain_http_sends_clients_to_plain_http_only_where_that_is_listed() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let blob = format!("/v2/{NAME}/blobs/{}", image.here().layers[0].digest);
    mirror.get(&blob).send().await.expect(307);
    for (location, status) in [
        (format!("http://{}/blob", hub.cdn()), 307),
        ("http://cdn.example.com/blob".into(), 404),
        (format!("http://127.0.0.1:{}/blob", hub.cdn().port()), 404),
        ("https://cdn.example.com/blob".into(), 307),
    ] {
        redirect_all(&hub, location.clone());
        let answer = mirror.get(&blob).send().await;
        assert_eq!(answer.status, status, "{location}: {answer:?}");
    }
}

#[tokio::test]
async fn a_closed_mirror_asks_no_other_upstream_and_no_other_realm() {
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
            .get(&target)
            .accept_manifests()
            .send()
            .await
            .expect_error(403, "DENIED");
    }
    // The registry's own token server is another host, and nobody has named it.
    manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
    assert!(hub.seen(Place::Tokens).is_empty(), "{:?}", hub.lines());
    redirect_all(
        &hub,
        format!("http://{}/v2/{NAME}/manifests/latest", other.address()),
    );
    manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
    assert_eq!(other.connections(), 0);

    let HubFixture { mirror, .. } =
        HubFixture::with(|options| closed(options).variable("token_services", "127.0.0.2:*")).await;
    manifest(&mirror).await.expect_error(500, "UNKNOWN");
    let HubFixture { mirror, hub, .. } = HubFixture::with(closed).await;
    let open = Options::default()
        .upstream(hub.address())
        .plain_http(hub.addresses());
    let open = open
        .variable("allowed_upstreams", "")
        .variable("token_services", hub.tokens());
    assert_eq!(manifest(&mirror).await.status, 502);
    manifest(&open.start().await).await.expect(200);
}

#[tokio::test]
async fn a_denied_host_is_neither_upstream_nor_realm_nor_where_a_redirect_leads() {
    let denied = Server::unwanted("127.0.0.1").await;
    let at = denied.address;
    let HubFixture { mirror, hub, image } = HubFixture::with(|options| {
        options
            .plain_http([at])
            .variable("denied_upstreams", at)
            .variable("blob_delivery", "stream")
    })
    .await;
    let blob = format!("/v2/{NAME}/blobs/{}", image.here().layers[0].digest);
    for scheme in ["", "http://", "https://"] {
        let target = format!("/v2/{REST}?upstream={scheme}{at}");
        mirror
            .get(&target)
            .accept_manifests()
            .send()
            .await
            .expect_error(403, "DENIED");
    }
    redirect_all(&hub, format!("http://{at}/v2/{NAME}/manifests/latest"));
    manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
    mirror
        .get(&blob)
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    hub.script(|_, _| None);
    grant_at(&hub, &format!("http://{at}/token"));
    manifest(&mirror).await.expect_error(502, "UNAVAILABLE");
    assert_eq!(denied.connections(), 0);
}

#[tokio::test]
async fn a_closed_repository_is_not_asked_for() {
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
        // Where it is named in another way, it is another pattern's.
        let named = format!("/v2/team/secret/{rest}?upstream={}", hub.address());
        mirror.get(&named).send().await.expect_error(403, "DENIED");
    }
    for catalog in [
        "/v2/_catalog",
        &format!("/v2/_catalog?upstream={}", hub.address()),
    ] {
        mirror.get(catalog).send().await.expect_error(403, "DENIED");
    }
    assert!(hub.lines().is_empty(), "{:?}", hub.lines());
    for name in ["library/alpine", "team/app"] {
        mirror
            .get(&format!("/v2/{name}/manifests/1.0"))
            .accept_manifests()
            .send()
            .await
            .expect(200);
    }
}
