//! What an upstream requires of a request.

use super::challenge::{self, Challenge};
use super::scope::Scope;
use crate::oci::name::Name;
use crate::registry::origin::HttpUrl;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

/// What an upstream requires.
#[derive(Debug, Serialize, Deserialize)]
pub enum AuthRequirement {
    /// Nothing, as far as is known.
    Nothing,
    /// A token of this server.
    Bearer(TokenServer),
    /// A user and a password; the anonymous user has none.
    Basic,
}

/// The server that grants tokens for an upstream, and the scopes to ask for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenServer {
    #[serde(with = "url_text")]
    pub realm: HttpUrl,
    pub service: Option<String>,
    /// Scopes that are the same for every repository (public.ecr.aws: `aws`); `None` where each
    /// repository has its own.
    common_scopes: Option<Vec<Scope>>,
    /// Whether repositories of the upstream have requirements of their own (Artifactory has a realm
    /// for each), which are cached under the repository too.
    varies: bool,
}

impl AuthRequirement {
    /// Reads the challenges of a 401 to a request for the repository `name`: the one that asks for
    /// a token, or else for a password, if there is an account.
    pub fn from_headers(
        headers: &HeaderMap,
        name: Option<&Name>,
        has_account: bool,
    ) -> Option<AuthRequirement> {
        match Challenge::find(headers) {
            Some(challenge) => Some(AuthRequirement::from_challenge(challenge, name)),
            None if has_account && challenge::offers_basic(headers) => Some(AuthRequirement::Basic),
            None => None,
        }
    }

    /// Reads a challenge to a request for the repository `name`.
    fn from_challenge(challenge: Challenge, name: Option<&Name>) -> AuthRequirement {
        let Challenge {
            realm,
            service,
            scopes,
        } = challenge;
        let is_own = name.is_some_and(|name| scopes.contains(&Scope::pull(name)));
        AuthRequirement::Bearer(TokenServer {
            realm,
            service,
            common_scopes: (!scopes.is_empty() && !is_own).then_some(scopes),
            varies: false,
        })
    }

    /// Whether both are met by the same token server.
    pub fn is_same_server(&self, other: &AuthRequirement) -> bool {
        match (self, other) {
            (AuthRequirement::Bearer(one), AuthRequirement::Bearer(other)) => one.is_same(other),
            (AuthRequirement::Nothing, AuthRequirement::Nothing)
            | (AuthRequirement::Basic, AuthRequirement::Basic) => true,
            _ => false,
        }
    }

    /// Whether repositories of the upstream have requirements of their own.
    pub fn varies(&self) -> bool {
        matches!(self, AuthRequirement::Bearer(server) if server.varies)
    }

    /// Returns the same requirement of an upstream whose repositories have their own.
    pub fn varying(&self) -> AuthRequirement {
        match self {
            AuthRequirement::Bearer(server) => AuthRequirement::Bearer(TokenServer {
                varies: true,
                ..server.clone()
            }),
            AuthRequirement::Nothing => AuthRequirement::Nothing,
            AuthRequirement::Basic => AuthRequirement::Basic,
        }
    }

    /// Whether a token for `name` that meets one of them does not meet the other.
    pub fn differs(&self, other: &AuthRequirement, name: &Name) -> bool {
        match (self, other) {
            (AuthRequirement::Bearer(one), AuthRequirement::Bearer(other)) => {
                !one.is_same(other) || one.scopes(Some(name)) != other.scopes(Some(name))
            }
            _ => false,
        }
    }

    pub fn scopes(&self, name: Option<&Name>) -> Vec<Scope> {
        match self {
            AuthRequirement::Bearer(server) => server.scopes(name),
            AuthRequirement::Nothing | AuthRequirement::Basic => Vec::new(),
        }
    }
}

impl TokenServer {
    /// Returns the scopes of a token for `name`. A challenge without a scope is for what was asked
    /// for: clients read it so too.
    pub fn scopes(&self, name: Option<&Name>) -> Vec<Scope> {
        let common = self.common_scopes.clone();
        common.unwrap_or_else(|| own_scopes(name))
    }

    /// Returns the same server for repositories that have scopes of their own.
    pub fn of_repository(&self) -> TokenServer {
        TokenServer {
            common_scopes: None,
            ..self.clone()
        }
    }

    /// Whether both are the same token server.
    pub fn is_same(&self, other: &TokenServer) -> bool {
        self.realm == other.realm && self.service == other.service
    }

    /// Returns text that tells this server from others.
    pub fn key(&self) -> String {
        format!("{}\n{:?}", self.realm, self.service)
    }
}

/// Returns the scopes of a token for a repository that has its own.
pub fn own_scopes(name: Option<&Name>) -> Vec<Scope> {
    name.map(Scope::pull).into_iter().collect()
}

/// A URL in the store is text, and is parsed again when it is read.
mod url_text {
    use crate::registry::origin::HttpUrl;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(url: &HttpUrl, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(url)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HttpUrl, D::Error> {
        let text = String::deserialize(deserializer)?;
        HttpUrl::parse(&text).map_err(D::Error::custom)
    }
}
