//! Runs the component's build command, for `--build`.

use crate::config::manifest::Manifest;
use anyhow::{Context as _, Result, bail};
use std::process::{Command, Stdio};

/// Runs the manifest's build commands with `sh -c`. Their output goes to stderr: stdout is for
/// `--format json`. Fails on the first command that fails.
pub fn build(manifest: &Manifest) -> Result<()> {
    let id = &manifest.component_id;
    let Some(build) = &manifest.component.build else {
        eprintln!("component {id} has no build command; nothing to build");
        return Ok(());
    };
    let folder = manifest
        .folder
        .join(build.workdir.as_deref().unwrap_or(".".as_ref()));
    for command in build.commands() {
        eprintln!("Building component {id} with `{command}`");
        let status = Command::new("sh")
            .args(["-c", command])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::io::stderr()))
            .status()
            .with_context(|| format!("can't run sh in {}", folder.display()))?;
        if !status.success() {
            bail!("the build command of component {id} failed ({status}); its output is above");
        }
    }
    Ok(())
}
