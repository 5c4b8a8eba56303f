//! `/status.json`: what the mirror allows, and whether its own upstreams failed lately. It names
//! nothing that a visitor could not find out by asking: where clients have accounts, no upstream.

use super::Registry;
use crate::config::BlobDelivery;
use crate::platform::Platform;
use crate::policy::candidates::Candidates;
use crate::policy::pattern::HostPattern;
use crate::response::body::Body;
use crate::upstream::failover::ProxyRequest;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

/// Returns the status of the mirror.
pub async fn respond<P: Platform>(
    registry: &Registry<'_, P>,
    proxy: &ProxyRequest<'_, P>,
) -> Response<Body<P::Body>> {
    let status = status(registry, proxy, &proxy.context.config.upstreams).await;
    let document = status.to_string().into_bytes();
    let mut response = Body::respond(StatusCode::OK, document, proxy.request.head_only);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn status<P: Platform>(
    registry: &Registry<'_, P>,
    proxy: &ProxyRequest<'_, P>,
    own: &Candidates,
) -> Value {
    let (context, config) = (proxy.context, proxy.context.config);
    let policy = &config.policy;
    let has_accounts = !config.access.clients.is_empty();
    let mut upstreams = Vec::new();
    for upstream in own.iter() {
        let is_internal = policy.is_listed(upstream.origin());
        let one = Candidates::one(upstream.clone());
        let is_down = registry.upstreams.health.all_down(context, &one).await;
        // A registry on plain http, or in a private network, is not named.
        upstreams.push(json!({
            "host": (!is_internal && !has_accounts).then(|| upstream.origin().authority()),
            "state": if is_down { "down" } else { "up" },
        }));
    }
    let is_open = policy.allowed_upstreams.iter().any(HostPattern::is_all);
    let lists_more = policy.allowed_upstreams.len() > policy.own.len();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "upstreams": upstreams,
        // Which registries a request may name.
        "named_upstreams": match (is_open, lists_more) {
            (true, _) => "any",
            (false, true) => "listed",
            (false, false) => "own",
        },
        "blob_delivery": match config.blob_delivery {
            BlobDelivery::Redirect => "redirect",
            BlobDelivery::Stream => "stream",
        },
        // Requests a minute for each address; 0 is no limit.
        "client_limit": config.access.client_limit,
        "login": has_accounts,
    })
}
