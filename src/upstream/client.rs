//! One request to one host that the policy has let pass.

use crate::context::{Context, count};
use crate::platform::{Platform, TransportError};
use crate::policy::Permitted;
use crate::request::cdn_loop::CDN_LOOP;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use std::cell::Cell;
use std::time::Duration;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("hammal/", env!("CARGO_PKG_VERSION")));

/// A connection that breaks within this time may have been one that its host was about to close: after so many requests
/// (nginx: 1,000), or so long without one. No platform here sends such a request again, and every request here may be.
const RETIRED_WITHIN: Duration = Duration::from_secs(2);

/// Why a request brought no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    Transport(TransportError),
    /// The path can't stand in a request line: it came from a realm or a redirect.
    Malformed,
}

/// One request to one host.
#[derive(Clone)]
pub struct OutboundRequest<'a> {
    pub host: &'a Permitted,
    pub method: Method,
    pub path_and_query: &'a str,
    pub headers: &'a HeaderMap,
    pub authorization: Option<HeaderValue>,
    /// Counts each time that it is sent.
    pub counter: &'a Cell<u32>,
}

/// Sends a request with the headers that every request of the mirror has; once more where the connection breaks at once.
pub async fn send<P: Platform>(
    context: &Context<'_, P>,
    request: OutboundRequest<'_>,
) -> Result<Response<P::Body>, SendError> {
    let begun = context.platform.now();
    match send_once(context, request.clone()).await {
        Err(SendError::Transport(TransportError::Broken))
            if context.platform.now().saturating_sub(begun) < RETIRED_WITHIN =>
        {
            send_once(context, request).await
        }
        sent => sent,
    }
}

/// Sends a request once, for a caller that has another way to try again.
pub async fn send_once<P: Platform>(
    context: &Context<'_, P>,
    request: OutboundRequest<'_>,
) -> Result<Response<P::Body>, SendError> {
    let mut outbound = Request::new(());
    *outbound.method_mut() = request.method;
    *outbound.uri_mut() = request
        .host
        .uri(request.path_and_query)
        .map_err(|_| SendError::Malformed)?;
    let mut headers = HeaderMap::with_capacity(request.headers.len().saturating_add(4));
    headers.extend(
        request
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    // containerd asks for zstd and gzip, and then a digest would be that of another body.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, AGENT);
    headers.insert(CDN_LOOP, context.hops.to_header());
    headers.extend(request.authorization.map(|value| (AUTHORIZATION, value)));
    *outbound.headers_mut() = headers;
    count(request.counter);
    let timeouts = &context.config.timeouts;
    context
        .platform
        .send(outbound, timeouts)
        .await
        .map_err(SendError::Transport)
}
