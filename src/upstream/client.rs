//! One request to one host that the policy permits.

use super::error::{RedirectError, UpstreamError};
use crate::context::{Context, Exchanges};
use crate::platform::{Platform, TransportError};
use crate::policy::permitted::Permitted;
use crate::request::cdn_loop::CDN_LOOP;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use std::error::Error;
use std::fmt;
use std::time::Duration;

pub const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("hammal/", env!("CARGO_PKG_VERSION")));

/// A connection that breaks within this time may have been one that the server was about to close:
/// after so many requests (nginx: 1,000), or so long without one. No platform here sends such a
/// request again, and every request here is safe to repeat.
const RETRY_WITHIN: Duration = Duration::from_secs(2);

/// A request to one host.
#[derive(Clone)]
pub struct OutboundRequest<'a> {
    pub host: &'a Permitted,
    pub method: Method,
    pub path_and_query: &'a str,
    pub headers: &'a HeaderMap,
    pub authorization: Option<HeaderValue>,
    /// Counts each time that the request is sent.
    pub counter: &'a Exchanges,
}

/// Why a request got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    Transport(TransportError),
    /// The path can't be part of a request: it came from a realm or a redirect.
    InvalidPath,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Transport(error) => error.fmt(f),
            SendError::InvalidPath => f.write_str("the path is not valid in a request"),
        }
    }
}

impl Error for SendError {}

impl From<SendError> for UpstreamError {
    fn from(error: SendError) -> UpstreamError {
        match error {
            SendError::Transport(error) => UpstreamError::Transport(error),
            SendError::InvalidPath => UpstreamError::Redirect(RedirectError::Malformed),
        }
    }
}

/// Sends a request with the headers that every request of the mirror has; a second time where the
/// connection breaks at once.
pub async fn send<P: Platform>(
    context: &Context<'_, P>,
    request: OutboundRequest<'_>,
) -> Result<Response<P::Body>, SendError> {
    let begun = context.platform.now();
    match send_once(context, request.clone()).await {
        Err(SendError::Transport(TransportError::Broken))
            if context.platform.now().saturating_sub(begun) < RETRY_WITHIN =>
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
        .map_err(|_| SendError::InvalidPath)?;
    let mut headers = HeaderMap::with_capacity(request.headers.len().saturating_add(4));
    let client = request.headers.iter();
    headers.extend(client.map(|(name, value)| (name.clone(), value.clone())));
    // containerd asks for zstd and gzip, and then a digest would be that of another body.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, AGENT);
    headers.insert(CDN_LOOP, context.cdn_loop.to_header());
    headers.extend(request.authorization.map(|value| (AUTHORIZATION, value)));
    *outbound.headers_mut() = headers;
    request.counter.increment();
    let (timeouts, begun) = (&context.config.timeouts, context.platform.now());
    let response = context.platform.send(outbound, timeouts).await;
    let time = context.platform.now().saturating_sub(begun);
    request.counter.took(time);
    response.map_err(SendError::Transport)
}
