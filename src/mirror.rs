//! One request, from its first line to its log line: parse, choose the candidates, admit, answer.

use crate::access::rate_limit::RateLimiter;
use crate::access_log::{self, Line};
use crate::blob_redirect::BlobRedirects;
use crate::blob_store::BlobStore;
use crate::cache::single_flight::SingleFlight;
use crate::cache::store::Store;
use crate::config::{Config, ConfigError};
use crate::context::{Context, RequestStats};
use crate::manifest::entry::ManifestKey;
use crate::manifest::{self, Manifests};
use crate::page;
use crate::platform::Platform;
use crate::policy::candidates::Candidates;
use crate::policy::permitted::Upstream;
use crate::probe;
use crate::request::cdn_loop::CdnLoop;
use crate::request::external_url::ExternalUrl;
use crate::request::request_id::RequestId;
use crate::request::route::{Resource, Route};
use crate::request::{InvalidRequest, RegistryRequest};
use crate::response::body::Body;
use crate::response::error::RegistryError;
use crate::response::{self, cors, timing};
use crate::upstream::failover::{ProxyRequest, Upstreams};
use crate::upstream::{UpstreamRequest, error::UpstreamError};
use http::{Method, Request, Response};
use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

/// The mirror, with its caches and settings.
pub struct Mirror<P: Platform> {
    pub(crate) platform: P,
    store: Store<P>,
    rate_limiter: RateLimiter<P>,
    manifests: Manifests<P>,
    blob_redirects: BlobRedirects<P>,
    blob_store: Rc<BlobStore<P>>,
    upstreams: Rc<Upstreams<P>>,
    config: RefCell<Option<Rc<Config>>>,
    config_reads: SingleFlight<P, Result<Rc<Config>, ConfigError>>,
}

/// The data of a request for the access log, filled in while it is handled.
#[derive(Debug, Default)]
struct RequestRecord {
    request: Option<RegistryRequest>,
    /// The account that the client has logged in to.
    client: Option<String>,
    /// The first candidate.
    upstream: Option<Upstream>,
    /// Whether pages of other origins may read the answer.
    is_shared: bool,
    stats: RequestStats,
}

impl<P: Platform> Mirror<P> {
    pub fn new(platform: P) -> Mirror<P> {
        let blob_store: Rc<BlobStore<P>> = Rc::default();
        Mirror {
            store: Store::new(platform.clone()),
            platform,
            rate_limiter: RateLimiter::default(),
            manifests: Manifests::new(Rc::clone(&blob_store)),
            blob_redirects: BlobRedirects::default(),
            blob_store,
            upstreams: Rc::default(),
            config: RefCell::default(),
            config_reads: SingleFlight::default(),
        }
    }

    /// Answers a request and logs it. The head of the response is complete when this returns; the
    /// body may be an upstream's that has not been read.
    pub async fn handle(&self, request: Request<()>) -> Response<Body<P::Body>> {
        let start = self.platform.now();
        let mut record = RequestRecord::default();
        let (mut response, error) = match self.respond(&request, &mut record).await {
            Ok(response) => (response, None),
            Err(error) => {
                let head_only = request.method() == Method::HEAD;
                let parsed = record.request.as_ref();
                let response = response::from_error(error.clone(), parsed, head_only);
                (response, Some(error))
            }
        };
        let request_id = RequestId::echo(request.headers(), response.headers_mut());
        if record.is_shared {
            cors::allow(response.headers_mut());
        }
        let (config, stats) = (self.config.borrow(), &record.stats);
        let duration = self.platform.now().saturating_sub(start);
        timing::add_header(response.headers_mut(), config.as_deref(), stats, duration);
        let attempts = stats.attempts.take();
        let line = Line {
            method: request.method(),
            route: record.request.as_ref().map(|request| &request.route),
            client: record.client.as_deref(),
            upstream: attempts.last().or(record.upstream.as_ref()),
            status: response.status(),
            stats,
            duration,
            request_id: &request_id,
            error: error.as_ref(),
        };
        access_log::write(&line, &self.platform, config.as_deref());
        response
    }

    async fn respond(
        &self,
        request: &Request<()>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body<P::Body>>, RegistryError> {
        // Parse.
        let (path, query) = (request.uri().path(), request.uri().query());
        let store = &self.store.timed(&record.stats.store_time);
        let limiter = &self.rate_limiter;
        if let Some(probe) = RegistryRequest::probe(request.method(), path, query)? {
            let probe = &*record.request.insert(probe);
            let health = &self.upstreams.health;
            return probe::respond(probe, request, store, health, || self.config()).await;
        }
        let config = self.config().await?;
        let (access, headers) = (&config.access, request.headers());
        let mut entrance = access.enter(path, headers)?;
        let external_url = ExternalUrl::from_request(request, entrance.path_prefix);
        record.is_shared = cors::is_shared(access, headers);
        let is_preflight = record.is_shared && request.method() == Method::OPTIONS;
        let method = Some(request.method()).filter(|_| !is_preflight);
        let parsed = RegistryRequest::parse(method.unwrap_or(&Method::GET), entrance.path, query);
        if parsed.as_ref().is_ok_and(|parsed| parsed.route.is_page()) {
            entrance.open_page();
        }
        limiter.check_login(store, &entrance).await?;
        record.client = entrance.client().map(str::to_owned);
        let parsed = record.request.insert(parsed?);
        record.is_shared &= parsed.route.is_registry();
        match (is_preflight, record.is_shared) {
            (true, true) => return Ok(cors::preflight()),
            (true, false) => return Err(InvalidRequest::Method.into()),
            _ => {}
        }
        if let Some(page) = page::respond(&config, parsed, headers, &external_url)? {
            return Ok(page);
        }

        // Choose the candidates, and admit the client.
        let registry = parsed.selector.registry()?;
        let named = config
            .named_upstream(&parsed.selector, registry.as_ref(), &external_url)
            .map_err(RegistryError::upstream_not_allowed)?;
        let candidates = named.map_or(Cow::Borrowed(&config.upstreams), |upstream| {
            Cow::Owned(Candidates::one(upstream))
        });
        let first = candidates.first();
        record.upstream = Some(first.clone());
        if let Cow::Owned(route) = parsed.route.at(first.origin()) {
            parsed.route = route;
        }
        let parsed = &*parsed;
        let candidates = candidates
            .permitted(&config.policy, &parsed.route)
            .map_err(RegistryError::repository_not_allowed)?;
        let context = Context {
            platform: &self.platform,
            store,
            config: &config,
            cdn_loop: CdnLoop::from_headers(headers)?,
            external_url: &external_url,
            stats: &record.stats,
        };
        limiter.check(store, &entrance).await?;

        // Answer.
        let proxy = ProxyRequest {
            context: &context,
            request: parsed,
            candidates: &candidates,
        };
        let registry = page::Registry {
            manifests: &self.manifests,
            upstreams: &self.upstreams,
        };
        let mut response = match Box::pin(page::respond_with_upstreams(&registry, &proxy)).await {
            Some(answer) => answer?,
            None => {
                let error = |error| RegistryError::from_upstream(&parsed.route, &error);
                let answer = self.answer(&proxy, request).await.map_err(error)?;
                let is_private = config.answers_are_private();
                response::caching::add_headers(answer, parsed, headers, is_private)
            }
        };
        response::add_standard_headers(response.headers_mut(), &parsed.selector);
        Ok(response)
    }

    async fn answer(
        &self,
        proxy: &ProxyRequest<'_, P>,
        request: &Request<()>,
    ) -> Result<Response<Body<P::Body>>, UpstreamError> {
        let (config, parsed) = (proxy.context.config, proxy.request);
        let mut upstream_request = UpstreamRequest::new(parsed, request.headers())?;
        let manifest_key = match &parsed.route {
            Route::Ping if parsed.selector.is_answered_here() => {
                return Ok(response::ping_response(parsed.head_only));
            }
            Route::Repository(name, Resource::Manifest(reference))
                if config.manifest_cache && parsed.query.is_empty() =>
            {
                response::caching::take_condition(&mut upstream_request.headers);
                let headers = &upstream_request.headers;
                ManifestKey::new(config, proxy.candidates, name, reference, headers)
            }
            _ => None,
        };
        // On the heap: a WASIp2 instance has its stack cleared for each request, so it is small.
        match manifest_key {
            Some(key) => {
                let (manifests, upstreams) = (&self.manifests, &self.upstreams);
                Box::pin(manifests.serve(upstreams, proxy, &upstream_request, &key)).await
            }
            None if parsed.route.is_blob() => {
                let (kept, redirects) = (&self.blob_store, &self.blob_redirects);
                let (upstreams, asked) = (&self.upstreams, &upstream_request);
                let forward = redirects.serve(upstreams, proxy, asked, request.headers());
                Box::pin(kept.serve(upstreams, proxy, asked, forward)).await
            }
            None => Box::pin(manifest::forward(&self.upstreams, proxy, &upstream_request)).await,
        }
    }

    /// Returns the settings. An instance reads them once; where one is wrong they are read again
    /// for each request, so that each tells of it.
    async fn config(&self) -> Result<Rc<Config>, ConfigError> {
        if let Some(config) = self.config.borrow().as_ref() {
            return Ok(config.clone());
        }
        let read = async || Config::read(&self.platform).await.map(Rc::new);
        let config = self.config_reads.run(&self.platform, "", read).await?;
        self.store.set_up(config.store, config.log_format);
        *self.config.borrow_mut() = Some(config.clone());
        Ok(config)
    }
}
