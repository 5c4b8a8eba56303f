//! Answers for whoever watches the mirror: `/healthz` says that the component runs, `/readyz` that
//! it can serve. Neither needs the secret of a closed mirror, nor counts against a client's limit.

use crate::cache::store::Store;
use crate::config::{Config, ConfigError};
use crate::context::{Context, RequestStats};
use crate::platform::{Platform, Timeouts, TransportError};
use crate::request::RegistryRequest;
use crate::request::cdn_loop::CdnLoop;
use crate::request::external_url::ExternalUrl;
use crate::request::route::Route;
use crate::response::body::Body;
use crate::response::error::RegistryError;
use crate::upstream::health::Health;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use std::rc::Rc;
use std::time::Duration;

/// Nobody listens there. A host that blocks private networks refuses before it connects.
const PRIVATE_URL: &str = "http://127.0.0.1:1/";
/// What a query excludes from `/readyz`, as the probes of Kubernetes' own servers do: a mirror
/// whose upstream is down still serves what it has cached.
const WITHOUT_UPSTREAM: &str = "exclude=upstream";

/// Returns the answer to a probe. Only `/readyz` takes settings, the store and what is known of the
/// upstreams.
pub async fn respond<P: Platform>(
    probe: &RegistryRequest,
    request: &Request<()>,
    store: &Store<P>,
    health: &Health<P>,
    config: impl AsyncFnOnce() -> Result<Rc<Config>, ConfigError>,
) -> Result<Response<Body<P::Body>>, RegistryError> {
    if probe.route == Route::Readyz {
        let context = Context {
            platform: store.platform(),
            store,
            config: &config().await?,
            cdn_loop: CdnLoop::from_headers(request.headers())?,
            external_url: &ExternalUrl::from_request(request, ""),
            stats: &RequestStats::default(),
        };
        check(probe, &context, health).await?;
    }
    let mut response = Body::respond(StatusCode::OK, b"ok\n".to_vec(), probe.head_only);
    let headers = response.headers_mut();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, text);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Checks that the mirror can serve. No upstream is asked: what requests of clients have shown of
/// it within the last seconds decides. The store is read in any case: on WASIp2 one that hangs
/// holds this answer up as it does every other, so the time-out of the probe finds it.
async fn check<P: Platform>(
    probe: &RegistryRequest,
    context: &Context<'_, P>,
    health: &Health<P>,
) -> Result<(), RegistryError> {
    if context.config.needs_closed_networks && !are_private_networks_closed(context.platform).await
    {
        return Err(RegistryError::not_ready(
            "the host of this mirror connects to private networks: its runtime configuration lacks \
             block_networks, or was not read",
        ));
    }
    let all_down = health.all_down(context, &context.config.upstreams).await;
    let is_excluded = probe.query.split('&').any(|part| part == WITHOUT_UPSTREAM);
    if all_down && !is_excluded {
        return Err(RegistryError::not_ready(
            "no upstream of this mirror could be reached lately",
        ));
    }
    Ok(())
}

/// Whether the host refuses to connect to a private address.
async fn are_private_networks_closed(platform: &impl Platform) -> bool {
    const LIMIT: Duration = Duration::from_secs(1);
    let Ok(request) = Request::get(PRIVATE_URL).body(()) else {
        return false;
    };
    let timeouts = Timeouts {
        connect: LIMIT,
        first_byte: LIMIT,
        between_bytes: LIMIT,
        exchange: LIMIT,
    };
    matches!(
        platform.send(request, &timeouts).await,
        Err(TransportError::Forbidden)
    )
}
