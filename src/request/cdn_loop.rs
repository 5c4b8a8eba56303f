//! Loop detection (RFC 8586): an upstream, or a redirect that is followed here, may lead back to
//! this mirror, and each request would cause the next for ever.

use http::{HeaderMap, HeaderName, HeaderValue};

/// RFC 8586, section 2.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// A request that came through this many mirrors of this kind is refused. One mirror behind another
/// is a sensible set-up, and so may be a third.
pub const MAX_HOPS: usize = 3;
/// The header of an upstream request, by the number of mirrors before this one.
static HEADERS: [HeaderValue; MAX_HOPS] = [
    HeaderValue::from_static("hammal"),
    HeaderValue::from_static("hammal, hammal"),
    HeaderValue::from_static("hammal, hammal, hammal"),
];

/// The mirrors that a request came through before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdnLoop {
    header: HeaderValue,
}

/// A request came through [`MAX_HOPS`] mirrors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopDetected;

impl CdnLoop {
    /// Counts this kind of mirror in a request's headers. Other entries are not passed on: a client
    /// may have written them.
    pub fn from_headers(headers: &HeaderMap) -> Result<CdnLoop, LoopDetected> {
        let values = headers
            .get_all(CDN_LOOP)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let names = values
            .flat_map(|text| text.split(','))
            .filter_map(|info| info.split(';').next());
        let hops = names
            .filter(|name| name.trim().eq_ignore_ascii_case("hammal"))
            .count();
        HEADERS
            .get(hops)
            .map(|name| CdnLoop {
                header: name.clone(),
            })
            .ok_or(LoopDetected)
    }

    /// Whether the request came through no other mirror.
    pub fn is_direct(&self) -> bool {
        HEADERS.first() == Some(&self.header)
    }

    /// Returns the header of an upstream request, with this mirror added.
    pub fn to_header(&self) -> HeaderValue {
        self.header.clone()
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
            CdnLoop::from_headers(&headers)
                .ok()?
                .to_header()
                .to_str()
                .unwrap()
                .to_owned(),
        )
    }

    #[test]
    fn a_client_came_through_no_mirror() {
        let parse = |line: &str| {
            CdnLoop::from_headers(&HeaderMap::from_iter([(
                CDN_LOOP,
                HeaderValue::from_str(line).unwrap(),
            )]))
        };
        assert!(
            CdnLoop::from_headers(&HeaderMap::new())
                .unwrap()
                .is_direct()
        );
        assert!(parse("other").unwrap().is_direct());
        assert!(!parse("other, hammal").unwrap().is_direct());
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
