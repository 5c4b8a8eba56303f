//! The mirror as a child process, clients, and fixtures of a mirror and its registries.

pub mod attacker;
pub mod browser;
pub mod client;
pub mod client_fixture;
pub mod daemons;
pub mod docker_registry;
pub mod hub_fixture;
pub mod log_line;
pub mod mirror;
pub mod process;
pub mod programs;
pub mod public_registries;
pub mod pulls;
pub mod token_server;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Polls until `condition` holds, for longer than anything takes on a busy machine.
#[track_caller]
pub fn wait_for(what: &str, condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let service = std::panic::Location::caller();
    async move {
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "{service}: timed out waiting for {what}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A loopback address for a program that takes no port of its own choice. The port is below those
/// that the kernel gives to connections, one of which could take it before the program does.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000).expect("a small number");
    loop {
        let number = start + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000;
        let address = SocketAddr::from(([127, 0, 0, 1], 20_000 + number));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Reports that a test is skipped because this machine lacks something; with
/// `HAMMAL_REQUIRE_CLIENTS=1` the test fails.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
    assert!(
        std::env::var_os("HAMMAL_REQUIRE_CLIENTS").is_none_or(|value| value != "1"),
        "must not be skipped: {why}"
    );
}
