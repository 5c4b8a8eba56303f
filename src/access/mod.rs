//! Who may use the mirror, and how much.

pub mod rate_limit;
pub mod secret;
