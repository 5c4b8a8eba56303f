//! What is remembered from one request to the next: in this instance's memory, and behind it in the key-value store.
//!
//! Neither can grow. No store here expires a key, and some allow 1,024 of them, so an entry's key is a bucket that its
//! identity falls into, and a full bucket loses its oldest entry. An entry repeats its identity and its end, and is checked
//! against both when it is read. A store that fails, or is slow, costs speed and nothing else.

pub mod single_flight;
pub mod status;

use crate::cache::single_flight::Flights;
use crate::platform::{self, Platform};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

/// A store that takes longer to answer a read is left alone.
const STORE_PATIENCE: Duration = Duration::from_millis(500);
/// How long it is left alone. After a fault it is only not read: what can't be read can be written over.
const STORE_REST: Duration = Duration::from_secs(5);
/// By how much the clocks of those that share a store may differ. What was kept later than that from now is not believed: a
/// clock was set back, and its end may be hours away.
const CLOCKS_DIFFER: Duration = Duration::from_secs(10 * 60);
/// Platforms allow 1 MB; a larger value is kept in memory only.
const MAX_VALUE: usize = 900_000;

/// The key-value store, left alone for a while where it is slow, and not read for a while after a fault.
#[derive(Debug)]
pub struct Store<P> {
    platform: P,
    unread_until: Cell<Duration>,
    unwritten_until: Cell<Duration>,
}

/// Entries of one kind, each with an identity and an end: in the store as many as all buckets hold, in memory too.
pub struct Cache<P: Platform, T> {
    kind: &'static str,
    shape: Shape,
    memory: RefCell<HashMap<String, Remembered<T>>>,
    /// A new instance is asked by many at once, and often for the same.
    reads: Flights<P, Option<Rc<T>>>,
}

/// How many buckets, each a key in the store, and how many entries in each.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub buckets: u32,
    pub entries: usize,
}

#[derive(Debug)]
struct Remembered<T> {
    value: Rc<T>,
    span: Span,
}

/// When an entry was kept, and its end; seconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
struct Span {
    kept: u64,
    expires: u64,
}

/// A value in the store: the newest entry first.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Bucket<'a>(#[serde(borrow)] Vec<Entry<'a>>);

#[derive(Debug, Serialize, Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    identity: Cow<'a, str>,
    /// When it was kept, and its end; seconds since the Unix epoch.
    #[serde(default)]
    kept: u64,
    expires: u64,
    /// Not read where it is the entry of another identity.
    #[serde(borrow)]
    value: &'a RawValue,
}

impl<P: Platform> Store<P> {
    pub fn new(platform: P) -> Store<P> {
        Store {
            platform,
            unread_until: Cell::default(),
            unwritten_until: Cell::default(),
        }
    }

    async fn load(&self, key: &str) -> Option<Vec<u8>> {
        if rests(self.unread_until.get(), self.platform.now()) {
            return None;
        }
        let fault =
            match platform::within(&self.platform, STORE_PATIENCE, self.platform.load(key)).await {
                Some(Ok(value)) => return value,
                Some(Err(fault)) => Some(fault.0),
                None => None,
            };
        let rested = self.platform.now().saturating_add(STORE_REST);
        self.unread_until.set(rested);
        let reason = fault.unwrap_or_else(|| {
            self.unwritten_until.set(rested);
            "too slow".to_owned()
        });
        self.platform.log(&failed("reading", key, &reason));
        None
    }

    /// Changes the value of `key`, after the answer has left. Who changes it at the same time may be overwritten, and so is
    /// what can't be read: nobody can say whether it ever can be again, and what it held costs speed only.
    fn update(
        &self,
        key: String,
        change: impl FnOnce(Option<Vec<u8>>) -> Option<Vec<u8>> + 'static,
    ) {
        if rests(self.unwritten_until.get(), self.platform.now()) {
            return;
        }
        let platform = self.platform.clone();
        self.platform.defer(async move {
            let (loaded, unreadable) = match platform.load(&key).await {
                Ok(value) => (value, None),
                Err(fault) => (None, Some(fault)),
            };
            let Some(value) = change(loaded) else { return };
            if let Err(fault) = platform.save(&key, value).await {
                platform.log(&failed("writing", &key, &fault.0));
            } else if let Some(fault) = unreadable {
                platform.log(&failed("reading", &key, &fault.0));
            }
        });
    }
}

/// Whether the store is left alone until then: not where that is further away than it ever rests.
fn rests(until: Duration, now: Duration) -> bool {
    now < until && until <= now.saturating_add(STORE_REST)
}

/// A line of the log.
fn failed(doing: &str, key: &str, reason: &str) -> String {
    format!("hammal store=failed {doing}={key} reason={reason:?}")
}

impl<P: Platform, T: Serialize + DeserializeOwned> Cache<P, T> {
    /// `kind` begins the keys in the store: letters and digits.
    pub fn new(kind: &'static str, shape: Shape) -> Cache<P, T> {
        Cache {
            kind,
            shape,
            memory: RefCell::default(),
            reads: Flights::default(),
        }
    }

    /// What this instance remembers, or else the store.
    pub async fn find(&self, store: &Store<P>, identity: &str) -> Option<Rc<T>> {
        match self.remembered(identity, store.platform.now()) {
            Some(value) => Some(value),
            None => self.stored(store, identity).await,
        }
    }

    /// What this instance remembers.
    pub fn remembered(&self, identity: &str, now: Duration) -> Option<Rc<T>> {
        let memory = self.memory.borrow();
        let held = memory.get(identity).filter(|held| held.span.holds(now))?;
        Some(held.value.clone())
    }

    /// What the store remembers; this instance remembers it too from then on.
    pub async fn stored(&self, store: &Store<P>, identity: &str) -> Option<Rc<T>> {
        self.stored_if(store, identity, |_| true).await
    }

    /// What the store remembers, if it is right: otherwise this instance must not remember it either.
    pub async fn stored_if(
        &self,
        store: &Store<P>,
        identity: &str,
        is_right: impl Fn(&T) -> bool,
    ) -> Option<Rc<T>> {
        let read = async || {
            let bytes = store.load(&self.key(identity)).await?;
            let now = store.platform.now();
            let mut entries = Bucket::parse(&bytes).0.into_iter();
            let entry =
                entries.find(|entry| entry.identity == identity && entry.span().holds(now))?;
            let value = serde_json::from_str(entry.value.get())
                .ok()
                .filter(&is_right)?;
            let value = Rc::new(value);
            self.put(identity, Rc::clone(&value), now, entry.span());
            Some(value)
        };
        self.reads.share(&store.platform, identity, read).await
    }

    /// Remembers in this instance only.
    pub fn remember(&self, identity: &str, value: impl Into<Rc<T>>, now: Duration, life: Duration) {
        self.put(identity, value.into(), now, Span::new(now, life));
    }

    /// Remembers in this instance now and in the store after the answer has left.
    pub fn keep(&self, store: &Store<P>, identity: &str, value: impl Into<Rc<T>>, life: Duration) {
        let now = store.platform.now();
        let (value, span) = (value.into(), Span::new(now, life));
        let (most, written) = (self.shape.entries, to_raw_value(&*value));
        self.put(identity, value, now, span);
        let Ok(value) = written else { return };
        let (identity, platform) = (identity.to_owned(), store.platform.clone());
        store.update(self.key(&identity), move |bytes| {
            let bytes = bytes.unwrap_or_default();
            let mut bucket = Bucket::parse(&bytes);
            let Span { kept, expires } = span;
            // The answer may have been a download of hours.
            let now = platform.now();
            let is_newer = |held: &Entry<'_>| {
                held.identity == identity && held.span().holds(now) && held.kept > kept
            };
            if !span.holds(now) || bucket.0.iter().any(is_newer) {
                return None;
            }
            bucket.put(
                Entry {
                    identity: identity.into(),
                    kept,
                    expires,
                    value: &value,
                },
                now,
                most,
            );
            bucket.into_bytes()
        });
    }

    /// Forgets in this instance now and in the store after the answer has left.
    pub fn forget(&self, store: &Store<P>, identity: &str) {
        self.memory.borrow_mut().remove(identity);
        let identity = identity.to_owned();
        store.update(self.key(&identity), move |bytes| {
            let bytes = bytes?;
            let mut bucket = Bucket::parse(&bytes);
            bucket.0.retain(|held| held.identity != identity);
            serde_json::to_vec(&bucket).ok()
        });
    }

    fn put(&self, identity: &str, value: Rc<T>, now: Duration, span: Span) {
        let mut memory = self.memory.borrow_mut();
        let most = self
            .shape
            .entries
            .saturating_mul(self.shape.buckets as usize);
        if memory.len() >= most {
            memory.retain(|_, held| held.span.holds(now));
        }
        // What is forgotten here is in the store.
        if memory.len() >= most {
            memory.clear();
        }
        memory.insert(identity.to_owned(), Remembered { value, span });
    }

    fn key(&self, identity: &str) -> String {
        let hash = Sha256::digest(identity.as_bytes());
        let number = hash
            .iter()
            .take(4)
            .fold(0_u32, |number, byte| (number << 8) | u32::from(*byte));
        format!(
            "{}-{}",
            self.kind,
            number.checked_rem(self.shape.buckets).unwrap_or_default()
        )
    }
}

impl Span {
    fn new(now: Duration, life: Duration) -> Span {
        Span {
            kept: now.as_secs(),
            expires: now.saturating_add(life).as_secs(),
        }
    }

    fn holds(self, now: Duration) -> bool {
        self.kept <= now.saturating_add(CLOCKS_DIFFER).as_secs() && now.as_secs() < self.expires
    }
}

impl Entry<'_> {
    fn span(&self) -> Span {
        Span {
            kept: self.kept,
            expires: self.expires,
        }
    }
}

impl<'a> Bucket<'a> {
    /// What is no bucket is an empty one.
    fn parse(bytes: &'a [u8]) -> Bucket<'a> {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// Takes an entry in, in the place of the one that it is newer than, of those whose end has come, and of the oldest
    /// where there are `most` already.
    fn put(&mut self, entry: Entry<'a>, now: Duration, most: usize) {
        self.0
            .retain(|held| held.identity != entry.identity && held.span().holds(now));
        self.0.insert(0, entry);
        self.0.truncate(most);
    }

    /// As a value of the store, without as many of the oldest entries as are too much for it; `None` where the newest
    /// alone is.
    fn into_bytes(mut self) -> Option<Vec<u8>> {
        while !self.0.is_empty() {
            let bytes = serde_json::to_vec(&self).ok()?;
            if bytes.len() <= MAX_VALUE {
                return Some(bytes);
            }
            self.0.pop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::scripted::{Scripted, StoreIs};
    use futures_util::future::FutureExt;
    use proptest::prelude::*;

    const ONE: Shape = Shape {
        buckets: 1,
        entries: 3,
    };
    const LIFE: Duration = Duration::from_secs(60);

    /// What a new instance finds under `identity` in a store whose bytes were changed after `mine` was kept there.
    fn found(identity: &str, change: impl Fn(&mut Vec<u8>)) -> Option<String> {
        let platform = Scripted::default();
        let store = Store::new(platform.clone());
        Cache::<_, String>::new("x", ONE).keep(&store, "mine", "value".to_owned(), LIFE);
        platform.settle().now_or_never().unwrap();
        platform.change_store(change);
        Cache::<_, String>::new("x", ONE)
            .stored(&store, identity)
            .now_or_never()
            .unwrap()
            .as_deref()
            .cloned()
    }

    #[test]
    fn what_is_stored_is_found_under_its_own_identity_only() {
        assert_eq!(found("mine", |_| ()).as_deref(), Some("value"));
        assert_eq!(found("yours", |_| ()), None);
    }

    #[test]
    fn a_full_bucket_loses_its_oldest_entry_and_those_whose_end_has_come() {
        let platform = Scripted::default();
        let store = Store::new(platform.clone());
        let keep = |identity: &str, life| {
            Cache::<_, String>::new("x", ONE).keep(&store, identity, identity.to_owned(), life);
            platform.settle().now_or_never().unwrap();
        };
        let held = || {
            let stored = |identity: &&&str| {
                Cache::<_, String>::new("x", ONE)
                    .stored(&store, identity)
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
        for (identity, expected) in [
            ("a", "a"),
            ("b", "ab"),
            ("c", "abc"),
            ("a", "abc"),
            ("d", "acd"),
        ] {
            keep(identity, LIFE);
            assert_eq!(held(), expected);
        }
        keep("b", Duration::from_secs(1));
        assert_eq!(held(), "abd");
        platform.pass(Duration::from_secs(2));
        keep("e", LIFE);
        assert_eq!(held(), "ade");
        assert_eq!(platform.store().len(), 1);
    }

    #[test]
    fn what_is_written_late_leaves_what_is_newer() {
        let platform = Scripted::default();
        let store = Store::new(platform.clone());
        let cache = || Cache::<_, i32>::new("x", ONE);
        let found = |identity| {
            cache()
                .stored(&store, identity)
                .now_or_never()
                .unwrap()
                .as_deref()
                .copied()
        };
        // Two answers that are still on their way, as a download of an hour is.
        cache().keep(&store, "a", 1, 200 * LIFE);
        let late = platform.take_deferred();
        cache().keep(&store, "b", 1, LIFE);
        let too_late = platform.take_deferred();
        platform.pass(2 * CLOCKS_DIFFER);
        for identity in ["a", "b"] {
            cache().keep(&store, identity, 2, LIFE);
        }
        platform.settle().now_or_never().unwrap();
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
                .stored(&store, "a")
                .now_or_never()
                .unwrap()
                .as_deref()
                .copied()
        };
        platform.set_store(StoreIs::Unreadable);
        assert_eq!(found(), None);
        Cache::new("x", ONE).keep(&store, "a", 1, LIFE);
        platform.settle().now_or_never().unwrap();
        assert_eq!(
            platform.log(),
            [r#"hammal store=failed reading=x-0 reason="malformed""#; 2]
        );
        platform.set_store(StoreIs::Well);
        platform.pass(STORE_REST);
        assert_eq!(found(), Some(1));
    }

    #[test]
    fn what_was_kept_by_a_clock_far_ahead_is_not_believed_when_it_is_set_right() {
        for (back, believed) in [
            (CLOCKS_DIFFER, true),
            (CLOCKS_DIFFER + Duration::from_secs(1), false),
        ] {
            let platform = Scripted::default();
            platform.pass(2 * CLOCKS_DIFFER);
            let (store, cache) = (Store::new(platform.clone()), Cache::<_, i32>::new("x", ONE));
            cache.keep(&store, "a", 1, LIFE);
            platform.settle().now_or_never().unwrap();
            platform.set_back(back);
            for cache in [&cache, &Cache::new("x", ONE)] {
                assert_eq!(
                    cache.find(&store, "a").now_or_never().unwrap().is_some(),
                    believed,
                    "{back:?}"
                );
            }
        }
        let platform = Scripted::default();
        platform.pass(2 * CLOCKS_DIFFER);
        let (store, cache) = (Store::new(platform.clone()), Cache::<_, i32>::new("x", ONE));
        platform.set_store(StoreIs::Unreadable);
        assert_eq!(cache.find(&store, "a").now_or_never(), Some(None));
        platform.set_back(STORE_REST);
        cache.find(&store, "a").now_or_never();
        assert_eq!(platform.store_calls(), 2);
    }

    #[test]
    fn what_is_too_large_for_the_store_is_kept_in_memory_only() {
        let platform = Scripted::default();
        let (store, cache) = (
            Store::new(platform.clone()),
            Cache::<_, String>::new("x", ONE),
        );
        for (identity, length) in [
            ("a", MAX_VALUE / 2),
            ("b", 10),
            ("c", MAX_VALUE / 2),
            ("d", MAX_VALUE),
        ] {
            cache.keep(&store, identity, "x".repeat(length), LIFE);
            platform.settle().now_or_never().unwrap();
            assert!(cache.remembered(identity, platform.now()).is_some());
        }
        let stored = |identity| {
            let found = Cache::<_, String>::new("x", ONE)
                .stored(&store, identity)
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
        platform.set_store(StoreIs::Hanging);
        let mut asked: Vec<_> = ["a", "a", "b", "a"]
            .map(|identity| Box::pin(cache.find(&store, identity)))
            .into();
        assert!(asked.iter_mut().all(|found| found.now_or_never().is_none()));
        assert_eq!(platform.store_calls(), 2);
        // Who reads goes away, and another reads.
        drop(asked.remove(0));
        platform.set_store(StoreIs::Well);
        assert_eq!(asked.remove(0).now_or_never(), Some(None));
        assert_eq!(platform.store_calls(), 3);
    }

    #[test]
    fn memory_does_not_grow() {
        let platform = Scripted::default();
        let cache = Cache::<Scripted, i32>::new("x", ONE);
        for number in 0..100 {
            cache.remember(&number.to_string(), number, platform.now(), LIFE);
            assert!(cache.memory.borrow().len() <= 3);
            assert_eq!(
                cache
                    .remembered(&number.to_string(), platform.now())
                    .as_deref(),
                Some(&number)
            );
        }
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
