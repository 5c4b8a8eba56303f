//! The responses of the registry, the token server and the CDN of [`crate::hub::Hub`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use serde_json::json;

use crate::answers::{COMMON, content as serve_content, error, paged, split};
use crate::image::{Content, INDEX};
use crate::server::{ReceivedRequest, Reply};

/// The end of a signed URL of the CDN unless a test sets another: 2023, so none is remembered.
const ENDED: u64 = 1_700_000_000;
/// The rest of its query as Docker Hub's CDN signs it, with characters that must not be encoded
/// anew.
const SIGNATURE: &str = "signature=a%2Fb%3D~-_.&version=3";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Service {
    Registry,
    Tokens,
    Cdn,
}

pub type Script = Box<dyn Fn(Service, &ReceivedRequest) -> Option<Reply> + Send + Sync>;
pub type Challenge = Box<dyn Fn(&Params) -> Vec<String> + Send + Sync>;
pub type TokenBody = Box<dyn Fn(&str) -> String + Send + Sync>;

/// The parameters of a challenge.
pub struct Params {
    pub realm: String,
    pub service: &'static str,
    pub scope: String,
}

#[derive(Default)]
pub struct State {
    pub repositories: Mutex<BTreeMap<String, Repository>>,
    pub received: Mutex<Vec<(Service, ReceivedRequest)>>,
    pub valid: Mutex<HashMap<String, String>>,
    pub issued: Mutex<usize>,
    pub private: Mutex<HashSet<String>>,
    pub accounts: Mutex<Vec<Account>>,
    /// Whether the registry asks for passwords itself, as Nexus does.
    pub asks_for_passwords: Mutex<bool>,
    pub direct: Mutex<bool>,
    /// When the URLs of the CDN end, in seconds since the Unix epoch.
    pub blob_urls_end: Mutex<Option<u64>>,
    pub script: Mutex<Option<Script>>,
    pub delay: Mutex<Option<(Service, Duration)>>,
    pub challenge: Mutex<Option<Challenge>>,
    pub token_body: Mutex<Option<TokenBody>>,
    /// URLs of the token server and the CDN.
    pub realm: OnceLock<String>,
    pub cdn: OnceLock<String>,
}

/// A user of the registry.
pub struct Account {
    pub user: &'static str,
    /// The `Authorization` header with the user and the password.
    pub authorization: String,
    /// The private repositories that it may pull from.
    pub may_pull: HashSet<String>,
}

#[derive(Clone, Default)]
pub struct Repository {
    pub tags: BTreeMap<String, String>,
    pub manifests: HashMap<String, Content>,
    pub blobs: HashMap<String, Content>,
}

impl State {
    pub fn reply(&self, service: Service, received: ReceivedRequest) -> Reply {
        self.received
            .lock()
            .expect("requests")
            .push((service, received.clone()));
        if let Some(script) = &*self.script.lock().expect("the script")
            && let Some(reply) = script(service, &received)
        {
            return reply;
        }
        let reply = match service {
            Service::Registry => self.registry(&received),
            Service::Tokens => self.token(&received),
            Service::Cdn => self.cdn(&received),
        };
        match *self.delay.lock().expect("the delay") {
            Some((slow, time)) if slow == service => reply.after(time),
            _ => reply,
        }
    }

    fn registry(&self, received: &ReceivedRequest) -> Reply {
        let path = received.path();
        if !matches!(&*received.method, "GET" | "HEAD") {
            return error(405, "UNSUPPORTED");
        }
        if path == "/v2/" || path == "/v2" {
            return self
                .refuse(received, None)
                .unwrap_or_else(|| Reply::new(200, &COMMON, "{}"));
        }
        if path == "/v2/_catalog" {
            let names = self
                .repositories
                .lock()
                .expect("repositories")
                .keys()
                .cloned()
                .collect();
            return self
                .refuse(received, Some("registry:catalog:*"))
                .unwrap_or_else(|| {
                    paged(
                        received,
                        &path[1..],
                        |page| json!({ "repositories": page }),
                        names,
                    )
                });
        }
        let Some((name, kind, reference)) = split(path) else {
            return error(404, "NAME_UNKNOWN");
        };
        if let Some(refusal) = self.refuse(received, Some(&format!("repository:{name}:pull"))) {
            return refusal;
        }
        let repositories = self.repositories.lock().expect("repositories");
        let Some(repository) = repositories.get(name) else {
            return error(404, "NAME_UNKNOWN");
        };
        match kind {
            "manifests" => {
                let digest = repository
                    .tags
                    .get(reference)
                    .map_or(reference, |digest| digest);
                let accepts = |content: &&Content| {
                    let mut lines = received.headers.get_all("accept").iter();
                    lines.any(|line| {
                        line.to_str()
                            .is_ok_and(|line| line.contains(content.media_type))
                    })
                };
                match repository.manifests.get(digest).filter(accepts) {
                    None => error(404, "MANIFEST_UNKNOWN"),
                    Some(content) => serve_content(received, content, content.media_type),
                }
            }
            "blobs" => match repository.blobs.get(reference) {
                None => error(404, "BLOB_UNKNOWN"),
                Some(content) if *self.direct.lock().expect("direct") => {
                    serve_content(received, content, "application/octet-stream")
                }
                Some(content) => Reply::new(
                    307,
                    &[
                        &COMMON[..],
                        &[("location", &self.blob_url(&content.digest))],
                    ]
                    .concat(),
                    "",
                ),
            },
            "tags" => {
                let tags = repository.tags.keys().cloned().collect();
                paged(
                    received,
                    &path[1..],
                    |page| json!({ "name": name, "tags": page }),
                    tags,
                )
            }
            "referrers" => {
                let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
                let headers = [
                    ("content-type", INDEX),
                    ("oci-filters-applied", "artifactType"),
                ];
                Reply::new(200, &headers, index.to_string())
            }
            _ => error(404, "UNSUPPORTED"),
        }
    }

    /// Whether an account with this `Authorization` may pull from a private repository.
    fn is_allowed(&self, authorization: Option<&str>, name: &str) -> bool {
        let accounts = self.accounts.lock().expect("accounts");
        accounts.iter().any(|account| {
            Some(&*account.authorization) == authorization && account.may_pull.contains(name)
        })
    }

    /// Returns a 401 with a Basic challenge, unless the repository is public or the request has the
    /// password of an account that may pull from it.
    fn ask_for_password(&self, received: &ReceivedRequest, scope: Option<&str>) -> Option<Reply> {
        let name = scope.and_then(|scope| scope.split(':').nth(1));
        let private = self.private.lock().expect("private names");
        let name = name.filter(|name| private.contains(*name))?;
        let headers = [(
            "www-authenticate",
            "BASIC realm=\"Sonatype Nexus Repository Manager\"",
        )];
        let is_allowed = self.is_allowed(received.header("authorization"), name);
        (!is_allowed).then(|| Reply::new(401, &headers, ""))
    }

    /// Returns a 401, unless the request has a token for `scope`.
    fn refuse(&self, received: &ReceivedRequest, scope: Option<&str>) -> Option<Reply> {
        if *self.asks_for_passwords.lock().expect("the challenge") {
            return self.ask_for_password(received, scope);
        }
        let valid = self.valid.lock().expect("tokens");
        let token = received
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        let granted = token.and_then(|token| valid.get(token));
        if granted.is_some_and(|granted| {
            scope.is_none_or(|scope| granted.split(' ').any(|one| one == scope))
        }) {
            return None;
        }
        let params = Params {
            realm: self.realm.get().expect("a realm").clone(),
            service: "registry.docker.io",
            scope: scope.unwrap_or_default().into(),
        };
        let lines = match &*self.challenge.lock().expect("the challenge") {
            Some(challenge) => challenge(&params),
            None => {
                let mut line = format!(
                    r#"Bearer realm="{}",service="{}""#,
                    params.realm, params.service
                );
                if !params.scope.is_empty() {
                    line += &format!(r#",scope="{}""#, params.scope);
                }
                if token.is_some() {
                    line += r#",error="invalid_token""#;
                }
                vec![line]
            }
        };
        let mut headers = COMMON.to_vec();
        headers.push(("content-type", "application/json"));
        headers.extend(lines.iter().map(|line| ("www-authenticate", &**line)));
        let document =
            json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "authentication required" }] });
        Some(Reply::new(401, &headers, document.to_string()))
    }

    fn token(&self, received: &ReceivedRequest) -> Reply {
        if received.method != "GET" || received.path() != "/token" {
            return error(404, "UNSUPPORTED");
        }
        let asked = received
            .query()
            .into_iter()
            .filter(|(name, _)| name == "scope")
            .map(|(_, scope)| scope);
        let authorization = received.header("authorization");
        let user = match authorization {
            None => Some("anonymous"),
            Some(header) => {
                let accounts = self.accounts.lock().expect("accounts");
                let account = accounts.iter().find(|one| one.authorization == header);
                account.map(|account| account.user)
            }
        };
        let Some(user) = user else {
            return error(401, "UNAUTHORIZED");
        };
        let private = self.private.lock().expect("private names");
        let granted = asked
            .flat_map(|scope| scope.split(' ').map(str::to_string).collect::<Vec<_>>())
            .filter(|scope| {
                !scope.split(':').nth(1).is_some_and(|name| {
                    private.contains(name) && !self.is_allowed(authorization, name)
                })
            });
        // The mirror is granted nothing but pull.
        let granted = granted.map(|scope| match scope.rsplit_once(':') {
            Some((resource, actions)) if actions.split(',').any(|action| action == "pull") => {
                format!("{resource}:pull")
            }
            _ => scope,
        });
        let granted = granted.collect::<Vec<_>>().join(" ");
        let mut issued = self.issued.lock().expect("tokens");
        *issued += 1;
        let token = format!("{user}-token-{issued}");
        self.valid
            .lock()
            .expect("tokens")
            .insert(token.clone(), granted);
        let body = match &*self.token_body.lock().expect("the response") {
            Some(response) => response(&token),
            None => json!({ "token": token, "access_token": token, "expires_in": 300 }).to_string(),
        };
        Reply::new(200, &[("content-type", "application/json")], body)
    }

    fn cdn(&self, received: &ReceivedRequest) -> Reply {
        if received.headers.contains_key("authorization") {
            return Reply::new(
                400,
                &[("content-type", "application/xml")],
                "<Code>InvalidArgument</Code>",
            );
        }
        let digest = received
            .path()
            .split('/')
            .nth(7)
            .map(|hex| format!("sha256:{hex}"))
            .unwrap_or_default();
        if !self.blob_url(&digest).ends_with(&received.target) {
            return Reply::new(
                403,
                &[("content-type", "application/xml")],
                "<Code>SignatureDoesNotMatch</Code>",
            );
        }
        let repositories = self.repositories.lock().expect("repositories");
        match repositories
            .values()
            .find_map(|repository| repository.blobs.get(&digest))
        {
            None => Reply::new(404, &[], ""),
            Some(content) => serve_content(received, content, "application/octet-stream"),
        }
    }

    pub fn blob_url(&self, digest: &str) -> String {
        let cdn = self.cdn.get().expect("a CDN");
        let hex = digest.trim_start_matches("sha256:");
        let end = self.blob_urls_end.lock().expect("the end").unwrap_or(ENDED);
        format!(
            "{cdn}/registry-v2/docker/registry/v2/blobs/sha256/{hex}/data?expires={end}&{SIGNATURE}"
        )
    }
}
