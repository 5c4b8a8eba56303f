//! What a token is asked for: `repository:library/alpine:pull`.

use crate::name::Name;

/// A longer scope in bytes is refused, and more than `MAX_SCOPES` of them.
const MAX_LENGTH: usize = 512;
const MAX_SCOPES: usize = 8;

/// One scope of distribution's token specification, `type:name:actions`, or what else a registry calls so (`aws`).
/// Printable ASCII without spaces and quotes. Of a repository's actions only `pull` is left: more is never needed, and
/// some token servers refuse the anonymous user who asks for more.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(String);

/// Not a scope.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidScope;

impl Scope {
    pub fn pull(name: &Name) -> Scope {
        Scope(format!("repository:{name}:pull"))
    }

    /// Parses a space-separated list.
    pub fn parse_list(text: &str) -> Result<Vec<Scope>, InvalidScope> {
        let scopes =
            text.split(' ').filter(|scope| !scope.is_empty()).map(Scope::parse).collect::<Result<Vec<_>, _>>()?;
        if scopes.len() > MAX_SCOPES { Err(InvalidScope) } else { Ok(scopes) }
    }

    fn parse(text: &str) -> Result<Scope, InvalidScope> {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        if text.is_empty() || text.len() > MAX_LENGTH || !text.bytes().all(plain) {
            return Err(InvalidScope);
        }
        Ok(match text.rsplit_once(':') {
            Some((resource, _actions)) if resource.starts_with("repository") => Scope(format!("{resource}:pull")),
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
