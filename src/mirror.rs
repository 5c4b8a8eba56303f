//! The story of a request.

use crate::access::{self, Counts};
use crate::address::Address;
use crate::auth::Auth;
use crate::cache::Store;
use crate::config::Config;
use crate::context::{Context, Cost};
use crate::forward::{self, Question};
use crate::log::Line;
use crate::page;
use crate::platform::Platform;
use crate::refusal::Refusal;
use crate::reply::{self, Body};
use crate::route::{Asked, Refused, Route};
use crate::upstream::{Naming, Upstream};
use http::{Method, Request, Response};
use std::cell::RefCell;
use std::rc::Rc;

/// A mirror and what it remembers between requests.
pub struct Mirror<P: Platform> {
    platform: P,
    store: Store<P>,
    auth: Auth<P>,
    counts: Counts,
    config: RefCell<Option<Rc<Config>>>,
}

/// What became known of a request while it was answered: for the log.
#[derive(Debug, Default)]
struct Known {
    route: Option<Route>,
    upstream: Option<Upstream>,
}

impl<P: Platform> Mirror<P> {
    pub fn new(platform: P) -> Mirror<P> {
        let store = Store::new(platform.clone());
        Mirror { platform, store, auth: Auth::default(), counts: Counts::default(), config: RefCell::default() }
    }

    /// Answers a request, whatever it is.
    pub async fn handle(&self, request: Request<()>) -> Response<Body<P::Body>> {
        let begun = self.platform.now();
        let cost = Cost::default();
        let mut known = Known::default();
        let (response, refusal) = match self.answer(&request, &cost, &mut known).await {
            Ok(response) => (response, None),
            Err(refusal) => {
                let mut response = refusal.clone().into_response(request.method() == Method::HEAD);
                reply::seal(response.headers_mut(), &Naming::Default);
                (response, Some(refusal))
            }
        };
        let line = Line {
            method: request.method(),
            route: known.route.as_ref(),
            upstream: known.upstream.as_ref(),
            status: response.status(),
            cost: &cost,
            took: self.platform.now().saturating_sub(begun),
            refusal: refusal.as_ref(),
        };
        let (platform, line) = (self.platform.clone(), line.write());
        self.platform.defer(async move { platform.log(&line) });
        response
    }

    async fn answer(
        &self,
        request: &Request<()>,
        cost: &Cost,
        known: &mut Known,
    ) -> Result<Response<Body<P::Body>>, Refusal> {
        // Who asks, and what.
        let config = self.config().await?;
        let (mount, path) = config.access.enter(request.uri().path()).ok_or(Refused::Nothing)?;
        let here = Address::of(request, mount);
        let mut asked = Asked::parse(request.method(), path, request.uri().query())?;
        known.route = Some(asked.route.clone());
        match asked.route {
            Route::Page => return Ok(page::manual(request.headers(), &here, asked.head_only)),
            Route::Robots => return Ok(page::robots(asked.head_only)),
            _ => {}
        }

        // May it be asked.
        let upstream = match asked.naming.named().map_err(|_| Refusal::malformed_upstream())? {
            Some(named) => named.permit(&config.policy).map_err(Refusal::forbidden_upstream)?,
            None => config.upstream.clone(),
        };
        known.upstream = Some(upstream.clone());
        if upstream.is_docker_hub() {
            asked.route = asked.route.on_docker_hub();
            known.route = Some(asked.route.clone());
        }
        if let Route::Repository(name, _) = &asked.route {
            let permitted = config.policy.permit_repository(upstream.origin(), upstream == config.upstream, name);
            permitted.map_err(Refusal::closed_repository)?;
        }

        // Is it known.
        if asked.route == Route::Ping && matches!(asked.naming, Naming::Default | Naming::Namespace(_)) {
            let mut response = reply::pong(asked.head_only);
            reply::seal(response.headers_mut(), &asked.naming);
            return Ok(response);
        }

        // Ask upstream.
        let context = Context { platform: &self.platform, store: &self.store, config: &config, cost };
        if let Some(client) = access::client(request.headers(), config.access.trusted_proxies) {
            self.counts.add(&context, client).await.map_err(Refusal::over_client_limit)?;
        }
        let question = Question {
            upstream,
            method: request.method().clone(),
            route: &asked.route,
            query: &asked.query,
            headers: forward::request_headers(request.headers())
                .map_err(|failure| Refusal::of_failure(failure, &asked.route))?,
        };
        let answer = forward::ask(&context, &self.auth, &question).await;
        let answer = answer.map_err(|failure| Refusal::of_failure(failure, &asked.route))?;

        // What comes back.
        let mut response = reply::pass_on(&asked, answer, &here)?;
        reply::seal(response.headers_mut(), &asked.naming);
        Ok(response)
    }

    /// The operator's settings, read once in this instance. A mistake is read again, so that each request tells of it.
    async fn config(&self) -> Result<Rc<Config>, Refusal> {
        if let Some(config) = self.config.borrow().as_ref() {
            return Ok(config.clone());
        }
        let config = Rc::new(Config::read(&self.platform).await?);
        *self.config.borrow_mut() = Some(config.clone());
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
