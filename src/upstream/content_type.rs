//! Media types: which an upstream may send for each resource, and what the client gets. No type
//! goes back as it came: each is parsed and written anew, so that no browser reads another one out
//! of it.

use super::MAX_HEADER;
use crate::oci::media_type::MediaType;
use crate::request::route::{Resource, Route};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};

/// Types that say nothing of a manifest: those of file servers and buckets.
const GENERIC: [&str; 3] = [
    "text/plain",
    "application/octet-stream",
    "binary/octet-stream",
];

/// Returns the media type that the client gets; `None` where the upstream's is no registry's.
/// Manifests and lists have a media type of a registry; a list may lack one. Blobs have just one,
/// unless several ranges of one come at once: then the type holds the boundary between them.
pub fn for_client(route: &Route, status: StatusCode, headers: &HeaderMap) -> Option<HeaderValue> {
    match route {
        Route::Repository(_, Resource::Blob(_)) => match status {
            StatusCode::PARTIAL_CONTENT => of_ranges(headers),
            _ => Some(HeaderValue::from_static("application/octet-stream")),
        },
        Route::Repository(_, Resource::Tags) | Route::Catalog => {
            let is_list = match single(headers) {
                Ok(None) => true,
                // Go's HTTP server sends `text/plain` where a handler sets no type.
                Ok(Some(sent)) => is_registry_type(&sent) || sent.essence() == "text/plain",
                Err(NotSingle) => false,
            };
            is_list.then(|| HeaderValue::from_static("application/json"))
        }
        _ => match single(headers) {
            Ok(Some(sent)) => written_anew(sent),
            _ => None,
        },
    }
}

/// Returns the type of a manifest, written anew; `None` where it is no registry's.
pub fn of_manifest(text: &str) -> Option<HeaderValue> {
    written_anew(MediaType::parse(text)?)
}

/// Whether the headers say nothing of what a manifest is: its body has to tell.
pub fn is_generic(headers: &HeaderMap) -> bool {
    match single(headers) {
        Ok(None) => true,
        Ok(Some(sent)) => GENERIC.contains(&sent.essence()),
        Err(NotSingle) => false,
    }
}

/// Whether a manifest of this type holds its own signatures (Docker's schema 1): its digest is that
/// of what is signed.
pub fn is_signed(value: &HeaderValue) -> bool {
    let parsed = value.to_str().ok().and_then(MediaType::parse);
    parsed.is_some_and(|sent| sent.essence().ends_with("+prettyjws"))
}

/// A `Content-Type` that is no single media type.
struct NotSingle;

/// Returns the media type that the headers name, if they name one.
fn single(headers: &HeaderMap) -> Result<Option<MediaType>, NotSingle> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| NotSingle)?;
    if values.any(|other| other != value) || text.len() > MAX_HEADER {
        return Err(NotSingle);
    }
    match text.trim() {
        "" => Ok(None),
        text => MediaType::parse(text).map(Some).ok_or(NotSingle),
    }
}

/// Returns the type of an answer with ranges of a blob. That of several without a boundary is
/// refused: the client could not read it.
fn of_ranges(headers: &HeaderMap) -> Option<HeaderValue> {
    let octets = HeaderValue::from_static("application/octet-stream");
    match single(headers) {
        Ok(Some(sent)) if sent.essence() == "multipart/byteranges" => {
            let ranges = sent.with_only(&["boundary"], is_boundary);
            ranges.parameter("boundary")?;
            HeaderValue::try_from(ranges.to_string()).ok()
        }
        Ok(_) => Some(octets),
        Err(NotSingle) => {
            let names_parts = |value: &HeaderValue| {
                let text = value.as_bytes().to_ascii_lowercase();
                text.windows(10).any(|part| part == b"multipart/")
            };
            let mut values = headers.get_all(CONTENT_TYPE).iter();
            (!values.any(names_parts)).then_some(octets)
        }
    }
}

/// Whether this is a boundary (RFC 2046, section 5.1.1), without the comma and the blank that it
/// may have there.
fn is_boundary(value: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_-./:=?".contains(&byte);
    (1..=70).contains(&value.len()) && value.bytes().all(is_plain)
}

/// Writes the type of a manifest or list; `None` where it is no registry's. Of its parameters only
/// the charset stays, which some registries send.
fn written_anew(sent: MediaType) -> Option<HeaderValue> {
    if !is_registry_type(&sent) {
        return None;
    }
    let is_charset = |value: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !value.is_empty() && value.bytes().all(is_plain)
    };
    let written = sent.with_only(&["charset"], is_charset);
    HeaderValue::try_from(written.to_string()).ok()
}

fn is_registry_type(sent: &MediaType) -> bool {
    let essence = sent.essence();
    essence == "application/json"
        || (essence.starts_with("application/vnd.")
            && (essence.ends_with("+json") || essence.ends_with("+prettyjws")))
}
