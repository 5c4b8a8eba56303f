//! One upstream_request to an upstream, with all that it takes: authorisation, and redirects that clients don't follow.

use crate::context::Context;
use crate::oci::name::Name;
use crate::platform::{Platform, TransportError};
use crate::policy::Denied;
use crate::policy::Upstream;
use crate::registry::docker_hub;
use crate::registry::origin::{HttpUrl, Origin};
use crate::request::route::Route;
use crate::upstream::auth::{self, Auth, Challenge, Credential, Subject};
use crate::upstream::client::{self, OutboundRequest, SendError};
use crate::upstream::limits::MAX_HEADER;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};

/// A longer chain of redirects is a loop.
pub const MAX_REDIRECTS: usize = 5;
/// Requests to one upstream for one upstream_request, but for those that a connection loses: with a token that is no longer good, without one, with a new one, once
/// more where the store held another old one, and once more where a HEAD becomes a GET.
const MAX_ATTEMPTS: usize = 5;

/// What of a client's headers goes to an upstream; `Accept` as often as it was sent. Everything else stays here,
/// credentials above all.
static REQUEST_HEADERS: [HeaderName; 7] = [
    header::ACCEPT,
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// A upstream_request to a registry.
#[derive(Clone, Debug)]
pub struct UpstreamRequest<'a> {
    pub method: Method,
    pub route: &'a Route,
    /// Without the upstream_request mark; may be empty.
    pub query: &'a str,
    /// Those of the client that an upstream may see.
    pub headers: HeaderMap,
}

impl UpstreamRequest<'_> {
    /// Whether such an answer says that several ranges are too many.
    pub fn has_too_many_ranges(&self, status: StatusCode) -> bool {
        let is_several = |ranges: &HeaderValue| ranges.as_bytes().contains(&b',');
        status == StatusCode::BAD_REQUEST
            && self.route.is_blob()
            && self.headers.get(header::RANGE).is_some_and(is_several)
    }
}

/// A response, and the registry and path that it came from in the end.
#[derive(Debug)]
pub struct UpstreamResponse<B> {
    pub response: Response<B>,
    pub upstream: Upstream,
    pub path_and_query: String,
    /// Whether it is another registry, or another path, than what asking again in the same way would surely reach.
    pub redirected: bool,
}

/// Why there is no answer to pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    Transport(TransportError),
    Token(auth::TokenError),
    /// The upstream does not let the anonymous user in.
    Denied,
    Redirect(RedirectError),
    /// The upstream redirects to where the content is not handed over.
    Delivery(StatusCode),
    /// The client's headers are over `MAX_HEADER`.
    HeadersTooLong,
    /// The client asks for several ranges of a blob, which this upstream has one at a time (Google's storage).
    SeveralRanges,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectError {
    Malformed,
    Forbidden(Denied),
    TooMany,
}

impl UpstreamError {
    /// Whether another upstream may do better.
    pub fn is_of_upstream(&self) -> bool {
        match self {
            UpstreamError::Denied
            | UpstreamError::HeadersTooLong
            | UpstreamError::SeveralRanges
            | UpstreamError::Token(auth::TokenError::Refused) => false,
            UpstreamError::Transport(_)
            | UpstreamError::Token(_)
            | UpstreamError::Redirect(_)
            | UpstreamError::Delivery(_) => true,
        }
    }

    /// Whether, where another upstream may do better, it is only about what was asked for, and this one is well otherwise.
    pub fn is_of_content(&self) -> bool {
        match self {
            UpstreamError::Delivery(status)
            | UpstreamError::Token(auth::TokenError::Status(status)) => status.is_client_error(),
            UpstreamError::Redirect(_) => true,
            _ => false,
        }
    }
}

impl From<SendError> for UpstreamError {
    fn from(unsent: SendError) -> UpstreamError {
        match unsent {
            SendError::Transport(fault) => UpstreamError::Transport(fault),
            SendError::Malformed => UpstreamError::Redirect(RedirectError::Malformed),
        }
    }
}

/// Picks from a client's headers what an upstream may see.
pub fn request_headers(from: &HeaderMap) -> Result<HeaderMap, UpstreamError> {
    let mut headers = HeaderMap::new();
    let mut left = MAX_HEADER;
    for (name, value) in from
        .iter()
        .filter(|(name, _)| REQUEST_HEADERS.contains(name))
    {
        let length = name.as_str().len().saturating_add(value.len());
        left = left
            .checked_sub(length)
            .ok_or(UpstreamError::HeadersTooLong)?;
        headers.append(name.clone(), value.clone());
    }
    Ok(headers)
}

/// Asks. A redirect of a blob to a CDN is an answer, for the client to follow. Every other one is followed here: the
/// clients of registries expect manifests, tags and referrers where they asked for them.
pub async fn ask<P: Platform>(
    context: &Context<'_, P>,
    auth: &Auth<P>,
    upstream: &Upstream,
    upstream_request: &UpstreamRequest<'_>,
) -> Result<UpstreamResponse<P::Body>, UpstreamError> {
    let mut hop = Hop::first(upstream, upstream_request);
    for redirects in 0..=MAX_REDIRECTS {
        let response = ask_one(context, auth, upstream_request, &hop).await?;
        if upstream_request.has_too_many_ranges(response.status()) {
            return Err(UpstreamError::SeveralRanges);
        }
        match redirect_target(upstream_request.route, &hop, &response) {
            None => {
                let Hop {
                    upstream,
                    path_and_query,
                    ..
                } = hop;
                return Ok(UpstreamResponse {
                    response,
                    upstream,
                    path_and_query,
                    redirected: redirects > 0,
                });
            }
            Some(location) => {
                hop = hop
                    .follow(context, location)
                    .map_err(UpstreamError::Redirect)?
            }
        }
    }
    Err(UpstreamError::Redirect(RedirectError::TooMany))
}

/// One registry of a chain of redirects, and what is asked of it.
struct Hop {
    upstream: Upstream,
    path_and_query: String,
    /// The repository there, if the path is a registry's: tokens are for one repository.
    name: Option<Name>,
}

impl Hop {
    fn first(upstream: &Upstream, upstream_request: &UpstreamRequest<'_>) -> Hop {
        let route = upstream_request.route.at(upstream.origin());
        let path = route.path();
        Hop {
            upstream: upstream.clone(),
            path_and_query: if upstream_request.query.is_empty() {
                path
            } else {
                format!("{path}?{}", upstream_request.query)
            },
            name: route.name().cloned(),
        }
    }

    fn follow<P: Platform>(
        &self,
        context: &Context<'_, P>,
        location: &str,
    ) -> Result<Hop, RedirectError> {
        let target =
            resolve_location(&self.upstream.target(self.path_and_query.clone()), location)?;
        let (policy, from) = (&context.config.policy, self.upstream.origin());
        let permit = || {
            let upstream = policy
                .permit(target.origin.clone())
                .map(Upstream::redirected)?;
            let route = permit_path(context, &target, from)?;
            if route.is_none() {
                policy.permit_inside(&target.origin, from)?;
            }
            Ok((upstream, route))
        };
        let (upstream, route) = permit().map_err(RedirectError::Forbidden)?;
        let name = route.and_then(|route| route.name().cloned());
        Ok(Hop {
            upstream,
            path_and_query: target.path_and_query,
            name,
        })
    }
}

/// Where a redirect leads.
pub fn resolve_location(from: &HttpUrl, location: &str) -> Result<HttpUrl, RedirectError> {
    let mut target = from.join(location).map_err(|_| RedirectError::Malformed)?;
    // What the operator says of Docker Hub holds for all its names.
    target.origin.host = docker_hub::unalias(target.origin.host);
    Ok(target)
}

/// May a redirect lead to this path: what the operator has closed is not reached by way of another registry either. Returns
/// which one of a registry it is, `None` where it is none.
pub fn permit_path<P: Platform>(
    context: &Context<'_, P>,
    target: &HttpUrl,
    from: &Origin,
) -> Result<Option<Route>, Denied> {
    let route = target
        .path_and_query
        .parse::<Uri>()
        .ok()
        .and_then(|uri| Route::of_upstream(&uri));
    let (policy, origin) = (&context.config.policy, &target.origin);
    let is_default = context
        .config
        .upstreams
        .iter()
        .any(|upstream| upstream.origin() == origin);
    match &route {
        Some(Route::Repository(name, _)) => policy.permit_redirected(origin, is_default, name)?,
        Some(Route::Catalog) => policy.permit_catalog()?,
        _ => policy.permit_unnamed(origin, is_default, from)?,
    }
    Ok(route)
}

/// Asks one registry, and answers its challenge as the anonymous user.
async fn ask_one<P: Platform>(
    context: &Context<'_, P>,
    auth: &Auth<P>,
    upstream_request: &UpstreamRequest<'_>,
    hop: &Hop,
) -> Result<Response<P::Body>, UpstreamError> {
    let subject = Subject {
        upstream: &hop.upstream,
        name: hop.name.as_ref(),
    };
    let mut sent = match upstream_request.route {
        // What a catalog asks for says nothing about repositories, nor they about it.
        Route::Catalog => Credential::None { refused: None },
        _ => auth
            .beforehand(context, &subject)
            .await
            .map_err(UpstreamError::Token)?,
    };
    let mut method = upstream_request.method.clone();
    for _ in 0..MAX_ATTEMPTS {
        let headers = &upstream_request.headers;
        let response = send(
            context,
            &hop.upstream,
            method.clone(),
            &hop.path_and_query,
            headers,
            &sent,
        )
        .await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            auth.accepted(context, &subject, &sent);
            return Ok(response);
        }
        // public.ecr.aws has no HEAD of blobs for tokens that GET them. Nobody reads the body.
        if method == Method::HEAD
            && upstream_request.route.is_blob()
            && matches!(sent, Credential::Token { .. })
        {
            method = Method::GET;
            continue;
        }
        let challenge = match (Challenge::find(response.headers()), &sent) {
            // gcr.io may leave the challenge out where it counts, and has it at /v2/.
            (None, Credential::None { .. }) => {
                let ping = send(
                    context,
                    &hop.upstream,
                    Method::GET,
                    "/v2/",
                    &HeaderMap::new(),
                    &sent,
                )
                .await?;
                Challenge::find(ping.headers())
            }
            (challenge, _) => challenge,
        };
        let next = auth.after_refusal(context, &subject, sent, challenge).await;
        sent = next
            .map_err(UpstreamError::Token)?
            .ok_or(UpstreamError::Denied)?;
    }
    Err(UpstreamError::Denied)
}

async fn send<P: Platform>(
    context: &Context<'_, P>,
    upstream: &Upstream,
    method: Method,
    path_and_query: &str,
    headers: &HeaderMap,
    credential: &Credential,
) -> Result<Response<P::Body>, UpstreamError> {
    let outbound = OutboundRequest {
        host: upstream.permitted(),
        method,
        path_and_query,
        headers,
        authorization: match credential {
            Credential::Token { token, .. } => Some(token.header()),
            Credential::None { .. } => None,
        },
        counter: &context.cost.requests,
    };
    Ok(client::send(context, outbound).await?)
}

/// Where a response that has to be followed here points to. A blob's does so if it is a registry's path again (lscr.io,
/// registry.k8s.io): a client would come there without the token that this registry asks for.
fn redirect_target<'r, B>(route: &Route, hop: &Hop, response: &'r Response<B>) -> Option<&'r str> {
    if !is_redirect(response.status()) {
        return None;
    }
    let location = location(response.headers())?;
    if route.is_blob() {
        let target = hop
            .upstream
            .target(hop.path_and_query.clone())
            .join(location)
            .ok()?;
        let uri: Uri = target.path_and_query.parse().ok()?;
        Route::of_upstream(&uri).filter(Route::is_blob)?;
    }
    Some(location)
}

/// Where a redirect points to, as its upstream wrote it.
pub fn location(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(header::LOCATION)?
        .to_str()
        .ok()
        .filter(|text| text.len() <= MAX_HEADER)
}

/// 304 is none.
pub fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
