//! Upstream registries.

pub mod auth;
pub mod blob;
pub mod client;
pub mod exchange;
pub mod health;
pub mod limits;
