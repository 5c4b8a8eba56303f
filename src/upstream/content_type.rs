//! Media types: which an upstream may send for each resource, and what the client gets.

use super::MAX_HEADER;
use crate::request::route::{Resource, Route};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};

/// Returns the media type that the client gets; `None` where the upstream's is no registry's.
/// Manifests and lists have a media type of a registry; a list may lack one. Blobs have just one,
/// unless several ranges of one come at once: then the type holds the boundary between them.
pub fn for_client(route: &Route, status: StatusCode, headers: &HeaderMap) -> Option<HeaderValue> {
    match route {
        Route::Repository(_, Resource::Blob(_)) => {
            let ranges = headers
                .get(CONTENT_TYPE)
                .filter(|_| status == StatusCode::PARTIAL_CONTENT)
                .filter(|value| value.len() <= MAX_HEADER)
                .filter(|value| essence(value) == "multipart/byteranges");
            let octets = HeaderValue::from_static("application/octet-stream");
            Some(ranges.cloned().unwrap_or(octets))
        }
        Route::Repository(_, Resource::Tags) | Route::Catalog => {
            // Go's HTTP server sends `text/plain` where a handler sets no type.
            let is_list =
                |value: &HeaderValue| is_registry_type(value) || essence(value) == "text/plain";
            let is_list = headers.get(CONTENT_TYPE).is_none_or(is_list);
            is_list.then(|| HeaderValue::from_static("application/json"))
        }
        _ => headers
            .get(CONTENT_TYPE)
            .filter(|value| is_registry_type(value))
            .cloned(),
    }
}

/// Whether a manifest of this type holds its own signatures (Docker's schema 1): its digest is that
/// of what is signed.
pub fn is_signed(value: &HeaderValue) -> bool {
    essence(value).ends_with("+prettyjws")
}

fn is_registry_type(value: &HeaderValue) -> bool {
    let essence = essence(value);
    essence == "application/json"
        || (essence.starts_with("application/vnd.")
            && (essence.ends_with("+json") || essence.ends_with("+prettyjws")))
}

/// Returns a media type without its parameters, in lower case.
fn essence(value: &HeaderValue) -> String {
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}
