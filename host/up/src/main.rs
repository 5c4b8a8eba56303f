//! `cargo up ARGUMENTS`: as `cargo run --package hammal-host -- up --build ARGUMENTS`, which builds the
//! host and then the component, but both at once. Each has stretches in which a processor is idle.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

const CARGO: &str = env!("CARGO");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let component = start_build(&arguments);
    let host = cargo("build").args(["--package", "hammal-host"]).status();
    if let Some(mut component) = component {
        // The host's --build repeats it, at no cost where it succeeded, and reports it where not.
        let _ = component.wait();
    }
    if !host.is_ok_and(|status| status.success()) {
        return ExitCode::FAILURE;
    }
    let error = cargo("run")
        .args(["--quiet", "--package", "hammal-host"])
        .args(["--", "up", "--build"])
        .args(arguments)
        .exec();
    eprintln!("error: can't run {CARGO}: {error}");
    ExitCode::FAILURE
}

/// Cargo as from a shell: with the variables that `cargo run` sets for this program, build scripts that
/// read them would run anew, and with ring's most of the host would be built anew.
fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(CARGO);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command.arg(subcommand);
    command
}

/// Starts the build command of `spin.toml`; `None` where the arguments name another manifest, or it has
/// no command on a line of its own. On one processor: it takes less time than the host anyway.
fn start_build(arguments: &[String]) -> Option<Child> {
    if arguments
        .iter()
        .any(|argument| argument.starts_with("--from") || argument.starts_with("-f"))
    {
        return None;
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
    let manifest = std::fs::read_to_string(repository.join("spin.toml")).ok()?;
    let command = manifest
        .lines()
        .find_map(|line| line.strip_prefix("command = \"")?.strip_suffix('"'))?;
    Command::new("sh")
        .args(["-c", command])
        .current_dir(repository)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .env("CARGO_BUILD_JOBS", "1")
        .env("CARGO_TERM_PROGRESS_WHEN", "never")
        .spawn()
        .ok()
}
