//! Who asks a registry where the operator has accounts: one of them, or the anonymous user.
//!
//! An account that everybody may use reads nothing for them that they could not read themselves
//! (`credentials_serve=public`). So it asks only for manifests and blobs of repositories that the
//! anonymous user was shown a manifest of, within the last day. Whatever shows that, or the
//! contrary, is asked as the anonymous user in any case: the `HEAD` of a manifest, which Docker Hub
//! does not count. On a closed mirror an account may serve all that it may read.

use super::auth::Auth;
use super::auth::public_access::proof_key;
use super::error::{TokenError, UpstreamError};
use super::{RATE_LIMITS, RawResponse, UpstreamRequest, content_type, exchange};
use crate::context::Context;
use crate::platform::Platform;
use crate::platform::log_line::LogLine;
use crate::policy::permitted::Upstream;
use crate::registry::account::{Account, Serves};
use crate::request::route::{Resource, Route};
use http::header::{ACCEPT, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

/// How long an account is not used after a 429 that does not say it.
const LIMITED_FOR: Duration = Duration::from_secs(60);
/// The same after an answer that says that it was the last one, without a time: limits of Docker
/// Hub come back bit by bit.
const EXHAUSTED_FOR: Duration = Duration::from_secs(300);
/// The longest that a registry can have an account left alone.
const MAX_REST: Duration = Duration::from_secs(6 * 60 * 60);
/// How long an account is not used after its password was wrong, or was asked for by a host that
/// does not get it: some registries lock an account after several attempts.
const REFUSED_FOR: Duration = Duration::from_secs(60);

const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

type Sent<B> = Result<RawResponse<B>, UpstreamError>;

/// The accounts that are not used for a while, by their cache keys: never more than there are.
#[derive(Debug, Default)]
pub struct AccountsAtRest(RefCell<HashMap<String, Rest>>);

#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Duration,
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Its limit is reached.
    Limited,
    /// The registry does not take it.
    Refused,
}

impl AccountsAtRest {
    fn get(&self, account: &Account, now: Duration) -> Option<Rest> {
        let rests = self.0.borrow();
        let rest = rests.get(&account.cache_key()).copied();
        // A clock may have been set back.
        rest.filter(|rest| now < rest.until && rest.until <= now.saturating_add(MAX_REST))
    }

    fn put(&self, account: &Account, now: Duration, time: Duration, reason: Reason) {
        let until = now.saturating_add(time.min(MAX_REST));
        let rest = Rest { until, reason };
        self.0.borrow_mut().insert(account.cache_key(), rest);
    }
}

/// Sends a request to an upstream as whoever may ask for it. Where the operator has an account
/// there, no answer tells of limits: they are the operator's, and no client's.
pub async fn send<P: Platform>(
    context: &Context<'_, P>,
    auth: &Auth<P>,
    upstream: &Upstream,
    request: &UpstreamRequest<'_>,
) -> Sent<P::Body> {
    let accounts = &context.config.accounts;
    if !accounts.has_any_at(upstream.origin()) {
        return exchange::send(context, auth, upstream, request, None).await;
    }
    let asker = Asker {
        context,
        auth,
        upstream,
        request,
    };
    let mut answer = match accounts.serves {
        Serves::Public => asker.send_public().await,
        Serves::All => asker.send_all().await,
    };
    if let Ok(raw) = &mut answer {
        for name in &RATE_LIMITS {
            raw.response.headers_mut().remove(name);
        }
    }
    answer
}

/// The answer that accounts got.
enum Attempted<B> {
    Answered(Sent<B>),
    /// The limit of one at least is reached, and the others are refused.
    Limited(Sent<B>),
    Refused,
}

struct Asker<'a, P: Platform> {
    context: &'a Context<'a, P>,
    auth: &'a Auth<P>,
    upstream: &'a Upstream,
    request: &'a UpstreamRequest<'a>,
}

impl<P: Platform> Asker<'_, P> {
    /// Serves what the accounts may read, or the anonymous user where none of them may.
    async fn send_all(&self) -> Sent<P::Body> {
        match self.send_as_accounts().await {
            Attempted::Answered(answer) | Attempted::Limited(answer) => answer,
            Attempted::Refused => self.send_as(self.request, None).await,
        }
    }

    /// Serves what the anonymous user may read.
    async fn send_public(&self) -> Sent<P::Body> {
        let route = self.request.route.at(self.upstream.origin());
        // Lists and referrers are not counted by registries, and a catalog names what is private.
        let Route::Repository(name, Resource::Manifest(_) | Resource::Blob(_)) = &*route else {
            return self.send_as(self.request, None).await;
        };
        let key = proof_key(self.upstream, name);
        let is_manifest = route.is_manifest();
        if is_manifest && self.request.method == Method::HEAD {
            let answer = self.send_as_anonymous(self.request, &key).await;
            if limit_of(&answer).is_none() || !self.is_proven(&key).await {
                return answer;
            }
            return match self.send_as_accounts().await {
                Attempted::Answered(answer) => with_proof(key, answer),
                Attempted::Limited(_) | Attempted::Refused => answer,
            };
        }
        let is_proven = self.is_proven(&key).await || is_manifest && self.check(&key).await?;
        if !is_proven {
            return self.send_as_anonymous(self.request, &key).await;
        }
        match self.send_as_accounts().await {
            Attempted::Answered(answer) => with_proof(key, answer),
            // Its own limit may be left.
            Attempted::Limited(_) | Attempted::Refused => {
                self.send_as_anonymous(self.request, &key).await
            }
        }
    }

    async fn is_proven(&self, key: &str) -> bool {
        self.auth.public_access.is_proven(self.context, key).await
    }

    /// Asks by `HEAD`, as the anonymous user, whether that user may read a manifest.
    async fn check(&self, key: &str) -> Result<bool, UpstreamError> {
        let accept = self.request.headers.get_all(ACCEPT).iter();
        let accept = accept.map(|value| (ACCEPT, value.clone()));
        let head = UpstreamRequest {
            method: Method::HEAD,
            query: "",
            headers: accept.collect(),
            ..self.request.clone()
        };
        let check = async || match self.send_as_anonymous(&head, key).await {
            // It would fail again, after as long a time.
            Err(UpstreamError::Transport(error)) => Err(error.into()),
            answer => Ok(shows_manifest(head.route, &answer)),
        };
        let public_access = &self.auth.public_access;
        public_access.check(self.context, key, check).await
    }

    /// Asks as the anonymous user, and remembers what that shows of the repository.
    async fn send_as_anonymous(&self, request: &UpstreamRequest<'_>, key: &str) -> Sent<P::Body> {
        let answer = self.send_as(request, None).await;
        let public_access = &self.auth.public_access;
        // With a query, it may be the query that opens it.
        if request.query.is_empty() && shows_manifest(request.route, &answer) {
            public_access.prove(self.context, self.upstream, key);
        } else if is_refused(&answer) {
            public_access
                .take_back(self.context, self.upstream, key)
                .await;
        }
        answer
    }

    async fn send_as(
        &self,
        request: &UpstreamRequest<'_>,
        account: Option<&Account>,
    ) -> Sent<P::Body> {
        exchange::send(self.context, self.auth, self.upstream, request, account).await
    }

    /// Asks with the operator's accounts, in order, until one has an answer. Those whose limit is
    /// reached, or that the registry did not take lately, are left alone.
    async fn send_as_accounts(&self) -> Attempted<P::Body> {
        let mut limited: Option<Sent<P::Body>> = None;
        let rests = &self.auth.accounts_at_rest;
        for account in self.context.config.accounts.at(self.upstream.origin()) {
            let now = self.context.platform.now();
            match rests.get(account, now) {
                Some(rest) if rest.reason == Reason::Limited => {
                    let wait = rest.until.saturating_sub(now);
                    limited.get_or_insert_with(|| Err(limit_reached(wait)));
                    continue;
                }
                Some(_) => continue,
                None => {}
            }
            let answer = self.send_as(self.request, Some(account)).await;
            let now = self.context.platform.now();
            if let Some(wait) = limit_of(&answer) {
                rests.put(account, now, wait, Reason::Limited);
                limited = Some(answer);
            } else if is_refused(&answer) {
                if let Err(UpstreamError::Token(error)) = &answer
                    && *error != TokenError::Refused
                {
                    rests.put(account, now, REFUSED_FOR, Reason::Refused);
                    self.log_refusal(account, error);
                }
            } else {
                if let Some(wait) = exhaustion_of(&answer) {
                    rests.put(account, now, wait, Reason::Limited);
                }
                return Attempted::Answered(answer);
            }
        }
        limited.map_or(Attempted::Refused, Attempted::Limited)
    }

    fn log_refusal(&self, account: &Account, error: &TokenError) {
        let (name, upstream) = (account.name(), self.upstream.permitted().authority());
        let error = UpstreamError::Token(error.clone()).to_string();
        let mut line = LogLine::new(self.context.config.log_format);
        line.word("account", name);
        line.word("state", "refused");
        line.word("upstream", upstream.as_str());
        line.text("error", &error);
        self.context.platform.log(&line.finish());
    }
}

fn with_proof<B>(key: String, answer: Sent<B>) -> Sent<B> {
    answer.map(|raw| RawResponse {
        proof: Some(key),
        ..raw
    })
}

/// Whether whoever asked is not admitted, or the registry wants the account at another host.
fn is_refused<B>(answer: &Sent<B>) -> bool {
    match answer {
        Ok(raw) => raw.response.status() == StatusCode::FORBIDDEN,
        Err(UpstreamError::Denied) => true,
        Err(UpstreamError::Token(error)) => matches!(
            error,
            TokenError::Refused
                | TokenError::WrongPassword
                | TokenError::Forbidden(_)
                | TokenError::Redirect(_)
        ),
        Err(_) => false,
    }
}

/// Whether this is a manifest of the repository that was asked for. A page for people to log in is
/// none, and what a registry redirects to says nothing of the registry.
fn shows_manifest<B>(route: &Route, answer: &Sent<B>) -> bool {
    let shows = |raw: &RawResponse<B>| {
        let (status, headers) = (raw.response.status(), raw.response.headers());
        let has_type = || content_type::for_client(route, status, headers).is_some();
        status == StatusCode::OK && !raw.redirected && has_type()
    };
    route.is_manifest() && answer.as_ref().is_ok_and(shows)
}

/// Returns how long whoever asked has to wait, where a limit is reached.
fn limit_of<B>(answer: &Sent<B>) -> Option<Duration> {
    let retry_after = match answer {
        Ok(raw) if raw.response.status() == StatusCode::TOO_MANY_REQUESTS => {
            raw.response.headers().get(RETRY_AFTER)
        }
        Err(UpstreamError::Token(TokenError::TooManyRequests { retry_after })) => {
            retry_after.as_ref()
        }
        _ => return None,
    };
    Some(retry_after.and_then(seconds).unwrap_or(LIMITED_FOR))
}

/// Returns how long an account has to wait after an answer that says that it was the last one.
fn exhaustion_of<B>(answer: &Sent<B>) -> Option<Duration> {
    let headers = answer.as_ref().ok()?.response.headers();
    // Docker Hub adds the window: `0;w=21600`.
    let remaining = headers.get(REMAINING)?.to_str().ok()?;
    let number = remaining.split(';').next().unwrap_or_default();
    let reset = || headers.get(RESET).and_then(seconds);
    (number.trim() == "0").then(|| reset().unwrap_or(EXHAUSTED_FOR))
}

/// Reads a number of seconds, at least one.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    let seconds: u32 = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.max(1).into()))
}

fn limit_reached(wait: Duration) -> UpstreamError {
    let wait = HeaderValue::from(wait.as_secs().max(1));
    let headers = HeaderMap::from_iter([(RETRY_AFTER, wait)]);
    UpstreamError::from_status(StatusCode::TOO_MANY_REQUESTS, None, &headers)
}
