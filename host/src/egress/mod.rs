//! Where the component may connect to: by what the URL says, and by the address that its host name resolves to.

pub mod allowed_hosts;
pub mod blocked_networks;
