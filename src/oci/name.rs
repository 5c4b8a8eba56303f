//! Repository names.

use std::fmt;

/// Characters. Clients accept no longer name (distribution specification 1.1, "Pulling manifests").
pub const MAX_LENGTH: usize = 255;

/// A repository name such as `library/alpine`: lower-case components of letters and digits, joined
/// inside by `.`, `_`, `__` or hyphens, separated by `/` (distribution specification 1.1,
/// `<name>`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(String);

/// A repository name outside the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidName;

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a repository name is at most {MAX_LENGTH} characters: lower-case letters and digits, with '.', '_', '__' or '-' \
             between them, in parts separated by '/', such as library/alpine"
        )
    }
}

impl std::error::Error for InvalidName {}

impl Name {
    pub fn parse(text: &str) -> Result<Name, InvalidName> {
        if text.len() <= MAX_LENGTH && text.split('/').all(is_component) {
            Ok(Name(text.to_owned()))
        } else {
            Err(InvalidName)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (Some(first), Some(last)) = (text.bytes().next(), text.bytes().last()) else {
        return false;
    };
    alphanumeric(&first)
        && alphanumeric(&last)
        && text.as_bytes().split(alphanumeric).all(|between| {
            matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_names_of_the_grammar_and_nothing_else() {
        let longest = "a".repeat(MAX_LENGTH);
        for good in [
            "alpine",
            "library/alpine",
            "a/b/c/d",
            "a.b_c__d-e---f",
            "0",
            "9/8",
            &longest,
        ] {
            assert_eq!(
                Name::parse(good).map(|name| name.to_string()),
                Ok(good.to_owned())
            );
        }
        let too_long = "a".repeat(MAX_LENGTH + 1);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a b", "a..b", "a___b", "a._b", "-a", "a-", ".a",
            "a.", "_a", "a/..", "..", "a/../b", "é", "a%2fb", "a:b", "a@b", "a\0b", "a?b",
            &too_long,
        ] {
            assert_eq!(Name::parse(bad), Err(InvalidName), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_made_by_the_grammar_parses(
            text in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,8}){0,3}(/[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,8}){0,3}){0,3}"
        ) {
            prop_assert_eq!(Name::parse(&text).is_ok(), text.len() <= MAX_LENGTH);
        }

        #[test]
        fn whatever_parses_is_safe_in_a_path(text in "\\PC{0,40}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b)));
                prop_assert!(!name.as_str().contains(".."));
            }
        }
    }
}
