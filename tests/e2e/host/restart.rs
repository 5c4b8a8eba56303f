//! A restart under load: the host gets SIGTERM, and another starts on the same port. A request that
//! was begun is answered, a connection that is refused or broken off is tried again, as clients do,
//! and no pull fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;

use crate::support::client::Request;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME, TAG};
use crate::support::mirror::is_spin;
use crate::support::process::output;
use crate::support::programs::Programs;
use crate::support::skip;
use test_support::hub::Service;
use test_support::image::{Content, digest};
use test_support::server::{Reply, ScriptedBody};

const CLIENTS: usize = 8;
/// How long a client tries again.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Counts {
    pulls: AtomicUsize,
    /// Requests without an answer.
    refused: AtomicUsize,
    /// Downloads that went on with a second request.
    resumed: AtomicUsize,
}

/// Downloads a path as clients do: it connects again where there is no answer, and asks for the
/// rest where the answer breaks off. Panics where an answer is wrong.
async fn download(mirror: SocketAddr, path: &str, counts: &Counts) -> Vec<u8> {
    let mut content = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let mut request = Request::new(mirror, "GET", path).accept_manifests();
        let expected = if content.is_empty() { 200 } else { 206 };
        if !content.is_empty() {
            request = request.header("range", format!("bytes={}-", content.len()));
        }
        let Ok(response) = request.open().await else {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        assert_eq!(response.status(), expected, "{path}: {response:?}");
        let mut body = response.into_body();
        loop {
            match body.frame().await {
                Some(Ok(frame)) => content.extend_from_slice(frame.data_ref().expect("data")),
                Some(Err(_)) => break,
                None => return content,
            }
        }
        counts.resumed.fetch_add(1, Ordering::Relaxed);
    }
    panic!("{path} was not to be had");
}

/// Pulls a manifest and a layer, again and again.
async fn pull(mirror: SocketAddr, layer: Content, end: Arc<AtomicBool>, counts: Arc<Counts>) {
    let path = format!("/v2/{NAME}/blobs/{}", layer.digest);
    while !end.load(Ordering::Relaxed) {
        download(mirror, MANIFEST_PATH, &counts).await;
        let content = download(mirror, &path, &counts).await;
        assert_eq!(digest(&content), layer.digest);
        counts.pulls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pull_fails_while_the_host_is_replaced() {
    if is_spin() {
        return skip("the embedded host stops gracefully");
    }
    let fixture = HubFixture::with(|options| options.variable("blob_delivery", "stream")).await;
    let HubFixture {
        mut mirror,
        hub,
        image,
    } = fixture;
    let slow = Content::new("application/octet-stream", vec![7; 64 * 1024]);
    hub.push_blob(NAME, &slow);
    // The first download takes longer than a host waits for what it has begun.
    let (is_first, bytes, slow_digest) = (
        AtomicBool::new(true),
        slow.bytes.clone(),
        slow.digest.trim_start_matches("sha256:").to_owned(),
    );
    hub.script(move |service, received| {
        let is_slow = service == Service::Cdn && received.target.contains(&slow_digest);
        if !is_slow || !is_first.swap(false, Ordering::SeqCst) {
            return None;
        }
        let body = bytes
            .chunks(1024)
            .fold(ScriptedBody::default(), |body, part| {
                let part = bytes::Bytes::copy_from_slice(part);
                body.data(part).pause(Duration::from_millis(250))
            });
        let length = bytes.len().to_string();
        let headers = [
            ("content-length", &*length),
            ("content-type", "application/octet-stream"),
        ];
        Some(Reply::streamed(200, &headers, body))
    });

    let (end, counts) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Counts::default()),
    );
    let address = mirror.address();
    let layer = &image.native().layers[0];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            tokio::spawn(pull(
                address,
                layer.clone(),
                Arc::clone(&end),
                Arc::clone(&counts),
            ))
        })
        .collect();
    let slow_counts = Arc::new(Counts::default());
    let slow_pull = {
        let (path, counts) = (
            format!("/v2/{NAME}/blobs/{}", slow.digest),
            Arc::clone(&slow_counts),
        );
        tokio::spawn(async move { download(address, &path, &counts).await })
    };
    let skopeo = Programs::installed(&["skopeo"]).map(|programs| {
        let (end, folder) = (Arc::clone(&end), tempfile::tempdir().expect("a folder"));
        let manifest = image.index.digest.clone();
        tokio::spawn(async move {
            let mut copies = 0;
            while !end.load(Ordering::Relaxed) {
                let mut command = programs.command("skopeo");
                command
                    .args([
                        "--insecure-policy",
                        "copy",
                        "--quiet",
                        "--all",
                        "--retry-times",
                        "8",
                    ])
                    .arg("--src-tls-verify=false")
                    .arg(format!("docker://{address}/{NAME}:{TAG}"))
                    .arg(format!("dir:{}", folder.path().join("image").display()))
                    .env("HOME", folder.path());
                let output = output(&mut command.into()).await;
                let stderr = String::from_utf8_lossy(&output.stderr);
                // `/v2/` was asked of no host, and `/v1/_ping` of the new one: skopeo takes that for
                // an answer, and does not try again itself.
                if stderr.contains("can't talk to a V1 container registry") {
                    continue;
                }
                assert!(output.status.success(), "{stderr}");
                let copied = std::fs::read(folder.path().join("image/manifest.json"));
                assert_eq!(digest(&copied.expect("a manifest")), manifest);
                copies += 1;
            }
            copies
        })
    });

    let is_loaded = || counts.pulls.load(Ordering::Relaxed) >= 2 * CLIENTS;
    crate::support::wait_for("the load", is_loaded).await;
    for _ in 0..2 {
        let before = counts.pulls.load(Ordering::Relaxed);
        let mut old = mirror.replace().await;
        let is_served = || counts.pulls.load(Ordering::Relaxed) >= before + 2 * CLIENTS;
        crate::support::wait_for("pulls from the new host", is_served).await;
        // A second signal would end it at once.
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = old.ended() {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert!(status.success(), "{status}");
    }
    let content = slow_pull.await.expect("the slow download");
    assert_eq!(digest(&content), slow.digest);
    assert_eq!(slow_counts.resumed.load(Ordering::Relaxed), 1);
    end.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("every pull");
    }
    if let Some(skopeo) = skopeo {
        let copies = skopeo.await.expect("every copy");
        println!("skopeo: {copies} copies");
    }
    println!(
        "{} pulls, {} requests again, {} downloads resumed",
        counts.pulls.load(Ordering::Relaxed),
        counts.refused.load(Ordering::Relaxed),
        counts.resumed.load(Ordering::Relaxed)
    );
    // What was begun was answered: only a download of more than 5 seconds is broken off.
    assert_eq!(counts.resumed.load(Ordering::Relaxed), 0);
}
