//! Token servers: fetching a token (distribution's token authentication specification).

use super::requirement::TokenServer;
use super::scope::Scope;
use super::token::{MAX_RESPONSE, TokenResponse};
use crate::context::Context;
use crate::platform::{Platform, ReadBodyError, TransportError};
use crate::policy::permitted::Denied;
use crate::registry::account::Account;
use crate::registry::origin::{HttpUrl, Origin};
use crate::upstream::client::{self, OutboundRequest, SendError};
use crate::upstream::error::{RedirectError, TokenError};
use crate::upstream::redirect::{self, MAX_REDIRECTS};
use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, Response, StatusCode};
use url::form_urlencoded;

/// A request for a token.
#[derive(Clone, Copy)]
pub struct TokenRequest<'a> {
    pub upstream: &'a Origin,
    pub server: &'a TokenServer,
    pub scopes: &'a [Scope],
    /// Whose token it is; `None` for the anonymous user's.
    pub account: Option<&'a Account>,
}

/// Fetches a token, within `exchange_timeout`.
pub async fn fetch<P: Platform>(
    context: &Context<'_, P>,
    request: TokenRequest<'_>,
) -> Result<TokenResponse, TokenError> {
    let exchange = exchange(context, request);
    let fetched = context.within_exchange_timeout(exchange).await;
    fetched.unwrap_or(Err(TokenError::Transport(TransportError::TimedOut)))
}

async fn exchange<P: Platform>(
    context: &Context<'_, P>,
    request: TokenRequest<'_>,
) -> Result<TokenResponse, TokenError> {
    let response = follow(context, request).await?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED if request.account.is_some() => {
            return Err(TokenError::WrongPassword);
        }
        // quay.io answers 400 to a name that it can't have, and 405 to a repository that is not one
        // of images.
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED => return Err(TokenError::Refused),
        StatusCode::TOO_MANY_REQUESTS => {
            return Err(TokenError::TooManyRequests {
                retry_after: response.headers().get(RETRY_AFTER).cloned(),
            });
        }
        status => return Err(TokenError::Status(status)),
    }
    let body = context
        .platform
        .read(response.into_body(), MAX_RESPONSE)
        .await
        .map_err(|error| match error {
            ReadBodyError::TooLarge => TokenError::TooLarge(MAX_RESPONSE),
            ReadBodyError::Transport(error) => TokenError::Transport(error),
        })?;
    TokenResponse::parse(&body).map_err(|_| TokenError::NoToken)
}

/// Asks a realm, and follows its redirects as clients do. The policy is asked for each target as
/// for a realm that the challenge names. An account goes to the realm's own host only.
///
/// What a registry that only a client named says of another host may be meant to harm that host: it
/// is asked once for a client's request, however the registry redirects, and with no other query
/// than the protocol's.
async fn follow<P: Platform>(
    context: &Context<'_, P>,
    request: TokenRequest<'_>,
) -> Result<Response<P::Body>, TokenError> {
    let TokenRequest {
        upstream,
        server,
        scopes,
        account,
    } = request;
    let policy = &context.config.policy;
    let is_operators =
        policy.is_operators(upstream) || context.config.accounts.has_any_at(upstream);
    let is_foreign = |url: &HttpUrl| url.origin.host != upstream.host && !is_operators;
    let service = server.service.as_deref();
    let mut url = server.realm.clone();
    if !is_foreign(&url) {
        url.path_and_query = with_query(&url.path_and_query, service, scopes);
    }
    for _ in 0..=MAX_REDIRECTS {
        if is_foreign(&url) {
            let path = url.path_and_query.split('?').next().unwrap_or_default();
            url.path_and_query = with_query(path, service, scopes);
        }
        let host = policy
            .permit_realm(url.origin.clone(), upstream)
            .map_err(TokenError::Forbidden)?;
        if account.is_some() {
            if url.origin != server.realm.origin {
                return Err(TokenError::Redirect(RedirectError::Forbidden(
                    Denied::ClosedRealm,
                )));
            }
            policy
                .permit_credentials(&url.origin, upstream)
                .map_err(TokenError::Forbidden)?;
        }
        if is_foreign(&url) {
            let mut asked = context.stats.foreign_realms.borrow_mut();
            if asked.contains(&url.origin) {
                return Err(TokenError::AskedBefore);
            }
            asked.push(url.origin.clone());
        }
        let outbound = OutboundRequest {
            host: &host,
            method: Method::GET,
            path_and_query: &url.path_and_query,
            headers: &HeaderMap::new(),
            authorization: account.map(Account::authorization),
            counter: &context.stats.token_requests,
        };
        let sent = client::send(context, outbound).await;
        let response = sent.map_err(|error| match error {
            SendError::Transport(error) => TokenError::Transport(error),
            SendError::InvalidPath => TokenError::NoToken,
        })?;
        if !redirect::is_redirect(response.status()) {
            return Ok(response);
        }
        let target = redirect::location(response.headers()).and_then(|to| url.join(to).ok());
        url = target.ok_or(TokenError::Redirect(RedirectError::Malformed))?;
    }
    Err(TokenError::Redirect(RedirectError::TooMany(MAX_REDIRECTS)))
}

/// Adds `service=`, and `scope=` for each scope, to the query that the realm has already.
fn with_query(realm: &str, service: Option<&str>, scopes: &[Scope]) -> String {
    let mut added = form_urlencoded::Serializer::new(String::new());
    added.extend_pairs(service.map(|service| ("service", service)));
    added.extend_pairs(scopes.iter().map(|scope| ("scope", scope.as_str())));
    let added = added.finish();
    let separator = match (added.is_empty(), realm.split_once('?')) {
        (true, _) | (_, Some((_, ""))) => "",
        (false, Some(_)) => "&",
        (false, None) => "?",
    };
    format!("{realm}{separator}{added}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_query_of_the_realm_and_escapes_what_it_adds() {
        let scopes = Scope::parse_list("repository:a/b:pull repository:c:pull").unwrap();
        for (realm, service, scopes, expected) in [
            ("/token", None, &[][..], "/token"),
            (
                "/token",
                Some("r.io"),
                &scopes[..1],
                "/token?service=r.io&scope=repository%3Aa%2Fb%3Apull",
            ),
            (
                "/token?a=x=y",
                Some("a b&c"),
                &[],
                "/token?a=x=y&service=a+b%26c",
            ),
            (
                "/token?",
                None,
                &scopes,
                "/token?scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull",
            ),
        ] {
            assert_eq!(with_query(realm, service, scopes), expected);
        }
    }
}
