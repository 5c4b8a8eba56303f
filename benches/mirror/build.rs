//! Builds the host and the two components.

use crate::arguments::Arguments;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders of the components in the repository.
const COMPONENTS: [&str; 2] = ["", "benches/forwarder"];

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the build commands of the manifests, as `spin build` does.
pub fn components(arguments: &Arguments) {
    if arguments.no_build {
        return;
    }
    for folder in COMPONENTS {
        let path = repository().join(folder).join(arguments.manifest());
        let component = component(&path);
        let command = component["build"]["command"]
            .as_str()
            .expect("a build command");
        eprintln!("building the component of {}", path.display());
        // The manifest names a file in the default target folder.
        run(Command::new("sh")
            .args(["-c", command])
            .current_dir(path.parent().expect("a folder"))
            .env_remove("CARGO_TARGET_DIR"));
    }
}

/// The program whose `up` runs a component. The embedded host is built in the profile that `cargo
/// up` uses.
pub fn host(arguments: &Arguments) -> PathBuf {
    if let Some(program) = arguments.spin.as_ref().or(arguments.host.as_ref()) {
        // It runs in another folder; a bare name is looked up in PATH.
        let is_bare = program.components().count() == 1;
        return if is_bare {
            program.clone()
        } else {
            absolute(program)
        };
    }
    if !arguments.no_build {
        eprintln!("building the embedded host (minutes, the first time)");
        run(Command::new(env!("CARGO"))
            .args(["build", "--package", "hammal-host"])
            .current_dir(repository()));
    }
    // From target/release/deps/mirror-0123 to target/debug/hammal-host.
    let own = std::env::current_exe().expect("this program's path");
    own.ancestors()
        .nth(3)
        .expect("a target folder")
        .join("debug/hammal-host")
}

pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).expect("the current folder")
}

/// The name of the host in the heading.
pub fn host_name(arguments: &Arguments) -> String {
    let program = arguments.spin.as_ref().or(arguments.host.as_ref());
    program.map_or_else(
        || "embedded".to_owned(),
        |program| program.display().to_string(),
    )
}

/// The size of the component that `manifest` names, in bytes.
pub fn size(manifest: &Path) -> u64 {
    let component = component(manifest);
    let source = component["source"].as_str().expect("a source");
    let file = manifest.parent().expect("a folder").join(source);
    std::fs::metadata(&file)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        .len()
}

fn component(manifest: &Path) -> toml::Value {
    let text = std::fs::read_to_string(manifest)
        .unwrap_or_else(|error| panic!("{}: {error}", manifest.display()));
    let manifest: toml::Table = text.parse().expect("a manifest in TOML");
    let components = manifest["component"].as_table().expect("components");
    components.values().next().expect("one component").clone()
}

/// Runs a command, with its stdout on stderr, where progress is shown.
fn run(command: &mut Command) {
    let status = command.stdout(std::io::stderr()).status();
    let status = status.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
