//! The setting `store`.

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH};
use crate::support::mirror::is_wasip2;
use test_support::hub::Service;

/// The number of keys in the store, which the mirror has closed. Without its file there are none.
fn keys(file: &std::path::Path) -> i64 {
    if !file.exists() {
        return 0;
    }
    let store = rusqlite::Connection::open(file).expect("the store");
    let count = "SELECT count(*) FROM spin_key_value";
    store
        .query_row(count, (), |row| row.get(0))
        .unwrap_or_default()
}

#[tokio::test]
async fn a_store_that_is_off_is_neither_read_nor_written() {
    for setting in ["on", "off"] {
        let HubFixture {
            mut mirror, hub, ..
        } = HubFixture::with(|options| options.variable("store", setting)).await;
        for _ in 0..3 {
            mirror.get_manifest(MANIFEST_PATH).await.expect(200);
        }
        let tokens = hub.received(Service::Tokens).len();
        // An instance of WASIp2 answers one request, and remembers by the store alone.
        let expected = if is_wasip2() && setting == "off" {
            3
        } else {
            1
        };
        assert_eq!(tokens, expected, "store={setting}");
        let store = mirror.state_dir().join("sqlite_key_value.db");
        assert!(mirror.stop());
        assert_eq!(keys(&store) > 0, setting == "on", "store={setting}");
    }
}
