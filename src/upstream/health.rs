//! Which upstreams have failed lately: they are left alone for a while.

use crate::cache::{Cache, Shape};
use crate::context::Context;
use crate::platform::Platform;
use crate::policy::Upstream;
use std::time::Duration;

/// How long an upstream that failed is asked last, or not at all where there is a copy.
const REST: Duration = Duration::from_secs(20);
/// How long an instance takes it that no other has seen an upstream fail.
const TRUST: Duration = Duration::from_secs(60);
/// Keys in the store.
const SHAPE: Shape = Shape {
    buckets: 16,
    entries: 4,
};

pub struct Health<P: Platform>(Cache<P, bool>);

impl<P: Platform> Default for Health<P> {
    fn default() -> Self {
        Health(Cache::new("h", SHAPE))
    }
}

impl<P: Platform> Health<P> {
    /// Whether `upstream` has failed lately.
    pub async fn rests(&self, context: &Context<'_, P>, upstream: &Upstream) -> bool {
        let identity = upstream.as_str();
        match self.0.find(context.store, identity).await {
            Some(rests) => *rests,
            None => {
                self.0
                    .remember(identity, false, context.platform.now(), TRUST);
                false
            }
        }
    }

    /// Whether there is none that has not failed lately.
    pub async fn all_rest(&self, context: &Context<'_, P>, upstreams: &[Upstream]) -> bool {
        for upstream in upstreams {
            if !self.rests(context, upstream).await {
                return false;
            }
        }
        true
    }

    pub fn failed(&self, context: &Context<'_, P>, upstream: &Upstream) {
        self.0.keep(context.store, upstream.as_str(), true, REST);
    }

    /// Those that have not failed lately first, else in the operator's order.
    pub async fn order(&self, context: &Context<'_, P>, upstreams: &[Upstream]) -> Vec<Upstream> {
        if let [only] = upstreams {
            return vec![only.clone()];
        }
        let (mut well, mut resting) = (Vec::new(), Vec::new());
        for upstream in upstreams {
            let list = if self.rests(context, upstream).await {
                &mut resting
            } else {
                &mut well
            };
            list.push(upstream.clone());
        }
        well.append(&mut resting);
        well
    }
}
