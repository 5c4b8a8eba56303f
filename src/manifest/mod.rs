//! Requests for manifests: from the cache as far as it may answer, else from an upstream, and from
//! the cache all the same where every upstream fails.

pub mod cache;
pub mod entry;
mod rate_limits;

use self::cache::{ManifestCache, complete, content_digest, is_complete};
use self::entry::{CachedManifest, ManifestKey};
use self::rate_limits::RateLimits;
use crate::blob_store::BlobStore;
use crate::cache::single_flight::{Collapsed, SingleFlight};
use crate::cache::status::CacheStatus;
use crate::oci::digest::Digest;
use crate::platform::Platform;
use crate::policy::candidates::Candidates;
use crate::policy::permitted::Upstream;
use crate::request::RegistryRequest;
use crate::response;
use crate::response::body::Body;
use crate::upstream::error::UpstreamError;
use crate::upstream::failover::{ProxyRequest, Upstreams};
use crate::upstream::health::Scope;
use crate::upstream::outcome::{classify_error, needs_get};
use crate::upstream::{UpstreamRequest, manifest_body};
use http::{Method, Response, StatusCode};
use std::rc::Rc;

type ManifestResponse<P> = Result<Response<Body<<P as Platform>::Body>>, UpstreamError>;

/// The manifests that this mirror serves.
pub struct Manifests<P: Platform> {
    cache: ManifestCache<P>,
    /// Each returns the digest that the upstream named.
    fetches: SingleFlight<P, Result<Option<Digest>, UpstreamError>>,
    rate_limits: RateLimits,
}

/// A request for a manifest, on its way upstream.
struct ManifestRequest<'a, P: Platform> {
    upstreams: &'a Upstreams<P>,
    proxy: &'a ProxyRequest<'a, P>,
    request: &'a UpstreamRequest<'a>,
    key: &'a ManifestKey,
}

impl<P: Platform> Manifests<P> {
    pub fn new(blob_store: Rc<BlobStore<P>>) -> Manifests<P> {
        Manifests {
            cache: ManifestCache::new(blob_store),
            fetches: SingleFlight::default(),
            rate_limits: RateLimits::default(),
        }
    }

    /// Serves a manifest.
    pub async fn serve(
        &self,
        upstreams: &Upstreams<P>,
        proxy: &ProxyRequest<'_, P>,
        request: &UpstreamRequest<'_>,
        key: &ManifestKey,
    ) -> ManifestResponse<P> {
        let mut response = self
            .serve_cached_or_fetch(upstreams, proxy, request, key)
            .await?;
        self.rate_limits
            .add_to(proxy.context, proxy.candidates, response.headers_mut());
        Ok(response)
    }

    async fn serve_cached_or_fetch(
        &self,
        upstreams: &Upstreams<P>,
        proxy: &ProxyRequest<'_, P>,
        request: &UpstreamRequest<'_>,
        key: &ManifestKey,
    ) -> ManifestResponse<P> {
        let (context, head_only) = (proxy.context, proxy.request.head_only);
        let cached = self.cache.get(context, key).await;
        if let Some(cached) = cached.as_ref().filter(|cached| cached.is_fresh(context))
            && upstreams.is_public(context, cached.proofs()).await
            && let Some(response) = cached.respond(context, head_only, CacheStatus::Hit)
        {
            return Ok(response);
        }
        let stale = async |status| {
            let cached = cached
                .as_ref()
                .filter(|cached| cached.usable_if_error(context))?;
            // Again each time: the upstream may just have taken the proof back.
            if !upstreams.is_public(context, cached.proofs()).await {
                return None;
            }
            cached.respond(context, head_only, status)
        };
        if cached.is_some()
            && upstreams.health.all_down(context, proxy.candidates).await
            && let Some(response) = stale(CacheStatus::Stale).await
        {
            return Ok(response);
        }
        let manifest = ManifestRequest {
            upstreams,
            proxy,
            request,
            key,
        };
        let error = match self.revalidate_or_fetch(&manifest, cached.as_ref()).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let outcome = classify_error(request.route, &error);
        if outcome.allows_stale() {
            return stale(CacheStatus::StaleIfError).await.ok_or(error);
        }
        // The answer to a `HEAD` proves nothing: see `needs_get`.
        if let Some(cached) = &cached
            && outcome.forgets_copy()
            && !head_only
        {
            self.cache.remove(context, key, cached);
        }
        Err(error)
    }

    /// Asks by `HEAD` whether the cached manifest is still the upstream's, which Docker Hub does
    /// not count, and by `GET` where it is not, or none is cached.
    async fn revalidate_or_fetch(
        &self,
        manifest: &ManifestRequest<'_, P>,
        before: Option<&CachedManifest>,
    ) -> ManifestResponse<P> {
        let ManifestRequest { proxy, key, .. } = *manifest;
        let (context, head_only) = (proxy.context, proxy.request.head_only);
        let has_content = before.is_some_and(CachedManifest::has_content);
        let head_tells = before.is_none_or(CachedManifest::can_be_revalidated);
        if head_tells && (head_only || has_content) {
            let head = UpstreamRequest {
                method: Method::HEAD,
                ..manifest.request.clone()
            };
            match manifest.upstreams.send(proxy, &head).await {
                Ok(mut upstream) => {
                    let proof = upstream.proof.take();
                    let response = response::from_upstream(context, proxy.request, upstream);
                    let headers = response.headers();
                    let cached =
                        self.cache
                            .on_revalidated(context, key, headers, proof, has_content);
                    let cached = cached.await;
                    self.rate_limits.record(context, headers);
                    if head_only && tells_all(&response) {
                        return Ok(response);
                    }
                    if let Some(response) = cached.and_then(|cached| {
                        cached.respond(context, head_only, CacheStatus::Revalidated)
                    }) {
                        return Ok(response);
                    }
                }
                Err(error) if needs_get(&error, head_only) => {}
                Err(error) => return Err(error),
            }
        }
        let get = UpstreamRequest {
            method: Method::GET,
            ..manifest.request.clone()
        };
        let request = RegistryRequest {
            head_only: false,
            ..proxy.request.clone()
        };
        let response = self
            .fetch_collapsed(&ManifestRequest {
                proxy: &ProxyRequest {
                    request: &request,
                    ..*proxy
                },
                request: &get,
                ..*manifest
            })
            .await?;
        Ok(if head_only {
            response.map(|_| Body::empty())
        } else {
            response
        })
    }

    /// Fetches a manifest by one `GET` for all who ask for it at the same time: Docker Hub counts
    /// each.
    async fn fetch_collapsed(&self, manifest: &ManifestRequest<'_, P>) -> ManifestResponse<P> {
        let context = manifest.proxy.context;
        // A request that came through another mirror may come from a `GET` of this one, and would
        // wait for itself.
        if !context.cdn_loop.is_direct() {
            return self.fetch_verified(manifest).await;
        }
        let fetch = async || self.fetch_verified(manifest).await;
        let share = |fetched: &ManifestResponse<P>| {
            let digest = |response: &Response<_>| content_digest(response.headers());
            fetched.as_ref().map(digest).map_err(UpstreamError::clone)
        };
        let key = manifest.key;
        let cache_key = key.cache_key();
        let collapsed = self
            .fetches
            .collapse(context.platform, &cache_key, fetch, share);
        let digest = match collapsed.await {
            Collapsed::Own(fetched) => return fetched,
            Collapsed::Shared(digest) => digest?,
        };
        // Where the fetched manifest was not cached, the one before it is found.
        let cached = self.cache.get(context, key).await;
        let cached = cached.filter(|cached| digest.as_ref() == Some(&cached.digest));
        match cached.and_then(|cached| cached.respond(context, false, CacheStatus::Collapsed)) {
            Some(response) => Ok(response),
            None => self.fetch_verified(manifest).await,
        }
    }

    /// Fetches a manifest from the first upstream that sends it whole and as its digest says.
    async fn fetch_verified(&self, manifest: &ManifestRequest<'_, P>) -> ManifestResponse<P> {
        let ManifestRequest {
            upstreams,
            proxy,
            request,
            key,
        } = *manifest;
        let context = proxy.context;
        let allows_stale =
            |error: &UpstreamError| classify_error(request.route, error).allows_stale();
        let first_attempt = context.stats.attempts.borrow().len();
        let mut remaining = proxy.candidates.clone();
        let mut failed: Option<(Upstream, UpstreamError)> = None;
        loop {
            let proxy_of_remaining = ProxyRequest {
                candidates: &remaining,
                ..*proxy
            };
            let upstream = upstreams.send(&proxy_of_remaining, request).await;
            let mut upstream = upstream.map_err(|error| match failed.take() {
                // As in `Upstreams::send`: it does not speak for one that the operator put before
                // it.
                Some((before, failure))
                    if !allows_stale(&error) && precedes_last_attempt(proxy, &before) =>
                {
                    failure
                }
                _ => error,
            })?;
            let proof = upstream.proof.take();
            let response = response::from_upstream(context, proxy.request, upstream);
            self.rate_limits.record(context, response.headers());
            let verified = self
                .cache
                .verify_and_store(context, key, response, proof)
                .await;
            let error = match verified {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let attempts = context.stats.attempts.borrow();
            let made = attempts.get(first_attempt..).unwrap_or_default();
            let untried = remaining.iter().filter(|one| !made.contains(one)).cloned();
            match (Candidates::new(untried), made.last()) {
                (Some(untried), Some(last)) if allows_stale(&error) => {
                    upstreams.health.mark_down(context, last, Scope::Registry);
                    failed = Some((last.clone(), error));
                    remaining = untried;
                }
                _ => return Err(error),
            }
        }
    }
}

/// Passes a request on that is not for the cache. The `HEAD` of a manifest that an upstream answers
/// without what clients need to know is asked again by `GET`, as it is where there is a cache.
pub async fn forward<P: Platform>(
    upstreams: &Upstreams<P>,
    proxy: &ProxyRequest<'_, P>,
    request: &UpstreamRequest<'_>,
) -> ManifestResponse<P> {
    let context = proxy.context;
    let is_head = request.method == Method::HEAD && request.route.is_manifest();
    match upstreams.send(proxy, request).await {
        Ok(upstream) => {
            let response = response::from_upstream(context, proxy.request, upstream);
            if !is_head || tells_all(&response) {
                return Ok(response);
            }
        }
        Err(error) if is_head && needs_get(&error, true) => {}
        Err(error) => return Err(error),
    }
    let get = UpstreamRequest {
        method: Method::GET,
        ..request.clone()
    };
    let as_get = RegistryRequest {
        head_only: false,
        ..proxy.request.clone()
    };
    let upstream = upstreams.send(proxy, &get).await?;
    let response = response::from_upstream(context, &as_get, upstream);
    let (mut head, body) = response.into_parts();
    if head.status == StatusCode::OK && !is_complete(&head.headers) {
        let body = match body {
            Body::Upstream(body) | Body::Teed(body, _) => {
                manifest_body::read(context, &head.headers, body).await?
            }
            Body::Buffered(body) => body,
        };
        complete(context, &mut head.headers, &body).await;
    }
    Ok(Response::from_parts(head, Body::empty()))
}

/// Whether the answer to the `HEAD` of a manifest tells all that a client needs to know.
fn tells_all<B>(response: &Response<B>) -> bool {
    response.status() != StatusCode::OK || is_complete(response.headers())
}

/// Whether the operator put `upstream` before the one that was asked last.
fn precedes_last_attempt<P: Platform>(proxy: &ProxyRequest<'_, P>, upstream: &Upstream) -> bool {
    let attempts = proxy.context.stats.attempts.borrow();
    let mut candidates = proxy.candidates.iter();
    candidates.find(|one| *one == upstream || Some(*one) == attempts.last()) == Some(upstream)
}
