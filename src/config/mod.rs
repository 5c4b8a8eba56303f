//! The operator's settings: the variables of `spin.toml`, parsed.

pub mod blob_store;
mod variables;

use self::blob_store::BlobStoreConfig;
use self::variables::Variables;
use crate::access::Access;
use crate::oci::name::Name;
use crate::platform::log_line::{self, LogFormat};
use crate::platform::{Platform, Timeouts};
use crate::policy::Policy;
use crate::policy::candidates::Candidates;
use crate::policy::pattern::HostPattern;
use crate::policy::permitted::{Denied, Upstream};
use crate::registry::account::{Accounts, Serves};
use crate::registry::address::RegistryAddress;
use crate::registry::docker_hub::DOCKER_HUB;
use crate::registry::origin::{Authority, HttpUrl, InvalidAddress};
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

#[cfg(test)]
mod tests;
