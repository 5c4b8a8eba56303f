//! The settings of the blob store: where it is, and who may use it.

use crate::registry::origin::{HttpUrl, Origin};
use std::fmt;
use url::Host;

/// Bytes. S3 takes no larger object by one `PUT`.
const MAX_PUT: u64 = 5 << 30;

/// A bucket that is spoken to in S3's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobStoreConfig {
    pub origin: Origin,
    /// The `Host` of requests: a port only where it is not the scheme's own.
    pub host: String,
    /// Stands before the name of every object: begins and ends with `/`.
    pub path: String,
    pub region: String,
    pub credentials: Credentials,
    /// A public name of the bucket, or a delivery network in front of it: origin and path, which
    /// ends with `/`. Without one, clients get presigned URLs.
    pub public_url: Option<(Origin, String)>,
    /// Bytes. A larger blob is not kept.
    pub max_blob: u64,
    /// Bytes. No copy begins in a minute in which as many have begun; 0 is no limit.
    pub bytes_per_minute: u64,
}

impl BlobStoreConfig {
    /// Returns the host that clients are sent to.
    pub fn client_host(&self) -> &Host {
        let public = self.public_url.as_ref().map(|(origin, _)| origin);
        &public.unwrap_or(&self.origin).host
    }
}

/// The key that requests are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
}

/// Nothing prints a key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// Parses a URL under which objects live. Of its path only characters that every store signs as
/// they are pass: others percent-encode them in their own ways.
pub fn parse_url(text: &str) -> Option<(Origin, String)> {
    let HttpUrl {
        origin,
        path_and_query: mut path,
    } = HttpUrl::parse(text).ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    // A URL parser drops a fragment.
    if text.contains(['#', '?']) || !path.bytes().all(is_plain) || path.contains("//") {
        return None;
    }
    if !path.ends_with('/') {
        path.push('/');
    }
    Some((origin, path))
}

/// Parses a region: a part of what is signed, and of a header.
pub fn parse_region(text: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let well_formed = !text.is_empty() && text.len() <= 64 && text.bytes().all(is_plain);
    well_formed.then(|| text.to_owned())
}

/// Parses an access key: a part of a list in a header, which a comma or a slash would end.
pub fn parse_access_key(text: &str) -> Option<String> {
    parse_key(text).filter(|key| !key.contains('/'))
}

/// Parses a key.
pub fn parse_key(text: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    let well_formed = !text.is_empty() && text.len() <= 512 && text.bytes().all(is_plain);
    well_formed.then(|| text.to_owned())
}

/// Parses `blob_store_max_blob`.
pub fn parse_max_blob(text: &str) -> Option<u64> {
    text.parse()
        .ok()
        .filter(|bytes| (1..=MAX_PUT).contains(bytes))
}
