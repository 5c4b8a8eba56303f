//! What the tests stand on: the mirror as a child process, a client, and registries of ours.

pub mod client;
pub mod client_fixture;
pub mod daemons;
pub mod docker_registry;
pub mod hub_fixture;
pub mod mirror;
pub mod process;
pub mod programs;
pub mod public_registries;
pub mod token_server;

use std::time::{Duration, Instant};

/// Polls until `condition` holds. Far longer than anything takes on a busy machine.
#[track_caller]
pub fn wait_for(what: &str, condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let place = std::panic::Location::caller();
    async move {
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "{place}: waited in vain for {what}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// For a test that needs what this machine lacks: says so, and fails where a skip is not wanted.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
    assert!(
        std::env::var_os("HAMMAL_REQUIRE_CLIENTS").is_none_or(|value| value != "1"),
        "not skipped: {why}"
    );
}
