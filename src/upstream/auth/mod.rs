//! Anonymous authorisation: what each upstream asks for, and the tokens that satisfy it.
//!
//! What an upstream asks for is remembered, so that from the second request on the token is fetched before asking and
//! goes along with the first request. What is remembered may be wrong by now; a 401 corrects it (`Auth::after_refusal`).

mod challenge;
mod scope;
mod token;
mod token_server;

pub use challenge::Challenge;
pub use scope::Scope;
pub use token::Token;
pub use token_server::TokenError;

use crate::cache::single_flight::Flights;
use crate::cache::{Cache, Shape};
use crate::context::{Context, TokenFrom};
use crate::oci::name::Name;
use crate::platform::Platform;
use crate::policy::Upstream;
use crate::registry::origin::HttpUrl;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Duration;

/// How long it is remembered what an upstream asks for.
const DEMAND_LIFE: Duration = Duration::from_secs(60 * 60);
/// Keys in the store for demands and for tokens: few upstreams, many repositories.
const DEMANDS: Shape = Shape {
    buckets: 96,
    entries: 4,
};
const TOKENS: Shape = Shape {
    buckets: 400,
    entries: 8,
};

/// What is remembered about upstreams and their tokens.
pub struct Auth<P: Platform> {
    demands: Cache<P, Demand>,
    tokens: Cache<P, Kept>,
    flights: Flights<P, Result<(Token, TokenFrom), TokenError>>,
}

/// A token that was fetched before, and from whom: where each repository has a scope of its own, a new instance finds in
/// one key of the store all that it needs to ask for one again. In exchange it reads a key more where tokens are not a
/// repository's own, or not needed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    token: Token,
    grantor: Grantor,
    /// When it had better be fetched anew, in seconds since the Unix epoch.
    refresh: u64,
}

/// What a token is needed for: an upstream, and the repository that is asked for, if any.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub upstream: &'a Upstream,
    pub name: Option<&'a Name>,
}

/// What an upstream asks for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Demand {
    Nothing,
    Bearer(Grantor),
}

/// Who grants tokens for an upstream, and what is asked of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grantor {
    #[serde(with = "realm")]
    realm: HttpUrl,
    service: Option<String>,
    /// The same scopes for every repository (public.ecr.aws: `aws`); none where each repository has its own.
    fixed: Option<Vec<Scope>>,
}

/// What a request was sent with.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Nothing; `refused` is the token that the upstream did not take before that.
    None { refused: Option<Token> },
    /// A token, granted by what was remembered or by what the upstream asked for during this very request.
    Token {
        token: Token,
        from: TokenFrom,
        demand: Rc<Demand>,
        remembered: bool,
    },
}

/// What to do about a 401.
#[derive(Clone, Debug)]
enum Step {
    /// The upstream was asked with what was remembered of it, and wants something else: ask without a token to hear what.
    AskBare {
        refused: Token,
    },
    Fetch {
        demand: Rc<Demand>,
        refused: Option<Token>,
    },
    Give,
}

impl<P: Platform> Default for Auth<P> {
    fn default() -> Self {
        Auth {
            demands: Cache::new("d", DEMANDS),
            tokens: Cache::new("t", TOKENS),
            flights: Flights::default(),
        }
    }
}

impl<P: Platform> Auth<P> {
    /// What to send with the first request for `subject`.
    pub async fn beforehand(
        &self,
        context: &Context<'_, P>,
        subject: &Subject<'_>,
    ) -> Result<Credential, TokenError> {
        let upstream = subject.upstream.as_str();
        let known = match self.demands.remembered(upstream, context.platform.now()) {
            None => match self.recalled(context, subject).await {
                Some(credential) => return Ok(credential),
                None => self.demands.find(context.store, upstream).await,
            },
            known => known,
        };
        let Some(demand) = known else {
            return Ok(Credential::None { refused: None });
        };
        let obtained = self.obtain(context, subject, demand, None, true).await;
        if obtained
            .as_ref()
            .is_err_and(TokenError::may_be_of_an_old_realm)
        {
            // In the store too: an instance of WASIp2 has nothing else that the next could learn it from.
            self.demands
                .keep(context.store, upstream, Demand::Nothing, DEMAND_LIFE);
        }
        obtained
    }

    /// A token of this very repository, where this instance does not know what the upstream asks for. It says nothing of
    /// other repositories: what is known of those may be newer.
    async fn recalled(
        &self,
        context: &Context<'_, P>,
        subject: &Subject<'_>,
    ) -> Option<Credential> {
        let own = identity(subject.upstream, &own_scopes(subject.name));
        let (kept, from) = match self.tokens.remembered(&own, context.platform.now()) {
            Some(kept) => (kept, TokenFrom::Memory),
            None => (
                self.tokens.stored(context.store, &own).await?,
                TokenFrom::Store,
            ),
        };
        if !kept.is_fresh(context.platform.now()) {
            return None;
        }
        context.cost.token.set(Some(from));
        let demand = Rc::new(Demand::Bearer(Grantor {
            fixed: None,
            ..kept.grantor.clone()
        }));
        Some(Credential::Token {
            token: kept.token.clone(),
            from,
            demand,
            remembered: true,
        })
    }

    /// The upstream took what it was sent. What it asks for as a whole, as for its catalog, tells nothing of its repositories.
    pub fn accepted(&self, context: &Context<'_, P>, subject: &Subject<'_>, sent: &Credential) {
        if subject.name.is_some() && matches!(sent, Credential::None { .. }) {
            let identity = subject.upstream.as_str();
            self.demands.remember(
                identity,
                Demand::Nothing,
                context.platform.now(),
                DEMAND_LIFE,
            );
        }
    }

    /// What to send next after a 401 to `sent`; `None` where the upstream does not let the anonymous user in.
    pub async fn after_refusal(
        &self,
        context: &Context<'_, P>,
        subject: &Subject<'_>,
        sent: Credential,
        challenge: Option<Challenge>,
    ) -> Result<Option<Credential>, TokenError> {
        let asks = challenge.map(|challenge| Demand::of_challenge(challenge, subject.name));
        match Step::after_refusal(sent, asks, subject.name) {
            Step::Give => Ok(None),
            Step::AskBare { refused } => Ok(Some(Credential::None {
                refused: Some(refused),
            })),
            Step::Fetch { demand, refused } => {
                let credential = self
                    .obtain(context, subject, Rc::clone(&demand), refused, false)
                    .await?;
                // Not before: a repository whose token nobody gets must not close those that need none.
                if subject.name.is_some() {
                    self.demands.keep(
                        context.store,
                        subject.upstream.as_str(),
                        demand,
                        DEMAND_LIFE,
                    );
                }
                Ok(Some(credential))
            }
        }
    }

    /// A token from memory, the store or the token server, in this order, and not the one that was refused. One that is
    /// near its end is used to its end where no other can be had.
    async fn obtain(
        &self,
        context: &Context<'_, P>,
        subject: &Subject<'_>,
        demand: Rc<Demand>,
        refused: Option<Token>,
        remembered: bool,
    ) -> Result<Credential, TokenError> {
        let Demand::Bearer(grantor) = &*demand else {
            return Ok(Credential::None { refused });
        };
        let scopes = grantor.scopes(subject.name);
        let identity = identity(subject.upstream, &scopes);
        let now = context.platform.now();
        let usable = |kept: &Rc<Kept>| {
            Some(&kept.token) != refused.as_ref() && kept.grantor.is_like(grantor)
        };
        let in_memory = self.tokens.remembered(&identity, now).filter(usable);
        let (token, from) = match in_memory {
            Some(kept) if kept.is_fresh(now) => (kept.token.clone(), TokenFrom::Memory),
            old => {
                // Who was refused a token waits for another fetch than who just needs one.
                let anew = if refused.is_some() { "anew" } else { "" };
                let flight = format!(
                    "{identity}\n{}\n{:?}\n{anew}",
                    grantor.realm, grantor.service
                );
                let fetch = async || {
                    let stored = self
                        .tokens
                        .stored(context.store, &identity)
                        .await
                        .filter(usable);
                    let old = match stored {
                        Some(kept) if kept.is_fresh(now) => {
                            return Ok((kept.token.clone(), TokenFrom::Store));
                        }
                        stored => stored.or_else(|| old.clone()),
                    };
                    let (upstream, service) =
                        (subject.upstream.origin(), grantor.service.as_deref());
                    let granted = match token_server::fetch(
                        context,
                        upstream,
                        &grantor.realm,
                        service,
                        &scopes,
                    )
                    .await
                    {
                        Ok(granted) => granted,
                        Err(failure) => {
                            return old
                                .map(|kept| (kept.token.clone(), TokenFrom::Store))
                                .ok_or(failure);
                        }
                    };
                    let refresh = context
                        .platform
                        .now()
                        .saturating_add(granted.fresh)
                        .as_secs();
                    let kept = Kept {
                        token: granted.token.clone(),
                        grantor: grantor.clone(),
                        refresh,
                    };
                    self.tokens
                        .keep(context.store, &identity, kept, granted.life);
                    Ok((granted.token, TokenFrom::Fetched))
                };
                self.flights.share(context.platform, &flight, fetch).await?
            }
        };
        context.cost.token.set(Some(from));
        Ok(Credential::Token {
            token,
            from,
            demand,
            remembered,
        })
    }
}

impl Kept {
    fn is_fresh(&self, now: Duration) -> bool {
        now.as_secs() < self.refresh
    }
}

impl Step {
    fn after_refusal(sent: Credential, asks: Option<Demand>, name: Option<&Name>) -> Step {
        match (sent, asks) {
            (Credential::None { refused }, Some(asks)) => Step::Fetch {
                demand: Rc::new(asks),
                refused,
            },
            (Credential::None { .. }, None) => Step::Give,
            (
                Credential::Token {
                    token,
                    from,
                    demand,
                    remembered,
                },
                Some(asks),
            ) if asks.is_like(&demand) => {
                // A new token is worth another one only where it was for a scope that is remembered, and no longer asked for.
                let is_outdated = remembered && asks.scopes(name) != demand.scopes(name);
                match from {
                    TokenFrom::Fetched if !is_outdated => Step::Give,
                    _ => Step::Fetch {
                        demand: Rc::new(asks),
                        refused: Some(token),
                    },
                }
            }
            (
                Credential::Token {
                    token,
                    remembered: true,
                    ..
                },
                _,
            ) => Step::AskBare { refused: token },
            (Credential::Token { .. }, _) => Step::Give,
        }
    }
}

impl Demand {
    fn of_challenge(challenge: Challenge, name: Option<&Name>) -> Demand {
        let Challenge {
            realm,
            service,
            scopes,
        } = challenge;
        let of_this_repository = match name {
            Some(name) => scopes.contains(&Scope::pull(name)),
            None => false,
        };
        let fixed = if scopes.is_empty() || of_this_repository {
            None
        } else {
            Some(scopes)
        };
        Demand::Bearer(Grantor {
            realm,
            service,
            fixed,
        })
    }

    /// Whether both name the same token server.
    fn is_like(&self, other: &Demand) -> bool {
        match (self, other) {
            (Demand::Bearer(one), Demand::Bearer(other)) => one.is_like(other),
            (Demand::Nothing, Demand::Nothing) => true,
            _ => false,
        }
    }

    fn scopes(&self, name: Option<&Name>) -> Vec<Scope> {
        match self {
            Demand::Bearer(grantor) => grantor.scopes(name),
            Demand::Nothing => Vec::new(),
        }
    }
}

impl Grantor {
    /// A challenge without a scope is for what was asked for: the clients of registries take it so too.
    fn scopes(&self, name: Option<&Name>) -> Vec<Scope> {
        self.fixed.clone().unwrap_or_else(|| own_scopes(name))
    }

    /// Whether both are the same token server.
    fn is_like(&self, other: &Grantor) -> bool {
        self.realm == other.realm && self.service == other.service
    }
}

/// Those of each repository on its own.
fn own_scopes(name: Option<&Name>) -> Vec<Scope> {
    name.map(Scope::pull).into_iter().collect()
}

/// What a token is kept under. It goes only to the upstream, and for the scopes, that it was fetched for.
fn identity(upstream: &Upstream, scopes: &[Scope]) -> String {
    let scopes = scopes.iter().flat_map(|scope| ["\n", scope.as_str()]);
    std::iter::once(upstream.as_str()).chain(scopes).collect()
}

/// A realm in the store is text, and is parsed again when it is read.
mod realm {
    use crate::registry::origin::HttpUrl;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(realm: &HttpUrl, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(realm)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HttpUrl, D::Error> {
        HttpUrl::parse(&String::deserialize(deserializer)?)
            .map_err(|_| D::Error::custom("not a realm"))
    }
}
