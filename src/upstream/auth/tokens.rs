//! Tokens: where they come from, how long they are used, and what upstreams said to them.

use super::credential::Credential;
use super::requirement::{TokenServer, own_scopes};
use super::scope::Scope;
use super::token::Token;
use super::token_server::{self, TokenRequest};
use crate::cache::Cache;
use crate::cache::bucket::BucketLayout;
use crate::cache::single_flight::SingleFlight;
use crate::context::{Context, TokenSource};
use crate::oci::name::Name;
use crate::platform::Platform;
use crate::policy::permitted::Upstream;
use crate::registry::account::Account;
use crate::upstream::error::TokenError;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Duration;

/// How long a 400 or 403 is believed to be about the request after a new token got the same answer.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(60);
const TOKENS: BucketLayout = BucketLayout {
    buckets: 400,
    entries: 8,
};

/// The tokens that this mirror has.
pub struct Tokens<P: Platform> {
    cache: Cache<P, CachedToken>,
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
    pub fn repository_key(&self) -> Option<String> {
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

impl CachedToken {
    fn is_fresh(&self, now: Duration) -> bool {
        now.as_secs() < self.refresh_at
    }
}

impl<P: Platform> Default for Tokens<P> {
    fn default() -> Self {
        Tokens {
            cache: Cache::new("t", TOKENS),
            fetches: SingleFlight::default(),
        }
    }
}

impl<P: Platform> Tokens<P> {
    /// Returns a token from memory, the store or the token server, in this order, and not the
    /// refused one. One that is near its end is used to its end where the token server fails.
    pub async fn get(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        server: &TokenServer,
        refused: Option<Token>,
    ) -> Result<(Token, TokenSource), TokenError> {
        let scopes = server.scopes(target.name);
        let key = target.token_key(&scopes);
        let now = context.platform.now();
        let is_usable = |cached: &Rc<CachedToken>| {
            Some(&cached.token) != refused.as_ref() && cached.server.is_same(server)
        };
        let in_memory = self.cache.get_memory(&key, now).filter(is_usable);
        let (token, source) = match in_memory {
            Some(cached) if cached.is_fresh(now) => (cached.token.clone(), TokenSource::Memory),
            old => {
                let fetch = async || {
                    let stored = self.cache.get_store(context.store, &key).await;
                    let old = match stored.filter(is_usable) {
                        Some(cached) if cached.is_fresh(now) => {
                            return Ok((cached.token.clone(), TokenSource::Store));
                        }
                        stored => stored.or_else(|| old.clone()),
                    };
                    let request = TokenRequest {
                        upstream: target.upstream.origin(),
                        server,
                        scopes: &scopes,
                        account: target.account,
                    };
                    match (self.fetch(context, target, &key, request).await, old) {
                        (Ok(token), _) => Ok((token, TokenSource::Fetched)),
                        (Err(_), Some(old)) => Ok((old.token.clone(), TokenSource::Store)),
                        (Err(error), None) => Err(error),
                    }
                };
                // A request whose token was refused does not share the fetch of one that just needs
                // a token.
                let anew = if refused.is_some() { "anew" } else { "" };
                let flight = format!("{key}\n{}\n{anew}", server.key());
                self.fetches.run(context.platform, &flight, fetch).await?
            }
        };
        context.stats.token_source.set(Some(source));
        Ok((token, source))
    }

    /// Fetches a token, and caches it under `key`.
    async fn fetch(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        key: &str,
        request: TokenRequest<'_>,
    ) -> Result<Token, TokenError> {
        let server = request.server.clone();
        let response = token_server::fetch(context, request).await?;
        let now = context.platform.now();
        let cached = CachedToken {
            token: response.token.clone(),
            server,
            refresh_at: now.saturating_add(response.fresh_for).as_secs(),
            expires_at: now.saturating_add(response.valid_for).as_secs(),
            was_accepted: false,
            believed_until: 0,
            is_stored: false,
        };
        let owner = target.upstream.owner();
        self.cache
            .put_memory(key, cached, now, response.valid_for, owner);
        Ok(response.token)
    }

    /// Returns the cached token of this very repository, and the token server that it came from.
    pub async fn of_repository(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
    ) -> Option<(Token, TokenServer, TokenSource)> {
        let key = target.token_key(&own_scopes(target.name));
        let (cached, source) = match self.cache.get_memory(&key, context.platform.now()) {
            Some(cached) => (cached, TokenSource::Memory),
            None => {
                let cached = self.cache.get_store(context.store, &key).await?;
                (cached, TokenSource::Store)
            }
        };
        if !cached.is_fresh(context.platform.now()) {
            return None;
        }
        context.stats.token_source.set(Some(source));
        Some((cached.token.clone(), cached.server.clone(), source))
    }

    /// Whether the upstream took a credential's token before, so that its 400 or 403 may be about
    /// the token's end.
    pub fn was_good(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        credential: &Credential,
    ) -> bool {
        let now = context.platform.now().as_secs();
        let cached = self.cached(context, target, credential);
        cached.is_some_and(|(_, cached)| cached.was_accepted && now >= cached.believed_until)
    }

    /// Remembers how an upstream answered to a credential's token.
    pub fn on_answered(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        credential: &Credential,
        is_accepted: bool,
    ) {
        self.update(context, target, credential, |cached| {
            cached.was_accepted |= is_accepted;
        });
    }

    /// Remembers that a new token got the same 400 or 403 as the one before.
    pub fn on_renewed_in_vain(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        credential: &Credential,
    ) {
        let until = context.platform.now().saturating_add(RENEWAL_INTERVAL);
        self.update(context, target, credential, |cached| {
            cached.believed_until = until.as_secs();
            cached.was_accepted = true;
        });
    }

    /// Changes what is cached of a token, in the store too if it is new there or changes.
    fn update(
        &self,
        context: &Context<'_, P>,
        target: &TokenTarget<'_>,
        credential: &Credential,
        change: impl FnOnce(&mut CachedToken),
    ) {
        let Some((key, cached)) = self.cached(context, target, credential) else {
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
        self.cache
            .put(context.store, &key, changed, remaining, owner);
    }

    /// Returns what is cached of a credential's token, and the key that it is cached under.
    fn cached(
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
        let cached = self.cache.get_memory(&key, context.platform.now())?;
        (cached.token == *token).then_some((key, cached))
    }
}
