//! Authorisation (distribution's token authentication): what each upstream requires, and the tokens
//! for it, of the anonymous user or of an account of the operator's.
//!
//! What an upstream requires is cached, so that from the second request on the token is fetched
//! before the upstream is asked, and goes along with the first request. What is cached may be
//! outdated; a 401 corrects it ([`Auth::on_unauthorized`]).

pub mod challenge;
pub mod credential;
pub mod grammar;
pub mod public_access;
pub mod requirement;
pub mod scope;
pub mod token;
pub mod token_server;
pub mod tokens;

use self::credential::{Credential, Step};
use self::public_access::PublicAccess;
use self::requirement::AuthRequirement;
use self::token::Token;
use self::tokens::{TokenTarget, Tokens};
use super::accounts::AccountsAtRest;
use super::error::TokenError;
use crate::cache::Cache;
use crate::cache::bucket::BucketLayout;
use crate::context::{Context, TokenSource};
use crate::oci::name::Name;
use crate::platform::Platform;
use http::StatusCode;
use std::rc::Rc;
use std::time::Duration;

/// How long the requirement of an upstream is cached.
const REQUIREMENT_TTL: Duration = Duration::from_secs(60 * 60);
const REQUIREMENTS: BucketLayout = BucketLayout {
    buckets: 96,
    entries: 4,
};
/// Requirements and tokens of upstreams, and what is known of the operator's accounts there.
pub struct Auth<P: Platform> {
    pub public_access: PublicAccess<P>,
    pub accounts_at_rest: AccountsAtRest,
    requirements: Cache<P, AuthRequirement>,
    tokens: Tokens<P>,
}

impl<P: Platform> Default for Auth<P> {
    fn default() -> Self {
        Auth {
            public_access: PublicAccess::default(),
            accounts_at_rest: AccountsAtRest::default(),
            requirements: Cache::new("d", REQUIREMENTS),
            tokens: Tokens::default(),
        }
    }
}

impl<P: Platform> Auth<P> {
    /// Returns the credential for the first request to `target`.
    pub async fn preauthorize(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
    ) -> Result<Credential, TokenError> {
        let upstream = target.upstream.as_str();
        let now = context.platform.now();
        let known = match self.requirements.get_memory(upstream, now) {
            None => match self.stored_credential(context, target).await {
                Some(credential) => return Ok(credential),
                None => self.requirements.get(context.store, upstream).await,
            },
            known => known,
        };
        let Some(requirement) = known else {
            return Ok(Credential::None { refused: None });
        };
        let own_key = target.repository_key().filter(|_| requirement.varies());
        let own = match &own_key {
            Some(key) => self.requirements.get(context.store, key).await,
            None => None,
        };
        let requirement = own.unwrap_or(requirement);
        let credential = self
            .credential(context, target, requirement, None, true)
            .await;
        if credential
            .as_ref()
            .is_err_and(TokenError::may_be_of_an_old_realm)
        {
            // In the store too: the next instance of WASIp2 has no other way to learn it.
            let owner = target.upstream.owner();
            for key in [Some(upstream), own_key.as_deref()].into_iter().flatten() {
                let unknown = AuthRequirement::Nothing;
                self.requirements
                    .put(context.store, key, unknown, REQUIREMENT_TTL, owner);
            }
        }
        credential
    }

    /// Returns the cached token of this very repository, where this instance does not know the
    /// requirement of the upstream. It says nothing of other repositories: what is known of those
    /// may be newer.
    async fn stored_credential(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
    ) -> Option<Credential> {
        let (token, server, source) = self.tokens.of_repository(context, target).await?;
        Some(Credential::Token {
            token,
            source,
            requirement: Rc::new(AuthRequirement::Bearer(server.of_repository())),
            cached: true,
        })
    }

    /// Remembers how an upstream answered, other than by 401, to a credential. That it answered
    /// without a token counts for its repositories only: what it requires as a whole, as for its
    /// catalog, says nothing about them.
    pub fn on_answered(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        credential: &Credential,
        status: StatusCode,
    ) {
        match credential {
            Credential::None { .. } if target.name.is_some() => {
                let (upstream, now) = (target.upstream.as_str(), context.platform.now());
                let (nothing, owner) = (AuthRequirement::Nothing, target.upstream.owner());
                self.requirements
                    .put_memory(upstream, nothing, now, REQUIREMENT_TTL, owner);
            }
            Credential::None { .. } | Credential::Password(_) => {}
            Credential::Token { .. } => {
                let is_accepted = status.is_success()
                    || status.is_redirection()
                    || status == StatusCode::NOT_FOUND;
                self.tokens
                    .on_answered(context, target, credential, is_accepted);
            }
        }
    }

    /// Returns another token after a 400 or 403 to a cached one that was good before: some
    /// registries say so, and not by 401, that a token has ended (public.ecr.aws). `None` where
    /// the answer is to be believed.
    pub async fn renew(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        credential: &Credential,
    ) -> Option<Credential> {
        let Credential::Token {
            token,
            source: TokenSource::Memory | TokenSource::Store,
            requirement,
            ..
        } = credential
        else {
            return None;
        };
        if !self.tokens.was_good(context, target, credential) {
            return None;
        }
        let (requirement, refused) = (Rc::clone(requirement), Some(token.clone()));
        let renewed = self.credential(context, target, requirement, refused, true);
        renewed.await.ok()
    }

    /// Remembers that a new token got the same 400 or 403 as the one before.
    pub fn on_renewed_in_vain(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        credential: &Credential,
    ) {
        self.tokens.on_renewed_in_vain(context, target, credential);
    }

    /// Returns the credential for the next request after a 401 to `credential`, whose challenge is
    /// `required`; `None` where the upstream does not admit the user.
    pub async fn on_unauthorized(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        credential: Credential,
        required: Option<AuthRequirement>,
    ) -> Result<Option<Credential>, TokenError> {
        if matches!(
            (&credential, &required),
            (Credential::Password(_), Some(AuthRequirement::Basic))
        ) {
            return Err(TokenError::WrongPassword);
        }
        match Step::on_unauthorized(credential, required, target.name) {
            Step::GiveUp => Ok(None),
            Step::RetryWithoutToken { refused } => Ok(Some(Credential::None {
                refused: Some(refused),
            })),
            Step::Fetch {
                requirement,
                refused,
            } => {
                let credential = self
                    .credential(context, target, Rc::clone(&requirement), refused, false)
                    .await?;
                // Not before: a repository without a token for anonymous users must not close those
                // that need none.
                if let Some(name) = target.name {
                    self.remember(context, target, name, requirement).await;
                }
                Ok(Some(credential))
            }
        }
    }

    /// Caches what an upstream requires for a repository. It is taken for that of all, until two
    /// differ: then each repository has its own, and the newest is the guess for any other.
    async fn remember(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        name: &Name,
        mut requirement: Rc<AuthRequirement>,
    ) {
        let (upstream, owner) = (target.upstream.as_str(), target.upstream.owner());
        let before = self.requirements.get(context.store, upstream).await;
        let varies =
            |before: &Rc<AuthRequirement>| before.varies() || requirement.differs(before, name);
        if before.as_ref().is_some_and(varies)
            && let Some(key) = target.repository_key()
        {
            let own = Rc::clone(&requirement);
            self.requirements
                .put(context.store, &key, own, REQUIREMENT_TTL, owner);
            requirement = Rc::new(requirement.varying());
        }
        self.requirements
            .put(context.store, upstream, requirement, REQUIREMENT_TTL, owner);
    }

    /// Returns the credential for `requirement`, and not the refused token.
    async fn credential(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        requirement: Rc<AuthRequirement>,
        refused: Option<Token>,
        is_cached: bool,
    ) -> Result<Credential, TokenError> {
        let server = match (&*requirement, target.account) {
            (AuthRequirement::Bearer(server), _) => server,
            (AuthRequirement::Basic, Some(account)) => {
                return Ok(Credential::Password(account.authorization()));
            }
            _ => return Ok(Credential::None { refused }),
        };
        let (token, source) = self.tokens.get(context, target, server, refused).await?;
        Ok(Credential::Token {
            token,
            source,
            requirement,
            cached: is_cached,
        })
    }
}
