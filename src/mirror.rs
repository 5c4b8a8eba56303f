//! The story of a request.

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
use crate::route::{Asked, Route};
use crate::upstream::{Naming, Upstream};
use http::{Method, Request, Response};
use std::cell::RefCell;
use std::rc::Rc;

/// A mirror and what it remembers between requests.
pub struct Mirror<P: Platform> {
    platform: P,
    store: Store<P>,
    auth: Auth<P>,
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
        Mirror {
            platform,
            store,
            auth: Auth::default(),
            config: RefCell::default(),
        }
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
        // What is asked.
        let mut asked = Asked::parse(request.method(), request.uri())?;
        known.route = Some(asked.route.clone());
        match asked.route {
            Route::Page => return Ok(page::manual(request, asked.head_only)),
            Route::Robots => return Ok(page::robots(asked.head_only)),
            _ => {}
        }
        let named = asked.naming.named().map_err(|_| Refusal::malformed_upstream())?;

        // May it be asked.
        let config = self.config().await?;
        let upstream = named.as_ref().unwrap_or(&config.upstream).permit(&config.policy);
        let upstream = upstream.map_err(Refusal::forbidden_upstream)?;
        known.upstream = Some(upstream.clone());
        if upstream.is_docker_hub() {
            asked.route = asked.route.on_docker_hub();
            known.route = Some(asked.route.clone());
        }

        // Is it known.
        if asked.route == Route::Ping && matches!(asked.naming, Naming::Default | Naming::Namespace(_)) {
            let mut response = reply::pong(asked.head_only);
            reply::seal(response.headers_mut(), &asked.naming);
            return Ok(response);
        }

        // Ask upstream.
        let context = Context {
            platform: &self.platform,
            store: &self.store,
            config: &config,
            cost,
        };
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
        let mut response = reply::pass_on(&asked, answer, page::own_authority(request).as_ref())?;
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
