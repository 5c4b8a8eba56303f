//! The two builds of the component: their manifests differ in the build alone, and neither imports
//! interfaces that the oldest Spin it is for does not have.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use wasmparser::{Parser, Payload};

const WASIP3: &str = "spin.toml";
const WASIP2: &str = "spin.wasip2.toml";

/// The imports of Rust's standard library from WASI 0.2. A host that has one version of 0.2 links
/// all of them.
const STANDARD_LIBRARY: [&str; 18] = [
    "wasi:cli/environment@0.2",
    "wasi:cli/exit@0.2",
    "wasi:cli/stderr@0.2",
    "wasi:cli/stdin@0.2",
    "wasi:cli/stdout@0.2",
    "wasi:cli/terminal-input@0.2",
    "wasi:cli/terminal-output@0.2",
    "wasi:cli/terminal-stderr@0.2",
    "wasi:cli/terminal-stdin@0.2",
    "wasi:cli/terminal-stdout@0.2",
    "wasi:clocks/monotonic-clock@0.2",
    "wasi:clocks/wall-clock@0.2",
    "wasi:filesystem/preopens@0.2",
    "wasi:filesystem/types@0.2",
    "wasi:io/error@0.2",
    "wasi:io/poll@0.2",
    "wasi:io/streams@0.2",
    "wasi:random/insecure-seed@0.2",
];

#[test]
fn the_manifests_differ_in_the_build_alone() {
    let [mut wasip3, mut wasip2] = [WASIP3, WASIP2].map(manifest);
    for manifest in [&mut wasip3, &mut wasip2] {
        let component = manifest["component"]["hammal"]
            .as_table_mut()
            .expect("a component");
        component.remove("source");
        component["build"]
            .as_table_mut()
            .expect("a build")
            .remove("command");
    }
    assert_eq!(wasip3, wasip2);
}

#[test]
fn the_wasip3_build_needs_no_more_than_spin_4_1() {
    let own = [
        "spin:key-value/key-value@3.0.0",
        "spin:variables/variables@3.0.0",
        "wasi:clocks/monotonic-clock@0.3.0",
        "wasi:clocks/types@0.3.0",
        "wasi:http/client@0.3.0",
        "wasi:http/types@0.3.0",
    ];
    expect_imports(WASIP3, &own);
}

#[test]
fn the_wasip2_build_needs_no_more_than_spin_3_0() {
    let own = [
        "fermyon:spin/key-value@2.0.0",
        "fermyon:spin/variables@2.0.0",
        "wasi:http/outgoing-handler@0.2",
        "wasi:http/types@0.2",
    ];
    expect_imports(WASIP2, &own);
}

/// A host clears the memory of an instance for each request of WASIp2, the stack included, for
/// which the linker's default is a mebibyte.
#[test]
fn an_instance_starts_with_little_memory() {
    for name in [WASIP3, WASIP2] {
        let component = build(name);
        let payloads = Parser::new(0)
            .parse_all(&component)
            .map(|payload| payload.expect("a component"));
        let memories = payloads.filter_map(|payload| match payload {
            Payload::MemorySection(section) => Some(section),
            _ => None,
        });
        let pages: u64 = memories
            .flatten()
            .map(|memory| memory.expect("a memory").initial)
            .sum();
        assert!((1..=4).contains(&pages), "{name}: {pages} pages of 64 KiB");
    }
}

fn expect_imports(manifest: &str, own: &[&str]) {
    let mut others = BTreeSet::new();
    for import in imports(&build(manifest)) {
        let import = match import.split_once("@0.2.") {
            Some((interface, _)) => format!("{interface}@0.2"),
            None => import,
        };
        if !STANDARD_LIBRARY.contains(&&*import) {
            others.insert(import);
        }
    }
    assert_eq!(
        others,
        own.iter()
            .map(|interface| (*interface).to_owned())
            .collect()
    );
}

/// The names of the imports of a component, without those of the modules and components in it.
fn imports(component: &[u8]) -> Vec<String> {
    let mut depth = 0;
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(component) {
        match payload.expect("a component") {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                names.extend(
                    section
                        .into_iter()
                        .map(|import| import.expect("an import").name.name.to_owned()),
                );
            }
            _ => {}
        }
    }
    names
}

/// Builds the component as `spin build` does.
fn build(name: &str) -> Vec<u8> {
    let manifest = manifest(name);
    let component = &manifest["component"]["hammal"];
    let command = component["build"]["command"]
        .as_str()
        .expect("a build command");
    // The manifest names a file in the default target folder, wherever the tests were built.
    let status = Command::new("sh")
        .args(["-c", command])
        .current_dir(repository())
        .env_remove("CARGO_TARGET_DIR")
        .status()
        .expect("sh");
    assert!(status.success(), "the component does not build: {command}");
    std::fs::read(repository().join(component["source"].as_str().expect("a source")))
        .expect("the component")
}

fn manifest(name: &str) -> toml::Table {
    let text = std::fs::read_to_string(repository().join(name)).expect("a manifest");
    text.parse().expect("TOML")
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
