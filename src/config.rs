//! The operator's settings: the variables of `spin.toml`, parsed.

pub mod blob_store;

use self::blob_store::{BlobStoreConfig, Credentials};
use crate::access::Access;
use crate::access::account::{self, Account};
use crate::access::secret::Secret;
use crate::oci::name::Name;
use crate::platform::log_line::{self, LogFormat};
use crate::platform::{Platform, Timeouts};
use crate::policy::Policy;
use crate::policy::candidates::Candidates;
use crate::policy::pattern::{HostPattern, RepositoryPattern};
use crate::policy::permitted::{Denied, Upstream};
use crate::registry::account::{Accounts, Serves};
use crate::registry::address::RegistryAddress;
use crate::registry::docker_hub::DOCKER_HUB;
use crate::registry::origin::{Authority, HttpUrl, InvalidAddress, Scheme};
use crate::request::external_url::ExternalUrl;
use crate::request::selector::UpstreamSelector;
use std::fmt;
use std::time::Duration;

/// The variables of `spin.toml`: name and default.
pub const VARIABLES: [(&str, &str); 35] = [
    ("upstream", DOCKER_HUB),
    ("host_upstreams", ""),
    ("plain_http_upstreams", ""),
    ("allowed_upstreams", "*"),
    ("denied_upstreams", ""),
    ("token_services", "auth.docker.io,ghcr.io"),
    ("upstream_credentials", ""),
    ("credentials_serve", "public"),
    ("allowed_repositories", "*"),
    ("denied_repositories", ""),
    ("store", "on"),
    ("manifest_cache", "on"),
    ("tag_ttl", "0"),
    ("max_stale", "86400"),
    ("blob_delivery", "redirect"),
    ("blob_store", ""),
    ("blob_store_region", "us-east-1"),
    ("blob_store_access_key", ""),
    ("blob_store_secret_key", ""),
    ("blob_store_public_url", ""),
    ("blob_store_repositories", "*"),
    ("blob_store_max_blob", "5368709120"),
    ("blob_store_bytes_per_minute", "0"),
    ("secret", ""),
    ("clients", ""),
    ("client_limit", "0"),
    ("trusted_proxies", "0"),
    ("page", "on"),
    (log_line::VARIABLE, "logfmt"),
    ("server_timing", "off"),
    ("private_networks", "any"),
    ("connect_timeout", "5"),
    ("first_byte_timeout", "15"),
    ("between_bytes_timeout", "30"),
    ("exchange_timeout", "30"),
];

/// Returns the setting without which another one has no effect. Where it is empty, as it is by
/// default, the other is not read: on WASIp2 each request reads all, each by a call of the host.
fn needs(variable: &str) -> Option<&'static str> {
    match variable {
        "credentials_serve" => Some("upstream_credentials"),
        _ if variable.starts_with("blob_store_") => Some("blob_store"),
        _ => None,
    }
}

/// Seconds. No setting may be longer (30 days).
const MAX_SECONDS: u32 = 2_592_000;

/// The settings. `docs/configuration.md` describes each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The registries that are asked where a request names none, in order.
    pub upstreams: Candidates,
    /// The registries that are asked instead under some of the mirror's own host names.
    pub host_upstreams: Vec<(Authority, Upstream)>,
    pub policy: Policy,
    /// The operator's accounts at registries.
    pub accounts: Accounts,
    pub access: Access,
    /// Whether the mirror is ready only where the host refuses to connect to private networks.
    pub needs_closed_networks: bool,
    /// Whether the key-value store is used.
    pub store: bool,
    /// Whether manifests are cached.
    pub manifest_cache: bool,
    /// For how long a tag is answered from the cache without asking the upstream.
    pub tag_ttl: Duration,
    /// How old a tag may be that is answered from the cache because the upstream fails.
    pub max_stale: Duration,
    /// Where there is a secret, blobs are streamed whatever the variable says: a client that
    /// follows a redirect tells the other host by `Referer` the URL that it came from, the secret
    /// in it.
    pub blob_delivery: BlobDelivery,
    /// Where blobs and manifests are kept; `None` is nowhere.
    pub blob_store: Option<BlobStoreConfig>,
    pub page: PageMode,
    pub log_format: LogFormat,
    /// Whether answers tell where their time went.
    pub server_timing: bool,
    pub timeouts: Timeouts,
}

/// How a client gets a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobDelivery {
    /// The upstream's redirect to its delivery network goes back to the client.
    Redirect,
    /// The mirror follows the redirect and streams the blob.
    Stream,
}

/// Whether the mirror has a page for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageMode {
    On,
    Off,
    /// Visitors are sent there.
    Elsewhere(HttpUrl),
}

/// A setting whose value can't be used. It does not hold the value, which may be a secret in the
/// wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub variable: &'static str,
    /// Completes "must be …".
    pub expected: &'static str,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigError { variable, expected } = self;
        write!(
            f,
            "the variable {variable} of this mirror must be {expected}"
        )
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and parses the variables.
    pub async fn read(platform: &impl Platform) -> Result<Config, ConfigError> {
        let mut values: Vec<(&str, String)> = Vec::with_capacity(VARIABLES.len());
        for (name, default) in VARIABLES {
            let is_empty = |other| {
                values
                    .iter()
                    .any(|(known, it)| *known == other && it.trim().is_empty())
            };
            if needs(name).is_some_and(is_empty) {
                values.push((name, default.to_owned()));
                continue;
            }
            // A default instead of a value that can't be read might open what the operator has
            // closed.
            let value = platform.variable(name).await.map_err(|_| ConfigError {
                variable: name,
                expected: "readable: its provider failed",
            })?;
            values.push((name, value.unwrap_or_else(|| default.to_owned())));
        }
        Config::parse(|name| {
            let value = values.iter().find(|(known, _)| *known == name);
            value.map(|(_, value)| value.trim()).unwrap_or_default()
        })
    }

    /// Whether answers may hold what not everybody may read: then no shared cache keeps them.
    pub fn answers_are_private(&self) -> bool {
        !self.access.clients.is_empty() || self.accounts.serves == Serves::All
    }

    /// Whether the content of a repository is kept in the blob store. What an account serves that not
    /// everybody may read is not: whoever has an object's URL has the object.
    pub fn keeps(&self, upstream: &Upstream, name: &Name) -> bool {
        let serves_all = self.accounts.serves == Serves::All;
        let is_private = serves_all && self.accounts.has_any_at(upstream.origin());
        !is_private && self.policy.keeps(upstream, name)
    }

    /// Returns the upstream that a request names: by a registry, or by the mirror's own host name
    /// that it came to; `None` where it names none.
    pub fn named_upstream(
        &self,
        selector: &UpstreamSelector,
        registry: Option<&RegistryAddress>,
        external_url: &ExternalUrl,
    ) -> Result<Option<Upstream>, Denied> {
        match registry {
            Some(registry) => self.policy.permit_registry(registry).map(Some),
            // Parsing the host costs time: only with `host_upstreams`.
            None if *selector == UpstreamSelector::Default && !self.host_upstreams.is_empty() => {
                let own = external_url.authority();
                Ok(own.and_then(|own| self.upstream_for_host(&own).cloned()))
            }
            None => Ok(None),
        }
    }

    /// Returns the key of what is cached of a repository. What accounts may read that serve all of
    /// it is found with the same accounts only, and as long as they do.
    pub fn repository_key(&self, candidates: &Candidates, name: &Name) -> String {
        let mut key = candidates.repository_key(name);
        if self.accounts.serves == Serves::All {
            let origins = candidates.iter().map(Upstream::origin);
            for account in origins.flat_map(|origin| self.accounts.at(origin)) {
                key.push('\n');
                key.push_str(&account.cache_key());
            }
        }
        key
    }

    /// Returns the upstream that the mirror's own host name stands for. An entry without a port is
    /// for every port.
    pub fn upstream_for_host(&self, host: &Authority) -> Option<&Upstream> {
        let matches = |own: &Authority| {
            own.host == host.host && (own.port.is_none() || own.port == host.port)
        };
        let entry = self.host_upstreams.iter().find(|(own, _)| matches(own));
        entry.map(|(_, upstream)| upstream)
    }

    fn parse<'a>(value: impl Fn(&'static str) -> &'a str) -> Result<Config, ConfigError> {
        let variables = Variables(&value);
        let registries = "a comma-separated list of hosts, host:port, or http(s) URLs of them";
        let upstreams = variables.list("upstream", registries, RegistryAddress::parse)?;
        let own_hosts = "a comma-separated list of OWN.HOST=REGISTRY, each registry as in upstream";
        let host_upstreams = variables.list("host_upstreams", own_hosts, |pair| {
            let (own, registry) = pair.split_once('=').ok_or(InvalidAddress)?;
            let own = Authority::parse(own.trim())?;
            Ok::<_, InvalidAddress>((own, RegistryAddress::parse(registry.trim())?))
        })?;
        let of_host = host_upstreams.iter().map(|(_, registry)| registry);
        let own = upstreams.iter().chain(of_host).map(HostPattern::from);
        let mut policy = variables.policy(own.collect())?;

        let upstreams: Result<Vec<_>, Denied> = upstreams
            .iter()
            .map(|registry| policy.permit_registry(registry))
            .collect();
        let upstreams = upstreams.map_err(|_| ConfigError {
            variable: "upstream",
            expected: "public registries on https; list their host:port in plain_http_upstreams \
                       where they are not",
        })?;
        let host_upstreams: Result<Vec<_>, Denied> = host_upstreams
            .into_iter()
            .map(|(own, registry)| Ok((own, policy.permit_registry(&registry)?)))
            .collect();
        let host_upstreams = host_upstreams.map_err(|_| ConfigError {
            variable: "host_upstreams",
            expected: own_hosts,
        })?;
        policy.defaults = upstreams
            .iter()
            .map(|upstream| upstream.origin().clone())
            .collect();
        let access = variables.access()?;
        let accounts = variables.accounts(&policy, &access)?;
        let blob_store = variables.blob_store()?;
        policy.blob_store = blob_store.as_ref().map(|store| store.origin.clone());
        let blob_delivery = variables.choice(
            "blob_delivery",
            "redirect or stream",
            &[
                ("redirect", BlobDelivery::Redirect),
                ("stream", BlobDelivery::Stream),
            ],
        )?;
        Ok(Config {
            upstreams: Candidates::new(upstreams).ok_or(ConfigError {
                variable: "upstream",
                expected: registries,
            })?,
            host_upstreams,
            policy,
            accounts,
            needs_closed_networks: variables.choice(
                "private_networks",
                "any or closed",
                &[("any", false), ("closed", true)],
            )?,
            store: variables.switch("store")?,
            manifest_cache: variables.switch("manifest_cache")?,
            tag_ttl: variables.seconds("tag_ttl", 0)?,
            max_stale: variables.seconds("max_stale", 0)?,
            blob_delivery: match access.secret {
                Some(_) => BlobDelivery::Stream,
                None => blob_delivery,
            },
            blob_store,
            access,
            page: variables.page("page")?,
            log_format: variables.choice(
                log_line::VARIABLE,
                "logfmt or json",
                &log_line::FORMATS,
            )?,
            server_timing: variables.switch("server_timing")?,
            timeouts: Timeouts {
                connect: variables.seconds("connect_timeout", 1)?,
                first_byte: variables.seconds("first_byte_timeout", 1)?,
                between_bytes: variables.seconds("between_bytes_timeout", 1)?,
                exchange: variables.seconds("exchange_timeout", 1)?,
            },
        })
    }
}

/// Parses values, and names the variable whose value is wrong.
struct Variables<F>(F);

impl<'a, F: Fn(&'static str) -> &'a str> Variables<F> {
    /// `own` are the registries of `upstream` and `host_upstreams`, which are always allowed.
    fn policy(&self, own: Vec<HostPattern>) -> Result<Policy, ConfigError> {
        let hosts = "a comma-separated list of hosts, host:port, *.domain, or *";
        let host_patterns = |variable| self.list(variable, hosts, HostPattern::parse);
        let repositories = "a comma-separated list of names as in docker.io/library/*, \
                            ghcr.io/owner/image, or *";
        let repository_patterns =
            |variable| self.list(variable, repositories, RepositoryPattern::parse);
        let plain_http = self.list(
            "plain_http_upstreams",
            "a comma-separated list of host:port",
            Authority::parse,
        )?;
        let mut allowed_upstreams = host_patterns("allowed_upstreams")?;
        allowed_upstreams.extend_from_slice(&own);
        Ok(Policy {
            defaults: Vec::new(),
            plain_http: plain_http
                .iter()
                .map(|authority| authority.on(Scheme::Http))
                .collect(),
            own,
            allowed_upstreams,
            denied_upstreams: host_patterns("denied_upstreams")?,
            token_services: host_patterns("token_services")?,
            allowed_repositories: repository_patterns("allowed_repositories")?,
            denied_repositories: repository_patterns("denied_repositories")?,
            kept_repositories: repository_patterns("blob_store_repositories")?,
            blob_store: None,
        })
    }

    fn blob_store(&self) -> Result<Option<BlobStoreConfig>, ConfigError> {
        let url = "an http(s) URL of a bucket, such as https://bucket.s3.example/ or \
                   https://s3.example/bucket/prefix/, or empty";
        let region = self.parsed(
            "blob_store_region",
            "the name of a region, such as us-east-1",
            blob_store::parse_region,
        )?;
        let max_blob = self.parsed(
            "blob_store_max_blob",
            "a number of bytes from 1 to 5368709120",
            blob_store::parse_max_blob,
        )?;
        let bytes_per_minute = self.parsed(
            "blob_store_bytes_per_minute",
            "a number of bytes, or 0 for no limit",
            |text| text.parse().ok(),
        )?;
        let public_url = match (self.0)("blob_store_public_url") {
            "" => None,
            _ => Some(self.parsed("blob_store_public_url", url, blob_store::parse_url)?),
        };
        if (self.0)("blob_store").is_empty() {
            return Ok(None);
        }
        let (origin, path) = self.parsed("blob_store", url, blob_store::parse_url)?;
        let key = "set where blob_store is: letters, digits and signs, without a comma";
        let access_key = self.parsed("blob_store_access_key", key, blob_store::parse_access_key)?;
        let secret_key = self.parsed("blob_store_secret_key", key, blob_store::parse_key)?;
        Ok(Some(BlobStoreConfig {
            host: origin.authority(),
            origin,
            path,
            region,
            credentials: Credentials {
                access_key,
                secret_key,
            },
            public_url,
            max_blob,
            bytes_per_minute,
        }))
    }

    fn parsed<T>(
        &self,
        variable: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        parse((self.0)(variable)).ok_or(ConfigError { variable, expected })
    }

    fn access(&self) -> Result<Access, ConfigError> {
        Ok(Access {
            secret: self.secret("secret")?,
            clients: self.clients("clients")?,
            client_limit: self.number(
                "client_limit",
                "a number of requests per minute, or 0 for no limit",
            )?,
            trusted_proxies: self.number("trusted_proxies", "a small number")?,
        })
    }

    /// With an open mirror an account serves what is public, or else everybody would read what is
    /// the operator's.
    fn accounts(&self, policy: &Policy, access: &Access) -> Result<Accounts, ConfigError> {
        let may_ask = |accounts: &Accounts| {
            let mut registries = accounts.iter().map(|account| account.registry());
            registries.all(|registry| policy.permit_registry(registry).is_ok())
        };
        let accounts = Accounts::parse((self.0)("upstream_credentials")).ok();
        let mut accounts = accounts.filter(may_ask).ok_or(ConfigError {
            variable: "upstream_credentials",
            expected: "a comma-separated list of HOST=USER:PASSWORD or NAME@HOST=USER:PASSWORD, \
                       each name once, of registries that this mirror may ask",
        })?;
        let expected = "public, or all on a mirror that is closed by secret or clients";
        accounts.serves = self.choice(
            "credentials_serve",
            expected,
            &[("public", Serves::Public), ("all", Serves::All)],
        )?;
        if accounts.serves == Serves::All && !access.is_closed() {
            return Err(ConfigError {
                variable: "credentials_serve",
                expected,
            });
        }
        Ok(accounts)
    }

    fn list<T, E>(
        &self,
        variable: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, ConfigError> {
        let items = (self.0)(variable)
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        items
            .map(|item| parse(item).map_err(|_| ConfigError { variable, expected }))
            .collect()
    }

    fn number(&self, variable: &'static str, expected: &'static str) -> Result<u32, ConfigError> {
        (self.0)(variable)
            .parse()
            .map_err(|_| ConfigError { variable, expected })
    }

    fn choice<T: Copy>(
        &self,
        variable: &'static str,
        expected: &'static str,
        choices: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let chosen = choices.iter().find(|(name, _)| *name == (self.0)(variable));
        chosen
            .map(|(_, choice)| *choice)
            .ok_or(ConfigError { variable, expected })
    }

    fn page(&self, variable: &'static str) -> Result<PageMode, ConfigError> {
        match (self.0)(variable) {
            "on" => Ok(PageMode::On),
            "off" => Ok(PageMode::Off),
            url => HttpUrl::parse(url)
                .map(PageMode::Elsewhere)
                .map_err(|_| ConfigError {
                    variable,
                    expected: "on, off, or an http(s) URL",
                }),
        }
    }

    fn switch(&self, variable: &'static str) -> Result<bool, ConfigError> {
        self.choice(variable, "on or off", &[("on", true), ("off", false)])
    }

    fn seconds(&self, variable: &'static str, least: u32) -> Result<Duration, ConfigError> {
        let expected = match least {
            0 => "a whole number of seconds from 0 to 2592000",
            _ => "a whole number of seconds from 1 to 2592000",
        };
        match self.number(variable, expected)? {
            seconds if (least..=MAX_SECONDS).contains(&seconds) => {
                Ok(Duration::from_secs(seconds.into()))
            }
            _ => Err(ConfigError { variable, expected }),
        }
    }

    fn clients(&self, variable: &'static str) -> Result<Vec<Account>, ConfigError> {
        let expected = "a comma-separated list of NAME:SHA256, no name twice: 1 to 64 letters, \
                        digits, '.', '_' and '-', and the SHA-256 of a token as 64 hexadecimal \
                        digits";
        let accounts = self.list(variable, expected, Account::parse)?;
        if account::have_different_names(&accounts) {
            Ok(accounts)
        } else {
            Err(ConfigError { variable, expected })
        }
    }

    fn secret(&self, variable: &'static str) -> Result<Option<Secret>, ConfigError> {
        match (self.0)(variable) {
            "" => Ok(None),
            text => Secret::parse(text).map(Some).map_err(|_| ConfigError {
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

    const ALICE: &str = "alice:0000000000000000000000000000000000000000000000000000000000000000";

    fn parse(changes: &[(&str, &'static str)]) -> Result<Config, ConfigError> {
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
    fn the_defaults_are_those_of_the_manifest() {
        let config = parse(&[]).unwrap();
        assert!(config.upstreams.is_single() && config.upstreams.first().is_docker_hub());
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
            ("upstream_credentials", "docker.io"),
            ("upstream_credentials", "docker.io=alice:a b"),
            ("upstream_credentials", "registry.lan:5000=alice:secret"),
            ("upstream_credentials", "127.0.0.1=alice:secret"),
            ("credentials_serve", "private"),
            ("credentials_serve", "all"),
            ("allowed_repositories", "Library/*"),
            ("denied_repositories", "ghcr.io/?"),
            ("upstream", ","),
            ("upstream", "ghcr.io, a b"),
            ("host_upstreams", "ghcr.mirror.example"),
            ("host_upstreams", "=ghcr.io"),
            ("host_upstreams", "a b=ghcr.io"),
            ("host_upstreams", "ghcr.mirror.example=https://ghcr.io/path"),
            ("host_upstreams", "ghcr.mirror.example=127.0.0.1:5000"),
            ("store", "redis"),
            ("manifest_cache", "yes"),
            ("tag_ttl", "1h"),
            ("max_stale", "9999999"),
            ("blob_delivery", "auto"),
            ("blob_store", "bucket"),
            ("blob_store", "https://s3.example/bucket/?x"),
            ("blob_store", "https://s3.example/bu cket/"),
            ("blob_store_region", ""),
            ("blob_store_region", "us/east"),
            ("blob_store_public_url", "cdn.example"),
            ("blob_store_repositories", "Library/*"),
            ("blob_store_max_blob", "0"),
            ("blob_store_max_blob", "5368709121"),
            ("blob_store_bytes_per_minute", "1GB"),
            ("secret", "short"),
            ("secret", "with a / and more than 16"),
            ("clients", "alice"),
            ("clients", ALICE.split_at(69).0),
            (
                "clients",
                "alice:0000000000000000000000000000000000000000000000000000000000000000, \
                 alice:1111111111111111111111111111111111111111111111111111111111111111",
            ),
            ("client_limit", "many"),
            ("trusted_proxies", "-1"),
            ("page", "yes"),
            ("page", "ftp://mirror.example"),
            ("log_format", "xml"),
            ("server_timing", "yes"),
            ("private_networks", "open"),
            ("connect_timeout", "0"),
            ("first_byte_timeout", "-1"),
            ("between_bytes_timeout", "1.5"),
            ("exchange_timeout", "99999999999999999999"),
        ] {
            assert_eq!(
                parse(&[(name, value)]).map_err(|error| error.variable),
                Err(name),
                "{value}"
            );
        }
    }

    #[test]
    fn nobody_needs_an_account_unless_there_is_one() {
        let closed = |value| parse(&[("clients", value)]).unwrap().access.is_closed();
        assert!(!closed("") && !closed(" , ") && closed(ALICE));
        let config = parse(&[("clients", ALICE)]).unwrap();
        assert_eq!(config.blob_delivery, BlobDelivery::Redirect);
    }

    #[test]
    fn own_host_names_stand_for_upstreams() {
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
            let found = config.upstream_for_host(&Authority::parse(own).unwrap());
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
                config
                    .upstreams
                    .first()
                    .origin()
                    .to_string()
                    .starts_with("http://")
            );
        }
    }

    #[test]
    fn accounts_serve_all_only_where_the_mirror_is_closed() {
        let account = ("upstream_credentials", "docker.io=alice:secret");
        let serves = |changes: &[_]| parse(changes).map(|config| config.accounts.serves);
        assert_eq!(serves(&[account]), Ok(Serves::Public));
        let all = ("credentials_serve", "all");
        assert!(serves(&[account, all]).is_err());
        for closed in [("secret", "0123456789abcdef"), ("clients", ALICE)] {
            assert_eq!(serves(&[account, all, closed]), Ok(Serves::All));
        }
    }

    #[test]
    fn accounts_are_of_registries_that_may_be_asked() {
        let account = ("upstream_credentials", "ghcr.io=alice:secret");
        for (variable, value, is_asked) in [
            ("allowed_upstreams", "ghcr.io", true),
            ("allowed_upstreams", "quay.io", false),
            ("denied_upstreams", "ghcr.io", false),
        ] {
            let parsed = parse(&[account, (variable, value)]);
            assert_eq!(parsed.is_ok(), is_asked, "{variable}={value}");
        }
    }

    #[test]
    fn no_password_is_printed_with_the_settings() {
        let config = parse(&[("upstream_credentials", "docker.io=alice:hunter2")]).unwrap();
        let error = parse(&[("upstream_credentials", "docker.io=alice:hunter2 ")]).map(drop);
        let wrong = parse(&[("upstream_credentials", "docker.io=alice-hunter2")]).unwrap_err();
        let printed = format!("{config:?} {error:?} {wrong:?} {wrong}");
        assert!(
            !printed.contains("hunter2") && !printed.contains("alice"),
            "{printed}"
        );
    }

    const BUCKET: [(&str, &str); 3] = [
        ("blob_store", "http://s3.lan:9000/bucket/a"),
        ("blob_store_access_key", "access"),
        ("blob_store_secret_key", "wJalr/XUt+nFEMI"),
    ];

    #[test]
    fn a_blob_store_has_a_key_that_nothing_prints() {
        let config = parse(&BUCKET).unwrap();
        let store = config.blob_store.as_ref().unwrap();
        assert_eq!((&*store.host, &*store.path), ("s3.lan:9000", "/bucket/a/"));
        let printed = format!("{config:?}");
        assert!(!printed.contains("wJalr") && !printed.contains("\"access\""));
        for missing in ["blob_store_access_key", "blob_store_secret_key"] {
            let without: Vec<_> = BUCKET
                .into_iter()
                .filter(|(name, _)| *name != missing)
                .collect();
            let error = parse(&without).unwrap_err();
            assert_eq!(error.variable, missing);
            assert!(!error.to_string().contains("wJalr"));
        }
        assert_eq!(parse(&[]).unwrap().blob_store, None);
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
