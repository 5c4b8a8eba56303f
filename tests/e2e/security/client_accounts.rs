//! Accounts of clients over real sockets: what needs a login, what a wrong one costs, and that
//! counts go by account.

use crate::support::client::Request;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use test_support::hub::Service;
use test_support::image::digest;

/// `printf %s alice:right | base64`, and with a wrong token.
const ALICE: &str = "Basic YWxpY2U6cmlnaHQ=";
const WRONG: &str = "Basic YWxpY2U6d3Jvbmc=";
/// `printf %s bob:right | base64`
const BOB: &str = "Basic Ym9iOnJpZ2h0";
const CHALLENGE: &str = "Basic realm=\"hammal\"";

async fn closed(settings: &[(&str, &str)]) -> HubFixture {
    let hash = digest(b"right");
    let hash = hash.trim_start_matches("sha256:");
    HubFixture::with(|options| {
        let options = options.variable("clients", format!("alice:{hash}, bob:{hash}"));
        settings.iter().fold(options, |options, (name, value)| {
            options.variable(name, value)
        })
    })
    .await
}

#[tokio::test]
async fn without_a_login_all_but_the_page_and_the_probes_is_a_401() {
    let fixture = closed(&[]).await;
    let (mirror, hub) = (&fixture.mirror, &fixture.hub);
    let targets = [
        "/v2/".to_owned(),
        MANIFEST_PATH.to_owned(),
        fixture.layer(),
        format!("/v2/{NAME}/tags/list"),
        format!("{MANIFEST_PATH}?upstream={}", hub.address()),
        format!("/{}{MANIFEST_PATH}", hub.address()),
        format!("/speed/{}/{NAME}:latest", hub.address()),
        "/v2/_catalog".to_owned(),
        "/v1/search?q=nginx".to_owned(),
        "/v2/..%2f/manifests/x".to_owned(),
    ];
    for target in &targets {
        for method in ["GET", "HEAD", "OPTIONS", "PUT"] {
            for login in [None, Some("Bearer right"), Some("Basic ~")] {
                let mut request = mirror.request(method, target).accept_manifests();
                request = request.header("origin", "https://ui.example");
                if let Some(login) = login {
                    request = request.header("authorization", login);
                }
                let response = request.send().await;
                // Most logins here are wrong ones.
                let is_over_limit = login.is_some() && response.status == 429;
                assert!(
                    is_over_limit || response.status == 401,
                    "{method} {target}: {response:?}"
                );
                let challenge = (!is_over_limit).then_some(CHALLENGE);
                assert_eq!(response.header("www-authenticate"), challenge);
                assert_eq!(response.body.is_empty(), method == "HEAD");
                assert_eq!(response.header("access-control-allow-origin"), None);
            }
        }
    }
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());
    for target in ["/", "/page/page.css", "/status.json", "/healthz", "/readyz"] {
        mirror.get(target).send().await.expect(200);
    }
    let health = mirror.get("/.well-known/spin/health").send().await;
    health.expect(200);
}

#[tokio::test]
async fn a_login_is_not_passed_on() {
    let fixture = closed(&[]).await;
    let (mirror, hub) = (&fixture.mirror, &fixture.hub);
    let with_login = |target: &str| mirror.get(target).header("authorization", ALICE);
    with_login("/v2/").send().await.expect(200);
    let manifest = with_login(MANIFEST_PATH).accept_manifests().send().await;
    assert_eq!(manifest.expect(200).body, fixture.image.index.bytes);
    let redirect = with_login(&fixture.layer()).send().await.expect(307);
    let location = redirect.header("location").expect("a location");
    Request::get_url(location).send().await.expect(200);
    let ping = with_login(&format!("/v2/?upstream={}", hub.address()));
    ping.send().await.expect(200);
    for service in [Service::Registry, Service::Tokens, Service::Cdn] {
        let received = hub.received(service);
        assert!(!received.is_empty(), "{service:?}");
        for received in received {
            let login = received.header("authorization").unwrap_or_default();
            assert!(!login.starts_with("Basic"), "{service:?}: {received:?}");
        }
    }
    let log = mirror.log(4).await;
    assert!(
        log.iter()
            .all(|line| line.client.as_deref() == Some("alice"))
    );
    let text = mirror.stderr().join("\n");
    assert!(
        !text.contains("right") && !text.contains("YWxpY2U"),
        "{text}"
    );
}

#[tokio::test]
async fn wrong_logins_are_limited_and_then_right_ones_wait_too() {
    let fixture = closed(&[]).await;
    let ping = |login| fixture.mirror.get("/v2/").header("authorization", login);
    ping(ALICE).send().await.expect(200);
    // A new minute may begin meanwhile.
    let mut refused = 0;
    for _ in 0..100 {
        let response = ping(WRONG).send().await;
        if response.status == 429 {
            response.expect_over_limit();
            break;
        }
        assert_eq!(
            response.expect(401).header("www-authenticate"),
            Some(CHALLENGE)
        );
        refused += 1;
    }
    assert!((30..=60).contains(&refused), "{refused}");
    let response = ping(ALICE).send().await;
    assert!(
        matches!(response.status.as_u16(), 200 | 429),
        "{response:?}"
    );
    if response.status == 429 {
        response.expect_error(429, "TOOMANYREQUESTS");
    }
    // Without a login nothing is judged.
    fixture.mirror.get("/v2/").send().await.expect(401);
}

#[tokio::test]
async fn the_client_limit_is_each_accounts_own() {
    let fixture = closed(&[("client_limit", "5")]).await;
    let get = |login| {
        let request = fixture.mirror.get(MANIFEST_PATH).accept_manifests();
        request.header("authorization", login)
    };
    let mut served = 0;
    for _ in 0..30 {
        if get(ALICE).send().await.status != 200 {
            break;
        }
        served += 1;
    }
    // A new minute may begin meanwhile.
    assert!((5..=10).contains(&served), "{served}");
    get(BOB).send().await.expect(200);
}
