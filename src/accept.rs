//! What a client takes: its `Accept` headers.

use http::HeaderMap;
use http::header::ACCEPT;
use std::fmt;

/// The media types that a client takes, sorted: dockerd sends them in a random order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept(Vec<String>);

impl Accept {
    pub fn of(headers: &HeaderMap) -> Accept {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let types = values.flat_map(|text| text.split(',')).filter_map(|text| text.split(';').next());
        let mut types: Vec<String> = types.map(|text| text.trim().to_ascii_lowercase()).collect();
        types.sort_unstable();
        types.dedup();
        Accept(types)
    }

    /// Whether content of this type may be sent.
    pub fn takes(&self, media_type: &str) -> bool {
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        let matches =
            |taken: &String| taken == "*/*" || taken == "application/*" || taken.eq_ignore_ascii_case(essence);
        self.0.is_empty() || self.0.iter().any(matches)
    }
}

impl fmt::Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_accept_panics_and_its_order_says_nothing(
            lines in prop::collection::vec("([a-z*]{1,5}/[a-zA-Z+.*]{1,9}(;q=[0-9.]{1,3})?,? ?|[ -~\t]{0,9}){0,4}", 0..4),
            media_type in "[a-z]{1,9}/[a-z]{1,9}",
        ) {
            let accept = |lines: &[String]| {
                Accept::of(&lines.iter().map(|line| (ACCEPT, HeaderValue::from_str(line).unwrap())).collect())
            };
            let backwards: Vec<String> = lines.iter().rev().cloned().collect();
            prop_assert_eq!(accept(&lines), accept(&backwards));
            let _ = accept(&lines).takes(lines.first().unwrap_or(&media_type));
            let listed = [lines, vec![media_type.to_uppercase()]].concat();
            prop_assert!(accept(&listed).takes(&media_type));
        }
    }
}
