//! The command line. Flags and environment variables have the same names as in `spin up`.

use crate::config::variables;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Runs hammal's spin.toml on Wasmtime, where Spin is not installed.
#[derive(Debug, Parser)]
#[command(name = "hammal-host", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves the application of a spin.toml over HTTP until SIGINT or SIGTERM.
    #[command(after_help = AFTER_HELP)]
    Up(Up),
}

const AFTER_HELP: &str = "\
The runtime configuration sets key-value stores, blocked networks, private CAs and providers of
variables. To ignore the runtime-config.toml beside the manifest: --runtime-config-file /dev/null

A variable's value is taken from the first of: --variable, a provider in the runtime configuration,
SPIN_VARIABLE_<NAME> in the environment, the default in spin.toml.

As with `spin up`: the manifest (version 2), the runtime configuration, the key-value file.
Not supported, and an error at the start: several components, triggers other than http, remote
component sources, files, SQLite databases, AI models, requests of the component to itself.
Not supported either: serving TLS, log files, .env files.";

/// The flags of `hammal-host up`.
#[derive(Debug, Args)]
pub struct Up {
    /// The manifest: a file, or the folder of a spin.toml
    #[arg(
        short = 'f',
        long = "from",
        alias = "file",
        value_name = "FILE",
        default_value = "spin.toml"
    )]
    pub from: PathBuf,

    /// IP address and port to listen on; port 0 chooses a free one
    #[arg(long, value_name = "ADDRESS", env = "SPIN_HTTP_LISTEN_ADDR", default_value = "127.0.0.1:3000", value_parser = parse_listen)]
    pub listen: SocketAddr,

    /// Runtime configuration [default: runtime-config.toml beside the manifest, if there is one]
    #[arg(long, value_name = "FILE", env = "RUNTIME_CONFIG_FILE")]
    pub runtime_config_file: Option<PathBuf>,

    /// Sets a variable of spin.toml; `NAME=@FILE` reads the value from a file. May be repeated
    #[arg(long = "variable", value_name = "NAME=VALUE", value_parser = variables::parse_assignment)]
    pub variables: Vec<(String, String)>,

    /// Folder for key-value data [default: .spin beside the manifest]; empty keeps it in memory
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,

    /// Runs the component's build command from the manifest first
    #[arg(long)]
    pub build: bool,

    #[command(flatten)]
    pub limits: LimitFlags,

    /// Format of the address on stdout, once the server accepts requests
    #[arg(long, value_enum, default_value_t = Format::Plain)]
    pub format: Format,

    /// Discards the component's output
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

/// The flags that limit what clients may take. `spin up` has none of them.
#[derive(Clone, Debug, Args)]
pub struct LimitFlags {
    /// Seconds that a whole request may take until its response begins
    #[arg(long, value_name = "SECONDS", env = "HAMMAL_REQUEST_TIMEOUT", default_value_t = 60, value_parser = value_parser!(u64).range(1..=86_400))]
    pub request_timeout: u64,

    /// MiB of memory that may be held for one client address
    #[arg(long, value_name = "MIB", env = "HAMMAL_CLIENT_MEMORY", default_value_t = 32, value_parser = value_parser!(u64).range(8..=1_048_576))]
    pub client_memory: u64,

    /// MiB of memory that may be held for all clients
    #[arg(long, value_name = "MIB", env = "HAMMAL_TOTAL_MEMORY", default_value_t = 1024, value_parser = value_parser!(u64).range(8..=1_048_576))]
    pub total_memory: u64,

    /// Connections that one client address may have open
    #[arg(long, value_name = "NUMBER", env = "HAMMAL_CLIENT_CONNECTIONS", default_value_t = 256, value_parser = value_parser!(u64).range(1..))]
    pub client_connections: u64,
}

/// The values of `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text
    Plain,
    /// A JSON object with base_url and routes
    Json,
}

/// Parses `--listen`. Prefers a host name's IPv4 address (`localhost:3000`), as `spin up` does.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let addresses: Vec<SocketAddr> = text
        .to_socket_addrs()
        .map_err(|error| format!("{error}; give an address and a port, as in 127.0.0.1:3000"))?
        .collect();
    let ipv4 = addresses.iter().find(|address| address.is_ipv4());
    ipv4.or(addresses.first())
        .copied()
        .ok_or_else(|| "the name has no address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn clap_accepts_the_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn parses_addresses_and_host_names() {
        assert_eq!(
            parse_listen("127.0.0.1:0"),
            Ok(SocketAddr::from(([127, 0, 0, 1], 0)))
        );
        assert_eq!(
            parse_listen("localhost:8080"),
            Ok(SocketAddr::from(([127, 0, 0, 1], 8080)))
        );
        assert!(parse_listen("127.0.0.1").is_err_and(|why| why.contains("127.0.0.1:3000")));
    }
}
