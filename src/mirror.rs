//! The story of a request.

use crate::access::rate_limit::Counts;
use crate::access_log::Line;
use crate::cache::Store;
use crate::cache::single_flight::Flights;
use crate::cache::status::Hit;
use crate::config::{Config, Delivery, Mistake};
use crate::context::{Context, Cost};
use crate::manifest::cache::{self, Manifests, Wanted};
use crate::oci::digest::Digest;
use crate::page;
use crate::platform::Platform;
use crate::policy::Upstream;
use crate::registry::address::UpstreamSelector;
use crate::request::cdn_loop::CdnLoop;
use crate::request::external_url::ExternalUrl;
use crate::request::route::{InvalidRequest, RegistryRequest, Resource, Route};
use crate::response;
use crate::response::body::Body;
use crate::response::error::Refusal;
use crate::upstream::auth::{self, Auth};
use crate::upstream::blob;
use crate::upstream::exchange::{self, UpstreamError, UpstreamRequest, UpstreamResponse};
use crate::upstream::health::Health;
use http::{Method, Request, Response, StatusCode};
use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

/// A mirror and what it remembers between requests.
pub struct Mirror<P: Platform> {
    platform: P,
    store: Store<P>,
    auth: Auth<P>,
    counts: Counts<P>,
    health: Health<P>,
    manifests: Manifests<P>,
    /// Each brings the digest of what it answers with, if the upstream said one.
    fetches: Flights<P, Result<Option<Digest>, Refusal>>,
    config: RefCell<Option<Rc<Config>>>,
    reading: Flights<P, Result<Rc<Config>, Mistake>>,
}

/// What became known of a request while it was answered: for the log.
#[derive(Debug, Default)]
struct Known {
    asked: Option<RegistryRequest>,
    upstream: Option<Upstream>,
    /// Those that were asked, in this order.
    tried: RefCell<Vec<Upstream>>,
    cost: Cost,
}

/// What a request is for, and whom.
struct Errand<'a, P: Platform> {
    context: &'a Context<'a, P>,
    asked: &'a RegistryRequest,
    here: &'a ExternalUrl,
    /// In the operator's order.
    upstreams: &'a [Upstream],
    tried: &'a RefCell<Vec<Upstream>>,
}

/// What an upstream's answer is worth where there are others. In the order of what a client is told where none has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// It doesn't have it, or doesn't show it. Another mirror says so of what it has not fetched yet: that is no answer for
    /// an upstream which the operator put before it, and which could not be asked.
    No,
    /// Another one may have it.
    Elsewhere,
    /// Another one may have it, and this one had better be left alone for a while.
    Failed,
    Final,
}

impl Worth {
    fn of<B>(
        answer: &Result<UpstreamResponse<B>, UpstreamError>,
        route: &Route,
        is_usable: impl FnOnce(&UpstreamResponse<B>) -> bool,
    ) -> Worth {
        let is_of_referrers = matches!(route, Route::Repository(_, Resource::Referrers(_)));
        let answer = match answer {
            Ok(answer) => answer,
            Err(UpstreamError::Denied | UpstreamError::Token(auth::TokenError::Refused)) => {
                return Worth::No;
            }
            Err(failure) if !failure.is_of_upstream() => return Worth::Final,
            Err(failure) if failure.is_of_content() => return Worth::Elsewhere,
            Err(_) => return Worth::Failed,
        };
        match answer.response.status() {
            StatusCode::NOT_IMPLEMENTED => Worth::Elsewhere,
            StatusCode::TOO_MANY_REQUESTS => Worth::Failed,
            status if status.is_server_error() => Worth::Failed,
            // Without referrers clients look for the tag that stands for them, which this one has if it has the image.
            _ if is_of_referrers => Worth::Final,
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::GONE
            | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => Worth::No,
            _ if is_usable(answer) => Worth::Final,
            _ => Worth::Elsewhere,
        }
    }
}

impl<P: Platform> Errand<'_, P> {
    fn stands_before_last(&self, upstream: &Upstream) -> bool {
        let tried = self.tried.borrow();
        self.upstreams
            .iter()
            .find(|one| *one == upstream || Some(*one) == tried.last())
            == Some(upstream)
    }
}

impl<P: Platform> Mirror<P> {
    pub fn new(platform: P) -> Mirror<P> {
        let store = Store::new(platform.clone());
        Mirror {
            platform,
            store,
            auth: Auth::default(),
            counts: Counts::default(),
            health: Health::default(),
            manifests: Manifests::default(),
            fetches: Flights::default(),
            config: RefCell::default(),
            reading: Flights::default(),
        }
    }

    /// Answers a request, whatever it is.
    pub async fn handle(&self, request: Request<()>) -> Response<Body<P::Body>> {
        let begun = self.platform.now();
        let mut known = Known::default();
        let (response, refusal) = match self.answer(&request, &mut known).await {
            Ok(response) => (response, None),
            Err(refusal) => {
                let mut response = refusal
                    .clone()
                    .into_response(request.method() == Method::HEAD);
                let naming = known
                    .asked
                    .as_ref()
                    .map_or(&UpstreamSelector::Default, |asked| &asked.naming);
                response::seal(response.headers_mut(), naming);
                (response, Some(refusal))
            }
        };
        let tried = known.tried.take();
        let line = Line {
            method: request.method(),
            route: known.asked.as_ref().map(|asked| &asked.route),
            upstream: tried.last().or(known.upstream.as_ref()),
            status: response.status(),
            cost: &known.cost,
            took: self.platform.now().saturating_sub(begun),
            refusal: refusal.as_ref(),
        };
        self.platform.log(&line.write());
        response
    }

    async fn answer(
        &self,
        request: &Request<()>,
        known: &mut Known,
    ) -> Result<Response<Body<P::Body>>, Refusal> {
        // Who asks, and what.
        let config = self.config().await?;
        let (mount, path) = config
            .access
            .enter(request.uri().path())
            .ok_or(InvalidRequest::NotFound)?;
        let here = ExternalUrl::of(request, mount);
        let asked = known.asked.insert(RegistryRequest::parse(
            request.method(),
            path,
            request.uri().query(),
        )?);
        match asked.route {
            Route::Page => return Ok(page::manual(request.headers(), &here, asked.head_only)),
            Route::Robots => return Ok(page::robots(asked.head_only)),
            _ => {}
        }

        // May it be asked, and of whom.
        let named = match asked
            .naming
            .named()
            .map_err(|_| Refusal::malformed_upstream())?
        {
            Some(named) => Some(
                config
                    .policy
                    .permit_registry(&named)
                    .map_err(Refusal::forbidden_upstream)?,
            ),
            None if asked.naming == UpstreamSelector::Default
                && !config.host_upstreams.is_empty() =>
            {
                here.authority()
                    .and_then(|own| config.of_host(&own))
                    .cloned()
            }
            None => None,
        };
        let upstreams = named
            .as_ref()
            .map_or(config.upstreams.as_slice(), std::slice::from_ref);
        let first = upstreams.first().ok_or_else(Refusal::malformed_upstream)?;
        known.upstream = Some(first.clone());
        if let Cow::Owned(route) = asked.route.at(first.origin()) {
            asked.route = route;
        }
        let asked = &*asked;
        let permit = |upstream: &Upstream| match &*asked.route.at(upstream.origin()) {
            Route::Repository(name, _) => config.policy.permit_repository(
                upstream.origin(),
                config.upstreams.contains(upstream),
                name,
            ),
            Route::Catalog => config.policy.permit_catalog(),
            _ => Ok(()),
        };
        let upstreams: Vec<Upstream> = upstreams
            .iter()
            .filter(|upstream| permit(upstream).is_ok())
            .cloned()
            .collect();
        if upstreams.is_empty() {
            permit(first).map_err(Refusal::closed_repository)?;
        }
        let (hops, cost) = (CdnLoop::of(request.headers())?, &known.cost);
        let context = Context {
            platform: &self.platform,
            store: &self.store,
            config: &config,
            hops,
            cost,
        };
        self.counts
            .add(&context, request.headers())
            .await
            .map_err(Refusal::over_client_limit)?;

        // Is it known, or else ask upstream.
        let headers = exchange::request_headers(request.headers());
        let headers = headers.map_err(|failure| Refusal::of_failure(failure, &asked.route))?;
        let upstream_request = UpstreamRequest {
            method: request.method().clone(),
            route: &asked.route,
            query: &asked.query,
            headers,
        };
        let errand = Errand {
            context: &context,
            asked,
            here: &here,
            upstreams: &upstreams,
            tried: &known.tried,
        };
        let wanted = match &asked.route {
            Route::Repository(name, Resource::Manifest(reference))
                if config.manifest_cache && asked.query.is_empty() =>
            {
                Wanted::new(&upstreams, name, reference, &upstream_request.headers)
            }
            _ => None,
        };
        let mut response = match (&asked.route, wanted) {
            (Route::Ping, _)
                if matches!(
                    asked.naming,
                    UpstreamSelector::Default | UpstreamSelector::Namespace(_)
                ) =>
            {
                response::pong(asked.head_only)
            }
            (_, Some(wanted)) => self.manifest(&errand, upstream_request, &wanted).await?,
            (_, None) => response::pass_on(
                asked,
                self.ask(&errand, &upstream_request).await?,
                &here,
                &config.policy,
            )?,
        };

        // What comes back.
        response::seal(response.headers_mut(), &asked.naming);
        Ok(response)
    }

    /// A manifest: from the cache as far as it may answer, else from upstream, and from the cache all the same where the
    /// upstream fails.
    async fn manifest(
        &self,
        errand: &Errand<'_, P>,
        upstream_request: UpstreamRequest<'_>,
        wanted: &Wanted,
    ) -> Result<Response<Body<P::Body>>, Refusal> {
        let Errand {
            context,
            asked,
            upstreams,
            ..
        } = *errand;
        let copy = self.manifests.find(context, wanted).await;
        let from_copy = |hit: Hit| {
            let copy = copy.as_ref().filter(|copy| match hit {
                Hit::Fresh => copy.is_fresh(context),
                _ => copy.may_be_stale(context),
            });
            copy.and_then(|copy| copy.respond(context, asked.head_only, hit))
        };
        if let Some(response) = from_copy(Hit::Fresh) {
            return Ok(response);
        }
        if copy.is_some()
            && self.health.all_rest(context, upstreams).await
            && let Some(response) = from_copy(Hit::Stale)
        {
            return Ok(response);
        }
        let is_held = copy.as_ref().is_some_and(|copy| copy.has_content());
        match self.learn(errand, upstream_request, wanted, is_held).await {
            Err(refusal) if refusal.upstream_failed => from_copy(Hit::Stale).ok_or(refusal),
            Err(refusal) => {
                let is_gone = matches!(
                    refusal.status,
                    StatusCode::NOT_FOUND | StatusCode::FORBIDDEN
                );
                // HEAD proves nothing: see `learn`.
                if let Some(copy) = copy.as_ref().filter(|_| is_gone && !asked.head_only) {
                    self.manifests.forget(context, wanted, copy);
                }
                Err(refusal)
            }
            learned => learned,
        }
    }

    /// A manifest from upstream. What is known is looked at by `HEAD` first, which Docker Hub does not count.
    async fn learn(
        &self,
        errand: &Errand<'_, P>,
        upstream_request: UpstreamRequest<'_>,
        wanted: &Wanted,
        is_held: bool,
    ) -> Result<Response<Body<P::Body>>, Refusal> {
        let Errand {
            context,
            asked,
            here,
            ..
        } = *errand;
        if asked.head_only || is_held {
            let look = UpstreamRequest {
                method: Method::HEAD,
                ..upstream_request.clone()
            };
            // That it is gone, or not shown, a GET has to confirm before what is held is forgotten.
            let is_final = |status: StatusCode| {
                asked.head_only
                    || !status.is_client_error()
                    || status == StatusCode::TOO_MANY_REQUESTS
            };
            match self.ask(errand, &look).await {
                Ok(answer)
                    if !response::is_of_no_head(&answer.response)
                        && is_final(answer.response.status()) =>
                {
                    let seen = response::pass_on(asked, answer, here, &context.config.policy)?;
                    let confirmed = self
                        .manifests
                        .confirmed(context, wanted, seen.headers(), is_held)
                        .await;
                    if asked.head_only {
                        return Ok(seen);
                    }
                    if let Some(response) =
                        confirmed.and_then(|copy| copy.respond(context, false, Hit::Revalidated))
                    {
                        return Ok(response);
                    }
                }
                Err(refusal) if refusal.upstream_failed || is_final(refusal.status) => {
                    return Err(refusal);
                }
                _ => {}
            }
        }
        let asked = RegistryRequest {
            head_only: false,
            ..asked.clone()
        };
        let upstream_request = UpstreamRequest {
            method: Method::GET,
            ..upstream_request
        };
        let brought = self
            .bring(
                &Errand {
                    asked: &asked,
                    ..*errand
                },
                upstream_request,
                wanted,
            )
            .await?;
        Ok(if errand.asked.head_only {
            brought.map(|_| Body::Own(Vec::new()))
        } else {
            brought
        })
    }

    /// A manifest by a GET that all share who ask for the same meanwhile: Docker Hub counts each.
    async fn bring(
        &self,
        errand: &Errand<'_, P>,
        upstream_request: UpstreamRequest<'_>,
        wanted: &Wanted,
    ) -> Result<Response<Body<P::Body>>, Refusal> {
        let context = errand.context;
        // What came through another mirror may be what a GET of this one leads back to, and would wait for itself.
        if !context.hops.is_direct() {
            return self.fetch(errand, &upstream_request, wanted).await;
        }
        let own = RefCell::new(None);
        let fetch = async || {
            let fetched = self.fetch(errand, &upstream_request, wanted).await;
            let digest = |response: &Response<_>| cache::digest(response.headers());
            let outcome = fetched.as_ref().map(digest).map_err(Refusal::clone);
            own.replace(Some(fetched));
            outcome
        };
        let outcome = self
            .fetches
            .share(context.platform, &wanted.identity(), fetch)
            .await;
        if let Some(fetched) = own.take() {
            return fetched;
        }
        let brought = outcome?;
        let copy = self.manifests.find(context, wanted).await;
        // Where what was brought is not kept, what was held before is found.
        let copy = copy.filter(|copy| brought.as_ref() == Some(copy.digest()));
        match copy.and_then(|copy| copy.respond(context, false, Hit::Collapsed)) {
            Some(response) => Ok(response),
            None => self.fetch(errand, &upstream_request, wanted).await,
        }
    }

    /// A manifest from the first upstream that has it whole.
    async fn fetch(
        &self,
        errand: &Errand<'_, P>,
        upstream_request: &UpstreamRequest<'_>,
        wanted: &Wanted,
    ) -> Result<Response<Body<P::Body>>, Refusal> {
        let Errand {
            context,
            asked,
            here,
            tried,
            ..
        } = *errand;
        let mut left = errand.upstreams.to_vec();
        let looked_at = tried.borrow().len();
        let mut failed: Option<(Upstream, Refusal)> = None;
        loop {
            let answer = self
                .ask(
                    &Errand {
                        upstreams: &left,
                        ..*errand
                    },
                    upstream_request,
                )
                .await;
            let response = answer
                .and_then(|answer| response::pass_on(asked, answer, here, &context.config.policy));
            let response = response.map_err(|refusal| match failed.take() {
                // As in `ask`: it is no answer for one that stands before it.
                Some((before, failure))
                    if !refusal.upstream_failed && errand.stands_before_last(&before) =>
                {
                    failure
                }
                _ => refusal,
            })?;
            let taken = self
                .manifests
                .take_in(context, asked, wanted, response)
                .await;
            left.retain(|upstream| {
                !tried
                    .borrow()
                    .iter()
                    .skip(looked_at)
                    .any(|tried| tried == upstream)
            });
            match taken {
                // It is broken off, too large or another one: the next upstream may have it whole.
                Err(refusal) if refusal.upstream_failed && !left.is_empty() => {
                    if let Some(upstream) = tried.borrow().last() {
                        self.health.failed(context, upstream);
                        failed = Some((upstream.clone(), refusal));
                    }
                }
                taken => return taken,
            }
        }
    }

    /// Asks the upstreams one after the other, until one can help.
    async fn ask(
        &self,
        errand: &Errand<'_, P>,
        upstream_request: &UpstreamRequest<'_>,
    ) -> Result<UpstreamResponse<P::Body>, Refusal> {
        let Errand {
            context, upstreams, ..
        } = *errand;
        let order = self.health.order(context, upstreams).await;
        let mut refused = Vec::new();
        let mut best: Option<(Worth, Result<_, _>)> = None;
        for upstream in &order {
            errand.tried.borrow_mut().push(upstream.clone());
            let answer = match context.config.blob_delivery {
                Delivery::Stream if upstream_request.route.is_blob() => {
                    blob::stream(context, &self.auth, upstream, upstream_request).await
                }
                _ => exchange::ask(context, &self.auth, upstream, upstream_request).await,
            };
            let is_usable = |answer: &UpstreamResponse<_>| {
                order.len() == 1
                    || response::is_usable(
                        upstream_request.route,
                        answer,
                        errand.here,
                        &context.config.policy,
                    )
            };
            let worth = Worth::of(&answer, upstream_request.route, is_usable);
            let mut before = upstreams.iter().take_while(|before| *before != upstream);
            let is_last_word = match worth {
                Worth::Final => true,
                // A blob may be anywhere.
                Worth::No => {
                    !upstream_request.route.is_blob()
                        && before.all(|before| refused.contains(&before))
                }
                Worth::Elsewhere | Worth::Failed => false,
            };
            match worth {
                Worth::Failed => self.health.failed(context, upstream),
                Worth::No => refused.push(upstream),
                Worth::Elsewhere | Worth::Final => {}
            }
            let outcome =
                answer.map_err(|failure| Refusal::of_failure(failure, upstream_request.route));
            // Of several, the next page of a list is this one's to answer, whose cursor it has; but nobody is told the name of
            // what only the operator can open.
            let is_named = order.len() > 1 && !context.config.policy.is_listed(upstream.origin());
            let outcome = outcome.map(|answer| UpstreamResponse {
                redirected: answer.redirected || is_named,
                ..answer
            });
            if is_last_word {
                return outcome;
            }
            if best.as_ref().is_none_or(|(best, _)| worth >= *best) {
                best = Some((worth, outcome));
            }
        }
        best.map_or(Err(Refusal::malformed_upstream()), |(_, outcome)| outcome)
    }

    /// The operator's settings, read once in this instance. A mistake is read again, so that each request tells of it.
    async fn config(&self) -> Result<Rc<Config>, Refusal> {
        if let Some(config) = self.config.borrow().as_ref() {
            return Ok(config.clone());
        }
        let read = async || Config::read(&self.platform).await.map(Rc::new);
        let config = self.reading.share(&self.platform, "", read).await?;
        *self.config.borrow_mut() = Some(config.clone());
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
