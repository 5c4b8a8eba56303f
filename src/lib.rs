//! hammal: a registry mirror for people who can't reach Docker Hub well, as one Spin component.
//!
//! [`mirror`] takes a request from its first line to its answer; each module below is a stage of
//! that, or what the stages share. A module names only modules that stand below it in this table.
//!
//! | module | what it does |
//! | --- | --- |
//! | `spin` | is called by Spin, for WASIp3 or WASIp2; nothing else names Spin |
//! | [`mirror`] | the pipeline: parse, choose the candidates, admit, answer, log |
//! | [`access_log`], [`page`], [`probe`] | the line of the log; the page for people; `/healthz` and `/readyz` |
//! | [`manifest`] | manifests: cached, revalidated, fetched once for all, verified, stale where the upstream fails |
//! | [`blob_redirect`] | redirects of blobs: remembered, fetched once for all |
//! | [`blob_store`] | blobs and manifests in an object store, in S3's protocol |
//! | [`response`] | the client's response: from an upstream's, or an OCI error document |
//! | [`upstream`] | upstream requests: failover, tokens, redirects, blobs, and what an answer means ([`upstream::outcome`]) |
//! | [`context`] | what all stages of one request share |
//! | [`config`] | the settings |
//! | [`access`] | who may use the mirror: the secret, the limit of requests |
//! | [`policy`] | which hosts and repositories may be asked for |
//! | [`cache`] | values in memory and in the key-value store |
//! | [`request`] | the client's request, parsed |
//! | [`registry`], [`oci`] | addresses of registries; names, references, digests, error codes |
//! | [`platform`] | what the component needs of the platform it runs on, as a trait |

// One request is one future, of futures some 130 deep.
#![recursion_limit = "256"]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod access;
pub mod access_log;
pub mod blob_redirect;
pub mod blob_store;
pub mod cache;
pub mod config;
pub mod context;
pub mod manifest;
pub mod mirror;
pub mod oci;
pub mod page;
pub mod platform;
pub mod policy;
pub mod probe;
pub mod registry;
pub mod request;
pub mod response;
#[cfg(target_family = "wasm")]
mod spin;
#[cfg(test)]
mod tests;
pub mod upstream;
