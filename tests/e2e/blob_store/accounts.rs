//! An object store beside an account at the registry.

use super::with_store;
use crate::support::hub_fixture::{MANIFEST_PATH, NAME, TAG};
use crate::support::mirror::Options;
use crate::support::wait_for;
use test_support::hub::Hub;
use test_support::image::Image;
use test_support::s3::S3;
use test_support::server::ReceivedRequest;

const PASSWORD: &str = "password";
const SECRET: &str = "0123456789abcdef";

/// A registry with an account, an object store, and the options of a mirror of both.
async fn start() -> (Hub, Image, S3, Options) {
    let (hub, image, s3) = (Hub::start().await, Image::oci(), S3::start().await);
    hub.push(NAME, TAG, &image);
    hub.add_account("alice", PASSWORD, &[NAME]);
    let options = Options::default()
        .upstream(hub.address())
        .plain_http([hub.tokens(), hub.cdn()])
        .variable("token_services", hub.tokens())
        .variable(
            "upstream_credentials",
            format!("{}=alice:{PASSWORD}", hub.address()),
        );
    let options = with_store(options, &s3);
    (hub, image, s3, options)
}

fn layer(image: &Image) -> String {
    format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest)
}

#[tokio::test]
async fn what_became_private_is_not_had_from_the_store() {
    let (hub, image, s3, options) = start().await;
    let (mirror, layer) = (options.start().await, layer(&image));
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    mirror.get(&layer).send().await.expect(307);
    let is_kept = |line: &String| line.contains("blob_store=kept");
    wait_for("a copy", || mirror.stderr().iter().any(is_kept)).await;
    let leads_to_store = async || {
        let response = mirror.get(&layer).send().await;
        let location = response.header("location").unwrap_or_default().to_owned();
        location.starts_with(&s3.url())
    };
    assert!(leads_to_store().await);
    hub.make_private(NAME);
    hub.revoke_tokens();
    mirror.get_manifest(MANIFEST_PATH).await.expect(403);
    assert!(!leads_to_store().await);
    let response = mirror.get(&layer).send().await;
    assert!(response.status.as_u16() >= 400, "{response:?}");
}

/// Clients send their login again to the same host at another port, as that of the store is.
#[tokio::test]
async fn a_kept_blob_is_streamed_where_a_redirect_would_take_the_login_along() {
    let (hub, image, s3) = (Hub::start().await, Image::oci(), S3::start().await);
    hub.push(NAME, TAG, &image);
    let options = Options::default()
        .upstream(hub.address())
        .plain_http(hub.addresses())
        // The SHA-256 of `token`.
        .variable(
            "clients",
            "alice:3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0",
        );
    let mirror = with_store(options, &s3).start().await;
    let is_kept = |line: &String| line.contains("blob_store=kept");
    let get = || {
        // The mirror is at the store's address, too.
        let request = mirror.get(&layer(&image)).host("127.0.0.4:3000");
        request.header("authorization", "Basic YWxpY2U6dG9rZW4=")
    };
    // The delivery network has another address.
    get().send().await.expect(307);
    wait_for("a copy", || mirror.stderr().iter().any(is_kept)).await;
    let response = get().send().await.expect(200);
    assert_eq!(response.body, image.native().layers[0].bytes);
    let received = s3.received();
    assert!(received.iter().any(|one| one.method == "GET"));
    let shows_login = |one: &ReceivedRequest| {
        let authorization = one.header("authorization").unwrap_or_default();
        authorization.contains("Basic")
    };
    assert!(!received.iter().any(shows_login));
}

#[tokio::test]
async fn what_an_account_serves_to_all_clients_of_a_closed_mirror_is_not_kept() {
    let (hub, image, s3, options) = start().await;
    hub.make_private(NAME);
    let mut mirror = options
        .variable("secret", SECRET)
        .variable("credentials_serve", "all")
        .start()
        .await;
    let paths = [MANIFEST_PATH.to_owned(), layer(&image)];
    for path in &paths {
        let response = mirror.get_manifest(&format!("/{SECRET}{path}")).await;
        response.expect(200);
    }
    mirror.log(2).await;
    // What is to be written after the answers is written before the end.
    assert!(mirror.stop());
    assert_eq!(s3.received().len(), 0);
}
