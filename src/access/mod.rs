//! Access to the mirror, as the operator sets it: open by default, closed by a secret in front of
//! every path or by accounts of clients, limited for each client.

pub mod account;
pub mod rate_limit;
pub mod secret;

use self::account::{Account, Login};
use self::secret::Secret;
use crate::request::InvalidRequest;
use http::HeaderMap;
use std::time::Duration;

/// The operator's settings of access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Stands in front of every path of a closed mirror.
    pub secret: Option<Secret>,
    /// The accounts of clients; empty where no client needs one. Where there is a secret too,
    /// either of them opens the mirror.
    pub clients: Vec<Account>,
    /// Requests of one client address, or of one account, in a minute; 0 is no limit.
    pub client_limit: u32,
    /// How many proxies in front of this mirror append to `X-Forwarded-For`.
    pub trusted_proxies: u32,
}

/// A request at the entrance of the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entrance<'a> {
    access: &'a Access,
    headers: &'a HeaderMap,
    /// `/SECRET`, or nothing.
    pub path_prefix: &'a str,
    /// The path behind it.
    pub path: &'a str,
    /// The login, judged; `None` where the request needs none.
    pub login: Option<Login<'a>>,
}

/// A client exceeds `client_limit`; how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverClientLimit(pub Duration);

/// Why a request does not enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginError {
    Missing,
    Wrong,
    /// Too many wrong logins came from this address; how long to wait.
    TooMany(Duration),
}

impl Access {
    /// Whether the mirror is closed: who has neither the secret nor an account gets nothing.
    pub fn is_closed(&self) -> bool {
        self.secret.is_some() || !self.clients.is_empty()
    }

    /// Judges the secret and the login of a request. Without the secret, where there are no
    /// accounts, every path is unknown.
    pub fn enter<'a>(
        &'a self,
        path: &'a str,
        headers: &'a HeaderMap,
    ) -> Result<Entrance<'a>, InvalidRequest> {
        let behind_secret = self.strip_secret(path);
        if self.clients.is_empty() || (self.secret.is_some() && behind_secret.is_some()) {
            let (path_prefix, path) = behind_secret.ok_or(InvalidRequest::NotFound)?;
            return Ok(Entrance {
                access: self,
                headers,
                path_prefix,
                path,
                login: None,
            });
        }
        Ok(Entrance {
            access: self,
            headers,
            path_prefix: "",
            path,
            login: Some(Login::find(&self.clients, headers)),
        })
    }

    /// Takes the secret off a path. Returns the prefix (`/SECRET`, or nothing) and the path behind
    /// it; `None` where the secret is missing.
    fn strip_secret<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let Some(secret) = &self.secret else {
            return Some(("", path));
        };
        let guess = path.strip_prefix('/')?.split('/').next()?;
        if !secret.matches(guess) {
            return None;
        }
        let prefix = path.get(..guess.len().saturating_add(1))?;
        Some((prefix, path.strip_prefix(prefix)?))
    }
}

impl Entrance<'_> {
    /// The request is for the page, which needs no login where only accounts close the mirror. Its
    /// login is not looked at then: the page must not tell a right one from a wrong one.
    pub fn open_page(&mut self) {
        if self.access.secret.is_none() {
            self.login = None;
        }
    }

    /// Returns the name of the account that the request has logged in to.
    pub fn client(&self) -> Option<&str> {
        self.login.and_then(Login::name)
    }
}

#[cfg(test)]
mod tests {
    use super::account::tests::{basic, entry};
    use super::*;
    use http::header::AUTHORIZATION;
    use proptest::prelude::*;

    const SECRET: &str = "0123456789abcdef";

    fn access(secret: Option<&str>, clients: &[&str]) -> Access {
        let account = |name: &&str| Account::parse(&entry(name, "right")).unwrap();
        Access {
            secret: secret.map(|secret| Secret::parse(secret).unwrap()),
            clients: clients.iter().map(account).collect(),
            client_limit: 0,
            trusted_proxies: 0,
        }
    }

    #[test]
    fn the_secret_or_an_account_opens_the_mirror() {
        for (secret, clients, is_closed) in [
            (None, &[][..], false),
            (Some(SECRET), &[], true),
            (None, &["alice"], true),
            (Some(SECRET), &["alice"], true),
        ] {
            let access = access(secret, clients);
            assert_eq!(access.is_closed(), is_closed);
            for path in ["/v2/", "/0123456789abcdef/v2/"] {
                for token in [None, Some("wrong"), Some("right")] {
                    let header = token.map(|token| basic("alice", token).parse().unwrap());
                    let headers = header.map(|header| (AUTHORIZATION, header));
                    let headers = HeaderMap::from_iter(headers);
                    let has_secret = secret.is_some() && path != "/v2/";
                    let entrance = access.enter(path, &headers);
                    if clients.is_empty() && secret.is_some() && !has_secret {
                        assert_eq!(entrance, Err(InvalidRequest::NotFound));
                        continue;
                    }
                    let entrance = entrance.unwrap();
                    let needs_login = !clients.is_empty() && !has_secret;
                    assert_eq!(entrance.login.is_some(), needs_login);
                    let is_right = needs_login && token == Some("right");
                    assert_eq!(entrance.client(), is_right.then_some("alice"));
                    assert_eq!(entrance.path == "/v2/", has_secret || path == "/v2/");
                    assert_eq!(entrance.path_prefix.is_empty(), !has_secret);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn only_the_secret_opens_a_path(secret in "[a-zA-Z0-9_-]{16,40}", path in "(/?\\PC{0,40}|(/[a-z0-9]{0,20}){0,3})") {
            let access = access(Some(&secret), &[]);
            prop_assert_eq!(access.strip_secret(&path), None);
            let prefix = format!("/{secret}");
            let behind = path.strip_prefix('/').map(|path| format!("/{path}")).unwrap_or_default();
            let whole = format!("{prefix}{behind}");
            prop_assert_eq!(access.strip_secret(&whole), Some((prefix.as_str(), behind.as_str())));
        }
    }
}
