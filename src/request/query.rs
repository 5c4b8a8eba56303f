//! The query of a request: taking parameters out of it, and leaving the rest as it was written.

use std::borrow::Cow;

/// The pairs of a query, each as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query<'a>(Vec<&'a str>);

/// A parameter that may be given once is given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated;

impl<'a> Query<'a> {
    pub fn parse(raw: Option<&'a str>) -> Query<'a> {
        Query(
            raw.unwrap_or_default()
                .split('&')
                .filter(|pair| !pair.is_empty())
                .collect(),
        )
    }

    /// Removes the parameter `name` and returns its decoded value.
    pub fn take(&mut self, name: &str) -> Result<Option<String>, Repeated> {
        let mut taken = None;
        let mut repeated = false;
        self.0.retain(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if decode(key) != name {
                return true;
            }
            repeated |= taken.replace(decode(value)).is_some();
            false
        });
        if repeated { Err(Repeated) } else { Ok(taken) }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Query<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, pair) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("&")?;
            }
            f.write_str(pair)?;
        }
        Ok(())
    }
}

/// Decodes `+` and percent-escapes as HTML forms write them. Anything else stays as it is.
fn decode(text: &str) -> String {
    decode_percent(&text.replace('+', " ")).into_owned()
}

/// Decodes percent-escapes. Bytes that are not UTF-8 become U+FFFD, which no grammar here accepts.
pub fn decode_percent(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_a_parameter_and_leaves_the_rest_as_written() {
        for (raw, upstream, rest) in [
            ("upstream=ghcr.io", Some("ghcr.io"), ""),
            (
                "n=10&upstream=ghcr.io&last=a%2Fb",
                Some("ghcr.io"),
                "n=10&last=a%2Fb",
            ),
            (
                "upstream=https%3A%2F%2Fghcr.io%3A443",
                Some("https://ghcr.io:443"),
                "",
            ),
            ("u%70stream=ghcr.io", Some("ghcr.io"), ""),
            ("upstream", Some(""), ""),
            ("n=1&&last=+", None, "n=1&last=+"),
            ("", None, ""),
        ] {
            let mut query = Query::parse(Some(raw));
            assert_eq!(
                query.take("upstream"),
                Ok(upstream.map(str::to_owned)),
                "{raw}"
            );
            assert_eq!(query.to_string(), rest);
            assert_eq!(query.is_empty(), rest.is_empty());
        }
    }

    #[test]
    fn refuses_to_choose_between_two_values() {
        let mut query = Query::parse(Some("upstream=a.io&upstream=b.io&n=1"));
        assert_eq!(query.take("upstream"), Err(Repeated));
        assert_eq!(query.to_string(), "n=1");
    }

    proptest! {
        #[test]
        fn a_query_without_the_parameter_stays_as_it_is(raw in "[a-tv-z0-9=%+]{1,8}(&[a-tv-z0-9=%+]{1,8}){0,4}") {
            let mut query = Query::parse(Some(&raw));
            prop_assert_eq!(query.take("upstream"), Ok(None));
            prop_assert_eq!(query.to_string(), raw);
        }
    }
}
