//! `hammal-host`: runs hammal's `spin.toml` on Wasmtime, where Spin is not installed.
//!
//! It reads the files that `spin up` reads and has its most important flags, with the same meaning.
//! It runs one component and does not replace Spin: it refuses to start with what it doesn't
//! support.
//!
//! | module | content |
//! | --- | --- |
//! | [`up`] | the command `hammal-host up`, from reading the files to shutting down |
//! | [`health`] | the command `hammal-host health` |
//! | [`token`] | the command `hammal-host token` |
//! | [`cli`] | the command line |
//! | [`build`] | the component's build command |
//! | [`server`] | the HTTP server: connections, time-outs, the limit of concurrent requests |
//! | [`server::tls`] | TLS: the certificate, read again when it changes |
//! | [`limits`] | what one client may take, and all of them |
//! | [`component`] | the component on Wasmtime: compiling, linking, instances |
//! | [`component::wasi`] | WASI, as far as hammal imports it |
//! | [`component::spin_interfaces`] | Spin's interfaces: key-value stores and variables |
//! | [`component::early_body`] | the reading of a response's body as soon as it is created |
//! | [`component::lifetime`] | which requests of an instance nobody waits for any more |
//! | [`component::guest`] | the host's data of one instance |
//! | [`component::stores`] | the key-value stores |
//! | [`component::key_value`] | a key-value store in SQLite |
//! | [`component::redis`] | a key-value store in Redis |
//! | [`outbound`] | the component's requests: connections, TLS, time-outs |
//! | [`config`] | `spin.toml`, its route and variables, and the runtime configuration |
//! | [`egress`] | where the component may connect to: by URL, and by address |
//! | [`stderr`] | the host's warnings and the component's output |
//! | [`metrics`] | the metrics for Prometheus |
//!
//! A module imports only from modules below it in the table.

mod build;
mod cli;
mod component;
mod config;
mod egress;
mod health;
mod limits;
mod metrics;
mod outbound;
mod server;
mod stderr;
mod token;
mod up;

use clap::Parser as _;
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// A request makes about a hundred allocations, and about half of them are freed on another thread.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let result = match cli::Cli::parse().command {
        cli::Command::Up(flags) => up::up(*flags),
        cli::Command::Compile(flags) => up::compile(flags),
        cli::Command::Health(flags) => health::health(&flags),
        cli::Command::Token(flags) => token::token(&flags),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
