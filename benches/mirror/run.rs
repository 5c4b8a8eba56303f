//! The start and the end of a benchmark.

use crate::arguments::Arguments;
use crate::build;
use clap::Parser as _;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Builds what is measured, and measures it.
pub fn run(measure: impl AsyncFnOnce(&Arguments)) -> ExitCode {
    // `cargo test --benches` runs this too, without `--bench`; it would take minutes.
    let is_benchmark = |argument: String| ["--bench", "--help", "-h"].contains(&&*argument);
    if !std::env::args().any(is_benchmark) {
        println!("skipped: run it with `cargo bench`");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    build::components(&arguments);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("a signal");
        // An interrupt drops the measurement, which stops the child processes.
        tokio::select! {
            () = measure(&arguments) => ExitCode::SUCCESS,
            _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
            _ = terminate.recv() => ExitCode::FAILURE,
        }
    })
}
