//! Children: what they say goes to files, and none of them outlives the benchmark.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const STOP: Duration = Duration::from_secs(10);
/// Enough for a host to compile the component anew on a busy machine.
const START: Duration = Duration::from_secs(120);
/// Bytes of a child's last words that are shown.
const LAST_WORDS: usize = 4_000;

/// A process that runs until it is dropped, and its folder, which goes with it.
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

    fn last_words(&self) -> String {
        let stderr = fs::read(self.folder.path().join("stderr")).unwrap_or_default();
        let stderr = &stderr[stderr.len().saturating_sub(LAST_WORDS)..];
        String::from_utf8_lossy(stderr).into_owned()
    }

    /// Polls until `ready` has an answer.
    pub async fn wait_for<T>(&mut self, what: &str, ready: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + START;
        loop {
            if let Some(answer) = ready(self) {
                return answer;
            }
            let ended = self.child.try_wait().expect("a child's status");
            if ended.is_some() || Instant::now() > deadline {
                panic!("{what} did not come ({ended:?}):\n{}", self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- last words of process {} ---\n{}",
                self.id(),
                self.last_words()
            );
        }
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
