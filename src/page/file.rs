//! Files that are embedded in the component, and how they are sent.

use crate::oci::digest::Digest;
use crate::request::route::PageFile;
use crate::response::body::Body;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use std::borrow::Cow;

/// Scripts and styles are files of their own. The speed test connects to the mirrors that it
/// measures, and to wherever they lead.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                           img-src 'self'; connect-src 'self' https: http:; base-uri 'none'; \
                           form-action 'none'; frame-ancestors 'none'";
/// No other file needs anything; scripts have the policy of their page.
const FILE_POLICY: &str = "default-src 'none'; sandbox";
/// A mirror has nothing for search engines.
const ROBOTS: &str = "User-agent: *\nDisallow: /\n";

/// A file as it is sent.
pub struct File {
    pub content_type: &'static str,
    pub content: Cow<'static, str>,
    /// The request headers that it depends on.
    pub vary: Option<&'static str>,
}

impl File {
    /// Makes the response: 304 where the client has the same content.
    pub fn respond<B>(self, request: &HeaderMap, head_only: bool) -> Response<Body<B>> {
        let digest = Digest::of(self.content.as_bytes());
        let hash = digest.as_str().trim_start_matches("sha256:");
        let etag = format!("\"{}\"", hash.get(..32).unwrap_or(hash));
        let mut response = if matches(request, &etag) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            let content = self.content.into_owned().into_bytes();
            Body::respond(StatusCode::OK, content, head_only)
        };
        let is_page = self.content_type.starts_with("text/html");
        let policy = if is_page { PAGE_POLICY } else { FILE_POLICY };
        let etag = HeaderValue::try_from(etag).ok();
        let mut set = |name: HeaderName, value: &'static str| {
            let headers = response.headers_mut();
            headers.insert(name, HeaderValue::from_static(value));
        };
        set(header::CONTENT_TYPE, self.content_type);
        // A new version of the mirror shows at once: its files belong together.
        set(header::CACHE_CONTROL, "no-cache");
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(header::CONTENT_SECURITY_POLICY, policy);
        // The path of a closed mirror is its secret.
        set(header::REFERRER_POLICY, "no-referrer");
        if let Some(vary) = self.vary {
            set(header::VARY, vary);
        }
        let headers = response.headers_mut();
        headers.extend(etag.map(|etag| (header::ETAG, etag)));
        response
    }
}

/// Returns an embedded file.
pub fn embedded(file: PageFile) -> File {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let (content_type, content) = match file {
        PageFile::Style => ("text/css; charset=utf-8", include_str!("page.css")),
        PageFile::Icon => ("image/svg+xml", include_str!("icon.svg")),
        PageFile::Main => (SCRIPT, include_str!("page.js")),
        PageFile::Image => (SCRIPT, include_str!("image.js")),
        PageFile::Speed => (SCRIPT, include_str!("speed.js")),
        PageFile::Sha256 => (SCRIPT, include_str!("sha256.js")),
        PageFile::Robots => ("text/plain; charset=utf-8", ROBOTS),
    };
    File {
        content_type,
        content: content.into(),
        vary: None,
    }
}

/// Whether the client has the content with this tag (RFC 9110, section 13.1.2).
fn matches(request: &HeaderMap, etag: &str) -> bool {
    let values = request.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|tag| tag == etag || tag == "*")
}
