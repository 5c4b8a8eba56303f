//! Servers and content for the end-to-end tests (`tests/e2e`) and the benchmark (`benches/mirror`).
//!
//! | file | subject |
//! | --- | --- |
//! | `server` | an HTTP server that answers from a function, and can misbehave |
//! | `hub`, `registry`, `answers` | a registry like Docker Hub, with its token server and its CDN |
//! | `counting_registry` | a registry for load: it answers from memory and counts requests |
//! | `s3` | an object store that verifies signatures and hashes |
//! | `image` | images of several platforms and layers |
//! | `ca` | a certificate authority |
//! | `announcement`, `process` | the address of a mirror that was started; programs and child processes |

pub mod announcement;
pub mod answers;
pub mod ca;
pub mod counting_registry;
pub mod hub;
pub mod image;
pub mod process;
pub mod registry;
pub mod s3;
pub mod server;
