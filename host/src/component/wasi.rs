//! WASI without `wasi:http`: the interfaces that hammal's builds import, of their own or through
//! Rust's standard library, and no other. Each that is linked is compiled for this host's store,
//! in the crate that is built last. Loading a component that imports another fails and names it.

use super::guest::Guest;
use wasmtime::bail;
use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{Component, Linker, Resource, ResourceType};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView as _};
use wasmtime_wasi::p2::bindings::{cli, random};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView as _};
use wasmtime_wasi::{p2, p3};

/// Links WASI 0.2 and 0.3 without `wasi:http`.
pub fn add_to_linker(linker: &mut Linker<Guest>, component: &Component) -> wasmtime::Result<()> {
    p2::add_to_linker_proxy_interfaces_async(linker)?;
    cli::environment::add_to_linker::<_, WasiCli>(linker, Guest::cli)?;
    cli::exit::add_to_linker::<_, WasiCli>(linker, Guest::cli)?;
    cli::terminal_input::add_to_linker::<_, WasiCli>(linker, Guest::cli)?;
    cli::terminal_output::add_to_linker::<_, WasiCli>(linker, Guest::cli)?;
    cli::terminal_stdin::add_to_linker::<_, WasiCli>(linker, Guest::cli)?;
    cli::terminal_stdout::add_to_linker::<_, WasiCli>(linker, Guest::cli)?;
    cli::terminal_stderr::add_to_linker::<_, WasiCli>(linker, Guest::cli)?;
    random::insecure_seed::add_to_linker::<_, WasiRandom>(linker, Guest::random)?;
    p3::bindings::clocks::types::add_to_linker::<_, WasiClocks>(linker, Guest::clocks)?;
    p3::bindings::clocks::monotonic_clock::add_to_linker::<_, WasiClocks>(linker, Guest::clocks)?;
    add_no_files(linker, component)
}

/// What a resource of `wasi:filesystem` would stand for. There is none: no manifest can mount a
/// directory here.
enum File {}

/// The resources of `wasi:filesystem/types`; the others that it names are those of `wasi:io`.
const RESOURCES: [&str; 2] = ["descriptor", "directory-entry-stream"];

/// Links `wasi:filesystem` without a directory to begin with, so that nothing else in it can be
/// called.
fn add_no_files(linker: &mut Linker<Guest>, component: &Component) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    for (name, import) in component.component_type().imports(&engine) {
        let ComponentItem::ComponentInstance(interface) = import.ty else {
            continue;
        };
        if name.starts_with("wasi:filesystem/preopens@0.2.") {
            linker
                .instance(name)?
                .func_wrap("get-directories", |_, ()| {
                    Ok((Vec::<(Resource<File>, String)>::new(),))
                })?;
        } else if name.starts_with("wasi:filesystem/types@0.2.") {
            add_unreachable(linker, name, &interface)?;
        }
    }
    Ok(())
}

/// Links the functions of `interface` that the component imports, whatever their types.
fn add_unreachable(
    linker: &mut Linker<Guest>,
    name: &str,
    interface: &ComponentInstance,
) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    let mut linked = linker.instance(name)?;
    for (name, export) in interface.exports(&engine) {
        match export.ty {
            ComponentItem::ComponentFunc(_) => {
                let function = name.to_owned();
                linked.func_new(name, move |_, _, _, _| {
                    bail!("{function} of wasi:filesystem: a component has no files here")
                })?;
            }
            ComponentItem::Resource(_) if RESOURCES.contains(&name) => {
                linked.resource(name, ResourceType::host::<File>(), |_, _| Ok(()))?;
            }
            _ => {}
        }
    }
    Ok(())
}
