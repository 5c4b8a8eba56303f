//! Headers that let a cache in front of the mirror be right by itself (RFC 9111): content by its
//! digest never changes, everything else has to be asked for again.

use crate::access::Access;
use crate::request::RegistryRequest;
use crate::response::body::Body;
use crate::upstream::CONTENT_DIGEST;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPIRES, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// A year, the most that RFC 9111 recommends to promise.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// The same for one client's own cache: what a login opened is not for others.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");
/// May be stored, and has to be revalidated each time.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");
/// A redirect's URL expires, and an error may pass.
pub const NOT_STORED: HeaderValue = HeaderValue::from_static("no-store");

/// Takes a condition out of `headers` that this mirror judges itself, in [`add_headers`]: one on
/// digests alone, the `ETag`s that it gives to manifests. The request is then answered from the
/// cache like any other.
pub fn take_condition(headers: &mut HeaderMap) {
    let mut conditions = headers.get_all(IF_NONE_MATCH).iter().peekable();
    let is_own = |line: &HeaderValue| entity_tags(line).all(|tag| tag.starts_with("sha256:"));
    if conditions.peek().is_some() && conditions.all(is_own) {
        headers.remove(IF_NONE_MATCH);
    }
}

/// Adds `Cache-Control` and, to a manifest, `ETag` and `Vary`. Answers a condition of the client
/// that the manifest meets with 304.
pub fn add_headers<B>(
    mut response: Response<Body<B>>,
    request: &RegistryRequest,
    client_headers: &HeaderMap,
    access: &Access,
) -> Response<Body<B>> {
    let status = response.status();
    let headers = response.headers_mut();
    if !status.is_success() && status != StatusCode::NOT_MODIFIED {
        headers.insert(CACHE_CONTROL, NOT_STORED);
        return response;
    }
    headers.remove(EXPIRES);
    if request.route.digest().is_some() {
        let is_for_all = access.clients.is_empty();
        headers.insert(CACHE_CONTROL, if is_for_all { IMMUTABLE } else { PRIVATE });
    } else {
        headers.insert(CACHE_CONTROL, REVALIDATE);
        // A tag stands for an index or for the manifest of one platform, as the client accepts.
        if request.route.is_manifest() {
            headers.insert(VARY, HeaderValue::from_static("accept"));
        }
    }
    if status != StatusCode::OK || !request.route.is_manifest() {
        return response;
    }
    let Some(digest) = headers.get(CONTENT_DIGEST).and_then(|it| it.to_str().ok()) else {
        return response;
    };
    let mut conditions = client_headers.get_all(IF_NONE_MATCH).iter();
    let is_met = conditions.any(|line| entity_tags(line).any(|tag| tag == digest));
    if let Ok(etag) = HeaderValue::try_from(format!("\"{digest}\"")) {
        headers.insert(ETAG, etag);
    }
    if is_met {
        headers.remove(CONTENT_LENGTH);
        headers.remove(CONTENT_TYPE);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
    }
    response
}

/// Returns the entity tags of an `If-None-Match`, without quotes and without the mark of weak ones
/// (RFC 9110, section 8.8.3.2). A `*` or anything malformed is an empty one.
fn entity_tags(line: &HeaderValue) -> impl Iterator<Item = &str> {
    let tags = line.to_str().unwrap_or_default().split(',');
    tags.map(|tag| {
        let tag = tag.trim();
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        let quoted = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        quoted.unwrap_or_default()
    })
}
