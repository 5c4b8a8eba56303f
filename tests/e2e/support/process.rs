//! Child processes: what they say, and that none of them outlives its test.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const STOP: Duration = Duration::from_secs(10);
/// What one client may take for one pull.
const RUN: Duration = Duration::from_secs(120);

/// A process that runs until it is stopped or dropped.
pub struct Process {
    child: Child,
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_logging(command, Arc::default())
    }

    /// Adds the lines of stderr to `log`.
    pub fn spawn_logging(command: &mut Command, log: Arc<Mutex<Vec<String>>>) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let stdout = Arc::default();
        collect(
            child.stdout.take().expect("stdout is piped"),
            Arc::clone(&stdout),
        );
        collect(
            child.stderr.take().expect("stderr is piped"),
            Arc::clone(&log),
        );
        Self {
            child,
            stdout,
            stderr: log,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        self.stdout.lock().expect("stdout").join("\n")
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("stderr").join("\n")
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child's status")
    }

    /// Polls until `ready` has an answer.
    pub async fn wait_for<T>(&mut self, what: &str, ready: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(answer) = ready(self) {
                return answer;
            }
            let ended = self.ended();
            if ended.is_some() || Instant::now() > deadline {
                panic!("{what} did not come ({ended:?}):\n{}", self.stderr());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, then patience, then SIGKILL. Says whether the first was enough.
    pub fn stop(&mut self) -> bool {
        if let Some(status) = self.ended() {
            return status.success();
        }
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn collect(pipe: impl std::io::Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            lines
                .lock()
                .expect("lines")
                .push(String::from_utf8_lossy(&line).into_owned());
        }
    });
}

/// Where a program is, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    search_path()
        .into_iter()
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// `PATH`, and where daemons are.
pub fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).collect()
}

/// Runs a program to its end.
pub async fn output(command: &mut tokio::process::Command) -> std::process::Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(RUN, command.output()).await;
    output
        .unwrap_or_else(|_| panic!("{command:?} does not end"))
        .expect("a program")
}

/// Runs a program to its end and returns what it printed.
pub async fn run(command: &mut tokio::process::Command) -> String {
    let output = output(command).await;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}
