//! `hammal-host`: runs hammal's `spin.toml` on Wasmtime where Spin is not installed.
//!
//! It reads the files that `spin up` reads, takes the flags of it that matter and treats them alike. It is a place to
//! run one component, not a second Spin: what it doesn't support, it refuses by name.
//!
//! | room | owns |
//! | --- | --- |
//! | [`cli`] | the command line |
//! | [`up`] | the story of `hammal-host up`, one step after the other |
//! | [`manifest`], [`route`] | `spin.toml`; the one route that leads to the component |
//! | [`runtime_config`] | the runtime configuration file |
//! | [`variables`] | names, templates, and where a value comes from |
//! | [`build`] | the component's build command |
//! | [`engine`] | Wasmtime: compiling, linking, the life of an instance |
//! | [`guest`] | what one instance of the component owns |
//! | [`wasi`] | WASI, as far as hammal imports it |
//! | [`response`] | how the component makes an answer |
//! | [`interfaces`] | Spin's own interfaces: key-value, variables |
//! | [`key_value`] | the stores, in SQLite |
//! | [`allowed_hosts`], [`blocked_networks`] | where the component may connect to: by URL, by address |
//! | [`sender`], [`connector`], [`tls`], [`timed_body`] | one outbound exchange, its connection, its time-outs |
//! | [`serve`] | inbound HTTP, from accepting to draining |
//! | [`output`] | stderr: remarks of the host, what the component prints |

mod allowed_hosts;
mod blocked_networks;
mod build;
mod cli;
mod connector;
mod engine;
mod guest;
mod interfaces;
mod key_value;
mod manifest;
mod output;
mod response;
mod route;
mod runtime_config;
mod sender;
mod serve;
mod timed_body;
mod tls;
mod up;
mod variables;
mod wasi;

use clap::Parser as _;
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// A request takes some hundred allocations here, which end on another thread as often as not.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli::Command::Up(flags) = cli::Cli::parse().command;
    match up::up(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
