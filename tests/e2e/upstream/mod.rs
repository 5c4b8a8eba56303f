//! How upstreams are reached: authentication, TLS, the habits of public registries, failures.

mod challenges;
mod client_fallback;
mod differences;
mod faults;
mod lenient_answers;
mod outage;
mod registries;
mod store;
mod tls;
mod tokens;
mod upstreams;
