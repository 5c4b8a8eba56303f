//! Authorisation (distribution's token authentication): what each upstream requires, and the tokens
//! for it, of the anonymous user or of an account of the operator's.
//!
//! What an upstream requires is cached, so that from the second request on the token is fetched
//! before the upstream is asked, and goes along with the first request. What is cached may be
//! outdated; a 401 corrects it ([`Auth::on_unauthorized`]).

pub mod challenge;
pub mod grammar;
pub mod public_access;
pub mod requirement;
pub mod scope;
pub mod token;
pub mod token_server;

use self::public_access::PublicAccess;
use self::requirement::{AuthRequirement, TokenServer, own_scopes};
use self::scope::Scope;
use self::token::Token;
use self::token_server::TokenRequest;
use super::accounts::AccountsAtRest;
use super::error::TokenError;
use crate::cache::Cache;
use crate::cache::bucket::BucketLayout;
use crate::cache::single_flight::SingleFlight;
use crate::context::{Context, TokenSource};
use crate::oci::name::Name;
use crate::platform::Platform;
use crate::policy::permitted::Upstream;
use crate::registry::account::Account;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Duration;

/// How long a 400 or 403 is believed to be about the request after a new token got the same answer.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(60);
/// How long the requirement of an upstream is cached.
const REQUIREMENT_TTL: Duration = Duration::from_secs(60 * 60);
const REQUIREMENTS: BucketLayout = BucketLayout {
    buckets: 96,
    entries: 4,
};
const TOKENS: BucketLayout = BucketLayout {
    buckets: 400,
    entries: 8,
};

/// Requirements and tokens of upstreams, and what is known of the operator's accounts there.
pub struct Auth<P: Platform> {
    pub public_access: PublicAccess<P>,
    pub accounts_at_rest: AccountsAtRest,
    requirements: Cache<P, AuthRequirement>,
    tokens: Cache<P, CachedToken>,
    fetches: SingleFlight<P, Result<(Token, TokenSource), TokenError>>,
}

/// A token, and the token server that it came from. Where each repository has a scope of its own, a
/// new instance finds under one key of the store all that it needs to ask for one again. In
/// exchange it reads one key more where tokens are not a repository's own, or not needed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CachedToken {
    token: Token,
    server: TokenServer,
    /// When to fetch a new one, in seconds since the Unix epoch.
    refresh_at: u64,
    /// Its end, in seconds since the Unix epoch.
    expires_at: u64,
    /// Whether the upstream has taken it.
    was_accepted: bool,
    /// A 400 or 403 to it before this time is believed, in seconds since the Unix epoch: the token
    /// replaces another that got the same answer.
    believed_until: u64,
    /// Whether the store has it like this. It is written there with the first answer to it.
    #[serde(skip, default = "comes_from_store")]
    is_stored: bool,
}

/// Whether a token that was read from the store is there.
fn comes_from_store() -> bool {
    true
}

/// The upstream, and the repository if any, that a token is for, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct TokenTarget<'a> {
    pub upstream: &'a Upstream,
    pub name: Option<&'a Name>,
    /// `None` for the anonymous user.
    pub account: Option<&'a Account>,
}

impl TokenTarget<'_> {
    /// Returns the key of what the upstream requires for this repository alone.
    fn repository_key(&self) -> Option<String> {
        let name = self.name?;
        Some([self.upstream.as_str(), "\n", name.as_str()].concat())
    }

    /// Returns the key that a token is cached under. A token goes only to the upstream, and for the
    /// scopes and the account, that it was granted for. No scope has a blank, as an account has.
    fn token_key(&self, scopes: &[Scope]) -> String {
        let account = self.account.map(Account::cache_key);
        let scopes = scopes.iter().map(Scope::as_str);
        let parts = scopes.chain(account.as_deref());
        let parts = parts.flat_map(|part| ["\n", part]);
        std::iter::once(self.upstream.as_str())
            .chain(parts)
            .collect()
    }
}

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
enum Step {
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

impl<P: Platform> Default for Auth<P> {
    fn default() -> Self {
        Auth {
            public_access: PublicAccess::default(),
            accounts_at_rest: AccountsAtRest::default(),
            requirements: Cache::new("d", REQUIREMENTS),
            tokens: Cache::new("t", TOKENS),
            fetches: SingleFlight::default(),
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
        let credential = self.token(context, target, requirement, None, true).await;
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
        let key = target.token_key(&own_scopes(target.name));
        let (cached, source) = match self.tokens.get_memory(&key, context.platform.now()) {
            Some(cached) => (cached, TokenSource::Memory),
            None => {
                let cached = self.tokens.get_store(context.store, &key).await?;
                (cached, TokenSource::Store)
            }
        };
        if !cached.is_fresh(context.platform.now()) {
            return None;
        }
        context.stats.token_source.set(Some(source));
        Some(Credential::Token {
            token: cached.token.clone(),
            source,
            requirement: Rc::new(AuthRequirement::Bearer(cached.server.of_repository())),
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
                self.update_token(context, target, credential, |cached| {
                    cached.was_accepted |= is_accepted;
                });
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
        let (_, cached) = self.cached_token(context, target, credential)?;
        if !cached.was_accepted || context.platform.now().as_secs() < cached.believed_until {
            return None;
        }
        let (requirement, refused) = (Rc::clone(requirement), Some(token.clone()));
        let renewed = self.token(context, target, requirement, refused, true);
        renewed.await.ok()
    }

    /// Remembers that a new token got the same 400 or 403 as the one before.
    pub fn on_renewed_in_vain(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        credential: &Credential,
    ) {
        let until = context.platform.now().saturating_add(RENEWAL_INTERVAL);
        self.update_token(context, target, credential, |cached| {
            cached.believed_until = until.as_secs();
            cached.was_accepted = true;
        });
    }

    /// Changes what is cached of a token, in the store too if it is new there or changes.
    fn update_token(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        credential: &Credential,
        change: impl FnOnce(&mut CachedToken),
    ) {
        let Some((key, cached)) = self.cached_token(context, target, credential) else {
            return;
        };
        let mut changed = (*cached).clone();
        change(&mut changed);
        let is_same = changed.was_accepted == cached.was_accepted
            && changed.believed_until == cached.believed_until;
        if cached.is_stored && is_same {
            return;
        }
        changed.is_stored = true;
        let end = Duration::from_secs(changed.expires_at);
        let remaining = end.saturating_sub(context.platform.now());
        let owner = target.upstream.owner();
        self.tokens
            .put(context.store, &key, changed, remaining, owner);
    }

    /// Returns what is cached of a credential's token, and the key that it is cached under.
    fn cached_token(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        credential: &Credential,
    ) -> Option<(String, Rc<CachedToken>)> {
        let Credential::Token {
            token, requirement, ..
        } = credential
        else {
            return None;
        };
        let key = target.token_key(&requirement.scopes(target.name));
        let cached = self.tokens.get_memory(&key, context.platform.now())?;
        (cached.token == *token).then_some((key, cached))
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
                    .token(context, target, Rc::clone(&requirement), refused, false)
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

    /// Returns a token from memory, the store or the token server, in this order, and not the
    /// refused one. One that is near its end is used to its end where the token server fails.
    async fn token(
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
        let scopes = server.scopes(target.name);
        let key = target.token_key(&scopes);
        let now = context.platform.now();
        let is_usable = |cached: &Rc<CachedToken>| {
            Some(&cached.token) != refused.as_ref() && cached.server.is_same(server)
        };
        let in_memory = self.tokens.get_memory(&key, now).filter(is_usable);
        let (token, source) = match in_memory {
            Some(cached) if cached.is_fresh(now) => (cached.token.clone(), TokenSource::Memory),
            old => {
                let fetch = async || {
                    let stored = self.tokens.get_store(context.store, &key).await;
                    let old = match stored.filter(is_usable) {
                        Some(cached) if cached.is_fresh(now) => {
                            return Ok((cached.token.clone(), TokenSource::Store));
                        }
                        stored => stored.or_else(|| old.clone()),
                    };
                    let (upstream, owner) = (target.upstream.origin(), target.upstream.owner());
                    let request = TokenRequest {
                        upstream,
                        server,
                        scopes: &scopes,
                        account: target.account,
                    };
                    let response = token_server::fetch(context, request).await;
                    let response = match (response, old) {
                        (Ok(response), _) => response,
                        (Err(_), Some(old)) => return Ok((old.token.clone(), TokenSource::Store)),
                        (Err(error), None) => return Err(error),
                    };
                    let refresh_at = context.platform.now().saturating_add(response.fresh_for);
                    let now = context.platform.now();
                    let cached = CachedToken {
                        token: response.token.clone(),
                        server: server.clone(),
                        refresh_at: refresh_at.as_secs(),
                        expires_at: now.saturating_add(response.valid_for).as_secs(),
                        was_accepted: false,
                        believed_until: 0,
                        is_stored: false,
                    };
                    self.tokens
                        .put_memory(&key, cached, now, response.valid_for, owner);
                    Ok((response.token, TokenSource::Fetched))
                };
                // A request whose token was refused does not share the fetch of one that just needs
                // a token.
                let anew = if refused.is_some() { "anew" } else { "" };
                let flight = format!("{key}\n{}\n{anew}", server.key());
                self.fetches.run(context.platform, &flight, fetch).await?
            }
        };
        context.stats.token_source.set(Some(source));
        Ok(Credential::Token {
            token,
            source,
            requirement,
            cached: is_cached,
        })
    }
}

impl CachedToken {
    fn is_fresh(&self, now: Duration) -> bool {
        now.as_secs() < self.refresh_at
    }
}

impl Step {
    fn on_unauthorized(
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
