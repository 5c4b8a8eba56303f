//! Flags of `spin up` that mean nothing for this host, so that a command line that is good for Spin
//! does not stop it.

use clap::Args;
use std::path::PathBuf;

/// Accepted, and named on stderr.
#[derive(Debug, Default, Args)]
pub struct WithoutEffect {
    #[arg(short = 'L', long, hide = true, env = "SPIN_LOG_DIR")]
    log_dir: Option<PathBuf>,
    #[arg(long, hide = true)]
    truncate_logs: bool,
    #[arg(long, hide = true, conflicts_with = "quiet")]
    follow: Vec<String>,
    #[arg(long, hide = true)]
    sqlite: Vec<String>,
    #[arg(long, hide = true)]
    allow_transient_write: bool,
    #[arg(long, hide = true)]
    experimental_wasi_otel: bool,
    #[arg(long, hide = true)]
    direct_mounts: bool,
    #[arg(long, hide = true, alias = "tmp")]
    temp: Option<PathBuf>,
    #[arg(long, hide = true)]
    cache_dir: Option<PathBuf>,
    #[arg(short = 'k', long, hide = true)]
    insecure: bool,
}

impl WithoutEffect {
    /// Returns the names of those that were given.
    pub fn named(&self) -> impl Iterator<Item = &'static str> {
        [
            ("--log-dir", self.log_dir.is_some()),
            ("--truncate-logs", self.truncate_logs),
            ("--follow", !self.follow.is_empty()),
            ("--sqlite", !self.sqlite.is_empty()),
            ("--allow-transient-write", self.allow_transient_write),
            ("--experimental-wasi-otel", self.experimental_wasi_otel),
            ("--direct-mounts", self.direct_mounts),
            ("--temp", self.temp.is_some()),
            ("--cache-dir", self.cache_dir.is_some()),
            ("--insecure", self.insecure),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
    }
}
