//! Failover: the candidates are asked one after the other, until one has an answer.

use super::auth::Auth;
use super::error::UpstreamError;
use super::health::{Health, Scope};
use super::manifest_body::{self, UpstreamBody};
use super::outcome::{Verdict, classify, concerns_manifests, needs_get};
use super::redirect::takes_login_along;
use super::{RawResponse, UpstreamRequest, UpstreamResponse, accounts, blob};
use crate::config::BlobDelivery;
use crate::context::Context;
use crate::platform::Platform;
use crate::policy::candidates::Candidates;
use crate::policy::permitted::Upstream;
use crate::request::RegistryRequest;
use http::Method;

/// The upstreams, and what is remembered of them.
pub struct Upstreams<P: Platform> {
    auth: Auth<P>,
    pub health: Health<P>,
}

/// A client's request that is forwarded to the first candidate that can answer it.
pub struct ProxyRequest<'a, P: Platform> {
    pub context: &'a Context<'a, P>,
    pub request: &'a RegistryRequest,
    /// In the operator's order.
    pub candidates: &'a Candidates,
}

impl<P: Platform> Default for Upstreams<P> {
    fn default() -> Self {
        Upstreams {
            auth: Auth::default(),
            health: Health::default(),
        }
    }
}

/// The answer of one candidate.
struct Attempt<B> {
    answer: Result<UpstreamResponse<B>, UpstreamError>,
    verdict: Verdict,
    /// Whether it is the client's answer, and no other candidate is asked.
    is_final: bool,
}

impl<P: Platform> Upstreams<P> {
    /// Whether everybody may have what needs these proofs.
    pub async fn is_public<'a>(
        &self,
        context: &Context<'_, P>,
        proofs: impl Iterator<Item = &'a str>,
    ) -> bool {
        for key in proofs {
            if !self.auth.public_access.is_proven(context, key).await {
                return false;
            }
        }
        true
    }

    /// Asks the candidates until one has an answer. Where none has, the client gets the error that
    /// matters most, and of two that matter alike the last.
    pub async fn send(
        &self,
        proxy: &ProxyRequest<'_, P>,
        request: &UpstreamRequest<'_>,
    ) -> Result<UpstreamResponse<UpstreamBody<P::Body>>, UpstreamError> {
        let ordered = self
            .health
            .order(proxy.context, proxy.candidates, request.route)
            .await;
        let mut negative = Vec::new();
        let mut best = self
            .attempt(proxy, request, ordered.first(), &mut negative)
            .await;
        for upstream in ordered.iter().skip(1) {
            if best.is_final {
                break;
            }
            let attempt = self.attempt(proxy, request, upstream, &mut negative).await;
            if attempt.is_final || attempt.verdict >= best.verdict {
                best = attempt;
            }
        }
        best.answer
    }

    /// Asks one upstream for a blob, and follows its redirect to the bytes.
    pub async fn blob(
        &self,
        context: &Context<'_, P>,
        upstream: &Upstream,
        request: &UpstreamRequest<'_>,
    ) -> Result<RawResponse<P::Body>, UpstreamError> {
        blob::stream(context, &self.auth, upstream, request).await
    }

    async fn ask(
        &self,
        context: &Context<'_, P>,
        upstream: &Upstream,
        request: &UpstreamRequest<'_>,
    ) -> Result<UpstreamResponse<UpstreamBody<P::Body>>, UpstreamError> {
        let mut response = accounts::send(context, &self.auth, upstream, request).await?;
        let is_streamed = context.config.blob_delivery == BlobDelivery::Stream;
        if request.route.is_blob() && (is_streamed || takes_login_along(context, &response)) {
            response = blob::follow(context, &self.auth, upstream, request, response).await?;
        }
        let response = manifest_body::identify(context, request, response).await?;
        response.accept(context, request).await
    }

    /// Asks one candidate. `negative` are those that do not have what is asked for.
    async fn attempt(
        &self,
        proxy: &ProxyRequest<'_, P>,
        request: &UpstreamRequest<'_>,
        upstream: &Upstream,
        negative: &mut Vec<Upstream>,
    ) -> Attempt<UpstreamBody<P::Body>> {
        let context = proxy.context;
        context.stats.attempts.borrow_mut().push(upstream.clone());
        let mut answer = self.ask(context, upstream, request).await;
        // distribution has no `HEAD` of lists; a `HEAD` of a manifest has its own rules.
        if request.method == Method::HEAD
            && request.route.is_list()
            && answer.as_ref().is_err_and(|error| needs_get(error, true))
        {
            let get = UpstreamRequest {
                method: Method::GET,
                ..request.clone()
            };
            answer = self.ask(context, upstream, &get).await;
        }
        if let Ok(response) = &mut answer {
            // The name of a host that only the operator can open is not told to clients.
            let is_listed = context.config.policy.is_listed(upstream.origin());
            response.pins_next_page |= !proxy.candidates.is_single() && !is_listed;
        }
        let verdict = classify(request.route, &answer).verdict;
        let is_final = match verdict {
            Verdict::Final => true,
            // Any of the candidates may have a blob. For the rest, all that the operator put before
            // this one decide.
            Verdict::Negative => {
                let mut before = proxy.candidates.iter().take_while(|one| *one != upstream);
                !request.route.is_blob() && before.all(|one| negative.contains(one))
            }
            Verdict::TryNext | Verdict::Unavailable => false,
        };
        match verdict {
            Verdict::Unavailable => {
                let concerns_all = |error| concerns_manifests(request.route, error);
                let scope = if answer.as_ref().err().is_some_and(concerns_all) {
                    Scope::Registry
                } else {
                    Scope::Endpoint(request.route)
                };
                self.health.mark_down(context, upstream, scope);
            }
            Verdict::Negative => negative.push(upstream.clone()),
            Verdict::TryNext | Verdict::Final => {}
        }
        Attempt {
            answer,
            verdict,
            is_final,
        }
    }
}
