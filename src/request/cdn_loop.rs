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
pub struct Hops {
    and_this_one: HeaderValue,
}

/// A request that came through `MAX_HOPS` mirrors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop;

impl Hops {
    /// Of what others have added nothing is passed on: a client may have written it.
    pub fn of(headers: &HeaderMap) -> Result<Hops, Loop> {
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
            .map(|name| Hops {
                and_this_one: name.clone(),
            })
            .ok_or(Loop)
    }

    /// Whether it came through no other.
    pub fn are_none(&self) -> bool {
        NAMES.first() == Some(&self.and_this_one)
    }

    /// The header of a request that this mirror sends.
    pub fn and_this_one(&self) -> HeaderValue {
        self.and_this_one.clone()
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
            Hops::of(&headers)
                .ok()?
                .and_this_one()
                .to_str()
                .unwrap()
                .to_owned(),
        )
    }

    #[test]
    fn a_client_came_through_no_mirror() {
        let hops = |line: &str| {
            Hops::of(&HeaderMap::from_iter([(
                CDN_LOOP,
                HeaderValue::from_str(line).unwrap(),
            )]))
        };
        assert!(Hops::of(&HeaderMap::new()).unwrap().are_none());
        assert!(hops("other").unwrap().are_none());
        assert!(!hops("other, hammal").unwrap().are_none());
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
