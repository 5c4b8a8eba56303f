//! Decides by its address whether the host may connect to an upstream: `block_networks` of the
//! runtime configuration.

use anyhow::{Context as _, Result};
use ip_network::{IpNetwork, Ipv4Network, Ipv6Network};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The IPv4 networks of the entry `private`: the whole IANA special-purpose registry, what that
/// says is reachable included, since no registry of images is there; multicast (RFC 5771); and the
/// address at which Azure answers its virtual machines.
const PRIVATE_V4: [(Ipv4Addr, u8); 18] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(192, 175, 48, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Multicast (224.0.0.0/4), reserved (240.0.0.0/4) and broadcast.
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// The part of IPv6 that IANA assigns addresses of the public Internet from.
const GLOBAL_UNICAST: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// The networks within [`GLOBAL_UNICAST`] of the entry `private`: those of the IANA special-purpose
/// registry.
const PRIVATE_V6: [(Ipv6Addr, u8); 5] = [
    // Protocol assignments: Teredo, benchmarking, ORCHID and others.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    // 6to4
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// The networks that are not connected to. It is applied to resolved addresses, so a host name
/// can't get around it.
#[derive(Clone, Debug, Default)]
pub struct BlockedNetworks {
    networks: Vec<IpNetwork>,
    /// Whether all addresses that are not on the public Internet are blocked too: the entry
    /// `private`.
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
        let listed = |address: IpAddr| {
            self.networks
                .iter()
                .any(|network| network.contains(address))
        };
        match address {
            IpAddr::V4(v4) => listed(address) || (self.private && is_private_v4(v4)),
            // What carries an IPv4 address leads to that host, by way of the kernel or a gateway.
            IpAddr::V6(v6) => {
                listed(address)
                    || embedded_ipv4(v6).any(|v4| listed(v4.into()))
                    || (self.private && is_private_v6(v6))
            }
        }
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    PRIVATE_V4.iter().any(|(network, length)| {
        Ipv4Network::new(*network, *length).is_ok_and(|network| network.contains(address))
    })
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let is_in = |(network, length): (Ipv6Addr, u8)| {
        Ipv6Network::new(network, length).is_ok_and(|network| network.contains(address))
    };
    // Both are other notations of the public Internet: the kernel's, and that of DNS64.
    if let Some(v4) = address.to_ipv4_mapped().or_else(|| nat64(address)) {
        return is_private_v4(v4);
    }
    !is_in(GLOBAL_UNICAST) || PRIVATE_V6.into_iter().any(is_in)
}

/// Returns the IPv4 address behind NAT64's well-known prefix `64:ff9b::/96` (RFC 6052).
fn nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    (bits >> 32 == 0x0064_ff9b_u128 << 64).then(|| low_ipv4(bits))
}

/// Returns every IPv4 address that a gateway, or the kernel, may find in `address`.
fn embedded_ipv4(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bits = address.to_bits();
    let high = |shift: u32| Ipv4Addr::from_bits((bits >> shift) as u32);
    let prefix = bits >> 96;
    let found = match (bits >> 32, prefix, bits >> 112) {
        // IPv4-compatible (::a.b.c.d), -mapped (::ffff:a.b.c.d), -translated (::ffff:0:a.b.c.d).
        (0 | 0xffff | 0xffff_0000, ..) => [Some(low_ipv4(bits)), None, None, None],
        _ if bits >> 80 == 0x0064_ff9b_0001 => {
            // NAT64's prefix for local use, in every length that RFC 6052 (section 2.2) has for
            // one within a /48. Bits 64 to 71 are left out.
            let around = |before: u32| {
                let upper = (bits >> 64) & ((1 << before) - 1);
                let lower = (bits >> (24 + before)) & ((1 << (32 - before)) - 1);
                Ipv4Addr::from_bits(((upper << (32 - before)) | lower) as u32)
            };
            [
                Some(around(16)),
                Some(around(8)),
                Some(high(24)),
                Some(low_ipv4(bits)),
            ]
        }
        (wide, ..) if wide == 0x0064_ff9b_u128 << 64 => [Some(low_ipv4(bits)), None, None, None],
        // Teredo: the server's address, and the client's with all bits inverted (RFC 4380).
        (_, 0x2001_0000, _) => [
            Some(high(64)),
            Some(Ipv4Addr::from_bits(!(bits as u32))),
            None,
            None,
        ],
        // 6to4
        (.., 0x2002) => [Some(high(80)), None, None, None],
        _ => [None; 4],
    };
    found.into_iter().flatten()
}

fn low_ipv4(bits: u128) -> Ipv4Addr {
    Ipv4Addr::from_bits(bits as u32)
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
    fn private_is_the_special_purpose_registries_and_multicast() {
        for address in [
            "168.63.129.16",
            "192.0.0.9",
            "192.0.2.1",
            "192.31.196.1",
            "192.52.193.1",
            "192.88.99.1",
            "192.175.48.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "::2",
            "::ffff:0:8.8.8.8",
            "::ffff:169.254.169.254",
            "64:ff9b::127.0.0.4",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "64:ff9b:1:808:8:800::",
            "100::1",
            "100:0:0:1::1",
            "2001::1",
            "2001:2::1",
            "2001:4:112::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:808:808::1",
            "2620:4f:8000::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
        ] {
            assert!(blocked(&["private"], address), "{address}");
            assert!(!blocked(&[], address), "{address}");
        }
        for address in [
            "8.8.8.8",
            "168.63.129.15",
            "192.0.1.1",
            "223.255.255.255",
            "2001:200::1",
            "2003::1",
            "2a00:1450::1",
            "3ffe:ffff::1",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(!blocked(&["private"], address), "{address}");
        }
    }

    #[test]
    fn finds_ipv4_addresses_within_ipv6_ones() {
        for address in [
            "::10.1.2.3",
            "::ffff:10.1.2.3",
            "::ffff:0:10.1.2.3",
            "64:ff9b::10.1.2.3",
            // RFC 6052, section 2.2: lengths 48, 56, 64 and 96.
            "64:ff9b:1:a01:2:300::",
            "64:ff9b:1:20a:1:203::",
            "64:ff9b:1:2:a:102:300::",
            "64:ff9b:1:2:3:4:a01:203",
            "2001:0:a01:203::1",
            "2001:0:808:808::f5fe:fdfc",
            "2002:a01:203::1",
        ] {
            assert!(blocked(&["10.0.0.0/8"], address), "{address}");
            assert!(!blocked(&["11.0.0.0/8"], address), "{address}");
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

    /// Spin's "private" is `is_global` of the crate `ip_network`, and the addresses in IPv4
    /// notation that IPv6 has: what that leaves open is in the files.
    #[test]
    fn the_shipped_files_block_the_same_on_spin() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        for file in [
            "runtime-config.toml",
            "deploy/kubernetes/base/runtime-config.toml",
            "deploy/kubernetes/embedded/runtime-config.toml",
            "deploy/compose/runtime-config.toml",
        ] {
            let text = std::fs::read_to_string(format!("{folder}/{file}")).unwrap();
            let list = text.split_once("block_networks = [").unwrap().1;
            let entries: Vec<String> = list
                .split_once(']')
                .unwrap()
                .0
                .lines()
                .filter(|line| !line.trim_start().starts_with('#'))
                .flat_map(|line| line.split(','))
                .map(|entry| entry.trim().trim_matches('"').to_owned())
                .filter(|entry| !entry.is_empty() && entry != "private")
                .collect();
            let listed = BlockedNetworks::parse(&entries).unwrap();
            let networks = PRIVATE_V4.map(|(ip, length)| (IpAddr::V4(ip), length));
            let networks = networks
                .into_iter()
                .chain(PRIVATE_V6.map(|(ip, length)| (IpAddr::V6(ip), length)));
            let outside = [
                "::5",
                "64:ff9b:1::1",
                "100::1",
                "5f00::1",
                "fec0::1",
                "ff0e::1",
            ]
            .map(|address| (address.parse().unwrap(), 128));
            for (address, length) in networks.chain(outside) {
                assert!(
                    !IpNetwork::from(address).is_global() || listed.blocks(address),
                    "{file}: {address}/{length}"
                );
            }
            assert!(listed.blocks("64:ff9b::8.8.8.8".parse().unwrap()), "{file}");
            assert!(!listed.blocks("8.8.8.8".parse().unwrap()), "{file}");
            assert!(!listed.blocks("2a00:1450::1".parse().unwrap()), "{file}");
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
