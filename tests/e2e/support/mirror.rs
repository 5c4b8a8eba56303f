//! The mirror under test: a child process with its variables, runtime configuration, address and
//! log.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use test_support::announcement;
use test_support::ca::Ca;

use super::client::{LogSync, Request, Response};
use super::log_line::LogLine;
use super::process::Process;
use super::wait_for;

/// Long enough for Spin to compile the component on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// How a mirror is started, and restarted.
#[derive(Clone, Default)]
pub struct Options {
    variables: BTreeMap<String, String>,
    plain_http: Vec<String>,
    runtime_config: String,
    block_networks: Vec<String>,
    hosts: Vec<(String, IpAddr)>,
    ca: Option<String>,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    listen: Option<SocketAddr>,
}

impl Options {
    pub fn variable(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.insert(name.into(), value.to_string());
        self
    }

    /// Sets the default upstream, and permits plain HTTP to it.
    pub fn upstream(self, address: SocketAddr) -> Self {
        self.variable("upstream", format!("http://{address}"))
            .plain_http([address])
    }

    /// Adds to the variable `plain_http_upstreams`.
    pub fn plain_http(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.plain_http
            .extend(addresses.into_iter().map(|address| address.to_string()));
        self
    }

    /// The same for a host name.
    pub fn plain_http_host(mut self, host: &str) -> Self {
        self.plain_http.push(host.into());
        self
    }

    /// Adds TOML to the runtime configuration.
    pub fn runtime_config(mut self, toml: &str) -> Self {
        self.runtime_config += toml;
        self.runtime_config += "\n";
        self
    }

    /// Sets `block_networks` of the runtime configuration. Otherwise private networks stay open,
    /// since everything that the tests connect to is on loopback addresses.
    pub fn block_networks(mut self, networks: &[&str]) -> Self {
        self.block_networks = networks.iter().map(ToString::to_string).collect();
        self
    }

    /// Trusts a certificate authority for `hosts`.
    pub fn trust(mut self, ca: &Ca, hosts: &[&str]) -> Self {
        self.ca = Some(ca.pem());
        self.runtime_config(&format!(
            "[[client_tls]]\ncomponent_ids = [\"hammal\"]\nhosts = {hosts:?}\nca_roots_file = \"CA_ROOTS_FILE\"\n"
        ))
    }

    /// Resolves a name to `address` for this mirror alone. See [`can_name_hosts`].
    pub fn host(mut self, name: &str, address: IpAddr) -> Self {
        self.hosts.push((name.into(), address));
        self
    }

    /// Adds an argument to the command line.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable of the environment.
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub async fn start(self) -> Mirror {
        Mirror::start(self).await
    }
}

/// Whether a child can be given its own `/etc/hosts`: that takes a mount namespace, so root.
pub fn can_name_hosts() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        Command::new("unshare")
            .args(["--mount", "sh", "-c", "mount --bind /etc/hosts /etc/hosts"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

pub struct Mirror {
    options: Options,
    files: TempDir,
    running: Option<Running>,
    log_sync: LogSync,
}

struct Running {
    process: Process,
    address: SocketAddr,
}

impl Mirror {
    pub async fn start(options: Options) -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let mut mirror = Self {
            options,
            files,
            running: None,
            log_sync: LogSync::default(),
        };
        mirror.run().await;
        mirror
    }

    /// Starts a mirror of one upstream, over plain HTTP.
    pub async fn with_upstream(upstream: SocketAddr) -> Self {
        Options::default().upstream(upstream).start().await
    }

    /// Stops the process and starts another with the same options and the same key-value store.
    pub async fn restart(&mut self) {
        self.stop();
        self.run().await;
    }

    /// The same with another value of a variable.
    pub async fn restart_with(&mut self, name: &str, value: impl ToString) {
        self.options
            .variables
            .insert(name.into(), value.to_string());
        self.restart().await;
    }

    /// Sends the process SIGTERM, and starts another on the same port with the same options and the
    /// same key-value store as soon as the port is free. The first one still answers what it has
    /// begun; returns it.
    pub async fn replace(&mut self) -> Process {
        let address = self.address();
        let old = self.running.take().expect("the mirror runs").process;
        old.terminate();
        let is_free = || std::net::TcpStream::connect(address).is_err();
        wait_for("the port", is_free).await;
        self.options.listen = Some(address);
        self.run().await;
        old
    }

    /// Sets a variable for the next start.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        let variables = &mut self.options.variables;
        variables.insert(name.into(), value.into());
    }

    pub fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("the mirror runs").address
    }

    pub fn get(&self, target: &str) -> Request {
        self.request("GET", target)
    }

    /// Requests a manifest with the `Accept` lines of dockerd.
    pub async fn get_manifest(&self, target: &str) -> Response {
        self.get(target).accept_manifests().send().await
    }

    pub fn head(&self, target: &str) -> Request {
        self.request("HEAD", target)
    }

    pub fn request(&self, method: &str, target: &str) -> Request {
        let request = Request::new(self.address(), method, target);
        if is_wasip2() {
            request.wait_for_log(self.log_sync.clone())
        } else {
            request
        }
    }

    /// The lines of stderr so far.
    pub fn stderr(&self) -> Vec<String> {
        self.log_sync.log.lock().expect("the log").clone()
    }

    /// The lines of the access log, once there are at least `count`.
    pub async fn log(&self, count: usize) -> Vec<LogLine> {
        let lines = || -> Vec<LogLine> {
            let stderr = self.stderr();
            stderr
                .iter()
                .filter_map(|line| LogLine::find(line))
                .collect()
        };
        wait_for(&format!("{count} lines of the log"), || {
            lines().len() >= count
        })
        .await;
        lines()
    }

    /// Stops the process by SIGTERM. Returns whether it ended successfully and in time.
    pub fn stop(&mut self) -> bool {
        self.running
            .take()
            .is_none_or(|mut running| running.process.stop())
    }

    /// The resident memory of the process, in bytes.
    pub fn resident(&self) -> u64 {
        let id = self.running.as_ref().expect("the mirror runs").process.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        resident
            .and_then(|kibibytes| kibibytes.parse::<u64>().ok())
            .expect("a size")
            * 1024
    }

    /// The folder of the key-value store.
    pub fn state_dir(&self) -> PathBuf {
        self.files.path().join("state")
    }

    async fn run(&mut self) {
        build_component();
        let mut command = self.command();
        let mut process = Process::spawn_logging(&mut command, Arc::clone(&self.log_sync.log));
        let deadline = Instant::now() + START_TIMEOUT;
        let address = loop {
            if let Some(address) = announcement::address(&process.stdout()) {
                break address;
            }
            let ended = process.ended();
            if ended.is_some() || Instant::now() > deadline {
                panic!(
                    "the mirror did not start ({ended:?}): {command:?}\n{}",
                    self.stderr().join("\n")
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        self.running = Some(Running { process, address });
    }

    fn command(&self) -> Command {
        let dir = self.files.path();
        let config = dir.join("runtime-config.toml");
        let roots = dir.join("ca.pem");
        if let Some(ca) = &self.options.ca {
            std::fs::write(&roots, ca).expect("the authority's certificate");
        }
        let text = format!(
            "[outbound_networking]\nblock_networks = {:?}\n\n\
             [outbound_http]\nconnection_pooling = true\n\n{}",
            self.options.block_networks,
            self.options
                .runtime_config
                .replace("CA_ROOTS_FILE", &roots.display().to_string())
        );
        std::fs::write(&config, text).expect("the runtime configuration");

        let program = program();
        let mut command = if self.options.hosts.is_empty() {
            Command::new(program)
        } else {
            let hosts = dir.join("hosts");
            let mut file = std::fs::File::create(&hosts).expect("the hosts file");
            for (name, address) in &self.options.hosts {
                writeln!(file, "{address} {name}").expect("the hosts file");
            }
            let mut command = Command::new("unshare");
            command.args([
                "--mount",
                "sh",
                "-c",
                "mount --bind \"$0\" /etc/hosts && exec \"$@\"",
            ]);
            command.arg(hosts).arg(program);
            command
        };
        command.current_dir(dir);
        let environment = &self.options.environment;
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let listen = self.options.listen.map(|address| address.to_string());
        let listen = listen.as_deref().unwrap_or("127.0.0.1:0");
        command.args(["up", "--listen", listen]);
        command.args(announcement_format());
        command.args(&self.options.arguments);
        command.arg("--from").arg(repository().join(manifest()));
        command.arg("--state-dir").arg(dir.join("state"));
        command.arg("--runtime-config-file").arg(config);
        let mut variables = self.options.variables.clone();
        variables.insert(
            "plain_http_upstreams".into(),
            self.options.plain_http.join(","),
        );
        for (name, value) in variables {
            command.arg("--variable").arg(format!("{name}={value}"));
        }
        command
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!(
                "--- the mirror's stderr ---\n{}\n---",
                self.stderr().join("\n")
            );
        }
    }
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn announcement_format() -> &'static [&'static str] {
    static FORMAT: OnceLock<&[&str]> = OnceLock::new();
    FORMAT.get_or_init(|| announcement::format(&program()))
}

fn program() -> PathBuf {
    if let Some(spin) = spin() {
        return spin.into();
    }
    let test = std::env::current_exe().expect("the test's own path");
    let host = test
        .parent()
        .and_then(Path::parent)
        .expect("target/debug")
        .join("hammal-host");
    assert!(
        host.exists(),
        "{} is missing: run `cargo build --package hammal-host`, or plain `cargo test`",
        host.display()
    );
    host
}

/// `spin.toml`, or what `HAMMAL_TEST_MANIFEST` names: both builds of the component pass the same
/// tests.
fn manifest() -> String {
    std::env::var("HAMMAL_TEST_MANIFEST").unwrap_or_else(|_| "spin.toml".to_owned())
}

/// Whether Spin runs the mirror, and not the embedded host.
pub fn is_spin() -> bool {
    spin().is_some()
}

fn spin() -> Option<OsString> {
    std::env::var_os("HAMMAL_TEST_SPIN")
}

/// Whether each request has an instance of its own.
pub fn is_wasip2() -> bool {
    manifest().contains("wasip2")
}

/// Runs the build command of the manifest, once for all tests.
fn build_component() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let manifest =
            std::fs::read_to_string(repository().join(manifest())).expect("the manifest");
        let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
        let build = manifest["component"]["hammal"]["build"]["command"]
            .as_str()
            .expect("a build command");
        // The manifest names a file in the default target folder, wherever the tests were built.
        let status = Command::new("sh")
            .args(["-c", build])
            .current_dir(repository())
            .env_remove("CARGO_TARGET_DIR")
            .status()
            .expect("sh");
        assert!(status.success(), "the component does not build: {build}");
    });
}
