//! A real `redis-server`, which is killed, stopped and started again.

use super::*;
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A server on a socket in a folder of its own: no port that another program could take.
struct Server {
    folder: TempDir,
    process: Option<Child>,
}

impl Server {
    /// `None` where Redis is not installed, which `HAMMAL_REQUIRE_CLIENTS=1` makes a failure.
    fn start() -> Option<Self> {
        let mut server = Self {
            folder: tempfile::tempdir().unwrap(),
            process: None,
        };
        if Command::new("redis-server")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            eprintln!("SKIPPED: redis-server is not installed");
            let required = std::env::var_os("HAMMAL_REQUIRE_CLIENTS");
            assert!(
                required.is_none_or(|value| value != "1"),
                "must not be skipped"
            );
            return None;
        }
        server.run();
        Some(server)
    }

    fn run(&mut self) {
        let socket = self.folder.path().join("redis.sock");
        let _ = std::fs::remove_file(&socket);
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().unwrap();
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn store(&self) -> RedisStore {
        let socket = self.folder.path().join("redis.sock");
        let url = format!("redis+unix://{}", socket.display());
        RedisStore::new("default", &url.into()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until the store can be used again.
async fn recovers(store: &RedisStore) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.get("a").await.is_err() {
        assert!(Instant::now() < deadline, "the store does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The longest of some operations, all of which have to fail.
async fn longest_failure(store: &RedisStore) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let started = Instant::now();
        store.get("a").await.unwrap_err();
        longest = longest.max(started.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_values() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    assert_eq!(store.get("a").await.unwrap(), None);
    store.set("a", &[0, 255]).await.unwrap();
    store.set("b", &[]).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), Some(vec![0, 255]));
    assert_eq!(store.get("b").await.unwrap(), Some(vec![]));
    assert!(store.exists("b").await.unwrap());
    store.delete("b").await.unwrap();
    store.delete("b").await.unwrap();
    assert!(!store.exists("b").await.unwrap());
    assert_eq!(store.keys().await.unwrap(), ["a"]);
    for number in 0..3000 {
        store.set(&format!("k{number}"), &[1]).await.unwrap();
    }
    assert_eq!(store.keys().await.unwrap().len(), 3001);
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_one_connection_between_many_operations() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    let sets = (0..200_u32).map(|n| {
        let store = &store;
        async move { store.set(&format!("k{n}"), &n.to_le_bytes()).await }
    });
    futures::future::try_join_all(sets).await.unwrap();
    assert_eq!(store.state().last, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_again_after_the_server_was_killed() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let store = server.store();
    store.set("a", &[1]).await.unwrap();
    server.kill();
    store.get("a").await.unwrap_err();
    assert!(longest_failure(&store).await < Duration::from_millis(200));
    server.run();
    recovers(&store).await;
    assert_eq!(store.get("a").await.unwrap(), Some(vec![1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_costs_one_time_out() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    store.set("a", &[1]).await.unwrap();
    server.signal(Signal::STOP);
    let started = Instant::now();
    store.get("a").await.unwrap_err();
    assert!(started.elapsed() >= OPERATION_TIMEOUT);
    let longest = longest_failure(&store).await;
    server.signal(Signal::CONT);
    assert!(longest < OPERATION_TIMEOUT / 2, "{longest:?}");
    recovers(&store).await;
    assert_eq!(store.get("a").await.unwrap(), Some(vec![1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn may_be_away_at_the_start() {
    let Some(mut server) = Server::start() else {
        return;
    };
    server.kill();
    let store = server.store();
    store.get("a").await.unwrap_err();
    server.run();
    recovers(&store).await;
    store.set("a", &[1]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_command_leaves_the_connection() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    let push: Result<i64> = store.run(Cmd::new().arg("LPUSH").arg("list").arg(1)).await;
    assert_eq!(push.unwrap(), 1);
    assert!(store.get("list").await.is_err());
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(store.state().last, 1);
}

#[test]
fn an_unusable_url_is_not_repeated() {
    for url in ["nonsense://:hunter2@host", "redis://:hunter2@host:port"] {
        let error = RedisStore::new("tokens", &url.to_owned().into()).unwrap_err();
        let text = format!("{error:#} {:?}", StoreUrl::from(url.to_owned()));
        assert!(text.contains("key_value_store.tokens"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
