//! Who may use the mirror, and how much: both are the operator's choice, and open by default.

use crate::cache::{Cache, Shape};
use crate::context::Context;
use crate::platform::Platform;
use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// What has to stand in front of every path.
    pub secret: Option<Secret>,
    /// Requests of one client address in a minute; 0 is no limit.
    pub client_limit: u32,
    /// How many proxies in front of this mirror append to `X-Forwarded-For`.
    pub trusted_proxies: u32,
}

impl Access {
    /// Takes the secret off a path. Returns what stood in front, `/SECRET` or nothing, and the path behind it; `None`
    /// where the secret is missing.
    pub fn enter<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let Some(secret) = &self.secret else {
            return Some(("", path));
        };
        let guess = path.strip_prefix('/')?.split('/').next()?;
        if !secret.is(guess) {
            return None;
        }
        let mount = path.get(..guess.len().saturating_add(1))?;
        Some((mount, path.strip_prefix(mount)?))
    }
}

/// A shared secret. Only its hash is kept, so nothing can print it, and comparing takes the same time for every guess.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// Not a secret that can stand in a path.
#[derive(Debug)]
pub struct InvalidSecret;

impl Secret {
    pub fn parse(text: &str) -> Result<Secret, InvalidSecret> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if (16..=128).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Secret(Sha256::digest(text).into()))
        } else {
            Err(InvalidSecret)
        }
    }

    /// Looks at every byte of both hashes, however early they differ.
    pub fn is(&self, guess: &str) -> bool {
        let guess = Sha256::digest(guess);
        let differs = self
            .0
            .iter()
            .zip(guess)
            .fold(0, |differs, (own, guessed)| differs | (own ^ guessed));
        std::hint::black_box(differs) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

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
    fn a_secret_is_compared_and_never_printed() {
        let secret = Secret::parse("0123456789abcdef").unwrap();
        assert!(secret.is("0123456789abcdef"));
        for guess in [
            "",
            "0123456789abcde",
            "0123456789abcdef0",
            "0123456789ABCDEF",
        ] {
            assert!(!secret.is(guess));
        }
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        for bad in [
            "short",
            "with a space in it",
            "sixteen.letters.",
            &"x".repeat(129),
        ] {
            assert!(Secret::parse(bad).is_err(), "{bad}");
        }
    }

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

        #[test]
        fn a_path_is_entered_by_its_secret_alone(secret in "[a-zA-Z0-9_-]{16,40}", path in "(/?\\PC{0,40}|(/[a-z0-9]{0,20}){0,3})") {
            let access = Access { secret: Some(Secret::parse(&secret).unwrap()), client_limit: 0, trusted_proxies: 0 };
            prop_assert_eq!(access.enter(&path), None);
            let mount = format!("/{secret}");
            let behind = path.strip_prefix('/').map(|path| format!("/{path}")).unwrap_or_default();
            let whole = format!("{mount}{behind}");
            prop_assert_eq!(access.enter(&whole), Some((mount.as_str(), behind.as_str())));
        }
    }
}
