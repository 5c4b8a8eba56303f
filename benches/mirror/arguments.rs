//! The command line, and how much work it asks for.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Measures the mirror beside the upstream itself, a bare forwarding component on the same host, and nginx.
///
/// Everything runs on 127.0.0.1: an upstream and a load generator in this process, the contestants as children. They take
/// turns in short rounds, so that noise hits all alike; what is printed are medians of the rounds, and ratios are medians
/// of the ratios within each round. Progress goes to stderr, tables to stdout.
#[derive(Debug, Parser)]
#[command(
    name = "cargo bench --bench mirror --",
    version,
    after_help = "\
The embedded host is the one of `cargo up`: the dev profile, in which it and all libraries are optimised. The mirror \
writes its log, a line per request, to a file; nginx writes none. `mirror` runs with manifest_cache=off, so that each \
request goes upstream; `mirror+cache` as it comes."
)]
pub struct Arguments {
    /// What to measure; everything where nothing is named
    #[arg(value_enum, value_name = "CASE")]
    pub cases: Vec<Case>,

    /// A smoke run: less than 20 seconds, and no numbers to rely on
    #[arg(long)]
    pub quick: bool,

    /// Rounds per contestant [default: 5]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,

    /// Length of a round [default: 2]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub seconds: Option<Duration>,

    /// Connections that the load comes over, one request at a time on each
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub connections: u16,

    /// Run on this Spin (4.1 or later) instead of the embedded host; no --release build of either is needed
    #[arg(long, value_name = "PROGRAM", env = "HAMMAL_BENCH_SPIN")]
    pub spin: Option<PathBuf>,

    /// Run on this embedded host instead of building one
    #[arg(long, value_name = "PROGRAM", conflicts_with = "spin")]
    pub host: Option<PathBuf>,

    /// Another version of the mirror to measure beside this one: the spin.toml of another checkout, built there before
    #[arg(long, value_name = "NAME=MANIFEST", value_parser = parse_beside)]
    pub beside: Vec<(String, PathBuf)>,

    /// Measure the WASIp2 builds of the mirror and of the forwarder
    #[arg(long)]
    pub wasip2: bool,

    /// Reach the upstream by TLS, and HTTP/2 where a contestant offers it, as registries on the internet are reached; else
    /// by plain HTTP, which is the least that forwarding can cost. The load itself is plain HTTP in any case
    #[arg(long)]
    pub tls: bool,

    /// Don't build: take the host and the components as they are
    #[arg(long)]
    pub no_build: bool,

    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// The same manifest again and again
    Warm,
    /// A manifest of another repository with each request
    Cold,
    /// A blob that the upstream redirects to its CDN
    Redirect,
    /// 1,000 repositories in turn, twice
    Repositories,
    /// A manifest by its digest, which the cache needs no upstream for
    Digest,
    /// An answer that needs no upstream: /v2/
    Memory,
    /// A blob of 512 MiB, streamed
    Blob,
    /// 10,000 warm requests: what they cost upstream
    Steady,
    /// 100,000 repositories that don't exist: what stays in the key-value store
    Names,
    /// The first answer of a new instance
    Instance,
    /// A tag that is known, while nobody answers upstream
    Outage,
}

/// How much of each case is run.
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
    /// What the mirror's rate of warm requests must be at least, by that of the forwarder: each request of the WASIp2 build
    /// reads from the store, since no instance lives on.
    pub warm: f64,
    /// MiB by which the host's memory may grow while it streams.
    pub growth: f64,
}

impl Arguments {
    pub fn wants(&self, case: Case) -> bool {
        self.cases.is_empty() || self.cases.contains(&case)
    }

    /// The file name of the manifests of what is measured.
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
