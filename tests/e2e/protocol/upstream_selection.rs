//! Four of the five ways to select an upstream: `?upstream=`, a path prefix, the first part of the
//! name, `?ns=`.

use crate::support::hub_fixture::NAME;
use crate::support::mirror::{Mirror, Options};
use test_support::hub::{Hub, Service};
use test_support::image::Image;
use test_support::server::closed_address;

const REST: &str = "team/app/manifests/1.0";

/// Registries with the same image, and a mirror whose default upstream does not exist.
async fn registries<const N: usize>() -> (Mirror, [Hub; N]) {
    let mut hubs = Vec::new();
    let mut options = Options::default().upstream(closed_address().await);
    for _ in 0..N {
        let hub = Hub::start().await;
        for tag in ["1.0", "2.0", "3.0"] {
            hub.push("team/app", tag, &Image::oci());
        }
        options = options.plain_http(hub.addresses());
        hubs.push(hub);
    }
    let Ok(hubs) = hubs.try_into() else {
        unreachable!("N registries")
    };
    (options.start().await, hubs)
}

fn forms(hub: &Hub, rest: &str) -> [String; 4] {
    let host = hub.address();
    let and = if rest.contains('?') { '&' } else { '?' };
    [
        format!("/v2/{rest}{and}upstream={host}"),
        format!("/{host}/v2/{rest}"),
        format!("/v2/{host}/{rest}"),
        format!("/v2/{rest}{and}ns={host}"),
    ]
}

#[tokio::test]
async fn an_upstream_is_selected_in_four_ways() {
    let (mirror, [hub]) = registries().await;
    for form in forms(&hub, REST) {
        let response = mirror.get_manifest(&form).await;
        assert_eq!(response.status, 200, "{form}: {response:?}");
        let last = hub.received(Service::Registry).pop().expect("a request");
        assert_eq!(last.target, format!("/v2/{REST}"), "{form}");
    }
    assert_eq!(
        hub.received(Service::Tokens).len(),
        1,
        "however it is named, it is one registry: {:?}",
        hub.requests()
    );
}

#[tokio::test]
async fn the_first_selector_present_wins() {
    let (mirror, [one, two]) = registries().await;
    let (one_host, two_host) = (one.address(), two.address());
    let cases = [
        format!("/{two_host}/v2/{REST}?upstream={one_host}"),
        format!("/v2/{REST}?ns={two_host}&upstream={one_host}"),
        format!("/{one_host}/v2/{REST}?ns={two_host}"),
        format!("/v2/{one_host}/{REST}?ns={two_host}"),
    ];
    for case in cases {
        let response = mirror.get_manifest(&case).await;
        assert_eq!(response.status, 200, "{case}: {response:?}");
        assert!(two.requests().is_empty(), "{case}: {:?}", two.requests());
    }
}

#[tokio::test]
async fn a_list_pages_with_the_selector_of_its_first_page() {
    let (mirror, [hub]) = registries().await;
    for form in forms(&hub, "team/app/tags/list?n=2") {
        let page = mirror.get(&form).send().await.expect(200);
        let link = page.header("link").expect("a link");
        let target = link
            .trim_start_matches('<')
            .split('>')
            .next()
            .expect("a target");
        let target = target.trim_start_matches(&format!("http://{}", mirror.address()));
        let page = mirror.get(target).send().await;
        assert_eq!(page.status, 200, "{form}, {link}: {page:?}");
        assert_eq!(
            page.json()["tags"],
            serde_json::json!(["3.0"]),
            "{form}, {link}"
        );
    }
}

#[tokio::test]
async fn a_response_by_namespace_names_the_namespace() {
    let (mirror, [hub]) = registries().await;
    let host = hub.address().to_string();
    let response = mirror
        .get_manifest(&format!("/v2/{REST}?ns={host}"))
        .await
        .expect(200);
    assert_eq!(response.header("oci-namespace"), Some(&*host));
}

#[tokio::test]
async fn docker_hubs_namespace_is_the_default_upstream() {
    let hub = Hub::start().await;
    hub.push("team/app", "1.0", &Image::oci());
    let mirror = Options::default()
        .plain_http(hub.addresses())
        .upstream(hub.address())
        .start()
        .await;
    let response = mirror
        .get_manifest(&format!("/v2/{REST}?ns=docker.io"))
        .await
        .expect(200);
    assert_eq!(response.header("oci-namespace"), Some("docker.io"));
    assert!(
        hub.received(Service::Registry)
            .iter()
            .all(|received| !received.target.contains("ns=")),
        "{:?}",
        hub.requests()
    );
}

#[tokio::test]
async fn the_policy_applies_to_every_selector() {
    let (mirror, [hub]) = registries().await;
    let unlisted = test_support::server::Server::unwanted("127.0.0.1").await;
    let host = unlisted.address;
    let forms = [
        format!("/v2/{REST}?upstream={host}"),
        format!("/{host}/v2/{REST}"),
        format!("/v2/{host}/{REST}"),
        format!("/v2/{REST}?ns={host}"),
        format!("/v2/localhost:{}/{REST}", host.port()),
        format!("/localhost:{}/v2/{REST}", host.port()),
    ];
    for form in forms {
        let response = mirror.get_manifest(&form).await;
        assert_eq!(response.status, 403, "{form}: {response:?}");
        response.expect_error(403, "DENIED");
    }
    assert_eq!(unlisted.connections(), 0);
    assert!(hub.requests().is_empty());
}

#[tokio::test]
async fn a_link_keeps_its_upstream() {
    let hub = Hub::start().await;
    for tag in ["1", "2", "3"] {
        hub.push(NAME, tag, &Image::oci());
    }
    let mirror = Options::default().plain_http(hub.addresses()).start().await;
    let page = mirror
        .get(&format!(
            "/v2/{NAME}/tags/list?n=1&upstream={}",
            hub.address()
        ))
        .send()
        .await
        .expect(200);
    let link = page.header("link").expect("a link");
    let address = hub.address().to_string();
    let named = [
        format!("upstream={address}"),
        format!("upstream={}", address.replace(':', "%3A")),
    ];
    assert!(named.iter().any(|named| link.contains(named)), "{link}");
}
