//! The credential of a request, and the next one after a 401.

use super::requirement::AuthRequirement;
use super::token::Token;
use crate::context::TokenSource;
use crate::oci::name::Name;
use http::HeaderValue;
use std::rc::Rc;

/// The credential that a request is sent with.
#[derive(Clone, Debug)]
pub enum Credential {
    /// None; `refused` is the token that the upstream did not accept before that.
    None { refused: Option<Token> },
    /// A token. `cached` tells whether the requirement was known before this request, and not from
    /// its own challenge.
    Token {
        token: Token,
        source: TokenSource,
        requirement: Rc<AuthRequirement>,
        cached: bool,
    },
    /// The user and password of an account.
    Password(HeaderValue),
}

/// The next step after a 401.
#[derive(Clone, Debug)]
pub enum Step {
    /// The cached requirement is outdated: ask without a token, to get the present challenge.
    RetryWithoutToken {
        refused: Token,
    },
    Fetch {
        requirement: Rc<AuthRequirement>,
        refused: Option<Token>,
    },
    GiveUp,
}

impl Credential {
    /// Returns the value of the `Authorization` header.
    pub fn authorization(&self) -> Option<HeaderValue> {
        match self {
            Credential::Token { token, .. } => Some(token.header()),
            Credential::Password(header) => Some(header.clone()),
            Credential::None { .. } => None,
        }
    }
}

impl Step {
    /// Returns the step after a 401 to `credential`, whose challenge is `required`.
    pub fn on_unauthorized(
        credential: Credential,
        required: Option<AuthRequirement>,
        name: Option<&Name>,
    ) -> Step {
        match (credential, required) {
            // The registry asks for a token now, and not for a password.
            (Credential::Password(_), Some(required)) => Step::Fetch {
                requirement: Rc::new(required),
                refused: None,
            },
            (Credential::Password(_), None) => Step::GiveUp,
            (Credential::None { refused }, Some(required)) => Step::Fetch {
                requirement: Rc::new(required),
                refused,
            },
            (Credential::None { .. }, None) => Step::GiveUp,
            (
                Credential::Token {
                    token,
                    source,
                    requirement,
                    cached,
                },
                Some(required),
            ) if required.is_same_server(&requirement) => {
                // A token that was just fetched is not replaced, unless the cached scopes that it
                // is for are outdated.
                let is_outdated = cached && required.scopes(name) != requirement.scopes(name);
                match source {
                    TokenSource::Fetched if !is_outdated => Step::GiveUp,
                    _ => Step::Fetch {
                        requirement: Rc::new(required),
                        refused: Some(token),
                    },
                }
            }
            (
                Credential::Token {
                    token,
                    cached: true,
                    ..
                },
                _,
            ) => Step::RetryWithoutToken { refused: token },
            (Credential::Token { .. }, _) => Step::GiveUp,
        }
    }
}
