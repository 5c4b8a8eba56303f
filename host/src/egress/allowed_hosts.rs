//! `allowed_outbound_hosts`: the URLs that the component may ask for, judged by what they say, not where they lead
//! (that is [`crate::egress::blocked_networks`]).

use anyhow::{Context as _, Result, bail, ensure};
use http::Uri;
use ip_network::IpNetwork;
use std::ops::Range;
use url::{Host, Url};

/// All patterns of the component, templates filled.
#[derive(Debug, Default)]
pub struct AllowedHosts(Vec<Pattern>);

/// `scheme://host[:port]`, each part possibly `*`.
#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    /// `None` is any.
    scheme: Option<String>,
    host: HostPattern,
    port: PortPattern,
}

#[derive(Debug, PartialEq, Eq)]
enum HostPattern {
    Any,
    /// `*.domain`, kept as `.domain`: the domain itself doesn't match.
    Below(String),
    Exactly(Host),
    Network(IpNetwork),
}

#[derive(Debug, PartialEq, Eq)]
enum PortPattern {
    Any,
    One(u16),
    /// `8000..8010`, the end excluded, as in Spin.
    Between(Range<u16>),
}

impl AllowedHosts {
    /// Parses patterns whose templates are filled. One that came out empty is skipped: an optional host may be unset.
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

    /// Whether the component may ask for `uri`.
    pub fn allow(&self, uri: &Uri) -> bool {
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return false;
        };
        // Parsed as a URL so that other notations of an address (0x7f.1) are seen as the address that they are.
        let Ok(url) = Url::parse(&format!("{scheme}://{authority}/")) else {
            return false;
        };
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return false;
        };
        let host = host.to_owned();
        self.0
            .iter()
            .any(|pattern| pattern.allows(url.scheme(), &host, port))
    }
}

impl Pattern {
    fn parse(pattern: &str) -> Result<Self> {
        let Some((scheme, rest)) = pattern.split_once("://") else {
            bail!("write it as SCHEME://HOST[:PORT], as in \"https://*:443\"");
        };
        let scheme = match scheme {
            "*" => None,
            scheme => {
                ensure!(
                    !scheme.is_empty() && scheme.chars().all(char::is_alphabetic),
                    "the scheme has only letters"
                );
                Some(scheme.to_owned())
            }
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            // An IPv6 network has colons and no port.
            Some((host, port)) if !is_network(rest) => (host, port),
            _ => (rest, ""),
        };
        Ok(Self {
            port: PortPattern::parse(port, scheme.as_deref())?,
            host: HostPattern::parse(host)?,
            scheme,
        })
    }

    fn allows(&self, scheme: &str, host: &Host, port: u16) -> bool {
        self.scheme.as_deref().is_none_or(|wanted| wanted == scheme)
            && self.host.allows(host)
            && self.port.allows(port)
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
            return Ok(Self::Below(format!(".{domain}")));
        }
        ensure!(
            !host.contains('*'),
            "`*` may only be the whole host or its first label"
        );
        Ok(Self::Exactly(Host::parse(host).context("the host")?))
    }

    fn allows(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Below(suffix), Host::Domain(domain)) => domain.ends_with(suffix),
            (Self::Exactly(wanted), host) => wanted == host,
            (Self::Network(network), Host::Ipv4(address)) => network.contains(*address),
            (Self::Network(network), Host::Ipv6(address)) => network.contains(*address),
            (Self::Below(_), _) | (Self::Network(_), Host::Domain(_)) => false,
        }
    }
}

impl PortPattern {
    fn parse(port: &str, scheme: Option<&str>) -> Result<Self> {
        let number = |text: &str| {
            text.parse::<u16>()
                .with_context(|| format!("port {text:?} is not a number"))
        };
        match (port, scheme, port.split_once("..")) {
            ("*", _, _) => Ok(Self::Any),
            ("", Some("http"), _) => Ok(Self::One(80)),
            ("", Some("https"), _) => Ok(Self::One(443)),
            // Schemes that no request has: Spin's other outbound interfaces, which this host doesn't offer.
            ("", Some("postgres"), _) => Ok(Self::One(5432)),
            ("", Some("mysql"), _) => Ok(Self::One(3306)),
            ("", Some("redis"), _) => Ok(Self::One(6379)),
            ("", Some("mqtt"), _) => Ok(Self::One(1883)),
            ("", _, _) => bail!("this scheme has no default port; add one, or `:*` for any"),
            (_, _, Some((start, end))) => Ok(Self::Between(number(start)?..number(end)?)),
            (port, _, None) => Ok(Self::One(number(port)?)),
        }
    }

    fn allows(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::One(wanted) => *wanted == port,
            Self::Between(range) => range.contains(&port),
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
                hosts.allow(&uri.parse().unwrap()),
                allowed,
                "{pattern} {uri}"
            );
        }
    }

    #[test]
    fn any_pattern_of_several_is_enough_and_none_allows_nothing() {
        let uri: Uri = "https://b.com/".parse().unwrap();
        assert!(
            AllowedHosts::parse(["https://a.com", "https://b.com"])
                .unwrap()
                .allow(&uri)
        );
        assert!(!AllowedHosts::parse([""; 0]).unwrap().allow(&uri));
        assert!(
            !AllowedHosts::parse(["", "https://", "http://"])
                .unwrap()
                .allow(&uri)
        );
        assert!(
            !AllowedHosts::parse(["*://*:*"])
                .unwrap()
                .allow(&Uri::from_static("/relative"))
        );
    }

    #[test]
    fn refuses_malformed_patterns_and_says_which() {
        let malformed = [
            "*",
            "example.com",
            "https://a.com/path",
            "https://*a.com",
            "https://a.*.com",
            "*://a.com",
            "ht1p://a.com:1",
            "https://a.com:x",
            "https://a.com:1..x",
            "http://self",
            "https://*.*.com",
            "{a,b}://c:1",
        ];
        for pattern in malformed {
            let error = format!("{:#}", AllowedHosts::parse([pattern]).unwrap_err());
            assert!(error.contains(pattern), "{error}");
        }
    }
}
