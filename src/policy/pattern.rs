//! Patterns of registries and repositories in the operator's settings.

use super::domain::is_subdomain;
use crate::oci::name::{MAX_LENGTH, Name};
use crate::registry::address::RegistryAddress;
use crate::registry::docker_hub;
use crate::registry::origin::{Authority, Origin};
use url::Host;

/// A registry: `ghcr.io`, `*.example.com`, `registry.example.com:5000`, or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// `*.example.com`: the names below `example.com`, not itself.
    Below(String),
    One(Host),
}

/// Repositories of a registry: `docker.io/library/*`, `ghcr.io/owner/image`. `*` matches any run of
/// characters. Without a registry in front the pattern is about the default upstream, and `*` alone
/// matches every repository of every registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryPattern {
    registry: Registry,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Registry {
    Every,
    Default,
    Matching(HostPattern),
}

/// Which ports a host pattern without a port matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRule {
    /// The scheme's own port: opening a host does not open its other services.
    SchemeDefault,
    /// Every port: closing a host closes all of it.
    Any,
}

/// Text that is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPattern;

impl HostPattern {
    pub fn parse(text: &str) -> Result<HostPattern, InvalidPattern> {
        if text == "*" {
            return Ok(HostPattern {
                hosts: Hosts::All,
                port: None,
            });
        }
        let (below, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let Authority { host, port } = Authority::parse(rest).map_err(|_| InvalidPattern)?;
        let hosts = match (below, host) {
            (true, Host::Domain(name)) => Hosts::Below(name),
            (true, _) => return Err(InvalidPattern),
            (false, host) => Hosts::One(docker_hub::canonical_host(host)),
        };
        Ok(HostPattern { hosts, port })
    }

    /// The one host.
    fn one(Authority { host, port }: Authority) -> HostPattern {
        HostPattern {
            hosts: Hosts::One(host),
            port,
        }
    }

    pub fn is_all(&self) -> bool {
        self.hosts == Hosts::All
    }

    pub fn matches(&self, origin: &Origin, port_rule: PortRule) -> bool {
        let host = match (&self.hosts, &origin.host) {
            (Hosts::All, _) => return true,
            (Hosts::Below(apex), Host::Domain(name)) => is_subdomain(name, apex),
            (Hosts::Below(_), _) => false,
            (Hosts::One(one), host) => docker_hub::are_same_registry(one, host),
        };
        let port = match (self.port, port_rule) {
            (Some(port), _) => port == origin.port,
            (None, PortRule::SchemeDefault) => origin.port == origin.scheme.default_port(),
            (None, PortRule::Any) => true,
        };
        host && port
    }
}

/// The pattern that matches this registry and no other.
impl From<&RegistryAddress> for HostPattern {
    fn from(named: &RegistryAddress) -> HostPattern {
        HostPattern::one(named.authority().clone())
    }
}

impl RepositoryPattern {
    pub fn parse(text: &str) -> Result<RepositoryPattern, InvalidPattern> {
        if text == "*" {
            return Ok(RepositoryPattern {
                registry: Registry::Every,
                name: "*".to_owned(),
            });
        }
        let (registry, name) = match text.split_once('/') {
            Some((host, name)) if host.contains(['.', ':']) => {
                (Registry::Matching(HostPattern::parse(host)?), name)
            }
            _ => (Registry::Default, text),
        };
        let plain = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/*".contains(&byte)
        };
        if name.is_empty() || name.len() > MAX_LENGTH || !name.bytes().all(plain) {
            return Err(InvalidPattern);
        }
        Ok(RepositoryPattern {
            registry,
            name: name.to_owned(),
        })
    }

    pub fn is_all(&self) -> bool {
        self.registry == Registry::Every
    }

    /// Whether the pattern is about repositories of this registry.
    pub fn applies_to(&self, origin: &Origin, is_default: bool) -> bool {
        match &self.registry {
            Registry::Every => true,
            Registry::Default => is_default,
            Registry::Matching(pattern) => pattern.matches(origin, PortRule::Any),
        }
    }

    pub fn matches(&self, origin: &Origin, is_default: bool, name: &Name) -> bool {
        let matches = |name: &str| is_match(self.name.as_bytes(), name.as_bytes());
        // On Docker Hub an operator may write a name as people pull it, or as the registry calls
        // it.
        let pulled_as =
            || docker_hub::short_name(name).filter(|_| docker_hub::is_docker_hub(origin));
        self.applies_to(origin, is_default)
            && (matches(name.as_str()) || pulled_as().is_some_and(matches))
    }
}

/// Whether `text` matches `pattern`, in which `*` matches any run of bytes. Takes time in
/// proportion to the product of both lengths at most: it never goes back behind the last `*`.
fn is_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    let mut last_star = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (Some((b'*', rest)), _) => {
                last_star = Some((rest, text));
                pattern = rest;
            }
            (Some((wanted, wanted_rest)), Some((byte, rest))) if wanted == byte => {
                (pattern, text) = (wanted_rest, rest)
            }
            (None, None) => return true,
            _ => match last_star {
                Some((after, [_, rest @ ..])) => {
                    last_star = Some((after, rest));
                    (pattern, text) = (after, rest);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::origin::Scheme;
    use proptest::prelude::*;

    fn origin(text: &str) -> Origin {
        Authority::parse(text).unwrap().on(Scheme::Https)
    }

    #[test]
    fn host_patterns_match_what_they_say() {
        for (pattern, host, opens, closes) in [
            ("*", "ghcr.io", true, true),
            ("ghcr.io", "ghcr.io", true, true),
            ("GHCR.io", "ghcr.io", true, true),
            ("ghcr.io", "ghcr.io:8443", false, true),
            ("ghcr.io:8443", "ghcr.io:8443", true, true),
            ("ghcr.io:8443", "ghcr.io", false, false),
            ("ghcr.io", "x.ghcr.io", false, false),
            ("*.example.com", "a.example.com", true, true),
            ("*.example.com", "a.b.example.com", true, true),
            ("*.example.com", "example.com", false, false),
            ("*.example.com", "badexample.com", false, false),
            ("docker.io", "registry-1.docker.io", true, true),
            ("docker.io", "index.docker.io", true, true),
            (
                "registry-1.docker.io",
                "registry.hub.docker.com",
                true,
                true,
            ),
            ("docker.io", "auth.docker.io", false, false),
        ] {
            let parsed = HostPattern::parse(pattern).unwrap();
            let matches = |port_rule| parsed.matches(&origin(host), port_rule);
            assert_eq!(
                (matches(PortRule::SchemeDefault), matches(PortRule::Any)),
                (opens, closes),
                "{pattern} {host}"
            );
        }
        for bad in [
            "",
            "**",
            "*example.com",
            "a.*.b",
            "*.1.2.3.4",
            "https://a.io",
            "a/b",
            "a b",
            "*.",
        ] {
            assert_eq!(HostPattern::parse(bad), Err(InvalidPattern), "{bad}");
        }
    }

    #[test]
    fn repository_patterns_match_what_they_say() {
        for (pattern, host, name, expected) in [
            ("*", "ghcr.io", "a/b", true),
            ("ghcr.io/*", "ghcr.io", "a/b", true),
            ("ghcr.io/a/*", "ghcr.io", "b/a/c", false),
            ("ghcr.io/a/b", "ghcr.io", "a/b", true),
            ("ghcr.io/a/b", "ghcr.io", "a/bc", false),
            (
                "docker.io/library/*",
                "registry-1.docker.io",
                "library/alpine",
                true,
            ),
            ("library/*", "registry-1.docker.io", "library/alpine", true),
            ("library/*", "ghcr.io", "library/alpine", false),
            (
                "docker.io/alpine",
                "registry-1.docker.io",
                "library/alpine",
                true,
            ),
            ("alpine", "registry-1.docker.io", "library/alpine", true),
            ("alpine", "registry-1.docker.io", "team/alpine", false),
            ("ghcr.io/alpine", "ghcr.io", "library/alpine", false),
            (
                "*/mirror-*-x",
                "registry-1.docker.io",
                "a/mirror-b-c-x",
                true,
            ),
            ("*.example.com/team/*", "r.example.com", "team/x", true),
        ] {
            let parsed = RepositoryPattern::parse(pattern).unwrap();
            let is_default = host == "registry-1.docker.io";
            assert_eq!(
                parsed.matches(&origin(host), is_default, &Name::parse(name).unwrap()),
                expected,
                "{pattern} {host} {name}"
            );
        }
        for bad in ["", "ghcr.io/", "Library/*", "a b", "ghcr.io/a?b", "**.io/x"] {
            assert_eq!(RepositoryPattern::parse(bad), Err(InvalidPattern), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_star_matches_any_run(before in "[a-z/]{0,9}", run in "[a-z/]{0,9}", after in "[a-z/]{0,9}") {
            let pattern = format!("{before}*{after}");
            let text = format!("{before}{run}{after}");
            prop_assert!(is_match(pattern.as_bytes(), text.as_bytes()));
            prop_assert_eq!(is_match(before.as_bytes(), text.as_bytes()), before == text);
        }

        #[test]
        fn no_pattern_panics(text in "\\PC{0,30}") {
            let _ = (HostPattern::parse(&text), RepositoryPattern::parse(&text));
        }
    }
}
