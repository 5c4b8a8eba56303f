//! The context of one request: the platform, the settings, and what the request has taken so far.

use crate::cache::status::CacheStatus;
use crate::cache::store::Store;
use crate::config::Config;
use crate::platform::{self, Platform};
use crate::policy::permitted::Upstream;
use crate::registry::origin::Origin;
use crate::request::cdn_loop::CdnLoop;
use crate::request::external_url::ExternalUrl;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

pub struct Context<'a, P: Platform> {
    pub platform: &'a P,
    pub store: &'a Store<P>,
    pub config: &'a Rc<Config>,
    /// The mirrors that the request came through.
    pub cdn_loop: CdnLoop,
    /// The URL that the client knows this mirror by.
    pub external_url: &'a ExternalUrl,
    pub stats: &'a RequestStats,
}

impl<P: Platform> Context<'_, P> {
    /// Returns the context of work that goes on after the answer.
    pub fn to_owned(&self) -> OwnedContext<P> {
        OwnedContext {
            platform: self.platform.clone(),
            store: self.store.timed(&Rc::default()),
            config: Rc::clone(self.config),
            cdn_loop: self.cdn_loop.clone(),
            external_url: self.external_url.clone(),
            stats: RequestStats::default(),
        }
    }

    /// Runs a small exchange for at most `exchange_timeout`. Returns `None` where it takes longer.
    pub async fn within_exchange_timeout<T>(&self, exchange: impl Future<Output = T>) -> Option<T> {
        platform::within(self.platform, self.config.timeouts.exchange, exchange).await
    }
}

/// The context of work that goes on after the answer. It counts for itself.
pub struct OwnedContext<P: Platform> {
    pub platform: P,
    store: Store<P>,
    config: Rc<Config>,
    cdn_loop: CdnLoop,
    external_url: ExternalUrl,
    stats: RequestStats,
}

impl<P: Platform> OwnedContext<P> {
    pub fn borrow(&self) -> Context<'_, P> {
        Context {
            platform: &self.platform,
            store: &self.store,
            config: &self.config,
            cdn_loop: self.cdn_loop.clone(),
            external_url: &self.external_url,
            stats: &self.stats,
        }
    }
}

/// Counters and sources of one request, for the access log.
#[derive(Debug, Default)]
pub struct RequestStats {
    /// Requests to upstreams and their delivery networks.
    pub upstream_requests: Exchanges,
    /// Requests to token servers.
    pub token_requests: Exchanges,
    /// How long reads of the store took.
    pub store_time: Rc<Cell<Duration>>,
    /// The hosts that were asked for tokens because a registry that only a client named says so,
    /// and it is another.
    pub foreign_realms: RefCell<Vec<Origin>>,
    pub token_source: Cell<Option<TokenSource>>,
    /// The name of the account that the upstream was asked with last; empty for the anonymous user.
    pub account: RefCell<String>,
    pub cache_status: Cell<Option<CacheStatus>>,
    /// The upstreams that were asked, in this order.
    pub attempts: RefCell<Vec<Upstream>>,
}

/// Where the token that a request was sent with came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource {
    Memory,
    Store,
    Fetched,
}

impl TokenSource {
    /// Returns the word for it in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenSource::Memory => "memory",
            TokenSource::Store => "store",
            TokenSource::Fetched => "fetched",
        }
    }
}

/// Requests of one kind.
#[derive(Debug, Default)]
pub struct Exchanges {
    count: Cell<u32>,
    time: Cell<Duration>,
}

impl Exchanges {
    /// Returns how many were sent.
    pub fn get(&self) -> u32 {
        self.count.get()
    }

    /// Returns how long it took until the heads of their responses were there.
    pub fn time(&self) -> Duration {
        self.time.get()
    }

    /// Counts one more.
    pub fn increment(&self) {
        self.count.set(self.count.get().saturating_add(1));
    }

    /// Adds the time of one.
    pub fn took(&self, time: Duration) {
        self.time.set(self.time.get().saturating_add(time));
    }
}
