//! Copies into the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Fixture, with_store};
use crate::host::redis::Redis;
use crate::support::attacker::{self, never_answer_slow};
use crate::support::hub_fixture::{NAME, TAG};
use crate::support::mirror::Options;
use crate::support::wait_for;
use futures_util::future::join_all;
use test_support::hub::{Hub, Service};
use test_support::image::{Content, Image};
use test_support::s3::S3;
use test_support::server::{Reply, ScriptedBody};

#[tokio::test]
async fn a_blob_is_copied_once_however_many_ask() {
    let fixture = Fixture::start().await;
    let (mirror, layer) = (&fixture.hub.mirror, fixture.hub.layer());
    let answers = join_all((0..40).map(|_| mirror.get(&layer).send())).await;
    for answer in answers {
        answer.expect(307);
    }
    fixture.copies(1).await;
    for blob in fixture.hub.image.native().blobs() {
        mirror.get(&fixture.hub.blob(&blob.digest)).send().await;
    }
    let count = fixture.hub.image.native().blobs().count();
    fixture.copies(count).await;
    assert_eq!(fixture.s3.count("PUT"), count);
    let cdn = fixture.hub.hub.received(Service::Cdn);
    assert_eq!(cdn.len(), count);
    assert!(cdn.iter().all(|one| one.header("authorization").is_none()));
    for put in fixture.s3.received() {
        let authorization = put.header("authorization").expect("a signature");
        assert!(
            authorization.contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date,"),
            "{authorization}"
        );
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_no_copy_of_anothers_blob() {
    let fixture = Fixture::start().await;
    let (mirror, hub) = (&fixture.hub.mirror, &fixture.hub.hub);
    let (open, _) = never_answer_slow(hub);
    // Longer than an instance goes on that nobody waits for.
    fixture.s3.script(|received| {
        let stored = Reply::new(200, &[("etag", "\"etag\"")], "");
        (received.method == "PUT").then(|| stored.after(Duration::from_secs(4)))
    });
    mirror.get(&fixture.hub.layer()).send().await.expect(307);
    wait_for("an upload", || fixture.s3.count("PUT") == 1).await;
    let other = attacker::get(mirror.address(), "/v2/team/slow/manifests/1").await;
    wait_for("another's request", || open.load(Ordering::SeqCst) == 1).await;
    drop(other);
    fixture.copies(1).await;
}

#[tokio::test]
async fn a_registry_that_sends_blobs_itself_is_asked_again_with_its_token() {
    let fixture = Fixture::start().await;
    fixture.hub.hub.serve_blobs_directly();
    fixture.keep_layer().await;
    for request in fixture.s3.received() {
        let authorization = request.header("authorization").unwrap_or_default();
        assert!(!authorization.contains("anonymous-token"));
    }
}

#[tokio::test]
async fn hosts_with_stores_of_their_own_leave_one_object() {
    let s3 = S3::start().await;
    let (hub, image) = (Hub::start().await, Image::oci());
    hub.push(NAME, TAG, &image);
    let start = || {
        let options = Options::default()
            .upstream(hub.address())
            .plain_http(hub.addresses());
        with_store(options, &s3).start()
    };
    let mirrors = join_all([start(), start(), start()]).await;
    let layer = format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest);
    let ask = mirrors.iter().flat_map(|mirror| {
        let layer = &layer;
        (0..14).map(move |_| mirror.get(layer).send())
    });
    for answer in join_all(ask).await {
        answer.expect(307);
    }
    wait_for("a copy", || s3.objects().len() == 1).await;
    let puts = s3.count("PUT");
    assert!((1..=3).contains(&puts), "{puts}");
    let location = |answer: &crate::support::client::Response| {
        answer.header("location").unwrap_or_default().to_owned()
    };
    for mirror in &mirrors {
        let answer = mirror.get(&layer).send().await;
        assert!(location(&answer).starts_with(&s3.url()), "{answer:?}");
    }
}

/// They see each other's turns in the key-value store. Those that look at the same moment copy
/// both.
#[tokio::test]
async fn hosts_with_one_store_leave_one_object_and_copy_no_more_than_without() {
    let Some(redis) = Redis::start().await else {
        return;
    };
    let s3 = S3::start().await;
    let (hub, image) = (Hub::start().await, Image::oci());
    hub.push(NAME, TAG, &image);
    let mut mirrors = Vec::new();
    for _ in 0..3 {
        mirrors.push(with_store(redis.options(&hub), &s3).start().await);
    }
    let layer = format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest);
    let ask = (0..40).map(|number| mirrors[number % 3].get(&layer).send());
    for answer in join_all(ask).await {
        answer.expect(307);
    }
    wait_for("a copy", || s3.objects().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let puts = s3.count("PUT");
    println!("{puts} uploads by 3 hosts on one store");
    assert!((1..=3).contains(&puts), "{puts}");
    // Now each of them sends clients there, and makes no upstream request for it.
    let before = hub.received(Service::Registry).len();
    for mirror in &mirrors {
        let answer = mirror.get(&layer).send().await.expect(307);
        let location = answer.header("location").unwrap_or_default();
        assert!(location.starts_with(&s3.url()), "{location}");
    }
    assert_eq!(hub.received(Service::Registry).len(), before);
}

#[tokio::test]
async fn a_blob_that_breaks_off_is_not_kept() {
    let fixture = Fixture::start().await;
    let content = fixture.hub.image.native().layers[0].clone();
    let (half, length) = (
        content.bytes.slice(..content.bytes.len() / 2),
        content.bytes.len().to_string(),
    );
    fixture.hub.hub.script(move |service, _| {
        let body = ScriptedBody::default().data(half.clone()).then_break();
        let headers = [("content-length", &*length)];
        (service == Service::Cdn).then(|| Reply::streamed(200, &headers, body))
    });
    let answer = fixture.hub.mirror.get(&fixture.hub.layer()).send().await;
    answer.expect(307);
    wait_for("a failed copy", || fixture.log("not_kept").len() == 1).await;
    assert_eq!(fixture.s3.objects(), [""; 0]);

    // The store is not blamed, and the next copy is whole.
    fixture.hub.hub.script(|_, _| None);
    fixture.keep_layer().await;
    let kept = fixture.s3.object(&fixture.object(fixture.digest()));
    assert_eq!(kept, Some(content.bytes));
}

#[tokio::test]
async fn other_bytes_than_the_digest_names_are_refused_by_the_store() {
    let fixture = Fixture::start().await;
    let length = fixture.hub.image.native().layers[0].bytes.len();
    fixture.hub.hub.script(move |service, _| {
        (service == Service::Cdn).then(|| Reply::new(200, &[], vec![0; length]))
    });
    let answer = fixture.hub.mirror.get(&fixture.hub.layer()).send().await;
    answer.expect(307);
    fixture.expect_refusal().await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_half_object() {
    let fixture = Fixture::with(|options| options.variable("blob_delivery", "stream")).await;
    let content = Content::new("application/octet-stream", vec![7; 8 << 20]);
    fixture.hub.hub.push_blob(NAME, &content);
    let response = fixture.hub.mirror.get(&fixture.hub.blob(&content.digest));
    let response = response.open().await.expect("a response");
    assert_eq!(response.status(), 200);
    drop(response);
    fixture.copies(1).await;
    assert_eq!(
        fixture.s3.object(&fixture.object(&content.digest)),
        Some(content.bytes)
    );
}

#[tokio::test]
async fn a_few_blobs_are_copied_at_a_time_and_all_of_them_in_the_end() {
    let fixture = Fixture::start().await;
    let blobs: Vec<Content> = (0..12_u8)
        .map(|seed| Content::new("application/octet-stream", vec![seed; 1000]))
        .collect();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&now), Arc::clone(&most));
    fixture.s3.script(move |received| {
        if received.method != "PUT" || received.header("x-slow").is_some() {
            return None;
        }
        let (now, most) = counts.clone();
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Some(Reply::Deferred(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Reply::new(200, &[("etag", "\"etag\"")], "")
        })))
    });
    for blob in &blobs {
        fixture.hub.hub.push_blob(NAME, blob);
        let answer = fixture.hub.mirror.get(&fixture.hub.blob(&blob.digest));
        answer.send().await.expect(307);
    }
    fixture.copies(blobs.len()).await;
    let most = most.load(Ordering::SeqCst);
    assert!((1..=4).contains(&most), "{most}");
}

#[tokio::test]
async fn a_blob_larger_than_the_limit_is_not_kept() {
    let fixture = Fixture::with(|options| options.variable("blob_store_max_blob", 1000)).await;
    let small = Content::new("application/octet-stream", vec![1; 1000]);
    let large = Content::new("application/octet-stream", vec![1; 1001]);
    for blob in [&large, &small] {
        fixture.hub.hub.push_blob(NAME, blob);
        let answer = fixture.hub.mirror.get(&fixture.hub.blob(&blob.digest));
        answer.send().await.expect(307);
    }
    fixture.copies(1).await;
    wait_for("the delivery network", || {
        fixture.hub.hub.received(Service::Cdn).len() == 2
    })
    .await;
    assert_eq!(fixture.s3.objects(), [fixture.object(&small.digest)]);
}
