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
/// component always gets it over plain http. Each proxy appends to the list, and the client spoke
/// to the first. It is only shown.
fn scheme(headers: &HeaderMap) -> &'static str {
    let first = |name| {
        let list = headers.get(name)?.to_str().ok()?;
        list.split(',').next()
    };
    // RFC 7239, section 4: `for=192.0.2.1;proto="https"`.
    let of_pair = |pair: &'_ str| {
        let (name, value) = pair.split_once('=')?;
        let is_proto = name.trim().eq_ignore_ascii_case("proto");
        is_proto.then(|| value.trim().trim_matches('"').to_owned())
    };
    let scheme = match first(FORWARDED_PROTO) {
        Some(scheme) => Some(scheme.to_owned()),
        None => first(header::FORWARDED).and_then(|hop| hop.split(';').find_map(of_pair)),
    };
    let is_https = scheme.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"));
    if is_https { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(headers: &[(&str, &str)]) -> String {
        let mut request = Request::get("http://in.the.uri:3000/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        ExternalUrl::from_request(&request.body(()).unwrap(), "/SECRET").url()
    }

    #[test]
    fn is_the_address_that_the_client_used() {
        for (headers, address) in [
            (&[][..], "http://in.the.uri:3000/SECRET"),
            (
                &[("host", "127.0.0.1:3000")],
                "http://127.0.0.1:3000/SECRET",
            ),
            (
                &[
                    ("host", "mirror.example.org"),
                    ("x-forwarded-proto", "https"),
                ],
                "https://mirror.example.org/SECRET",
            ),
        ] {
            assert_eq!(url(headers), address);
        }
    }

    #[test]
    fn the_first_proxy_says_what_the_client_used() {
        for (name, value, scheme) in [
            ("x-forwarded-proto", "https,http", "https"),
            ("x-forwarded-proto", " HTTPS , http", "https"),
            ("x-forwarded-proto", "http, https", "http"),
            ("x-forwarded-proto", "httpsx", "http"),
            ("x-forwarded-proto", "", "http"),
            ("forwarded", "for=192.0.2.1;proto=https;by=a", "https"),
            ("forwarded", "Proto=\"HTTPS\", proto=http", "https"),
            ("forwarded", "for=a, proto=https", "http"),
        ] {
            let url = url(&[(name, value)]);
            assert!(url.starts_with(&format!("{scheme}://")), "{name}: {value}");
        }
    }

    #[test]
    fn a_host_header_that_is_no_host_is_not_shown() {
        for host in ["<script>alert(1)</script>", "a\"b", "a&b", "user@a", "a b"] {
            assert_eq!(
                url(&[("host", host)]),
                "http://mirror.example/SECRET",
                "{host}"
            );
        }
    }
}
