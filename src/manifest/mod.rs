//! Manifests.

pub mod cache;
