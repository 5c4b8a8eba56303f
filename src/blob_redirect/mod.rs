//! Redirects of blobs to delivery networks: remembered for as long as their URLs are signed, so
//! that the clients that pull an image at the same time cost its upstream one request for each
//! blob.

pub mod entry;

use self::entry::{BLOB_REDIRECTS, NOT_KEPT, RedirectEntry, RedirectKey};
use crate::cache::Cache;
use crate::cache::single_flight::{Collapsed, SingleFlight};
use crate::cache::status::{CACHE_STATUS, CacheStatus};
use crate::config::BlobDelivery;
use crate::platform::Platform;
use crate::response;
use crate::response::body::Body;
use crate::upstream::UpstreamRequest;
use crate::upstream::error::UpstreamError;
use crate::upstream::failover::{ProxyRequest, Upstreams};
use crate::upstream::outcome::{Verdict, classify_error};
use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use std::rc::Rc;

type BlobResponse<P> = Result<Response<Body<<P as Platform>::Body>>, UpstreamError>;

/// The redirects of blobs that this mirror knows.
pub struct BlobRedirects<P: Platform> {
    cache: Cache<P, RedirectEntry>,
    fetches: SingleFlight<P, Result<Option<Rc<RedirectEntry>>, UpstreamError>>,
}

impl<P: Platform> Default for BlobRedirects<P> {
    fn default() -> Self {
        BlobRedirects {
            cache: Cache::new("b", BLOB_REDIRECTS),
            fetches: SingleFlight::default(),
        }
    }
}

impl<P: Platform> BlobRedirects<P> {
    /// Serves a blob: by a redirect that is known, or as an upstream does. Where the mirror streams
    /// blobs, no redirect is looked for or kept. `client_headers` are all of the client's.
    pub async fn serve(
        &self,
        upstreams: &Upstreams<P>,
        proxy: &ProxyRequest<'_, P>,
        request: &UpstreamRequest<'_>,
        client_headers: &HeaderMap,
    ) -> BlobResponse<P> {
        let context = proxy.context;
        let is_redirected = context.config.blob_delivery == BlobDelivery::Redirect;
        let key = is_redirected.then(|| RedirectKey::new(proxy, request, client_headers));
        let Some(key) = key.flatten() else {
            let upstream = upstreams.send(proxy, request).await?;
            return Ok(response::from_upstream(context, proxy.request, upstream));
        };
        let now = context.platform.now();
        let known = match self.cache.get_memory(&key.text, now) {
            Some(entry) => Some(entry),
            None => {
                let is_usable = |entry: &RedirectEntry| entry.location(proxy).is_some();
                let stored = self.cache.get_store_if(context.store, &key.text, is_usable);
                stored.await
            }
        };
        if known.as_ref().is_some_and(|entry| entry.is_empty()) {
            return Ok(self.fetch(upstreams, proxy, request, &key).await?.0);
        }
        let known = known.and_then(|entry| Some((entry.location(proxy)?, entry)));
        if let Some((location, entry)) = &known
            && !entry.is_reported(&key, now)
            && upstreams.is_public(context, entry.proof()).await
        {
            self.record_client(proxy, &key, entry);
            return Ok(respond(proxy, location.clone(), CacheStatus::Hit));
        }
        let error = match self.fetch_collapsed(upstreams, proxy, request, &key).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        match (classify_error(request.route, &error).verdict, known) {
            (Verdict::Negative, Some(_)) => self.cache.remove(context.store, &key.text),
            (Verdict::TryNext | Verdict::Unavailable, Some((location, entry)))
                if upstreams.is_public(context, entry.proof()).await =>
            {
                return Ok(respond(proxy, location, CacheStatus::StaleIfError));
            }
            _ => {}
        }
        Err(error)
    }

    /// Remembers that a client was sent to a URL, to know it again if it comes back. The store is
    /// told of it as rarely as [`RedirectEntry::with_client`] says.
    fn record_client(&self, proxy: &ProxyRequest<'_, P>, key: &RedirectKey, entry: &RedirectEntry) {
        let (store, now) = (proxy.context.store, proxy.context.platform.now());
        let Some(entry) = entry.with_client(key, now) else {
            return;
        };
        let ttl = entry.ttl(now);
        if entry.is_persisted(now) {
            self.cache.put_memory(&key.text, entry, now, ttl, key.owner);
        } else {
            let entry = entry.persisted(now);
            self.cache.put(store, &key.text, entry, ttl, key.owner);
        }
    }

    /// Asks the upstreams by one request for all who ask for the same blob at the same time.
    async fn fetch_collapsed(
        &self,
        upstreams: &Upstreams<P>,
        proxy: &ProxyRequest<'_, P>,
        request: &UpstreamRequest<'_>,
        key: &RedirectKey,
    ) -> BlobResponse<P> {
        let context = proxy.context;
        // As for manifests: a request that came through another mirror would wait for itself.
        if !context.cdn_loop.is_direct() {
            return Ok(self.fetch(upstreams, proxy, request, key).await?.0);
        }
        let fetch = async || self.fetch(upstreams, proxy, request, key).await;
        let share = |fetched: &Result<(_, Option<_>), UpstreamError>| match fetched {
            Ok((_, entry)) => Ok(entry.clone()),
            Err(error) => Err(error.clone()),
        };
        let collapsed = self
            .fetches
            .collapse(context.platform, &key.text, fetch, share);
        let entry = match collapsed.await {
            Collapsed::Own(fetched) => return Ok(fetched?.0),
            Collapsed::Shared(Ok(entry)) => entry,
            // It may be about the other client's range.
            Collapsed::Shared(Err(error))
                if classify_error(request.route, &error).verdict == Verdict::Final =>
            {
                None
            }
            Collapsed::Shared(Err(error)) => return Err(error),
        };
        match entry.and_then(|entry| entry.location(proxy)) {
            Some(location) => Ok(respond(proxy, location, CacheStatus::Collapsed)),
            // The blob itself, or a URL that may be good for one client only.
            None => Ok(self.fetch(upstreams, proxy, request, key).await?.0),
        }
    }

    /// Asks the upstreams, and remembers a redirect whose URL says how long it is good.
    async fn fetch(
        &self,
        upstreams: &Upstreams<P>,
        proxy: &ProxyRequest<'_, P>,
        request: &UpstreamRequest<'_>,
        key: &RedirectKey,
    ) -> Result<(Response<Body<P::Body>>, Option<Rc<RedirectEntry>>), UpstreamError> {
        let context = proxy.context;
        let mut upstream = upstreams.send(proxy, request).await?;
        let (now, proof) = (context.platform.now(), upstream.proof.take());
        let location = upstream.headers.get(LOCATION);
        let is_redirect = location.is_some();
        let entry = location
            .zip(upstream.redirect_ends)
            .and_then(|(location, end)| RedirectEntry::new(key, location, end, now, proof))
            .map(Rc::new);
        let mut response = response::from_upstream(context, proxy.request, upstream);
        if is_redirect {
            let miss = CacheStatus::Miss.header();
            response.headers_mut().insert(CACHE_STATUS, miss);
        }
        match &entry {
            Some(entry) => {
                let (entry, ttl) = (Rc::clone(entry), entry.ttl(now));
                self.cache
                    .put(context.store, &key.text, entry, ttl, key.owner);
            }
            None => {
                let before = self.cache.get_memory(&key.text, now);
                if before.is_some_and(|entry| !entry.is_empty()) {
                    self.cache.remove(context.store, &key.text);
                }
                let (entry, owner) = (RedirectEntry::default(), key.owner);
                self.cache
                    .put_memory(&key.text, entry, now, NOT_KEPT, owner);
            }
        }
        Ok((response, entry))
    }
}

/// Makes the response of a redirect that is known. It is a temporary one, whatever the upstream
/// called it.
fn respond<P: Platform>(
    proxy: &ProxyRequest<'_, P>,
    location: HeaderValue,
    status: CacheStatus,
) -> Response<Body<P::Body>> {
    let mut response = Body::respond(StatusCode::TEMPORARY_REDIRECT, Vec::new(), false);
    let headers = response.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(CACHE_STATUS, status.header());
    proxy.context.stats.cache_status.set(Some(status));
    response
}
