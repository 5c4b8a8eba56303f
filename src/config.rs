//! What the operator can set.

use crate::access::secret::{Access, Secret};
use crate::platform::{Platform, Timeouts};
use crate::policy::Upstream;
use crate::policy::pattern::{HostPattern, RepositoryPattern};
use crate::policy::{Denied, Policy};
use crate::registry::address::RegistryAddress;
use crate::registry::docker_hub::DOCKER_HUB;
use crate::registry::origin::{Authority, InvalidAddress, Scheme};
use std::fmt;
use std::time::Duration;

/// The variables, as in `spin.toml`: name and default.
pub const VARIABLES: [(&str, &str); 19] = [
    ("upstream", DOCKER_HUB),
    ("host_upstreams", ""),
    ("plain_http_upstreams", ""),
    ("allowed_upstreams", "*"),
    ("denied_upstreams", ""),
    ("token_services", "auth.docker.io,ghcr.io"),
    ("allowed_repositories", "*"),
    ("denied_repositories", ""),
    ("manifest_cache", "on"),
    ("tag_ttl", "0"),
    ("max_stale", "86400"),
    ("blob_delivery", "redirect"),
    ("secret", ""),
    ("client_limit", "0"),
    ("trusted_proxies", "0"),
    ("connect_timeout", "5"),
    ("first_byte_timeout", "15"),
    ("between_bytes_timeout", "30"),
    ("exchange_timeout", "30"),
];

/// The variables, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The registries that are asked where a request names none: the first that can help.
    pub upstreams: Vec<Upstream>,
    /// Those that are asked instead under some of the mirror's own names.
    pub host_upstreams: Vec<(Authority, Upstream)>,
    pub policy: Policy,
    pub access: Access,
    /// Whether manifests are kept.
    pub manifest_cache: bool,
    /// How long a tag is taken to point where it did without asking upstream.
    pub tag_ttl: Duration,
    /// How long after that it may be, where the upstream can't be asked.
    pub max_stale: Duration,
    pub blob_delivery: Delivery,
    pub timeouts: Timeouts,
}

/// How a client gets a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is told where the upstream's delivery network has it.
    Redirect,
    /// The mirror fetches it from there.
    Stream,
}

/// A variable whose value can't be understood. The value stays here: it may be a secret that went to the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub variable: &'static str,
    pub expected: &'static str,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the variable {} of this mirror must be {}",
            self.variable, self.expected
        )
    }
}

impl Config {
    pub async fn read(platform: &impl Platform) -> Result<Config, Mistake> {
        let mut values = Vec::with_capacity(VARIABLES.len());
        for (name, default) in VARIABLES {
            // A default in the place of what can't be read might open what the operator has closed.
            let value = platform.variable(name).await;
            let value = value.map_err(|_| Mistake {
                variable: name,
                expected: "readable: its provider failed",
            })?;
            values.push((name, value.unwrap_or_else(|| default.to_owned())));
        }
        Config::parse(|name| {
            values
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.trim())
                .unwrap_or_default()
        })
    }

    /// The upstream that the mirror's own name `host` stands for; an entry without a port is for every port.
    pub fn of_host(&self, host: &Authority) -> Option<&Upstream> {
        let matches = |own: &Authority| {
            own.host == host.host && (own.port.is_none() || own.port == host.port)
        };
        self.host_upstreams
            .iter()
            .find(|(own, _)| matches(own))
            .map(|(_, upstream)| upstream)
    }

    fn parse<'a>(value: impl Fn(&'static str) -> &'a str) -> Result<Config, Mistake> {
        let variables = Variables(&value);
        let plain_http: Vec<Authority> = variables.list(
            "plain_http_upstreams",
            "a comma-separated list of host:port",
            Authority::parse,
        )?;
        let hosts = "a comma-separated list of hosts, host:port, *.domain, or *";
        let repositories =
            "a comma-separated list of names as in docker.io/library/*, ghcr.io/owner/image, or *";
        let named = "a comma-separated list of hosts, host:port, or http(s) URLs of them";
        let upstreams = variables.list("upstream", named, RegistryAddress::parse)?;
        if upstreams.is_empty() {
            return Err(Mistake {
                variable: "upstream",
                expected: named,
            });
        }
        let mut policy = Policy {
            plain_http: plain_http
                .iter()
                .map(|authority| authority.on(Scheme::Http))
                .collect(),
            own: Vec::new(),
            allowed_upstreams: variables.list("allowed_upstreams", hosts, HostPattern::parse)?,
            denied_upstreams: variables.list("denied_upstreams", hosts, HostPattern::parse)?,
            token_services: variables.list("token_services", hosts, HostPattern::parse)?,
            allowed_repositories: variables.list(
                "allowed_repositories",
                repositories,
                RepositoryPattern::parse,
            )?,
            denied_repositories: variables.list(
                "denied_repositories",
                repositories,
                RepositoryPattern::parse,
            )?,
        };
        let hosts = "a comma-separated list of OWN.HOST=REGISTRY, each registry as in upstream";
        let host_upstreams = variables.list("host_upstreams", hosts, |pair| {
            let (own, registry) = pair.split_once('=').ok_or(InvalidAddress)?;
            Ok::<_, InvalidAddress>((
                Authority::parse(own.trim())?,
                RegistryAddress::parse(registry.trim())?,
            ))
        })?;
        let named = upstreams
            .iter()
            .chain(host_upstreams.iter().map(|(_, registry)| registry));
        policy.own = named.map(HostPattern::from).collect();
        policy.allowed_upstreams.extend_from_slice(&policy.own);
        let upstreams: Result<Vec<_>, _> = upstreams
            .iter()
            .map(|upstream| policy.permit_registry(upstream))
            .collect();
        let host_upstreams = host_upstreams
            .into_iter()
            .map(|(own, registry)| Ok((own, policy.permit_registry(&registry)?)));
        let host_upstreams: Result<Vec<_>, Denied> = host_upstreams.collect();
        Ok(Config {
            upstreams: upstreams.map_err(|_| Mistake {
                variable: "upstream",
                expected: "public registries on https; list their host:port in plain_http_upstreams where they are not",
            })?,
            host_upstreams: host_upstreams.map_err(|_| Mistake { variable: "host_upstreams", expected: hosts })?,
            policy,
            access: Access {
                secret: variables.secret("secret")?,
                client_limit: variables.number("client_limit", "a number of requests per minute, or 0 for no limit")?,
                trusted_proxies: variables.number("trusted_proxies", "a small number")?,
            },
            manifest_cache: variables.choice("manifest_cache", "on or off", &[("on", true), ("off", false)])?,
            tag_ttl: variables.seconds("tag_ttl", 0)?,
            max_stale: variables.seconds("max_stale", 0)?,
            blob_delivery: variables.choice(
                "blob_delivery",
                "redirect or stream",
                &[("redirect", Delivery::Redirect), ("stream", Delivery::Stream)],
            )?,
            timeouts: Timeouts {
                connect: variables.seconds("connect_timeout", 1)?,
                first_byte: variables.seconds("first_byte_timeout", 1)?,
                between_bytes: variables.seconds("between_bytes_timeout", 1)?,
                exchange: variables.seconds("exchange_timeout", 1)?,
            },
        })
    }
}

/// Reads values, and says which variable is wrong.
struct Variables<F>(F);

impl<'a, F: Fn(&'static str) -> &'a str> Variables<F> {
    fn list<T, E>(
        &self,
        variable: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, Mistake> {
        let items = (self.0)(variable)
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        items
            .map(|item| parse(item).map_err(|_| Mistake { variable, expected }))
            .collect()
    }

    fn number(&self, variable: &'static str, expected: &'static str) -> Result<u32, Mistake> {
        (self.0)(variable)
            .parse()
            .map_err(|_| Mistake { variable, expected })
    }

    fn choice<T: Copy>(
        &self,
        variable: &'static str,
        expected: &'static str,
        choices: &[(&str, T)],
    ) -> Result<T, Mistake> {
        let chosen = choices.iter().find(|(name, _)| *name == (self.0)(variable));
        chosen
            .map(|(_, choice)| *choice)
            .ok_or(Mistake { variable, expected })
    }

    fn seconds(&self, variable: &'static str, least: u32) -> Result<Duration, Mistake> {
        let expected = match least {
            0 => "a whole number of seconds from 0 to 2592000",
            _ => "a whole number of seconds from 1 to 2592000",
        };
        match self.number(variable, expected)? {
            seconds if (least..=2_592_000).contains(&seconds) => {
                Ok(Duration::from_secs(seconds.into()))
            }
            _ => Err(Mistake { variable, expected }),
        }
    }

    fn secret(&self, variable: &'static str) -> Result<Option<Secret>, Mistake> {
        match (self.0)(variable) {
            "" => Ok(None),
            text => Secret::parse(text).map(Some).map_err(|_| Mistake {
                variable,
                expected: "16 to 128 letters, digits, '-' and '_', or empty",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(changes: &[(&str, &'static str)]) -> Result<Config, Mistake> {
        Config::parse(|name| {
            let change = changes
                .iter()
                .find(|(changed, _)| *changed == name)
                .map(|(_, value)| *value);
            change
                .or_else(|| {
                    VARIABLES
                        .iter()
                        .find(|(known, _)| *known == name)
                        .map(|(_, default)| *default)
                })
                .unwrap()
        })
    }

    #[test]
    fn the_defaults_are_docker_hub_and_those_of_the_manifest() {
        let config = parse(&[]).unwrap();
        assert!(matches!(&config.upstreams[..], [only] if only.is_docker_hub()));
        let manifest: toml::Table = include_str!("../spin.toml").parse().unwrap();
        let declared = manifest["variables"].as_table().unwrap();
        assert_eq!(declared.len(), VARIABLES.len());
        for (name, default) in VARIABLES {
            assert_eq!(declared[name]["default"].as_str(), Some(default), "{name}");
            let passed_on = manifest["component"]["hammal"]["variables"][name]
                .as_str()
                .unwrap();
            assert_eq!(passed_on, format!("{{{{ {name} }}}}"));
        }
    }

    #[test]
    fn names_the_variable_that_is_wrong() {
        for (name, value) in [
            ("upstream", ""),
            ("upstream", "a b"),
            ("upstream", "http://registry.example"),
            ("upstream", "127.0.0.1:5000"),
            ("plain_http_upstreams", "http://registry.lan"),
            ("plain_http_upstreams", "registry.lan registry.example"),
            ("allowed_upstreams", "https://ghcr.io"),
            ("denied_upstreams", "*.*"),
            ("token_services", "a b"),
            ("allowed_repositories", "Library/*"),
            ("denied_repositories", "ghcr.io/?"),
            ("upstream", ","),
            ("upstream", "ghcr.io, a b"),
            ("host_upstreams", "ghcr.mirror.example"),
            ("host_upstreams", "=ghcr.io"),
            ("host_upstreams", "a b=ghcr.io"),
            ("host_upstreams", "ghcr.mirror.example=https://ghcr.io/path"),
            ("host_upstreams", "ghcr.mirror.example=127.0.0.1:5000"),
            ("manifest_cache", "yes"),
            ("tag_ttl", "1h"),
            ("max_stale", "9999999"),
            ("blob_delivery", "auto"),
            ("secret", "short"),
            ("secret", "with a / and more than 16"),
            ("client_limit", "many"),
            ("trusted_proxies", "-1"),
            ("connect_timeout", "0"),
            ("first_byte_timeout", "-1"),
            ("between_bytes_timeout", "1.5"),
            ("exchange_timeout", "99999999999999999999"),
        ] {
            assert_eq!(
                parse(&[(name, value)]).map_err(|mistake| mistake.variable),
                Err(name),
                "{value}"
            );
        }
    }

    #[test]
    fn the_mirrors_own_names_may_stand_for_upstreams() {
        let map = "ghcr.mirror.example=ghcr.io, hub.mirror.example:8080 = docker.io,";
        let config = parse(&[("host_upstreams", map), ("allowed_upstreams", "")]).unwrap();
        for (own, registry) in [
            ("ghcr.mirror.example", Some("https://ghcr.io")),
            ("GHCR.mirror.example:3000", Some("https://ghcr.io")),
            (
                "hub.mirror.example:8080",
                Some("https://registry-1.docker.io"),
            ),
            ("hub.mirror.example", None),
            ("mirror.example", None),
        ] {
            let found = config.of_host(&Authority::parse(own).unwrap());
            assert_eq!(
                found
                    .map(|upstream| upstream.origin().to_string())
                    .as_deref(),
                registry,
                "{own}"
            );
        }
    }

    #[test]
    fn a_plain_http_upstream_needs_to_be_listed() {
        let listed = ("plain_http_upstreams", " 127.0.0.1:5000 , registry.lan:80,");
        for upstream in [
            "127.0.0.1:5000",
            "http://127.0.0.1:5000",
            "http://registry.lan",
        ] {
            let config = parse(&[listed, ("upstream", upstream)]).unwrap();
            assert!(
                config.upstreams[0]
                    .origin()
                    .to_string()
                    .starts_with("http://")
            );
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "\\PC{0,40}") {
            for (name, _) in VARIABLES {
                let _ = Config::parse(|asked| if asked == name { &value } else { "" });
            }
        }
    }
}
