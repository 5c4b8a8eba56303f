//! `type = "redis"`: a store that several hosts share, and that may go away.

use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::hub_fixture::{MANIFEST_PATH, NAME, TAG};
use crate::support::mirror::{Mirror, Options, is_spin};
use crate::support::process::Process;
use crate::support::programs::Programs;
use crate::support::{free_address, skip, wait_for};
use test_support::ca::Ca;
use test_support::hub::{Hub, Service};
use test_support::image::Image;

/// A server on a socket in a folder of its own.
pub struct Redis {
    programs: Programs,
    folder: TempDir,
    process: Process,
}

impl Redis {
    /// Returns `None` where it is not installed, or Spin runs the mirror.
    pub async fn start() -> Option<Self> {
        if is_spin() {
            skip("Spin's client for Redis waits for minutes");
            return None;
        }
        let programs = Programs::installed(&["redis-server"])?;
        let folder = tempfile::tempdir().expect("a folder");
        let process = Self::run(&programs, folder.path()).await;
        Some(Self {
            programs,
            folder,
            process,
        })
    }

    async fn run(programs: &Programs, folder: &Path) -> Process {
        let socket = folder.join("redis.sock");
        let _ = std::fs::remove_file(&socket);
        let mut command: Command = programs.command("redis-server");
        command
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(folder);
        let process = Process::spawn(&mut command);
        wait_for("redis-server", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        })
        .await;
        process
    }

    async fn restart(&mut self) {
        self.process.stop();
        self.process = Self::run(&self.programs, self.folder.path()).await;
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process.id()).ok();
        let process = id.and_then(Pid::from_raw).expect("an id");
        kill_process(process, signal).expect("a signal");
    }

    /// Returns the options of a mirror with its store there.
    pub fn options(&self, hub: &Hub) -> Options {
        let socket = self.folder.path().join("redis.sock");
        Options::default()
            .upstream(hub.address())
            .plain_http(hub.addresses())
            .runtime_config(&format!(
                "[key_value_store.default]\ntype = \"redis\"\nurl = \"redis+unix://{}\"",
                socket.display()
            ))
    }
}

async fn hub() -> (Hub, Image) {
    let (hub, image) = (Hub::start().await, Image::oci());
    hub.push(NAME, TAG, &image);
    (hub, image)
}

/// Requests the manifest `count` times at once; each has to succeed.
async fn pull(mirrors: &[Mirror], count: usize, image: &Image) {
    let pulls =
        (0..count).map(|number| mirrors[number % mirrors.len()].get_manifest(MANIFEST_PATH));
    for response in futures_util::future::join_all(pulls).await {
        assert_eq!(response.expect(200).body, image.index.bytes);
    }
}

#[tokio::test]
async fn three_hosts_share_one_store() {
    let Some(redis) = Redis::start().await else {
        return;
    };
    let (hub, image) = hub().await;
    let mut mirrors = vec![redis.options(&hub).start().await];
    pull(&mirrors, 1, &image).await;
    mirrors[0].log(1).await;
    // The token and the manifest are written after the answer.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    mirrors.push(redis.options(&hub).start().await);
    mirrors.push(redis.options(&hub).start().await);
    pull(&mirrors, 200, &image).await;
    let tokens = hub.received(Service::Tokens).len();
    assert!(tokens <= mirrors.len(), "{tokens} token requests");
    // The hosts that came later took the token, and the manifest, from the store.
    assert_eq!(tokens, 1, "{:?}", hub.requests());
    let fetched = hub.requests();
    let gets = fetched
        .iter()
        .filter(|line| line.starts_with("registry GET") && line.ends_with(TAG));
    assert!(gets.count() <= 2, "{fetched:?}");
}

#[tokio::test]
async fn a_store_that_goes_away_costs_no_pull() {
    let Some(mut redis) = Redis::start().await else {
        return;
    };
    let (hub, image) = hub().await;
    let mirrors = vec![
        redis.options(&hub).start().await,
        redis.options(&hub).start().await,
    ];
    pull(&mirrors, 20, &image).await;
    redis.signal(Signal::STOP);
    pull(&mirrors, 40, &image).await;
    redis.signal(Signal::CONT);
    pull(&mirrors, 20, &image).await;
    redis.process.stop();
    pull(&mirrors, 40, &image).await;
    // A host that starts while the store is away serves too.
    let late = vec![redis.options(&hub).start().await];
    pull(&late, 20, &image).await;
    redis.restart().await;
    pull(&mirrors, 40, &image).await;
    pull(&late, 20, &image).await;
    let is_back = |mirror: &Mirror| mirror.stderr().iter().any(|line| line.contains("is back"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut number = 0;
    while !mirrors.iter().chain(&late).all(is_back) {
        assert!(
            std::time::Instant::now() < deadline,
            "the store is not used again"
        );
        // A new repository makes each instance look into the store.
        number += 1;
        let path = format!("/v2/library/none/manifests/{number}");
        for mirror in mirrors.iter().chain(&late) {
            mirror.get_manifest(&path).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
}

/// A server that takes TLS and a password only.
async fn start_tls(folder: &Path, ca: &Ca) -> Option<(Process, u16)> {
    let programs = Programs::installed(&["redis-server"])?;
    let (certificate, key) = ca.certificate(&["localhost"]);
    for (file, text) in [
        ("ca.pem", ca.pem()),
        ("cert.pem", certificate),
        ("key.pem", key),
    ] {
        std::fs::write(folder.join(file), text).expect("a file");
    }
    let port = free_address().port();
    let mut command: Command = programs.command("redis-server");
    command
        .args(["--port", "0", "--save", "", "--bind", "127.0.0.1"])
        .args(["--requirepass", "secret", "--tls-auth-clients", "no"])
        .args(["--tls-port", &port.to_string()])
        .args(["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"])
        .args(["--tls-ca-cert-file", "ca.pem"])
        .current_dir(folder);
    let process = Process::spawn(&mut command);
    wait_for("redis-server", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
    .await;
    Some((process, port))
}

#[tokio::test]
async fn a_store_over_tls_is_used_if_its_certificate_is_trusted() {
    if is_spin() {
        return skip("the roots are those of the embedded host");
    }
    let (ca, folder) = (Ca::generate(), tempfile::tempdir().expect("a folder"));
    let Some((_redis, port)) = start_tls(folder.path(), &ca).await else {
        return;
    };
    let other = folder.path().join("other.pem");
    std::fs::write(&other, Ca::generate().pem()).expect("a file");
    for (roots, is_trusted) in [(folder.path().join("ca.pem"), true), (other, false)] {
        let (hub, image) = hub().await;
        let options = Options::default()
            .upstream(hub.address())
            .plain_http(hub.addresses())
            .environment("SSL_CERT_FILE", roots)
            .runtime_config(&format!(
                "[key_value_store.default]\ntype = \"redis\"\n\
                 url = \"rediss://:secret@localhost:{port}/0\""
            ));
        let first = vec![options.clone().start().await];
        pull(&first, 1, &image).await;
        // The token and the manifest are written after the answer.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let second = vec![options.start().await];
        pull(&second, 1, &image).await;
        let tokens = hub.received(Service::Tokens).len();
        let expected = if is_trusted { 1 } else { 2 };
        assert_eq!(tokens, expected, "{:?}", hub.requests());
        let lines = second[0].stderr();
        let told = lines.iter().any(|line| line.contains("is away"));
        assert_eq!(told, !is_trusted, "{lines:?}");
        assert!(
            !lines.iter().any(|line| line.contains("secret")),
            "{lines:?}"
        );
    }
}
