//! Which upstream a request names, read off its path and query, and which upstreams are the
//! operator's own.
//!
//! This is no judgement: the component parses the request and decides. A request that is taken for
//! another upstream's here only waits in another queue.

use http::Uri;
use std::collections::BTreeMap;

/// The host names that stand for Docker Hub.
const DOCKER_HUB: [&str; 4] = [
    "docker.io",
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
];

/// The operator's own upstreams.
#[derive(Clone, Debug, Default)]
pub struct OwnUpstreams {
    /// Host names in lower case, without ports.
    hosts: Vec<String>,
}

impl OwnUpstreams {
    /// Reads those variables of the component that name hosts. The component judges their form.
    pub fn from_variables(variables: &BTreeMap<String, String>) -> Self {
        let names = [
            "upstream",
            "host_upstreams",
            "plain_http_upstreams",
            "token_services",
        ];
        let entries = names
            .iter()
            .filter_map(|name| variables.get(*name))
            .flat_map(|value| value.split(','));
        let mut hosts: Vec<String> = entries
            .map(|entry| {
                entry
                    .rsplit_once('=')
                    .map_or(entry, |(_, registry)| registry)
            })
            .map(host_of)
            .filter(|host| !host.is_empty())
            .collect();
        // The mirror answers `ns=docker.io` from `upstream`, whatever that is.
        hosts.extend(DOCKER_HUB.map(str::to_owned));
        Self { hosts }
    }

    /// Whether `host` is one of the operator's.
    pub fn contains(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own == host)
    }

    /// Whether `host` is one of the operator's, or has its domain: token servers and delivery
    /// networks have names beside that of their registry.
    pub fn contains_domain_of(&self, host: &str) -> bool {
        let domain = domain(host);
        self.contains(host)
            || self.hosts.iter().any(|own| self::domain(own) == domain)
            || domain == "docker.com"
    }

    /// Returns the upstream that a request for `uri` names, in lower case and without a port;
    /// `None` where it names none, or one of the operator's own.
    pub fn named_by_client(&self, uri: &Uri) -> Option<Box<str>> {
        let named = named(uri)?;
        (!self.contains(&named)).then(|| named.into())
    }
}

/// Returns the last two labels of a host name. Token servers and delivery networks of a registry
/// mostly share them with it.
pub fn domain(host: &str) -> &str {
    let mut dots = host.rmatch_indices('.').map(|(at, _)| at);
    match dots.nth(1) {
        Some(at) => &host[at + 1..],
        None => host,
    }
}

/// Returns the host name that a request for `uri` names in one of the mirror's ways:
/// `?upstream=HOST`, `/HOST/v2/…`, `/v2/HOST/…`, `?ns=HOST`.
fn named(uri: &Uri) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    let parameter = |name: &str| {
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| host_of(&value))
    };
    if let Some(host) = parameter("upstream") {
        return Some(host);
    }
    let path = uri.path();
    let (before, after) = path.split_once("/v2/").unwrap_or((path, ""));
    let is_host = |part: &str| part.contains(['.', ':']) || part.contains('%');
    let last = before.rsplit('/').next().unwrap_or_default();
    if is_host(last) {
        return Some(host_of(last));
    }
    match after.split_once('/') {
        Some((first, _)) if is_host(first) => Some(host_of(first)),
        _ => parameter("ns"),
    }
}

/// Returns the host name of an address with or without scheme, port and path, in lower case.
fn host_of(address: &str) -> String {
    let address = address.trim().to_ascii_lowercase();
    let address = address
        .split_once("://")
        .map_or(&*address, |(_, rest)| rest);
    let address = address.split(['/', '?', '#']).next().unwrap_or_default();
    let host = address
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(address, |(host, _)| host);
    host.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> OwnUpstreams {
        let variables = [
            ("upstream", "https://Mirror.Example:8443, quay.io"),
            ("host_upstreams", "ghcr.mirror.example=ghcr.io"),
        ];
        OwnUpstreams::from_variables(
            &variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        )
    }

    #[test]
    fn finds_the_upstream_that_a_client_names_in_each_way() {
        for (uri, named) in [
            ("/v2/", None),
            ("/v2/library/alpine/manifests/3.20", None),
            ("/v2/library/alpine/manifests/3.20?ns=docker.io", None),
            ("/v2/a/b/manifests/1?upstream=QUAY.io", None),
            ("/v2/a/b/manifests/1?upstream=https://mirror.example/", None),
            ("/v2/ghcr.io/a/b/manifests/1", None),
            (
                "/v2/a/b/manifests/1?n=1&upstream=https%3A%2F%2FEvil.example%3A8443",
                Some("evil.example"),
            ),
            ("/v2/evil.example:5000/a/manifests/1", Some("evil.example")),
            ("/evil.example/v2/a/manifests/1", Some("evil.example")),
            (
                "/secret/evil.example/v2/a/manifests/1",
                Some("evil.example"),
            ),
            ("/v2/a/manifests/1?ns=evil.example.", Some("evil.example")),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(own().named_by_client(&uri).as_deref(), named, "{uri}");
        }
    }

    #[test]
    fn the_operators_domains_are_those_of_the_upstreams() {
        let own = own();
        for host in [
            "cdn.quay.io",
            "auth.docker.io",
            "production.cloudflare.docker.com",
            "pkg.mirror.example",
        ] {
            assert!(own.contains_domain_of(host), "{host}");
        }
        assert!(!own.contains_domain_of("quay.io.evil.example"));
    }
}
