//! Registries: their addresses, and Docker Hub.

pub mod address;
pub mod docker_hub;
pub mod origin;
