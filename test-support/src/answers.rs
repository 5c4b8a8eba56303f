//! Responses of registries as they are on the wire.

use serde_json::{Value, json};

use crate::image::Content;
use crate::server::{ReceivedRequest, Reply};

/// Headers of every response of Docker Hub's, and some that the mirror must not pass on.
pub const COMMON: [(&str, &str); 7] = [
    ("docker-distribution-api-version", "registry/2.0"),
    ("ratelimit-limit", "100;w=21600"),
    ("ratelimit-remaining", "99;w=21600"),
    ("docker-ratelimit-source", "192.0.2.1"),
    ("strict-transport-security", "max-age=31536000"),
    ("server", "scripted-registry"),
    ("set-cookie", "session=upstream-secret"),
];

pub fn error(status: u16, code: &str) -> Reply {
    let document =
        json!({ "errors": [{ "code": code, "message": "as scripted", "detail": null }] });
    Reply::new(
        status,
        &[&COMMON[..], &[("content-type", "application/json")]].concat(),
        document.to_string(),
    )
}

/// Content in full, a range of it, or 304: sections 13 and 14 of RFC 9110, as far as clients use
/// them.
pub fn content(received: &ReceivedRequest, content: &Content, media_type: &str) -> Reply {
    let etag = format!("\"{}\"", content.digest);
    let length = content.bytes.len();
    let mut headers = COMMON.to_vec();
    headers.extend([
        ("content-type", media_type),
        ("docker-content-digest", &content.digest),
        ("etag", &etag),
        ("accept-ranges", "bytes"),
    ]);
    if received.header("if-none-match") == Some(&etag) {
        return Reply::new(304, &headers, "");
    }
    let range = received
        .header("range")
        .and_then(|range| range.strip_prefix("bytes="))
        .and_then(|range| {
            let (first, last) = range.split_once('-')?;
            Some(match (first.parse::<usize>(), last.parse::<usize>()) {
                (Err(_), Ok(suffix)) => (length.saturating_sub(suffix), length - 1),
                (first, last) => (first.ok()?, last.unwrap_or(length - 1).min(length - 1)),
            })
        });
    let (status, bytes, content_range) = match range {
        None => (200, content.bytes.clone(), None),
        Some((first, last)) if first < length && first <= last => (
            206,
            content.bytes.slice(first..=last),
            Some(format!("bytes {first}-{last}/{length}")),
        ),
        Some(_) => (416, bytes::Bytes::new(), Some(format!("bytes */{length}"))),
    };
    let content_length = bytes.len().to_string();
    headers.push(("content-length", &content_length));
    if let Some(range) = &content_range {
        headers.push(("content-range", range));
    }
    Reply::new(
        status,
        &headers,
        if received.method == "HEAD" {
            bytes::Bytes::new()
        } else {
            bytes
        },
    )
}

/// One page of a list: `n` entries after `last`, and a `Link` to the next page.
pub fn paged(
    received: &ReceivedRequest,
    path: &str,
    document: impl Fn(&[String]) -> Value,
    entries: Vec<String>,
) -> Reply {
    let query = received.query();
    let value = |name| {
        query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let last = value("last").unwrap_or_default();
    let rest = entries
        .into_iter()
        .filter(|entry| entry.as_str() > last)
        .collect::<Vec<_>>();
    let n = value("n")
        .and_then(|n| n.parse().ok())
        .unwrap_or(rest.len())
        .min(rest.len());
    let (page, rest) = rest.split_at(n);
    let link = format!(
        "</{path}?last={}&n={n}>; rel=\"next\"",
        page.last().map_or("", |last| last)
    );
    let mut headers = [&COMMON[..], &[("content-type", "application/json")]].concat();
    if !rest.is_empty() {
        headers.push(("link", &link));
    }
    Reply::new(200, &headers, document(page).to_string())
}

/// Splits `/v2/NAME/manifests/REFERENCE` and its like into name, kind and reference.
pub fn split(path: &str) -> Option<(&str, &str, &str)> {
    let (rest, reference) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
    let (name, kind) = rest.rsplit_once('/')?;
    Some((name, kind, reference))
}
