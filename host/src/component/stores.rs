//! The key-value stores that the component may open, wherever they keep their data.

use crate::component::key_value::SqliteStore;
use crate::component::redis::RedisStore;
use crate::config::runtime_config::StoreLocation;
use crate::metrics::measure_store;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The stores that the component may open, by label.
#[derive(Debug, Default)]
pub struct Stores(BTreeMap<String, Arc<Store>>);

impl Stores {
    /// `labels` come from the manifest's `key_value_stores`, `locations` from the runtime
    /// configuration. Fails if a label has no location. No file is opened and nothing connected to
    /// yet.
    pub fn new(labels: &[String], locations: &BTreeMap<String, StoreLocation>) -> Result<Self> {
        let mut stores = BTreeMap::new();
        for label in labels {
            let Some(location) = locations.get(label) else {
                bail!(
                    "key_value_stores: there is no store {label:?}; add [key_value_store.{label}] to the runtime configuration"
                );
            };
            let backend = match location {
                StoreLocation::Redis(url) => Backend::Redis(RedisStore::new(label, url)?),
                location => Backend::Sqlite(SqliteStore::new(label, location)),
            };
            let store = Store {
                label: label.clone(),
                backend,
            };
            stores.insert(label.clone(), Arc::new(store));
        }
        Ok(Self(stores))
    }

    /// The store `label`. `None` if the manifest's `key_value_stores` don't list it.
    pub fn get(&self, label: &str) -> Option<Arc<Store>> {
        self.0.get(label).cloned()
    }

    /// Waits until all earlier writes are committed.
    pub async fn flush(&self) {
        for store in self.0.values() {
            if let Backend::Sqlite(store) = &store.backend {
                store.flush().await;
            }
        }
    }
}

/// One store. The first use opens it, so that one that can't be used is an error for the component
/// and does not keep the host from starting.
#[derive(Debug)]
pub struct Store {
    label: String,
    backend: Backend,
}

#[derive(Debug)]
enum Backend {
    Sqlite(SqliteStore),
    Redis(RedisStore),
}

impl Store {
    /// Opens the store's file, if it is one that isn't open.
    pub fn open(&self) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(store) => store.open(),
            Backend::Redis(_) => Ok(()),
        }
    }

    /// The value of `key`, if there is one.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let get = async {
            match &self.backend {
                Backend::Sqlite(store) => store.get(key),
                Backend::Redis(store) => store.get(key).await,
            }
        };
        measure_store(&self.label, "get", get).await
    }

    /// Whether `key` has a value.
    pub async fn exists(&self, key: &str) -> Result<bool> {
        let exists = async {
            match &self.backend {
                Backend::Sqlite(store) => store.exists(key),
                Backend::Redis(store) => store.exists(key).await,
            }
        };
        measure_store(&self.label, "exists", exists).await
    }

    /// All keys, in no particular order.
    pub async fn keys(&self) -> Result<Vec<String>> {
        let keys = async {
            match &self.backend {
                Backend::Sqlite(store) => store.keys(),
                Backend::Redis(store) => store.keys().await,
            }
        };
        measure_store(&self.label, "keys", keys).await
    }

    /// Sets the value of `key`, and returns once the store has it.
    pub async fn set(&self, key: String, value: Vec<u8>) -> Result<()> {
        let set = async {
            match &self.backend {
                Backend::Sqlite(store) => store.set(key, value).await,
                Backend::Redis(store) => store.set(&key, &value).await,
            }
        };
        measure_store(&self.label, "set", set).await
    }

    /// Removes `key`; it is no error if there is none.
    pub async fn delete(&self, key: String) -> Result<()> {
        let delete = async {
            match &self.backend {
                Backend::Sqlite(store) => store.delete(key).await,
                Backend::Redis(store) => store.delete(&key).await,
            }
        };
        measure_store(&self.label, "delete", delete).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_table_to_add_for_a_label_without_a_store() {
        let error = Stores::new(&["tokens".to_owned()], &BTreeMap::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains("[key_value_store.tokens]"), "{error}");
    }
}
