//! Key-value stores in SQLite, in the file and table of `spin up`: each can use the other's data.
//!
//! A read runs on the calling thread: it takes microseconds. Writes go through one thread per file,
//! which commits all pending ones in one transaction.

use crate::config::runtime_config::StoreLocation;
use crate::stderr::warn;
use anyhow::{Context as _, Result, anyhow};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use std::fs::Permissions;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The most writes in one transaction.
const MAX_WRITES_PER_TRANSACTION: usize = 256;

/// How long a statement waits for a lock that another process holds on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait before the next try where SQLite does not wait itself.
const BUSY_INTERVAL: Duration = Duration::from_millis(2);

const CREATE: &str = "CREATE TABLE IF NOT EXISTS spin_key_value (
    store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (store, key))";
const GET: &str = "SELECT value FROM spin_key_value WHERE store = ?1 AND key = ?2";
const EXISTS: &str = "SELECT 1 FROM spin_key_value WHERE store = ?1 AND key = ?2";
const KEYS: &str = "SELECT key FROM spin_key_value WHERE store = ?1";
const SET: &str = "INSERT INTO spin_key_value (store, key, value) VALUES (?1, ?2, ?3)
    ON CONFLICT (store, key) DO UPDATE SET value = ?3";
const DELETE: &str = "DELETE FROM spin_key_value WHERE store = ?1 AND key = ?2";

/// One store. The first use opens its file, so that a broken file is an error for the component and
/// does not keep the host from starting.
#[derive(Debug)]
pub struct SqliteStore {
    label: String,
    location: StoreLocation,
    connections: OnceLock<Connections>,
    /// Held by who opens the file: when that failed last, and why.
    opening: Mutex<Option<(Instant, String)>>,
}

#[derive(Debug)]
struct Connections {
    reader: Arc<Mutex<Connection>>,
    writer: Sender<Write>,
}

#[derive(Debug)]
struct Write {
    label: String,
    change: Change,
    result: oneshot::Sender<Result<()>>,
}

#[derive(Debug)]
enum Change {
    Set {
        key: String,
        value: Vec<u8>,
    },
    Delete {
        key: String,
    },
    /// Changes nothing: its transaction comes after those of earlier writes.
    Flush,
}

impl SqliteStore {
    /// No file is opened yet.
    pub fn new(label: &str, location: &StoreLocation) -> Self {
        Self {
            label: label.to_owned(),
            location: location.clone(),
            connections: OnceLock::new(),
            opening: Mutex::new(None),
        }
    }

    /// Waits until all earlier writes are committed.
    pub async fn flush(&self) {
        if self.connections.get().is_some() {
            // The writes' own callers got the error.
            let _ = self.write(Change::Flush).await;
        }
    }

    /// The value of `key`, if there is one.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(GET)?;
        Ok(statement
            .query_row([&self.label, key], |row| row.get(0))
            .optional()?)
    }

    /// Whether `key` has a value.
    pub fn exists(&self, key: &str) -> Result<bool> {
        Ok(self
            .reader()?
            .prepare_cached(EXISTS)?
            .exists([&self.label, key])?)
    }

    /// All keys, in no particular order.
    pub fn keys(&self) -> Result<Vec<String>> {
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(KEYS)?;
        let keys = statement.query_map([&self.label], |row| row.get(0))?;
        Ok(keys.collect::<Result<_, _>>()?)
    }

    /// Sets the value of `key`, and returns once that is committed.
    pub async fn set(&self, key: String, value: Vec<u8>) -> Result<()> {
        self.write(Change::Set { key, value }).await
    }

    /// Removes `key`; it is no error if there is none.
    pub async fn delete(&self, key: String) -> Result<()> {
        self.write(Change::Delete { key }).await
    }

    async fn write(&self, change: Change) -> Result<()> {
        let (result, outcome) = oneshot::channel();
        let stopped = || anyhow!("the store's writer thread has stopped");
        self.connections()?
            .writer
            .send(Write {
                label: self.label.clone(),
                change,
                result,
            })
            .map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())?
    }

    fn reader(&self) -> Result<MutexGuard<'_, Connection>> {
        Ok(lock(&self.connections()?.reader))
    }

    /// Opens the store's file, if it isn't open.
    pub fn open(&self) -> Result<()> {
        self.connections().map(drop)
    }

    fn connections(&self) -> Result<&Connections> {
        if let Some(connections) = self.connections.get() {
            return Ok(connections);
        }
        let asked = Instant::now();
        let mut failed = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = self.connections.get() {
            return Ok(connections);
        }
        // Whoever has waited for an attempt that failed makes none of its own: each may wait for a
        // lock on the file.
        if let Some((at, error)) = &*failed
            && *at >= asked
        {
            return Err(anyhow!("{error}"));
        }
        let opened = match &self.location {
            // A database in memory can be reached through the connection that created it only.
            StoreLocation::Memory | StoreLocation::Redis(_) => connect(None).map(|connection| {
                let connection = Arc::new(Mutex::new(connection));
                (Arc::clone(&connection), connection)
            }),
            StoreLocation::File(path) => connect(Some(path)).and_then(|writer| {
                let reader = connect(Some(path))?;
                Ok((Arc::new(Mutex::new(writer)), Arc::new(Mutex::new(reader))))
            }),
        };
        let (writer, reader) = opened.inspect_err(|error| {
            let error = format!("can't open the key-value store {:?}: {error:#}", self.label);
            warn(&error);
            *failed = Some((Instant::now(), error));
        })?;
        Ok(self.connections.get_or_init(|| {
            let (sender, writes) = mpsc::channel();
            std::thread::spawn(move || run_writer(&writer, &writes));
            Connections {
                reader,
                writer: sender,
            }
        }))
    }
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    // A panic in a thread that held the lock leaves SQLite's state intact.
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates the file at `path`, or restricts one that is there, for its owner alone: it has tokens
/// and addresses of clients. SQLite makes its other files with the same rights.
fn create_private(path: &Path) -> Result<()> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("can't open {}", path.display()))?;
    // One that another user owns is used as it is.
    let _ = file.set_permissions(Permissions::from_mode(0o600));
    Ok(())
}

/// Opens the database at `path`, or one in memory, and creates the table.
fn connect(path: Option<&Path>) -> Result<Connection> {
    let connection = match path {
        None => Connection::open_in_memory()?,
        Some(path) => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("can't create the folder {}", folder.display()))?;
            }
            create_private(path)?;
            let connection =
                Connection::open(path).with_context(|| format!("can't open {}", path.display()))?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            set_write_ahead_log(&connection)?;
            // What was replaced or deleted is overwritten: addresses of clients are kept no longer
            // than they are used.
            connection.pragma_update(None, "secure_delete", "FAST")?;
            // Synced at checkpoints: a power cut can lose the last writes, not corrupt the file.
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection
        }
    };
    connection.execute(CREATE, [])?;
    Ok(connection)
}

/// Switches to the write-ahead log. SQLite does not wait for another process that does the same at
/// this moment, or uses the file.
fn set_write_ahead_log(connection: &Connection) -> Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_INTERVAL);
            }
            switched => return Ok(switched?),
        }
    }
}

/// Commits writes until all senders are dropped.
fn run_writer(connection: &Mutex<Connection>, writes: &Receiver<Write>) {
    while let Ok(first) = writes.recv() {
        let mut batch = vec![first];
        batch.extend(writes.try_iter().take(MAX_WRITES_PER_TRANSACTION - 1));
        let outcome = commit(&mut lock(connection), &batch);
        for write in batch {
            // The caller may have been dropped meanwhile.
            let _ = write.result.send(
                outcome
                    .as_ref()
                    .copied()
                    .map_err(|error| anyhow!("{error}")),
            );
        }
    }
}

/// Applies all writes of `batch`, or none.
fn commit(connection: &mut Connection, batch: &[Write]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for Write { label, change, .. } in batch {
        match change {
            Change::Set { key, value } => transaction
                .prepare_cached(SET)?
                .execute(params![label, key, value])?,
            Change::Delete { key } => transaction
                .prepare_cached(DELETE)?
                .execute(params![label, key])?,
            Change::Flush => 0,
        };
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(location: StoreLocation) -> SqliteStore {
        SqliteStore::new("default", &location)
    }

    async fn exercise(store: &SqliteStore) {
        assert_eq!(store.get("a").unwrap(), None);
        store.set("a".into(), vec![1]).await.unwrap();
        store.set("a".into(), vec![0, 255]).await.unwrap();
        store.set("b".into(), vec![]).await.unwrap();
        assert_eq!(store.get("a").unwrap(), Some(vec![0, 255]));
        assert!(store.exists("b").unwrap());
        store.delete("b".into()).await.unwrap();
        store.delete("b".into()).await.unwrap();
        assert!(!store.exists("b").unwrap());
        assert_eq!(store.keys().unwrap(), ["a"]);
    }

    #[tokio::test]
    async fn stores_values_in_memory() {
        exercise(&store(StoreLocation::Memory)).await;
    }

    #[tokio::test]
    async fn stores_values_in_a_file_that_can_be_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/sqlite_key_value.db");
        exercise(&store(StoreLocation::File(path.clone()))).await;
        assert_eq!(
            store(StoreLocation::File(path)).get("a").unwrap(),
            Some(vec![0, 255])
        );
    }

    #[test]
    fn many_may_open_a_new_file_at_the_same_time() {
        for shared in [true, false] {
            for _ in 0..20 {
                let folder = tempfile::tempdir().unwrap();
                let location = StoreLocation::File(folder.path().join("kv.db"));
                let one = Arc::new(store(location.clone()));
                let threads: Vec<_> = (0..8)
                    .map(|_| {
                        // As another process has one.
                        let other = Arc::new(store(location.clone()));
                        let store = if shared { Arc::clone(&one) } else { other };
                        std::thread::spawn(move || store.get("a"))
                    })
                    .collect();
                for thread in threads {
                    assert_eq!(thread.join().unwrap().unwrap(), None);
                }
            }
        }
    }

    #[test]
    fn who_waits_for_an_attempt_to_open_a_file_makes_no_second_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(store(StoreLocation::File(folder.path().join("kv.db"))));
        let mut attempt = store.opening.lock().unwrap();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let store = Arc::clone(&store);
                let (asks, asked) = mpsc::channel();
                let thread = std::thread::spawn(move || {
                    asks.send(()).unwrap();
                    store.get("a")
                });
                asked.recv().unwrap();
                thread
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        *attempt = Some((Instant::now(), "it is locked".to_owned()));
        drop(attempt);
        for thread in threads {
            let error = thread.join().unwrap().unwrap_err();
            assert_eq!(error.to_string(), "it is locked");
        }
        assert_eq!(store.get("a").unwrap(), None);
    }

    #[tokio::test]
    async fn commits_all_of_many_concurrent_writes() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(StoreLocation::File(folder.path().join("kv.db")));
        let writes = (0..1000_u32).map(|n| store.set(format!("k{n}"), n.to_le_bytes().to_vec()));
        futures::future::try_join_all(writes).await.unwrap();
        assert_eq!(store.keys().unwrap().len(), 1000);
        assert_eq!(
            store.get("k999").unwrap(),
            Some(999_u32.to_le_bytes().to_vec())
        );
    }

    #[tokio::test]
    async fn its_files_are_for_their_owner_alone() {
        for existing in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("kv.db");
            if existing {
                std::fs::write(&path, "").unwrap();
                std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
            }
            let store = store(StoreLocation::File(path));
            store.set("a".into(), vec![1]).await.unwrap();
            let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
            assert_eq!(files.len(), 3, "{files:?}");
            for file in files {
                let file = file.unwrap();
                let mode = file.metadata().unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o600, "{file:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_was_deleted_is_gone_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kv.db");
        let holds = |text: &str| {
            let bytes = std::fs::read(&path).unwrap();
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        let store = store(StoreLocation::File(path.clone()));
        let checkpoint = || {
            let connection = Connection::open(&path).unwrap();
            connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .unwrap();
        };
        store
            .set("count".into(), b"client 192.0.2.77".to_vec())
            .await
            .unwrap();
        checkpoint();
        assert!(holds("192.0.2.77"));
        store.delete("count".into()).await.unwrap();
        checkpoint();
        assert!(!holds("192.0.2.77"));
    }

    #[tokio::test]
    async fn retries_to_open_a_broken_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kv.db");
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        let store = store(StoreLocation::File(path.clone()));
        assert!(store.get("a").is_err());
        assert!(store.set("a".into(), vec![1]).await.is_err());
        std::fs::remove_file(&path).unwrap();
        store.set("a".into(), vec![1]).await.unwrap();
        assert_eq!(store.get("a").unwrap(), Some(vec![1]));
    }
}
