//! Origins (RFC 6454: a scheme, a host and a port), authorities and URLs.

use std::fmt;
use url::{Host, Url};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    fn parse(text: &str) -> Option<Scheme> {
        match text {
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            _ => None,
        }
    }
}

/// A host and, where one was written, a port: `ghcr.io`, `127.0.0.1:5000`, `[::1]:5000`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    pub host: Host,
    pub port: Option<u16>,
}

/// The scheme, host and port of a URL: what decides which server is contacted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
}

/// An absolute `http` or `https` URL without user information and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    pub origin: Origin,
    /// Begins with `/`; holds only what RFC 3986 allows there.
    pub path_and_query: String,
}

/// Text that is not a host, `host:port` or `http(s)` URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidAddress;

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a host, host:port or http(s) URL")
    }
}

impl std::error::Error for InvalidAddress {}

impl Authority {
    /// Parses a host with or without a port. Refuses what a URL parser would forgive (white space,
    /// `\`, user information, an empty port). Numbers that resolvers take for addresses (`127.1`,
    /// `0x7f000001`) become the address that they mean.
    pub fn parse(text: &str) -> Result<Authority, InvalidAddress> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        if !text.bytes().all(plain) {
            return Err(InvalidAddress);
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, Some(port.parse().map_err(|_| InvalidAddress)?))
            }
            _ => (text, None),
        };
        let host = parse_host(host)?;
        if port == Some(0) {
            return Err(InvalidAddress);
        }
        Ok(Authority { host, port })
    }

    /// Returns the origin with this scheme, and with the scheme's own port where none was written.
    pub fn on(&self, scheme: Scheme) -> Origin {
        Origin {
            scheme,
            host: self.host.clone(),
            port: self.port.unwrap_or(scheme.default_port()),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => self.host.fmt(f),
        }
    }
}

impl Origin {
    /// Returns `host`, or `host:port` where the port is not the scheme's own: the value of a `Host`
    /// header.
    pub fn authority(&self) -> String {
        match &self.host {
            host if self.port != self.scheme.default_port() => format!("{host}:{}", self.port),
            Host::Domain(name) => name.clone(),
            address => address.to_string(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

impl HttpUrl {
    /// Parses an absolute URL.
    pub fn parse(text: &str) -> Result<HttpUrl, InvalidAddress> {
        HttpUrl::from_url(Url::parse(text).map_err(|_| InvalidAddress)?)
    }

    /// Resolves a reference, as a `Location` or `Link` header may hold it, against this URL (RFC
    /// 3986, section 5).
    pub fn join(&self, reference: &str) -> Result<HttpUrl, InvalidAddress> {
        let base = Url::parse(&self.to_string()).map_err(|_| InvalidAddress)?;
        HttpUrl::from_url(base.join(reference).map_err(|_| InvalidAddress)?)
    }

    /// Buckets and services have names with `_`, which are no host names but resolve (RFC 2181,
    /// section 11), and a dot may end a name that is absolute already. The dot goes, so that what
    /// the operator says of a host is said of it in both forms.
    fn from_url(url: Url) -> Result<HttpUrl, InvalidAddress> {
        let scheme = Scheme::parse(url.scheme()).ok_or(InvalidAddress)?;
        let host = match url.host().ok_or(InvalidAddress)?.to_owned() {
            Host::Domain(name) => Host::Domain(name.strip_suffix('.').unwrap_or(&name).to_owned()),
            address => address,
        };
        let well_formed = url.username().is_empty()
            && url.password().is_none()
            && url.port() != Some(0)
            && !matches!(&host, Host::Domain(name) if !is_dns_name(&name.replace('_', "x")));
        if !well_formed {
            return Err(InvalidAddress);
        }
        let path_and_query = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let port = url.port().unwrap_or(scheme.default_port());
        Ok(HttpUrl {
            origin: Origin { scheme, host, port },
            path_and_query,
        })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path_and_query)
    }
}

/// Whether this is a host name (RFC 1123, section 2.1), in lower case and without a dot at its end.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn parse_host(text: &str) -> Result<Host, InvalidAddress> {
    if is_plain_name(text) {
        return Ok(Host::Domain(text.to_owned()));
    }
    match Host::parse(text) {
        Ok(Host::Domain(name)) if !is_dns_name(&name) => Err(InvalidAddress),
        parsed => parsed.map_err(|_| InvalidAddress),
    }
}

/// Whether a URL parser surely leaves this host name as it is: no number, no letters of other
/// scripts. It spares a WASIp2 instance, which parses all settings for its one request, the slow
/// way by the URL parser.
fn is_plain_name(name: &str) -> bool {
    let ends_in_a_number = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.starts_with(|first: char| first.is_ascii_digit()));
    is_dns_name(name) && !ends_in_a_number && !name.contains("xn--")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_authorities() {
        for (text, on_https) in [
            ("ghcr.io", "https://ghcr.io"),
            ("GHCR.io", "https://ghcr.io"),
            ("ghcr.io:443", "https://ghcr.io"),
            ("registry.example:5000", "https://registry.example:5000"),
            ("registry.example:80", "https://registry.example:80"),
            ("localhost:5000", "https://localhost:5000"),
            ("127.0.0.1:5000", "https://127.0.0.1:5000"),
            ("[::1]:5000", "https://[::1]:5000"),
            ("2130706433", "https://127.0.0.1"),
            ("0x7f.1", "https://127.0.0.1"),
        ] {
            let authority = Authority::parse(text).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(authority.on(Scheme::Https).to_string(), on_https);
        }
    }

    #[test]
    fn refuses_what_is_no_authority() {
        for text in [
            "",
            ":",
            ":5000",
            "a:",
            "a:0",
            "a:65536",
            "a:b",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a@b",
            "user:pass@a",
            "a\\b",
            "a\tb",
            "a..b",
            ".a",
            "a.",
            "-a.io",
            "a-.io",
            "a_b.io",
            "é.io",
            "::1",
            "[::1",
            "::1]",
            "[]",
            "1.2.3.999",
            "a%2eb",
        ] {
            assert_eq!(Authority::parse(text), Err(InvalidAddress), "{text:?}");
        }
    }

    #[test]
    fn resolves_references_against_a_url() {
        let base = HttpUrl::parse("https://registry.example/v2/a/blobs/sha256:1?x=1").unwrap();
        for (reference, resolved) in [
            (
                "https://cdn.example/signed?a=%2F&b=1",
                "https://cdn.example/signed?a=%2F&b=1",
            ),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/other?y=2#fragment", "https://registry.example/other?y=2"),
            ("next", "https://registry.example/v2/a/blobs/next"),
            ("../../b", "https://registry.example/v2/b"),
            ("http://127.1/x", "http://127.0.0.1/x"),
            (
                "https://my_bucket.s3.example/x",
                "https://my_bucket.s3.example/x",
            ),
            ("https://_a.example./x", "https://_a.example/x"),
        ] {
            assert_eq!(
                base.join(reference).map(|target| target.to_string()),
                Ok(resolved.to_owned())
            );
        }
        for reference in [
            "ftp://a/b",
            "javascript:alert(1)",
            "https://user@a/",
            "https://u:p@a/",
            "https:///",
            "data:x",
            "https://a..b/",
            "https://a.b../",
            "https://./",
            "https://-a.b/",
        ] {
            assert_eq!(base.join(reference), Err(InvalidAddress), "{reference}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_name_is_what_a_url_parser_makes_of_it(name in "([a-z0-9-]{1,6}\\.){0,3}(xn--)?[a-z0-9-]{1,6}") {
            if is_plain_name(&name) {
                prop_assert_eq!(Host::parse(&name), Ok(Host::Domain(name)));
            }
        }

        #[test]
        fn what_parses_can_be_written_and_parsed_again(text in "(https?://)?\\PC{0,40}") {
            if let Ok(target) = HttpUrl::parse(&text) {
                prop_assert_eq!(HttpUrl::parse(&target.to_string()), Ok(target.clone()));
                prop_assert!(target.to_string().parse::<http::Uri>().is_ok());
            }
            if let Ok(authority) = Authority::parse(&text) {
                let origin = authority.on(Scheme::Https);
                prop_assert_eq!(Authority::parse(&origin.authority()).map(|again| again.on(Scheme::Https)), Ok(origin));
            }
        }
    }
}
