//! What one client may take of the host, and all of them together.
//!
//! | module | limits |
//! | --- | --- |
//! | [`connections`] | open connections, in total and per client; connections that make no progress |
//! | [`rate`] | requests per client and minute: the component's `client_limit`, counted exactly |
//! | [`admission`] | requests with the component and bytes held for clients, with fair queueing |
//! | [`delivery`] | response bodies on their way to a client |
//! | [`client`] | who a client is: its address |
//! | [`upstream`] | which upstream a request names, and which are the operator's own |

pub mod admission;
pub mod client;
pub mod connections;
pub mod delivery;
pub mod rate;
pub mod upstream;

use self::upstream::OwnUpstreams;
use std::collections::BTreeMap;
use std::time::Duration;

pub const MIB: u64 = 1024 * 1024;

/// The limits that an operator sets.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a whole request may take until its response begins.
    pub request_timeout: Duration,
    /// Bytes that may be held for one client.
    pub client_memory: u64,
    /// Bytes that may be held for all clients.
    pub total_memory: u64,
    /// Open connections of one client address.
    pub client_connections: usize,
    /// Open connections of all clients.
    pub total_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(60),
            client_memory: 160 * MIB,
            total_memory: 1024 * MIB,
            client_connections: 256,
            total_connections: 4096,
        }
    }
}

/// What the host reads of the component's variables, to count the clients that the component would.
/// What it can't parse is as if it were not set; the component says so to its clients.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Requests of one client in a minute; 0 is no limit.
    pub client_limit: u32,
    /// How many proxies append to `X-Forwarded-For`.
    pub trusted_proxies: u32,
    pub own_upstreams: OwnUpstreams,
}

impl Settings {
    /// Reads them from the component's `variables`.
    pub fn from_variables(variables: &BTreeMap<String, String>) -> Self {
        let number = |name: &str| {
            variables
                .get(name)
                .and_then(|value| value.trim().parse().ok())
                .unwrap_or_default()
        };
        Self {
            client_limit: number("client_limit"),
            trusted_proxies: number("trusted_proxies"),
            own_upstreams: OwnUpstreams::from_variables(variables),
        }
    }
}
