//! A key-value store in Redis or Valkey, with the keys that `spin up` uses.
//!
//! A store that is away costs speed only: an operation fails after [`OPERATION_TIMEOUT`], and from
//! then on at once, until a task has connected again. No operation waits for that task but those
//! before the first connection.

use crate::config::runtime_config::StoreUrl;
use crate::stderr::warn;
use anyhow::{Context as _, Result, anyhow};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long an operation may take. The component waits for 0.5 s; an operation that it gives up
/// would not be noticed here.
const OPERATION_TIMEOUT: Duration = Duration::from_millis(400);

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long after a failure the store is connected to again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The keys of one answer to `SCAN`.
const SCAN_COUNT: usize = 1000;

/// One store.
#[derive(Debug)]
pub struct RedisStore {
    label: String,
    client: Client,
    state: Arc<Mutex<State>>,
}

struct State {
    connection: Option<Connection>,
    /// Closed when the attempt to connect that is under way has ended.
    attempt: Option<watch::Receiver<()>>,
    /// Set while the store can't be used: when to connect again.
    retry_at: Option<Instant>,
    /// The number of the last connection.
    last: u64,
}

#[derive(Clone)]
struct Connection {
    number: u64,
    commands: MultiplexedConnection,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("is_connected", &self.connection.is_some())
            .field("retry_at", &self.retry_at)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Does not connect yet. Fails if the URL can't be used; the error does not repeat it, since it
    /// may hold a password.
    pub fn new(label: &str, url: &StoreUrl) -> Result<Self> {
        let client = Client::open(url.as_str()).with_context(|| {
            format!("key_value_store.{label}: url has to be as in redis://:PASSWORD@HOST:6379/0")
        })?;
        Ok(Self {
            label: label.to_owned(),
            client,
            state: Arc::new(Mutex::new(State {
                connection: None,
                attempt: None,
                retry_at: None,
                last: 0,
            })),
        })
    }

    /// The value of `key`, if there is one.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.run(Cmd::new().arg("GET").arg(key)).await
    }

    /// Whether `key` has a value.
    pub async fn exists(&self, key: &str) -> Result<bool> {
        self.run(Cmd::new().arg("EXISTS").arg(key)).await
    }

    /// Sets the value of `key`.
    pub async fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.run(Cmd::new().arg("SET").arg(key).arg(value)).await
    }

    /// Removes `key`; it is no error if there is none.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.run(Cmd::new().arg("DEL").arg(key)).await
    }

    /// All keys of the database, in no particular order.
    pub async fn keys(&self) -> Result<Vec<String>> {
        let (mut keys, mut cursor) = (Vec::new(), 0_u64);
        loop {
            let mut scan = Cmd::new();
            scan.arg("SCAN").arg(cursor).arg("COUNT").arg(SCAN_COUNT);
            let (next, found): (u64, Vec<String>) = self.run(&scan).await?;
            keys.extend(found);
            if next == 0 {
                return Ok(keys);
            }
            cursor = next;
        }
    }

    /// Runs a command. An answer that says it was refused leaves the connection as it is; all other
    /// failures end it.
    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let mut number = None;
        let answer = tokio::time::timeout(OPERATION_TIMEOUT, async {
            let mut connection = self.connection().await?;
            number = Some(connection.number);
            let answer = command.query_async(&mut connection.commands).await;
            answer.map_err(|error| (error.is_unrecoverable_error(), anyhow!(error)))
        });
        let (is_lost, error) = match answer.await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err((is_lost, error))) => (is_lost, error),
            Err(_) => (true, anyhow!("no answer within {OPERATION_TIMEOUT:?}")),
        };
        if let Some(number) = number.filter(|_| is_lost) {
            self.lost(number, &error);
        }
        Err(error)
    }

    /// The connection, made first if there never was one. If it is lost, a task connects again, and
    /// this fails at once.
    async fn connection(&self) -> Result<Connection, (bool, anyhow::Error)> {
        loop {
            let mut attempt = {
                let mut state = self.state();
                if let Some(connection) = &state.connection {
                    return Ok(connection.clone());
                }
                let is_due = state.retry_at.is_none_or(|at| Instant::now() >= at);
                if state.attempt.is_none() && is_due {
                    state.attempt = Some(self.start_connecting());
                }
                match &state.attempt {
                    Some(attempt) if state.retry_at.is_none() => attempt.clone(),
                    _ => return Err((false, anyhow!("the store is away"))),
                }
            };
            // An error means that the attempt has ended.
            while attempt.changed().await.is_ok() {}
        }
    }

    /// Connects in a task of its own, which no operation's end can cancel.
    fn start_connecting(&self) -> watch::Receiver<()> {
        let (ended, attempt) = watch::channel(());
        let (client, state, label) = (
            self.client.clone(),
            Arc::clone(&self.state),
            self.label.clone(),
        );
        tokio::spawn(async move {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(CONNECT_TIMEOUT))
                .set_response_timeout(None);
            let connected = tokio::time::timeout(
                CONNECT_TIMEOUT,
                client.get_multiplexed_async_connection_with_config(&config),
            );
            let connected = match connected.await {
                Ok(connected) => connected.map_err(|error| anyhow!(error)),
                Err(_) => Err(anyhow!("no connection within {CONNECT_TIMEOUT:?}")),
            };
            let mut state = lock(&state);
            match connected {
                Ok(commands) => {
                    if state.retry_at.take().is_some() {
                        warn(&format!("the key-value store {label:?} is back"));
                    }
                    state.last += 1;
                    state.connection = Some(Connection {
                        number: state.last,
                        commands,
                    });
                }
                Err(error) => state.fail(&label, &error),
            }
            state.attempt = None;
            drop(ended);
        });
        attempt
    }

    /// Drops the connection `number`, if it is still the current one.
    fn lost(&self, number: u64, error: &anyhow::Error) {
        let mut state = self.state();
        let current = state.connection.as_ref();
        if current.is_some_and(|current| current.number == number) {
            state.connection = None;
            state.fail(&self.label, error);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn fail(&mut self, label: &str, error: &anyhow::Error) {
        // Said once, until the store is back.
        if self.retry_at.is_none() {
            warn(&format!("the key-value store {label:?} is away: {error:#}"));
        }
        self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No code panics while it holds the lock.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
