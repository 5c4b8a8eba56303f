//! How many mirrors of this kind a request has come through: an upstream, or a redirect that is followed here, may lead
//! back to this one, and each would ask the next for ever.

use http::{HeaderMap, HeaderName, HeaderValue};

/// RFC 8586: what content delivery networks tell each other for the same reason.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// One mirror behind another is somebody's design, and so may be a third.
pub const MAX_HOPS: usize = 3;
/// What a mirror tells the next, by how many there were before it.
static NAMES: [HeaderValue; MAX_HOPS] = [
    HeaderValue::from_static("hammal"),
    HeaderValue::from_static("hammal, hammal"),
    HeaderValue::from_static("hammal, hammal, hammal"),
];

/// The mirrors that a request came through before it came here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdnLoop {
    to_header: HeaderValue,
}

/// A request that came through `MAX_HOPS` mirrors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopDetected;

impl CdnLoop {
    /// Of what others have added nothing is passed on: a client may have written it.
    pub fn of(headers: &HeaderMap) -> Result<CdnLoop, LoopDetected> {
        let values = headers
            .get_all(CDN_LOOP)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let names = values
            .flat_map(|text| text.split(','))
            .filter_map(|info| info.split(';').next());
        let before = names
            .filter(|name| name.trim().eq_ignore_ascii_case("hammal"))
            .count();
        NAMES
            .get(before)
            .map(|name| CdnLoop {
                to_header: name.clone(),
            })
            .ok_or(LoopDetected)
    }

    /// Whether it came through no other.
    pub fn is_direct(&self) -> bool {
        NAMES.first() == Some(&self.to_header)
    }

    /// The header of a request that this mirror sends.
    pub fn to_header(&self) -> HeaderValue {
        self.to_header.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn onward(lines: &[&str]) -> Option<String> {
        let headers = lines
            .iter()
            .map(|line| (CDN_LOOP, HeaderValue::from_str(line).unwrap()))
            .collect();
        Some(
            CdnLoop::of(&headers)
                .ok()?
                .to_header()
                .to_str()
                .unwrap()
                .to_owned(),
        )
    }

    #[test]
    fn a_client_came_through_no_mirror() {
        let hops = |line: &str| {
            CdnLoop::of(&HeaderMap::from_iter([(
                CDN_LOOP,
                HeaderValue::from_str(line).unwrap(),
            )]))
        };
        assert!(CdnLoop::of(&HeaderMap::new()).unwrap().is_direct());
        assert!(hops("other").unwrap().is_direct());
        assert!(!hops("other, hammal").unwrap().is_direct());
    }

    #[test]
    fn counts_the_mirrors_of_this_kind_and_stops_at_the_fourth() {
        for (lines, expected) in [
            (&[][..], Some("hammal")),
            (&["cloudflare"], Some("hammal")),
            (&["hammal"], Some("hammal, hammal")),
            (&["hammal; v=1, cloudflare"], Some("hammal, hammal")),
            (&["fastly,Hammal", "hammal"], Some("hammal, hammal, hammal")),
            (&["hammal, hammal, hammal"], None),
            (&["hammal", "hammal", "hammal,hammal"], None),
        ] {
            assert_eq!(onward(lines).as_deref(), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics_or_is_repeated(line in "(hammal|[!-~]{0,9}|[,; \t]){0,9}") {
            prop_assert!(onward(&[&line]).is_none_or(|sent| sent.split(", ").all(|name| name == "hammal")));
        }
    }
}
