//! What a registry's answers look like on the wire.

use serde_json::{Value, json};

use crate::image::Content;
use crate::server::{Reply, Seen};

/// What Docker Hub says with every answer, and what must stop at the mirror.
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

/// Whole, a range of it, or none of it: RFC 9110, sections 13 and 14, as far as clients go.
pub fn content(seen: &Seen, content: &Content, media_type: &str) -> Reply {
    let etag = format!("\"{}\"", content.digest);
    let length = content.bytes.len();
    let mut headers = COMMON.to_vec();
    headers.extend([
        ("content-type", media_type),
        ("docker-content-digest", &content.digest),
        ("etag", &etag),
        ("accept-ranges", "bytes"),
    ]);
    if seen.header("if-none-match") == Some(&etag) {
        return Reply::new(304, &headers, "");
    }
    let range = seen
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
        if seen.method == "HEAD" {
            bytes::Bytes::new()
        } else {
            bytes
        },
    )
}

/// A list, `n` entries at a time, the rest after `last`, by way of `Link`.
pub fn paged(
    seen: &Seen,
    path: &str,
    document: impl Fn(&[String]) -> Value,
    entries: Vec<String>,
) -> Reply {
    let query = seen.query();
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

/// `/v2/NAME/manifests/REFERENCE` and its like, from the right.
pub fn split(path: &str) -> Option<(&str, &str, &str)> {
    let (rest, reference) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
    let (name, kind) = rest.rsplit_once('/')?;
    Some((name, kind, reference))
}
