//! Upstreams over HTTPS, with names from the mirror's own `/etc/hosts`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::support::client::Request;
use crate::support::mirror::{Options, can_name_hosts};
use crate::support::skip;
use test_support::ca::Ca;
use test_support::hub::{Addresses, Hub, Service, basic};
use test_support::image::{Image, digest};
use test_support::server::{Reply, Server, any_port};

const LOOPBACK: [&str; 3] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
const DOCKER_HUB: [&str; 3] = [
    "registry-1.docker.io",
    "auth.docker.io",
    "production.cloudflare.docker.com",
];

/// A registry, token server and CDN over HTTPS, with certificates for their addresses.
async fn hub(ca: &Ca) -> Hub {
    Hub::start_tls(
        ca,
        &Addresses {
            listen: LOOPBACK.map(any_port),
            names: LOOPBACK,
        },
    )
    .await
}

#[tokio::test]
async fn an_https_upstream_with_a_private_authority_is_reached() {
    let ca = Ca::generate();
    let hub = hub(&ca).await;
    let image = Image::oci();
    hub.push("team/app", "1.0", &image);
    let upstream = format!("https://{}", hub.address());
    let options = Options::default()
        .plain_http(hub.addresses())
        .trust(&ca, &LOOPBACK);
    let mirror = options.variable("upstream", &upstream).start().await;

    for query in [String::new(), format!("?upstream={upstream}")] {
        let response = mirror
            .get_manifest(&format!("/v2/team/app/manifests/1.0{query}"))
            .await;
        assert_eq!(response.expect(200).body, image.index.bytes);
    }
    let blob = image.native().layers[0].clone();
    let redirect = mirror
        .get(&format!("/v2/team/app/blobs/{}", blob.digest))
        .send()
        .await
        .expect(307);
    let location: hyper::Uri = redirect
        .header("location")
        .expect("a location")
        .parse()
        .expect("a URL");
    assert_eq!(
        location.authority().map(ToString::to_string),
        Some(hub.cdn().to_string())
    );
    let target = location.path_and_query().expect("a path").as_str();
    let response = Request::new(hub.cdn(), "GET", target)
        .tls(&ca, LOOPBACK[2])
        .send()
        .await
        .expect(200);
    assert_eq!(digest(&response.body), blob.digest);
    assert_eq!(
        hub.received(Service::Tokens).len(),
        1,
        "{:?}",
        hub.requests()
    );
    let requests = hub.received(Service::Registry);
    assert!(
        requests
            .iter()
            .all(|received| received.version == hyper::Version::HTTP_2),
        "{requests:?}"
    );
}

#[tokio::test]
async fn an_untrusted_certificate_is_refused() {
    let hub = hub(&Ca::generate()).await;
    let upstream = format!("https://{}", hub.address());
    let mirror = Options::default()
        .plain_http(hub.addresses())
        .variable("upstream", upstream)
        .start()
        .await;
    let response = mirror.get_manifest("/v2/team/app/manifests/1.0").await;
    response.expect_error(502, "UNAVAILABLE");
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let ca = Ca::generate();
    let names = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let hub = Hub::start_tls(
        &ca,
        &Addresses {
            listen: LOOPBACK.map(any_port),
            names,
        },
    )
    .await;
    let options = Options::default()
        .plain_http(hub.addresses())
        .trust(&ca, &LOOPBACK);
    let mirror = options
        .variable("upstream", format!("https://{}", hub.address()))
        .start()
        .await;
    let response = mirror.get_manifest("/v2/team/app/manifests/1.0").await;
    response.expect_error(502, "UNAVAILABLE");
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());
}

/// Three loopback addresses, from the number `first` on, that only this process uses, and on which
/// port 443 is free.
fn own_addresses(first: u8) -> Option<[SocketAddr; 3]> {
    let [.., high, low] = std::process::id().to_be_bytes();
    let addresses = [first, first + 1, first + 2]
        .map(|last| SocketAddr::new(Ipv4Addr::new(127, 100 + high % 100, low, last).into(), 443));
    let free = addresses
        .iter()
        .all(|address| std::net::TcpListener::bind(address).is_ok());
    (free && can_name_hosts()).then_some(addresses)
}

#[tokio::test]
async fn docker_hub_is_the_default_upstream_under_all_its_names() {
    let Some(listen) = own_addresses(1) else {
        return skip("names and port 443 of Docker Hub need root");
    };
    let ca = Ca::generate();
    let hub = Hub::start_tls(
        &ca,
        &Addresses {
            listen,
            names: DOCKER_HUB,
        },
    )
    .await;
    let image = Image::oci();
    hub.push("library/alpine", "latest", &image);
    hub.push("team/app", "latest", &image);
    let options = DOCKER_HUB
        .iter()
        .zip(listen)
        .fold(Options::default(), |options, (name, at)| {
            options.host(name, at.ip())
        });
    let mirror = options.trust(&ca, &DOCKER_HUB).start().await;

    let aliases = [
        "",
        "?upstream=docker.io",
        "?upstream=index.docker.io",
        "?upstream=https://registry-1.docker.io/",
    ];
    for alias in aliases {
        for name in ["alpine", "library/alpine"] {
            let response = mirror
                .get_manifest(&format!("/v2/{name}/manifests/latest{alias}"))
                .await;
            assert_eq!(response.status, 200, "{name}{alias}: {response:?}");
        }
    }
    mirror
        .get_manifest("/v2/team/app/manifests/latest")
        .await
        .expect(200);
    let requests = hub.received(Service::Registry);
    let names = requests
        .iter()
        .filter(|received| received.target.contains("/library/alpine/manifests/latest"))
        .count();
    assert_eq!(names, requests.len() - 1, "{:?}", hub.requests());
    // Once for each repository: all aliases are one upstream.
    assert_eq!(
        hub.received(Service::Tokens).len(),
        2,
        "{:?}",
        hub.requests()
    );

    let blob = &image.native().layers[0].digest;
    let redirect = mirror
        .get(&format!("/v2/alpine/blobs/{blob}"))
        .send()
        .await
        .expect(307);
    let location = redirect.header("location").expect("a location");
    assert!(
        location.starts_with("https://production.cloudflare.docker.com/registry-v2/"),
        "{location}"
    );

    let tags = mirror.get("/v2/alpine/tags/list").send().await.expect(200);
    assert_eq!(tags.json()["tags"], serde_json::json!(["latest"]));
}

#[tokio::test]
async fn the_password_of_an_account_goes_over_https_only() {
    let Some(listen) = own_addresses(4) else {
        return skip("names and port 443 of Docker Hub need root");
    };
    let (ca, names) = (Ca::generate(), DOCKER_HUB);
    let hub = Hub::start_tls(&ca, &Addresses { listen, names }).await;
    let image = Image::oci();
    hub.push("team/public", "1", &image);
    hub.push("team/private", "1", &image);
    hub.make_private("team/private");
    hub.add_account("alice", "secret", &["team/private"]);
    // What is at the same names in clear text.
    let in_clear_text = async |at: SocketAddr| {
        let answer = Arc::new(|_| Reply::new(200, &[], r#"{"token":"t"}"#));
        Server::start(SocketAddr::new(at.ip(), 80), None, answer).await
    };
    let clear = [
        in_clear_text(listen[0]).await,
        in_clear_text(listen[1]).await,
    ];
    let named = names.iter().zip(listen);
    let options = named.fold(Options::default(), |options, (name, at)| {
        options.host(name, at.ip())
    });
    let options = options.variable("upstream_credentials", "hub@docker.io=alice:secret");
    let options = options.variable("manifest_cache", "off");
    let mirror = options.trust(&ca, &names).start().await;

    let (public, private) = (
        "/v2/team/public/manifests/1",
        "/v2/team/private/manifests/1",
    );
    for alias in [
        "",
        "?upstream=docker.io",
        "?upstream=registry-1.docker.io:443",
        "?upstream=https://registry-1.docker.io/",
        "?upstream=REGISTRY-1.Docker.IO",
        "?ns=docker.io",
    ] {
        mirror
            .get_manifest(&format!("{public}{alias}"))
            .await
            .expect(200);
        mirror
            .get_manifest(&format!("{private}{alias}"))
            .await
            .expect(403);
    }
    let sent = |service| {
        let received = hub.received(service).into_iter();
        let sent = received.filter_map(|it| it.header("authorization").map(str::to_owned));
        sent.collect::<Vec<_>>()
    };
    let password = basic("alice", "secret");
    assert_eq!(sent(Service::Tokens), [password]);
    let by_account = sent(Service::Registry);
    let by_account = by_account
        .iter()
        .filter(|it| it.starts_with("Bearer alice"));
    assert_eq!(by_account.count(), 6);

    hub.revoke_tokens();
    hub.challenge(|params| {
        let realm = params.realm.replace("https:", "http:");
        vec![format!(
            r#"Bearer realm="{realm}",scope="{}""#,
            params.scope
        )]
    });
    mirror.get_manifest(public).await.expect(502);
    hub.script(|service, received| {
        let location = format!("http://registry-1.docker.io{}", received.target);
        (service == Service::Registry).then(|| Reply::new(307, &[("location", &*location)], ""))
    });
    mirror.get_manifest(public).await.expect(502);
    for server in &clear {
        assert_eq!(server.connections(), 0);
    }
    let registry = sent(Service::Registry);
    assert!(
        !registry.iter().any(|it| it.starts_with("Basic")),
        "{registry:?}"
    );
}

#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_not_contacted() {
    if !can_name_hosts() {
        return skip("a name that resolves to a loopback address needs root");
    }
    let unwanted = Server::unwanted("127.0.0.1").await;
    let port = unwanted.address.port();
    let options = Options::default().host("rebound.example.com", IpAddr::from(Ipv4Addr::LOCALHOST));
    let mirror = options.block_networks(&["private"]).start().await;
    let target = format!("/v2/team/app/manifests/1.0?upstream=rebound.example.com:{port}");
    let response = mirror.get_manifest(&target).await;
    assert!(
        matches!(response.status.as_u16(), 403 | 502),
        "{response:?}"
    );
    assert!(
        response.json()["errors"][0]["code"].is_string(),
        "{response:?}"
    );
    assert_eq!(unwanted.connections(), 0);
}

#[tokio::test]
async fn a_listed_name_is_reached_over_plain_http() {
    if !can_name_hosts() {
        return skip("a name that resolves to a loopback address needs root");
    }
    let hub = Hub::start().await;
    let image = Image::oci();
    hub.push("team/app", "1.0", &image);
    let port = hub.address().port();
    let options = Options::default()
        .plain_http(hub.addresses())
        .plain_http_host(&format!("registry.lan:{port}"));
    let mirror = options
        .host("registry.lan", IpAddr::from(Ipv4Addr::LOCALHOST))
        .start()
        .await;
    for form in ["registry.lan", "http://registry.lan", "REGISTRY.LAN"] {
        let target = format!("/v2/team/app/manifests/1.0?upstream={form}:{port}");
        let response = mirror.get_manifest(&target).await;
        assert_eq!(response.status, 200, "{form}: {response:?}");
    }
}
