//! Key-value stores in SQLite: the file and the table of `spin up`, so that either can go on with the other's data.
//!
//! Reads run where they are asked: they take microseconds. Writes go through one thread per file, which commits all
//! that wait in one transaction.

use crate::config::runtime_config::StoreLocation;
use crate::stderr::warn;
use anyhow::{Context as _, Result, anyhow, bail};
use rusqlite::{Connection, OptionalExtension as _, params};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The most writes that share one transaction.
const LARGEST_COMMIT: usize = 256;

/// How long a statement waits for another process that has the file locked.
const BUSY: Duration = Duration::from_secs(5);

const CREATE: &str = "CREATE TABLE IF NOT EXISTS spin_key_value (
    store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (store, key))";
const GET: &str = "SELECT value FROM spin_key_value WHERE store = ?1 AND key = ?2";
const EXISTS: &str = "SELECT 1 FROM spin_key_value WHERE store = ?1 AND key = ?2";
const KEYS: &str = "SELECT key FROM spin_key_value WHERE store = ?1";
const SET: &str = "INSERT INTO spin_key_value (store, key, value) VALUES (?1, ?2, ?3)
    ON CONFLICT (store, key) DO UPDATE SET value = ?3";
const DELETE: &str = "DELETE FROM spin_key_value WHERE store = ?1 AND key = ?2";

/// The stores that the component may open, by label.
#[derive(Debug, Default)]
pub struct Stores(BTreeMap<String, Arc<Store>>);

impl Stores {
    /// `labels` are the manifest's `key_value_stores`, `locations` the runtime configuration's.
    pub fn new(labels: &[String], locations: &BTreeMap<String, StoreLocation>) -> Result<Self> {
        let mut stores = BTreeMap::new();
        for label in labels {
            let Some(location) = locations.get(label) else {
                bail!(
                    "key_value_stores: there is no store {label:?}; add [key_value_store.{label}] to the runtime configuration"
                );
            };
            let store = Store {
                label: label.clone(),
                location: location.clone(),
                open: OnceLock::new(),
            };
            stores.insert(label.clone(), Arc::new(store));
        }
        Ok(Self(stores))
    }

    /// `None` where the manifest doesn't allow `label`.
    pub fn get(&self, label: &str) -> Option<Arc<Store>> {
        self.0.get(label).cloned()
    }

    /// Waits until everything that was written is in the files.
    pub async fn flush(&self) {
        for store in self.0.values().filter(|store| store.open.get().is_some()) {
            // A failing store was reported to whoever wrote.
            let _ = store.write(Change::Nothing).await;
        }
    }
}

/// One store. It is opened by its first use: a broken file costs the component an error, not the host its start.
#[derive(Debug)]
pub struct Store {
    label: String,
    location: StoreLocation,
    open: OnceLock<Open>,
}

#[derive(Debug)]
struct Open {
    reader: Arc<Mutex<Connection>>,
    writer: Sender<Write>,
}

#[derive(Debug)]
struct Write {
    label: String,
    change: Change,
    done: oneshot::Sender<Result<()>>,
}

#[derive(Debug)]
enum Change {
    Set { key: String, value: Vec<u8> },
    Delete { key: String },
    Nothing,
}

impl Store {
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(GET)?;
        Ok(statement
            .query_row([&self.label, key], |row| row.get(0))
            .optional()?)
    }

    pub fn exists(&self, key: &str) -> Result<bool> {
        Ok(self
            .reader()?
            .prepare_cached(EXISTS)?
            .exists([&self.label, key])?)
    }

    /// All keys, in no order.
    pub fn keys(&self) -> Result<Vec<String>> {
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(KEYS)?;
        let keys = statement.query_map([&self.label], |row| row.get(0))?;
        Ok(keys.collect::<Result<_, _>>()?)
    }

    pub async fn set(&self, key: String, value: Vec<u8>) -> Result<()> {
        self.write(Change::Set { key, value }).await
    }

    /// No error where there was nothing.
    pub async fn delete(&self, key: String) -> Result<()> {
        self.write(Change::Delete { key }).await
    }

    async fn write(&self, change: Change) -> Result<()> {
        let (done, outcome) = oneshot::channel();
        let gone = || anyhow!("the store's writer is gone");
        self.opened()?
            .writer
            .send(Write {
                label: self.label.clone(),
                change,
                done,
            })
            .map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    fn reader(&self) -> Result<MutexGuard<'_, Connection>> {
        Ok(lock(&self.opened()?.reader))
    }

    /// Opens the store, unless that was done.
    pub fn open(&self) -> Result<()> {
        self.opened().map(drop)
    }

    fn opened(&self) -> Result<&Open> {
        if let Some(open) = self.open.get() {
            return Ok(open);
        }
        let opened = match &self.location {
            // A database in memory belongs to its one connection.
            StoreLocation::Memory => connect(None).map(|only| {
                let only = Arc::new(Mutex::new(only));
                (Arc::clone(&only), only)
            }),
            StoreLocation::File(path) => connect(Some(path)).and_then(|writer| {
                let reader = connect(Some(path))?;
                Ok((Arc::new(Mutex::new(writer)), Arc::new(Mutex::new(reader))))
            }),
        };
        let (connection, reader) = opened.inspect_err(|error| {
            warn(&format!(
                "the key-value store {:?} can't be opened: {error:#}",
                self.label
            ));
        })?;
        Ok(self.open.get_or_init(|| {
            let (writer, writes) = mpsc::channel();
            std::thread::spawn(move || commit_all(&connection, &writes));
            Open { reader, writer }
        }))
    }
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    // SQLite's own state is sound whatever happened to the thread that held it.
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: Option<&Path>) -> Result<Connection> {
    let connection = match path {
        None => Connection::open_in_memory()?,
        Some(path) => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("can't make the folder {}", folder.display()))?;
            }
            let connection =
                Connection::open(path).with_context(|| format!("can't open {}", path.display()))?;
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            // Synced at checkpoints: a power cut can cost the last writes, never the file.
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection
        }
    };
    connection.execute(CREATE, [])?;
    Ok(connection)
}

/// Writes until nobody can send any more.
fn commit_all(connection: &Mutex<Connection>, writes: &Receiver<Write>) {
    while let Ok(first) = writes.recv() {
        let mut batch = vec![first];
        batch.extend(writes.try_iter().take(LARGEST_COMMIT - 1));
        let outcome = commit(&mut lock(connection), &batch);
        for write in batch {
            // Whoever wrote may have gone away meanwhile.
            let _ = write.done.send(
                outcome
                    .as_ref()
                    .copied()
                    .map_err(|error| anyhow!("{error}")),
            );
        }
    }
}

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
            Change::Nothing => 0,
        };
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(location: StoreLocation) -> Arc<Store> {
        let locations = BTreeMap::from([("default".to_owned(), location)]);
        Stores::new(&["default".to_owned()], &locations)
            .unwrap()
            .get("default")
            .unwrap()
    }

    async fn exercise(store: &Store) {
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
    async fn keeps_values_in_memory() {
        exercise(&store(StoreLocation::Memory)).await;
    }

    #[tokio::test]
    async fn keeps_values_in_a_file_that_another_process_can_go_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/sqlite_key_value.db");
        exercise(&store(StoreLocation::File(path.clone()))).await;
        assert_eq!(
            store(StoreLocation::File(path)).get("a").unwrap(),
            Some(vec![0, 255])
        );
    }

    #[tokio::test]
    async fn many_writes_at_once_all_arrive() {
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
    async fn a_broken_file_is_an_error_each_time_and_works_once_mended() {
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

    #[test]
    fn a_label_without_a_store_says_where_to_add_one() {
        let error = Stores::new(&["tokens".to_owned()], &BTreeMap::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains("[key_value_store.tokens]"), "{error}");
    }
}
