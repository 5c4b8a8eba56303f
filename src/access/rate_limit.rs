//! The limits per minute: of a client's requests, and of an address's wrong logins.

use super::account::Login;
use super::{Entrance, LoginError, OverClientLimit};
use crate::cache::Cache;
use crate::cache::bucket::{BucketLayout, Owner};
use crate::cache::store::Store;
use crate::platform::Platform;
use http::{HeaderMap, HeaderName};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

/// The header in which Spin tells the address of the client. A client's own copies of it come
/// first: the last one is Spin's.
pub const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("spin-client-addr");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Seconds in which a client's requests are counted together.
const WINDOW: u64 = 60;
/// Wrong logins of one address in a minute. Tokens are random: no number of guesses finds one. A
/// token that somebody chose is not found either at this rate.
pub const MAX_WRONG_LOGINS: u32 = 30;
const COUNTS: BucketLayout = BucketLayout {
    buckets: 64,
    entries: 32,
};
/// How many requests of a client an instance counts before it writes to the store: an instance of
/// WASIp3 answers 128 of all clients, one of WASIp2 answers one.
const MAX_UNWRITTEN: u32 = 16;

/// Counts the requests that each client has made in this minute. Instances of the component live
/// shortly, so counts are handed on through the store: by each instance with its first request of a
/// client, then with every eighth part of the limit, or every 16th request. Counts of instances
/// that run at the same time are not added up: the limit is approximate.
pub struct RateLimiter<P: Platform>(Cache<P, u32>);

impl<P: Platform> Default for RateLimiter<P> {
    fn default() -> Self {
        RateLimiter(Cache::new("l", COUNTS))
    }
}

impl<P: Platform> RateLimiter<P> {
    /// Counts a request with these headers, of the account that it has logged in to, or else of its
    /// address. Returns how long to wait where it exceeds the limit. Where the platform does not
    /// tell the address of the client, that has no limit.
    pub async fn check(
        &self,
        store: &Store<P>,
        entrance: &Entrance<'_>,
    ) -> Result<(), OverClientLimit> {
        let (access, headers) = (entrance.access, entrance.headers);
        let limit = access.client_limit;
        if limit == 0 {
            return Ok(());
        }
        let client = match entrance.client() {
            Some(name) => format!("@{name}"),
            None => match client_address(headers, access.trusted_proxies) {
                Some(address) => address.to_string(),
                None => return Ok(()),
            },
        };
        let counted = self.count(store, &client, limit, true).await;
        counted.map_err(OverClientLimit)
    }

    /// Lets a request in if it needs no login, or has a right one. Beyond [`MAX_WRONG_LOGINS`] wrong
    /// ones from an address, none from there is judged for the rest of the minute: a guess must not
    /// be told from the others by being right.
    pub async fn check_login(
        &self,
        store: &Store<P>,
        entrance: &Entrance<'_>,
    ) -> Result<(), LoginError> {
        let (access, headers) = (entrance.access, entrance.headers);
        let error = match entrance.login {
            None => return Ok(()),
            Some(Login::Missing) => return Err(LoginError::Missing),
            Some(Login::Right(_)) => None,
            Some(Login::Wrong) => Some(LoginError::Wrong),
        };
        if let Some(address) = client_address(headers, access.trusted_proxies) {
            let (client, counts) = (format!("!{address}"), error.is_some());
            self.count(store, &client, MAX_WRONG_LOGINS, counts)
                .await
                .map_err(LoginError::TooMany)?;
        }
        error.map_or(Ok(()), Err)
    }

    /// Counts one more of `client` in this minute, or only looks where it does not count. Returns
    /// how long to wait where there were as many as the limit before.
    fn count<'a>(
        &'a self,
        store: &'a Store<P>,
        client: &'a str,
        limit: u32,
        counts: bool,
    ) -> Pin<Box<dyn Future<Output = Result<(), Duration>> + 'a>> {
        // On the heap, or it would be compiled into both of its callers.
        Box::pin(self.count_one(store, client, limit, counts))
    }

    async fn count_one(
        &self,
        store: &Store<P>,
        client: &str,
        limit: u32,
        counts: bool,
    ) -> Result<(), Duration> {
        let now = store.platform().now();
        let window = now.as_secs().checked_div(WINDOW).unwrap_or_default();
        let elapsed = now.as_secs().checked_rem(WINDOW).unwrap_or_default();
        let remaining = Duration::from_secs(WINDOW.saturating_sub(elapsed));
        let key = format!("{client}\n{window}");
        let is_first_of_instance = self.0.get_memory(&key, now).is_none();
        let before = self.0.get(store, &key).await.map_or(0, |count| *count);
        if before >= limit {
            return Err(remaining);
        }
        let count = before.saturating_add(u32::from(counts));
        let step = limit
            .checked_div(8)
            .unwrap_or_default()
            .clamp(1, MAX_UNWRITTEN);
        let owner = Owner::Clients;
        let is_written =
            is_first_of_instance || count == limit || count.checked_rem(step) == Some(0);
        if counts && is_written {
            self.0.put(store, &key, count, remaining, owner);
        } else if counts || is_first_of_instance {
            // Also that there were none: the next request need not read the store.
            self.0.put_memory(&key, count, now, remaining, owner);
        }
        Ok(())
    }
}

/// Returns the address of the client: the one that Spin is connected to, or behind
/// `trusted_proxies` the one that the outermost of them saw. An IPv6 address stands for its /64,
/// which is what one user has.
pub fn client_address(headers: &HeaderMap, trusted_proxies: u32) -> Option<IpAddr> {
    let connected = headers.get_all(CLIENT_ADDRESS).iter().next_back()?;
    let connected = parse_address(connected.to_str().ok()?)?;
    // Bytes, not text: what a client claims in another encoding must not hide what a proxy has
    // appended to the same line.
    let forwarded: Vec<&[u8]> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .collect();
    let from_end = trusted_proxies.checked_sub(1);
    let appended = from_end
        .and_then(|count| usize::try_from(count).ok())
        .and_then(|count| forwarded.iter().rev().nth(count))
        .and_then(|entry| std::str::from_utf8(entry).ok())
        .and_then(|text| parse_address(text.trim()));
    Some(match appended.unwrap_or(connected).to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    })
}

/// Parses an address with a port or without. Some proxies append one (Azure Application Gateway).
fn parse_address(text: &str) -> Option<IpAddr> {
    let with_port = text.parse::<SocketAddr>().map(|address| address.ip());
    with_port.or_else(|_| text.parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_clients_address_is_what_was_appended_and_not_what_was_claimed() {
        for (connected, forwarded, proxies, address) in [
            (&["192.0.2.1:5000"][..], &[][..], 0, "192.0.2.1"),
            (
                &["10.9.9.9:1", "192.0.2.1:5000"],
                &["10.9.9.9"],
                0,
                "192.0.2.1",
            ),
            (
                &["192.0.2.1:5000"],
                &["10.9.9.9, 198.51.100.7"],
                1,
                "198.51.100.7",
            ),
            (
                &["192.0.2.1:5000"],
                &["10.9.9.9", "198.51.100.7, 203.0.113.5"],
                2,
                "198.51.100.7",
            ),
            (
                &["192.0.2.1:5000"],
                &["198.51.100.7:4711"],
                1,
                "198.51.100.7",
            ),
            (
                &["192.0.2.1:5000"],
                &["[2001:db8:1:2:3:4:5:6]:4711"],
                1,
                "2001:db8:1:2::",
            ),
            (&["192.0.2.1:5000"], &["nonsense"], 1, "192.0.2.1"),
            (&["192.0.2.1:5000"], &["198.51.100.7"], 3, "192.0.2.1"),
            (&["[2001:db8:1:2:3:4:5:6]:5000"], &[], 0, "2001:db8:1:2::"),
            (&["[::ffff:192.0.2.1]:5000"], &[], 0, "192.0.2.1"),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(
                connected
                    .iter()
                    .map(|value| (CLIENT_ADDRESS, value.parse().unwrap())),
            );
            headers.extend(
                forwarded
                    .iter()
                    .map(|value| (FORWARDED_FOR, value.parse().unwrap())),
            );
            assert_eq!(
                client_address(&headers, proxies),
                Some(address.parse().unwrap()),
                "{connected:?} {forwarded:?}"
            );
        }
        assert_eq!(client_address(&HeaderMap::new(), 0), None);
    }

    #[test]
    fn a_claim_that_is_no_text_does_not_hide_what_was_appended() {
        for lines in [
            &[&b"\xe9, 198.51.100.7"[..]][..],
            &[b"\xff\xfe", b"198.51.100.7"],
            &[b"10.9.9.9\x80,198.51.100.7:4711"],
        ] {
            let mut headers = HeaderMap::new();
            let connected = http::HeaderValue::from_static("192.0.2.1:5000");
            headers.append(CLIENT_ADDRESS, connected);
            for line in lines {
                let line = http::HeaderValue::from_bytes(line).unwrap();
                headers.append(FORWARDED_FOR, line);
            }
            let expected = [198, 51, 100, 7].into();
            assert_eq!(client_address(&headers, 1), Some(expected), "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics_and_none_but_the_hosts_counts_without_proxies(
            claimed in prop::collection::vec("\\PC{0,20}|[0-9a-f:., \\[\\]]{0,40}", 0..4),
            proxies in 0..5_u32,
        ) {
            let value = |text: &String| http::HeaderValue::from_bytes(text.as_bytes()).unwrap();
            let mut headers = HeaderMap::new();
            headers.extend(claimed.iter().map(|text| (CLIENT_ADDRESS, value(text))));
            headers.extend(claimed.iter().map(|text| (FORWARDED_FOR, value(text))));
            let _ = client_address(&headers, proxies);
            headers.append(CLIENT_ADDRESS, http::HeaderValue::from_static("192.0.2.1:5000"));
            prop_assert_eq!(client_address(&headers, 0), Some([192, 0, 2, 1].into()));
        }

    }
}
