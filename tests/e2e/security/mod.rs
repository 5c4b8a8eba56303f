//! What the mirror refuses, limits, and keeps to itself.

mod accounts;
mod attacks;
mod client_accounts;
mod hostile_registry;
mod limits;
mod log;
mod privacy;
mod ssrf;
