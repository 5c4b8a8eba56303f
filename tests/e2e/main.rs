//! What a client of the mirror sees, end to end: real sockets, the real component on the embedded host
//! (or on a real Spin: `HAMMAL_TEST_SPIN=/path/to/spin cargo test`), a registry of ours behind it.

mod support;

mod abuse;
mod attacks;
mod bodies;
mod challenges;
mod clients;
mod fallback;
mod faults;
mod log;
mod naming;
mod newer_clients;
mod original;
mod outage;
mod page;
mod privacy;
mod pull;
mod quirks;
mod recipes;
mod refusals;
mod soak;
mod specification;
mod tls;
mod tokens;
mod upstreams;
