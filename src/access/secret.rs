//! Who may use the mirror, as the operator chose it: open by default, or closed by a secret in front of every path.

use sha2::{Digest as _, Sha256};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// What has to stand in front of every path.
    pub secret: Option<Secret>,
    /// Requests of one client address in a minute; 0 is no limit.
    pub client_limit: u32,
    /// How many proxies in front of this mirror append to `X-Forwarded-For`.
    pub trusted_proxies: u32,
}

impl Access {
    /// Takes the secret off a path. Returns what stood in front, `/SECRET` or nothing, and the path behind it; `None`
    /// where the secret is missing.
    pub fn enter<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let Some(secret) = &self.secret else {
            return Some(("", path));
        };
        let guess = path.strip_prefix('/')?.split('/').next()?;
        if !secret.is(guess) {
            return None;
        }
        let mount = path.get(..guess.len().saturating_add(1))?;
        Some((mount, path.strip_prefix(mount)?))
    }
}

/// A shared secret. Only its hash is kept, so nothing can print it, and comparing takes the same time for every guess.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// Not a secret that can stand in a path.
#[derive(Debug)]
pub struct InvalidSecret;

impl Secret {
    pub fn parse(text: &str) -> Result<Secret, InvalidSecret> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if (16..=128).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Secret(Sha256::digest(text).into()))
        } else {
            Err(InvalidSecret)
        }
    }

    /// Looks at every byte of both hashes, however early they differ.
    pub fn is(&self, guess: &str) -> bool {
        let guess = Sha256::digest(guess);
        let differs = self
            .0
            .iter()
            .zip(guess)
            .fold(0, |differs, (own, guessed)| differs | (own ^ guessed));
        std::hint::black_box(differs) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_secret_is_compared_and_never_printed() {
        let secret = Secret::parse("0123456789abcdef").unwrap();
        assert!(secret.is("0123456789abcdef"));
        for guess in [
            "",
            "0123456789abcde",
            "0123456789abcdef0",
            "0123456789ABCDEF",
        ] {
            assert!(!secret.is(guess));
        }
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        for bad in [
            "short",
            "with a space in it",
            "sixteen.letters.",
            &"x".repeat(129),
        ] {
            assert!(Secret::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_path_is_entered_by_its_secret_alone(secret in "[a-zA-Z0-9_-]{16,40}", path in "(/?\\PC{0,40}|(/[a-z0-9]{0,20}){0,3})") {
            let access = Access { secret: Some(Secret::parse(&secret).unwrap()), client_limit: 0, trusted_proxies: 0 };
            prop_assert_eq!(access.enter(&path), None);
            let mount = format!("/{secret}");
            let behind = path.strip_prefix('/').map(|path| format!("/{path}")).unwrap_or_default();
            let whole = format!("{mount}{behind}");
            prop_assert_eq!(access.enter(&whole), Some((mount.as_str(), behind.as_str())));
        }
    }
}
