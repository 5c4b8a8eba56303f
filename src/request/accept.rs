//! The media types that a client accepts: its `Accept` headers (RFC 9110, section 12.5.1).

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};
use std::fmt;

/// What dockerd, containerd, podman, skopeo, crane, oras and curl accept of manifests.
const USUAL: [&str; 9] = [
    "*/*",
    "application/json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.artifact.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
];

/// The media types that a client accepts.
#[derive(Clone, Debug)]
pub struct Accept(Vec<HeaderValue>);

impl Accept {
    pub fn from_headers(headers: &HeaderMap) -> Accept {
        Accept(headers.get_all(ACCEPT).iter().cloned().collect())
    }

    /// Whether the client accepts content of this type; any, where it says nothing.
    pub fn accepts(&self, media_type: &str) -> bool {
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        let mut accepted = self.media_types().peekable();
        let all = ["*/*", "application/*", essence];
        accepted.peek().is_none()
            || accepted.any(|range| all.iter().any(|one| range.eq_ignore_ascii_case(one)))
    }

    /// Whether the client names this very type.
    pub fn names(&self, media_type: &str) -> bool {
        self.media_types()
            .any(|named| named.eq_ignore_ascii_case(media_type))
    }

    /// Whether all that the client accepts is what clients of registries ask for, without
    /// parameters: there are so many such lists, and no more.
    pub fn is_usual(&self) -> bool {
        let mut ranges = self
            .0
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        ranges.all(|range| {
            let range = range.trim_ascii();
            let mut usual = USUAL.iter().map(|known| known.as_bytes());
            usual.any(|known| range.eq_ignore_ascii_case(known))
        })
    }

    fn media_types(&self) -> impl Iterator<Item = &str> {
        let values = self.0.iter().filter_map(|value| value.to_str().ok());
        values
            .flat_map(|text| text.split(','))
            .filter_map(|text| text.split(';').next())
            .map(str::trim)
    }
}

/// Writes all media ranges with their parameters, since any of it may decide what an upstream
/// sends; but sorted: dockerd sends them in a random order.
impl fmt::Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self
            .0
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let mut ranges: Vec<&[u8]> = ranges.map(<[u8]>::trim_ascii).collect();
        ranges.sort_unstable();
        ranges.dedup();
        ranges
            .iter()
            .try_for_each(|range| write!(f, "{},", range.escape_ascii()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_clients_of_registries_accept_is_usual() {
        let is_usual = |lines: &[&str]| {
            let lines = lines.iter().map(|line| (ACCEPT, line.parse().unwrap()));
            Accept::from_headers(&lines.collect()).is_usual()
        };
        assert!(is_usual(&[]) && is_usual(&["*/*"]));
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        let oci = "application/vnd.oci.image.index.v1+json, application/JSON,*/*";
        assert!(is_usual(&[docker, oci]));
        for other in [
            "x/1",
            "*/*;q=0.1",
            "text/html",
            "",
            "application/vnd.oci.image.index.v2+json",
        ] {
            assert!(!is_usual(&[docker, other]), "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_accept_panics_and_its_order_says_nothing(
            lines in prop::collection::vec("([a-z*]{1,5}/[a-zA-Z+.*]{1,9}(;q=[0-9.]{1,3})?,? ?|[ -~\t]{0,9}){0,4}", 0..4),
            media_type in "[a-z]{1,9}/[a-z]{1,9}",
        ) {
            let accept = |lines: &[String]| {
                Accept::from_headers(&lines.iter().map(|line| (ACCEPT, HeaderValue::from_bytes(line.as_bytes()).unwrap())).collect())
            };
            let backwards: Vec<String> = lines.iter().rev().cloned().collect();
            prop_assert_eq!(accept(&lines).to_string(), accept(&backwards).to_string());
            for more in ["a/b;=", "\u{e9}/x"] {
                let more = [lines.clone(), vec![more.to_owned()]].concat();
                prop_assert_ne!(accept(&lines).to_string(), accept(&more).to_string());
            }
            let _ = accept(&lines).accepts(lines.first().unwrap_or(&media_type));
            let listed = [lines, vec![media_type.to_uppercase()]].concat();
            prop_assert!(accept(&listed).accepts(&media_type));
        }
    }
}
