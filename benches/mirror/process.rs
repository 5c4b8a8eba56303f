//! Child processes: their output goes to files, and none outlives the benchmark.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::process::stop;

/// Long enough for a host to compile the component on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of the end of stderr that are shown.
const STDERR_TAIL: usize = 4_000;

/// A process that runs until it is dropped, and its folder, which is deleted with it.
pub struct Process {
    child: Child,
    folder: TempDir,
}

impl Process {
    pub fn spawn(command: &mut Command, folder: TempDir) -> Self {
        let file = |name| File::create(folder.path().join(name)).expect("a file");
        command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"));
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Self { child, folder }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(self.folder.path().join("stdout")).unwrap_or_default()
    }

    fn stderr_tail(&self) -> String {
        let stderr = fs::read(self.folder.path().join("stderr")).unwrap_or_default();
        let stderr = &stderr[stderr.len().saturating_sub(STDERR_TAIL)..];
        String::from_utf8_lossy(stderr).into_owned()
    }

    /// Polls until `ready` returns a value.
    pub async fn wait_for<T>(&mut self, what: &str, ready: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(value) = ready(self) {
                return value;
            }
            let ended = self.child.try_wait().expect("a child's status");
            if ended.is_some() || Instant::now() > deadline {
                panic!("no {what} ({ended:?}):\n{}", self.stderr_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- stderr of process {} ---\n{}",
                self.id(),
                self.stderr_tail()
            );
        }
        stop(&mut self.child);
    }
}
