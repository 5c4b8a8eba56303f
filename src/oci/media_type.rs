//! Media types (RFC 9110, section 8.3.1), parsed into their parts and written anew.

use std::fmt;

/// A media type: its type and subtype in lower case, and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaType {
    essence: String,
    parameters: Vec<(String, String)>,
}

impl MediaType {
    /// Parses the value of a `Content-Type`. Returns `None` for what is no single media type, such
    /// as a list of them: some browsers take the last of a list, others the first.
    pub fn parse(text: &str) -> Option<MediaType> {
        let (essence, mut rest) = split_token(text.trim_matches(is_space), |byte| byte == b'/');
        let (kind, subtype) = essence.split_once('/')?;
        if kind.is_empty() || subtype.is_empty() || subtype.contains('/') {
            return None;
        }
        let mut parameters = Vec::new();
        loop {
            rest = rest.trim_start_matches(is_space);
            if rest.is_empty() {
                return Some(MediaType {
                    essence: essence.to_ascii_lowercase(),
                    parameters,
                });
            }
            rest = rest.strip_prefix(';')?.trim_start_matches(is_space);
            let (name, after) = split_token(rest, |_| false);
            // A semicolon without a parameter is allowed.
            if !name.is_empty() {
                let (value, after) = parse_value(after.strip_prefix('=')?)?;
                parameters.push((name.to_ascii_lowercase(), value));
                rest = after;
            }
        }
    }

    /// Returns the type and subtype, in lower case.
    pub fn essence(&self) -> &str {
        &self.essence
    }

    /// Returns the value of a parameter, if there is one of this name, and no second one.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut named = self.parameters.iter().filter(|(own, _)| own == name);
        let (_, value) = named.next()?;
        named.next().is_none().then_some(value)
    }

    /// Returns the media type with these of its parameters only, as far as `may_stay` says so of
    /// their values.
    pub fn with_only(self, names: &[&str], may_stay: impl Fn(&str) -> bool) -> MediaType {
        let parameters = names
            .iter()
            .filter_map(|name| {
                let value = self.parameter(name).filter(|value| may_stay(value))?;
                Some(((*name).to_owned(), value.to_owned()))
            })
            .collect();
        MediaType { parameters, ..self }
    }
}

/// Writes it in one way, whichever it was read from. A value is quoted only where it is no token.
impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.essence)?;
        for (name, value) in &self.parameters {
            if !value.is_empty() && value.bytes().all(is_token) {
                write!(f, "; {name}={value}")?;
            } else {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"");
                write!(f, "; {name}=\"{value}\"")?;
            }
        }
        Ok(())
    }
}

/// Splits off the bytes at the start that are of a token, or that `also` takes.
fn split_token(text: &str, also: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !is_token(byte) && !also(byte));
    text.split_at_checked(end.unwrap_or(text.len()))
        .unwrap_or_default()
}

/// Splits a token or a quoted string from the rest.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = split_token(text, |_| false);
        return (!value.is_empty()).then(|| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, quoted.get(at..)?.strip_prefix('"')?)),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

/// Optional white space (RFC 9110, section 5.6.3).
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t')
}

/// Whether a byte may be in a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_media_type_is_written_anew_from_its_parts() {
        for (text, written) in [
            ("application/json", Some("application/json")),
            (" Application/JSON ", Some("application/json")),
            (
                "application/json ;Charset=UTF-8",
                Some("application/json; charset=UTF-8"),
            ),
            ("a/b;;c=d; ", Some("a/b; c=d")),
            (r#"a/b; c="d e"; f="g""#, Some(r#"a/b; c="d e"; f=g"#)),
            (r#"a/b; c="\"\\,""#, Some(r#"a/b; c="\"\\,""#)),
            ("application/vnd.a+json;,text/html", None),
            ("multipart/byteranges;,text/html", None),
            ("application/json, text/html", None),
            ("application/json text/html", None),
            ("a/b; c", None),
            ("a/b; c=", None),
            ("a/b; c=d e", None),
            ("a/b; c = d", None),
            (r#"a/b; c="d"#, None),
            (r#"a/b; c="d"e"#, None),
            ("a/b/c", None),
            ("a/", None),
            ("/b", None),
            ("a", None),
            ("", None),
            ("a/b\u{e9}", None),
            ("a/b; c=\"\u{e9}\"", Some("a/b; c=\"\u{e9}\"")),
        ] {
            let parsed = MediaType::parse(text).map(|parsed| parsed.to_string());
            assert_eq!(parsed.as_deref(), written, "{text}");
        }
    }

    #[test]
    fn a_parameter_that_comes_twice_counts_as_none() {
        let parsed = MediaType::parse("a/b; c=d; c=e; f=g").unwrap();
        assert_eq!(
            (parsed.parameter("c"), parsed.parameter("f")),
            (None, Some("g"))
        );
        let kept = parsed.with_only(&["c", "f", "x"], |value| value != "e");
        assert_eq!(kept.to_string(), "a/b; f=g");
    }

    proptest! {
        #[test]
        fn what_parses_is_written_and_parsed_again(
            text in "[a-zA-Z+./*]{1,9}( ?; ?([a-z]{1,3}=(\"([ -~\t]|\\\\.){0,5}\"|[a-z]{0,3}))?){0,3}|\\PC{0,20}",
        ) {
            if let Some(parsed) = MediaType::parse(&text) {
                prop_assert_eq!(MediaType::parse(&parsed.to_string()), Some(parsed));
            }
        }
    }
}
