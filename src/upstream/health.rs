//! Which upstreams failed lately. They are asked last for a while, or not at all where there is a
//! cached copy.

use crate::cache::Cache;
use crate::cache::bucket::BucketLayout;
use crate::context::Context;
use crate::platform::Platform;
use crate::policy::candidates::Candidates;
use crate::policy::permitted::Upstream;
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

impl<P: Platform> Default for Health<P> {
    fn default() -> Self {
        Health(Cache::new("h", LAYOUT))
    }
}

impl<P: Platform> Health<P> {
    /// Whether an upstream failed lately.
    pub async fn is_down(&self, context: &Context<'_, P>, upstream: &Upstream) -> bool {
        let key = upstream.as_str();
        match self.0.get(context.store, key).await {
            Some(is_down) => *is_down,
            None => {
                self.0
                    .put_memory(key, false, context.platform.now(), RECHECK);
                false
            }
        }
    }

    /// Whether all candidates failed lately.
    pub async fn all_down(&self, context: &Context<'_, P>, candidates: &Candidates) -> bool {
        for upstream in candidates.iter() {
            if !self.is_down(context, upstream).await {
                return false;
            }
        }
        true
    }

    pub fn mark_down(&self, context: &Context<'_, P>, upstream: &Upstream) {
        self.0.put(context.store, upstream.as_str(), true, COOLDOWN);
    }

    /// Returns the candidates in the order in which they are asked: those that failed lately last,
    /// else the operator's.
    pub async fn order(&self, context: &Context<'_, P>, candidates: &Candidates) -> Candidates {
        if candidates.is_single() {
            return candidates.clone();
        }
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for upstream in candidates.iter() {
            let list = if self.is_down(context, upstream).await {
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
