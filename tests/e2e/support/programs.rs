//! Programs of real clients: those that are installed, and newer ones that
//! `scripts/newer-clients.sh` unpacks.

use std::path::PathBuf;
use std::process::Command;

use super::mirror::repository;
use super::skip;
use test_support::process::search_path;

#[derive(Clone)]
pub struct Programs {
    /// The folder of the newer ones.
    unpacked: Option<PathBuf>,
    path: Vec<PathBuf>,
}

impl Programs {
    /// Skips with `None` where one of `names` is not installed.
    pub fn installed(names: &[&str]) -> Option<Self> {
        Self {
            unpacked: None,
            path: search_path(),
        }
        .with(names)
    }

    /// The same for newer programs: in `HAMMAL_NEWER_CLIENTS`, or where the script unpacks them.
    pub fn newer(names: &[&str]) -> Option<Self> {
        let dir = std::env::var_os("HAMMAL_NEWER_CLIENTS").map(PathBuf::from);
        let dir = dir.unwrap_or_else(|| repository().join("target/newer-clients"));
        let own =
            ["usr/bin", "usr/sbin", "usr/libexec/docker/cli-plugins"].map(|sub| dir.join(sub));
        if let Some(missing) = names
            .iter()
            .find(|name| !own.iter().any(|sub| sub.join(name).is_file()))
        {
            skip(&format!(
                "{missing} of a newer suite is not in {} (scripts/newer-clients.sh)",
                dir.display()
            ));
            return None;
        }
        let path = own.into_iter().chain(search_path()).collect();
        Some(Self {
            unpacked: Some(dir),
            path,
        })
    }

    fn with(self, names: &[&str]) -> Option<Self> {
        let missing = names.iter().find(|name| self.find(name).is_none());
        if let Some(missing) = missing {
            skip(&format!("{missing} is not installed"));
        }
        missing.is_none().then_some(self)
    }

    pub fn are_newer(&self) -> bool {
        self.unpacked.is_some()
    }

    pub fn find(&self, name: &str) -> Option<PathBuf> {
        self.path
            .iter()
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
    }

    /// A program that looks for its helpers in the same set first.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.find(name).expect("found before"));
        command.env(
            "PATH",
            std::env::join_paths(&self.path).expect("a search path"),
        );
        if let Some(dir) = &self.unpacked {
            let libraries = dir
                .join("usr/lib")
                .join(format!("{}-linux-gnu", std::env::consts::ARCH));
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }
}

/// Skips with `false` where clients that mount file systems or change owners can't run.
pub fn is_root(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip(&format!("{what} needs root"));
    }
    is_root
}
