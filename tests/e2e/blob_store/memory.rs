//! What a copy takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Fixture, with_store};
use crate::support::hub_fixture::{HubFixture, NAME};
use crate::support::wait_for;
use bytes::Bytes;
use http_body_util::BodyExt;
use test_support::hub::Service;
use test_support::s3::{self, S3};
use test_support::server::{Reply, ScriptedBody, Server};

/// Bytes.
const LENGTH: usize = 1 << 30;
const PIECE: usize = 1 << 20;
const MAX_GROWTH: u64 = 32 << 20;

#[tokio::test]
async fn a_copy_of_a_gibibyte_takes_little_memory() {
    let taken = Arc::default();
    let (fixture, path, _sink) = start(&taken, "redirect").await;
    let before = fixture.hub.mirror.resident();
    fixture.hub.mirror.get(&path).send().await.expect(307);
    let mut most = 0;
    while fixture.log("kept").is_empty() {
        most = most.max(fixture.hub.mirror.resident());
        assert!(taken.load(Ordering::SeqCst) <= LENGTH as u64);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    is_kept_with_little_memory(&fixture, &taken, before, most).await;
}

#[tokio::test]
async fn a_gibibyte_that_a_client_and_the_store_get_takes_little_memory() {
    let taken = Arc::default();
    let (fixture, path, _sink) = start(&taken, "stream").await;
    let before = fixture.hub.mirror.resident();
    let answer = fixture.hub.mirror.get(&path).open().await;
    let mut body = answer.expect("a response").into_body();
    let (mut most, mut received, mut paused) = (0, 0, 0);
    while let Some(frame) = body.frame().await {
        received += frame.expect("a piece").data_ref().map_or(0, Bytes::len);
        // A store in a debug build is slower than a client.
        if received / PIECE > paused {
            paused = received / PIECE;
            most = most.max(fixture.hub.mirror.resident());
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    }
    assert_eq!(received, LENGTH);
    wait_for("the object", || !fixture.log("kept").is_empty()).await;
    assert!(
        fixture.log("kept")[0].ends_with("by=tee"),
        "{:?}",
        fixture.log("kept")
    );
    is_kept_with_little_memory(&fixture, &taken, before, most).await;
}

/// Starts a mirror of a registry that has one blob of [`LENGTH`] at a path.
async fn start(taken: &Arc<AtomicU64>, delivery: &str) -> (Fixture, String, Server) {
    let (s3, sink) = (S3::start().await, s3::sink(taken).await);
    let url = format!("http://{}/bucket/", sink.address);
    let hub = HubFixture::with(|options| {
        let options = options.variable("blob_delivery", delivery);
        with_store(options, &s3).variable("blob_store", url)
    })
    .await;
    let fixture = Fixture { hub, s3 };
    let piece = Bytes::from(vec![7; PIECE]);
    fixture.hub.hub.script(move |service, received| {
        let is_blob = received.target.contains("/blobs/") && service == Service::Registry;
        let pieces =
            (0..LENGTH / PIECE).fold(ScriptedBody::default(), |body, _| body.data(piece.clone()));
        let length = LENGTH.to_string();
        match service {
            Service::Registry if is_blob && received.header("authorization").is_some() => {
                let location = format!("http://{}/blob", received.header("host")?);
                Some(Reply::new(307, &[("location", &*location)], ""))
            }
            Service::Registry if received.path() == "/blob" => Some(Reply::streamed(
                200,
                &[("content-length", &*length)],
                pieces,
            )),
            _ => None,
        }
    });
    let digest = format!("sha256:{}", "7".repeat(64));
    let path = format!("/v2/{NAME}/blobs/{digest}");
    // The mirror's first request takes memory for itself.
    fixture.hub.mirror.get("/v2/").send().await.expect(200);
    (fixture, path, sink)
}

async fn is_kept_with_little_memory(fixture: &Fixture, taken: &AtomicU64, before: u64, most: u64) {
    wait_for("all bytes", || {
        taken.load(Ordering::SeqCst) == LENGTH as u64
    })
    .await;
    println!("{}", fixture.log("kept").join("\n"));
    let growth = most.saturating_sub(before);
    println!("a gibibyte: {} KiB of memory", growth >> 10);
    assert!(growth <= MAX_GROWTH, "{growth} bytes");
}
