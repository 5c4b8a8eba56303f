//! What is remembered from one request to the next: in this instance's memory, and behind it in the key-value store.
//!
//! Neither can grow. No store here expires a key, and some allow 1,024 of them, so an entry's key is a bucket that its
//! identity falls into; the entry repeats the identity and its end, is checked against both when it is read, and a
//! collision overwrites. A store that fails, or is slow, costs speed and nothing else.

use crate::platform::{self, Platform};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

/// A store that takes longer to answer a read is left alone.
const STORE_PATIENCE: Duration = Duration::from_millis(500);
/// How long it is left alone after a fault.
const STORE_REST: Duration = Duration::from_secs(5);
/// Platforms allow 1 MB; a larger value is kept in memory only.
const MAX_VALUE: usize = 900_000;

/// The key-value store, left alone for a while after a fault.
#[derive(Debug)]
pub struct Store<P> {
    platform: P,
    rests_until: Cell<Duration>,
}

/// Entries of one kind, `buckets` of them at most, each with an identity and an end.
#[derive(Debug)]
pub struct Cache<T> {
    kind: &'static str,
    buckets: u32,
    memory: RefCell<HashMap<u32, Entry<T>>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry<T> {
    identity: String,
    /// Seconds since the Unix epoch.
    expires: u64,
    value: T,
}

impl<P: Platform> Store<P> {
    pub fn new(platform: P) -> Store<P> {
        Store { platform, rests_until: Cell::new(Duration::ZERO) }
    }

    async fn load(&self, key: &str) -> Option<Vec<u8>> {
        if self.platform.now() < self.rests_until.get() {
            return None;
        }
        let fault = match platform::within(&self.platform, STORE_PATIENCE, self.platform.load(key)).await {
            Some(Ok(value)) => return value,
            Some(Err(fault)) => fault.0,
            None => "too slow".to_owned(),
        };
        self.rests_until.set(self.platform.now().saturating_add(STORE_REST));
        self.platform.log(&format!("hammal store=failed reading={key} reason={fault:?}"));
        None
    }

    /// Writes after the answer has left.
    fn save(&self, key: String, value: Vec<u8>) {
        if self.platform.now() < self.rests_until.get() {
            return;
        }
        let platform = self.platform.clone();
        self.platform.defer(async move {
            if let Err(fault) = platform.save(&key, value).await {
                platform.log(&format!("hammal store=failed writing={key} reason={:?}", fault.0));
            }
        });
    }
}

impl<T: Clone + Serialize + DeserializeOwned> Cache<T> {
    /// `kind` begins the keys in the store: letters and digits.
    pub fn new(kind: &'static str, buckets: u32) -> Cache<T> {
        Cache { kind, buckets, memory: RefCell::default() }
    }

    /// What this instance remembers, or else the store.
    pub async fn find<P: Platform>(&self, store: &Store<P>, identity: &str) -> Option<T> {
        match self.remembered(identity, store.platform.now()) {
            Some(value) => Some(value),
            None => self.stored(store, identity).await,
        }
    }

    /// What this instance remembers.
    pub fn remembered(&self, identity: &str, now: Duration) -> Option<T> {
        let memory = self.memory.borrow();
        let entry = memory.get(&self.bucket(identity))?;
        entry.holds(identity, now).then(|| entry.value.clone())
    }

    /// What the store remembers; this instance remembers it too from then on.
    pub async fn stored<P: Platform>(&self, store: &Store<P>, identity: &str) -> Option<T> {
        let bucket = self.bucket(identity);
        let bytes = store.load(&self.key(bucket)).await?;
        let entry: Entry<T> = serde_json::from_slice(&bytes).ok()?;
        if !entry.holds(identity, store.platform.now()) {
            return None;
        }
        let value = entry.value.clone();
        self.memory.borrow_mut().insert(bucket, entry);
        Some(value)
    }

    /// Remembers in this instance only.
    pub fn remember(&self, identity: &str, value: T, now: Duration, life: Duration) {
        let entry = Entry { identity: identity.to_owned(), expires: now.saturating_add(life).as_secs(), value };
        self.memory.borrow_mut().insert(self.bucket(identity), entry);
    }

    /// Remembers in this instance now and in the store after the answer has left.
    pub fn keep<P: Platform>(&self, store: &Store<P>, identity: &str, value: T, life: Duration) {
        let bucket = self.bucket(identity);
        self.remember(identity, value, store.platform.now(), life);
        let bytes = self.memory.borrow().get(&bucket).and_then(|entry| serde_json::to_vec(entry).ok());
        if let Some(bytes) = bytes.filter(|bytes| bytes.len() <= MAX_VALUE) {
            store.save(self.key(bucket), bytes);
        }
    }

    fn key(&self, bucket: u32) -> String {
        format!("{}-{bucket}", self.kind)
    }

    fn bucket(&self, identity: &str) -> u32 {
        let hash = Sha256::digest(identity.as_bytes());
        let number = hash.iter().take(4).fold(0_u32, |number, byte| (number << 8) | u32::from(*byte));
        number.checked_rem(self.buckets).unwrap_or_default()
    }
}

impl<T> Entry<T> {
    fn holds(&self, identity: &str, now: Duration) -> bool {
        self.identity == identity && now.as_secs() < self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::Scripted;
    use futures_util::future::FutureExt;
    use proptest::prelude::*;

    /// What a new instance finds under `identity` in a store whose bytes were changed after `mine` was kept there.
    fn found(identity: &str, change: impl Fn(&mut Vec<u8>)) -> Option<String> {
        let platform = Scripted::default();
        let store = Store::new(platform.clone());
        Cache::new("x", 1).keep(&store, "mine", "value".to_owned(), Duration::from_secs(60));
        platform.settle().now_or_never().unwrap();
        platform.change_store(change);
        Cache::new("x", 1).stored(&store, identity).now_or_never().unwrap()
    }

    #[test]
    fn what_is_stored_is_found_under_its_own_identity_only() {
        assert_eq!(found("mine", |_| ()).as_deref(), Some("value"));
        assert_eq!(found("yours", |_| ()), None);
    }

    proptest! {
        #[test]
        fn no_stored_bytes_panic_or_pass_for_another_identity(
            at in 0..80_usize,
            until in 0..80_usize,
            noise in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let change = |bytes: &mut Vec<u8>| {
                let begin = at.min(bytes.len());
                bytes.splice(begin..until.clamp(begin, bytes.len()), noise.iter().copied());
            };
            let _ = found("mine", change);
            prop_assert_eq!(found("yours", change), None);
        }

        #[test]
        fn no_bytes_at_all_panic(noise in prop::collection::vec(any::<u8>(), 0..99)) {
            prop_assert_eq!(found("mine", |bytes| noise.clone_into(bytes)), None);
        }
    }
}
