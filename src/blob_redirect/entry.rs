//! Remembered redirects, and the key that they are found by.

use crate::access::rate_limit::client_address;
use crate::cache::bucket::{BucketLayout, Owner};
use crate::platform::Platform;
use crate::request::route::{Resource, Route};
use crate::upstream::UpstreamRequest;
use crate::upstream::failover::ProxyRequest;
use crate::upstream::{redirect, signed_url};
use http::header::{ACCEPT, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

pub const BLOB_REDIRECTS: BucketLayout = BucketLayout {
    buckets: 32,
    entries: 24,
};

/// No client gets a URL with less left: it may wait before it follows it.
const MIN_LEFT: Duration = Duration::from_secs(60);
/// No redirect is used for longer, however long its URL is good: what it leads to may have been
/// deleted, or have become private.
const MAX_LIFE: Duration = Duration::from_secs(60 * 60);
/// Bytes. A redirect with a longer URL is passed on, but not remembered.
const MAX_LOCATION: usize = 2048;

/// For how long an instance relies on that an upstream's answer for a blob is none to remember: then
/// nobody waits for another's, and the store is not read.
pub const NOT_KEPT: Duration = Duration::from_secs(60);

/// A client that asks for the same again within this time counts as one whom the URL did not help.
/// That often at most the store is told of clients, too.
const REPEATED_WITHIN: Duration = Duration::from_secs(30);
/// A redirect that is younger is served again all the same.
const MIN_AGE: Duration = Duration::from_secs(5);
/// How many clients an entry names.
const MAX_CLIENTS: usize = 8;

/// A request for a blob that a remembered redirect may answer.
#[derive(Clone, Debug)]
pub struct RedirectKey {
    /// The upstreams that may answer, the repository, the digest, and the method: a URL that is
    /// signed for `GET` may be refused to a `HEAD`. No range: it is not signed.
    pub text: String,
    pub owner: Owner,
    /// A hash of the client's address and of the range that it asks for: clients that fetch a blob
    /// in parts ask often, each time for another. `None` where the platform tells no address.
    client: Option<u64>,
}

impl RedirectKey {
    /// Returns `None` for what is no blob, and for a request with conditions: those are for the
    /// upstream to judge.
    pub fn new<P: Platform>(
        proxy: &ProxyRequest<'_, P>,
        request: &UpstreamRequest<'_>,
        client_headers: &HeaderMap,
    ) -> Option<RedirectKey> {
        let Route::Repository(name, Resource::Blob(digest)) = request.route else {
            return None;
        };
        let mut headers = request.headers.keys();
        if !request.query.is_empty() || !headers.all(|it| [ACCEPT, RANGE, IF_RANGE].contains(it)) {
            return None;
        }
        let config = proxy.context.config;
        let repository = config.repository_key(proxy.candidates, name);
        let method = request.method.as_str();
        let trusted_proxies = proxy.context.config.access.trusted_proxies;
        let client = client_address(client_headers, trusted_proxies).map(|address| {
            let mut hasher = DefaultHasher::new();
            address.hash(&mut hasher);
            let range = request.headers.get(RANGE).map(HeaderValue::as_bytes);
            range.hash(&mut hasher);
            hasher.finish()
        });
        Some(RedirectKey {
            text: [&repository, "\n", digest.as_str(), "\n", method].concat(),
            owner: proxy.candidates.owner(),
            client,
        })
    }
}

/// A redirect to a delivery network. All times are in seconds since the Unix epoch.
///
/// **A URL that is dead before its time** (a key was changed, a node fails, the client can't reach
/// this one of several networks) shows only by a client that comes back: dockerd after 5 seconds,
/// podman after 1, 2 and 4, a kubelet after 10. A mirror can't see by one request whether it is
/// that or the next of a hundred clients. So an entry names the clients that were sent there, by
/// their address, and the redirect is fetched anew for one that asks for the same range of the same
/// blob again within [`REPEATED_WITHIN`].
///
/// Clients behind one address look like one that comes back. They cost a request for each blob in
/// [`MIN_AGE`] at most, and get what they would without the mirror's memory; clients with addresses
/// of their own cost none. The opposite rule, to believe no client, would hand out a dead URL for up
/// to an hour.
///
/// An entry names the first eight clients of half a minute: where a URL is dead it is for many, and
/// one that is known again is enough. The store is told of them every half minute at most, so a
/// busy one is not written to with every pull; instances do not share what they know in between.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RedirectEntry {
    location: String,
    fetched_at: u64,
    /// When it can't be handed out any more.
    ends_at: u64,
    persisted_at: u64,
    /// Where it came with an account, the key of the proof that everybody may have it: it is served
    /// as long as there is one.
    proof: Option<String>,
    /// The clients that were sent there lately, and when.
    clients: Vec<(u64, u64)>,
}

impl RedirectEntry {
    /// Makes the entry of a redirect that has just been fetched, whose URL is good until `end`.
    /// Returns `None` where it is not worth keeping.
    pub fn new(
        key: &RedirectKey,
        location: &HeaderValue,
        end: Duration,
        now: Duration,
        proof: Option<String>,
    ) -> Option<RedirectEntry> {
        let location = location.to_str().ok()?;
        let ends_at = end
            .saturating_sub(MIN_LEFT)
            .min(now.saturating_add(MAX_LIFE));
        if ends_at <= now || location.len() > MAX_LOCATION {
            return None;
        }
        Some(RedirectEntry {
            location: location.to_owned(),
            fetched_at: now.as_secs(),
            ends_at: ends_at.as_secs(),
            persisted_at: now.as_secs(),
            proof,
            clients: key
                .client
                .map(|client| (client, now.as_secs()))
                .into_iter()
                .collect(),
        })
    }

    /// Whether this stands for an answer that is not remembered.
    pub fn is_empty(&self) -> bool {
        self.location.is_empty()
    }

    /// Returns the key of the proof that it needs.
    pub fn proof(&self) -> impl Iterator<Item = &str> {
        self.proof.as_deref().into_iter()
    }

    /// Returns the `Location` for a client, judged as that of a fresh redirect is: the store may
    /// have been changed, and the mirror's own name is another for each client. `None` where it
    /// can't be handed out.
    pub fn location<P: Platform>(&self, proxy: &ProxyRequest<'_, P>) -> Option<HeaderValue> {
        let context = proxy.context;
        let end = signed_url::valid_until(&self.location)?;
        if self.location.len() > MAX_LOCATION
            || end < context.platform.now().saturating_add(MIN_LEFT)
        {
            return None;
        }
        let from = proxy.candidates.first().url("/".to_owned());
        redirect::client_location(context, &from, &self.location)
    }

    /// Whether the client of this request was sent there before and asks again.
    pub fn is_reported(&self, key: &RedirectKey, now: Duration) -> bool {
        let is_same = |(client, _): &(u64, u64)| Some(*client) == key.client;
        age(self.fetched_at, now) >= MIN_AGE && self.lately(now).any(is_same)
    }

    /// Returns the entry with the client of this request; `None` where it names enough.
    pub fn with_client(&self, key: &RedirectKey, now: Duration) -> Option<RedirectEntry> {
        let client = key.client?;
        let mut clients: Vec<_> = self.lately(now).copied().collect();
        let is_named = clients.iter().any(|(named, _)| *named == client);
        if is_named || clients.len() >= MAX_CLIENTS {
            return None;
        }
        clients.push((client, now.as_secs()));
        Some(RedirectEntry {
            clients,
            ..self.clone()
        })
    }

    /// Whether the store was told lately who was sent there.
    pub fn is_persisted(&self, now: Duration) -> bool {
        age(self.persisted_at, now) < REPEATED_WITHIN
    }

    pub fn persisted(self, now: Duration) -> RedirectEntry {
        RedirectEntry {
            persisted_at: now.as_secs(),
            ..self
        }
    }

    pub fn ttl(&self, now: Duration) -> Duration {
        Duration::from_secs(self.ends_at).saturating_sub(now)
    }

    fn lately(&self, now: Duration) -> impl Iterator<Item = &(u64, u64)> {
        let is_recent = move |(_, at): &&(u64, u64)| age(*at, now) < REPEATED_WITHIN;
        self.clients.iter().filter(is_recent)
    }
}

fn age(since: u64, now: Duration) -> Duration {
    Duration::from_secs(now.as_secs().saturating_sub(since))
}
