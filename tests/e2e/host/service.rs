//! The systemd unit and the script that installs it, without systemd itself.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::client::Request;
use crate::support::hub_fixture::{MANIFEST_PATH, NAME, TAG};
use crate::support::mirror::{Mirror, is_spin, repository};
use crate::support::process::Process;
use crate::support::skip;
use test_support::announcement;
use test_support::hub::Hub;
use test_support::image::Image;

fn install(arguments: &[&str], destdir: &Path) {
    let target = std::env::current_exe().expect("the test's own path");
    let target = target.ancestors().nth(3).expect("target").to_owned();
    let status = Command::new("sh")
        .arg(repository().join("scripts/install.sh"))
        .args(arguments)
        .arg("--destdir")
        .arg(destdir)
        .env("CARGO_TARGET_DIR", target)
        .stderr(Stdio::null())
        .status()
        .expect("sh");
    assert!(status.success());
}

#[tokio::test]
async fn installs_a_service_that_says_when_it_is_ready_and_removes_it() {
    if is_spin() {
        return skip("the service is the embedded host");
    }
    let (hub, image) = (Hub::start().await, Image::oci());
    hub.push(NAME, TAG, &image);
    // Builds the component that the script takes.
    drop(Mirror::with_upstream(hub.address()).await);
    let root = tempfile::tempdir().expect("a folder");
    install(&["--debug"], root.path());
    let installed = |path: &str| root.path().join(path);
    let settings = installed("etc/hammal/hammal.env");
    std::fs::write(&settings, "SPIN_VARIABLE_TAG_TTL=5\n").expect("a file");
    install(&["--debug"], root.path());
    let kept = std::fs::read_to_string(&settings).expect("the settings");
    assert_eq!(kept, "SPIN_VARIABLE_TAG_TTL=5\n");

    let socket = root.path().join("notify");
    let notifications = UnixDatagram::bind(&socket).expect("a socket");
    notifications
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a time-out");
    let mut command = Command::new(installed("usr/bin/hammal-host"));
    command
        .args([
            "up",
            "--format",
            "json",
            "--listen",
            "127.0.0.1:0",
            "--from",
        ])
        .arg(installed("usr/lib/hammal/spin.toml"))
        .arg("--state-dir")
        .arg(installed("state"))
        .args(["--runtime-config-file", "/dev/null"])
        .env("NOTIFY_SOCKET", &socket)
        .env(
            "SPIN_VARIABLE_UPSTREAM",
            format!("http://{}", hub.address()),
        )
        .env(
            "SPIN_VARIABLE_PLAIN_HTTP_UPSTREAMS",
            hub.addresses().map(|address| address.to_string()).join(","),
        );
    let mut service = Process::spawn(&mut command);
    let message = || {
        let mut buffer = [0; 100];
        let length = notifications.recv(&mut buffer).expect("a notification");
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    assert_eq!(message(), "READY=1", "{}", service.stderr());
    let address = service
        .wait_for("address", |service| {
            announcement::address(&service.stdout())
        })
        .await;
    let response = Request::new(address, "GET", MANIFEST_PATH)
        .accept_manifests()
        .send()
        .await
        .expect(200);
    assert_eq!(response.body, image.index.bytes);
    assert!(service.stop(), "{}", service.stderr());
    assert_eq!(message(), "STOPPING=1");

    install(&["--remove"], root.path());
    assert!(!installed("usr/lib/hammal").exists());
    assert!(settings.exists());
    install(&["--remove", "--purge"], root.path());
    assert!(!installed("etc/hammal").exists());
}

#[test]
fn the_unit_is_hardened() {
    let unit = repository().join("deploy/systemd/hammal.service");
    let text = std::fs::read_to_string(&unit).expect("the unit");
    assert!(text.contains("Type=notify"));
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=20"])
        .arg(&unit)
        .output();
    let Ok(output) = output else {
        return skip("systemd-analyze is not installed");
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "an exposure of 2.0 or more:\n{text}"
    );
}
