//! Blobs that pass through the mirror: where clients can't reach an upstream's delivery network either, its redirect is
//! followed here.

use crate::context::Context;
use crate::platform::Platform;
use crate::policy::Upstream;
use crate::upstream::auth::Auth;
use crate::upstream::client::{self, OutboundRequest};
use crate::upstream::exchange::{
    self, MAX_REDIRECTS, RedirectError, UpstreamError, UpstreamRequest, UpstreamResponse,
};
use http::StatusCode;

/// Asks for a blob, and for its bytes where the upstream says that they are. A delivery network that does not hand them
/// over is given one more chance with another redirect: signatures run out, and nodes fail.
pub async fn stream<P: Platform>(
    context: &Context<'_, P>,
    auth: &Auth<P>,
    upstream: &Upstream,
    upstream_request: &UpstreamRequest<'_>,
) -> Result<UpstreamResponse<P::Body>, UpstreamError> {
    let answer = exchange::ask(context, auth, upstream, upstream_request).await?;
    if !exchange::is_redirect(answer.response.status()) {
        return Ok(answer);
    }
    match fetch(context, upstream_request, answer).await {
        Ok(delivered) => return Ok(delivered),
        Err(UpstreamError::SeveralRanges) => return Err(UpstreamError::SeveralRanges),
        Err(_) => {}
    }
    let answer = exchange::ask(context, auth, upstream, upstream_request).await?;
    if !exchange::is_redirect(answer.response.status()) {
        return Ok(answer);
    }
    fetch(context, upstream_request, answer).await
}

/// Follows redirects to a blob's bytes, with the client's range and conditions, and without any token: the networks
/// refuse one, and it is none of their business.
async fn fetch<P: Platform>(
    context: &Context<'_, P>,
    upstream_request: &UpstreamRequest<'_>,
    mut answer: UpstreamResponse<P::Body>,
) -> Result<UpstreamResponse<P::Body>, UpstreamError> {
    for _ in 0..MAX_REDIRECTS {
        let location = exchange::location(answer.response.headers());
        let location = location.ok_or(UpstreamError::Redirect(RedirectError::Malformed))?;
        let from = answer.upstream.target(answer.path_and_query.clone());
        let target =
            exchange::resolve_location(&from, location).map_err(UpstreamError::Redirect)?;
        let permitted = exchange::permit_path(context, &target, &from.origin).and_then(|_| {
            context
                .config
                .policy
                .permit_delivery(target.origin, &from.origin)
        });
        let permitted = permitted
            .map_err(|denied| UpstreamError::Redirect(RedirectError::Forbidden(denied)))?;

        let outbound = OutboundRequest {
            host: &permitted,
            method: upstream_request.method.clone(),
            path_and_query: &target.path_and_query,
            headers: &upstream_request.headers,
            authorization: None,
            counter: &context.cost.requests,
        };
        let response = client::send_once(context, outbound).await?;
        answer = UpstreamResponse {
            response,
            upstream: Upstream::redirected(permitted),
            path_and_query: target.path_and_query,
            redirected: true,
        };
        match answer.response.status() {
            StatusCode::OK
            | StatusCode::PARTIAL_CONTENT
            | StatusCode::NOT_MODIFIED
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::RANGE_NOT_SATISFIABLE => return Ok(answer),
            status if exchange::is_redirect(status) => {}
            status if upstream_request.has_too_many_ranges(status) => {
                return Err(UpstreamError::SeveralRanges);
            }
            status => return Err(UpstreamError::Delivery(status)),
        }
    }
    Err(UpstreamError::Redirect(RedirectError::TooMany))
}
