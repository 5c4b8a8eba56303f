//! A store that fails costs nobody a pull.

use super::{Fixture, with_store};
use crate::support::hub_fixture::HubFixture;
use crate::support::wait_for;
use std::time::Duration;
use test_support::s3::{S3, error};
use test_support::server::{Reply, closed_address};

/// Pulls two layers. Expects the upstream's redirects, one line of the log, which says `told`, and
/// no request to the store after the first one that failed.
async fn is_told_once(fixture: &Fixture, told: &str) {
    let hub = &fixture.hub;
    for layer in [0, 1, 0, 2] {
        let digest = &hub.image.native().layers[layer].digest;
        let answer = hub.mirror.get(&hub.blob(digest)).send().await.expect(307);
        let location = answer.header("location").expect("a location");
        assert!(
            !location.starts_with(&fixture.s3.url()),
            "{told}: {location}"
        );
        wait_for("a fault", || !fixture.log("failed").is_empty()).await;
    }
    hub.mirror.log(4).await;
    let log = fixture.log("failed");
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].contains(told), "{log:?}");
}

#[tokio::test]
async fn a_store_that_refuses_is_told_by_name_and_left_alone() {
    for (status, code, told) in [
        (
            403,
            "AccessDenied",
            "status=403 code=AccessDenied hint=\"the key has to",
        ),
        (
            503,
            "SlowDown",
            "code=SlowDown hint=\"the store asks for fewer requests\"",
        ),
        (
            301,
            "PermanentRedirect",
            "status=301 code=PermanentRedirect hint=\"the bucket is in another region",
        ),
        (507, "XMinioStorageFull", "hint=\"the store is full\""),
    ] {
        let fixture = Fixture::start().await;
        fixture.s3.script(move |_| Some(error(status, code)));
        is_told_once(&fixture, told).await;
        // A HEAD, and a GET for its words.
        assert_eq!(fixture.s3.received().len(), 2, "{code}");
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told() {
    let fixture = Fixture::start().await;
    fixture.s3.set_ahead(16 * 60);
    is_told_once(&fixture, "code=RequestTimeTooSkewed hint=\"the clocks").await;
}

#[tokio::test]
async fn a_full_store_is_left_alone_after_the_first_copy() {
    let fixture = Fixture::start().await;
    fixture
        .s3
        .script(|received| (received.method == "PUT").then(|| error(507, "XMinioStorageFull")));
    is_told_once(&fixture, "operation=put status=507").await;
    assert_eq!(fixture.s3.count("PUT"), 1);
}

#[tokio::test]
async fn a_store_that_hangs_or_is_no_store_is_a_miss() {
    let fixture = Fixture::start().await;
    fixture.s3.script(|_| Some(Reply::Hang));
    is_told_once(&fixture, "status=none hint=\"it did not answer in time\"").await;
    let fixture = Fixture::start().await;
    fixture
        .s3
        .script(|_| Some(Reply::new(200, &[("content-type", "text/html")], "<html>")));
    is_told_once(&fixture, "hint=\"the answer is no object store's").await;
}

#[tokio::test]
async fn a_store_that_is_down_is_a_miss() {
    let closed = closed_address().await;
    let s3 = S3::start().await;
    let url = format!("http://{closed}/bucket/");
    let hub =
        HubFixture::with(|options| with_store(options, &s3).variable("blob_store", url)).await;
    let fixture = Fixture { hub, s3 };
    is_told_once(
        &fixture,
        "operation=head status=none hint=\"it can't be reached\"",
    )
    .await;
}

#[tokio::test]
async fn a_slow_client_url_is_not_waited_for() {
    let fixture = Fixture::start().await;
    fixture
        .s3
        .script(|received| (received.method == "PUT").then(|| Reply::Hang));
    // The client has its answer, and so has the next, while the copy hangs.
    for _ in 0..2 {
        let answer = fixture.hub.mirror.get(&fixture.hub.layer()).send().await;
        answer.expect(307);
    }
    wait_for("a copy that hangs", || fixture.s3.count("PUT") == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.s3.count("PUT"), 1);
}
