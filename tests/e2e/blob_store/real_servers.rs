//! Object stores of others, where they are installed: what the mirror signs, they verify.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{Fixture, with_store};
use crate::support::client::Request;
use crate::support::hub_fixture::HubFixture;
use crate::support::mirror::repository;
use crate::support::process::Process;
use crate::support::programs::Programs;
use crate::support::{free_address, wait_for};
use test_support::hub::Service;
use test_support::s3::{ACCESS_KEY, S3, SECRET_KEY};
use test_support::server::Reply;

const BUCKET: &str = "bucket";

/// Returns a program that is installed, or that `.ci/run` has put below `target`.
fn program(name: &str) -> Option<Command> {
    let own = repository().join("target/s3-servers/bin").join(name);
    if own.is_file() {
        return Some(Command::new(own));
    }
    Some(Programs::installed(&[name])?.command(name))
}

/// Starts `rclone serve s3` of a folder.
async fn rclone(folder: &Path) -> Option<(Process, SocketAddr)> {
    let mut command = program("rclone")?;
    std::fs::create_dir(folder.join(BUCKET)).expect("a bucket");
    let address = free_address();
    command
        .args(["serve", "s3", "--addr", &address.to_string()])
        .args(["--auth-key", &format!("{ACCESS_KEY},{SECRET_KEY}")])
        .args(["--config", "/dev/null"])
        .arg(folder);
    let process = Process::spawn(&mut command);
    wait_for("rclone", || std::net::TcpStream::connect(address).is_ok()).await;
    Some((process, address))
}

/// Starts SeaweedFS with one key and a bucket.
async fn seaweedfs(folder: &Path) -> Option<(Process, SocketAddr)> {
    let mut command = program("weed")?;
    let identity = serde_json::json!({ "identities": [{
        "name": "mirror",
        "credentials": [{ "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY }],
        "actions": ["Admin", "Read", "Write", "List"],
    }] });
    let config = folder.join("s3.json");
    std::fs::write(&config, identity.to_string()).expect("a file");
    let address = free_address();
    command.args([
        "server",
        "-ip=127.0.0.1",
        "-volume.max=3",
        "-master.telemetry=false",
    ]);
    // Of each port the one of gRPC would be 10,000 above, where there may be none.
    for port in [
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port.grpc",
    ] {
        command.arg(format!("-{port}={}", free_address().port()));
    }
    command
        .arg(format!("-dir={}", folder.display()))
        .arg("-s3")
        .arg(format!("-s3.port={}", address.port()))
        .arg(format!("-s3.config={}", config.display()));
    let process = Process::spawn(&mut command);
    wait_for("SeaweedFS", || {
        std::net::TcpStream::connect(address).is_ok()
    })
    .await;
    Some((process, address))
}

/// Keeps a blob, gets it by its presigned URL, and a range of it, for which rclone has the status
/// 200. Prints whether the store refuses other bytes than the hash names, for `docs/blob-store.md`.
async fn keeps_blobs(name: &str, address: SocketAddr) {
    let s3 = S3::start().await;
    let url = format!("http://{address}/{BUCKET}/below/");
    let hub = HubFixture::with(|options| {
        with_store(options, &s3)
            .variable("blob_store", &url)
            .variable("blob_store_region", "us-east-1")
    })
    .await;
    let fixture = Fixture { hub, s3 };
    let (mirror, native) = (&fixture.hub.mirror, fixture.hub.image.native());
    let content = &native.layers[0];
    mirror.get(&fixture.hub.layer()).send().await.expect(307);
    fixture.copies(1).await;
    let answer = mirror.get(&fixture.hub.layer()).send().await.expect(307);
    let location = answer.header("location").expect("a location").to_owned();
    assert!(location.starts_with(&url), "{name}: {location}");
    let whole = Request::get_url(&location).send().await.expect(200);
    assert_eq!(whole.body, content.bytes, "{name}");
    let part = Request::get_url(&location).header("range", "bytes=5-9");
    assert_eq!(part.send().await.body, content.bytes[5..10], "{name}");
    let head = mirror.head(&fixture.hub.layer()).send().await.expect(200);
    let length = content.bytes.len().to_string();
    assert_eq!(head.header("content-length"), Some(&*length), "{name}");

    let other = &native.layers[1];
    let length = other.bytes.len();
    fixture.hub.hub.script(move |service, _| {
        (service == Service::Cdn).then(|| Reply::new(200, &[], vec![0; length]))
    });
    let path = fixture.hub.blob(&other.digest);
    mirror.get(&path).send().await.expect(307);
    let lines = || fixture.log("kept").len() + fixture.log("not_kept").len();
    wait_for("the second copy", || lines() == 2).await;
    let refuses = fixture.log("not_kept").len() == 1;
    println!(
        "{name}: refuses other bytes: {refuses}; {:?}",
        fixture.log("not_kept")
    );
}

#[tokio::test]
async fn rclone_keeps_blobs() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some((_process, address)) = rclone(folder.path()).await else {
        return;
    };
    keeps_blobs("rclone", address).await;
}

#[tokio::test]
async fn seaweedfs_keeps_blobs() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some((_process, address)) = seaweedfs(folder.path()).await else {
        return;
    };
    keeps_blobs("SeaweedFS", address).await;
}
