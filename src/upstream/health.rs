//! Which upstreams failed lately. They are asked last for a while, or not at all where there is a
//! cached copy.

use crate::cache::Cache;
use crate::cache::bucket::BucketLayout;
use crate::context::Context;
use crate::platform::Platform;
use crate::policy::candidates::Candidates;
use crate::policy::permitted::Upstream;
use crate::request::route::Route;
use std::time::Duration;

/// How long an upstream counts as down after it failed.
const COOLDOWN: Duration = Duration::from_secs(20);
/// How long an instance relies on the store's word that an upstream is not down.
const RECHECK: Duration = Duration::from_secs(60);
const LAYOUT: BucketLayout = BucketLayout {
    buckets: 16,
    entries: 4,
};

/// Whether each upstream is down.
pub struct Health<P: Platform>(Cache<P, bool>);

/// The part of an upstream that failed.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All of it.
    Registry,
    /// What this route is one of: its blobs, its lists of tags. Its manifests are not concerned.
    Endpoint(&'a Route),
}

impl<P: Platform> Default for Health<P> {
    fn default() -> Self {
        Health(Cache::new("h", LAYOUT))
    }
}

impl<P: Platform> Health<P> {
    /// Whether this part of an upstream, or all of it, failed lately.
    async fn is_down(
        &self,
        context: &Context<'_, P>,
        upstream: &Upstream,
        scope: Scope<'_>,
    ) -> bool {
        if let Scope::Endpoint(route) = scope
            && !route.is_manifest()
            && self.failed(context, upstream, scope).await
        {
            return true;
        }
        self.failed(context, upstream, Scope::Registry).await
    }

    async fn failed(
        &self,
        context: &Context<'_, P>,
        upstream: &Upstream,
        scope: Scope<'_>,
    ) -> bool {
        let key = key(upstream, scope);
        match self.0.get(context.store, &key).await {
            Some(is_down) => *is_down,
            None => {
                let (now, owner) = (context.platform.now(), upstream.owner());
                self.0.put_memory(&key, false, now, RECHECK, owner);
                false
            }
        }
    }

    /// Whether all candidates failed lately, as far as manifests are concerned.
    pub async fn all_down(&self, context: &Context<'_, P>, candidates: &Candidates) -> bool {
        for upstream in candidates.iter() {
            if !self.is_down(context, upstream, Scope::Registry).await {
                return false;
            }
        }
        true
    }

    pub fn mark_down(&self, context: &Context<'_, P>, upstream: &Upstream, scope: Scope<'_>) {
        let (key, owner) = (key(upstream, scope), upstream.owner());
        self.0.put(context.store, &key, true, COOLDOWN, owner);
    }

    /// Returns the candidates in the order in which they are asked: those that failed lately last,
    /// else the operator's.
    pub async fn order(
        &self,
        context: &Context<'_, P>,
        candidates: &Candidates,
        route: &Route,
    ) -> Candidates {
        if candidates.is_single() {
            return candidates.clone();
        }
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for upstream in candidates.iter() {
            let scope = Scope::Endpoint(route);
            let list = if self.is_down(context, upstream, scope).await {
                &mut down
            } else {
                &mut up
            };
            list.push(upstream.clone());
        }
        up.append(&mut down);
        Candidates::new(up).unwrap_or_else(|| candidates.clone())
    }
}

fn key(upstream: &Upstream, scope: Scope<'_>) -> String {
    match scope {
        Scope::Registry => upstream.as_str().to_owned(),
        Scope::Endpoint(route) => format!("{}\n{}", upstream.as_str(), route.endpoint()),
    }
}
