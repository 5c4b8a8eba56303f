//! Forwards every request to one upstream, and the answer back with its body unread: what forwarding costs on a host of
//! Spin components, and what a mirror on the same host is measured against. As the mirror, it is built for one of the two
//! previews of WASI.

#![cfg(target_family = "wasm")]

#[cfg(feature = "wasip2")]
mod p2;
#[cfg(feature = "wasip3")]
mod p3;
