//! Blobs that pass through the mirror: where clients can't reach an upstream's delivery network either, its redirect is
//! followed here.

use crate::context::Context;
use crate::platform::Platform;
use crate::policy::Upstream;
use crate::upstream::auth::Auth;
use crate::upstream::client::{self, OutboundRequest};
use crate::upstream::exchange::{self, Answer, Failure, MAX_REDIRECTS, Question, RedirectFailure};
use http::StatusCode;

/// Asks for a blob, and for its bytes where the upstream says that they are. A delivery network that does not hand them
/// over is given one more chance with another redirect: signatures run out, and nodes fail.
pub async fn stream<P: Platform>(
    context: &Context<'_, P>,
    auth: &Auth<P>,
    upstream: &Upstream,
    question: &Question<'_>,
) -> Result<Answer<P::Body>, Failure> {
    let answer = exchange::ask(context, auth, upstream, question).await?;
    if !exchange::is_redirect(answer.response.status()) {
        return Ok(answer);
    }
    match fetch(context, question, answer).await {
        Ok(delivered) => return Ok(delivered),
        Err(Failure::SeveralRanges) => return Err(Failure::SeveralRanges),
        Err(_) => {}
    }
    let answer = exchange::ask(context, auth, upstream, question).await?;
    if !exchange::is_redirect(answer.response.status()) {
        return Ok(answer);
    }
    fetch(context, question, answer).await
}

/// Follows redirects to a blob's bytes, with the client's range and conditions, and without any token: the networks
/// refuse one, and it is none of their business.
async fn fetch<P: Platform>(
    context: &Context<'_, P>,
    question: &Question<'_>,
    mut answer: Answer<P::Body>,
) -> Result<Answer<P::Body>, Failure> {
    for _ in 0..MAX_REDIRECTS {
        let location = exchange::location(answer.response.headers());
        let location = location.ok_or(Failure::Redirect(RedirectFailure::Malformed))?;
        let from = answer.upstream.target(answer.path_and_query.clone());
        let target = exchange::resolve_location(&from, location).map_err(Failure::Redirect)?;
        let permitted = exchange::permit_path(context, &target, &from.origin).and_then(|_| {
            context
                .config
                .policy
                .permit_delivery(target.origin, &from.origin)
        });
        let permitted =
            permitted.map_err(|denied| Failure::Redirect(RedirectFailure::Forbidden(denied)))?;

        let outbound = OutboundRequest {
            host: &permitted,
            method: question.method.clone(),
            path_and_query: &target.path_and_query,
            headers: &question.headers,
            authorization: None,
            counter: &context.cost.requests,
        };
        let response = client::send_once(context, outbound).await?;
        answer = Answer {
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
            status if question.has_too_many_ranges(status) => return Err(Failure::SeveralRanges),
            status => return Err(Failure::Delivery(status)),
        }
    }
    Err(Failure::Redirect(RedirectFailure::TooMany))
}
