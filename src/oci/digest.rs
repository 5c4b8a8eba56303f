//! Content digests.

use sha2::{Digest as _, Sha256, Sha512};
use std::fmt;

/// Characters. Longer digests are refused; SHA-512 needs half of it.
const MAX_LENGTH: usize = 256;

/// A digest such as `sha256:4bcf…`: an algorithm, a colon, the encoded hash (image specification
/// 1.1, "Digests"). SHA-256 and SHA-512 have exactly the lower-case hexadecimal digits that they
/// need; other algorithms pass by their grammar.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A digest outside the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidDigest;

/// Why content could not be verified against a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    OtherContent,
    UnknownAlgorithm,
}

impl fmt::Display for InvalidDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a digest is an algorithm, a colon and the encoded hash, such as sha256: and 64 lower-case hexadecimal digits")
    }
}

impl std::error::Error for InvalidDigest {}

impl Digest {
    pub fn parse(text: &str) -> Result<Digest, InvalidDigest> {
        let (algorithm, encoded) = text.split_once(':').ok_or(InvalidDigest)?;
        let well_formed =
            text.len() <= MAX_LENGTH && is_algorithm(algorithm) && is_encoded(algorithm, encoded);
        if well_formed {
            Ok(Digest(text.to_owned()))
        } else {
            Err(InvalidDigest)
        }
    }

    /// Returns the SHA-256 of `content`.
    pub fn of(content: &[u8]) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(content);
        hasher.finish()
    }

    /// Checks `content` against this digest.
    pub fn verify(&self, content: &[u8]) -> Result<(), Mismatch> {
        let mut hasher = self.hasher().ok_or(Mismatch::UnknownAlgorithm)?;
        hasher.update(content);
        self.verify_hash(hasher)
    }

    /// Returns a hasher for content in pieces; `None` where the algorithm is not known here.
    pub fn hasher(&self) -> Option<Hasher> {
        match self.0.split_once(':')? {
            ("sha256", _) => Some(Hasher::default()),
            ("sha512", _) => Some(Hasher(Algorithm::Sha512(Sha512::new()))),
            _ => None,
        }
    }

    /// Checks content that has gone through [`Digest::hasher`].
    pub fn verify_hash(&self, hasher: Hasher) -> Result<(), Mismatch> {
        if hasher.finish() == *self {
            Ok(())
        } else {
            Err(Mismatch::OtherContent)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Computes the digest of content in pieces: its SHA-256 by default.
#[derive(Clone, Debug)]
pub struct Hasher(Algorithm);

#[derive(Clone, Debug)]
enum Algorithm {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Default for Hasher {
    fn default() -> Hasher {
        Hasher(Algorithm::Sha256(Sha256::new()))
    }
}

impl Hasher {
    pub fn update(&mut self, piece: &[u8]) {
        match &mut self.0 {
            Algorithm::Sha256(hasher) => hasher.update(piece),
            Algorithm::Sha512(hasher) => hasher.update(piece),
        }
    }

    pub fn finish(self) -> Digest {
        Digest(match self.0 {
            Algorithm::Sha256(hasher) => format!("sha256:{:x}", hasher.finalize()),
            Algorithm::Sha512(hasher) => format!("sha512:{:x}", hasher.finalize()),
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Digest, InvalidDigest> {
        Digest::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[a-z0-9]+([+._-][a-z0-9]+)*`
fn is_algorithm(text: &str) -> bool {
    text.split(['+', '.', '_', '-']).all(|part| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

fn is_encoded(algorithm: &str, encoded: &str) -> bool {
    let hexadecimal = |length| {
        encoded.len() == length
            && encoded
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    match algorithm {
        "sha256" => hexadecimal(64),
        "sha512" => hexadecimal(128),
        _ => {
            !encoded.is_empty()
                && encoded
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_digests_of_the_grammar_and_nothing_else() {
        let sha256 = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let sha512 = format!("sha512:{}", "0123456789abcdef".repeat(8));
        for good in [
            sha256.as_str(),
            sha512.as_str(),
            "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
            "a.b_c-d:x=_-",
        ] {
            assert_eq!(
                Digest::parse(good).map(|digest| digest.to_string()),
                Ok(good.to_owned())
            );
        }
        let upper = sha256.to_uppercase();
        let (short, long) = (&sha256[..70], format!("{sha256}0"));
        let endless = format!("x:{}", "a".repeat(MAX_LENGTH));
        for bad in [
            "",
            ":",
            "sha256",
            "sha256:",
            "sha256:xyz",
            ":abc",
            "sha256:../..",
            "Sha256:abc",
            "a++b:c",
            "x:a/b",
            "x:é",
            upper.as_str(),
            short,
            &long,
            &endless,
        ] {
            assert_eq!(Digest::parse(bad), Err(InvalidDigest), "{bad:?}");
        }
    }

    #[test]
    fn verifies_what_it_names() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), format!("sha256:{empty}"));
        for (digest, content, verdict) in [
            (format!("sha256:{empty}"), &b""[..], Ok(())),
            (format!("sha256:{empty}"), b"x", Err(Mismatch::OtherContent)),
            (
                format!("sha512:{}", "0".repeat(128)),
                b"",
                Err(Mismatch::OtherContent),
            ),
            (
                "blake3:abc".to_owned(),
                b"",
                Err(Mismatch::UnknownAlgorithm),
            ),
        ] {
            assert_eq!(
                Digest::parse(&digest).unwrap().verify(content),
                verdict,
                "{digest}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_safe_in_a_path(text in "(sha256|sha512|[a-z0-9+._-]{0,9}):\\PC{0,140}") {
            if let Ok(digest) = Digest::parse(&text) {
                prop_assert!(digest.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-:=".contains(&b)));
            }
        }
    }
}
