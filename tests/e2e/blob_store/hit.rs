//! Blobs that the store has.

use super::Fixture;
use crate::support::client::Request;
use test_support::s3::SECRET_KEY;

#[tokio::test]
async fn a_kept_blob_is_had_from_the_store_without_an_upstream_request() {
    let fixture = Fixture::start().await;
    let (mirror, layer) = (&fixture.hub.mirror, fixture.hub.layer());
    let content = &fixture.hub.image.native().layers[0];
    fixture.keep_layer().await;
    let before = fixture.upstream_requests();

    let response = mirror.get(&layer).send().await.expect(307);
    let location = response.header("location").expect("a location").to_owned();
    assert!(location.starts_with(&fixture.s3.url()), "{location}");
    assert!(!location.contains(SECRET_KEY), "{location}");
    assert_eq!(response.header("content-length"), Some("0"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("cache-status"), Some("hammal; hit"));
    assert_eq!(
        response.header("docker-content-digest"),
        Some(&*content.digest)
    );
    let whole = Request::get_url(&location).send().await.expect(200);
    assert_eq!(whole.body, content.bytes);
    let part = Request::get_url(&location).header("range", "bytes=5-9");
    assert_eq!(part.send().await.expect(206).body, content.bytes[5..10]);

    let head = mirror.head(&layer).send().await.expect(200);
    let length = content.bytes.len().to_string();
    assert_eq!(head.header("content-length"), Some(&*length));
    assert_eq!(head.header("docker-content-digest"), Some(&*content.digest));
    assert_eq!(fixture.upstream_requests(), before);
}

#[tokio::test]
async fn a_presigned_url_is_for_one_object_and_expires() {
    let fixture = Fixture::start().await;
    fixture.keep_layer().await;
    let response = fixture.hub.mirror.get(&fixture.hub.layer()).send().await;
    let location = response.header("location").expect("a location").to_owned();
    let other = &fixture.hub.image.native().layers[1].digest;
    let changed = location.replace(
        fixture.digest().trim_start_matches("sha256:"),
        other.trim_start_matches("sha256:"),
    );
    Request::get_url(&changed).send().await.expect(403);
    fixture.s3.set_ahead(19 * 60);
    Request::get_url(&location).send().await.expect(200);
    fixture.s3.set_ahead(21 * 60);
    Request::get_url(&location).send().await.expect(403);
}

#[tokio::test]
async fn a_public_url_is_not_signed() {
    let public = "https://blobs.example/";
    let fixture = Fixture::with(|options| options.variable("blob_store_public_url", public)).await;
    fixture.keep_layer().await;
    let response = fixture.hub.mirror.get(&fixture.hub.layer()).send().await;
    let object = fixture.object(fixture.digest());
    assert_eq!(
        response.header("location"),
        Some(&*format!("{public}{object}"))
    );
}

#[tokio::test]
async fn a_kept_blob_is_streamed_where_blobs_are() {
    let fixture = Fixture::with(|options| options.variable("blob_delivery", "stream")).await;
    let (mirror, layer) = (&fixture.hub.mirror, fixture.hub.layer());
    let content = &fixture.hub.image.native().layers[0];
    let first = mirror.get(&layer).send().await.expect(200);
    assert_eq!(first.body, content.bytes);
    fixture.copies(1).await;
    let before = fixture.upstream_requests();

    let whole = mirror.get(&layer).send().await.expect(200);
    assert_eq!(whole.body, content.bytes);
    assert_eq!(whole.header("cache-status"), Some("hammal; hit"));
    assert_eq!(whole.header("etag"), None);
    let part = mirror.get(&layer).header("range", "bytes=10-");
    let part = part.send().await.expect(206);
    assert_eq!(part.body, content.bytes[10..]);
    let last = content.bytes.len() - 1;
    let range = format!("bytes 10-{last}/{}", content.bytes.len());
    assert_eq!(part.header("content-range"), Some(&*range));
    assert_eq!(fixture.upstream_requests(), before);

    // Deleted behind the mirror's back: this client gets it from the upstream.
    fixture.s3.delete(&fixture.object(fixture.digest()));
    let again = mirror.get(&layer).send().await.expect(200);
    assert_eq!(again.body, content.bytes);
    fixture.copies(2).await;
}
