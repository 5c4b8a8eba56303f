//! The URL that the client knows this mirror by.

use crate::registry::origin::Authority;
use http::header::{self, HeaderName};
use http::{HeaderMap, Request};

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The URL that the client knows this mirror by. The grammar of its authority has no character that
/// means something in HTML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalUrl {
    scheme: &'static str,
    host: Option<String>,
    path_prefix: String,
}

impl ExternalUrl {
    /// `path_prefix` stands in front of every path: `/SECRET`, or nothing.
    pub fn from_request(request: &Request<()>, path_prefix: &str) -> ExternalUrl {
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|value| value.to_str().ok());
        let host = host.or_else(|| {
            request
                .uri()
                .authority()
                .map(|authority| authority.as_str())
        });
        ExternalUrl {
            scheme: scheme(request.headers()),
            host: host.map(str::to_owned),
            path_prefix: path_prefix.to_owned(),
        }
    }

    /// Returns the mirror's own host; `None` where the request does not name one. It is parsed only
    /// when it is needed.
    pub fn authority(&self) -> Option<Authority> {
        Authority::parse(self.host.as_deref()?).ok()
    }

    pub fn path_prefix(&self) -> &str {
        &self.path_prefix
    }

    /// Returns the host for the examples of the manual.
    pub fn host(&self) -> String {
        self.authority()
            .map_or_else(|| "mirror.example".to_owned(), |own| own.to_string())
    }

    /// Returns the URL for the examples of the manual.
    pub fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.host(), self.path_prefix)
    }
}

/// Returns `https` where a proxy in front of the mirror says that it took the request over TLS: a
/// component always gets it over plain http. It is only shown.
fn scheme(headers: &HeaderMap) -> &'static str {
    if headers
        .get(FORWARDED_PROTO)
        .is_some_and(|value| value == "https")
    {
        "https"
    } else {
        "http"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(headers: &[(&str, &str)]) -> String {
        let mut request = Request::get("http://in.the.uri:3000/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        ExternalUrl::from_request(&request.body(()).unwrap(), "/path_prefix").url()
    }

    #[test]
    fn is_the_address_that_the_client_used() {
        for (headers, address) in [
            (&[][..], "http://in.the.uri:3000/path_prefix"),
            (
                &[("host", "127.0.0.1:3000")],
                "http://127.0.0.1:3000/path_prefix",
            ),
            (
                &[
                    ("host", "mirror.example.org"),
                    ("x-forwarded-proto", "https"),
                ],
                "https://mirror.example.org/path_prefix",
            ),
        ] {
            assert_eq!(url(headers), address);
        }
    }

    #[test]
    fn a_host_header_that_is_no_host_is_not_shown() {
        for host in ["<script>alert(1)</script>", "a\"b", "a&b", "user@a", "a b"] {
            assert_eq!(
                url(&[("host", host)]),
                "http://mirror.example/path_prefix",
                "{host}"
            );
        }
    }
}
