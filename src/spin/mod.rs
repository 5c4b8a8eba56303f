//! Spin as the platform, and the entry point that it calls: WASIp3 for Spin 4.1 and later, WASIp2
//! for Spin 3.4 and later. A component is built for one of them; a Cargo feature says which.

use crate::access::rate_limit::CLIENT_ADDRESS;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(feature = "wasip2")]
mod p2;
#[cfg(feature = "wasip3")]
mod p3;

#[cfg(not(any(feature = "wasip2", feature = "wasip3")))]
compile_error!("a component is built with the feature wasip3 or wasip2");
#[cfg(all(feature = "wasip2", feature = "wasip3"))]
compile_error!(
    "wasip2 is built with --no-default-features: a component is for one preview of WASI"
);

/// Bytes that are read at a time of a body whose length is not known.
const READ_SIZE: usize = 16 * 1024;

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Returns a number of the seed that the host gives each instance against guessed hashes.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Writes whole lines in one call: parts of lines of simultaneous requests would mix.
fn log(lines: &str) {
    let _ = std::io::stderr().write_all(lines.as_bytes());
}

/// Returns a buffer for a body that has this `Content-Length`, if it has one, and is read up to
/// `limit` bytes. It has the body's size from the start: one that grows with it is several times as
/// large in the end, and an instance keeps all the memory that it once had.
fn read_buffer(content_length: Option<&Vec<u8>>, limit: usize) -> Vec<u8> {
    let length = content_length.and_then(|it| std::str::from_utf8(it).ok()?.parse::<usize>().ok());
    // One byte more shows the end of the body, or that it is longer.
    Vec::with_capacity(length.unwrap_or(READ_SIZE).min(limit).saturating_add(1))
}

/// Parses headers that the host hands over, without copying their values.
fn header_map(entries: Vec<(String, Vec<u8>)>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::try_with_capacity(entries.len()).ok()?;
    for (name, value) in entries {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(Bytes::from(value)).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

/// Parses the headers of a client's request. Of the headers that Spin adds only the client's
/// address is used.
fn request_headers(mut entries: Vec<(String, Vec<u8>)>) -> Option<HeaderMap> {
    entries.retain(|(name, _)| !name.starts_with("spin-") || CLIENT_ADDRESS == name.as_str());
    header_map(entries)
}

/// Makes the URI of a client's request. The authority, another call of the host, is asked for only
/// where there is no `Host`.
fn request_uri(
    headers: &HeaderMap,
    path: Option<String>,
    authority: impl FnOnce() -> Option<String>,
) -> Option<Uri> {
    let uri = Uri::builder().path_and_query(path.unwrap_or_default());
    let authority = if headers.contains_key(HOST) {
        None
    } else {
        authority()
    };
    match authority {
        Some(authority) => uri.scheme("http").authority(authority),
        None => uri,
    }
    .build()
    .ok()
}

/// Returns headers in the form that the host takes.
fn entries(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Defines the conversions that are alike for both previews of WASI: each has its own types of HTTP
/// error codes, errors of the key-value store, and request options.
macro_rules! conversions {
    ($ErrorCode:ident, $StoreError:path, $RequestOptions:ident) => {
        fn options(timeouts: &Timeouts) -> $RequestOptions {
            let options = $RequestOptions::new();
            // A host that does not support one of them has its own.
            let _ = options.set_connect_timeout(Some(nanoseconds(timeouts.connect)));
            let _ = options.set_first_byte_timeout(Some(nanoseconds(timeouts.first_byte)));
            let _ = options.set_between_bytes_timeout(Some(nanoseconds(timeouts.between_bytes)));
            options
        }

        fn transport_error(code: $ErrorCode) -> TransportError {
            match code {
                $ErrorCode::DnsTimeout | $ErrorCode::DnsError(_) => TransportError::Dns,
                $ErrorCode::DestinationNotFound
                | $ErrorCode::DestinationUnavailable
                | $ErrorCode::DestinationIpUnroutable
                | $ErrorCode::ConnectionRefused
                | $ErrorCode::ConnectionLimitReached => TransportError::Connect,
                $ErrorCode::ConnectionTimeout
                | $ErrorCode::ConnectionReadTimeout
                | $ErrorCode::ConnectionWriteTimeout
                | $ErrorCode::HttpResponseTimeout => TransportError::TimedOut,
                $ErrorCode::TlsProtocolError
                | $ErrorCode::TlsCertificateError
                | $ErrorCode::TlsAlertReceived(_) => TransportError::Tls,
                $ErrorCode::DestinationIpProhibited | $ErrorCode::HttpRequestDenied => {
                    TransportError::Forbidden
                }
                _ => TransportError::Broken,
            }
        }

        fn store_error(error: $StoreError) -> StoreError {
            StoreError(error.to_string())
        }
    };
}
use conversions;
