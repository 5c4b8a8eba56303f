//! The cache of manifests. The content of a digest never changes, so it is kept once it was
//! verified; a tag only points to a digest, and is asked for again once it is older than `tag_ttl`.

use super::entry::{CONTENT_TTL, CachedManifest, ManifestEntry, ManifestKey, TagEntry, is_past};
use crate::blob_store::BlobStore;
use crate::cache::Cache;
use crate::cache::bucket::BucketLayout;
use crate::cache::status::{CACHE_STATUS, CacheStatus};
use crate::context::Context;
use crate::oci::digest::{Digest, Hasher, Mismatch};
use crate::oci::reference::Reference;
use crate::platform::Platform;
use crate::response::body::Body;
use crate::upstream::error::{ManifestError, UpstreamError};
use crate::upstream::{CONTENT_DIGEST, content_type, manifest_body};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::rc::Rc;
use std::time::Duration;

/// Bytes. A larger manifest is passed on, but not cached.
const MAX_CACHED_MANIFEST: usize = 256 * 1024;
/// Bytes of a body that are hashed without a pause.
const HASH_PIECE: usize = 128 * 1024;
/// How long the store is not told that a tag still points to the same digest: it would be written
/// to with every pull.
const TAG_WRITE_INTERVAL: Duration = Duration::from_secs(60);
const MANIFESTS: BucketLayout = BucketLayout {
    buckets: 256,
    entries: 2,
};
const TAGS: BucketLayout = BucketLayout {
    buckets: 128,
    entries: 8,
};

/// Manifests by digest, and tags.
pub struct ManifestCache<P: Platform> {
    manifests: Cache<P, ManifestEntry>,
    tags: Cache<P, TagEntry>,
    /// Behind both: what it has is put into them.
    blob_store: Rc<BlobStore<P>>,
}

impl<P: Platform> ManifestCache<P> {
    pub fn new(blob_store: Rc<BlobStore<P>>) -> ManifestCache<P> {
        ManifestCache {
            manifests: Cache::new("m", MANIFESTS),
            tags: Cache::new("g", TAGS),
            blob_store,
        }
    }

    /// Returns what is cached for a request, fresh or stale.
    pub async fn get(&self, context: &Context<'_, P>, key: &ManifestKey) -> Option<CachedManifest> {
        match &key.reference {
            Reference::Digest(digest) => {
                let manifest = self.manifest(context, key, digest).await?;
                Some(CachedManifest {
                    digest: digest.clone(),
                    tag: None,
                    manifest: Some(manifest),
                })
            }
            Reference::Tag(_) => {
                let (key_of_tag, now) = (key.cache_key(), context.platform.now());
                let is_valid =
                    |tag: &TagEntry| content_type::of_manifest(&tag.media_type).is_some();
                let tag = match self.tags.get_memory(&key_of_tag, now) {
                    Some(tag) => tag,
                    None => {
                        let stored = self
                            .tags
                            .get_store_if(context.store, &key_of_tag, is_valid)
                            .await;
                        match stored {
                            Some(tag) => tag,
                            None => {
                                let kept = self.kept::<TagEntry>(context, key, &key_of_tag).await;
                                let kept = kept
                                    .filter(is_valid)
                                    .filter(|kept| is_past(kept.validated_at, now))?;
                                let life = tag_retention(context).checked_sub(kept.age(now))?;
                                let (store, kept) = (context.store, Rc::new(kept));
                                self.tags.put(
                                    store,
                                    &key_of_tag,
                                    Rc::clone(&kept),
                                    life,
                                    key.owner,
                                );
                                kept
                            }
                        }
                    }
                };
                Some(self.tagged(context, key, tag).await)
            }
        }
    }

    async fn tagged(
        &self,
        context: &Context<'_, P>,
        key: &ManifestKey,
        tag: Rc<TagEntry>,
    ) -> CachedManifest {
        CachedManifest {
            digest: tag.digest.clone(),
            manifest: self.manifest(context, key, &tag.digest).await,
            tag: Some(tag),
        }
    }

    /// Returns a manifest by its digest, if the client accepts its media type. The store's content
    /// is verified.
    async fn manifest(
        &self,
        context: &Context<'_, P>,
        key: &ManifestKey,
        digest: &Digest,
    ) -> Option<Rc<ManifestEntry>> {
        let key_of_content = key.content_key(digest);
        let now = context.platform.now();
        let manifest = match self.manifests.get_memory(&key_of_content, now) {
            Some(manifest) => manifest,
            None => {
                let is_valid = |manifest: &ManifestEntry| {
                    digest.verify(manifest.text.as_bytes()).is_ok()
                        && content_type::of_manifest(&manifest.media_type).is_some()
                };
                let stored = self
                    .manifests
                    .get_store_if(context.store, &key_of_content, is_valid)
                    .await;
                match stored {
                    Some(manifest) => manifest,
                    None => {
                        let kept = self.kept::<ManifestEntry>(context, key, &key_of_content);
                        let kept = kept.await.filter(is_valid)?;
                        let kept = Some(kept).filter(|kept| is_past(kept.validated_at, now))?;
                        let life = retention(context).checked_sub(kept.age(now))?;
                        let (store, kept) = (context.store, Rc::new(kept));
                        let (cache, owner) = (&self.manifests, key.owner);
                        cache.put(store, &key_of_content, Rc::clone(&kept), life, owner);
                        kept
                    }
                }
            }
        };
        key.accept.accepts(&manifest.media_type).then_some(manifest)
    }

    /// Returns an entry of the blob store.
    async fn kept<T: DeserializeOwned>(
        &self,
        context: &Context<'_, P>,
        key: &ManifestKey,
        entry_key: &str,
    ) -> Option<T> {
        let prefix = key.object_prefix.as_ref()?;
        let entry = self.blob_store.entry(context, prefix, entry_key).await?;
        serde_json::from_str(&entry).ok()
    }

    /// Writes an entry to the blob store, where this repository's are kept; `None` removes it.
    fn keep<T: Serialize>(
        &self,
        context: &Context<'_, P>,
        key: &ManifestKey,
        entry_key: &str,
        entry: Option<&T>,
    ) {
        if let Some(prefix) = &key.object_prefix {
            let entry = entry.and_then(|entry| serde_json::to_vec(entry).ok());
            let entry = entry.unwrap_or_default();
            self.blob_store.put_entry(context, prefix, entry_key, entry);
        }
    }

    /// Returns what the upstream has now, by the headers of its answer to a `HEAD`; `None` where
    /// they don't tell, or it is not cached. `has_content` says whether there was a cached manifest
    /// before: then the tag moves only once the new manifest is cached too, since the old one may
    /// have to be served until then. `proof` is that of the answer.
    pub async fn on_revalidated(
        &self,
        context: &Context<'_, P>,
        key: &ManifestKey,
        headers: &HeaderMap,
        proof: Option<String>,
        has_content: bool,
    ) -> Option<CachedManifest> {
        let digest = content_digest(headers)?;
        let cached = match &key.reference {
            Reference::Digest(wanted) if *wanted == digest && has_content => {
                self.get(context, key).await?
            }
            Reference::Digest(_) => return None,
            Reference::Tag(_) => {
                let media_type = header(headers, CONTENT_TYPE)?.to_owned();
                let told = content_length(headers).filter(|length| *length > 0);
                let length = match told {
                    Some(length) => length,
                    None => self.manifest(context, key, &digest).await?.text.len(),
                };
                let tag = TagEntry::new(digest, media_type, length, context.platform.now());
                let tag = Rc::new(TagEntry { proof, ..tag });
                let cached = self.tagged(context, key, Rc::clone(&tag)).await;
                if cached.has_content() || !has_content {
                    self.update_tag(context, key, tag);
                }
                cached
            }
        };
        self.refresh(context, key, &cached);
        Some(cached)
    }

    /// Extends the life of a manifest that the upstream still has, once half of it is over.
    fn refresh(&self, context: &Context<'_, P>, key: &ManifestKey, cached: &CachedManifest) {
        let now = context.platform.now();
        let is_due =
            |manifest: &&Rc<ManifestEntry>| manifest.age(now).saturating_mul(2) >= CONTENT_TTL;
        if let Some(manifest) = cached.manifest.as_ref().filter(is_due) {
            let manifest = ManifestEntry {
                validated_at: now.as_secs(),
                ..(**manifest).clone()
            };
            let (content_key, ttl) = (key.content_key(&cached.digest), retention(context));
            self.keep(context, key, &content_key, Some(&manifest));
            self.manifests
                .put(context.store, &content_key, manifest, ttl, key.owner);
        }
    }

    /// Removes what the upstream does not have any more, or does not show any more. Some registries
    /// say that of content whose media type is not in `Accept`; a manifest by its digest is kept
    /// then, since it serves other clients too.
    pub fn remove(&self, context: &Context<'_, P>, key: &ManifestKey, cached: &CachedManifest) {
        match (&key.reference, &cached.manifest) {
            (Reference::Tag(_), _) => {
                let cache_key = key.cache_key();
                self.keep::<TagEntry>(context, key, &cache_key, None);
                self.tags.remove(context.store, &cache_key);
            }
            (Reference::Digest(digest), Some(manifest))
                if key.accept.names(&manifest.media_type) =>
            {
                let content_key = key.content_key(digest);
                self.keep::<ManifestEntry>(context, key, &content_key, None);
                self.manifests.remove(context.store, &content_key);
            }
            (Reference::Digest(_), _) => {}
        }
    }

    /// Reads the manifest that an upstream sent, checks it against its digest, and caches it, with
    /// the key of the proof that everybody may have it. Returns the response with the manifest in
    /// memory.
    pub async fn verify_and_store(
        &self,
        context: &Context<'_, P>,
        key: &ManifestKey,
        response: Response<Body<P::Body>>,
        proof: Option<String>,
    ) -> Result<Response<Body<P::Body>>, UpstreamError> {
        let (mut head, body) = response.into_parts();
        let body = match body {
            Body::Upstream(body) | Body::Teed(body, _) => {
                manifest_body::read(context, &head.headers, body).await?
            }
            Body::Buffered(body) if head.status == StatusCode::OK => body,
            Body::Buffered(_) => return Ok(Response::from_parts(head, body)),
        };
        let computed = complete(context, &mut head.headers, &body).await;
        let digest = match &key.reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => content_digest(&head.headers),
        };
        let verified = match &digest {
            Some(digest) if computed.as_ref() == Some(digest) => Some(Ok(())),
            Some(digest) => Some(verify(context, digest, &body).await),
            None => None,
        };
        match (&key.reference, &digest, verified) {
            (_, Some(digest), Some(Ok(()))) if body.len() <= MAX_CACHED_MANIFEST => {
                if let Ok(text) = std::str::from_utf8(&body) {
                    let media_type = header(&head.headers, CONTENT_TYPE).unwrap_or_default();
                    let manifest = ManifestEntry {
                        media_type: media_type.to_owned(),
                        text: text.to_owned(),
                        validated_at: context.platform.now().as_secs(),
                        proof,
                    };
                    self.store(context, key, digest, manifest, computed.is_some());
                }
            }
            (Reference::Digest(_), _, Some(Err(Mismatch::OtherContent)))
                if !is_signed(&head.headers) =>
            {
                return Err(ManifestError::DigestMismatch.into());
            }
            // The client judges what an upstream says of its own tag, or what has no SHA-2 digest.
            // It is not cached.
            _ => {}
        }
        head.headers
            .insert(CACHE_STATUS, CacheStatus::Miss.header());
        Ok(Response::from_parts(head, Body::Buffered(body)))
    }

    fn store(
        &self,
        context: &Context<'_, P>,
        key: &ManifestKey,
        digest: &Digest,
        manifest: ManifestEntry,
        is_computed: bool,
    ) {
        if matches!(key.reference, Reference::Tag(_)) {
            let (media_type, length) = (manifest.media_type.clone(), manifest.text.len());
            let now = context.platform.now();
            let tag = TagEntry {
                is_computed,
                proof: manifest.proof.clone(),
                ..TagEntry::new(digest.clone(), media_type, length, now)
            };
            self.update_tag(context, key, Rc::new(tag));
        }
        let (content_key, ttl) = (key.content_key(digest), retention(context));
        self.keep(context, key, &content_key, Some(&manifest));
        self.manifests
            .put(context.store, &content_key, manifest, ttl, key.owner);
    }

    /// Puts a tag into memory; into the store too if it moved, or was not written for
    /// [`TAG_WRITE_INTERVAL`]; and into the blob store, where each write has its price, if it was
    /// not for a good part of the time that it may be stale.
    fn update_tag(&self, context: &Context<'_, P>, key: &ManifestKey, mut tag: Rc<TagEntry>) {
        let ttl = tag_retention(context);
        let (cache_key, now) = (key.cache_key(), context.platform.now());
        let before = self.tags.get_memory(&cache_key, now);
        let keep_interval = Duration::from_secs(context.config.max_stale.as_secs() / 8);
        let keep_interval = keep_interval.max(TAG_WRITE_INTERVAL);
        if key.object_prefix.is_some() {
            let is_kept = |before: &&Rc<TagEntry>| {
                before.digest == tag.digest && before.is_kept(now, keep_interval)
            };
            let kept_at = before.as_ref().filter(is_kept).map(|tag| tag.kept_at);
            let kept = TagEntry {
                kept_at: kept_at.unwrap_or(now.as_secs()),
                ..(*tag).clone()
            };
            if kept_at.is_none() {
                self.keep(context, key, &cache_key, Some(&kept));
            }
            tag = Rc::new(kept);
        }
        match before {
            Some(before)
                if before.digest == tag.digest && before.is_persisted(now, TAG_WRITE_INTERVAL) =>
            {
                let tag = TagEntry {
                    persisted_at: before.persisted_at,
                    ..(*tag).clone()
                };
                self.tags.put_memory(&cache_key, tag, now, ttl, key.owner);
            }
            _ => self
                .tags
                .put(context.store, &cache_key, tag, ttl, key.owner),
        }
    }
}

/// Says of a manifest whose body was read what its upstream left out: the digest, unless it is that
/// of a signed part, and the length. Without a digest a tag could not be cached, and some clients
/// stop. Returns the digest where it was computed here.
pub async fn complete<P: Platform>(
    context: &Context<'_, P>,
    headers: &mut HeaderMap,
    body: &[u8],
) -> Option<Digest> {
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if headers.contains_key(CONTENT_DIGEST) || is_signed(headers) {
        return None;
    }
    let digest = hash(context, Hasher::default(), body).await.finish();
    headers.insert(CONTENT_DIGEST, HeaderValue::from_str(digest.as_str()).ok()?);
    Some(digest)
}

async fn verify<P: Platform>(
    context: &Context<'_, P>,
    digest: &Digest,
    body: &[u8],
) -> Result<(), Mismatch> {
    let hasher = digest.hasher().ok_or(Mismatch::UnknownAlgorithm)?;
    digest.verify_hash(hash(context, hasher, body).await)
}

/// Hashes a body, and lets the other requests of the instance go on in between: a manifest of 4 MiB
/// would stop them for 20 ms and more.
async fn hash<P: Platform>(context: &Context<'_, P>, mut hasher: Hasher, body: &[u8]) -> Hasher {
    let mut pieces = body.chunks(HASH_PIECE);
    if let Some(first) = pieces.next() {
        hasher.update(first);
    }
    for piece in pieces {
        context.platform.yield_now().await;
        hasher.update(piece);
    }
    hasher
}

/// Whether the answer to a `HEAD` of a manifest tells what clients need to know of it: oras and
/// containerd stop where the length or the digest is missing.
pub fn is_complete(headers: &HeaderMap) -> bool {
    content_length(headers).is_some_and(|length| length > 0) && headers.contains_key(CONTENT_DIGEST)
}

/// Returns the digest that the headers of an answer name.
pub fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(header(headers, CONTENT_DIGEST)?).ok()
}

/// How long a manifest is kept: `max_stale` longer than it is served by its digest without asking
/// the upstream.
fn retention<P: Platform>(context: &Context<'_, P>) -> Duration {
    CONTENT_TTL.saturating_add(context.config.max_stale)
}

/// How long a tag is kept: as long as there may be a manifest that it can be revalidated for.
fn tag_retention<P: Platform>(context: &Context<'_, P>) -> Duration {
    retention(context).max(context.config.tag_ttl)
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    header(headers, CONTENT_LENGTH)?.parse().ok()
}

/// Whether the digest is that of what the manifest signs: the client removes the signatures before
/// it verifies.
fn is_signed(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(content_type::is_signed)
}
