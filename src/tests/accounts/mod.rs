//! The operator's accounts at registries: where they go, what is served with them, and how their
//! limits are used. Attacks on them are in [`attacks`].

mod attacks;

use super::*;
use crate::oci::digest::Digest;
use crate::registry::account::Accounts;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const AUTH: &str = "https://auth.docker.io";
const PUBLIC: &str = "/v2/team/public/manifests/1";
const PRIVATE: &str = "/v2/team/private/manifests/1";
const SECRET: &str = "0123456789abcdef";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Docker Hub, with the accounts `alice` and `bob`. Everybody may read every repository but those
/// that are private, which both accounts may.
#[derive(Clone, Default)]
struct Hub(Rc<State>);

type Headers = Vec<(&'static str, &'static str)>;

#[derive(Default)]
struct State {
    private: RefCell<HashSet<String>>,
    /// Headers of the registry's answers to a `GET` of each user, and a status in place of 200.
    answers: RefCell<HashMap<&'static str, (u16, Headers)>>,
    /// Accounts that the token server does not know any more.
    revoked: RefCell<HashSet<&'static str>>,
    /// What happens in place of everything else.
    outage: RefCell<Option<TransportError>>,
}

fn content(repository: &str) -> String {
    format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"of":"{repository}"}}}}"#)
}

fn digest_of(repository: &str) -> String {
    Digest::of(content(repository).as_bytes())
        .as_str()
        .to_owned()
}

fn basic(user: &str) -> String {
    let accounts = Accounts::parse(&format!("quay.io={user}:secret-of-{user}")).unwrap();
    let header = accounts.iter().next().unwrap().authorization();
    header.to_str().unwrap().to_owned()
}

impl Hub {
    fn make_private(&self, repository: &str) {
        self.0.private.borrow_mut().insert(repository.to_owned());
    }

    fn answer_to(&self, user: &'static str, status: u16, headers: &[(&'static str, &'static str)]) {
        let answer = (status, headers.to_vec());
        self.0.answers.borrow_mut().insert(user, answer);
    }

    fn fail(&self, error: Option<TransportError>) {
        self.0.outage.replace(error);
    }

    fn respond(&self, request: &Request<()>) -> Answer {
        if let Some(error) = *self.0.outage.borrow() {
            return Err(error);
        }
        let authorization = request.headers().get("authorization");
        let authorization = authorization.map(|value| value.to_str().unwrap());
        let uri = request.uri();
        match uri.host().unwrap() {
            "auth.docker.io" => self.grant(uri.query().unwrap(), authorization),
            "registry-1.docker.io" => self.serve(request, authorization),
            "mirror.gcr.io" => manifest(),
            host => panic!("nobody asks {host}"),
        }
    }

    /// Grants a token that names its user and its repository.
    fn grant(&self, query: &str, authorization: Option<&str>) -> Answer {
        let user = match authorization {
            None => "anonymous",
            Some(header) => {
                let known = ["alice", "bob"]
                    .into_iter()
                    .find(|user| basic(user) == header && !self.0.revoked.borrow().contains(user));
                match known {
                    Some(user) => user,
                    None => return answer(401, &[], ""),
                }
            }
        };
        let scope = query.split("repository%3A").nth(1).unwrap_or_default();
        let name = scope.trim_end_matches("%3Apull").replace("%2F", "/");
        token(&format!("{user}:{name}"))
    }

    fn serve(&self, request: &Request<()>, authorization: Option<&str>) -> Answer {
        let path = request.uri().path();
        let rest = path.strip_prefix("/v2/").unwrap();
        let kind = ["/manifests/", "/blobs/", "/tags/", "/referrers/"]
            .into_iter()
            .find(|kind| rest.contains(kind));
        let Some((name, reference)) = kind.and_then(|kind| rest.split_once(kind)) else {
            return challenge_of(&format!("{AUTH}/token"), "catalog");
        };
        let token = authorization.and_then(|header| header.strip_prefix("Bearer "));
        let (user, granted) = token.and_then(|it| it.split_once(':')).unwrap_or_default();
        let is_private = self.0.private.borrow().contains(name);
        if granted != name || is_private && user == "anonymous" {
            return challenge_of(&format!("{AUTH}/token"), name);
        }
        if let Some((status, headers)) = self.0.answers.borrow().get(user)
            && (request.method() == "GET" || *status == 403)
        {
            if *status != 200 {
                return answer(*status, headers, "");
            }
            return self.content(name, reference, kind, headers);
        }
        self.content(name, reference, kind, &[])
    }

    fn content(
        &self,
        name: &str,
        reference: &str,
        kind: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let (digest, content) = (digest_of(name), content(name));
        let length = content.len().to_string();
        let mut all = headers.to_vec();
        all.extend([
            ("content-type", INDEX),
            ("docker-content-digest", &digest),
            ("content-length", &length),
        ]);
        let is_there = reference == "1" || reference == digest;
        match kind {
            Some("/manifests/") if is_there => answer(200, &all, &content),
            Some("/blobs/") if is_there => {
                // As CloudFront signs it, so that it is remembered.
                let query = "Expires=9999999&Signature=a&Key-Pair-Id=K";
                let location = format!("https://cdn.example/{name}?{query}");
                answer(307, &[("location", &location)], "")
            }
            Some("/tags/") => answer(200, &[("content-type", "application/json")], "{}"),
            _ => answer(404, &[], ""),
        }
    }
}

/// A mirror with an account, and the registry that it is at.
fn mirror_with(credentials: &str, variables: &[(&str, &str)]) -> (Scripted, Hub, Mirror<Scripted>) {
    let platform = Scripted::new([]);
    let hub = Hub::default();
    hub.make_private("team/private");
    let registry = hub.clone();
    platform.respond(move |request| registry.respond(request));
    platform.set_variable("upstream_credentials", credentials);
    for (name, value) in variables {
        platform.set_variable(name, value);
    }
    (platform.clone(), hub, Mirror::new(platform))
}

const ALICE: &str = "alice@docker.io=alice:secret-of-alice";
const BOTH: &str = "alice@docker.io=alice:secret-of-alice,bob@docker.io=bob:secret-of-bob";

fn with_cache(credentials: &str) -> (Scripted, Hub, Mirror<Scripted>) {
    mirror_with(credentials, &[("manifest_cache", "on")])
}

/// A closed mirror that serves all that its account may read.
fn closed(credentials: &str) -> (Scripted, Hub, Mirror<Scripted>) {
    let variables = [
        ("credentials_serve", "all"),
        ("secret", SECRET),
        ("manifest_cache", "on"),
    ];
    mirror_with(credentials, &variables)
}

/// Returns who asked the registry for what, and which tokens were fetched, since the last call:
/// `HEAD anonymous /v2/...`.
fn asked(platform: &Scripted) -> Vec<String> {
    let describe = |line: String| {
        let mut parts = line.split(' ');
        let (method, url) = (parts.next().unwrap(), parts.next().unwrap());
        let user = match (parts.next(), parts.next()) {
            (Some("Bearer"), Some(token)) => token.split(':').next().unwrap().to_owned(),
            (Some("Basic"), _) => "password".to_owned(),
            _ => "nobody".to_owned(),
        };
        if url.starts_with(AUTH) {
            return format!("token {user}");
        }
        format!("{method} {user} {}", url.trim_start_matches(HUB))
    };
    platform.sent().into_iter().map(describe).collect()
}

fn head(path: &str) -> Request<()> {
    let uri = format!("http://mirror.example{path}");
    Request::head(uri).body(()).unwrap()
}

#[tokio::test]
async fn a_public_image_is_served_with_the_account_once_that_is_proven() {
    let (platform, _, mirror) = mirror_with(ALICE, &[]);
    let received = send(&mirror, get(PUBLIC)).await;
    assert_eq!(received.text(), content("team/public"));
    assert_eq!(
        asked(&platform),
        [
            format!("HEAD nobody {PUBLIC}"),
            "token nobody".to_owned(),
            format!("HEAD anonymous {PUBLIC}"),
            "token password".to_owned(),
            format!("GET alice {PUBLIC}"),
        ]
    );
    let log = platform.log();
    assert!(
        log[0].contains(" upstream=registry-1.docker.io account=alice status=200 "),
        "{log:?}"
    );
    assert!(!log[0].contains("secret"), "{log:?}");
    // From then on it costs no request.
    for _ in 0..3 {
        assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
        assert_eq!(asked(&platform), [format!("GET alice {PUBLIC}")]);
    }
    let blob = PUBLIC.replace(
        "manifests/1",
        &format!("blobs/{}", digest_of("team/public")),
    );
    assert_eq!(send(&mirror, get(&blob)).await.status(), 307);
    assert_eq!(asked(&platform), [format!("GET alice {blob}")]);
}

#[tokio::test]
async fn the_proof_costs_one_head_for_a_repository_and_a_day() {
    let (platform, _, mirror) = mirror_with(ALICE, &[]);
    let anonymous_heads = |platform: &Scripted| {
        let lines = asked(platform).into_iter();
        lines
            .filter(|line| line.starts_with("HEAD anonymous"))
            .count()
    };
    let simultaneous = (0..20).map(|_| send(&mirror, get(PUBLIC)));
    futures_util::future::join_all(simultaneous).await;
    assert_eq!(anonymous_heads(&platform), 1);
    for _ in 0..23 {
        platform.advance(DAY / 24);
        assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
        // A new instance finds it in the store.
        let new = Mirror::new(platform.clone());
        assert_eq!(send(&new, get(PUBLIC)).await.status(), 200);
    }
    assert_eq!(anonymous_heads(&platform), 0);
    platform.advance(DAY / 24);
    assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
    assert_eq!(anonymous_heads(&platform), 1);
}

#[tokio::test]
async fn the_head_of_a_manifest_is_the_proof_by_itself() {
    let (platform, _, mirror) = with_cache(ALICE);
    assert_eq!(send(&mirror, head(PUBLIC)).await.status(), 200);
    assert_eq!(
        asked(&platform).last().unwrap(),
        &format!("HEAD anonymous {PUBLIC}")
    );
    assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
    assert_eq!(
        asked(&platform),
        ["token password".to_owned(), format!("GET alice {PUBLIC}")]
    );
    // A cached tag is confirmed, and the proof renewed, by one request.
    for _ in 0..3 {
        platform.advance(DAY / 2);
        send(&mirror, get(PUBLIC)).await;
        asked(&platform);
        assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
        assert_eq!(asked(&platform), [format!("HEAD anonymous {PUBLIC}")]);
    }
    assert!(
        platform
            .log()
            .iter()
            .all(|line| !line.contains("status=403"))
    );
}

#[tokio::test]
async fn lists_are_asked_for_as_the_anonymous_user() {
    let (platform, _, mirror) = mirror_with(ALICE, &[]);
    send(&mirror, get(PUBLIC)).await;
    asked(&platform);
    let tags = "/v2/team/public/tags/list";
    let referrers = format!("/v2/team/public/referrers/{DIGEST}");
    for path in [tags, &referrers] {
        send(&mirror, get(path)).await;
        assert_eq!(asked(&platform), [format!("GET anonymous {path}")]);
    }
}

#[tokio::test]
async fn a_mirror_without_an_account_at_the_registry_asks_as_before() {
    for credentials in ["", "quay.io=alice:secret-of-alice"] {
        let (platform, _, mirror) = mirror_with(credentials, &[]);
        assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
        assert_eq!(
            asked(&platform),
            [
                format!("GET nobody {PUBLIC}"),
                "token nobody".to_owned(),
                format!("GET anonymous {PUBLIC}"),
            ]
        );
        assert!(!platform.log()[0].contains("account="));
    }
}

#[tokio::test]
async fn a_client_may_name_the_registry_of_an_account() {
    let (platform, _, mirror) = mirror_with(ALICE, &[("upstream", "mirror.gcr.io")]);
    let path = format!("{PUBLIC}?upstream=docker.io");
    assert_eq!(
        send(&mirror, get(&path)).await.text(),
        content("team/public")
    );
    assert_eq!(
        asked(&platform).last().unwrap(),
        &format!("GET alice {PUBLIC}")
    );
    let private = format!("{PRIVATE}?upstream=docker.io");
    assert_eq!(send(&mirror, get(&private)).await.status(), 403);
}

#[tokio::test]
async fn a_closed_mirror_serves_all_that_the_account_may_read() {
    let (platform, _, mirror) = closed(ALICE);
    let received = send(&mirror, get(&format!("/{SECRET}{PRIVATE}"))).await;
    assert_eq!(received.text(), content("team/private"));
    assert_eq!(
        asked(&platform),
        [
            format!("GET nobody {PRIVATE}"),
            "token password".to_owned(),
            format!("GET alice {PRIVATE}"),
        ]
    );
    assert_eq!(send(&mirror, get(PRIVATE)).await.status(), 404);
    assert_eq!(asked(&platform), [""; 0]);
}

#[tokio::test]
async fn what_an_account_reads_is_for_no_shared_cache() {
    let (_, _, mirror) = closed(ALICE);
    let digest = digest_of("team/private");
    for path in [PRIVATE, &format!("/v2/team/private/manifests/{digest}")] {
        let received = send(&mirror, get(&format!("/{SECRET}{path}"))).await;
        let caching = received.header("cache-control").unwrap();
        assert!(caching.starts_with("private"), "{caching}");
    }
}

#[tokio::test]
async fn a_limit_leads_to_the_next_account_then_the_anonymous_user_then_the_next_upstream() {
    let variables = [("upstream", "docker.io,mirror.gcr.io")];
    let (platform, hub, mirror) = mirror_with(BOTH, &variables);
    assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
    asked(&platform);
    hub.answer_to("alice", 429, &[("retry-after", "120")]);
    assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
    assert_eq!(
        asked(&platform),
        [
            format!("GET alice {PUBLIC}"),
            "token password".to_owned(),
            format!("GET bob {PUBLIC}"),
        ]
    );
    assert!(platform.log().last().unwrap().contains(" account=bob "));
    // For as long as the registry said.
    platform.advance(Duration::from_secs(119));
    send(&mirror, get(PUBLIC)).await;
    assert_eq!(asked(&platform), [format!("GET bob {PUBLIC}")]);
    hub.answer_to("bob", 429, &[]);
    assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
    assert_eq!(
        asked(&platform),
        [
            format!("GET bob {PUBLIC}"),
            format!("GET anonymous {PUBLIC}")
        ]
    );
    assert!(!platform.log().last().unwrap().contains(" account="));
    platform.advance(Duration::from_secs(1));
    hub.answer_to("alice", 200, &[]);
    send(&mirror, get(PUBLIC)).await;
    assert_eq!(asked(&platform), [format!("GET alice {PUBLIC}")]);

    hub.answer_to("alice", 429, &[("retry-after", "9999999999")]);
    hub.answer_to("anonymous", 429, &[]);
    assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
    assert_eq!(
        asked(&platform),
        [
            format!("GET alice {PUBLIC}"),
            format!("GET anonymous {PUBLIC}"),
            format!("GET nobody https://mirror.gcr.io{PUBLIC}"),
        ]
    );
}

#[tokio::test]
async fn an_account_that_says_it_is_exhausted_is_left_alone() {
    let exhausted = [
        ("ratelimit-limit", "200;w=21600"),
        ("ratelimit-remaining", "0;w=21600"),
        ("docker-ratelimit-source", "alice's number"),
    ];
    let (platform, hub, mirror) = mirror_with(BOTH, &[]);
    hub.answer_to("alice", 200, &exhausted);
    let received = send(&mirror, get(PUBLIC)).await;
    assert_eq!(received.status(), 200);
    for (name, _) in exhausted {
        assert_eq!(received.header(name), None, "{name} is the operator's");
    }
    assert_eq!(
        asked(&platform).last().unwrap(),
        &format!("GET alice {PUBLIC}")
    );
    send(&mirror, get(PUBLIC)).await;
    assert_eq!(
        asked(&platform).last().unwrap(),
        &format!("GET bob {PUBLIC}")
    );
    platform.advance(Duration::from_secs(300));
    send(&mirror, get(PUBLIC)).await;
    assert!(asked(&platform).contains(&format!("GET alice {PUBLIC}")));
}

#[tokio::test]
async fn a_closed_mirror_serves_its_copy_where_all_accounts_are_limited() {
    let (platform, hub, mirror) = closed(BOTH);
    let path = format!("/{SECRET}{PRIVATE}");
    assert_eq!(send(&mirror, get(&path)).await.status(), 200);
    let other = format!("/{SECRET}/v2/team/private/manifests/2");
    for user in ["alice", "bob"] {
        hub.answer_to(user, 429, &[("retry-after", "60")]);
    }
    // By `GET`, since there is no copy.
    let received = send(&mirror, get(&other)).await;
    assert_eq!(
        (received.status(), received.header("retry-after")),
        (429, Some("60"))
    );
    asked(&platform);
    let received = send(&mirror, get(&path)).await;
    assert_eq!(received.text(), content("team/private"));
    assert_eq!(asked(&platform), [""; 0], "the accounts are at rest");
    platform.advance(Duration::from_secs(10));
    let received = send(&mirror, get(&other)).await;
    assert_eq!(
        (received.status(), received.header("retry-after")),
        (429, Some("50"))
    );
}

#[tokio::test]
async fn a_wrong_password_costs_the_limits_and_is_told_in_the_log() {
    let (platform, hub, mirror) = mirror_with(ALICE, &[]);
    hub.0.revoked.borrow_mut().insert("alice");
    assert_eq!(send(&mirror, get(PUBLIC)).await.status(), 200);
    assert_eq!(
        asked(&platform)[3..],
        [
            "token password".to_owned(),
            format!("GET anonymous {PUBLIC}")
        ]
    );
    let log = platform.log();
    assert_eq!(
        log[0],
        "app=hammal account=alice state=refused upstream=registry-1.docker.io error=\"the \
         upstream does not admit the operator's account\""
    );
    // It is not tried with each request: registries lock accounts.
    send(&mirror, get(PUBLIC)).await;
    assert_eq!(asked(&platform), [format!("GET anonymous {PUBLIC}")]);
    hub.0.revoked.borrow_mut().clear();
    platform.advance(Duration::from_secs(60));
    send(&mirror, get(PUBLIC)).await;
    assert_eq!(
        asked(&platform),
        ["token password".to_owned(), format!("GET alice {PUBLIC}")]
    );
}

#[tokio::test]
async fn a_registry_that_asks_for_a_password_itself_gets_it() {
    let platform = Scripted::new([]);
    platform.set_variable("credentials_serve", "all");
    platform.set_variable("secret", SECRET);
    platform.set_variable(
        "upstream_credentials",
        "nexus.example.com=alice:secret-of-alice",
    );
    let expected = basic("alice");
    platform.respond(move |request| {
        let sent = request.headers().get("authorization");
        match sent.and_then(|header| header.to_str().ok()) {
            Some(header) if header == expected => manifest(),
            _ => answer(401, &[("www-authenticate", "BASIC realm=\"Nexus\"")], ""),
        }
    });
    let mirror = Mirror::new(platform.clone());
    let path = format!("/{SECRET}/v2/team/app/manifests/1?upstream=nexus.example.com");
    assert_eq!(send(&mirror, get(&path)).await.status(), 200);
    let url = "https://nexus.example.com/v2/team/app/manifests/1";
    let with_password = format!("GET {url} {}", basic("alice"));
    assert_eq!(
        platform.sent(),
        [format!("GET {url}"), with_password.clone()]
    );
    for mirror in [mirror, Mirror::new(platform.clone())] {
        assert_eq!(send(&mirror, get(&path)).await.status(), 200);
        assert_eq!(platform.sent(), [&*with_password]);
    }
}

#[tokio::test]
async fn each_account_has_its_own_tokens_in_memory_and_in_the_store() {
    let (platform, _, mirror) = mirror_with(ALICE, &[]);
    send(&mirror, get(PUBLIC)).await;
    asked(&platform);
    // The same name, and another password or another user; then no account at all.
    for (credentials, token) in [
        ("alice@docker.io=bob:secret-of-bob", Some("bob")),
        (ALICE, Some("alice")),
        ("", None),
    ] {
        platform.set_variable("upstream_credentials", credentials);
        send(&Mirror::new(platform.clone()), get(PUBLIC)).await;
        let lines = asked(&platform);
        let user = token.unwrap_or("anonymous");
        assert_eq!(lines.last().unwrap(), &format!("GET {user} {PUBLIC}"));
        let fetched = lines
            .iter()
            .filter(|line| line.starts_with("token"))
            .count();
        assert_eq!(fetched, usize::from(user == "bob"), "{lines:?}");
    }
}
