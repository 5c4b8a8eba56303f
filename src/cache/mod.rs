//! Values cached from one request to the next: in this instance's memory, and behind it in the
//! key-value store.
//!
//! Neither can grow: see [`bucket`]. A store that fails, or is slow, costs speed and nothing else:
//! see [`store`].

pub mod bucket;
pub mod single_flight;
pub mod status;
pub mod store;

use self::bucket::{Bucket, BucketLayout, Entry, Owner, Validity};
use self::single_flight::SingleFlight;
use self::store::Store;
use crate::platform::Platform;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

/// The format of what is stored, a part of every store key: another version of the mirror does not
/// read it.
const FORMAT: u32 = 1;

/// Entries of one kind, each with a key and an end. Memory holds as many as the store.
pub struct Cache<P: Platform, T> {
    entries: Entries<P>,
    values: PhantomData<T>,
}

/// What [`Cache`] is but for the type of its values: compiled once, and not for each.
struct Entries<P: Platform> {
    kind: &'static str,
    layout: BucketLayout,
    memory: RefCell<HashMap<String, MemoryEntry>>,
    /// Many requests ask a new instance for the same entry at once.
    reads: SingleFlight<P, Option<Rc<dyn Any>>>,
}

struct MemoryEntry {
    value: Rc<dyn Any>,
    validity: Validity,
    owner: Owner,
}

impl<P: Platform, T: Serialize + DeserializeOwned + 'static> Cache<P, T> {
    /// `kind` begins the store keys of these entries: letters and digits.
    pub fn new(kind: &'static str, layout: BucketLayout) -> Cache<P, T> {
        Cache {
            entries: Entries {
                kind,
                layout,
                memory: RefCell::default(),
                reads: SingleFlight::default(),
            },
            values: PhantomData,
        }
    }

    /// Returns the entry in memory, or else the one in the store.
    pub async fn get(&self, store: &Store<P>, key: &str) -> Option<Rc<T>> {
        match self.get_memory(key, store.platform().now()) {
            Some(value) => Some(value),
            None => self.get_store(store, key).await,
        }
    }

    /// Returns the entry in memory.
    pub fn get_memory(&self, key: &str, now: Duration) -> Option<Rc<T>> {
        self.entries.get_memory(key, now)?.downcast().ok()
    }

    /// Returns the entry in the store, and puts it into memory.
    pub async fn get_store(&self, store: &Store<P>, key: &str) -> Option<Rc<T>> {
        self.get_store_if(store, key, |_| true).await
    }

    /// Returns the entry in the store if it passes `is_valid`. One that does not is not put into
    /// memory either.
    pub async fn get_store_if(
        &self,
        store: &Store<P>,
        key: &str,
        is_valid: impl Fn(&T) -> bool,
    ) -> Option<Rc<T>> {
        let parse = |text: &str| -> Option<Rc<dyn Any>> {
            let value = serde_json::from_str(text).ok().filter(&is_valid);
            Some(Rc::new(value?))
        };
        let value = self.entries.get_store(store, key, &parse).await?;
        value.downcast().ok()
    }

    /// Puts an entry into memory only.
    pub fn put_memory(
        &self,
        key: &str,
        value: impl Into<Rc<T>>,
        now: Duration,
        ttl: Duration,
        owner: Owner,
    ) {
        let validity = Validity::starting(now, ttl);
        self.entries.insert(key, value.into(), now, validity, owner);
    }

    /// Puts an entry into memory now, and into the store after the answer has been sent.
    pub fn put(
        &self,
        store: &Store<P>,
        key: &str,
        value: impl Into<Rc<T>>,
        ttl: Duration,
        owner: Owner,
    ) {
        let value = value.into();
        let serialized = to_raw_value(&*value).ok();
        self.entries.put(store, key, value, serialized, ttl, owner);
    }

    /// Removes an entry from memory now, and from the store after the answer has been sent.
    pub fn remove(&self, store: &Store<P>, key: &str) {
        self.entries.remove(store, key);
    }
}

impl<P: Platform> Entries<P> {
    fn get_memory(&self, key: &str, now: Duration) -> Option<Rc<dyn Any>> {
        let memory = self.memory.borrow();
        let held = memory.get(key).filter(|held| held.validity.includes(now))?;
        Some(held.value.clone())
    }

    /// Returns the entry in the store as `parse` reads its value, and puts it into memory.
    async fn get_store(
        &self,
        store: &Store<P>,
        key: &str,
        parse: &dyn Fn(&str) -> Option<Rc<dyn Any>>,
    ) -> Option<Rc<dyn Any>> {
        let read = async || {
            let salt = store.salt().await?;
            let bytes = store.get(&self.bucket_key()(salt, key)).await?;
            let now = store.platform().now();
            let bucket = Bucket::parse(&bytes);
            let entry = bucket.get(key, now)?;
            let value = parse(entry.value.get())?;
            let (validity, owner) = (entry.validity(), entry.owner);
            self.insert(key, Rc::clone(&value), now, validity, owner);
            Some(value)
        };
        self.reads.run(store.platform(), key, read).await
    }

    fn put(
        &self,
        store: &Store<P>,
        key: &str,
        value: Rc<dyn Any>,
        serialized: Option<Box<RawValue>>,
        ttl: Duration,
        owner: Owner,
    ) {
        let now = store.platform().now();
        let validity = Validity::starting(now, ttl);
        let capacity = self.layout.entries;
        self.insert(key, value, now, validity, owner);
        let Some(value) = serialized else { return };
        let (key, platform) = (key.to_owned(), store.platform().clone());
        let (bucket_key, own_key) = (self.bucket_key(), key.clone());
        let bucket_key = move |salt| bucket_key(salt, &own_key);
        store.update(bucket_key, move |bytes| {
            let bytes = bytes.unwrap_or_default();
            let mut bucket = Bucket::parse(&bytes);
            let Validity {
                stored_at,
                expires_at,
            } = validity;
            // The answer may have been a download of hours.
            let now = platform.now();
            let is_outdated = bucket
                .get(&key, now)
                .is_some_and(|held| held.stored_at > stored_at);
            if !validity.includes(now) || is_outdated {
                return None;
            }
            let entry = Entry {
                key: key.into(),
                stored_at,
                expires_at,
                owner,
                value: &value,
            };
            bucket.put(entry, now, capacity);
            bucket.into_bytes()
        });
    }

    fn remove(&self, store: &Store<P>, key: &str) {
        self.memory.borrow_mut().remove(key);
        let key = key.to_owned();
        let (bucket_key, own_key) = (self.bucket_key(), key.clone());
        let bucket_key = move |salt| bucket_key(salt, &own_key);
        store.update(bucket_key, move |bytes| {
            let bytes = bytes?;
            let mut bucket = Bucket::parse(&bytes);
            bucket.remove(&key);
            bucket.to_bytes()
        });
    }

    fn insert(
        &self,
        key: &str,
        value: Rc<dyn Any>,
        now: Duration,
        validity: Validity,
        owner: Owner,
    ) {
        let mut memory = self.memory.borrow_mut();
        let capacity = self.layout.capacity();
        if memory.len() >= capacity {
            memory.retain(|_, held| held.validity.includes(now));
        }
        // The store still has what memory drops.
        if memory.len() >= capacity {
            memory.retain(|_, held| held.owner == Owner::Operator);
        }
        if memory.len() >= capacity {
            if owner == Owner::Clients {
                return;
            }
            memory.clear();
        }
        let entry = MemoryEntry {
            value,
            validity,
            owner,
        };
        memory.insert(key.to_owned(), entry);
    }

    /// Returns what makes the store key of an entry of its own key and the store's salt.
    fn bucket_key(&self) -> impl Fn(u64, &str) -> String + 'static {
        let (kind, layout) = (self.kind, self.layout);
        move |salt, key| format!("{kind}{FORMAT}-{}", layout.bucket_of(salt, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::bucket::{MAX_CLOCK_SKEW, MAX_VALUE};
    use crate::cache::store::STORE_BACKOFF;
    use crate::platform::scripted::{Scripted, StoreState};
    use futures_util::future::FutureExt;
    use proptest::prelude::*;

    const ONE: BucketLayout = BucketLayout {
        buckets: 1,
        entries: 3,
    };
    const TTL: Duration = Duration::from_secs(60);
    const OWNER: Owner = Owner::Operator;

    /// What a new instance finds under `key` in a store whose bytes were changed after `mine` was
    /// kept there.
    fn found(key: &str, change: impl Fn(&mut Vec<u8>)) -> Option<String> {
        let platform = Scripted::default();
        let store = Store::new(platform.clone());
        Cache::<_, String>::new("x", ONE).put(&store, "mine", "value".to_owned(), TTL, OWNER);
        platform.run_deferred().now_or_never().unwrap();
        platform.change_store(change);
        Cache::<_, String>::new("x", ONE)
            .get_store(&store, key)
            .now_or_never()
            .unwrap()
            .as_deref()
            .cloned()
    }

    #[test]
    fn what_is_stored_is_found_under_its_own_key_only() {
        assert_eq!(found("mine", |_| ()).as_deref(), Some("value"));
        assert_eq!(found("yours", |_| ()), None);
    }

    #[test]
    fn a_full_bucket_loses_its_oldest_entry_and_those_whose_end_has_come() {
        let platform = Scripted::default();
        let store = Store::new(platform.clone());
        let keep = |key: &str, life| {
            Cache::<_, String>::new("x", ONE).put(&store, key, key.to_owned(), life, OWNER);
            platform.run_deferred().now_or_never().unwrap();
        };
        let held = || {
            let stored = |key: &&&str| {
                Cache::<_, String>::new("x", ONE)
                    .get_store(&store, key)
                    .now_or_never()
                    .unwrap()
                    .is_some()
            };
            ["a", "b", "c", "d", "e"]
                .iter()
                .filter(stored)
                .copied()
                .collect::<String>()
        };
        for (key, expected) in [
            ("a", "a"),
            ("b", "ab"),
            ("c", "abc"),
            ("a", "abc"),
            ("d", "acd"),
        ] {
            keep(key, TTL);
            assert_eq!(held(), expected);
        }
        keep("b", Duration::from_secs(1));
        assert_eq!(held(), "abd");
        platform.advance(Duration::from_secs(2));
        keep("e", TTL);
        assert_eq!(held(), "ade");
        // The bucket and the salt.
        assert_eq!(platform.store().len(), 2);
    }

    #[test]
    fn what_is_written_late_leaves_what_is_newer() {
        let platform = Scripted::default();
        let store = Store::new(platform.clone());
        let cache = || Cache::<_, i32>::new("x", ONE);
        let found = |key| {
            cache()
                .get_store(&store, key)
                .now_or_never()
                .unwrap()
                .as_deref()
                .copied()
        };
        // Two answers that are still on their way, as a download of an hour is.
        cache().put(&store, "a", 1, 200 * TTL, OWNER);
        let late = platform.take_deferred();
        cache().put(&store, "b", 1, TTL, OWNER);
        let too_late = platform.take_deferred();
        platform.advance(2 * MAX_CLOCK_SKEW);
        for key in ["a", "b"] {
            cache().put(&store, key, 2, TTL, OWNER);
        }
        platform.run_deferred().now_or_never().unwrap();
        for work in late.into_iter().chain(too_late) {
            work.now_or_never().unwrap();
        }
        assert_eq!(["a", "b"].map(found), [Some(2), Some(2)]);
    }

    #[test]
    fn a_key_that_cannot_be_read_is_written_over() {
        let platform = Scripted::default();
        let store = Store::new(platform.clone());
        let found = || {
            Cache::<_, i32>::new("x", ONE)
                .get_store(&store, "a")
                .now_or_never()
                .unwrap()
                .as_deref()
                .copied()
        };
        platform.set_store(StoreState::Unreadable);
        assert_eq!(found(), None);
        Cache::new("x", ONE).put(&store, "a", 1, TTL, OWNER);
        platform.run_deferred().now_or_never().unwrap();
        assert_eq!(
            platform.log(),
            ["salt", "x1-0"]
                .map(|key| format!(r#"app=hammal store=failed reading={key} error="malformed""#))
        );
        platform.set_store(StoreState::Working);
        platform.advance(STORE_BACKOFF);
        assert_eq!(found(), Some(1));
    }

    #[test]
    fn what_was_kept_by_a_clock_far_ahead_is_not_believed_when_it_is_set_right() {
        for (back, believed) in [
            (MAX_CLOCK_SKEW, true),
            (MAX_CLOCK_SKEW + Duration::from_secs(1), false),
        ] {
            let platform = Scripted::default();
            platform.advance(2 * MAX_CLOCK_SKEW);
            let (store, cache) = (Store::new(platform.clone()), Cache::<_, i32>::new("x", ONE));
            cache.put(&store, "a", 1, TTL, OWNER);
            platform.run_deferred().now_or_never().unwrap();
            platform.set_clock_back(back);
            for cache in [&cache, &Cache::new("x", ONE)] {
                assert_eq!(
                    cache.get(&store, "a").now_or_never().unwrap().is_some(),
                    believed,
                    "{back:?}"
                );
            }
        }
        let platform = Scripted::default();
        platform.advance(2 * MAX_CLOCK_SKEW);
        let (store, cache) = (Store::new(platform.clone()), Cache::<_, i32>::new("x", ONE));
        platform.set_store(StoreState::Unreadable);
        assert_eq!(cache.get(&store, "a").now_or_never(), Some(None));
        platform.set_clock_back(STORE_BACKOFF);
        cache.get(&store, "a").now_or_never();
        assert_eq!(platform.store_calls(), 2);
    }

    #[test]
    fn what_is_too_large_for_the_store_is_kept_in_memory_only() {
        let platform = Scripted::default();
        let (store, cache) = (
            Store::new(platform.clone()),
            Cache::<_, String>::new("x", ONE),
        );
        for (key, length) in [
            ("a", MAX_VALUE / 2),
            ("b", 10),
            ("c", MAX_VALUE / 2),
            ("d", MAX_VALUE),
        ] {
            cache.put(&store, key, "x".repeat(length), TTL, OWNER);
            platform.run_deferred().now_or_never().unwrap();
            assert!(cache.get_memory(key, platform.now()).is_some());
        }
        let stored = |key| {
            let found = Cache::<_, String>::new("x", ONE)
                .get_store(&store, key)
                .now_or_never()
                .unwrap();
            found.is_some()
        };
        assert_eq!(["a", "b", "c", "d"].map(stored), [false, true, true, false]);
    }

    #[test]
    fn many_that_ask_for_the_same_share_one_read() {
        let platform = Scripted::default();
        let (store, cache) = (Store::new(platform.clone()), Cache::<_, i32>::new("x", ONE));
        platform.set_store(StoreState::Hanging);
        let mut asked: Vec<_> = ["a", "a", "b", "a"]
            .map(|key| Box::pin(cache.get(&store, key)))
            .into();
        assert!(asked.iter_mut().all(|found| found.now_or_never().is_none()));
        assert_eq!(platform.store_calls(), 2);
        // Who reads goes away, and another reads.
        drop(asked.remove(0));
        platform.set_store(StoreState::Working);
        assert_eq!(asked.remove(0).now_or_never(), Some(None));
        assert_eq!(platform.store_calls(), 3);
    }

    #[test]
    fn the_salt_is_made_once_and_decides_the_bucket() {
        let layout = BucketLayout {
            buckets: 64,
            entries: 3,
        };
        let bucket_in_a_new_store = |platform: &Scripted| {
            let store = Store::new(platform.clone());
            Cache::<_, i32>::new("x", layout).put(&store, "a", 1, TTL, OWNER);
            platform.run_deferred().now_or_never().unwrap();
            let keys = platform.store().into_keys().filter(|key| key != "salt");
            keys.collect::<Vec<_>>()
        };
        let mut buckets = std::collections::HashSet::new();
        for seed in 0..20 {
            let platform = Scripted::default();
            for _ in 0..seed {
                platform.random();
            }
            let first = bucket_in_a_new_store(&platform);
            // Other instances find the salt, and with it the same bucket.
            assert_eq!(bucket_in_a_new_store(&platform), first);
            assert_eq!(first.len(), 1);
            buckets.extend(first);
        }
        assert!(buckets.len() > 10, "{buckets:?}");
    }

    #[test]
    fn two_instances_that_make_the_salt_at_once_go_on_with_one() {
        let platform = Scripted::default();
        let (one, other) = (Store::new(platform.clone()), Store::new(platform.clone()));
        let cache = || Cache::<_, i32>::new("x", ONE);
        let (first, second) = (cache(), cache());
        first.put(&one, "a", 1, TTL, OWNER);
        second.put(&other, "b", 2, TTL, OWNER);
        platform.run_deferred().now_or_never().unwrap();
        let (salt, before) = (platform.store()["salt"].clone(), platform.store().len());
        for key in ["a", "b"] {
            let store = Store::new(platform.clone());
            cache().put(&store, key, 3, TTL, OWNER);
            platform.run_deferred().now_or_never().unwrap();
            let (cache, store) = (cache(), Store::new(platform.clone()));
            let found = cache.get_store(&store, key).now_or_never().unwrap();
            assert_eq!(found.as_deref(), Some(&3));
        }
        assert_eq!(
            (&platform.store()["salt"], platform.store().len()),
            (&salt, before)
        );
    }

    #[test]
    fn a_salt_that_is_none_is_made_anew() {
        for bytes in ["", "x", "+123456789abcdef", "0123456789abcdef0"] {
            let platform = Scripted::default();
            platform
                .save("salt", bytes.into())
                .now_or_never()
                .unwrap()
                .unwrap();
            let store = Store::new(platform.clone());
            let cache = || Cache::<_, i32>::new("x", ONE);
            assert_eq!(cache().get(&store, "a").now_or_never(), Some(None));
            cache().put(&store, "a", 1, TTL, OWNER);
            platform.run_deferred().now_or_never().unwrap();
            let (cache, store) = (cache(), Store::new(platform.clone()));
            let found = cache.get(&store, "a").now_or_never().unwrap();
            assert_eq!(found.as_deref(), Some(&1), "{bytes:?}");
        }
    }

    #[test]
    fn what_only_clients_name_never_pushes_out_what_is_the_operators() {
        let platform = Scripted::default();
        let store = Store::new(platform.clone());
        let cache = Cache::<_, i32>::new("x", ONE);
        let put = |key: &str, owner| {
            cache.put(&store, key, 1, TTL, owner);
            platform.run_deferred().now_or_never().unwrap();
        };
        let held = |key| {
            let in_memory = cache.get_memory(key, platform.now()).is_some();
            let other = Cache::<_, i32>::new("x", ONE);
            let stored = other.get_store(&store, key).now_or_never().unwrap();
            (in_memory, stored.is_some())
        };
        put("a", Owner::Operator);
        for number in 0..20 {
            put(&format!("invented-{number}"), Owner::Clients);
            assert_eq!(held("a"), (true, true), "{number}");
        }
        // The newest of the clients' are kept where there is room.
        assert_eq!(held("invented-19"), (true, true));
        put("b", Owner::Operator);
        put("c", Owner::Operator);
        put("invented-20", Owner::Clients);
        assert_eq!(["a", "b", "c"].map(held), [(true, true); 3]);
        assert_eq!(held("invented-20"), (false, false));
        put("d", Owner::Operator);
        assert_eq!(held("d"), (true, true));
        assert!(!held("a").1, "the oldest goes");
    }

    #[test]
    fn memory_does_not_grow() {
        let platform = Scripted::default();
        let cache = Cache::<Scripted, i32>::new("x", ONE);
        for number in 0..100 {
            cache.put_memory(&number.to_string(), number, platform.now(), TTL, OWNER);
            assert!(cache.entries.memory.borrow().len() <= 3);
            assert_eq!(
                cache
                    .get_memory(&number.to_string(), platform.now())
                    .as_deref(),
                Some(&number)
            );
        }
    }

    proptest! {
        #[test]
        fn no_stored_bytes_panic_or_pass_for_another_key(
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
