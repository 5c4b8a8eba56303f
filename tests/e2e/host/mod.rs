//! What the embedded host does itself, as those who run it see it.

mod https;
mod metrics;
mod proxies;
pub mod redis;
mod restart;
mod service;
mod shared_address;
