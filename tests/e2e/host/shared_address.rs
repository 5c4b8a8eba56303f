//! Clients that share an address because of a proxy that the operator has not told of.

use std::time::Duration;

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH};
use crate::support::mirror::{Options, is_spin};
use crate::support::skip;
use test_support::hub::Service;
use test_support::server::Reply;

/// How many lines name the setting, after ten requests at a time that no upstream answers soon.
async fn warnings(header: Option<&str>, more: impl FnOnce(Options) -> Options) -> usize {
    let HubFixture { mirror, hub, .. } = HubFixture::with(|options| {
        // Two requests at a time.
        more(options.argument("--client-memory").argument("8"))
    })
    .await;
    hub.script(|service, _| {
        let answer = Reply::new(503, &[], "").after(Duration::from_millis(300));
        (service == Service::Registry).then_some(answer)
    });
    let requests = (0..10).map(|_| {
        let request = mirror.get(MANIFEST_PATH).accept_manifests();
        match header {
            Some(name) => request.header(name, "192.0.2.7"),
            None => request,
        }
    });
    let mut sent = Vec::new();
    for request in requests {
        sent.push(tokio::spawn(request.send()));
    }
    for sent in sent {
        sent.await.expect("a task").expect(503);
    }
    let stderr = mirror.stderr();
    let warnings = stderr
        .iter()
        .filter(|line| line.contains("trusted_proxies"));
    warnings
        .inspect(|line| assert!(line.contains("127.0.0.1 has used up its --client-memory")))
        .count()
}

#[tokio::test]
async fn a_proxy_that_is_not_set_is_warned_of_once() {
    if is_spin() {
        return skip("the limits are the embedded host's");
    }
    assert_eq!(
        warnings(Some("x-forwarded-for"), |options| options).await,
        1
    );
    assert_eq!(warnings(None, |options| options).await, 0);
    let told = |options: Options| options.variable("trusted_proxies", 1);
    assert_eq!(warnings(Some("x-forwarded-for"), told).await, 0);
}
