//! Who a client is: its address, as far as the host can see it.

use http::{HeaderMap, HeaderName};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The header to which proxies append the address of their client.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A client: an IPv4 address, or the /64 of an IPv6 address, which is what one user has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(IpAddr);

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Client {
    /// The client that is connected from `address`.
    pub fn from_address(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address => address,
        })
    }

    /// The client that sent a request with these `headers` from `connected`, by way of
    /// `trusted_proxies`: what the outermost of them appended to `X-Forwarded-For`. The same as the
    /// component's, so that both count the same clients.
    pub fn from_request(connected: IpAddr, headers: &HeaderMap, trusted_proxies: u32) -> Self {
        let appended = trusted_proxies.checked_sub(1).and_then(|from_end| {
            let values: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
            let entry = values
                .iter()
                .rev()
                .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
                .nth(usize::try_from(from_end).ok()?)?;
            parse_address(std::str::from_utf8(entry).ok()?.trim())
        });
        Self::from_address(appended.unwrap_or(connected))
    }
}

/// Parses an address with a port or without. Some proxies append one (Azure Application Gateway).
fn parse_address(text: &str) -> Option<IpAddr> {
    let with_port = text.parse::<SocketAddr>().map(|address| address.ip());
    with_port.or_else(|_| text.parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn is_the_address_that_a_trusted_proxy_appended() {
        for (forwarded, proxies, client) in [
            (&[&b"10.9.9.9"[..]][..], 0, "192.0.2.1"),
            (&[b"10.9.9.9, 198.51.100.7"], 1, "198.51.100.7"),
            (
                &[b"10.9.9.9", b"198.51.100.7, 203.0.113.5"],
                2,
                "198.51.100.7",
            ),
            // What a client claims in another encoding does not hide what was appended.
            (&[b"\xe9, 198.51.100.7"], 1, "198.51.100.7"),
            (&[b"\xff\xfe", b"198.51.100.7"], 1, "198.51.100.7"),
            (&[b"198.51.100.7:4711"], 1, "198.51.100.7"),
            (&[b"[2001:db8:1:2:3:4:5:6]:4711"], 1, "2001:db8:1:2:ffff::"),
            (&[b"nonsense"], 1, "192.0.2.1"),
            (&[b"198.51.100.7"], 3, "192.0.2.1"),
        ] {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append(FORWARDED_FOR, HeaderValue::from_bytes(value).unwrap());
            }
            let connected = "192.0.2.1".parse().unwrap();
            assert_eq!(
                Client::from_request(connected, &headers, proxies),
                Client::from_address(client.parse().unwrap()),
                "{forwarded:?}"
            );
        }
    }
}
