//! Cached manifests and tags, and the key that they are found by.

use crate::blob_store::object::entries_prefix;
use crate::cache::bucket::{MAX_CLOCK_SKEW, Owner};
use crate::cache::status::{CACHE_STATUS, CacheStatus};
use crate::config::Config;
use crate::context::Context;
use crate::oci::digest::Digest;
use crate::oci::name::Name;
use crate::oci::reference::Reference;
use crate::platform::Platform;
use crate::policy::candidates::Candidates;
use crate::request::accept::Accept;
use crate::response::body::Body;
use crate::upstream::{CONTENT_DIGEST, content_type};
use http::header::{ACCEPT, AGE, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Duration;

/// How long a manifest is served by its digest without asking the upstream. It can't be outdated,
/// but it may have become private.
pub const CONTENT_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A request for a manifest that the cache may answer.
#[derive(Clone, Debug)]
pub struct ManifestKey {
    /// The upstreams that may answer, and the repository.
    repository: String,
    pub reference: Reference,
    pub accept: Accept,
    /// The operator, where all upstreams that may answer are the operator's.
    pub owner: Owner,
    /// The beginning of the names of this repository's entries in the blob store, where they are
    /// kept there.
    pub object_prefix: Option<String>,
}

impl ManifestKey {
    /// Returns `None` for a request with conditions or a range: those are for the upstream to
    /// judge. `headers` are the client's headers that go upstream.
    pub fn new(
        config: &Config,
        candidates: &Candidates,
        name: &Name,
        reference: &Reference,
        headers: &HeaderMap,
    ) -> Option<ManifestKey> {
        if headers.keys().any(|header| header != ACCEPT) {
            return None;
        }
        let accept = Accept::from_headers(headers);
        // Each list of types has a tag of its own, and objects cost somebody money.
        let is_usual = accept.is_usual();
        Some(ManifestKey {
            repository: config.repository_key(candidates, name),
            reference: reference.clone(),
            accept,
            object_prefix: entries_prefix(config, candidates, name).filter(|_| is_usual),
            owner: candidates.owner(),
        })
    }

    /// Returns the key of a manifest by its digest.
    pub fn content_key(&self, digest: &Digest) -> String {
        [self.repository.as_str(), "\n", digest.as_str()].concat()
    }

    /// Returns the key of the request: the reference, and the media types that the client accepts,
    /// since by those a tag stands for an index or for the manifest of one platform.
    pub fn cache_key(&self) -> String {
        let accept = Digest::of(self.accept.to_string().as_bytes());
        format!("{}\n{}\n{accept}", self.repository, self.reference)
    }
}

/// A verified manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ManifestEntry {
    pub media_type: String,
    pub text: String,
    /// When the upstream last had it, in seconds since the Unix epoch.
    pub validated_at: u64,
    /// Where it came with an account, the key of the proof that everybody may have it: it is served
    /// as long as there is one.
    pub proof: Option<String>,
}

/// The manifest that a tag points to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TagEntry {
    pub digest: Digest,
    pub media_type: String,
    /// Bytes of the manifest.
    pub length: usize,
    /// Whether the digest was computed here, since the upstream does not tell it: a `HEAD` brings
    /// nothing then.
    pub is_computed: bool,
    /// When the upstream last said so, in seconds since the Unix epoch.
    pub validated_at: u64,
    /// When it was last written to the store, in seconds since the Unix epoch.
    pub persisted_at: u64,
    /// As of a manifest.
    pub proof: Option<String>,
    /// The same of the blob store; 0 where it is not there.
    #[serde(default)]
    pub kept_at: u64,
}

/// Whether an entry is from the past: one that a clock far ahead wrote would be fresh for long.
pub fn is_past(validated_at: u64, now: Duration) -> bool {
    Duration::from_secs(validated_at) <= now.saturating_add(MAX_CLOCK_SKEW)
}

impl ManifestEntry {
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_secs(self.validated_at))
    }
}

impl TagEntry {
    /// Makes the entry of a tag that the upstream has just told.
    pub fn new(digest: Digest, media_type: String, length: usize, now: Duration) -> TagEntry {
        TagEntry {
            digest,
            media_type,
            length,
            is_computed: false,
            validated_at: now.as_secs(),
            persisted_at: now.as_secs(),
            proof: None,
            kept_at: 0,
        }
    }

    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_secs(self.validated_at))
    }

    /// Whether the blob store was told less than `interval` ago.
    pub fn is_kept(&self, now: Duration, interval: Duration) -> bool {
        now.saturating_sub(Duration::from_secs(self.kept_at)) < interval
    }

    /// Whether the store was told less than `interval` ago.
    pub fn is_persisted(&self, now: Duration, interval: Duration) -> bool {
        now.saturating_sub(Duration::from_secs(self.persisted_at)) < interval
    }
}

/// All that the cache has for a request.
#[derive(Clone, Debug)]
pub struct CachedManifest {
    pub digest: Digest,
    /// `None` for a request by digest.
    pub tag: Option<Rc<TagEntry>>,
    /// `None` where only the digest of a tag is known, from a `HEAD`.
    pub manifest: Option<Rc<ManifestEntry>>,
}

impl CachedManifest {
    /// Returns the keys of all proofs that it needs.
    pub fn proofs(&self) -> impl Iterator<Item = &str> {
        let tag = self.tag.as_ref().and_then(|tag| tag.proof.as_deref());
        let manifest = self.manifest.as_ref();
        tag.into_iter()
            .chain(manifest.and_then(|manifest| manifest.proof.as_deref()))
    }

    /// Whether a `GET` can be answered with it.
    pub fn has_content(&self) -> bool {
        self.manifest.is_some()
    }

    /// Whether the upstream tells by the answer to a `HEAD` that it still has it.
    pub fn can_be_revalidated(&self) -> bool {
        self.tag.as_ref().is_none_or(|tag| !tag.is_computed)
    }

    /// Whether it may be served without asking the upstream.
    pub fn is_fresh<P: Platform>(&self, context: &Context<'_, P>) -> bool {
        let now = context.platform.now();
        match (&self.tag, &self.manifest) {
            (Some(tag), _) => tag.age(now) < context.config.tag_ttl,
            (None, Some(manifest)) => manifest.age(now) < CONTENT_TTL,
            (None, None) => false,
        }
    }

    /// Whether it may be served where the upstream fails (stale-if-error, RFC 5861). A manifest by
    /// its digest always may.
    pub fn usable_if_error<P: Platform>(&self, context: &Context<'_, P>) -> bool {
        let now = context.platform.now();
        let tag = self.tag.as_ref();
        tag.is_none_or(|tag| tag.age(now) < context.config.max_stale)
    }

    /// Makes the response; `None` where the manifest is not cached, or the media type in the
    /// store's entry is no registry's: it may have been changed there.
    pub fn respond<P: Platform>(
        &self,
        context: &Context<'_, P>,
        head_only: bool,
        status: CacheStatus,
    ) -> Option<Response<Body<P::Body>>> {
        let (media_type, length, text) = match (&self.manifest, &self.tag) {
            (Some(manifest), _) => (
                &manifest.media_type,
                manifest.text.len(),
                manifest.text.as_str(),
            ),
            (None, Some(tag)) if head_only => (&tag.media_type, tag.length, ""),
            _ => return None,
        };
        let mut response = Body::respond(StatusCode::OK, text.into(), head_only);
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CONTENT_TYPE, content_type::of_manifest(media_type)?);
        let digest = HeaderValue::from_str(self.digest.as_str()).ok()?;
        headers.insert(CONTENT_DIGEST, digest);
        headers.insert(CACHE_STATUS, status.header());
        if let Some(tag) = &self.tag {
            let age = tag.age(context.platform.now());
            headers.insert(AGE, HeaderValue::from(age.as_secs()));
        }
        context.stats.cache_status.set(Some(status));
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_a_clock_far_ahead_wrote_is_not_believed() {
        let now = Duration::from_secs(1_000_000);
        for (validated_at, expected) in [
            (0, true),
            (1_000_000, true),
            (1_000_600, true),
            (1_000_601, false),
            (u64::MAX, false),
        ] {
            assert_eq!(is_past(validated_at, now), expected, "{validated_at}");
        }
    }
}
