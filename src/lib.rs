//! hammal: a registry mirror for people who can't reach Docker Hub well, as one Spin component.
//!
//! A request is a story that [`mirror`] tells from top to bottom, each step a call into one room:
//!
//! | step | room |
//! | --- | --- |
//! | what is asked | [`route`], made of [`name`], [`reference`], [`digest`], [`query`] |
//! | of which registry | [`upstream`], made of [`origin`] |
//! | who asks, and through how many mirrors | [`access`], [`hops`] |
//! | may it be asked | [`policy`] with [`pattern`], as the operator set it in [`config`] |
//! | is it known | [`manifests`] that the client takes ([`accept`]), kept in the [`cache`]: this instance's memory, then the key-value store |
//! | ask upstream | those in good [`health`] first; [`forward`], with [`delivery`] of blobs, authorised by [`auth`], one [`outgoing`] request at a time, shared through [`flight`] |
//! | what comes back | [`reply`] with [`link`], for the [`address`] that the client knows, or a [`refusal`]; outside `/v2/` a [`page`] |
//! | what it took | [`context`] counts, [`log`] writes |
//!
//! All of them are written against the trait in [`platform`] and know nothing of Spin; only `spin`, which is built for
//! WebAssembly, does.

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
pub mod cache;
pub mod config;
pub mod context;
pub mod manifest;
pub mod mirror;
pub mod oci;
pub mod page;
pub mod platform;
pub mod policy;
pub mod registry;
pub mod request;
pub mod response;
#[cfg(target_family = "wasm")]
mod spin;
pub mod upstream;
