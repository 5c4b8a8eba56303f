//! The command line, and the amount of work.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Compares the mirror with its upstream, a bare forwarding component on the same host, and nginx.
///
/// Everything runs on 127.0.0.1: an upstream and a load generator in this process, the other systems
/// as child processes. They are measured in turn, in short rounds, so that noise affects all alike.
/// Figures are medians of the rounds, ratios are medians of the ratios within each round. Progress
/// goes to stderr, tables to stdout.
#[derive(Debug, Parser)]
#[command(
    name = "cargo bench --bench mirror --",
    version,
    after_help = "\
The embedded host is that of `cargo up`: the dev profile, in which it and all libraries are optimised. The mirror \
logs a line for each request to a file, nginx logs nothing. `mirror` has manifest_cache=off, so that each request goes \
upstream; `mirror+cache` has the default settings."
)]
pub struct Arguments {
    /// Cases to measure [default: all]
    #[arg(value_enum, value_name = "CASE")]
    pub cases: Vec<Case>,

    /// Smoke test: less than 20 seconds, and figures that mean nothing
    #[arg(long)]
    pub quick: bool,

    /// Rounds per system [default: 5]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,

    /// Length of a round [default: 2]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub seconds: Option<Duration>,

    /// Connections of the load, with one request at a time on each
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub connections: u16,

    /// Use this Spin (4.1 or later) instead of the embedded host
    #[arg(long, value_name = "PROGRAM", env = "HAMMAL_BENCH_SPIN")]
    pub spin: Option<PathBuf>,

    /// Use this embedded host instead of building one
    #[arg(long, value_name = "PROGRAM", conflicts_with = "spin")]
    pub host: Option<PathBuf>,

    /// Also measure another version of the mirror: the spin.toml of another checkout, which must be built
    #[arg(long, value_name = "NAME=MANIFEST", value_parser = parse_beside)]
    pub beside: Vec<(String, PathBuf)>,

    /// Also measure the mirror with the metrics of the embedded host
    #[arg(long, conflicts_with = "spin")]
    pub metrics: bool,

    /// Measure the WASIp2 builds of the mirror and of the forwarder
    #[arg(long)]
    pub wasip2: bool,

    /// Use TLS between the systems and the upstream, and HTTP/2 where a system offers it, as registries on
    /// the internet do, instead of plain HTTP, the cheapest protocol to forward. The load is always plain
    /// HTTP
    #[arg(long)]
    pub tls: bool,

    /// Don't build the host and the components
    #[arg(long)]
    pub no_build: bool,

    /// Added by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// One manifest again and again
    Warm,
    /// A manifest of another repository with each request
    Cold,
    /// A blob that the upstream redirects to its CDN, by a URL that does not tell how long it is good
    Redirect,
    /// A blob whose redirect is remembered: its URL tells how long it is good
    KnownRedirect,
    /// 1,000 repositories in turn, twice
    Repositories,
    /// A manifest by its digest, which the cache serves without the upstream
    Digest,
    /// /v2/, which takes no upstream request
    Memory,
    /// A blob of 512 MiB, streamed
    Blob,
    /// With an object store: a blob that it has, and blobs that it does not have
    BlobStore,
    /// A blob of 512 MiB, streamed to a client and into an object store
    Tee,
    /// Upstream requests of 10,000 warm requests
    Steady,
    /// Keys in the store after requests for 100,000 repositories that do not exist
    Names,
    /// The first response of a new instance
    Instance,
    /// A cached tag while the upstream is down
    Outage,
}

/// The amount of work of each case.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub connections: usize,
    pub rounds: u32,
    pub round: Duration,
    /// Bytes.
    pub blob: u64,
    pub repositories: u64,
    pub steady: u64,
    pub names: u64,
    pub instances: usize,
    /// The target for the rate of warm requests, relative to the forwarder's: each request of the WASIp2
    /// build reads from the store, since its instances serve one request each.
    pub warm: f64,
    /// The target for the growth of the host's memory while it streams, in MiB.
    pub growth: f64,
}

impl Arguments {
    pub fn wants(&self, case: Case) -> bool {
        self.cases.is_empty() || self.cases.contains(&case)
    }

    /// The file name of the manifests of the components.
    pub fn manifest(&self) -> &'static str {
        if self.wasip2 {
            "spin.wasip2.toml"
        } else {
            "spin.toml"
        }
    }

    pub fn scale(&self) -> Scale {
        let connections = usize::from(self.connections);
        let (rounds, round) = (self.rounds, self.seconds);
        let (warm, growth) = if self.wasip2 {
            (0.85, 64.0)
        } else {
            (0.90, 32.0)
        };
        if self.quick {
            Scale {
                connections,
                rounds: rounds.unwrap_or(1),
                round: round.unwrap_or(Duration::from_millis(150)),
                blob: 64 * 1024 * 1024,
                repositories: 100,
                steady: 1_000,
                names: 1_000,
                instances: 1,
                warm,
                growth,
            }
        } else {
            Scale {
                connections,
                rounds: rounds.unwrap_or(5),
                round: round.unwrap_or(Duration::from_secs(2)),
                blob: 512 * 1024 * 1024,
                repositories: 1_000,
                steady: 10_000,
                names: 100_000,
                instances: 20,
                warm,
                growth,
            }
        }
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds from 0.1 to 600".to_owned()),
    }
}

fn parse_beside(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, manifest)) if !name.is_empty() => Ok((name.to_owned(), manifest.into())),
        _ => Err("write NAME=MANIFEST, as in before=/tmp/hammal/spin.toml".to_owned()),
    }
}
