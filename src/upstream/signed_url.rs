//! Signed URLs of delivery networks and buckets: until when they are good.

use super::response_headers::parse_number;
use super::timestamp;
use std::time::Duration;

/// How long a URL that was signed with temporary credentials (`X-Amz-Security-Token`) is relied on:
/// it ends with them, and hosts of AWS have new ones five minutes before that.
const TEMPORARY_CREDENTIALS: Duration = Duration::from_secs(5 * 60);

/// Returns when a URL that a registry redirects to stops being good, since the Unix epoch: the
/// earliest end that its query names. `None` where it names none in one of these forms; an end that
/// can't be read has come already.
///
/// | parameters | signed for |
/// | --- | --- |
/// | `X-Amz-Date`, `X-Amz-Expires` (seconds) | S3 and what speaks its protocol: Cloudflare R2 (Docker Hub), quay.io |
/// | `X-Goog-Date`, `X-Goog-Expires` (seconds) | Google Cloud Storage |
/// | `Expires` (Unix time) beside `Signature` | CloudFront (Docker Hub, quay.io), Google Cloud CDN, S3 and Google before version 4, Alibaba OSS; `expires` and `signature` at Docker Hub's Cloudflare |
/// | `se`, `ske` (ISO 8601) beside `sig` | Azure Blob Storage (ghcr.io, mcr.microsoft.com) |
/// | `verify=TIME-MAC` (Unix time) | Docker Hub's Cloudflare. It signs for 50 minutes ahead; in Cloudflare's own use of this form the time is that of signing, and then the URL is not kept |
pub fn valid_until(url: &str) -> Option<Duration> {
    let (_, query) = url.split('#').next()?.split_once('?')?;
    let query = Query(query);
    let beside = |signature, end| query.get(signature).and_then(|_| query.get(end));
    let ends = [
        query.signed_v4("x-amz-"),
        query.signed_v4("x-goog-"),
        beside("signature", "expires").map(unix_time),
        beside("sig", "se").map(iso_8601),
        beside("sig", "ske").map(iso_8601),
        query.get("verify").map(|value| {
            let (time, _) = value.split_once('-')?;
            unix_time(time)
        }),
    ];
    ends.into_iter()
        .flatten()
        .map(Option::unwrap_or_default)
        .min()
}

struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// Returns the value of a parameter, whose name may be in capitals; of several the first.
    fn get(&self, name: &str) -> Option<&'a str> {
        let parameters = self.0.split('&').filter_map(|one| one.split_once('='));
        let mut found = parameters.filter(|(own, _)| own.eq_ignore_ascii_case(name));
        Some(found.next()?.1)
    }

    /// Returns the end of a query signature of version 4, of AWS or Google. One that covers other
    /// headers than the host may be good for the client only that it was made for.
    fn signed_v4(&self, prefix: &str) -> Option<Option<Duration>> {
        let get = |name: &str| self.get(&[prefix, name].concat());
        let date = get("date")?;
        let end = || {
            let date = timestamp::parse("YYYYMMDDThhmmssZ", date)?;
            let mut life = Duration::from_secs(parse_number(get("expires")?)?);
            if get("security-token").is_some() {
                life = life.min(TEMPORARY_CREDENTIALS);
            }
            let is_of_host = get("signedheaders")?.eq_ignore_ascii_case("host");
            is_of_host.then_some(date.saturating_add(life))
        };
        Some(end())
    }
}

/// Parses seconds since the epoch. More digits than today's would be another unit.
fn unix_time(text: &str) -> Option<Duration> {
    (text.len() <= 10).then_some(Duration::from_secs(parse_number(text)?))
}

/// Parses the forms that Azure documents, in UTC. A colon may be percent-encoded.
fn iso_8601(text: &str) -> Option<Duration> {
    let text = text.replace("%3A", ":").replace("%3a", ":");
    ["YYYY-MM-DDThh:mm:ssZ", "YYYY-MM-DDThh:mmZ", "YYYY-MM-DD"]
        .iter()
        .find_map(|pattern| timestamp::parse(pattern, &text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOB: &str = "https://cdn.example/sha256/ab/data";
    /// 2026-01-02T03:04:05Z, in each form.
    const TIME: u64 = 1_767_323_045;
    const BASIC: &str = "20260102T030405Z";

    fn end(query: &str) -> Option<u64> {
        valid_until(&format!("{BLOB}?{query}")).map(|end| end.as_secs())
    }

    fn signed(date: &str, expires: &str, more: &str) -> String {
        format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2Fb&X-Amz-Date={date}\
             &X-Amz-Expires={expires}&X-Amz-SignedHeaders=host&X-Amz-Signature=00{more}"
        )
    }

    #[test]
    fn reads_the_end_of_every_known_form() {
        let google = signed(BASIC, "900", "").replace("X-Amz", "X-Goog");
        for (query, expected) in [
            (signed(BASIC, "1200", "").as_str(), TIME + 1200),
            (&google, TIME + 900),
            // Docker Hub by way of CloudFront, quay.io; Google Cloud CDN.
            ("Expires=1767323045&Signature=a~b__&Key-Pair-Id=K1", TIME),
            ("Expires=1767323045&KeyName=k&Signature=a", TIME),
            ("AWSAccessKeyId=k&Signature=a&Expires=1767323045", TIME),
            // Docker Hub by way of Cloudflare, since 2025 and before.
            ("expires=1767323045&signature=a%3D&version=2", TIME),
            ("verify=1767323045-a%2Fb%3D", TIME),
            // Azure: mcr.microsoft.com, ghcr.io.
            (
                "se=2026-01-02T03%3A04%3A05Z&sig=a&sp=r&spr=https&sr=b&sv=2016-05-31",
                TIME,
            ),
            ("sig=a&se=2026-01-02T03:04:05Z", TIME),
            ("sig=a&se=2026-01-02T03%3a04Z", TIME - 5),
            ("sig=a&se=2026-01-02", TIME - 11_045),
            (
                "se=2026-01-02T04%3A00%3A00Z&ske=2026-01-02T03%3A04%3A05Z&sig=a",
                TIME,
            ),
            // The earliest of several.
            (
                &signed(BASIC, "1200", "&Expires=1767323100&Signature=a"),
                TIME + 55,
            ),
        ] {
            assert_eq!(end(query), Some(expected), "{query}");
        }
    }

    #[test]
    fn temporary_credentials_may_end_before_the_signature() {
        let token = "&X-Amz-Security-Token=t";
        assert_eq!(end(&signed(BASIC, "3600", token)), Some(TIME + 300));
        assert_eq!(end(&signed(BASIC, "60", token)), Some(TIME + 60));
    }

    #[test]
    fn an_end_that_can_not_be_read_has_come() {
        for query in [
            &signed("2026-01-02T03:04:05Z", "1200", ""),
            &signed(BASIC, "+1200", ""),
            &signed(BASIC, "", ""),
            &signed(BASIC, "99999999999999999999", ""),
            &signed(BASIC, "1200", "").replace("=host", "=host%3Brange"),
            &signed(BASIC, "1200", "").replace("X-Amz-SignedHeaders", "x"),
            &signed(BASIC, "1200", "").replace("X-Amz-Expires", "x"),
            "Expires=1767323045000&Signature=a",
            "Expires=Fri,%2002%20Jan%202026%2003:04:05%20GMT&Signature=a",
            "Expires=-1&Signature=a",
            "se=2026-01-02T03:04:05%2B01:00&sig=a",
            "se=2026-02-30&sig=a",
            "verify=1767323045",
            "verify=x-1767323045",
        ] {
            assert_eq!(end(query), Some(0), "{query}");
        }
    }

    #[test]
    fn other_urls_name_no_end() {
        for query in [
            "",
            "Expires=1767323045",
            "Signature=a&Policy=eyJTdGF0ZW1lbnQi&Key-Pair-Id=K1",
            "se=2026-01-02T03:04:05Z",
            "X-Amz-Expires=1200",
            "token=1767323045",
            "X%2DAmz%2DDate=20260102T030405Z",
        ] {
            assert_eq!(end(query), None, "{query}");
        }
        assert_eq!(valid_until(BLOB), None);
        let in_fragment = format!("{BLOB}#?Expires=1767323045&Signature=a");
        assert_eq!(valid_until(&in_fragment), None);
    }

    proptest! {
        #[test]
        fn reads_every_life(life in 0..1_000_000_u64, time in 0..9_999_999_999_u64) {
            prop_assert_eq!(end(&signed(BASIC, &life.to_string(), "")), Some(TIME + life));
            for query in [
                format!("Expires={time}&Signature=a&Key-Pair-Id=K"),
                format!("verify={time}-mac"),
            ] {
                prop_assert_eq!(end(&query), Some(time));
            }
        }

        #[test]
        fn no_url_panics_and_no_parameter_makes_it_live_longer(
            parameters in prop::collection::vec(
                (
                    "X-(Amz|Goog)-(Date|Expires|SignedHeaders|Security-Token)|Expires|Signature|s[eig]{1,2}|ske|verify|[a-z]{0,3}",
                    "[0-9]{0,12}|[0-9]{8}T[0-9]{6}Z|20[0-9]{2}-0[1-9]-0[1-9]|host|\\PC{0,9}",
                ),
                0..8,
            ),
            more in "[a-z]{1,5}=[ -~]{0,20}",
        ) {
            let query: Vec<_> =
                parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let query = query.join("&");
            let before = end(&query);
            let after = end(&format!("{query}&{more}"));
            if let Some(before) = before {
                prop_assert!(after.is_some_and(|after| after <= before), "{query}&{more}");
            }
        }
    }
}
