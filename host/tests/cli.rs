//! The binary as a user meets it: what it says when something is wrong, and that it says so by its exit status.

use std::path::Path;
use std::process::{Command, Output};

const MANIFEST: &str = r#"
spin_manifest_version = 2
[application]
name = "test"
[variables]
upstream = { default = "registry-1.docker.io" }
[[trigger.http]]
route = "/..."
component = "test"
[component.test]
source = "test.wasm"
key_value_stores = ["default"]
allowed_outbound_hosts = ["https://*:*"]
[component.test.build]
command = "BUILD"
"#;

/// A folder with a manifest whose build command is `build`.
fn app(build: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("spin.toml"),
        MANIFEST.replace("BUILD", build),
    )
    .unwrap();
    folder
}

/// Runs `hammal-host ARGS` in `folder`, which must end by itself, with `environment` and none of ours.
fn run_with(folder: &Path, environment: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hammal-host"));
    for name in [
        "SPIN_HTTP_LISTEN_ADDR",
        "RUNTIME_CONFIG_FILE",
        "SPIN_VARIABLE_UPSTREAM",
    ] {
        command.env_remove(name);
    }
    command
        .args(args)
        .current_dir(folder)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// What is written on stderr before a failure.
fn fails(folder: &Path, args: &[&str]) -> String {
    let output = run_with(
        folder,
        &[],
        &[&["up", "--listen", "127.0.0.1:0"], args].concat(),
    );
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{text}");
    assert!(output.stdout.is_empty(), "{text}");
    text
}

#[test]
fn help_names_every_flag_and_what_is_not_supported() {
    let output = run_with(Path::new("/"), &[], &["up", "--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for part in [
        "--from",
        "--listen",
        "--runtime-config-file",
        "--variable",
        "--state-dir",
        "--build",
        "--format",
        "--quiet",
        "SPIN_HTTP_LISTEN_ADDR",
        "RUNTIME_CONFIG_FILE",
        "SPIN_VARIABLE_<NAME>",
        "Not supported",
    ] {
        assert!(help.contains(part), "{part} is missing in:\n{help}");
    }
}

#[test]
fn a_missing_manifest_says_how_to_name_one() {
    let folder = tempfile::tempdir().unwrap();
    let error = fails(folder.path(), &[]);
    assert!(
        error.contains("spin.toml") && error.contains("--from"),
        "{error}"
    );
}

#[test]
fn a_missing_component_says_how_to_build_it() {
    let folder = app("true");
    let error = fails(folder.path(), &[]);
    assert!(
        error.contains("test.wasm") && error.contains("--build"),
        "{error}"
    );
}

#[test]
fn the_manifest_may_be_named_by_its_folder() {
    let folder = app("true");
    let error = fails(Path::new("/"), &["--from", folder.path().to_str().unwrap()]);
    assert!(error.contains("test.wasm"), "{error}");
}

#[test]
fn builds_in_the_manifests_folder_and_shows_the_commands_output() {
    let folder = app("echo building here; echo no wasm > test.wasm");
    let error = fails(folder.path(), &["--build"]);
    assert!(error.contains("building here"), "{error}");
    assert!(
        error.contains("test.wasm is not a WebAssembly component"),
        "{error}"
    );
}

#[test]
fn a_failing_build_command_ends_the_start() {
    let folder = app("exit 3");
    let error = fails(folder.path(), &["--build"]);
    assert!(
        error.contains("build command of component test failed (exit status: 3)"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_of_the_runtime_configuration_is_named() {
    let folder = app("true");
    std::fs::write(
        folder.path().join("rc.toml"),
        "[outbound_networking]\nblock_netwroks = [\"private\"]\n",
    )
    .unwrap();
    let error = fails(folder.path(), &["--runtime-config-file", "rc.toml"]);
    assert!(
        error.contains("rc.toml") && error.contains("block_netwroks"),
        "{error}"
    );
    // The environment names it as well, as for `spin up`.
    let output = run_with(
        folder.path(),
        &[("RUNTIME_CONFIG_FILE", "rc.toml")],
        &["up"],
    );
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("block_netwroks")
    );
}

#[test]
fn variables_that_cannot_be_set_are_refused() {
    let folder = app("true");
    for (assignment, named) in [
        ("upstream", "NAME=VALUE"),
        ("Upstream=a", "lower-case"),
        ("upsteam=a", "upstream"),
    ] {
        let error = fails(folder.path(), &["--variable", assignment]);
        assert!(error.contains(named), "{assignment}: {error}");
    }
}

#[test]
fn a_taken_port_says_how_to_choose_another() {
    let folder = app("true");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run_with(
        folder.path(),
        &[("SPIN_HTTP_LISTEN_ADDR", &address)],
        &["up"],
    );
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("already in use") && error.contains("--listen"),
        "{error}"
    );
}

#[test]
fn names_an_imported_interface_that_is_not_linked() {
    let folder = app("true");
    // (component (import "wasi:sockets/network@0.2.0" (instance (export "f" (func)))))
    let component = [
        b"\0asm\x0d\0\x01\0".as_slice(),
        b"\x07\x0e\x01\x42\x02\x01\x40\0\x01\0\x04\0\x01f\x01\0",
        b"\x0a\x1f\x01\0\x1awasi:sockets/network@0.2.0\x05\0",
    ];
    std::fs::write(folder.path().join("test.wasm"), component.concat()).unwrap();
    let error = fails(folder.path(), &[]);
    assert!(error.contains("wasi:sockets/network@0.2.0"), "{error}");
}
