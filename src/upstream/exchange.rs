//! A request to one upstream, with what it takes: its token, and redirects that clients don't
//! follow.

use super::auth::Auth;
use super::auth::credential::Credential;
use super::auth::requirement::AuthRequirement;
use super::auth::tokens::TokenTarget;
use super::client::{self, OutboundRequest};
use super::error::{RedirectError, UpstreamError};
use super::redirect::{self, Hop, MAX_REDIRECTS};
use super::{RawResponse, UpstreamRequest};
use crate::context::Context;
use crate::platform::Platform;
use crate::policy::permitted::Upstream;
use crate::registry::account::Account;
use crate::request::route::Route;
use http::{HeaderMap, Method, Response, StatusCode};

/// How often one registry is asked for one thing, not counting what a broken connection repeats:
/// with a token that is no longer good, without one, with a new one, once more where the store held
/// another old one, and once more where a `HEAD` becomes a `GET`. A 400 or 403 to a token that was
/// good takes the place of one of them.
const MAX_ATTEMPTS: usize = 5;

/// Sends a request to an upstream. A redirect of a blob to a delivery network is an answer. Every
/// other redirect is followed here: clients expect manifests, tags and referrers where they asked
/// for them. An account is the upstream's own: another registry, or another repository, that it
/// redirects to is asked as the anonymous user.
pub async fn send<P: Platform>(
    context: &Context<'_, P>,
    auth: &Auth<P>,
    upstream: &Upstream,
    request: &UpstreamRequest<'_>,
    mut account: Option<&Account>,
) -> Result<RawResponse<P::Body>, UpstreamError> {
    let mut hop = Hop::first(upstream, request.route, request.query);
    let name = hop.name.clone();
    for redirects in 0..=MAX_REDIRECTS {
        account = account.filter(|_| hop.upstream == *upstream && hop.name == name);
        let mut response = send_authorized(context, auth, request, &hop, account).await?;
        // A manifest in a bucket: see `refuses_head`. A registry's own answer stays as it is.
        let is_signed_url = redirects > 0 && hop.name.is_none();
        if is_signed_url
            && request.method == Method::HEAD
            && redirect::refuses_head(response.status())
        {
            let get = UpstreamRequest {
                method: Method::GET,
                ..request.clone()
            };
            response = send_authorized(context, auth, &get, &hop, account).await?;
        }
        if request.refuses_several_ranges(response.status()) {
            return Err(UpstreamError::SeveralRanges);
        }
        match redirect::location_to_follow(request.route, &hop, &response) {
            None => {
                return Ok(RawResponse {
                    response,
                    url: hop.url(),
                    redirected: redirects > 0,
                    proof: None,
                });
            }
            Some(location) => hop = hop.follow(context, location)?,
        }
    }
    Err(RedirectError::TooMany(MAX_REDIRECTS).into())
}

/// Asks one registry, and answers its challenge as the anonymous user, or with an account.
async fn send_authorized<P: Platform>(
    context: &Context<'_, P>,
    auth: &Auth<P>,
    request: &UpstreamRequest<'_>,
    hop: &Hop,
    account: Option<&Account>,
) -> Result<Response<P::Body>, UpstreamError> {
    let target = TokenTarget {
        upstream: &hop.upstream,
        name: hop.name.as_ref(),
        account,
    };
    let name = account.map(Account::name).unwrap_or_default();
    name.clone_into(&mut context.stats.account.borrow_mut());
    let mut credential = match request.route {
        // The challenge of a catalog says nothing about repositories, nor theirs about it.
        Route::Catalog => Credential::None { refused: None },
        _ => auth.preauthorize(context, &target).await?,
    };
    let mut method = request.method.clone();
    let mut is_renewed = false;
    for _ in 0..MAX_ATTEMPTS {
        let attempt = Attempt {
            method: method.clone(),
            path_and_query: &hop.path_and_query,
            headers: &request.headers,
            credential: &credential,
        };
        let response = attempt.send(context, &hop.upstream).await?;
        let status = response.status();
        if status != StatusCode::UNAUTHORIZED {
            let may_refuse_token =
                matches!(status, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN)
                    && !request.refuses_several_ranges(status);
            if may_refuse_token && is_renewed {
                auth.on_renewed_in_vain(context, &target, &credential);
            } else if may_refuse_token
                && let Some(renewed) = auth.renew(context, &target, &credential).await
            {
                credential = renewed;
                is_renewed = true;
                continue;
            } else {
                auth.on_answered(context, &target, &credential, status);
            }
            return Ok(response);
        }
        // public.ecr.aws has no HEAD of blobs for tokens that GET them. The body of the GET is not
        // read.
        let has_token = matches!(credential, Credential::Token { .. });
        if method == Method::HEAD && request.route.is_blob() && has_token {
            method = Method::GET;
            continue;
        }
        let required = |headers: &HeaderMap| {
            AuthRequirement::from_headers(headers, target.name, account.is_some())
        };
        let required = match (required(response.headers()), has_token) {
            // gcr.io may leave the challenge out here, and has it at /v2/.
            (None, false) => {
                let ping = Attempt {
                    method: Method::GET,
                    path_and_query: "/v2/",
                    headers: &HeaderMap::new(),
                    credential: &credential,
                };
                let response = ping.send(context, &hop.upstream).await?;
                required(response.headers())
            }
            (found, _) => found,
        };
        credential = auth
            .on_unauthorized(context, &target, credential, required)
            .await?
            .ok_or(UpstreamError::Denied)?;
    }
    Err(UpstreamError::Denied)
}

struct Attempt<'a> {
    method: Method,
    path_and_query: &'a str,
    headers: &'a HeaderMap,
    credential: &'a Credential,
}

impl Attempt<'_> {
    async fn send<P: Platform>(
        self,
        context: &Context<'_, P>,
        upstream: &Upstream,
    ) -> Result<Response<P::Body>, UpstreamError> {
        let outbound = OutboundRequest {
            host: upstream.permitted(),
            method: self.method,
            path_and_query: self.path_and_query,
            headers: self.headers,
            authorization: self.credential.authorization(),
            counter: &context.stats.upstream_requests,
        };
        Ok(client::send(context, outbound).await?)
    }
}
