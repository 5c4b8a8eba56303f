//! Access to the mirror, as the operator sets it: open by default, closed by a secret in front of
//! every path, limited for each client.

pub mod rate_limit;
pub mod secret;

use self::secret::Secret;

/// The operator's settings of access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Stands in front of every path of a closed mirror.
    pub secret: Option<Secret>,
    /// Requests of one client address in a minute; 0 is no limit.
    pub client_limit: u32,
    /// How many proxies in front of this mirror append to `X-Forwarded-For`.
    pub trusted_proxies: u32,
}

impl Access {
    /// Whether the mirror is closed: who has neither the secret nor an account gets nothing.
    pub fn is_closed(&self) -> bool {
        self.secret.is_some()
    }

    /// Takes the secret off a path. Returns the prefix (`/SECRET`, or nothing) and the path behind
    /// it; `None` where the secret is missing.
    pub fn strip_secret<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_the_secret_opens_a_path(secret in "[a-zA-Z0-9_-]{16,40}", path in "(/?\\PC{0,40}|(/[a-z0-9]{0,20}){0,3})") {
            let access = Access { secret: Some(Secret::parse(&secret).unwrap()), client_limit: 0, trusted_proxies: 0 };
            prop_assert_eq!(access.strip_secret(&path), None);
            let prefix = format!("/{secret}");
            let behind = path.strip_prefix('/').map(|path| format!("/{path}")).unwrap_or_default();
            let whole = format!("{prefix}{behind}");
            prop_assert_eq!(access.strip_secret(&whole), Some((prefix.as_str(), behind.as_str())));
        }
    }
}
