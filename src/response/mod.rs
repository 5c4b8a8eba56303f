//! Responses to the client.

pub mod body;
pub mod caching;
pub mod cors;
pub mod error;
pub mod link;
pub mod timing;

use self::body::Body;
use self::error::RegistryError;
use self::link::Page;
use crate::context::Context;
use crate::platform::Platform;
use crate::request::RegistryRequest;
use crate::request::route::Route;
use crate::request::selector::UpstreamSelector;
use crate::upstream::manifest_body::UpstreamBody;
use crate::upstream::{CONTENT_DIGEST, UpstreamResponse};
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LINK,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// Tells containerd that the mirror knows `ns=`.
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// Returns the mirror's own answer to `/v2/` (distribution specification 1.1, end-1).
pub fn ping_response<B>(head_only: bool) -> Response<Body<B>> {
    let mut response = Body::respond(StatusCode::OK, b"{}".to_vec(), head_only);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Makes the client's response from an upstream's.
pub fn from_upstream<P: Platform>(
    context: &Context<'_, P>,
    request: &RegistryRequest,
    upstream: UpstreamResponse<UpstreamBody<P::Body>>,
) -> Response<Body<P::Body>> {
    let UpstreamResponse {
        status,
        mut headers,
        links,
        body,
        url,
        pins_next_page,
        redirect_ends: _,
        proof: _,
    } = upstream;
    if request.route == Route::Ping && status == StatusCode::OK {
        return ping_response(request.head_only);
    }
    // A `HEAD` may have been sent upstream as a `GET`.
    let has_body =
        matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) && !request.head_only;
    if status.is_success() {
        let page = Page {
            links: &links,
            url: &url,
            selector: &request.selector,
            pins_upstream: pins_next_page,
        };
        if let Some(link) = link::rewrite(page, context.external_url) {
            headers.insert(LINK, link);
        }
        if let Some(digest) = request.route.digest()
            && !headers.contains_key(CONTENT_DIGEST)
            && let Ok(digest) = HeaderValue::from_str(digest.as_str())
        {
            headers.insert(CONTENT_DIGEST, digest);
        }
    } else if status != StatusCode::NOT_MODIFIED {
        // The body of a redirect, which no client needs, is not passed on.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let mut response = Response::new(match body {
        _ if !has_body => Body::empty(),
        UpstreamBody::Unread(body) => Body::Upstream(body),
        UpstreamBody::Read(body) => Body::Buffered(body),
    });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Makes the response of an error of this mirror. `request` is `None` if it was not understood.
pub fn from_error<B>(
    error: RegistryError,
    request: Option<&RegistryRequest>,
    head_only: bool,
) -> Response<Body<B>> {
    let mut response = error.into_response(head_only);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, caching::NOT_STORED);
    let selector = request.map_or(&UpstreamSelector::Default, |request| &request.selector);
    add_standard_headers(headers, selector);
    response
}

/// Adds the headers of every response below `/v2/`: the protocol's, and those that keep a browser
/// from rendering what an upstream sent as a page of this mirror.
pub fn add_standard_headers(headers: &mut HeaderMap, selector: &UpstreamSelector) {
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    );
    if let UpstreamSelector::Namespace(namespace) = selector
        && let Ok(namespace) = HeaderValue::from_str(namespace)
    {
        headers.insert(OCI_NAMESPACE, namespace);
    }
}
