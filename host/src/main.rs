//! `hammal-host`: runs hammal's `spin.toml` on Wasmtime where Spin is not installed.
//!
//! It reads the files that `spin up` reads, takes the flags of it that matter and treats them alike. It is a place to
//! run one component, not a second Spin: what it doesn't support, it refuses by name.
//!
//! | room | owns |
//! | --- | --- |
//! | [`cli`] | the command line |
//! | [`up`] | the story of `hammal-host up`, one step after the other |
//! | [`config::manifest`], [`config::route`] | `spin.toml`; the one route that leads to the component |
//! | [`config::runtime_config`] | the runtime configuration file |
//! | [`config::variables`] | names, templates, and where a value comes from |
//! | [`build`] | the component's build command |
//! | [`component`] | Wasmtime: compiling, linking, the life of an instance |
//! | [`component::guest`] | what one instance of the component owns |
//! | [`component::early_body`] | how the component makes an answer |
//! | [`component::spin_interfaces`] | Spin's own interfaces: key-value, variables |
//! | [`component::key_value`] | the stores, in SQLite |
//! | [`egress::allowed_hosts`], [`egress::blocked_networks`] | where the component may connect to: by URL, by address |
//! | [`outbound`] | one outbound exchange, its connection, its time-outs |
//! | [`server`] | inbound HTTP, from accepting to draining |
//! | [`stderr`] | stderr: remarks of the host, what the component prints |

mod build;
mod cli;
mod component;
mod config;
mod egress;
mod outbound;
mod server;
mod stderr;
mod up;

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
