//! Measures the mirror beside other systems: `cargo bench --bench mirror -- --help`.
//!
//! | file | subject |
//! | --- | --- |
//! | `load` | the clients, in this process, as is the upstream: `test_support::counting_registry` |
//! | `run`, `systems`, `build`, `process`, `usage` | the start and the end, the systems, how they are started, CPU and memory |
//! | `measurements` | rounds, medians and ratios |
//! | `requests`, `blob`, `blob_store`, `footprint`, `cold_start` | the cases |
//! | `table`, `targets` | the output |
//! | `peers`, `storm` | the benchmark beside other programs, of the same parts: `--bench peers` |

mod arguments;
mod blob;
mod blob_store;
mod build;
mod cold_start;
mod footprint;
mod load;
mod measurements;
mod process;
mod requests;
mod run;
mod systems;
mod table;
mod targets;
mod tee;
mod usage;

use arguments::{Arguments, Case};
use clap::ValueEnum as _;
use std::process::ExitCode;
use systems::System;
use targets::Targets;
use test_support::ca::Ca;
use test_support::counting_registry::CountingRegistry;

fn main() -> ExitCode {
    run::run(measure)
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
            Case::BlobStore => {
                let upstreams = [&anonymous, &authenticated];
                let ca = ca.as_ref();
                blob_store::measure(arguments, upstreams, ca, &systems, &scale, &mut targets).await;
            }
            Case::Tee => {
                let teed = tee::Teed {
                    arguments,
                    upstream: &authenticated,
                    ca: ca.as_ref(),
                };
                teed.measure(&systems, &scale, &mut targets).await;
            }
            Case::Steady => footprint::steady(&systems, &scale, &mut targets).await,
            Case::Names => footprint::names(&systems, &scale, &mut targets).await,
            Case::Instance => cold_start::measure(&systems, &scale, &mut targets).await,
            Case::Outage => footprint::outage(&systems, &authenticated, &scale, &mut targets).await,
            _ => requests::measure(case, &systems, &scale, &mut targets).await,
        }
    }
    let size = build::size(&build::repository().join(arguments.manifest())) as f64 / 1e6;
    targets.at_most("size of the component", 1.1, size, "MB");
    targets.print();
}
