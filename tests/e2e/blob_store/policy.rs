//! What is kept, and for whom.

use super::Fixture;
use crate::support::hub_fixture::{MANIFEST_PATH, NAME, TAG};
use crate::support::mirror::is_spin;
use crate::support::wait_for;
use test_support::hub::Hub;
use test_support::image::{INDEX, Image};
use test_support::s3::{SECRET_KEY, error};
use test_support::server::Server;

#[tokio::test]
async fn what_the_patterns_leave_out_is_not_kept() {
    let fixture = Fixture::with(|options| {
        options.variable("blob_store_repositories", "library/other,ghcr.io/*")
    })
    .await;
    let answer = fixture.hub.mirror.get(&fixture.hub.layer()).send().await;
    answer.expect(307);
    fixture.hub.mirror.log(1).await;
    assert_eq!(fixture.s3.received().len(), 0);
}

/// The key-value store counts the bytes of all copies.
#[tokio::test]
async fn without_a_key_value_store_nothing_is_copied_where_bytes_are_limited() {
    let mut fixture = Fixture::with(|options| {
        let limited = options.variable("blob_store_bytes_per_minute", 1_000_000);
        limited.variable("store", "off")
    })
    .await;
    let answer = fixture.hub.mirror.get(&fixture.hub.layer()).send().await;
    answer.expect(307);
    fixture.hub.mirror.log(1).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    fixture.hub.mirror.stop();
    let puts = fixture.s3.received();
    let blobs = puts
        .iter()
        .filter(|one| one.method == "PUT" && one.target.contains("/blobs/"));
    assert_eq!(blobs.count(), 0);
}

/// Each list of types that a client accepts has a tag of its own.
#[tokio::test]
async fn no_client_fills_the_store_with_tags_by_what_it_accepts() {
    let mut fixture = Fixture::start().await;
    let accept = |more: usize| format!("{INDEX}, x/{more}");
    for number in 0..5 {
        let request = fixture.hub.mirror.get(MANIFEST_PATH);
        request
            .header("accept", accept(number))
            .send()
            .await
            .expect(200);
    }
    fixture.hub.mirror.log(5).await;
    fixture.hub.mirror.stop();
    assert_eq!(fixture.s3.count("PUT"), 0, "{:?}", fixture.s3.objects());
}

#[tokio::test]
async fn a_blob_is_had_under_the_repository_that_served_it_alone() {
    let fixture = Fixture::start().await;
    fixture.keep_layer().await;
    let other = fixture.hub.layer().replace("alpine", "private");
    let before = fixture.upstream_requests();
    let answer = fixture.hub.mirror.get(&other).send().await;
    answer.expect_error(404, "BLOB_UNKNOWN");
    assert!(fixture.upstream_requests() > before);

    // The same blob of another upstream.
    let second = Hub::start().await;
    second.push("library/x", TAG, &Image::oci());
    let selector = format!("?upstream=http://{}", second.address());
    let answer = fixture
        .hub
        .mirror
        .get(&format!("{}{selector}", fixture.hub.layer()));
    let answer = answer.send().await;
    assert!(
        !answer.status.is_success() && answer.status != 307,
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_denied_repository_stays_denied() {
    let mut fixture = Fixture::start().await;
    fixture.keep_layer().await;
    fixture.hub.mirror.set_variable("denied_repositories", NAME);
    fixture.hub.mirror.restart().await;
    let before = fixture.s3.received().len();
    let answer = fixture.hub.mirror.get(&fixture.hub.layer()).send().await;
    answer.expect_error(403, "DENIED");
    assert_eq!(fixture.s3.received().len(), before);
}

#[tokio::test]
async fn the_store_is_no_upstream() {
    let fixture = Fixture::start().await;
    let target = format!("{}?upstream={}", fixture.hub.layer(), fixture.s3.address());
    let answer = fixture.hub.mirror.get(&target).send().await;
    answer.expect_error(403, "DENIED");
    assert_eq!(fixture.s3.received().len(), 0);
}

/// The embedded host reads the setting. Spin is told by its runtime configuration.
#[tokio::test]
async fn the_store_may_be_in_a_blocked_network_and_nobody_else_is_led_there() {
    if is_spin() {
        return;
    }
    let other = Server::unwanted("127.0.0.4").await;
    let fixture = Fixture::with(|options| {
        let blocked = options.block_networks(&["127.0.0.4/32"]);
        blocked.plain_http([other.address])
    })
    .await;
    fixture.keep_layer().await;
    let target = format!("{}?upstream=http://{}", fixture.hub.layer(), other.address);
    let answer = fixture.hub.mirror.get(&target).send().await;
    assert!(
        !answer.status.is_success() && answer.status != 307,
        "{answer:?}"
    );
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn no_log_and_no_answer_holds_the_secret_key() {
    let fixture = Fixture::start().await;
    fixture.keep_layer().await;
    let mut told = String::new();
    for target in [
        fixture.hub.layer(),
        "/".to_owned(),
        "/status.json".to_owned(),
    ] {
        let answer = fixture.hub.mirror.get(&target).send().await;
        told += &format!("{:?}{}", answer.headers, answer.text());
    }
    fixture
        .s3
        .script(|_| Some(error(403, "SignatureDoesNotMatch")));
    let other = &fixture.hub.image.native().layers[1].digest;
    let answer = fixture
        .hub
        .mirror
        .get(&fixture.hub.blob(other))
        .send()
        .await;
    told += &format!("{:?}{}", answer.headers, answer.text());
    wait_for("the fault", || fixture.log("failed").len() == 1).await;
    told += &fixture.hub.mirror.stderr().join("\n");
    assert!(
        !told.contains(SECRET_KEY) && !told.contains("test/secret"),
        "{told}"
    );
}
