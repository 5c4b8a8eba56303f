//! `/healthz` and `/readyz`.

use std::time::Duration;

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH};
use crate::support::mirror::Options;
use test_support::server::Reply;

#[tokio::test]
async fn readiness_follows_the_upstream_without_asking_it() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    mirror.get("/healthz").send().await.expect(200);
    mirror.get("/readyz").send().await.expect(200);
    assert!(hub.requests().is_empty());
    hub.script(|_, _| Some(Reply::Close));
    mirror.get_manifest(MANIFEST_PATH).await.expect(502);
    hub.take_requests();
    // What an instance of WASIp2 found is in the store soon after its answer.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while mirror.get("/readyz").send().await.status != 503 {
        assert!(std::time::Instant::now() < deadline, "it stays ready");
    }
    mirror
        .get("/readyz?exclude=upstream")
        .send()
        .await
        .expect(200);
    mirror.get("/healthz").send().await.expect(200);
    assert!(hub.requests().is_empty());
}

#[tokio::test]
async fn readiness_needs_the_host_to_close_private_networks_where_the_setting_says_so() {
    for (networks, status) in [(&["private"][..], 200), (&[], 503)] {
        let mirror = Options::default()
            .variable("private_networks", "closed")
            .variable("secret", "0123456789abcdef")
            .block_networks(networks)
            .start()
            .await;
        mirror.get("/readyz").send().await.expect(status);
        mirror.get("/healthz").send().await.expect(200);
    }
}
