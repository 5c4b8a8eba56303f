//! Challenges of registries, and the token requests that follow.

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use test_support::hub::{Params, Service};
use test_support::server::{Reply, Server};

/// The `WWW-Authenticate` lines of a 401, and the query of the token request that must follow.
struct Case {
    name: &'static str,
    lines: fn(&Params) -> Vec<String>,
    query: &'static [(&'static str, &'static str)],
}

const SERVICE: (&str, &str) = ("service", "registry.docker.io");
const PULL: (&str, &str) = ("scope", "repository:library/alpine:pull");

const CASES: [Case; 12] = [
    Case {
        name: "parameter names in upper case, the scheme in lower case",
        lines: |p| {
            vec![format!(
                r#"bearer REALM="{}",Service="{}",SCOPE="{}""#,
                p.realm, p.service, p.scope
            )]
        },
        query: &[SERVICE, PULL],
    },
    Case {
        name: "spaces around commas",
        lines: |p| {
            vec![format!(
                r#"Bearer realm="{}" , service="{}" ,  scope="{}""#,
                p.realm, p.service, p.scope
            )]
        },
        query: &[SERVICE, PULL],
    },
    Case {
        name: "an unquoted service",
        lines: |p| {
            vec![format!(
                r#"Bearer realm="{}",service={},scope="{}""#,
                p.realm, p.service, p.scope
            )]
        },
        query: &[SERVICE, PULL],
    },
    Case {
        name: "an error parameter and an unknown one",
        lines: |p| {
            vec![format!(
                r#"Bearer realm="{}",service="{}",scope="{}",error="invalid_token",x="1""#,
                p.realm, p.service, p.scope
            )]
        },
        query: &[SERVICE, PULL],
    },
    Case {
        name: "no service",
        lines: |p| vec![format!(r#"Bearer realm="{}",scope="{}""#, p.realm, p.scope)],
        query: &[PULL],
    },
    Case {
        name: "no scope",
        lines: |p| {
            vec![format!(
                r#"Bearer realm="{}",service="{}""#,
                p.realm, p.service
            )]
        },
        query: &[SERVICE, PULL],
    },
    Case {
        name: "a realm with a query of its own",
        lines: |p| {
            vec![format!(
                r#"Bearer realm="{}?account=a%3Db&x=1=2",service="{}",scope="{}""#,
                p.realm, p.service, p.scope
            )]
        },
        query: &[("account", "a=b"), ("x", "1=2"), SERVICE, PULL],
    },
    Case {
        name: "Basic and Bearer in one line",
        lines: |p| {
            vec![format!(
                r#"Basic realm="a, b", Bearer realm="{}",service="{}",scope="{}""#,
                p.realm, p.service, p.scope
            )]
        },
        query: &[SERVICE, PULL],
    },
    Case {
        name: "Basic and Bearer in two lines",
        lines: |p| {
            let bearer = format!(
                r#"Bearer realm="{}",service="{}",scope="{}""#,
                p.realm, p.service, p.scope
            );
            vec![r#"Basic realm="somewhere""#.into(), bearer]
        },
        query: &[SERVICE, PULL],
    },
    Case {
        name: "a scheme with a token68 before Bearer",
        lines: |p| {
            let bearer = format!(
                r#"Bearer realm="{}",service="{}",scope="{}""#,
                p.realm, p.service, p.scope
            );
            vec!["Negotiate YWJjZA==".into(), bearer]
        },
        query: &[SERVICE, PULL],
    },
    Case {
        name: "a line that is no challenge beside one that is",
        lines: |p| {
            let bearer = format!(
                r#"Bearer realm="{}",service="{}",scope="{}""#,
                p.realm, p.service, p.scope
            );
            vec![r#"=,"; nonsense"#.into(), bearer]
        },
        query: &[SERVICE, PULL],
    },
    Case {
        name: "a quoted service with commas, spaces and escapes",
        lines: |p| {
            vec![format!(
                r#"Bearer realm="{}",service="a, \"b\" & c=d",scope="{}""#,
                p.realm, p.scope
            )]
        },
        query: &[("service", r#"a, "b" & c=d"#), PULL],
    },
];

#[tokio::test]
async fn every_form_of_challenge_is_understood() {
    for case in CASES {
        let HubFixture { mirror, hub, image } = HubFixture::start().await;
        hub.challenge(case.lines);
        let response = mirror.get_manifest(MANIFEST_PATH).await;
        assert_eq!(
            response.status,
            200,
            "{}: {response:?}, {:?}",
            case.name,
            hub.requests()
        );
        assert_eq!(response.body, image.index.bytes, "{}", case.name);
        let query = hub.received(Service::Tokens)[0].query();
        let expected = case
            .query
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        assert_eq!(query, expected.collect::<Vec<_>>(), "{}", case.name);
        assert_eq!(
            hub.requests().len(),
            3,
            "{}: {:?}",
            case.name,
            hub.requests()
        );
    }
}

#[tokio::test]
async fn a_scope_of_several_resources_is_requested_whole() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.challenge(|p| {
        vec![format!(
            r#"Bearer realm="{}",service="s",scope="{} repository:other/image:pull""#,
            p.realm, p.scope
        )]
    });
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    let query = hub.received(Service::Tokens)[0].query();
    let scopes = query
        .iter()
        .filter(|(name, _)| name == "scope")
        .map(|(_, scope)| scope.as_str());
    let scopes = scopes.collect::<Vec<_>>().join(" ");
    assert!(scopes.contains(PULL.1), "{query:?}");
}

#[tokio::test]
async fn a_401_without_a_usable_challenge_is_denied() {
    for lines in [
        vec![],
        vec![r#"Basic realm="x""#],
        vec!["Bearer"],
        vec![r#"Bearer service="s""#],
    ] {
        let HubFixture { mirror, hub, .. } = HubFixture::start().await;
        let sent = lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        hub.challenge(move |_| sent.clone());
        let response = mirror.get_manifest(MANIFEST_PATH).await;
        assert_eq!(response.status, 403, "{lines:?}: {response:?}");
        response.expect_error(403, "DENIED");
        // Without a usable challenge the mirror may try that of `/v2/`.
        assert!(hub.requests().len() <= 2, "{lines:?}: {:?}", hub.requests());
        assert!(
            hub.received(Service::Tokens).is_empty(),
            "{lines:?}: {:?}",
            hub.requests()
        );
    }
}

#[tokio::test]
async fn a_realm_in_a_private_network_is_not_contacted() {
    let unwanted = Server::unwanted("127.0.0.1").await;
    let port = unwanted.address.port();
    let realms = [
        format!("http://127.0.0.1:{port}/token"),
        format!("https://127.0.0.1:{port}/token"),
        format!("https://localhost:{port}/token"),
        format!("http://[::ffff:127.0.0.1]:{port}/token"),
        format!("https://[::ffff:127.0.0.1]:{port}/token"),
        format!("https://2130706433:{port}/token"),
        format!("https://0x7f.1:{port}/token"),
        format!("https://user:password@127.0.0.1:{port}/token"),
        "file:///etc/passwd".to_string(),
        "/token".to_string(),
        String::new(),
    ];
    for realm in realms {
        let HubFixture { mirror, hub, .. } = HubFixture::start().await;
        let line = format!(r#"Bearer realm="{realm}",service="s",scope="repository:{NAME}:pull""#);
        hub.challenge(move |_| vec![line.clone()]);
        let response = mirror.get_manifest(MANIFEST_PATH).await;
        assert!(
            matches!(response.status.as_u16(), 403 | 502),
            "{realm}: {response:?}"
        );
        assert!(
            response.json()["errors"][0]["code"].is_string(),
            "{realm}: {response:?}"
        );
        assert_eq!(unwanted.connections(), 0, "{realm}");
    }
}

#[tokio::test]
async fn a_registry_without_challenges_gets_one_request() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let body = image.index.bytes.clone();
    hub.script(move |service, _| {
        let headers = [("content-type", test_support::image::INDEX)];
        (service == Service::Registry).then(|| Reply::new(200, &headers, body.clone()))
    });
    for _ in 0..2 {
        mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    }
    assert_eq!(hub.requests().len(), 2, "{:?}", hub.requests());
    assert!(hub.received(Service::Tokens).is_empty());
}

#[tokio::test]
async fn a_scope_with_a_comma_is_kept_whole() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    // Cut at the comma, the scope would not include pull.
    hub.challenge(|p| {
        let scope = p.scope.replace(":pull", ":push,pull");
        vec![format!(
            r#"Bearer realm="{}",service="{}",scope="{scope}""#,
            p.realm, p.service
        )]
    });
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
}

#[tokio::test]
async fn a_realm_with_equals_signs_in_its_query_is_kept_whole() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.challenge(|p| {
        vec![format!(
            r#"Bearer realm="{}?account=a=b&c=d",service="{}",scope="{}""#,
            p.realm, p.service, p.scope
        )]
    });
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    let query = hub.received(Service::Tokens)[0].query();
    assert!(
        query.contains(&("account".into(), "a=b".into())),
        "{query:?}"
    );
    assert!(query.contains(&("c".into(), "d".into())), "{query:?}");
}
