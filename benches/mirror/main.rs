//! Measures the mirror beside other systems: `cargo bench --bench mirror -- --help`.
//!
//! | file | subject |
//! | --- | --- |
//! | `load` | the clients, in this process, as is the upstream: `test_support::counting_registry` |
//! | `systems`, `build`, `process`, `usage` | the systems, how they are started, CPU and memory |
//! | `measurements` | rounds, medians and ratios |
//! | `requests`, `blob`, `footprint`, `cold_start` | the cases |
//! | `table`, `targets` | the output |
//! | `peers`, `storm` | the benchmark beside other programs, of the same parts: `--bench peers` |

mod arguments;
mod blob;
mod build;
mod cold_start;
mod footprint;
mod load;
mod measurements;
mod process;
mod requests;
mod systems;
mod table;
mod targets;
mod usage;

use arguments::{Arguments, Case};
use clap::{Parser as _, ValueEnum as _};
use std::process::ExitCode;
use systems::System;
use targets::Targets;
use test_support::ca::Ca;
use test_support::counting_registry::CountingRegistry;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
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

async fn measure(arguments: &Arguments) {
    let scale = arguments.scale();
    let mut targets = Targets::default();
    let ca = arguments.tls.then(Ca::generate);
    let anonymous = CountingRegistry::start(false, scale.blob, ca.as_ref()).await;
    let authenticated = CountingRegistry::start(true, scale.blob, ca.as_ref()).await;
    let systems = System::start(arguments, &anonymous, &authenticated, ca.as_ref()).await;
    println!(
        "{} rounds of {:?} for each, {} connections, {} processors, host {}, upstream {}",
        scale.rounds,
        scale.round,
        scale.connections,
        std::thread::available_parallelism().map_or(0, usize::from),
        build::host_name(arguments),
        if arguments.tls {
            "over TLS"
        } else {
            "over plain HTTP"
        },
    );
    for case in Case::value_variants()
        .iter()
        .copied()
        .filter(|case| arguments.wants(*case))
    {
        match case {
            Case::Blob => blob::measure(&systems, &scale, &mut targets).await,
            Case::Steady => footprint::steady(&systems, &scale, &mut targets).await,
            Case::Names => footprint::names(&systems, &scale, &mut targets).await,
            Case::Instance => cold_start::measure(&systems, &scale, &mut targets).await,
            Case::Outage => footprint::outage(&systems, &authenticated, &scale, &mut targets).await,
            _ => requests::measure(case, &systems, &scale, &mut targets).await,
        }
    }
    let size = build::size(&build::repository().join(arguments.manifest())) as f64 / 1e6;
    targets.at_most("size of the component", 1.0, size, "MB");
    targets.print();
}
