//! Blobs that go through the mirror, and fill the store on the way.

use std::convert::Infallible;
use std::time::Duration;

use super::{Fixture, with_store};
use crate::host::redis::Redis;
use crate::support::hub_fixture::{HubFixture, NAME};
use crate::support::mirror::is_wasip2;
use crate::support::wait_for;
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use test_support::hub::{Hub, Service};
use test_support::image::Content;
use test_support::s3::S3;
use test_support::server::{Reply, ScriptedBody, Server, any_port};

/// Bytes: more than a tee, and the sockets before it, hold.
const LARGE: usize = 64 << 20;

/// What a store does that has nothing.
#[derive(Clone, Copy)]
enum Put {
    /// It reads no byte.
    Hangs,
    /// It refuses before it has read the body.
    Refused,
}

/// A mirror that streams blobs.
async fn streaming() -> Fixture {
    Fixture::with(|options| options.variable("blob_delivery", "stream")).await
}

/// The same with a store that is no help.
async fn streaming_with(put: Put) -> (Fixture, Server) {
    let store = Server::accept(any_port("127.0.0.1"), move |stream| async move {
        let service = service_fn(
            move |request: hyper::Request<hyper::body::Incoming>| async move {
                let status = match (request.method() == "PUT", put) {
                    (false, _) => 404,
                    (true, Put::Refused) => 507,
                    (true, Put::Hangs) => std::future::pending().await,
                };
                let document = "<Error><Code>XMinioStorageFull</Code></Error>";
                let response = hyper::Response::builder().status(status);
                let body = Full::new(Bytes::from_static(document.as_bytes()));
                Ok::<_, Infallible>(response.body(body).expect("a response"))
            },
        );
        let connection = hyper::server::conn::http1::Builder::new();
        let _ = connection
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
    .await;
    let (s3, url) = (
        S3::start().await,
        format!("http://{}/bucket/", store.address),
    );
    let hub = HubFixture::with(|options| {
        let options = options.variable("blob_delivery", "stream");
        with_store(options, &s3).variable("blob_store", url)
    })
    .await;
    (Fixture { hub, s3 }, store)
}

/// A blob of so many bytes that are not all alike.
fn blob(length: usize) -> Content {
    let bytes: Vec<u8> = (0..length).map(|at| (at >> 10) as u8 ^ at as u8).collect();
    Content::new("application/octet-stream", bytes)
}

#[tokio::test]
async fn each_clients_bytes_are_asked_for_once_and_the_store_has_one_object() {
    for (clients, length) in [(1, 8 << 20), (12, 2 << 20), (12, 1000)] {
        let fixture = streaming().await;
        let content = blob(length);
        fixture.hub.hub.push_blob(NAME, &content);
        let path = fixture.hub.blob(&content.digest);
        let answers = join_all((0..clients).map(|_| fixture.hub.mirror.get(&path).send())).await;
        for answer in answers {
            assert!(answer.expect(200).body == content.bytes);
        }
        fixture.copies(1).await;
        let object = fixture.s3.object(&fixture.object(&content.digest));
        assert!(object == Some(content.bytes));
        assert!(fixture.log("kept")[0].ends_with("by=tee"));
        assert_eq!(fixture.log("failed"), [""; 0]);
        // On WASIp2 an instance of a client that comes late finds the object.
        let asked = fixture.hub.hub.received(Service::Cdn).len();
        assert!((1..=clients).contains(&asked), "{asked} of {clients}");
        // There, those that look at the same moment upload both.
        let most = if is_wasip2() { clients.min(3) } else { 1 };
        let puts = fixture.s3.count("PUT");
        assert!((1..=most).contains(&puts), "{puts} for {clients} clients");
    }
}

/// They see each other's turns in the key-value store. Those that look at the same moment upload
/// both.
#[tokio::test]
async fn hosts_with_one_store_leave_one_object() {
    let Some(redis) = Redis::start().await else {
        return;
    };
    let (s3, hub) = (S3::start().await, Hub::start().await);
    let content = blob(2 << 20);
    hub.push_blob(NAME, &content);
    let mut mirrors = Vec::new();
    for _ in 0..3 {
        let options = redis.options(&hub).variable("blob_delivery", "stream");
        mirrors.push(with_store(options, &s3).start().await);
    }
    let path = format!("/v2/{NAME}/blobs/{}", content.digest);
    let ask = (0..12).map(|number| mirrors[number % 3].get(&path).send());
    for answer in join_all(ask).await {
        assert!(answer.expect(200).body == content.bytes);
    }
    wait_for("an object", || s3.objects().len() == 1).await;
    assert!(s3.object(&s3.objects()[0]) == Some(content.bytes));
    let (puts, asked) = (s3.count("PUT"), hub.received(Service::Cdn).len());
    println!("{puts} uploads by 3 hosts on one store, {asked} requests for 12 clients");
    assert!((1..=3).contains(&puts), "{puts}");
    // One whose claim another overwrote may ask once more, for a copy.
    assert!((1..=16).contains(&asked), "{asked}");
}

#[tokio::test]
async fn a_registry_that_sends_blobs_itself_is_asked_once() {
    let fixture = Fixture::start().await;
    fixture.hub.hub.serve_blobs_directly();
    fixture.keep_layer().await;
    assert!(fixture.log("kept")[0].ends_with("by=tee"));
    let asked = fixture.hub.hub.received(Service::Registry);
    let blobs = asked
        .iter()
        .filter(|one| one.path().contains("/blobs/") && one.header("authorization").is_some());
    assert_eq!(blobs.count(), 1);
}

#[tokio::test]
async fn a_range_is_no_object() {
    let fixture = streaming().await;
    let path = fixture.hub.layer();
    let range = fixture.hub.mirror.get(&path).header("range", "bytes=5-9");
    range.send().await.expect(206);
    fixture.keep_layer().await;
    assert_eq!(fixture.s3.count("PUT"), 1);
    let content = &fixture.hub.image.native().layers[0].bytes;
    let object = fixture.s3.object(&fixture.object(fixture.digest()));
    assert_eq!(object.as_ref(), Some(content));
}

#[tokio::test]
async fn a_store_that_hangs_holds_up_no_client() {
    let (fixture, _store) = streaming_with(Put::Hangs).await;
    let content = blob(LARGE);
    fixture.hub.hub.push_blob(NAME, &content);
    let answer = fixture.hub.mirror.get(&fixture.hub.blob(&content.digest));
    assert!(answer.send().await.expect(200).body == content.bytes);
    wait_for("a tee that is given up", || {
        !fixture.log("tee_given_up").is_empty()
    })
    .await;
    let line = fixture.log("tee_given_up").remove(0);
    assert!(
        line.contains("hint=\"the store is slower than the client\""),
        "{line}"
    );
}

#[tokio::test]
async fn a_store_that_refuses_costs_no_client_a_byte_and_is_left_alone() {
    let (fixture, _store) = streaming_with(Put::Refused).await;
    for length in [1 << 20, 1000] {
        let content = blob(length);
        fixture.hub.hub.push_blob(NAME, &content);
        let answer = fixture.hub.mirror.get(&fixture.hub.blob(&content.digest));
        assert!(answer.send().await.expect(200).body == content.bytes);
        wait_for("a fault", || !fixture.log("failed").is_empty()).await;
    }
    let log = fixture.log("failed");
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(
        log[0].contains("operation=put status=507 code=XMinioStorageFull"),
        "{log:?}"
    );
}

#[tokio::test]
async fn an_upstream_that_breaks_off_breaks_the_answer_and_leaves_no_object() {
    let fixture = streaming().await;
    let content = blob(1 << 20);
    let (half, length) = (
        content.bytes.slice(..1 << 19),
        content.bytes.len().to_string(),
    );
    fixture.hub.hub.push_blob(NAME, &content);
    fixture.hub.hub.script(move |service, _| {
        let body = ScriptedBody::default().data(half.clone()).then_break();
        let headers = [("content-length", &*length)];
        (service == Service::Cdn).then(|| Reply::streamed(200, &headers, body))
    });
    let answer = fixture.hub.mirror.get(&fixture.hub.blob(&content.digest));
    assert!(answer.try_send().await.is_err());
    wait_for("the copy after it", || !fixture.log("not_kept").is_empty()).await;
    let line = fixture.log("tee_given_up").remove(0);
    assert!(line.contains("or the upstream broke off"), "{line}");
    assert_eq!(fixture.s3.objects(), [""; 0]);
    assert_eq!(fixture.log("failed"), [""; 0]);
}

#[tokio::test]
async fn other_bytes_than_the_digest_names_are_refused_by_the_store() {
    let fixture = streaming().await;
    fixture.hub.hub.script(move |service, _| {
        (service == Service::Cdn).then(|| Reply::new(200, &[], vec![0; 1000]))
    });
    let answer = fixture.hub.mirror.get(&fixture.hub.layer()).send().await;
    assert_eq!(answer.expect(200).body, [0; 1000][..]);
    fixture.expect_refusal().await;
}

#[tokio::test]
async fn a_client_that_is_too_slow_gets_its_bytes_and_the_store_is_not_blamed() {
    let fixture = streaming().await;
    let content = blob(LARGE);
    fixture.hub.hub.push_blob(NAME, &content);
    let answer = fixture.hub.mirror.get(&fixture.hub.blob(&content.digest));
    let mut body = answer.open().await.expect("a response").into_body();
    // The mirror looks every 5 seconds. On WASIp2 the log comes after the answer.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame.expect("a piece").data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(received, LARGE);
    fixture.copies(1).await;
    let line = fixture.log("tee_given_up").remove(0);
    assert!(
        line.contains("hint=\"the client is too slow, or the upstream\""),
        "{line}"
    );
    assert!(fixture.log("kept")[0].ends_with("by=copy"));
    assert_eq!(fixture.log("failed"), [""; 0]);
    let object = fixture.s3.object(&fixture.object(&content.digest));
    assert!(object == Some(content.bytes));
}

/// Each blob has a client that leaves at another moment.
#[tokio::test]
async fn clients_that_go_away_leave_no_half_object() {
    let fixture = streaming().await;
    let blobs: Vec<Content> = (0..6).map(|number| blob((8 << 20) + number)).collect();
    for (number, content) in blobs.iter().enumerate() {
        fixture.hub.hub.push_blob(NAME, content);
        let answer = fixture.hub.mirror.get(&fixture.hub.blob(&content.digest));
        let mut body = answer.open().await.expect("a response").into_body();
        for _ in 0..number * 10 {
            body.frame().await;
        }
        drop(body);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    wait_for("all objects", || fixture.s3.objects().len() == blobs.len()).await;
    for content in blobs {
        let object = fixture.s3.object(&fixture.object(&content.digest));
        assert!(object == Some(content.bytes), "{}", content.digest);
    }
    assert_eq!(fixture.log("failed"), [""; 0]);
}
