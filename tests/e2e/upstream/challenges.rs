//! Challenges as registries send them, and whom the mirror asks for a token because of them.

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use test_support::hub::{Params, Place};
use test_support::server::{Reply, Server};

/// The lines of a 401, and what the token server has to be asked.
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
        name: "an error parameter and one that nobody knows",
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
async fn every_form_of_challenge_is_answered() {
    for case in CASES {
        let HubFixture { mirror, hub, image } = HubFixture::start().await;
        hub.challenge(case.lines);
        let answer = mirror
            .get("/v2/library/alpine/manifests/latest")
            .accept_manifests()
            .send()
            .await;
        assert_eq!(
            answer.status,
            200,
            "{}: {answer:?}, {:?}",
            case.name,
            hub.lines()
        );
        assert_eq!(answer.body, image.index.bytes, "{}", case.name);
        let query = hub.seen(Place::Tokens)[0].query();
        let expected = case
            .query
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        assert_eq!(query, expected.collect::<Vec<_>>(), "{}", case.name);
        assert_eq!(hub.lines().len(), 3, "{}: {:?}", case.name, hub.lines());
    }
}

#[tokio::test]
async fn a_scope_of_several_resources_is_asked_for_whole() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.challenge(|p| {
        vec![format!(
            r#"Bearer realm="{}",service="s",scope="{} repository:other/image:pull""#,
            p.realm, p.scope
        )]
    });
    mirror
        .get(&format!("/v2/{NAME}/manifests/latest"))
        .accept_manifests()
        .send()
        .await
        .expect(200);
    let query = hub.seen(Place::Tokens)[0].query();
    let scopes = query
        .iter()
        .filter(|(name, _)| name == "scope")
        .map(|(_, scope)| scope.as_str());
    let scopes = scopes.collect::<Vec<_>>().join(" ");
    assert!(scopes.contains(PULL.1), "{query:?}");
}

#[tokio::test]
async fn a_401_that_an_anonymous_user_cannot_answer_is_denied() {
    for lines in [
        vec![],
        vec![r#"Basic realm="x""#],
        vec!["Bearer"],
        vec![r#"Bearer service="s""#],
    ] {
        let HubFixture { mirror, hub, .. } = HubFixture::start().await;
        let sent = lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        hub.challenge(move |_| sent.clone());
        let answer = mirror
            .get(&format!("/v2/{NAME}/manifests/latest"))
            .accept_manifests()
            .send()
            .await;
        assert_eq!(answer.status, 403, "{lines:?}: {answer:?}");
        answer.expect_error(403, "DENIED");
        // Where the challenge says nothing, that of `/v2/` may.
        assert!(hub.lines().len() <= 2, "{lines:?}: {:?}", hub.lines());
        assert!(
            hub.seen(Place::Tokens).is_empty(),
            "{lines:?}: {:?}",
            hub.lines()
        );
    }
}

#[tokio::test]
async fn a_realm_that_may_not_be_contacted_is_not() {
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
        let answer = mirror
            .get(&format!("/v2/{NAME}/manifests/latest"))
            .accept_manifests()
            .send()
            .await;
        assert!(
            matches!(answer.status.as_u16(), 403 | 502),
            "{realm}: {answer:?}"
        );
        assert!(
            answer.json()["errors"][0]["code"].is_string(),
            "{realm}: {answer:?}"
        );
        assert_eq!(unwanted.connections(), 0, "{realm}");
    }
}

#[tokio::test]
async fn a_registry_without_authentication_is_asked_once() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let body = image.index.bytes.clone();
    hub.script(move |place, _| {
        let headers = [("content-type", test_support::image::INDEX)];
        (place == Place::Registry).then(|| Reply::new(200, &headers, body.clone()))
    });
    for _ in 0..2 {
        mirror
            .get(&format!("/v2/{NAME}/manifests/latest"))
            .accept_manifests()
            .send()
            .await
            .expect(200);
    }
    assert_eq!(hub.lines().len(), 2, "{:?}", hub.lines());
    assert!(hub.seen(Place::Tokens).is_empty());
}

#[tokio::test]
async fn a_list_scope_is_not_cut_at_its_comma() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    // Cut at the comma, what is left has no right to pull.
    hub.challenge(|p| {
        let scope = p.scope.replace(":pull", ":push,pull");
        vec![format!(
            r#"Bearer realm="{}",service="{}",scope="{scope}""#,
            p.realm, p.service
        )]
    });
    mirror
        .get(MANIFEST_PATH)
        .accept_manifests()
        .send()
        .await
        .expect(200);
}

#[tokio::test]
async fn a_realm_with_an_equals_sign_in_its_query_is_not_cut() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.challenge(|p| {
        vec![format!(
            r#"Bearer realm="{}?account=a=b&c=d",service="{}",scope="{}""#,
            p.realm, p.service, p.scope
        )]
    });
    mirror
        .get(MANIFEST_PATH)
        .accept_manifests()
        .send()
        .await
        .expect(200);
    let query = hub.seen(Place::Tokens)[0].query();
    assert!(
        query.contains(&("account".into(), "a=b".into())),
        "{query:?}"
    );
    assert!(query.contains(&("c".into(), "d".into())), "{query:?}");
}
