//! The secret of a closed mirror.

use sha2::{Digest as _, Sha256};
use std::fmt;

/// A shared secret, as its SHA-256: nothing can print it, and a comparison takes the same time for
/// every guess.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// Text that is not 16 to 128 letters, digits, `-` and `_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Whether `guess` is the secret. Compares every byte of both hashes, however early they
    /// differ.
    pub fn matches(&self, guess: &str) -> bool {
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

    #[test]
    fn a_secret_is_compared_and_never_printed() {
        let secret = Secret::parse("0123456789abcdef").unwrap();
        assert!(secret.matches("0123456789abcdef"));
        for guess in [
            "",
            "0123456789abcde",
            "0123456789abcdef0",
            "0123456789ABCDEF",
        ] {
            assert!(!secret.matches(guess));
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
}
