//! References of manifests: tags and digests.

use crate::oci::digest::{Digest, InvalidDigest};
use std::fmt;

/// A tag such as `latest` or `3.20`: up to 128 letters, digits, `_`, `.` and `-`, the first of them
/// neither `.` nor `-` (distribution specification 1.1, `<reference>`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(String);

/// A reference of a manifest in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

/// A reference outside the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidReference {
    Tag,
    Digest(InvalidDigest),
}

impl fmt::Display for InvalidReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidReference::Tag => f.write_str(
                "a tag is 1 to 128 letters, digits, '_', '.' and '-', and begins with a letter, a digit or '_'",
            ),
            InvalidReference::Digest(invalid) => invalid.fmt(f),
        }
    }
}

impl std::error::Error for InvalidReference {}

impl Reference {
    /// Parses a digest if there is a colon, else a tag: only digests have one.
    pub fn parse(text: &str) -> Result<Reference, InvalidReference> {
        if text.contains(':') {
            Digest::parse(text)
                .map(Reference::Digest)
                .map_err(InvalidReference::Digest)
        } else if is_tag(text) {
            Ok(Reference::Tag(Tag(text.to_owned())))
        } else {
            Err(InvalidReference::Tag)
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Reference::Tag(tag) => &tag.0,
            Reference::Digest(digest) => digest.as_str(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && text
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_tags_of_the_grammar_and_nothing_else() {
        let longest = "t".repeat(128);
        for good in ["latest", "3.20", "_x", "A-b_C.d", &longest] {
            assert!(matches!(Reference::parse(good), Ok(Reference::Tag(tag)) if tag.0 == good));
        }
        let too_long = "t".repeat(129);
        for bad in [
            "",
            ".INVALID_MANIFEST_NAME",
            "-x",
            "a/b",
            "a b",
            "é",
            "a%",
            "..",
            &too_long,
        ] {
            assert_eq!(Reference::parse(bad), Err(InvalidReference::Tag), "{bad:?}");
        }
    }

    #[test]
    fn a_colon_makes_it_a_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert!(matches!(
            Reference::parse(&digest),
            Ok(Reference::Digest(_))
        ));
        assert!(matches!(
            Reference::parse("sha256:abc"),
            Err(InvalidReference::Digest(_))
        ));
    }

    proptest! {
        #[test]
        fn whatever_parses_is_safe_in_a_path(text in "\\PC{0,140}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert!(reference.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-:=".contains(&b)));
            }
        }
    }
}
