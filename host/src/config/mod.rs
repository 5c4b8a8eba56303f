//! Reads and checks the host's input: manifest, runtime configuration, variables.

pub mod manifest;
pub mod range;
pub mod route;
pub mod runtime_config;
pub mod variables;
