//! Decides by its address whether the host may connect to an upstream: `block_networks` of the
//! runtime configuration.

use anyhow::{Context as _, Result};
use ip_network::IpNetwork;
use std::net::IpAddr;

/// The networks that are not connected to. It is applied to resolved addresses, so a host name
/// can't get around it.
#[derive(Clone, Debug, Default)]
pub struct BlockedNetworks {
    networks: Vec<IpNetwork>,
    /// Whether all addresses that are not globally routable are blocked too: the entry `private`.
    private: bool,
}

impl BlockedNetworks {
    /// Parses entries: networks (`10.0.0.0/8`, or `10.0.0.1/32` for one address) and `private`.
    /// Fails on the first entry that is neither, and names it.
    pub fn parse(entries: &[String]) -> Result<Self> {
        let mut blocked = Self::default();
        for entry in entries {
            if entry == "private" {
                blocked.private = true;
                continue;
            }
            let network = IpNetwork::from_str_truncate(entry).with_context(|| {
                format!("{entry:?} is neither a network, as in \"10.0.0.0/8\", nor \"private\"")
            })?;
            blocked.networks.push(network);
        }
        Ok(blocked)
    }

    /// Whether connections to `address` are blocked.
    pub fn blocks(&self, address: IpAddr) -> bool {
        if (self.private && !IpNetwork::from(address).is_global())
            || self
                .networks
                .iter()
                .any(|network| network.contains(address))
        {
            return true;
        }
        // A connection to an IPv4 address in IPv6 notation (::ffff:10.0.0.1, ::10.0.0.1) reaches
        // the IPv4 host.
        match address {
            IpAddr::V6(v6) => v6.to_ipv4().is_some_and(|v4| self.blocks(IpAddr::V4(v4))),
            IpAddr::V4(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked(entries: &[&str], address: &str) -> bool {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        BlockedNetworks::parse(&entries)
            .unwrap()
            .blocks(address.parse().unwrap())
    }

    #[test]
    fn private_blocks_what_is_not_globally_routable() {
        let private = [
            "0.0.0.0",
            "10.10.10.10",
            "100.64.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.10.10.10",
            "::7f00:1",
            "fc00::f00d",
            "fe80::1",
        ];
        for address in private {
            assert!(blocked(&["private"], address), "{address}");
            assert!(!blocked(&[], address), "{address}");
        }
        for address in [
            "1.1.1.1",
            "123.123.123.123",
            "2600:beef::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(!blocked(&["private"], address), "{address}");
        }
    }

    #[test]
    fn blocks_ipv4_networks_in_both_notations() {
        let entries = ["123.123.0.0/16", "2001:db8::/32", "1.1.1.1/32"];
        for address in [
            "123.123.0.0",
            "::ffff:123.123.1.1",
            "2001:db8::1",
            "1.1.1.1",
        ] {
            assert!(blocked(&entries, address), "{address}");
        }
        for address in ["123.124.0.0", "2001:db9::1", "1.1.1.2"] {
            assert!(!blocked(&entries, address), "{address}");
        }
    }

    #[test]
    fn names_an_invalid_entry() {
        let error = BlockedNetworks::parse(&["privat".to_owned()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"privat\""), "{error}");
    }
}
