//! Restricts the component's outbound requests: by URL, and by resolved address.

pub mod allowed_hosts;
pub mod blocked_networks;
