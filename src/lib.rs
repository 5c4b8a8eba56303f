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

pub mod accept;
pub mod access;
pub mod address;
pub mod auth;
pub mod body;
pub mod cache;
pub mod cache_status;
pub mod config;
pub mod context;
pub mod delivery;
pub mod digest;
pub mod docker_hub;
pub mod flight;
pub mod forward;
pub mod health;
pub mod hops;
pub mod limits;
pub mod link;
pub mod log;
pub mod manifests;
pub mod mirror;
pub mod name;
pub mod origin;
pub mod outgoing;
pub mod page;
pub mod pattern;
pub mod platform;
pub mod policy;
pub mod query;
pub mod reference;
pub mod refusal;
pub mod reply;
pub mod route;
pub mod secret;
pub mod upstream;

#[cfg(test)]
mod scripted;
#[cfg(target_family = "wasm")]
mod spin;
