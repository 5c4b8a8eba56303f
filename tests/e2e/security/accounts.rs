//! The operator's accounts at registries: their passwords reach only their own hosts, and no
//! private byte reaches a client of an open mirror.

use std::sync::{Arc, Mutex};

use crate::support::docker_registry::DockerRegistry;
use crate::support::mirror::{Mirror, Options};
use crate::support::skip;
use test_support::hub::{Hub, Service, basic};
use test_support::image::{Image, OCI};
use test_support::server::{ReceivedRequest, Reply, Server};

const PUBLIC: &str = "/v2/team/public/manifests/1";
const PRIVATE: &str = "/v2/team/private/manifests/1";
const PASSWORD: &str = "correct horse/battery";
const SECRET: &str = "0123456789abcdef";

/// A registry with a public and a private image, and the account `alice`, which may pull both.
struct Registry {
    hub: Hub,
    public: Image,
    private: Image,
}

impl Registry {
    async fn start() -> Self {
        let hub = Hub::start().await;
        let (public, private) = (Image::oci(), Image::new(OCI, "private"));
        hub.push("team/public", "1", &public);
        hub.push("team/private", "1", &private);
        hub.make_private("team/private");
        for user in ["alice", "bob"] {
            hub.add_account(user, PASSWORD, &["team/private"]);
        }
        Self {
            hub,
            public,
            private,
        }
    }

    /// Options of a mirror with accounts at the registry.
    fn options(&self, users: &[&str]) -> Options {
        let address = self.hub.address();
        let entry = |user: &&str| format!("{user}@{address}={user}:correct%20horse/battery");
        let credentials = users.iter().map(entry).collect::<Vec<_>>().join(",");
        Options::default()
            .upstream(address)
            .plain_http([self.hub.tokens(), self.hub.cdn()])
            .variable("token_services", self.hub.tokens())
            .variable("upstream_credentials", credentials)
    }

    /// Paths of all that is private, under the private name and under the public one.
    fn private_paths(&self) -> Vec<String> {
        let (index, native) = (&self.private.index.digest, self.private.native());
        let layer = &native.layers[0].digest;
        let names = ["team/private", "team/public"];
        let paths = names.iter().flat_map(|name| {
            [
                format!("/v2/{name}/manifests/{index}"),
                format!("/v2/{name}/manifests/{}", native.manifest.digest),
                format!("/v2/{name}/blobs/{layer}"),
            ]
        });
        let lists = [PRIVATE.to_owned(), "/v2/team/private/tags/list".to_owned()];
        paths.chain(lists).collect()
    }

    /// Asserts that the mirror shows a client nothing that is private.
    async fn assert_is_closed(&self, mirror: &Mirror, prefix: &str) {
        let upstream = self.hub.address();
        for path in self.private_paths() {
            for method in ["GET", "HEAD"] {
                for query in [String::new(), format!("?upstream={upstream}")] {
                    let target = format!("{prefix}{path}{query}");
                    let request = mirror.request(method, &target).accept_manifests();
                    let response = request.send().await;
                    assert!(response.status.as_u16() >= 400, "{target}: {response:?}");
                    for header in ["location", "docker-content-digest", "etag"] {
                        assert_eq!(response.header(header), None, "{target}: {response:?}");
                    }
                }
            }
        }
    }
}

fn authorization(received: &ReceivedRequest) -> &str {
    received.header("authorization").unwrap_or_default()
}

/// Returns the requests for manifests that the registry received since the last call, and the user
/// of each.
fn manifests(hub: &Hub, seen: &mut usize) -> Vec<String> {
    let received = hub.received(Service::Registry);
    let new = received[*seen..].iter();
    *seen = received.len();
    let lines = new.filter(|received| received.target.contains("/manifests/"));
    let user = |received: &ReceivedRequest| {
        let token = authorization(received).strip_prefix("Bearer ");
        let user = token.and_then(|token| token.split('-').next());
        user.unwrap_or("nobody").to_owned()
    };
    lines
        .map(|received| format!("{} {}", received.method, user(received)))
        .collect()
}

#[tokio::test]
async fn an_open_mirror_gets_the_limits_of_an_account_and_nothing_else() {
    let registry = Registry::start().await;
    let (hub, mut seen) = (&registry.hub, 0);
    let options = registry
        .options(&["alice"])
        .variable("manifest_cache", "off");
    let mirror = options.start().await;
    let response = mirror.get_manifest(PUBLIC).await.expect(200);
    assert_eq!(response.body, registry.public.index.bytes);
    assert_eq!(response.header("ratelimit-remaining"), None);
    let log = mirror.log(1).await;
    assert_eq!(log[0].account.as_deref(), Some("alice"), "{log:?}");
    let first = manifests(hub, &mut seen);
    let heads = first
        .iter()
        .filter(|line| *line == "HEAD anonymous")
        .count();
    assert_eq!(
        (heads, first.last().map(|line| &**line)),
        (1, Some("GET alice")),
        "{first:?}"
    );
    for _ in 0..5 {
        mirror.get_manifest(PUBLIC).await.expect(200);
        assert_eq!(manifests(hub, &mut seen), ["GET alice"]);
    }
    let layer = &registry.public.native().layers[0].digest;
    let blob = format!("/v2/team/public/blobs/{layer}");
    mirror.get(&blob).send().await.expect(307);

    registry.assert_is_closed(&mirror, "").await;
    let received = hub.received(Service::Registry);
    let is_private = |received: &&ReceivedRequest| {
        received.target.contains("team/private") && authorization(received).contains("alice")
    };
    assert_eq!(received.iter().find(is_private).map(|it| &it.target), None);
    let stderr = mirror.stderr().join("\n");
    for secret in [PASSWORD, "correct%20horse", &basic("alice", PASSWORD)[6..]] {
        assert!(!stderr.contains(secret), "{stderr}");
    }
}

#[tokio::test]
async fn what_a_closed_mirror_cached_is_not_found_by_an_open_one() {
    let registry = Registry::start().await;
    let options = registry
        .options(&["alice"])
        .variable("credentials_serve", "all");
    let mut mirror = options.variable("secret", SECRET).start().await;
    let index = format!(
        "/v2/team/private/manifests/{}",
        registry.private.index.digest
    );
    for path in [PRIVATE, &index] {
        let target = format!("/{SECRET}{path}");
        let response = mirror.get_manifest(&target).await.expect(200);
        assert_eq!(response.body, registry.private.index.bytes);
    }
    mirror.get_manifest(PRIVATE).await.expect(404);

    mirror.restart_with("credentials_serve", "public").await;
    registry
        .assert_is_closed(&mirror, &format!("/{SECRET}"))
        .await;
    mirror.restart_with("secret", "").await;
    registry.assert_is_closed(&mirror, "").await;
    // The copies are there, and the upstream fails.
    for status in [429, 503] {
        let fails = move |_: &ReceivedRequest| Reply::new(status, &[], "");
        registry.hub.respond_from(Service::Registry, fails);
        registry.assert_is_closed(&mirror, "").await;
    }
    mirror.restart_with("credentials_serve", "all").await;
    let response = mirror.get_manifest(PUBLIC).await.expect(500);
    assert!(
        response.text().contains("credentials_serve"),
        "{response:?}"
    );
}

#[tokio::test]
async fn a_repository_that_became_private_is_closed_at_once() {
    let registry = Registry::start().await;
    let mirror = registry.options(&["alice"]).start().await;
    let index = format!("/v2/team/public/manifests/{}", registry.public.index.digest);
    for path in [PUBLIC, &index] {
        mirror.get_manifest(path).await.expect(200);
    }
    registry.hub.make_private("team/public");
    registry.hub.revoke_tokens();
    mirror.get_manifest(PUBLIC).await.expect(403);
    mirror.get_manifest(&index).await.expect(403);
    registry
        .hub
        .respond_from(Service::Registry, |_| Reply::new(503, &[], ""));
    for path in [PUBLIC, &index] {
        let response = mirror.get_manifest(path).await;
        assert!(response.status.as_u16() >= 400, "{response:?}");
    }
}

#[tokio::test]
async fn a_limit_leads_to_the_next_account() {
    let registry = Registry::start().await;
    let options = registry.options(&["alice", "bob"]);
    let mirror = options.variable("manifest_cache", "off").start().await;
    registry.hub.script(|service, received| {
        let is_alice = authorization(received).contains("alice");
        (service == Service::Registry && is_alice && received.method == "GET")
            .then(|| Reply::new(429, &[("retry-after", "3600")], ""))
    });
    mirror.get_manifest(PUBLIC).await.expect(200);
    let log = mirror.log(1).await;
    assert_eq!(log[0].account.as_deref(), Some("bob"), "{log:?}");
}

#[tokio::test]
async fn a_registry_that_asks_for_the_password_itself_gets_it() {
    let registry = Registry::start().await;
    registry.hub.ask_for_passwords();
    let options = registry
        .options(&["alice"])
        .variable("credentials_serve", "all");
    let mirror = options.variable("secret", SECRET).start().await;
    let response = mirror
        .get_manifest(&format!("/{SECRET}{PRIVATE}"))
        .await
        .expect(200);
    assert_eq!(response.body, registry.private.index.bytes);
    let layer = &registry.private.native().layers[0];
    let blob = format!("/{SECRET}/v2/team/private/blobs/{}", layer.digest);
    let response = mirror.get(&blob).send().await.expect(200);
    assert_eq!(response.body, layer.bytes);
    for received in registry.hub.received(Service::Cdn) {
        assert_eq!(authorization(&received), "", "{received:?}");
    }
    // An open mirror still serves what is public.
    let mirror = registry.options(&["alice"]).start().await;
    mirror.get_manifest(PUBLIC).await.expect(200);
    registry.assert_is_closed(&mirror, "").await;
}

#[tokio::test]
async fn debians_registry_is_pulled_from_with_its_password() {
    const HASH: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.ZPdpmKH0fSAm0VWrTg5ZUQrunQTin16";
    let started = DockerRegistry::start_with_password("alice", PASSWORD, HASH).await;
    let Some(registry) = started else {
        return skip("docker-registry is not installed");
    };
    let image = Image::oci();
    registry.push("team/private", "1", &image).await;
    let address = registry.address();
    let credentials = format!("{address}=alice:correct%20horse/battery");
    let options = || {
        let options = Options::default().upstream(address);
        options.variable("upstream_credentials", &credentials)
    };
    let closed = options()
        .variable("credentials_serve", "all")
        .variable("secret", SECRET);
    let mirror = closed.start().await;
    let response = mirror
        .get_manifest(&format!("/{SECRET}{PRIVATE}"))
        .await
        .expect(200);
    assert_eq!(response.body, image.index.bytes);
    for layer in &image.native().layers {
        let target = format!("/{SECRET}/v2/team/private/blobs/{}", layer.digest);
        let response = mirror.get(&target).send().await.expect(200);
        assert_eq!(response.body, layer.bytes);
    }
    let tags = format!("/{SECRET}/v2/team/private/tags/list");
    let tags = mirror.get(&tags).send().await.expect(200);
    assert_eq!(tags.json()["tags"], serde_json::json!(["1"]));
    // It has nothing for the anonymous user.
    let mirror = options().start().await;
    mirror
        .get_manifest(PRIVATE)
        .await
        .expect_error(403, "DENIED");
}

/// A server that asks for a token of its own, or of `relayed`, and takes whatever it is sent.
async fn evil(relayed: Option<String>) -> (Server, Arc<Mutex<Vec<ReceivedRequest>>>) {
    let received: Arc<Mutex<Vec<ReceivedRequest>>> = Arc::default();
    let recorded = Arc::clone(&received);
    let server = Server::plain("127.0.0.4", move |request| {
        recorded.lock().expect("requests").push(request.clone());
        let host = request.header("host").unwrap_or_default().to_owned();
        match request.path() {
            "/token" => Reply::new(200, &[], r#"{"token":"evil"}"#),
            _ if authorization(&request).is_empty() => {
                let own = || format!("http://{host}/token");
                let realm = relayed.clone().unwrap_or_else(own);
                let bearer = format!(r#"Bearer realm="{realm}""#);
                let challenges = [
                    ("www-authenticate", &*bearer),
                    ("www-authenticate", "Basic realm=\"x\""),
                ];
                Reply::new(401, &challenges, "")
            }
            _ => Reply::new(404, &[], ""),
        }
    })
    .await;
    (server, received)
}

#[tokio::test]
async fn a_password_reaches_its_own_token_server_only() {
    for (attack, is_closed) in [
        ("foreign realm", false),
        ("foreign realm", true),
        ("redirecting token server", true),
        ("redirecting registry", true),
        ("relayed challenge", true),
    ] {
        let registry = Registry::start().await;
        let tokens = format!("http://{}/token", registry.hub.tokens());
        let relayed = (attack == "relayed challenge").then_some(tokens);
        let (evil, received) = evil(relayed).await;
        let url = format!("http://{}", evil.address);
        // Both are the operator's, so that no other rule refuses them.
        let mut options = registry
            .options(&["alice"])
            .plain_http([evil.address])
            .variable(
                "upstream",
                format!("http://{},{url}", registry.hub.address()),
            );
        if is_closed {
            options = options
                .variable("credentials_serve", "all")
                .variable("secret", SECRET);
        }
        let realm = format!("{url}/token");
        match attack {
            "foreign realm" => registry.hub.challenge(move |params| {
                vec![format!(
                    r#"Bearer realm="{realm}",scope="{}""#,
                    params.scope
                )]
            }),
            "redirecting token server" => registry.hub.respond_from(Service::Tokens, move |_| {
                Reply::new(307, &[("location", &*realm)], "")
            }),
            "redirecting registry" => {
                registry
                    .hub
                    .respond_from(Service::Registry, move |received| {
                        let location = format!("{url}{}", received.target);
                        Reply::new(307, &[("location", &*location)], "")
                    })
            }
            // The registry fails, and the next upstream names its token server.
            _ => registry
                .hub
                .respond_from(Service::Registry, |_| Reply::new(503, &[], "")),
        }
        let mirror = options.start().await;
        let prefix = if is_closed {
            format!("/{SECRET}")
        } else {
            String::new()
        };
        for path in [PUBLIC, PRIVATE, "/v2/_catalog"] {
            for method in ["GET", "HEAD"] {
                let request = mirror.request(method, &format!("{prefix}{path}"));
                request.accept_manifests().send().await;
            }
        }
        let received = received.lock().expect("requests").clone();
        assert!(!received.is_empty(), "{attack}");
        let places = [Service::Registry, Service::Cdn].map(|place| registry.hub.received(place));
        for received in places.iter().flatten().chain(&received) {
            let sent = authorization(received);
            assert!(!sent.starts_with("Basic"), "{attack}: {received:?}");
        }
        for received in &received {
            assert!(
                !authorization(received).contains("alice"),
                "{attack}: {received:?}"
            );
        }
        drop(evil);
    }
}
