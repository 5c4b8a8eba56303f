//! Content digests.

use std::fmt;

/// Longest digest in characters: twice what SHA-512 needs, so that algorithms of tomorrow have room.
const MAX_LENGTH: usize = 256;

/// A digest such as `sha256:4bcf…`: an algorithm, a colon, the encoded hash (image specification 1.1, "Digests").
/// SHA-256 and SHA-512 have exactly the lower-case hexadecimal digits that they need; other algorithms pass by their grammar.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Digest(String);

/// A digest outside the grammar.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidDigest;

impl fmt::Display for InvalidDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a digest is an algorithm, a colon and the encoded hash, such as sha256: and 64 lower-case hexadecimal digits")
    }
}

impl Digest {
    pub fn parse(text: &str) -> Result<Digest, InvalidDigest> {
        let (algorithm, encoded) = text.split_once(':').ok_or(InvalidDigest)?;
        let well_formed = text.len() <= MAX_LENGTH && is_algorithm(algorithm) && is_encoded(algorithm, encoded);
        if well_formed { Ok(Digest(text.to_owned())) } else { Err(InvalidDigest) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[a-z0-9]+([+._-][a-z0-9]+)*`
fn is_algorithm(text: &str) -> bool {
    text.split(['+', '.', '_', '-'])
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()))
}

fn is_encoded(algorithm: &str, encoded: &str) -> bool {
    let hexadecimal =
        |length| encoded.len() == length && encoded.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match algorithm {
        "sha256" => hexadecimal(64),
        "sha512" => hexadecimal(128),
        _ => !encoded.is_empty() && encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte)),
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
            assert_eq!(Digest::parse(good).map(|digest| digest.to_string()), Ok(good.to_owned()));
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

    proptest! {
        #[test]
        fn whatever_parses_is_safe_in_a_path(text in "(sha256|sha512|[a-z0-9+._-]{0,9}):\\PC{0,140}") {
            if let Ok(digest) = Digest::parse(&text) {
                prop_assert!(digest.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-:=".contains(&b)));
            }
        }
    }
}
