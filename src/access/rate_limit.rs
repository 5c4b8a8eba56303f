//! Who may use the mirror, and how much: both are the operator's choice, and open by default.

use crate::access::secret::Access;
use crate::cache::{Cache, Shape};
use crate::context::Context;
use crate::platform::Platform;
use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Where Spin says whom it is connected to. A client's own copies of the header come first, so the last one is Spin's.
pub const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("spin-client-addr");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The span in which a client's requests are counted.
const MINUTE: u64 = 60;
/// Keys in the store for counts.
const COUNTS: Shape = Shape {
    buckets: 64,
    entries: 32,
};

/// How many requests of a client an instance counts until the store hears of it: an instance of WASIp3 takes 128 of all
/// clients, one of WASIp2 takes one.
const MOST_UNTOLD: u32 = 16;

/// How many requests each client has made in this minute. Instances of the component don't live long, so counts are
/// handed on through the store: by each instance with its first request of a client, then with every eighth part of the
/// limit, or every 16th request. Counts of instances that run at the same time are not added up: the limit holds roughly.
pub struct Counts<P: Platform>(Cache<P, Count>);

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Count(u32);

impl<P: Platform> Default for Counts<P> {
    fn default() -> Self {
        Counts(Cache::new("l", COUNTS))
    }
}

impl<P: Platform> Counts<P> {
    /// Counts a request with these headers, if there is a limit. Returns how long to wait where it is one too many.
    pub async fn add(&self, context: &Context<'_, P>, headers: &HeaderMap) -> Result<(), Duration> {
        let Access {
            client_limit: limit,
            trusted_proxies,
            ..
        } = context.config.access;
        if limit == 0 {
            return Ok(());
        }
        // Where the platform does not say whom it is connected to, there is nobody to count.
        let Some(client) = client(headers, trusted_proxies) else {
            return Ok(());
        };
        let now = context.platform.now();
        let minute = now.as_secs().checked_div(MINUTE).unwrap_or_default();
        let rest = Duration::from_secs(
            MINUTE.saturating_sub(now.as_secs().checked_rem(MINUTE).unwrap_or_default()),
        );
        let identity = format!("{client}\n{minute}");
        let is_new_here = self.0.remembered(&identity, now).is_none();
        let before = self
            .0
            .find(context.store, &identity)
            .await
            .map_or(0, |count| count.0);
        if before >= limit {
            return Err(rest);
        }
        let count = before.saturating_add(1);
        let step = limit
            .checked_div(8)
            .unwrap_or_default()
            .clamp(1, MOST_UNTOLD);
        if is_new_here || count == limit || count.checked_rem(step) == Some(0) {
            self.0.keep(context.store, &identity, Count(count), rest);
        } else {
            self.0.remember(&identity, Count(count), now, rest);
        }
        Ok(())
    }
}

/// The address of the client: the one that Spin is connected to, or behind `trusted_proxies` the one that the outermost of
/// them saw. An IPv6 address stands for its /64, which is what one user has.
fn client(headers: &HeaderMap, trusted_proxies: u32) -> Option<IpAddr> {
    let connected = address(
        headers
            .get_all(CLIENT_ADDRESS)
            .iter()
            .next_back()?
            .to_str()
            .ok()?,
    )?;
    let forwarded: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(',').map(str::trim))
        .collect();
    let appended = trusted_proxies
        .checked_sub(1)
        .and_then(|behind| usize::try_from(behind).ok());
    let appended = appended
        .and_then(|behind| forwarded.iter().rev().nth(behind))
        .and_then(|text| address(text));
    Some(match appended.unwrap_or(connected).to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
        address => address,
    })
}

/// An address with a port or without; some proxies append one (Azure Application Gateway).
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<SocketAddr>()
        .map(|address| address.ip())
        .or_else(|_| text.parse())
        .ok()
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
                client(&headers, proxies),
                Some(address.parse().unwrap()),
                "{connected:?} {forwarded:?}"
            );
        }
        assert_eq!(client(&HeaderMap::new(), 0), None);
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
            let _ = client(&headers, proxies);
            headers.append(CLIENT_ADDRESS, http::HeaderValue::from_static("192.0.2.1:5000"));
            prop_assert_eq!(client(&headers, 0), Some([192, 0, 2, 1].into()));
        }

    }
}
