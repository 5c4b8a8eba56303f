//! What one request carries with it through the rooms.

use crate::cache::Store;
use crate::cache::status::Hit;
use crate::config::Config;
use crate::platform::{self, Platform};
use crate::request::cdn_loop::CdnLoop;
use std::cell::Cell;

/// The platform, its store, the operator's settings, the mirrors that this request came through, and what it has cost so
/// far.
pub struct Context<'a, P: Platform> {
    pub platform: &'a P,
    pub store: &'a Store<P>,
    pub config: &'a Config,
    pub hops: CdnLoop,
    pub cost: &'a Cost,
}

impl<P: Platform> Context<'_, P> {
    /// Waits for a small exchange as long as it may take; `None` where it took longer.
    pub async fn in_time<T>(&self, exchange: impl Future<Output = T>) -> Option<T> {
        platform::within(self.platform, self.config.timeouts.exchange, exchange).await
    }
}

/// What answering one request took: for the log.
#[derive(Debug, Default)]
pub struct Cost {
    /// Requests to upstreams, those that follow a redirect included.
    pub requests: Cell<u32>,
    /// Requests to token servers.
    pub fetches: Cell<u32>,
    pub token: Cell<Option<TokenFrom>>,
    /// How the cache of manifests took part.
    pub cache: Cell<Option<Hit>>,
}

/// Where the token that a request was sent with came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFrom {
    Memory,
    Store,
    Fetched,
}

impl TokenFrom {
    pub fn as_str(self) -> &'static str {
        match self {
            TokenFrom::Memory => "memory",
            TokenFrom::Store => "store",
            TokenFrom::Fetched => "fetched",
        }
    }
}

/// Adds one to a counter.
pub fn count(counter: &Cell<u32>) {
    counter.set(counter.get().saturating_add(1));
}
