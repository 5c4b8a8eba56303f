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
            Ok(Secret::hash(text.as_bytes()))
        } else {
            Err(InvalidSecret)
        }
    }

    /// Reads the SHA-256 of a secret: 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Secret, InvalidSecret> {
        let mut hash = [0; 32];
        let mut digits = text.chars().map(|digit| digit.to_digit(16));
        for byte in &mut hash {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                return Err(InvalidSecret);
            };
            *byte = u8::try_from((high << 4) | low).map_err(|_| InvalidSecret)?;
        }
        match digits.next() {
            None => Ok(Secret(hash)),
            Some(_) => Err(InvalidSecret),
        }
    }

    /// Returns the secret that has these bytes.
    pub fn hash(bytes: &[u8]) -> Secret {
        Secret(Sha256::digest(bytes).into())
    }

    /// Whether `guess` is the secret.
    pub fn matches(&self, guess: &str) -> bool {
        std::hint::black_box(self.difference(&Secret::hash(guess.as_bytes()))) == 0
    }

    /// Returns 0 for the same secret. Compares every byte of both hashes, however early they
    /// differ.
    pub fn difference(&self, other: &Secret) -> u8 {
        let pairs = self.0.iter().zip(other.0);
        pairs.fold(0, |difference, (own, other)| difference | (own ^ other))
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

    #[test]
    fn a_hash_is_64_hexadecimal_digits() {
        // Of `printf %s 0123456789abcdef | sha256sum`.
        let hash = "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f";
        for hash in [hash, &hash.to_uppercase()] {
            assert!(Secret::from_hex(hash).unwrap().matches("0123456789abcdef"));
        }
        for bad in [
            "",
            &hash[1..],
            &format!("{hash}0"),
            &hash.replace("9f", "+f"),
            &hash.replace('f', "é"),
        ] {
            assert!(Secret::from_hex(bad).is_err(), "{bad}");
        }
    }
}
