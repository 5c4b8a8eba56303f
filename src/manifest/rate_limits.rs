//! What upstreams last said of their limits (`ratelimit-*`): tools read it of the answer to a
//! `GET`, and the cache answers most of them.

use crate::context::Context;
use crate::platform::Platform;
use crate::policy::candidates::Candidates;
use crate::policy::permitted::Upstream;
use crate::upstream::RATE_LIMITS;
use http::{HeaderMap, HeaderName};
use std::cell::RefCell;
use std::collections::HashMap;

/// How many upstreams' limits an instance remembers.
const CAPACITY: usize = 64;

/// The limits of each upstream, as its last answer for a manifest had them.
#[derive(Debug, Default)]
pub struct RateLimits(RefCell<HashMap<String, HeaderMap>>);

impl RateLimits {
    /// Remembers what the answer of the upstream that was asked last says. Those that only clients
    /// name take no place of the operator's.
    pub fn record<P: Platform>(&self, context: &Context<'_, P>, headers: &HeaderMap) {
        let attempts = context.stats.attempts.borrow();
        let Some(upstream) = attempts.last() else {
            return;
        };
        let known = |name: HeaderName| Some((name.clone(), headers.get(&name)?.clone()));
        let limits: HeaderMap = RATE_LIMITS.into_iter().filter_map(known).collect();
        let mut all = self.0.borrow_mut();
        all.remove(upstream.as_str());
        if limits.is_empty() {
            return;
        }
        if all.len() >= CAPACITY {
            if !context.config.policy.is_operators(upstream.origin()) {
                return;
            }
            all.clear();
        }
        all.insert(upstream.as_str().to_owned(), limits);
    }

    /// Adds what is known to an answer that says nothing of limits: those of the upstream that was
    /// asked for it, or else of the first that could have been.
    pub fn add_to<P: Platform>(
        &self,
        context: &Context<'_, P>,
        candidates: &Candidates,
        headers: &mut HeaderMap,
    ) {
        if RATE_LIMITS.iter().any(|name| headers.contains_key(name)) {
            return;
        }
        let attempts = context.stats.attempts.borrow();
        let upstream: &Upstream = attempts.last().unwrap_or(candidates.first());
        if let Some(limits) = self.0.borrow().get(upstream.as_str()) {
            headers.extend(limits.clone());
        }
    }
}
