//! The files and flags that say what to run and how, read and checked before anything starts.

pub mod manifest;
pub mod route;
pub mod runtime_config;
pub mod variables;
