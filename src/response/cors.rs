//! What a page of another origin may read in a browser (Fetch standard, "CORS protocol"): an open
//! mirror's registry answers, as a registry UI needs them. No credentials: there are none here that
//! a browser could send. A closed mirror says nothing of this.

use super::body::Body;
use crate::access::Access;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// Those that go upstream; the others of a request are not read.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "Accept, Range, If-Range, If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since",
);
/// Those of an answer that a browser does not show to a page by itself.
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "Accept-Ranges, Age, Cache-Status, Content-Length, Content-Range, Docker-Content-Digest, \
     Docker-Distribution-API-Version, Docker-RateLimit-Source, ETag, Link, OCI-Filters-Applied, \
     OCI-Subject, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, \
     X-RateLimit-Limit, X-RateLimit-Remaining",
);

/// Whether a page of another origin asks, and may read the answer.
pub fn is_shared(access: &Access, headers: &HeaderMap) -> bool {
    !access.is_closed() && headers.contains_key(ORIGIN)
}

/// Returns the answer to a browser that asks whether it may send a request.
pub fn preflight<B>() -> Response<Body<B>> {
    let mut response = Body::respond(StatusCode::NO_CONTENT, Vec::new(), true);
    let headers = response.headers_mut();
    headers.clear();
    let methods = HeaderValue::from_static("GET, HEAD, OPTIONS");
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
    let day = HeaderValue::from_static("86400");
    headers.insert(ACCESS_CONTROL_MAX_AGE, day);
    response
}

/// Lets pages of every origin read an answer.
pub fn allow(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
    headers.append(VARY, HeaderValue::from_static("Origin"));
}
