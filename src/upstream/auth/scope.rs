//! Scopes of tokens: `repository:library/alpine:pull`.

use crate::oci::name::Name;

/// Bytes. A longer scope is refused, and so are more than [`MAX_SCOPES`].
const MAX_LENGTH: usize = 512;
const MAX_SCOPES: usize = 8;

/// A scope of distribution's token specification, `type:name:actions`, or another text that a
/// registry uses as one (`aws`): printable ASCII without spaces and quotes. The actions on a
/// repository become `pull`: more is never needed, and some token servers refuse an anonymous user
/// who asks for more.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(String);

/// Text that is not a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidScope;

impl Scope {
    /// Returns the scope of pulling from a repository.
    pub fn pull(name: &Name) -> Scope {
        Scope(["repository:", name.as_str(), ":pull"].concat())
    }

    /// Parses a space-separated list.
    pub fn parse_list(text: &str) -> Result<Vec<Scope>, InvalidScope> {
        let scopes = text
            .split(' ')
            .filter(|scope| !scope.is_empty())
            .map(Scope::parse)
            .collect::<Result<Vec<_>, _>>()?;
        if scopes.len() > MAX_SCOPES {
            Err(InvalidScope)
        } else {
            Ok(scopes)
        }
    }

    fn parse(text: &str) -> Result<Scope, InvalidScope> {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        if text.is_empty() || text.len() > MAX_LENGTH || !text.bytes().all(plain) {
            return Err(InvalidScope);
        }
        Ok(match text.rsplit_once(':') {
            Some((resource, _actions)) if resource.starts_with("repository") => {
                Scope(format!("{resource}:pull"))
            }
            _ => Scope(text.to_owned()),
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Scope {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Scope, Self::Error> {
        Scope::parse(&text).map_err(|_| "not a scope")
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_a_repositorys_actions_only_pull_is_left() {
        for (text, scopes) in [
            ("repository:a/b:pull,push", "repository:a/b:pull"),
            (
                "repository(plugin):a:*  registry:catalog:*",
                "repository(plugin):a:pull registry:catalog:*",
            ),
            ("aws", "aws"),
            ("", ""),
        ] {
            let parsed = Scope::parse_list(text).unwrap();
            assert_eq!(
                parsed
                    .iter()
                    .map(Scope::as_str)
                    .collect::<Vec<_>>()
                    .join(" "),
                scopes,
                "{text}"
            );
        }
        for bad in [
            "a\"b",
            "a\\b",
            "é",
            "a\tb",
            "a a a a a a a a a",
            &"a".repeat(MAX_LENGTH + 1),
        ] {
            assert_eq!(Scope::parse_list(bad), Err(InvalidScope), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_list_panics_and_every_scope_is_plain_and_stays_what_it_is(text in "((repository)?[ -~]{0,9}:?|\\PC){0,9}") {
            for scope in Scope::parse_list(&text).unwrap_or_default() {
                prop_assert!(scope.as_str().bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte)));
                prop_assert!(!scope.as_str().starts_with("repository:") || scope.as_str().ends_with(":pull"));
                prop_assert_eq!(Scope::parse(scope.as_str()), Ok(scope.clone()));
            }
        }
    }
}
