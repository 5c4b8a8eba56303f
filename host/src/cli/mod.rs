//! The command line. Flags and environment variables have the same names as in `spin up`.

mod without_effect;

use self::without_effect::WithoutEffect;
use crate::config::range::{Count, Nanoseconds, Range, parse_count, parse_duration};
use crate::config::variables;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::LazyLock;

/// Runs hammal's spin.toml on Wasmtime, where Spin is not installed.
#[derive(Debug, Parser)]
#[command(name = "hammal-host", version = VERSION.as_str(), about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The text of `--version`: also what the program is for, and what it is made of. Releases
/// are built with their commit in `HAMMAL_COMMIT`.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("HAMMAL_COMMIT").map(|commit| format!("commit {commit}, "));
    format!(
        "{} ({}Wasmtime {}, {}-{}): runs hammal's component, a registry mirror, without Spin",
        env!("CARGO_PKG_VERSION"),
        commit.unwrap_or_default(),
        wasmtime_environ::VERSION,
        std::env::consts::ARCH,
        std::env::consts::OS,
    )
});

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves the application of a spin.toml over HTTP until SIGINT or SIGTERM.
    #[command(after_help = AFTER_HELP)]
    Up(Box<Up>),
    /// Compiles the component of a spin.toml into the cache of compiled code, for the next start.
    Compile(Compile),
    /// Asks the host that runs on this machine whether it is up.
    Health(Health),
    /// Makes a token for a client, and its entry for the variable clients.
    Token(Token),
}

/// The arguments of `hammal-host token`.
#[derive(Debug, Args)]
pub struct Token {
    /// The client's name: 1 to 64 letters, digits, '.', '_' and '-'
    #[arg(value_name = "NAME", value_parser = parse_name)]
    pub name: String,
}

/// The flags of `hammal-host health`: those of `up`, to be taken from the same environment.
#[derive(Debug, Args)]
pub struct Health {
    /// The address that the host listens on
    #[arg(long, value_name = "ADDRESS", env = "SPIN_HTTP_LISTEN_ADDR", default_value = "127.0.0.1:3000", value_parser = parse_listen)]
    pub listen: SocketAddr,

    /// Given if the host serves https
    #[arg(long, value_name = "FILE", env = "SPIN_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
}

/// The flags of `hammal-host compile`.
#[derive(Debug, Args)]
pub struct Compile {
    /// The manifest: a file, or the folder of a spin.toml
    #[arg(short = 'f', long, value_name = "FILE", default_value = "spin.toml")]
    pub from: PathBuf,

    /// Wasmtime's configuration file for the cache of compiled code
    #[arg(long, value_name = "FILE", env = "WASMTIME_CACHE_FILE")]
    pub cache: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
The runtime configuration sets key-value stores, blocked networks, private CAs and providers of
variables. To ignore the runtime-config.toml beside the manifest: --runtime-config-file /dev/null

A variable's value is taken from the first of: --variable, a provider in the runtime configuration,
SPIN_VARIABLE_<NAME> in the environment, the default in spin.toml.

As with `spin up`: the manifest (version 2), the runtime configuration, the key-value file.
Not supported, and an error at the start: several components, triggers other than http, remote
component sources, files, requests of the component to itself. Flags and keys of Spin that mean
nothing here (log files, SQLite databases, AI models) are accepted, with a line that says so.";

/// The flags of `hammal-host up`.
#[derive(Debug, Args)]
pub struct Up {
    /// The manifest: a file, or the folder of a spin.toml
    #[arg(
        short = 'f',
        long = "from",
        aliases = ["file", "from-file"],
        value_name = "FILE",
        default_value = "spin.toml"
    )]
    pub from: PathBuf,

    /// IP address and port to listen on; port 0 chooses a free one
    #[arg(long, value_name = "ADDRESS", env = "SPIN_HTTP_LISTEN_ADDR", default_value = "127.0.0.1:3000", value_parser = parse_listen)]
    pub listen: SocketAddr,

    /// Takes the next free port if that of --listen is in use
    #[arg(long)]
    pub find_free_port: bool,

    /// Serves https with this certificate chain (PEM); read again when the file changes
    #[arg(
        long,
        value_name = "FILE",
        env = "SPIN_TLS_CERT",
        requires = "tls_key",
        help_heading = "HTTPS"
    )]
    pub tls_cert: Option<PathBuf>,

    /// The key of --tls-cert (PEM)
    #[arg(
        long,
        value_name = "FILE",
        env = "SPIN_TLS_KEY",
        requires = "tls_cert",
        help_heading = "HTTPS"
    )]
    pub tls_key: Option<PathBuf>,

    /// Runtime configuration [default: runtime-config.toml beside the manifest, if there is one]
    #[arg(long, value_name = "FILE", env = "RUNTIME_CONFIG_FILE")]
    pub runtime_config_file: Option<PathBuf>,

    /// Sets a variable of spin.toml; `NAME=@FILE` reads the value from a file. May be repeated
    #[arg(long = "variable", value_name = "NAME=VALUE", value_parser = variables::parse_assignment)]
    pub variables: Vec<(String, String)>,

    /// Folder for key-value data [default: .spin beside the manifest]; empty keeps it in memory
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,

    /// Serves metrics for Prometheus on this address, at /metrics
    #[arg(long, value_name = "ADDRESS", env = "HAMMAL_METRICS", value_parser = parse_listen)]
    pub metrics: Option<SocketAddr>,

    /// Runs the component's build command from the manifest first
    #[arg(long)]
    pub build: bool,

    #[command(flatten)]
    pub limits: LimitFlags,

    /// Format of the address on stdout, once the server accepts requests
    #[arg(long, value_enum, default_value_t = Format::Plain)]
    pub format: Format,

    /// Discards the component's output
    #[arg(short = 'q', long, aliases = ["sh", "shush"])]
    pub quiet: bool,

    /// The component to run; there is only one
    #[arg(short = 'c', long = "component-id", value_name = "ID", hide = true)]
    pub component_ids: Vec<String>,

    #[command(flatten)]
    pub instances: Instances,

    #[command(flatten)]
    pub without_effect: WithoutEffect,
}

/// The flags for the component's instances.
#[derive(Debug, Args)]
#[command(next_help_heading = "Instances")]
pub struct Instances {
    /// Requests that one instance handles in total [default: 128; WASIp2: 1]. A range A..B gives
    /// each instance a number at random
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub max_instance_reuse_count: Option<Range<Count>>,

    /// Requests that one instance handles at one time [default: 16; WASIp2: 1]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub max_instance_concurrent_reuse_count: Option<Range<Count>>,

    /// How long an instance without requests is kept [default: 1s]
    #[arg(long, value_name = "TIME", env = "SPIN_HTTP_IDLE_INSTANCE_TIMEOUT_SECS", value_parser = parse_duration)]
    pub idle_instance_timeout: Option<Range<Nanoseconds>>,

    /// Bytes of memory that one instance may have [default: 268435456]
    #[arg(long, value_name = "BYTES", env = "SPIN_MAX_INSTANCE_MEMORY")]
    pub max_instance_memory: Option<usize>,

    /// Passes an environment variable to the component. May be repeated
    #[arg(short = 'e', long = "env", value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub environment: Vec<(String, String)>,

    /// Sets a key of the store "default" at the start. May be repeated
    #[arg(long = "key-value", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub key_values: Vec<(String, String)>,

    /// Allocates each instance anew instead of from a pool
    #[arg(long)]
    pub disable_pooling: bool,

    /// Compiles the component at each start
    #[arg(long, env = "DISABLE_WASMTIME_CACHE", conflicts_with = "cache")]
    pub disable_cache: bool,

    /// Wasmtime's configuration file for the cache of compiled code
    #[arg(long, value_name = "FILE", env = "WASMTIME_CACHE_FILE")]
    pub cache: Option<PathBuf>,

    /// Bytes that are buffered of one HTTP/1.1 connection, at least 8192
    #[arg(long, value_name = "BYTES", env = "SPIN_HTTP1_MAX_BUF_SIZE", value_parser = parse_buffer)]
    pub http1_max_buf_size: Option<usize>,
}

/// The flags that limit what clients may take. `spin up` has none of them.
#[derive(Clone, Debug, Args)]
pub struct LimitFlags {
    /// Seconds that a whole request may take until its response begins
    #[arg(long, value_name = "SECONDS", env = "HAMMAL_REQUEST_TIMEOUT", default_value = "60", value_parser = parse_seconds)]
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

/// Parses `--request-timeout`: whole seconds, with or without Spin's unit.
fn parse_seconds(text: &str) -> Result<u64, String> {
    match text.strip_suffix('s').unwrap_or(text).parse() {
        Ok(seconds) if (1..=86_400).contains(&seconds) => Ok(seconds),
        _ => Err("give whole seconds, 1 to 86400".to_owned()),
    }
}

/// Parses `NAME=VALUE`.
fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

/// Parses the name of a client as the component does.
fn parse_name(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(is_allowed) {
        Ok(text.to_owned())
    } else {
        Err("give 1 to 64 letters, digits, '.', '_' and '-'".to_owned())
    }
}

/// Parses `--http1-max-buf-size`. hyper panics below its minimum.
fn parse_buffer(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if size >= 8192 => Ok(size),
        _ => Err("give a number of bytes, at least 8192".to_owned()),
    }
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

    fn up(arguments: &[&str]) -> Result<Up, String> {
        let arguments = ["hammal-host", "up"].iter().chain(arguments);
        match Cli::try_parse_from(arguments) {
            Ok(Cli {
                command: Command::Up(up),
            }) => Ok(*up),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_version_says_what_the_program_is() {
        let version = Cli::command().render_version();
        assert!(
            version.starts_with(concat!("hammal-host ", env!("CARGO_PKG_VERSION"), " (")),
            "{version}"
        );
        assert!(version.contains("Wasmtime 48"), "{version}");
    }

    #[test]
    fn a_certificate_needs_a_key() {
        assert!(up(&["--tls-cert", "a"]).unwrap_err().contains("--tls-key"));
        assert!(up(&["--tls-key", "a"]).unwrap_err().contains("--tls-cert"));
        assert!(up(&["--tls-cert", "a", "--tls-key", "b"]).is_ok());
    }

    #[test]
    fn accepts_the_flags_of_spin() {
        let flags = up(&[
            "--max-instance-reuse-count=4..8",
            "--request-timeout=20s",
            "--max-instance-memory=1000000",
            "--env=A=b=c",
            "--log-dir=logs",
            "-k",
            "--sqlite=SELECT 1",
        ])
        .unwrap();
        assert_eq!(flags.instances.environment, [("A".into(), "b=c".into())]);
        let named: Vec<_> = flags.without_effect.named().collect();
        assert_eq!(named, ["--log-dir", "--sqlite", "--insecure"]);
        assert!(up(&["--http1-max-buf-size=100"]).is_err());
        assert!(up(&["--no-such-flag"]).is_err());
    }
}
