//! Requests to upstream registries, and their responses.
//!
//! [`failover`] asks the candidates one after the other. [`accounts`] chooses who asks one of them:
//! the anonymous user, or an account of the operator's. [`exchange`] asks, with the token that
//! [`auth`] has, and follows redirects ([`redirect`]); [`blob`] follows those of blobs that are
//! streamed, and [`signed_url`] tells how long the others last. [`client`] sends one request.
//! [`outcome`] decides what an answer means.
//! [`manifest_body`] reads manifests.

pub mod accounts;
pub mod auth;
pub mod blob;
pub mod client;
pub mod content_type;
pub mod error;
pub mod exchange;
pub mod failover;
pub mod health;
pub mod manifest_body;
pub mod outcome;
pub mod redirect;
pub mod response_headers;
pub mod signed_url;
pub mod timestamp;

use self::error::{RedirectError, UpstreamError};
use self::manifest_body::UpstreamBody;
use crate::context::Context;
use crate::oci::error_code::ErrorCode;
use crate::platform::Platform;
use crate::registry::origin::HttpUrl;
use crate::request::RegistryRequest;
use crate::request::route::Route;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use std::time::Duration;

/// Bytes. Headers of an upstream that are longer together are refused, and so are a client's. Over
/// HTTP/2 an upstream may end the connection for a longer one (nginx does), and with it every other
/// exchange there.
pub const MAX_HEADER: usize = 8 * 1024;

/// Bytes. A longer error document of an upstream is not read.
const MAX_ERROR_DOCUMENT: usize = 16 * 1024;

/// The digest of a manifest or blob (distribution specification 1.1, "Pulling manifests").
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The client's headers that go upstream; `Accept` as often as it was sent. No other header does,
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

/// The upstream's headers that go back to the client: see [`response_headers`]. `Location`, `Link`
/// and `Content-Type` go back changed.
pub static RESPONSE_HEADERS: [HeaderName; 21] = [
    header::ACCEPT_RANGES,
    header::AGE,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::RETRY_AFTER,
    header::VARY,
    header::WARNING,
    CONTENT_DIGEST,
    HeaderName::from_static("docker-ratelimit-source"),
    HeaderName::from_static("oci-filters-applied"),
    HeaderName::from_static("oci-subject"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
];

/// The upstream's limits, as tools read them.
pub const RATE_LIMITS: [HeaderName; 6] = [
    HeaderName::from_static("docker-ratelimit-source"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
];

/// A request to a registry, before it is known which.
#[derive(Clone, Debug)]
pub struct UpstreamRequest<'a> {
    pub method: Method,
    pub route: &'a Route,
    /// Without the question mark; may be empty.
    pub query: &'a str,
    /// Headers of the client that an upstream may see.
    pub headers: HeaderMap,
}

impl<'a> UpstreamRequest<'a> {
    /// Makes the upstream request for a client's request, with those of its headers that an
    /// upstream may see.
    pub fn new(
        request: &'a RegistryRequest,
        client_headers: &HeaderMap,
    ) -> Result<UpstreamRequest<'a>, UpstreamError> {
        let mut headers = HeaderMap::new();
        let mut left = MAX_HEADER;
        let may_pass = |(name, _): &(&HeaderName, _)| REQUEST_HEADERS.contains(name);
        for (name, value) in client_headers.iter().filter(may_pass) {
            let length = name.as_str().len().saturating_add(value.len());
            left = left
                .checked_sub(length)
                .ok_or(UpstreamError::RequestHeadersTooLong)?;
            headers.append(name.clone(), value.clone());
        }
        Ok(UpstreamRequest {
            method: request.method(),
            route: &request.route,
            query: &request.query,
            headers,
        })
    }

    /// Whether this status says that the upstream does not take several ranges of a blob at once
    /// (Google's storage).
    fn refuses_several_ranges(&self, status: StatusCode) -> bool {
        let is_several = |ranges: &HeaderValue| ranges.as_bytes().contains(&b',');
        status == StatusCode::BAD_REQUEST
            && self.route.is_blob()
            && self.headers.get(header::RANGE).is_some_and(is_several)
    }
}

/// A response as a registry or a delivery network sent it, and the URL that it came from in the
/// end.
#[derive(Debug)]
pub struct RawResponse<B> {
    pub response: Response<B>,
    pub url: HttpUrl,
    /// Whether a redirect was followed.
    pub redirected: bool,
    /// What shows that everybody may have it; `None` where no account was needed: see
    /// [`accounts`].
    pub proof: Option<String>,
}

/// A response that may go back to the client: content of a registry, a blob's redirect, or 304.
#[derive(Debug)]
pub struct UpstreamResponse<B> {
    pub status: StatusCode,
    /// The allowed headers, with a checked `Content-Type` and, on a redirect, the `Location` for
    /// the client.
    pub headers: HeaderMap,
    /// The `Link` headers as they came.
    pub links: Vec<HeaderValue>,
    pub body: B,
    pub url: HttpUrl,
    /// Whether a link to the next page has to name the registry: another one than the client asked
    /// answered, or one of several, and only this one knows the cursor.
    pub pins_next_page: bool,
    /// Of a redirect for the client: when its URL stops being good, by this mirror's clock, if the
    /// URL tells.
    pub redirect_ends: Option<Duration>,
    /// The key of the proof that everybody may have it, where it came with an account.
    pub proof: Option<String>,
}

impl<B> RawResponse<UpstreamBody<B>> {
    /// Checks a response, and picks what of it may go back to the client.
    async fn accept<P: Platform<Body = B>>(
        self,
        context: &Context<'_, P>,
        request: &UpstreamRequest<'_>,
    ) -> Result<UpstreamResponse<UpstreamBody<B>>, UpstreamError> {
        let route = request.route;
        let (head, body) = self.response.into_parts();
        let is_content = matches!(
            head.status,
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED
        );
        let is_client_redirect = route.is_blob() && redirect::is_redirect(head.status);
        if !(is_content || is_client_redirect) {
            let code = match body {
                UpstreamBody::Unread(body) if outcome::depends_on_document(route, head.status) => {
                    read_error_code(context, body).await
                }
                _ => None,
            };
            return Err(UpstreamError::from_status(head.status, code, &head.headers));
        }
        let mut headers = response_headers::pick(&request.method, &head.headers)?;
        let mut redirect_ends = None;
        match (route, head.status) {
            (Route::Ping, StatusCode::OK) | (_, StatusCode::NOT_MODIFIED) => {}
            (_, StatusCode::OK | StatusCode::PARTIAL_CONTENT) => {
                let content_type = content_type::for_client(route, head.status, &head.headers)
                    .ok_or(UpstreamError::NotRegistryContent)?;
                headers.insert(header::CONTENT_TYPE, content_type);
            }
            _ => {
                let location = redirect::location(&head.headers)
                    .and_then(|location| redirect::client_location(context, &self.url, location))
                    .ok_or(UpstreamError::Redirect(RedirectError::ClientTarget))?;
                redirect_ends = redirect::ends(&head.headers, &location, context.platform.now());
                headers.insert(header::LOCATION, location);
            }
        }
        Ok(UpstreamResponse {
            status: head.status,
            headers,
            links: head.headers.get_all(header::LINK).iter().cloned().collect(),
            body,
            url: self.url,
            pins_next_page: self.redirected,
            redirect_ends,
            proof: self.proof,
        })
    }
}

/// Reads the code of an upstream's error document, if it is one that ends soon.
async fn read_error_code<P: Platform>(
    context: &Context<'_, P>,
    body: P::Body,
) -> Option<ErrorCode> {
    let read = context.platform.read(body, MAX_ERROR_DOCUMENT);
    let document = context.within_exchange_timeout(read).await?.ok()?;
    ErrorCode::from_document(&document)
}
