//! Fetching an anonymous token.

use super::scope::Scope;
use super::token::{Granted, MAX_ANSWER};
use crate::context::Context;
use crate::platform::{Platform, ReadBodyError, TransportError};
use crate::policy::Denied;
use crate::registry::origin::{HttpUrl, Origin};
use crate::upstream::client::{self, OutboundRequest, SendError};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::form_urlencoded;

/// Why there is no token. What the token server said besides its status stays unsaid: it may be an internal host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// The realm is a host that may not be contacted.
    Forbidden(Denied),
    Transport(TransportError),
    /// 401 and 403: the anonymous user is not let in.
    Refused,
    /// 429
    TooMany {
        retry_after: Option<HeaderValue>,
    },
    Status(StatusCode),
    TooLarge,
    NoToken,
}

impl TokenError {
    /// Whether the next request had better ask the upstream first where its tokens come from nowadays.
    pub fn may_be_of_an_old_realm(&self) -> bool {
        !matches!(self, TokenError::Refused | TokenError::TooMany { .. })
    }
}

/// Asks the token server at `realm` for a token of `upstream`; at most as long as a small exchange may take.
pub async fn fetch<P: Platform>(
    context: &Context<'_, P>,
    upstream: &Origin,
    realm: &HttpUrl,
    service: Option<&str>,
    scopes: &[Scope],
) -> Result<Granted, TokenError> {
    let exchange = exchange(context, upstream, realm, service, scopes);
    context
        .in_time(exchange)
        .await
        .unwrap_or(Err(TokenError::Transport(TransportError::TimedOut)))
}

async fn exchange<P: Platform>(
    context: &Context<'_, P>,
    upstream: &Origin,
    realm: &HttpUrl,
    service: Option<&str>,
    scopes: &[Scope],
) -> Result<Granted, TokenError> {
    let permitted = context
        .config
        .policy
        .permit_realm(realm.origin.clone(), upstream)
        .map_err(TokenError::Forbidden)?;
    let path_and_query = with_query(&realm.path_and_query, service, scopes);
    let outbound = OutboundRequest {
        host: &permitted,
        method: Method::GET,
        path_and_query: &path_and_query,
        headers: &HeaderMap::new(),
        authorization: None,
        counter: &context.cost.fetches,
    };
    let response = client::send(context, outbound).await;
    let response = response.map_err(|unsent| match unsent {
        SendError::Transport(fault) => TokenError::Transport(fault),
        SendError::Malformed => TokenError::NoToken,
    })?;
    match response.status() {
        StatusCode::OK => {}
        // quay.io says 400 to a name that it can't have, and 405 to what is no repository of images.
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED => {
            return Err(TokenError::Refused);
        }
        StatusCode::TOO_MANY_REQUESTS => {
            return Err(TokenError::TooMany {
                retry_after: response.headers().get(RETRY_AFTER).cloned(),
            });
        }
        status => return Err(TokenError::Status(status)),
    }
    let body = context
        .platform
        .read(response.into_body(), MAX_ANSWER)
        .await
        .map_err(|fault| match fault {
            ReadBodyError::TooLarge => TokenError::TooLarge,
            ReadBodyError::Broken(fault) => TokenError::Transport(fault),
        })?;
    Granted::parse(&body).map_err(|_| TokenError::NoToken)
}

/// Adds `service=` and a `scope=` for each scope to what the realm has of a query already.
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
