//! Decides by its URL whether the component may send a request: the manifest's
//! `allowed_outbound_hosts`. [`crate::egress::blocked_networks`] decides by the address that the
//! host name resolves to.

use anyhow::{Context as _, Result, bail, ensure};
use http::Uri;
use ip_network::IpNetwork;
use std::ops::Range;
use url::{Host, Url};

/// The component's patterns. A URL is allowed if one of them matches.
#[derive(Debug, Default)]
pub struct AllowedHosts(Vec<Pattern>);

/// `scheme://host[:port]`. Each part may be `*`.
#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    scheme: SchemePattern,
    host: HostPattern,
    port: PortPattern,
}

/// The component can send HTTP requests only, so there are no other schemes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SchemePattern {
    Any,
    Http,
    Https,
}

#[derive(Debug, PartialEq, Eq)]
enum HostPattern {
    Any,
    /// `*.example.com`, stored as `.example.com`: the domain itself doesn't match.
    Subdomains(String),
    Exact(Host),
    Network(IpNetwork),
}

#[derive(Debug, PartialEq, Eq)]
enum PortPattern {
    Any,
    Exact(u16),
    /// `8000..8010`, without the end, as in Spin.
    Range(Range<u16>),
}

impl AllowedHosts {
    /// Parses patterns whose templates are expanded. A pattern without a host is skipped: the
    /// variable in its template may be empty. Fails on the first invalid pattern, and names it.
    pub fn parse<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut parsed = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref().trim();
            if matches!(pattern, "" | "http://" | "https://") {
                continue;
            }
            parsed.push(
                Pattern::parse(pattern)
                    .with_context(|| format!("allowed_outbound_hosts: {pattern:?}"))?,
            );
        }
        Ok(Self(parsed))
    }

    /// Whether the component may send a request to `uri`. A relative URI is not allowed.
    pub fn allows(&self, uri: &Uri) -> bool {
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return false;
        };
        // `Url` normalizes other notations of an IP address, such as 0x7f.1.
        let Ok(url) = Url::parse(&format!("{scheme}://{authority}/")) else {
            return false;
        };
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return false;
        };
        let host = host.to_owned();
        self.0
            .iter()
            .any(|pattern| pattern.matches(url.scheme(), &host, port))
    }
}

impl Pattern {
    fn parse(pattern: &str) -> Result<Self> {
        let Some((scheme, rest)) = pattern.split_once("://") else {
            bail!("write it as SCHEME://HOST[:PORT], as in \"https://*:443\"");
        };
        let scheme = SchemePattern::parse(scheme)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            // The colons of an IPv6 network don't separate a port.
            Some((host, port)) if !is_network(rest) => (host, port),
            _ => (rest, ""),
        };
        Ok(Self {
            port: PortPattern::parse(port, scheme)?,
            host: HostPattern::parse(host)?,
            scheme,
        })
    }

    fn matches(&self, scheme: &str, host: &Host, port: u16) -> bool {
        self.scheme.matches(scheme) && self.host.matches(host) && self.port.matches(port)
    }
}

impl SchemePattern {
    fn parse(scheme: &str) -> Result<Self> {
        match scheme {
            "*" => Ok(Self::Any),
            "http" => Ok(Self::Http),
            "https" => Ok(Self::Https),
            _ => bail!("the scheme must be http, https or *; no other is supported by this host"),
        }
    }

    fn matches(self, scheme: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Http => scheme == "http",
            Self::Https => scheme == "https",
        }
    }
}

fn is_network(text: &str) -> bool {
    IpNetwork::from_str_truncate(text).is_ok()
}

impl HostPattern {
    fn parse(host: &str) -> Result<Self> {
        if host == "*" {
            return Ok(Self::Any);
        }
        if host == "self" || host == "self.alt" || host.ends_with(".spin.internal") {
            bail!(
                "requests of the component to itself or its siblings are not supported by this host"
            );
        }
        if let Ok(network) = IpNetwork::from_str_truncate(host) {
            return Ok(Self::Network(network));
        }
        ensure!(!host.contains('/'), "it must not have a path");
        if let Some(domain) = host.strip_prefix("*.") {
            let Host::Domain(domain) = Host::parse(domain).context("the part after `*.`")? else {
                bail!("the part after `*.` must be a domain");
            };
            ensure!(
                !domain.contains('*'),
                "`*` may only be the whole host or its first label"
            );
            return Ok(Self::Subdomains(format!(".{domain}")));
        }
        ensure!(
            !host.contains('*'),
            "`*` may only be the whole host or its first label"
        );
        Ok(Self::Exact(Host::parse(host).context("the host")?))
    }

    fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Subdomains(suffix), Host::Domain(domain)) => domain.ends_with(suffix),
            (Self::Exact(expected), host) => expected == host,
            (Self::Network(network), Host::Ipv4(address)) => network.contains(*address),
            (Self::Network(network), Host::Ipv6(address)) => network.contains(*address),
            (Self::Subdomains(_), _) | (Self::Network(_), Host::Domain(_)) => false,
        }
    }
}

impl PortPattern {
    fn parse(port: &str, scheme: SchemePattern) -> Result<Self> {
        let number = |text: &str| {
            text.parse::<u16>()
                .with_context(|| format!("port {text:?} is not a number"))
        };
        match (port, scheme, port.split_once("..")) {
            ("*", _, _) => Ok(Self::Any),
            ("", SchemePattern::Http, _) => Ok(Self::Exact(80)),
            ("", SchemePattern::Https, _) => Ok(Self::Exact(443)),
            ("", SchemePattern::Any, _) => {
                bail!("the scheme * has no default port; add a port, or `:*` for any")
            }
            (_, _, Some((start, end))) => Ok(Self::Range(number(start)?..number(end)?)),
            (port, _, None) => Ok(Self::Exact(number(port)?)),
        }
    }

    fn matches(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(expected) => *expected == port,
            Self::Range(range) => range.contains(&port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_as_spin_does() {
        let cases = [
            ("https://*:*", "https://example.com:8443/a?b", true),
            ("https://*:*", "http://example.com/", false),
            ("https://*", "https://example.com/", true),
            ("https://*", "https://example.com:443/", true),
            ("https://*", "https://example.com:8443/", false),
            ("http://*", "http://example.com:80/", true),
            ("*://*:*", "http://127.0.0.1:5000/", true),
            ("http://example.com/", "http://example.com/x", true),
            ("http://EXAMPLE.com", "http://example.COM/x", true),
            ("http://example.com", "http://a.example.com/", false),
            ("https://*.example.com", "https://a.example.com/", true),
            ("https://*.example.com", "https://a.b.example.com/", true),
            ("https://*.example.com", "https://example.com/", false),
            ("https://*.example.com", "https://notexample.com/", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/", true),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/", false),
            ("http://127.0.0.0/8:*", "http://127.9.9.9:1/", true),
            ("http://127.0.0.0/8:*", "http://0x7f.1:1/", true),
            ("http://127.0.0.0/8:*", "http://128.0.0.1:1/", false),
            ("http://127.0.0.0/8:*", "http://localhost:1/", false),
            ("https://[::1]:*", "https://[::1]:7/", true),
            ("https://fc00::/7", "https://[fc00::1]/", true),
            ("http://*:8000..8010", "http://a:8000/", true),
            ("http://*:8000..8010", "http://a:8009/", true),
            ("http://*:8000..8010", "http://a:8010/", false),
        ];
        for (pattern, uri, allowed) in cases {
            let hosts = AllowedHosts::parse([pattern]).unwrap();
            assert_eq!(
                hosts.allows(&uri.parse().unwrap()),
                allowed,
                "{pattern} {uri}"
            );
        }
    }

    #[test]
    fn allows_what_one_of_the_patterns_matches() {
        let uri: Uri = "https://b.com/".parse().unwrap();
        assert!(
            AllowedHosts::parse(["https://a.com", "https://b.com"])
                .unwrap()
                .allows(&uri)
        );
        assert!(!AllowedHosts::parse([""; 0]).unwrap().allows(&uri));
        assert!(
            !AllowedHosts::parse(["", "https://", "http://"])
                .unwrap()
                .allows(&uri)
        );
        assert!(
            !AllowedHosts::parse(["*://*:*"])
                .unwrap()
                .allows(&Uri::from_static("/relative"))
        );
    }

    #[test]
    fn names_an_invalid_pattern() {
        let invalid = [
            "*",
            "example.com",
            "https://a.com/path",
            "https://*a.com",
            "https://a.*.com",
            "*://a.com",
            "ht1p://a.com:1",
            "redis://a.com:6379",
            "https://a.com:x",
            "https://a.com:1..x",
            "http://self",
            "https://*.*.com",
            "{a,b}://c:1",
        ];
        for pattern in invalid {
            let error = format!("{:#}", AllowedHosts::parse([pattern]).unwrap_err());
            assert!(error.contains(pattern), "{error}");
        }
    }
}
