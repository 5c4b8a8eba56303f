//! Where the client finds this mirror.

use crate::registry::origin::Authority;
use http::header::{self, HeaderName};
use http::{HeaderMap, Request};

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The address that the client knows this mirror by. The grammar of its authority leaves nothing that means something in
/// HTML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalUrl {
    scheme: &'static str,
    host: Option<String>,
    mount: String,
}

impl ExternalUrl {
    /// `mount` is what stands in front of every path, such as `/SECRET`, or nothing.
    pub fn of(request: &Request<()>, mount: &str) -> ExternalUrl {
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
            mount: mount.to_owned(),
        }
    }

    /// `None` where the client did not say. Most answers don't depend on it, so it is parsed when it is asked for.
    pub fn authority(&self) -> Option<Authority> {
        Authority::parse(self.host.as_deref()?).ok()
    }

    pub fn mount(&self) -> &str {
        &self.mount
    }

    /// For the examples of the manual.
    pub fn host(&self) -> String {
        self.authority()
            .map_or_else(|| "mirror.example".to_owned(), |own| own.to_string())
    }

    /// For the examples of the manual.
    pub fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.host(), self.mount)
    }
}

/// `https` where something in front of the mirror says that it took the request over TLS: a component is always asked
/// over plain http. It is shown, nothing depends on it.
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
        ExternalUrl::of(&request.body(()).unwrap(), "/mount").url()
    }

    #[test]
    fn is_the_address_that_the_client_used() {
        for (headers, address) in [
            (&[][..], "http://in.the.uri:3000/mount"),
            (&[("host", "127.0.0.1:3000")], "http://127.0.0.1:3000/mount"),
            (
                &[
                    ("host", "mirror.example.org"),
                    ("x-forwarded-proto", "https"),
                ],
                "https://mirror.example.org/mount",
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
                "http://mirror.example/mount",
                "{host}"
            );
        }
    }
}
