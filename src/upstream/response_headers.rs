//! The headers of an upstream's response that go back to the client: those of the allow-list, as
//! far as every host takes them from a component. A header that a host refuses costs the whole
//! answer.

use super::error::UpstreamError;
use super::{CONTENT_DIGEST, MAX_HEADER, RESPONSE_HEADERS};
use crate::oci::digest::Digest;
use http::header::{AGE, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// Picks the headers for the client. `method` is the one that was asked by: the length in the
/// answer to a `HEAD` is all that the client gets to know of the content, while a body has its own
/// end, and a length that is none beside it is left out.
pub fn pick(method: &Method, received: &HeaderMap) -> Result<HeaderMap, UpstreamError> {
    let mut picked = HeaderMap::with_capacity(16);
    let mut left = MAX_HEADER;
    for (name, value) in received {
        if !RESPONSE_HEADERS.contains(name) {
            continue;
        }
        let length = name.as_str().len().saturating_add(value.len());
        left = left
            .checked_sub(length)
            .ok_or(UpstreamError::HeaderTooLong)?;
        if *name != CONTENT_LENGTH && is_usable(name, value) {
            picked.append(name.clone(), value.clone());
        }
    }
    match content_length(received) {
        Ok(Some(length)) => drop(picked.insert(CONTENT_LENGTH, HeaderValue::from(length))),
        Err(NoLength) if *method == Method::HEAD => return Err(UpstreamError::InvalidLength),
        Ok(None) | Err(NoLength) => {}
    }
    // Of two digests neither can be believed.
    if picked.get_all(CONTENT_DIGEST).iter().nth(1).is_some() {
        picked.remove(CONTENT_DIGEST);
    }
    Ok(picked)
}

/// Lengths that are no number, or several numbers.
#[derive(Debug, PartialEq, Eq)]
pub struct NoLength;

/// Returns the one number that all `Content-Length` say (RFC 9110, section 8.6): proxies that join
/// headers make `93, 93` of two lines.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, NoLength> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let text = value.to_str().map_err(|_| NoLength)?;
        for text in text.split(',') {
            let said = parse_number(text.trim_matches([' ', '\t'])).ok_or(NoLength)?;
            if length.is_some_and(|before| before != said) {
                return Err(NoLength);
            }
            length = Some(said);
        }
    }
    Ok(length)
}

/// Parses digits. Rust's own parser takes a sign too.
pub fn parse_number(text: &str) -> Option<u64> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_digits)
}

/// Whether a value is what its name says, where something here or a client relies on that.
fn is_usable(name: &HeaderName, value: &HeaderValue) -> bool {
    let text = || value.to_str().unwrap_or_default();
    if *name == CONTENT_DIGEST {
        Digest::parse(text()).is_ok()
    } else if *name == AGE {
        parse_number(text()).is_some()
    } else {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn headers<'a>(lines: impl IntoIterator<Item = (&'a HeaderName, &'a [u8])>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_length_is_one_number_or_none() {
        let number = |length| Ok(Some(length));
        for (lines, expected) in [
            (&[][..], Ok(None)),
            (&["93"], number(93)),
            (&["93", "93"], number(93)),
            (&["93, 93"], number(93)),
            (&["93,\t93 ", "093"], number(93)),
            (&["0"], number(0)),
            (&["+93"], Err(NoLength)),
            (&["-1"], Err(NoLength)),
            (&["93", "94"], Err(NoLength)),
            (&["93, 94"], Err(NoLength)),
            (&["93,"], Err(NoLength)),
            (&[""], Err(NoLength)),
            (&["0x5d"], Err(NoLength)),
            (&["9e1"], Err(NoLength)),
            (&["93 "], number(93)),
            (&["9 3"], Err(NoLength)),
            (&["18446744073709551616"], Err(NoLength)),
            (&["\u{e9}"], Err(NoLength)),
        ] {
            let lines = lines.iter().map(|line| (&CONTENT_LENGTH, line.as_bytes()));
            let received = headers(lines);
            assert_eq!(content_length(&received), expected, "{received:?}");
            let head = pick(&Method::HEAD, &received);
            assert_eq!(head.is_err(), expected.is_err(), "{received:?}");
            let got = pick(&Method::GET, &received).unwrap();
            let length = expected.ok().flatten().map(HeaderValue::from);
            assert_eq!(got.get(CONTENT_LENGTH), length.as_ref(), "{received:?}");
        }
    }

    #[test]
    fn a_digest_or_an_age_that_is_none_is_left_out() {
        for (name, lines, expected) in [
            (CONTENT_DIGEST, &[DIGEST][..], Some(DIGEST)),
            (CONTENT_DIGEST, &["latest"], None),
            (CONTENT_DIGEST, &["\u{e9}"], None),
            (CONTENT_DIGEST, &[""], None),
            (CONTENT_DIGEST, &[DIGEST, DIGEST], None),
            (AGE, &["5"], Some("5")),
            (AGE, &["-5"], None),
            (AGE, &["soon"], None),
        ] {
            let received = headers(lines.iter().map(|line| (&name, line.as_bytes())));
            let picked = pick(&Method::GET, &received).unwrap();
            let value = picked.get(&name).map(|value| value.to_str().unwrap());
            assert_eq!(value, expected, "{received:?}");
        }
    }

    #[test]
    fn headers_over_8_kib_together_are_refused() {
        let half = [b'x'; MAX_HEADER / 2];
        let warning = &http::header::WARNING;
        let received = headers([(warning, &half[..]), (warning, &half[..])]);
        assert_eq!(
            pick(&Method::GET, &received),
            Err(UpstreamError::HeaderTooLong)
        );
    }

    proptest! {
        /// The rules of the hosts (`Fields::from_list` of WASI): one `Content-Length`, of digits
        /// only, and 128 KiB together.
        #[test]
        fn every_host_takes_what_is_picked(
            lines in prop::collection::vec(
                (0..RESPONSE_HEADERS.len(), "[ -~\t]{0,9}|[0-9+, -]{0,5}|[0-9]{0,30}"),
                0..9,
            ),
            obs_text in prop::collection::vec(0x80_u8.., 0..9),
            is_head: bool,
        ) {
            let mut received = HeaderMap::new();
            for (name, value) in &lines {
                for value in [value.as_bytes(), &obs_text] {
                    let value = HeaderValue::from_bytes(value).unwrap();
                    received.append(RESPONSE_HEADERS[*name].clone(), value);
                }
            }
            let method = if is_head { Method::HEAD } else { Method::GET };
            if let Ok(picked) = pick(&method, &received) {
                let lengths: Vec<_> = picked.get_all(CONTENT_LENGTH).iter().collect();
                prop_assert!(lengths.len() <= 1);
                for length in lengths {
                    prop_assert!(!length.is_empty());
                    prop_assert!(length.as_bytes().iter().all(u8::is_ascii_digit));
                    prop_assert!(length.to_str().unwrap().parse::<u64>().is_ok());
                }
                let size = |(name, value): (&HeaderName, &HeaderValue)| {
                    name.as_str().len() + value.len()
                };
                prop_assert!(picked.iter().map(size).sum::<usize>() <= MAX_HEADER);
            }
        }
    }
}
