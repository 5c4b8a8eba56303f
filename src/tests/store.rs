//! The setting `store`: off, no request calls the key-value store.

use super::*;
use crate::platform::scripted::StoreState;

/// Sends a request for a tag to `instances` new instances, each of which knows nothing but what the
/// store holds.
async fn sent_by_new_instances(platform: &Scripted, instances: usize) -> Vec<String> {
    let mut sent = Vec::new();
    for _ in 0..instances {
        platform.add_answers([challenge(), token("one"), manifest()]);
        let mirror = Mirror::new(platform.clone());
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
        sent = platform.sent();
    }
    sent
}

#[tokio::test]
async fn a_store_that_is_off_is_never_called_and_every_instance_fetches_a_token() {
    for cache in ["on", "off"] {
        let platform = Scripted::new([]);
        for (name, value) in [
            ("store", "off"),
            ("manifest_cache", cache),
            ("client_limit", "100"),
        ] {
            platform.set_variable(name, value);
        }
        // A call would never return, as none does on WASIp2 while Redis hangs.
        platform.set_store(StoreState::Hanging);
        let sent = sent_by_new_instances(&platform, 3).await;
        let url = format!("GET {HUB}{MANIFEST}");
        assert_eq!(
            sent,
            [
                url.clone(),
                format!("GET {TOKEN_URL}"),
                format!("{url} Bearer one")
            ],
            "manifest_cache={cache}"
        );
        assert_eq!(platform.store_calls(), 0, "manifest_cache={cache}");
        let log = platform.log();
        assert!(log.iter().all(|line| !line.contains("store=failed")));
    }
}

#[tokio::test]
async fn an_instance_remembers_without_a_store() {
    let platform = Scripted::new([challenge(), token("one"), manifest(), manifest()]);
    platform.set_variable("store", "off");
    let mirror = Mirror::new(platform.clone());
    for sent in [3, 1] {
        assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
        assert_eq!(platform.sent().len(), sent);
    }
    assert_eq!(platform.store_calls(), 0);
}

#[tokio::test]
async fn a_failing_upstream_is_left_alone_without_a_store() {
    let failing = [Err(TransportError::Connect), Err(TransportError::Connect)];
    let platform = Scripted::new(failing);
    platform.set_variable("store", "off");
    platform.set_variable("upstream", "one.example,two.example");
    let mirror = Mirror::new(platform.clone());
    assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 502);
    assert_eq!(platform.store_calls(), 0);
}
