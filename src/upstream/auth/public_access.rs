//! What the anonymous user may read of registries where the operator has an account: an account
//! serves clients that only.

use crate::cache::Cache;
use crate::cache::bucket::BucketLayout;
use crate::cache::single_flight::SingleFlight;
use crate::context::Context;
use crate::oci::name::Name;
use crate::platform::Platform;
use crate::policy::permitted::Upstream;
use crate::upstream::error::UpstreamError;
use std::time::Duration;

/// How long it is known of a repository that the anonymous user may read it, after it last could.
const PROOF_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Seconds. How long the store is not told that it still can.
const WRITE_INTERVAL: u32 = 60 * 60;
/// Stands where a proof was. An entry that is only removed would be found in the store again, which
/// is written to after the answer.
const TAKEN_BACK: u32 = 0;
const PROOFS: BucketLayout = BucketLayout {
    buckets: 16,
    entries: 64,
};

/// The repositories that the anonymous user could read within the last day.
pub struct PublicAccess<P: Platform> {
    /// When the proof was last written to the store, in seconds since the Unix epoch;
    /// [`TAKEN_BACK`] where it counts no more.
    proofs: Cache<P, u32>,
    checks: SingleFlight<P, Result<bool, UpstreamError>>,
}

impl<P: Platform> Default for PublicAccess<P> {
    fn default() -> Self {
        PublicAccess {
            proofs: Cache::new("p", PROOFS),
            checks: SingleFlight::default(),
        }
    }
}

/// Returns the key of a repository's proof.
pub fn proof_key(upstream: &Upstream, name: &Name) -> String {
    [upstream.as_str(), "\n", name.as_str()].concat()
}

impl<P: Platform> PublicAccess<P> {
    pub async fn is_proven(&self, context: &Context<'_, P>, key: &str) -> bool {
        let proof = self.proofs.get(context.store, key).await;
        proof.is_some_and(|written_at| *written_at != TAKEN_BACK)
    }

    /// Runs `check` once for all requests that need it at the same time.
    pub async fn check(
        &self,
        context: &Context<'_, P>,
        key: &str,
        check: impl AsyncFn() -> Result<bool, UpstreamError>,
    ) -> Result<bool, UpstreamError> {
        self.checks.run(context.platform, key, check).await
    }

    /// Remembers that the anonymous user has just read from a repository.
    pub fn prove(&self, context: &Context<'_, P>, upstream: &Upstream, key: &str) {
        let (now, owner) = (context.platform.now(), upstream.owner());
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let is_written = |at: &std::rc::Rc<u32>| seconds.saturating_sub(**at) < WRITE_INTERVAL;
        match self.proofs.get_memory(key, now).filter(|at| is_written(at)) {
            Some(at) => self.proofs.put_memory(key, at, now, PROOF_TTL, owner),
            None => self
                .proofs
                .put(context.store, key, seconds, PROOF_TTL, owner),
        }
    }

    /// Takes the proof of a repository back that the anonymous user has just been refused.
    pub async fn take_back(&self, context: &Context<'_, P>, upstream: &Upstream, key: &str) {
        // Not for each refusal: anybody can ask for what is private.
        if self.is_proven(context, key).await {
            let owner = upstream.owner();
            self.proofs
                .put(context.store, key, TAKEN_BACK, PROOF_TTL, owner);
        }
    }
}
