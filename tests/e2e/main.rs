//! The component from end to end, over real sockets: a client, the mirror, a scripted registry
//! behind it.
//!
//! The mirror runs on the embedded host, or on Spin with `HAMMAL_TEST_SPIN=/path/to/spin cargo
//! test`.
//!
//! | folder | subject |
//! | --- | --- |
//! | `protocol` | the OCI distribution protocol as clients see it, and the manual page |
//! | `upstream` | authentication, TLS, the habits of public registries, failures |
//! | `blob_store` | blobs and manifests in an object store |
//! | `security` | requests to private networks, limits, headers and secrets, the log |
//! | `host` | the embedded host: HTTPS, metrics, stores in Redis, proxies in front, the service |
//! | `clients` | real clients, with the files of `deploy/clients/` |
//! | `page` | the page in a browser, the speed test on the command line |
//! | `soak` | many clients while the upstream fails at random, and beside an attacker |
//! | `support` | the mirror as a child process, a client, the registries |

mod blob_store;
mod clients;
mod host;
mod page;
mod protocol;
mod security;
mod soak;
mod support;
mod upstream;
