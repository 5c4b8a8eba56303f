//! Registries: their addresses, the operator's accounts at them, and Docker Hub.

pub mod account;
pub mod address;
pub mod docker_hub;
pub mod origin;
