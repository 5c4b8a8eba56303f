//! A value of the key-value store: a few entries of the same kind, each with its key and its
//! validity.
//!
//! No store here expires a key, and some allow 1,024 of them. So a store key is a bucket that an
//! entry's own key is hashed into, and a full bucket drops its oldest entry: the store can't grow
//! with traffic. Which bucket that is depends on a salt that only the store knows: whoever invents
//! names can't choose whose entry they push out.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::time::Duration;

/// Bytes. DynamoDB allows items of 400 KB, other stores more; an entry that does not fit is cached
/// in memory only.
pub const MAX_VALUE: usize = 390_000;

/// By how much the clocks of hosts that share a store may differ. An entry that was stored later
/// than this from now is not used: a clock was set back, and the entry's end may be hours away.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(10 * 60);

/// How many buckets a kind of entries has in the store, each under a key of its own, and how many
/// entries a bucket holds.
#[derive(Clone, Copy, Debug)]
pub struct BucketLayout {
    pub buckets: u32,
    pub entries: usize,
}

impl BucketLayout {
    /// Returns the number of the bucket that an entry with this key belongs to, in a store with
    /// this salt.
    pub fn bucket_of(self, salt: u64, key: &str) -> u32 {
        let hash = Sha256::new()
            .chain_update(salt.to_be_bytes())
            .chain_update(key.as_bytes())
            .finalize();
        let number = hash
            .iter()
            .take(4)
            .fold(0_u32, |number, byte| (number << 8) | u32::from(*byte));
        number.checked_rem(self.buckets).unwrap_or_default()
    }

    /// Returns how many entries all buckets hold.
    pub fn capacity(self) -> usize {
        self.entries.saturating_mul(self.buckets as usize)
    }
}

/// Whose upstream an entry is of. Where there is no room, those of clients go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// The operator names it in a setting.
    Operator,
    /// Only clients name it, and they may name as many as they like.
    #[default]
    Clients,
}

/// When an entry was stored, and when it expires; seconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    pub stored_at: u64,
    pub expires_at: u64,
}

impl Validity {
    pub fn starting(now: Duration, ttl: Duration) -> Validity {
        Validity {
            stored_at: now.as_secs(),
            expires_at: now.saturating_add(ttl).as_secs(),
        }
    }

    pub fn includes(self, now: Duration) -> bool {
        self.stored_at <= now.saturating_add(MAX_CLOCK_SKEW).as_secs()
            && now.as_secs() < self.expires_at
    }
}

/// The entries of a bucket, the newest first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Bucket<'a>(#[serde(borrow)] Vec<Entry<'a>>);

#[derive(Debug, Serialize, Deserialize)]
pub struct Entry<'a> {
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    pub stored_at: u64,
    pub expires_at: u64,
    pub owner: Owner,
    /// Parsed only where the key is the one that is looked for.
    #[serde(borrow)]
    pub value: &'a RawValue,
}

impl Entry<'_> {
    pub fn validity(&self) -> Validity {
        Validity {
            stored_at: self.stored_at,
            expires_at: self.expires_at,
        }
    }
}

impl<'a> Bucket<'a> {
    /// Reads a value of the store. One that is not a bucket counts as an empty bucket.
    pub fn parse(bytes: &'a [u8]) -> Bucket<'a> {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// Returns the valid entry with this key.
    pub fn get(&self, key: &str, now: Duration) -> Option<&Entry<'a>> {
        let is_wanted = |entry: &&Entry<'_>| entry.key == key && entry.validity().includes(now);
        self.0.iter().find(is_wanted)
    }

    /// Puts an entry first. Drops the entry with the same key, those that expired, and as many as
    /// are beyond `capacity`: see [`Bucket::drop_one`].
    pub fn put(&mut self, entry: Entry<'a>, now: Duration, capacity: usize) {
        self.0
            .retain(|held| held.key != entry.key && held.validity().includes(now));
        self.0.insert(0, entry);
        while self.0.len() > capacity {
            self.drop_one();
        }
    }

    /// Drops the oldest entry that is of clients, or where there is none the oldest. That may be
    /// the newest of all: a bucket that is full of the operator's stays so.
    fn drop_one(&mut self) {
        let of_clients = |entry: &Entry<'_>| entry.owner == Owner::Clients;
        match self.0.iter().rposition(of_clients) {
            Some(oldest) => drop(self.0.remove(oldest)),
            None => drop(self.0.pop()),
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.0.retain(|held| held.key != key);
    }

    /// Writes a value of the store, without as many entries as exceed [`MAX_VALUE`]. Returns `None`
    /// where none is left.
    pub fn into_bytes(mut self) -> Option<Vec<u8>> {
        while !self.0.is_empty() {
            let bytes = serde_json::to_vec(&self).ok()?;
            if bytes.len() <= MAX_VALUE {
                return Some(bytes);
            }
            self.drop_one();
        }
        None
    }

    /// Writes a value of the store, which may be an empty bucket.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok()
    }
}
