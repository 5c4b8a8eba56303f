//! What one client may take of the host, and all of them together.
//!
//! | module | limits |
//! | --- | --- |
//! | [`connections`] | open connections, in total and per client; connections that make no progress |
//! | [`rate`] | requests per client and minute: the component's `client_limit`, counted exactly |
//! | [`admission`] | requests with the component and bytes held for clients, with fair queueing |
//! | [`delivery`] | response bodies on their way to a client |
//! | [`client`] | who a client is: its address |
//! | [`login`] | the component's accounts, and the login that a request shows |
//! | [`upstream`] | which upstream a request names, and which are the operator's own |

pub mod admission;
pub mod client;
pub mod connections;
pub mod delivery;
pub mod login;
pub mod rate;
pub mod upstream;

use self::login::{Accounts, Login};
use self::upstream::OwnUpstreams;
use http::HeaderMap;
use std::collections::BTreeMap;
use std::time::Duration;

pub const MIB: u64 = 1024 * 1024;

/// The limits that an operator sets.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a whole request may take until its response begins.
    pub request_timeout: Duration,
    /// Bytes that may be held for one client.
    pub client_memory: u64,
    /// Bytes that may be held for all clients.
    pub total_memory: u64,
    /// Open connections of one client address.
    pub client_connections: usize,
    /// Open connections of all clients.
    pub total_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(60),
            client_memory: 32 * MIB,
            total_memory: 1024 * MIB,
            client_connections: 256,
            total_connections: 4096,
        }
    }
}

/// What the host reads of the component's variables, to count the clients that the component would.
/// What it can't parse is as if it were not set; the component says so to its clients.
#[derive(Clone, Default)]
pub struct Settings {
    /// Requests of one client in a minute; 0 is no limit.
    pub client_limit: u32,
    /// How many proxies append to `X-Forwarded-For`.
    pub trusted_proxies: u32,
    pub own_upstreams: OwnUpstreams,
    /// What has to stand in front of every path; empty if nothing has to.
    secret: String,
    accounts: Accounts,
    /// Whether refused requests are not logged.
    pub quiet: bool,
    /// Whether lines of the log are JSON objects.
    pub logs_json: bool,
}

impl Settings {
    /// Reads them from the component's `variables`.
    pub fn from_variables(variables: &BTreeMap<String, String>, quiet: bool) -> Self {
        let number = |name: &str| {
            variables
                .get(name)
                .and_then(|value| value.trim().parse().ok())
                .unwrap_or_default()
        };
        Self {
            client_limit: number("client_limit"),
            trusted_proxies: number("trusted_proxies"),
            own_upstreams: OwnUpstreams::from_variables(variables),
            secret: variables.get("secret").cloned().unwrap_or_default(),
            accounts: Accounts::parse(variables.get("clients").map_or("", String::as_str)),
            quiet,
            logs_json: variables.get("log_format").map(|value| value.trim()) == Some("json"),
        }
    }

    /// Whether a request for `path` is one for a registry's resource, with the secret where that
    /// opens the mirror. Only such requests count. Also returns its login, where it needs one.
    pub fn registry_login(&self, path: &str, headers: &HeaderMap) -> (bool, Option<Login>) {
        let behind_secret = self.strip_secret(path);
        let needs_login =
            !self.accounts.is_empty() && (self.secret.is_empty() || behind_secret.is_none());
        let path = match (behind_secret, needs_login) {
            (_, true) => Some(path),
            (behind_secret, false) => behind_secret,
        };
        let is_registry = path.is_some_and(|path| path.contains("/v2"));
        let login = is_registry && needs_login;
        (is_registry, login.then(|| self.accounts.login(headers)))
    }

    fn strip_secret<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.secret.len() {
            0 => Some(path),
            length => path
                .strip_prefix('/')
                .and_then(|path| path.split_at_checked(length))
                .filter(|(secret, _)| {
                    // In the same time for every wrong secret.
                    let differ = secret.bytes().zip(self.secret.bytes());
                    differ.fold(0, |sum, (one, other)| sum | (one ^ other)) == 0
                })
                .map(|(_, rest)| rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_requests_of_the_registrys_resources_with_the_secret() {
        let settings = |secret: &str| {
            let variables = [("secret".to_owned(), secret.to_owned())];
            Settings::from_variables(&variables.into(), false)
        };
        let (open, closed) = (settings(""), settings("correct-horse-battery"));
        for (path, is_open, is_closed) in [
            ("/", false, false),
            ("/robots.txt", false, false),
            ("/v2/", true, false),
            ("/ghcr.io/v2/a/manifests/1", true, false),
            ("/correct-horse-battery/v2/", true, true),
            ("/correct-horse-battery/", false, false),
            ("/correct-horse-batterx/v2/", true, false),
            ("/correct-horse/v2/", true, false),
        ] {
            let counts = |settings: &Settings| settings.registry_login(path, &HeaderMap::new());
            assert_eq!(counts(&open), (is_open, None), "{path}");
            assert_eq!(counts(&closed), (is_closed, None), "{path}");
        }
    }

    #[test]
    fn a_request_needs_a_login_where_there_are_accounts_and_no_secret_in_its_path() {
        let settings = |secret: &str| {
            let variables = [("secret", secret), ("clients", "alice:00")];
            let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
            Settings::from_variables(&variables.into(), false)
        };
        let (open, closed) = (settings(""), settings("correct-horse-battery"));
        let missing = || Some(Login::Missing);
        for (path, without_secret, with_secret) in [
            ("/", (false, None), (false, None)),
            ("/v2/", (true, missing()), (true, missing())),
            (
                "/correct-horse-battery/v2/",
                (true, missing()),
                (true, None),
            ),
            ("/correct-horse-battery/", (false, None), (false, None)),
            (
                "/correct-horse-batterx/v2/",
                (true, missing()),
                (true, missing()),
            ),
        ] {
            let login = |settings: &Settings| settings.registry_login(path, &HeaderMap::new());
            assert_eq!(login(&open), without_secret, "{path}");
            assert_eq!(login(&closed), with_secret, "{path}");
        }
    }
}
