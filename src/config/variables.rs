//! The values of the settings, parsed one by one.

use super::blob_store::{self, BlobStoreConfig, Credentials};
use super::{ConfigError, PageMode};
use crate::access::Access;
use crate::access::account::{self, Account};
use crate::access::secret::Secret;
use crate::policy::Policy;
use crate::policy::pattern::{HostPattern, RepositoryPattern};
use crate::registry::account::{Accounts, Serves};
use crate::registry::origin::{Authority, HttpUrl, Scheme};
use std::time::Duration;

/// Seconds. No setting may be longer (30 days).
const MAX_SECONDS: u32 = 2_592_000;

/// Parses values, and names the variable whose value is wrong.
pub struct Variables<F>(pub F);

impl<'a, F: Fn(&'static str) -> &'a str> Variables<F> {
    /// `own` are the registries of `upstream` and `host_upstreams`, which are always allowed.
    pub fn policy(&self, own: Vec<HostPattern>) -> Result<Policy, ConfigError> {
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

    pub fn blob_store(&self) -> Result<Option<BlobStoreConfig>, ConfigError> {
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

    pub fn access(&self) -> Result<Access, ConfigError> {
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
    pub fn accounts(&self, policy: &Policy, access: &Access) -> Result<Accounts, ConfigError> {
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

    pub fn list<T, E>(
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

    pub fn choice<T: Copy>(
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

    pub fn page(&self, variable: &'static str) -> Result<PageMode, ConfigError> {
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

    pub fn switch(&self, variable: &'static str) -> Result<bool, ConfigError> {
        self.choice(variable, "on or off", &[("on", true), ("off", false)])
    }

    pub fn seconds(&self, variable: &'static str, least: u32) -> Result<Duration, ConfigError> {
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
