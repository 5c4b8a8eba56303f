//! What a person sees, outside `/v2/`: the page at `/` and its files, the state of the mirror, the
//! speed test for the command line, and the search that `docker search` asks for.

pub mod file;
pub mod home;
pub mod search;
pub mod speed;
pub mod status;
pub mod template;

use crate::config::{Config, PageMode};
use crate::manifest::Manifests;
use crate::platform::Platform;
use crate::request::external_url::ExternalUrl;
use crate::request::route::{PageFile, Resource, Route};
use crate::request::{InvalidRequest, RegistryRequest};
use crate::response::body::Body;
use crate::response::error::RegistryError;
use crate::upstream::failover::{ProxyRequest, Upstreams};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

type Answer<P> = Result<Response<Body<<P as Platform>::Body>>, RegistryError>;

/// What the answers below ask upstreams with.
pub struct Registry<'a, P: Platform> {
    pub manifests: &'a Manifests<P>,
    pub upstreams: &'a Upstreams<P>,
}

/// Answers a request for the page or one of its files, which takes neither an upstream nor a place
/// in the client's limit. Returns `None` for every other route.
pub fn respond<B>(
    config: &Config,
    request: &RegistryRequest,
    headers: &HeaderMap,
    external_url: &ExternalUrl,
) -> Result<Option<Response<Body<B>>>, InvalidRequest> {
    let is_page = request.route.is_page();
    // Robots are sent away from a mirror without a page, too.
    let is_robots = request.route == Route::File(PageFile::Robots);
    match &config.page {
        PageMode::Elsewhere(url) if request.route == Route::Page => {
            let mut response = Body::respond(StatusCode::FOUND, Vec::new(), request.head_only);
            let location = url.to_string().parse();
            let location = location.map_err(|_| InvalidRequest::NotFound)?;
            let headers = response.headers_mut();
            headers.insert(header::LOCATION, location);
            // The path of a closed mirror is its secret.
            let no_referrer = HeaderValue::from_static("no-referrer");
            headers.insert(header::REFERRER_POLICY, no_referrer);
            return Ok(Some(response));
        }
        PageMode::Off | PageMode::Elsewhere(_) if is_page && !is_robots => {
            return Err(InvalidRequest::NotFound);
        }
        _ => {}
    }
    let answer = match request.route {
        Route::Page => {
            let has_accounts = !config.access.clients.is_empty();
            home::page(headers, external_url, &request.query, has_accounts)
        }
        Route::File(file) => file::embedded(file),
        Route::SpeedTest => speed::script(external_url),
        _ => return Ok(None),
    };
    Ok(Some(answer.respond(headers, request.head_only)))
}

/// Answers the other routes outside `/v2/`. Returns `None` for a registry's.
pub async fn respond_with_upstreams<P: Platform>(
    registry: &Registry<'_, P>,
    proxy: &ProxyRequest<'_, P>,
) -> Option<Answer<P>> {
    match &proxy.request.route {
        Route::Status => Some(Ok(status::respond(registry, proxy).await)),
        Route::Search => Some(search::respond(proxy).await),
        Route::SearchPing => Some(Ok(search::ping(proxy.request.head_only))),
        Route::Repository(name, Resource::SpeedLayer(tag)) => {
            Some(speed::respond(registry, proxy, name, tag).await)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
