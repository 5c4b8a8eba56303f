//! Blobs in an object store near the clients, spoken to in S3's protocol: a blob that was served
//! once is copied there, and clients are sent there for it from then on. What is kept for whom is
//! decided by the names of objects: see [`object`].
//!
//! The store is believed as little as an upstream: it checks by the signed hash what it takes in
//! ([`client`]), and clients check what they get by its digest. It costs speed only: one that fails
//! is left alone for a while.

mod client;
mod copy;
mod entries;
mod fault;
mod ledger;
pub mod object;
mod sigv4;
mod tee;

use self::client::Client;
use self::copy::{Copies, CopyGuard, Job};
use self::fault::Fault;
use self::object::BlobObject;
use crate::cache::Cache;
use crate::cache::bucket::{BucketLayout, Owner};
use crate::cache::status::{CACHE_STATUS, CacheStatus};
use crate::config::BlobDelivery;
use crate::context::Context;
use crate::platform::Platform;
use crate::platform::log_line::LogLine;
use crate::policy::permitted::Upstream;
use crate::request::route::{Resource, Route};
use crate::response::body::Body;
use crate::upstream::auth::public_access::proof_key;
use crate::upstream::error::UpstreamError;
use crate::upstream::failover::{ProxyRequest, Upstreams};
use crate::upstream::{CONTENT_DIGEST, UpstreamRequest, redirect};
use futures_util::future::join_all;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// How long the store is believed to have an object after it said so. Whoever is sent to one that
/// was deleted meanwhile fails for as long; a look for each download would double its requests.
const PRESENCE: Duration = Duration::from_secs(60);
/// How long a store is left alone after it failed.
const COOLDOWN: Duration = Duration::from_secs(20);
/// How long an instance relies on the key-value store's word that the blob store works.
const RECHECK: Duration = Duration::from_secs(60);
/// The most objects whose presence an instance remembers: no more are asked of most instances.
const MAX_PRESENT: usize = 256;
const FAULTS: BucketLayout = BucketLayout {
    buckets: 1,
    entries: 1,
};

type BlobResponse<P> = Response<Body<<P as Platform>::Body>>;

/// What an instance knows of the blob store.
pub struct BlobStore<P: Platform> {
    /// In memory alone: a look at the store costs no more than one at the key-value store.
    present: RefCell<Vec<Present>>,
    /// Whether the store failed lately.
    failed: Cache<P, bool>,
    copies: RefCell<Copies>,
}

/// An object that the store said it has.
struct Present {
    object: String,
    length: u64,
    until: Duration,
}

/// A blob that is asked for, as one upstream has it.
struct Candidate<'a> {
    upstream: &'a Upstream,
    route: Route,
    object: BlobObject,
    /// Where the operator has an account at the upstream: the key of the proof that everybody may
    /// read the repository. Without it the upstream is asked, even for what was kept.
    proof: Option<String>,
}

impl<P: Platform> Default for BlobStore<P> {
    fn default() -> Self {
        BlobStore {
            present: RefCell::default(),
            failed: Cache::new("f", FAULTS),
            copies: RefCell::default(),
        }
    }
}

impl<P: Platform> BlobStore<P> {
    /// Serves a blob from the store, or by `forward`; then it is copied into the store.
    pub async fn serve(
        self: &Rc<Self>,
        upstreams: &Rc<Upstreams<P>>,
        proxy: &ProxyRequest<'_, P>,
        request: &UpstreamRequest<'_>,
        forward: impl Future<Output = Result<BlobResponse<P>, UpstreamError>>,
    ) -> Result<BlobResponse<P>, UpstreamError> {
        let context = proxy.context;
        let candidates = kept_candidates(proxy, request);
        // All at once: a blob that is not kept waits for one round trip to the store.
        let lengths = candidates.iter().map(async |candidate| {
            let proof = candidate.proof.as_deref().into_iter();
            if !upstreams.is_public(context, proof).await {
                return None;
            }
            self.length(context, &candidate.object.name).await
        });
        for (candidate, length) in candidates.iter().zip(join_all(lengths).await) {
            let Some(length) = length else { continue };
            let object = candidate.object.name.as_str();
            if let Some(response) = self.get(context, object, length, request).await {
                return Ok(response);
            }
        }
        let response = forward.await?;
        if request.method != Method::GET || request.headers.contains_key(RANGE) {
            return Ok(response);
        }
        Ok(self.keep(upstreams, proxy, candidates, response))
    }

    /// Makes the response of an object that the store has.
    async fn get(
        &self,
        context: &Context<'_, P>,
        object: &str,
        length: u64,
        request: &UpstreamRequest<'_>,
    ) -> Option<BlobResponse<P>> {
        let client = Client::new(context)?;
        let mut response = self
            .respond(context, &client, object, length, request)
            .await?;
        let headers = response.headers_mut();
        headers.insert(CACHE_STATUS, CacheStatus::Hit.header());
        let digest = request.route.digest()?.as_str();
        headers.insert(CONTENT_DIGEST, HeaderValue::from_str(digest).ok()?);
        context.stats.cache_status.set(Some(CacheStatus::Hit));
        Some(response)
    }

    /// Returns the length of an object that the store has.
    async fn length(&self, context: &Context<'_, P>, object: &str) -> Option<u64> {
        let client = Client::new(context)?;
        if self.is_down(context).await {
            return None;
        }
        let now = context.platform.now();
        let is_this = |one: &&Present| one.object == object && now < one.until;
        if let Some(present) = self.present.borrow().iter().find(is_this) {
            return Some(present.length);
        }
        match client.head(object).await {
            Ok(length) => {
                self.remember(object, length?, context.platform.now());
                length
            }
            Err(fault) => {
                // The answer to a `HEAD` has no words: the store is asked for them.
                let told = match fault {
                    Fault::Status { .. } => client.get(object, None, None).await.err(),
                    _ => None,
                };
                self.failed(context, "head", &told.unwrap_or(fault));
                None
            }
        }
    }

    /// Makes the response of an object that the store has; `None` where it does not have it after
    /// all.
    async fn respond(
        &self,
        context: &Context<'_, P>,
        client: &Client<'_, P>,
        object: &str,
        length: u64,
        request: &UpstreamRequest<'_>,
    ) -> Option<BlobResponse<P>> {
        if request.method == Method::HEAD {
            let mut response = Body::respond(StatusCode::OK, Vec::new(), true);
            describe(response.headers_mut());
            let length = HeaderValue::from(length);
            response.headers_mut().insert(CONTENT_LENGTH, length);
            return Some(response);
        }
        let host = || Some(client.config.client_host().clone());
        if context.config.blob_delivery == BlobDelivery::Redirect
            && !redirect::host_gets_login(context, host)
        {
            let mut response = Body::respond(StatusCode::TEMPORARY_REDIRECT, Vec::new(), false);
            let location = HeaderValue::try_from(client.client_url(object)).ok()?;
            response.headers_mut().insert(LOCATION, location);
            return Some(response);
        }
        let range = request.headers.get(RANGE);
        self.stream(context, client, object, range).await
    }

    /// Streams an object, or a range of it.
    async fn stream(
        &self,
        context: &Context<'_, P>,
        client: &Client<'_, P>,
        object: &str,
        range: Option<&HeaderValue>,
    ) -> Option<BlobResponse<P>> {
        let between_bytes = Some(context.config.timeouts.between_bytes);
        let (head, body) = match client.get(object, range, between_bytes).await {
            Ok(Some(response)) => response.into_parts(),
            Ok(None) => {
                self.forget(object);
                return None;
            }
            // It may be the client's range that the store refuses.
            Err(Fault::Status { .. }) if range.is_some() => return None,
            Err(fault) => {
                self.failed(context, "get", &fault);
                return None;
            }
        };
        let mut headers = HeaderMap::with_capacity(10);
        for name in [CONTENT_LENGTH, CONTENT_RANGE] {
            if let Some(value) = head.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        describe(&mut headers);
        let mut response = Response::new(Body::Upstream(body));
        // rclone answers a range with 200 too.
        if headers.contains_key(CONTENT_RANGE) {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        *response.headers_mut() = headers;
        Some(response)
    }

    /// Keeps the blob that an upstream has just served: one that goes through this mirror as it
    /// goes, else by a copy afterwards.
    fn keep(
        self: &Rc<Self>,
        upstreams: &Rc<Upstreams<P>>,
        proxy: &ProxyRequest<'_, P>,
        candidates: Vec<Candidate<'_>>,
        response: BlobResponse<P>,
    ) -> BlobResponse<P> {
        let headers = response.headers();
        let location = match response.status() {
            StatusCode::OK => None,
            status if redirect::is_redirect(status) => redirect::location(headers),
            _ => return response,
        };
        let context = proxy.context;
        if self.is_known_down(context) {
            return response;
        }
        // Nobody was asked where the redirect was remembered: of one upstream, whose it is, is clear.
        let only = proxy
            .candidates
            .is_single()
            .then(|| proxy.candidates.first());
        let attempts = context.stats.attempts.borrow();
        let server = attempts.last().or(only);
        let served = candidates
            .into_iter()
            .find(|candidate| Some(candidate.upstream) == server);
        let Some(served) = served else {
            return response;
        };
        let Some(guard) = CopyGuard::new(self, &served.object.name) else {
            return response;
        };
        let job = Job {
            context: context.to_owned(),
            upstreams: Rc::clone(upstreams),
            upstream: served.upstream.clone(),
            route: served.route,
            object: served.object,
            location: location.map(str::to_owned),
        };
        tee::keep(guard, job, response)
    }

    /// Remembers that the store has an object.
    fn remember(&self, object: &str, length: u64, now: Duration) {
        let mut present = self.present.borrow_mut();
        present.retain(|one| one.object != object && now < one.until);
        if present.len() < MAX_PRESENT {
            present.push(Present {
                object: object.to_owned(),
                length,
                until: now.saturating_add(PRESENCE),
            });
        }
    }

    fn forget(&self, object: &str) {
        let mut present = self.present.borrow_mut();
        present.retain(|one| one.object != object);
    }

    /// Whether the store failed lately.
    async fn is_down(&self, context: &Context<'_, P>) -> bool {
        match self.failed.get(context.store, "").await {
            Some(is_down) => *is_down,
            None => {
                let now = context.platform.now();
                self.failed
                    .put_memory("", false, now, RECHECK, Owner::Operator);
                false
            }
        }
    }

    /// Whether this instance knows so.
    fn is_known_down(&self, context: &Context<'_, P>) -> bool {
        let now = context.platform.now();
        self.failed.get_memory("", now).as_deref() == Some(&true)
    }

    /// Leaves the store alone for a while, and tells the log once.
    fn failed(&self, context: &Context<'_, P>, operation: &str, fault: &Fault) {
        let is_known = self.is_known_down(context);
        self.failed
            .put(context.store, "", true, COOLDOWN, Owner::Operator);
        if !is_known {
            let mut line = LogLine::new(context.config.log_format);
            line.word("blob_store", "failed");
            line.word("operation", operation);
            fault.add_to(&mut line);
            context.platform.log(&line.finish());
        }
    }
}

/// Returns the blob that is asked for as each of the upstreams has it whose content is kept. Object
/// stores send one range at a time.
fn kept_candidates<'a, P: Platform>(
    proxy: &ProxyRequest<'a, P>,
    request: &UpstreamRequest<'_>,
) -> Vec<Candidate<'a>> {
    let config = proxy.context.config;
    let Route::Repository(_, Resource::Blob(digest)) = request.route else {
        return Vec::new();
    };
    let range = request.headers.get(RANGE);
    if config.blob_store.is_none() || !range.is_none_or(is_one_range) {
        return Vec::new();
    }
    let kept = proxy.candidates.iter().filter_map(|upstream| {
        let route = request.route.at(upstream.origin()).into_owned();
        let name = route.name().filter(|name| config.keeps(upstream, name))?;
        let object = BlobObject::new(upstream, name, digest)?;
        let has_account = config.accounts.has_any_at(upstream.origin());
        let proof = has_account.then(|| proof_key(upstream, name));
        Some(Candidate {
            upstream,
            route,
            object,
            proof,
        })
    });
    kept.collect()
}

/// Whether a `Range` is one of bytes (RFC 9110, section 14.1.2), with numbers that a blob can have:
/// what else a client sends is not for the store to judge.
fn is_one_range(range: &HeaderValue) -> bool {
    let ends = range.to_str().ok().and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some([first, last])
    });
    let is_number = |end: &str| end.len() <= 15 && end.bytes().all(|byte| byte.is_ascii_digit());
    ends.is_some_and(|ends| ends != ["", ""] && ends.into_iter().all(is_number))
}

/// Adds what is so of every kept blob.
fn describe(headers: &mut HeaderMap) {
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, octets);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_asked_for_one_range_of_bytes_with_numbers_that_a_blob_can_have() {
        for (range, expected) in [
            ("bytes=0-0", true),
            ("bytes=5-", true),
            ("bytes=-5", true),
            ("bytes=0-5368709119", true),
            ("bytes=-", false),
            ("bytes=0-1,3-4", false),
            ("bytes=0", false),
            ("bytes=a-b", false),
            ("bytes=0-0000000000000005", false),
            ("items=0-1", false),
            ("bytes= 0-1", false),
            ("", false),
        ] {
            let value = HeaderValue::from_static(range);
            assert_eq!(is_one_range(&value), expected, "{range:?}");
        }
    }
}
