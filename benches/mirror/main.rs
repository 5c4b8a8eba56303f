//! What the mirror costs, beside what it could cost at best: `cargo bench --bench mirror -- --help`.
//!
//! | file | what |
//! | --- | --- |
//! | `load` | the clients, in this process, as is the upstream: `test_support::counting_registry` |
//! | `contestants`, `build`, `process`, `usage` | who is measured, how it is started, what it takes |
//! | `rounds` | turns, medians and ratios |
//! | `requests`, `blob`, `traces`, `instance` | the cases |
//! | `table`, `targets` | what is printed |

mod arguments;
mod blob;
mod build;
mod contestants;
mod instance;
mod load;
mod process;
mod requests;
mod rounds;
mod table;
mod targets;
mod traces;
mod usage;

use arguments::{Arguments, Case};
use clap::{Parser as _, ValueEnum as _};
use contestants::Contestant;
use std::process::ExitCode;
use targets::Targets;
use test_support::ca::Ca;
use test_support::counting_registry::CountingRegistry;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    // `cargo test --benches` runs this too, without `--bench`, and has no minutes to spend.
    let is_meant = |argument: String| ["--bench", "--help", "-h"].contains(&&*argument);
    if !std::env::args().any(is_meant) {
        println!("not run: this is for `cargo bench`");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    build::components(&arguments);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("a signal");
        // Who is interrupted drops what it has begun, and its children end with it.
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
    let ca = arguments.tls.then(Ca::new);
    let open = CountingRegistry::start(false, scale.blob, ca.as_ref()).await;
    let guarded = CountingRegistry::start(true, scale.blob, ca.as_ref()).await;
    let contestants = Contestant::start(arguments, &open, &guarded, ca.as_ref()).await;
    println!(
        "{} rounds of {:?} for each, {} connections, {} processors, host {}, upstream {}",
        scale.rounds,
        scale.round,
        scale.connections,
        std::thread::available_parallelism().map_or(0, usize::from),
        build::host_name(arguments),
        if arguments.tls {
            "by TLS"
        } else {
            "by plain HTTP"
        },
    );
    for case in Case::value_variants()
        .iter()
        .copied()
        .filter(|case| arguments.wants(*case))
    {
        match case {
            Case::Blob => blob::measure(&contestants, &scale, &mut targets).await,
            Case::Steady => traces::steady(&contestants, &scale, &mut targets).await,
            Case::Names => traces::names(&contestants, &scale, &mut targets).await,
            Case::Instance => instance::measure(&contestants, &scale, &mut targets).await,
            Case::Outage => traces::outage(&contestants, &guarded, &scale, &mut targets).await,
            _ => requests::measure(case, &contestants, &scale, &mut targets).await,
        }
    }
    let size = build::size(&build::repository().join(arguments.manifest())) as f64 / 1e6;
    targets.at_most("size of the component", 1.0, size, "MB");
    targets.print();
}
