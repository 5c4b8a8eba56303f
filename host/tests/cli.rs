//! Tests the binary's command line: its help, messages and exit status.

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

/// Creates a folder with a manifest whose build command is `build`.
fn app(build: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("spin.toml"),
        MANIFEST.replace("BUILD", build),
    )
    .unwrap();
    folder
}

/// Runs `hammal-host ARGS` in `folder` until it ends. Of the variables that it reads, only those in
/// `environment` are set.
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

/// Runs `hammal-host up ARGS` in `folder`, which must fail, and returns its stderr.
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
fn help_lists_every_flag_and_what_is_not_supported() {
    let output = run_with(Path::new("/"), &[], &["up", "--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for part in [
        "--from",
        "--listen",
        "--runtime-config-file",
        "runtime-config.toml beside the manifest",
        "--variable",
        "--state-dir",
        "--build",
        "--format",
        "--quiet",
        "--find-free-port",
        "--tls-cert",
        "--metrics",
        "--request-timeout",
        "SPIN_HTTP_LISTEN_ADDR",
        "RUNTIME_CONFIG_FILE",
        "SPIN_VARIABLE_<NAME>",
        "Not supported",
    ] {
        assert!(help.contains(part), "{part} is missing in:\n{help}");
    }
}

#[test]
fn suggests_the_flag_for_a_missing_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let error = fails(folder.path(), &[]);
    assert!(
        error.contains("spin.toml") && error.contains("--from"),
        "{error}"
    );
}

#[test]
fn suggests_to_build_a_missing_component() {
    let folder = app("true");
    let error = fails(folder.path(), &[]);
    assert!(
        error.contains("test.wasm") && error.contains("--build"),
        "{error}"
    );
}

#[test]
fn accepts_the_manifests_folder() {
    let folder = app("true");
    let error = fails(Path::new("/"), &["--from", folder.path().to_str().unwrap()]);
    assert!(error.contains("test.wasm"), "{error}");
}

#[test]
fn builds_in_the_manifests_folder_and_shows_the_output() {
    let folder = app("echo building here; echo no wasm > test.wasm");
    let error = fails(folder.path(), &["--build"]);
    assert!(error.contains("building here"), "{error}");
    assert!(
        error.contains("test.wasm is not a WebAssembly component"),
        "{error}"
    );
}

#[test]
fn stops_if_the_build_command_fails() {
    let folder = app("exit 3");
    let error = fails(folder.path(), &["--build"]);
    assert!(
        error.contains("build command of component test failed (exit status: 3)"),
        "{error}"
    );
}

#[test]
fn names_an_unknown_key_of_the_runtime_configuration() {
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
    // The environment variable selects the file too, as for `spin up`.
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
fn reads_the_runtime_configuration_beside_the_manifest_unless_another_is_given() {
    let folder = app("true");
    let message = "Using the runtime configuration";
    let error = fails(folder.path(), &[]);
    assert!(!error.contains(message), "{error}");

    let file = folder.path().join("runtime-config.toml");
    std::fs::write(&file, "[outbound_networking]\nblock_networks = []\n").unwrap();
    // From another folder: the manifest's folder counts, not the current one.
    let error = fails(Path::new("/"), &["--from", folder.path().to_str().unwrap()]);
    let line = format!("{message} {}\n", file.display());
    assert!(error.starts_with(&line), "{error}");
    assert!(error.contains("test.wasm"), "{error}");

    std::fs::write(&file, "[outbound_networking]\nblock_netwroks = []\n").unwrap();
    let error = fails(folder.path(), &[]);
    assert!(error.contains("block_netwroks"), "{error}");
    let error = fails(folder.path(), &["--runtime-config-file", "/dev/null"]);
    assert!(!error.contains(message), "{error}");
    assert!(error.contains("test.wasm"), "{error}");
}

#[test]
fn rejects_variables_that_cannot_be_set() {
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
fn suggests_the_flag_for_a_port_in_use() {
    let folder = app("true");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
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
fn takes_the_next_port_if_asked() {
    let folder = app("true");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let arguments = ["up", "--find-free-port", "--listen", &address];
    let output = run_with(folder.path(), &[], &arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!error.contains("already in use"), "{error}");
    assert!(error.contains("test.wasm"), "{error}");
}

#[test]
fn names_what_is_spins_and_has_no_effect() {
    let folder = app("true");
    std::fs::write(
        folder.path().join("rc.toml"),
        "log_dir = \"logs\"\n[sqlite_database.default]\ntype = \"spin\"\n",
    )
    .unwrap();
    let arguments = [
        "--runtime-config-file",
        "rc.toml",
        "--log-dir",
        "a",
        "--sqlite",
        "b",
    ];
    let error = fails(folder.path(), &arguments);
    for line in [
        "--log-dir has no effect in this host",
        "--sqlite has no effect in this host",
        "log_dir in the runtime configuration has no effect in this host",
        "[sqlite_database] in the runtime configuration has no effect in this host",
    ] {
        assert!(error.lines().any(|written| written == line), "{error}");
    }
    assert!(error.contains("test.wasm"), "{error}");
}

#[test]
fn the_version_says_what_it_is() {
    let output = run_with(Path::new("/"), &[], &["--version"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("hammal-host "), "{text}");
    for part in ["Wasmtime", "registry mirror"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn names_a_certificate_that_cannot_be_used() {
    let folder = app("true");
    let arguments = ["--tls-cert", "none.pem", "--tls-key", "none.key"];
    let error = fails(folder.path(), &arguments);
    assert!(error.contains("none.pem"), "{error}");
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

#[test]
fn makes_a_token_and_its_entry() {
    let folder = tempfile::tempdir().unwrap();
    let value = |output: &Output, what: &str| {
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let line = text.lines().find(|line| line.starts_with(what)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let output = run_with(folder.path(), &[], &["token", "ci.runner-1_a"]);
        assert!(output.status.success());
        let token = value(&output, "token for the client:");
        let hash = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let hash: String = hash
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            value(&output, "entry of clients:"),
            format!("ci.runner-1_a:{hash}")
        );
        assert!(token.len() == 40 && token.bytes().all(|byte| byte.is_ascii_hexdigit()));
        tokens.push(token);
    }
    assert_ne!(tokens[0], tokens[1]);
    for name in ["", "a b", "a:b", "é", &"x".repeat(65)] {
        let output = run_with(folder.path(), &[], &["token", name]);
        assert!(!output.status.success(), "{name}");
    }
}
