//! Child processes, their output, and that none outlives its test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use test_support::process::stop;

/// How long one pull by a client may take.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

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

    /// Appends the lines of stderr to `log`.
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
        let lines = self.stdout.lock().expect("stdout");
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("stderr").join("\n")
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child's status")
    }

    /// Polls until `ready` returns a value.
    pub async fn wait_for<T>(&mut self, what: &str, ready: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(value) = ready(self) {
                return value;
            }
            let ended = self.ended();
            if ended.is_some() || Instant::now() > deadline {
                panic!("no {what} ({ended:?}):\n{}", self.stderr());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends SIGTERM, and does not wait.
    pub fn terminate(&self) {
        use rustix::process::{Pid, Signal, kill_process};
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a running process");
    }

    /// Stops the process with SIGTERM, or SIGKILL after a time. Returns whether it ended in time
    /// and successfully.
    pub fn stop(&mut self) -> bool {
        stop(&mut self.child).is_some_and(|status| status.success())
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

/// Runs a program to its end.
pub async fn output(command: &mut tokio::process::Command) -> std::process::Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(RUN_TIMEOUT, command.output()).await;
    output
        .unwrap_or_else(|_| panic!("{command:?} does not end"))
        .expect("a program")
}

/// Runs a program to its end, which must be successful, and returns its stdout.
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
