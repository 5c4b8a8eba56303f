//! dockerd and containerd, each with its own folder and socket, without container networks.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::process::{Process, output};
use super::programs::Programs;

/// Environment variables of a client, such as `SSL_CERT_FILE`.
pub type Environment = Vec<(&'static str, PathBuf)>;

pub struct Dockerd {
    process: Process,
    programs: Programs,
    socket: String,
    environment: Environment,
}

impl Dockerd {
    /// `storage` is a storage driver, or a snapshotter where dockerd uses containerd's image store.
    pub async fn start(
        programs: &Programs,
        dir: &Path,
        config: &Value,
        storage: &str,
        environment: Environment,
    ) -> Self {
        std::fs::create_dir_all(dir).expect("a folder");
        let file = dir.join("daemon.json");
        std::fs::write(&file, config.to_string()).expect("daemon.json");
        let socket = format!("unix://{}", dir.join("docker.sock").display());
        let mut command = programs.command("dockerd");
        command.args([
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--storage-driver",
            storage,
        ]);
        command
            .arg("--config-file")
            .arg(file)
            .arg("--pidfile")
            .arg(dir.join("pid"));
        command
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("exec"));
        command.args(["-H", &socket]).envs(environment.clone());
        let mut process = Process::spawn(&mut command);
        process
            .wait_for("dockerd", |dockerd| {
                dockerd.stderr().contains("API listen on").then_some(())
            })
            .await;
        Self {
            process,
            programs: programs.clone(),
            socket,
            environment,
        }
    }

    /// Returns the stdout of `docker`, or all output where it fails.
    pub async fn docker(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.programs.command("docker");
        command
            .args(["-H", &self.socket])
            .args(arguments)
            .envs(self.environment.clone());
        result(command).await
    }

    pub fn stop(mut self) {
        assert!(self.process.stop(), "{}", self.process.stderr());
    }
}

pub struct Containerd {
    process: Process,
    programs: Programs,
    socket: String,
    environment: Environment,
}

impl Containerd {
    pub async fn start(programs: &Programs, dir: &Path, environment: Environment) -> Self {
        std::fs::create_dir_all(dir).expect("a folder");
        let socket = dir.join("containerd.sock").display().to_string();
        // Plugins that need more than a folder, by their names in containerd 1 and 2.
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
             \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {socket:?}\n",
            dir.join("data"),
            dir.join("state")
        );
        let file = dir.join("containerd.toml");
        std::fs::write(&file, config).expect("containerd.toml");
        let mut process = Process::spawn(programs.command("containerd").arg("--config").arg(file));
        let ready = |containerd: &Process| {
            containerd
                .stderr()
                .contains("successfully booted")
                .then_some(())
        };
        process.wait_for("containerd", ready).await;
        Self {
            process,
            programs: programs.clone(),
            socket,
            environment,
        }
    }

    /// Returns the stdout of `ctr`, or all output where it fails.
    pub async fn ctr(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.programs.command("ctr");
        command
            .args(["--address", &self.socket])
            .args(arguments)
            .envs(self.environment.clone());
        result(command).await
    }

    /// Pulls with the `hosts.toml` files below `hosts`.
    pub async fn pull(&self, hosts: &Path, reference: &str) -> Result<String, String> {
        let hosts = hosts.display().to_string();
        let mut arguments = vec![
            "images",
            "pull",
            "--hosts-dir",
            &hosts,
            "--snapshotter",
            "native",
        ];
        // Without it ctr 2 lets containerd pull, which has other rules for snapshotters.
        arguments.extend(self.programs.are_newer().then_some("--local"));
        arguments.push(reference);
        self.ctr(&arguments).await
    }

    pub fn stop(mut self) {
        assert!(self.process.stop(), "{}", self.process.stderr());
    }
}

/// Returns the stdout of a program, or all output where it fails.
pub async fn result(command: std::process::Command) -> Result<String, String> {
    let output = output(&mut command.into()).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stdout) + &text(&output.stderr))
    }
}
