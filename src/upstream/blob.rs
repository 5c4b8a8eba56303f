//! Blobs that are streamed: where clients can't reach an upstream's delivery network, its redirect
//! is followed here.

use super::auth::Auth;
use super::client::{self, OutboundRequest, SendError};
use super::error::{RedirectError, UpstreamError};
use super::redirect::{self, MAX_REDIRECTS};
use super::{RawResponse, UpstreamRequest, accounts};
use crate::context::Context;
use crate::platform::Platform;
use crate::policy::permitted::Upstream;
use crate::registry::origin::HttpUrl;
use http::{Method, Response, StatusCode};

/// Asks an upstream for a blob, and follows its redirect to the bytes. A delivery network that does
/// not send them gets one more chance with another redirect: signatures expire, and nodes fail.
pub async fn stream<P: Platform>(
    context: &Context<'_, P>,
    auth: &Auth<P>,
    upstream: &Upstream,
    request: &UpstreamRequest<'_>,
) -> Result<RawResponse<P::Body>, UpstreamError> {
    let response = accounts::send(context, auth, upstream, request).await?;
    follow(context, auth, upstream, request, response).await
}

/// The same for an upstream's response that is there already.
pub async fn follow<P: Platform>(
    context: &Context<'_, P>,
    auth: &Auth<P>,
    upstream: &Upstream,
    request: &UpstreamRequest<'_>,
    response: RawResponse<P::Body>,
) -> Result<RawResponse<P::Body>, UpstreamError> {
    if !redirect::is_redirect(response.response.status()) {
        return Ok(response);
    }
    let location = redirect::location(response.response.headers()).map(str::to_owned);
    match fetch(context, request, response.url, location).await {
        Ok(blob) => return Ok(blob),
        Err(UpstreamError::SeveralRanges) => return Err(UpstreamError::SeveralRanges),
        Err(_) => {}
    }
    let response = accounts::send(context, auth, upstream, request).await?;
    if !redirect::is_redirect(response.response.status()) {
        return Ok(response);
    }
    let location = redirect::location(response.response.headers()).map(str::to_owned);
    fetch(context, request, response.url, location).await
}

/// Follows redirects from `url` to a blob's bytes, with the client's range and conditions. No token
/// goes along: delivery networks refuse one, and may not have it.
pub async fn fetch<P: Platform>(
    context: &Context<'_, P>,
    request: &UpstreamRequest<'_>,
    mut url: HttpUrl,
    mut location: Option<String>,
) -> Result<RawResponse<P::Body>, UpstreamError> {
    for _ in 0..MAX_REDIRECTS {
        let to = location.ok_or(RedirectError::Malformed)?;
        let target = redirect::resolve_location(&url, &to)?;
        let from = &url.origin;
        let host = redirect::permit_path(context, &target, from)
            .and_then(|_| {
                let policy = &context.config.policy;
                policy.permit_content_host(target.origin.clone(), from)
            })
            .map_err(RedirectError::Forbidden)?;
        let outbound = OutboundRequest {
            host: &host,
            method: request.method.clone(),
            path_and_query: &target.path_and_query,
            headers: &request.headers,
            authorization: None,
            counter: &context.stats.upstream_requests,
        };
        let response = ask(context, outbound).await?;
        match response.status() {
            StatusCode::OK
            | StatusCode::PARTIAL_CONTENT
            | StatusCode::NOT_MODIFIED
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::RANGE_NOT_SATISFIABLE => {
                return Ok(RawResponse {
                    response,
                    url: target,
                    redirected: true,
                    proof: None,
                });
            }
            status if redirect::is_redirect(status) => {}
            status if request.refuses_several_ranges(status) => {
                return Err(UpstreamError::SeveralRanges);
            }
            status => return Err(UpstreamError::BlobHost(status)),
        }
        location = redirect::location(response.headers()).map(str::to_owned);
        url = target;
    }
    Err(RedirectError::TooMany(MAX_REDIRECTS).into())
}

/// Asks a delivery network. A URL that is signed for `GET` may be refused to a `HEAD`: then the
/// head of a `GET` is the answer, and its body is not read.
async fn ask<P: Platform>(
    context: &Context<'_, P>,
    request: OutboundRequest<'_>,
) -> Result<Response<P::Body>, UpstreamError> {
    let is_head = request.method == Method::HEAD;
    let get = OutboundRequest {
        method: Method::GET,
        ..request.clone()
    };
    let mut response = client::send_once(context, request).await;
    if let Ok(refusal) = &response
        && is_head
        && redirect::refuses_head(refusal.status())
    {
        response = client::send_once(context, get).await;
    }
    response.map_err(|error| match error {
        // It says nothing of the registry.
        SendError::Transport(error) => UpstreamError::BlobHostFailed(error),
        error => error.into(),
    })
}
