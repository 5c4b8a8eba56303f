//! Copies of blobs into the store, after the client has its answer.

use super::BlobStore;
use super::client::{Client, length_of, upload_time};
use super::fault::Fault;
use super::ledger::{Change, KEY, Ledger, MAX_COPIES, Turn};
use super::object::BlobObject;
use crate::context::{Context, OwnedContext};
use crate::platform::log_line::LogLine;
use crate::platform::{Payload, Platform};
use crate::policy::permitted::Upstream;
use crate::request::route::Route;
use crate::upstream::failover::Upstreams;
use crate::upstream::{UpstreamRequest, blob};
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Method, Response, StatusCode};
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

/// The most copies of an instance that run or wait. What is not copied now is with the next client.
const MAX_WAITING: usize = 64;
/// How long a copy waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks whether it is its turn.
const TURN_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks whether another copy of this instance is done with the list.
const LIST_INTERVAL: Duration = Duration::from_millis(5);
/// Until a claim that another instance wrote over is seen.
pub const CLAIM_DELAY: Duration = Duration::from_millis(50);
/// How long a claim holds until the length of the blob is known.
const CLAIM: Duration = Duration::from_secs(60);
/// How long it holds at most: an instance may end without a word. A copy that takes longer may be
/// made twice.
const MAX_CLAIM: Duration = Duration::from_secs(15 * 60);

/// The copies of this instance.
#[derive(Debug, Default)]
pub struct Copies {
    /// The objects whose copies run or wait.
    objects: HashSet<String>,
    running: usize,
    /// Whether one of them is changing the list in the key-value store.
    is_list_in_use: bool,
}

/// A blob to be copied, and where it is.
pub struct Job<P: Platform> {
    pub context: OwnedContext<P>,
    pub upstreams: Rc<Upstreams<P>>,
    /// The upstream that served it.
    pub upstream: Upstream,
    pub route: Route,
    pub object: BlobObject,
    /// The delivery network's URL, where the upstream redirected the client there. Otherwise the
    /// upstream is asked again.
    pub location: Option<String>,
}

impl<P: Platform> Job<P> {
    /// Returns the most bytes that a blob may have.
    pub fn max_blob(&self) -> u64 {
        let context = self.context.borrow();
        let config = context.config.blob_store.as_ref();
        config.map_or(0, |config| config.max_blob)
    }
}

/// Copies a blob once the answer has left.
pub fn later<P: Platform>(guard: CopyGuard<P>, job: Job<P>) {
    let platform = job.context.platform.clone();
    // Deferred once more, so that it comes after all that the request itself leaves for later: on
    // WASIp2 one is done after the other.
    platform.clone().defer(async move {
        platform.defer(async move { copy(guard, job).await });
    });
}

/// A copy of this instance, that waits or runs. Dropped, also by being cancelled, it is one no more.
pub struct CopyGuard<P: Platform> {
    pub store: Rc<BlobStore<P>>,
    object: String,
    is_running: bool,
}

impl<P: Platform> CopyGuard<P> {
    /// Returns `None` where the object is being copied, or too many wait.
    pub fn new(store: &Rc<BlobStore<P>>, object: &str) -> Option<CopyGuard<P>> {
        let mut copies = store.copies.borrow_mut();
        let is_taken =
            copies.objects.len() >= MAX_WAITING || !copies.objects.insert(object.to_owned());
        (!is_taken).then(|| CopyGuard {
            store: Rc::clone(store),
            object: object.to_owned(),
            is_running: false,
        })
    }

    /// Takes a place among the copies of this instance that run. Returns whether it has one.
    pub fn start(&mut self) -> bool {
        let mut copies = self.store.copies.borrow_mut();
        if !self.is_running && copies.running < MAX_COPIES {
            copies.running = copies.running.saturating_add(1);
            self.is_running = true;
        }
        self.is_running
    }
}

impl<P: Platform> Drop for CopyGuard<P> {
    fn drop(&mut self) {
        let mut copies = self.store.copies.borrow_mut();
        copies.objects.remove(&self.object);
        if self.is_running {
            copies.running = copies.running.saturating_sub(1);
        }
    }
}

async fn copy<P: Platform>(mut guard: CopyGuard<P>, job: Job<P>) {
    let context = job.context.borrow();
    let store = Rc::clone(&guard.store);
    let Some(copy) = Copy::new(&context, &job, &store) else {
        return;
    };
    if !copy.take_turn(&mut guard).await {
        return;
    }
    let begun = context.platform.now();
    let copied = copy.run().await;
    copy.change_ledger(Change::End(0)).await;
    match copied {
        Ok(None) => {}
        Ok(Some(length)) => copy.kept(length, begun, "copy"),
        // The upstream may have broken off, or the store: the next look at the store tells.
        Err(fault) if fault.is_of_content() => copy.not_kept("not_kept", &fault),
        Err(fault) => store.failed(&context, "put", &fault),
    }
}

/// A copy that runs.
pub struct Copy<'a, P: Platform> {
    pub client: Client<'a, P>,
    pub context: &'a Context<'a, P>,
    pub job: &'a Job<P>,
    store: &'a BlobStore<P>,
    /// What its claim is known by.
    owner: u64,
}

/// Held while a copy of this instance changes the list in the key-value store.
struct ListGuard<'a>(&'a RefCell<Copies>);

impl Drop for ListGuard<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().is_list_in_use = false;
    }
}

impl<'a, P: Platform> Copy<'a, P> {
    /// Returns `None` where there is no store.
    pub fn new(
        context: &'a Context<'a, P>,
        job: &'a Job<P>,
        store: &'a BlobStore<P>,
    ) -> Option<Copy<'a, P>> {
        Some(Copy {
            client: Client::new(context)?,
            context,
            job,
            store,
            owner: context.platform.random(),
        })
    }

    /// Remembers and logs that the store has the blob. `by` says how it came there.
    pub fn kept(&self, length: u64, begun: Duration, by: &str) {
        let (object, now) = (&self.job.object.name, self.context.platform.now());
        self.store.remember(object, length, now);
        let duration = now.saturating_sub(begun).as_millis();
        let mut line = LogLine::new(self.context.config.log_format);
        line.word("blob_store", "kept");
        line.word("object", object);
        line.number("bytes", length);
        line.number("duration_ms", u64::try_from(duration).unwrap_or(u64::MAX));
        line.word("by", by);
        self.context.platform.log(&line.finish());
    }

    /// Logs that the store does not have the blob, which is not its fault.
    pub fn not_kept(&self, word: &str, fault: &Fault) {
        let mut line = LogLine::new(self.context.config.log_format);
        line.word("blob_store", word);
        line.word("object", &self.job.object.name);
        fault.add_to(&mut line);
        self.context.platform.log(&line.finish());
    }

    /// Copies the blob. Returns its length, `None` where it is there already, or is too large.
    async fn run(&self) -> Result<Option<u64>, Fault> {
        let object = &self.job.object;
        // Another instance may have been faster.
        if let Some(length) = self.client.head(&object.name).await? {
            let now = self.context.platform.now();
            self.store.remember(&object.name, length, now);
            return Ok(None);
        }
        let response = self.source().await.ok_or(Fault::Source)?;
        let is_encoded = response.headers().contains_key(CONTENT_ENCODING);
        let length = length_of(&response).filter(|_| !is_encoded);
        let length = length.ok_or(Fault::Source)?;
        if length > self.client.config.max_blob {
            return Ok(None);
        }
        let until = self.claim_end(length);
        self.change_ledger(Change::Begin(length, until)).await;
        let payload = Payload::Stream(response.into_body());
        self.client
            .put(&object.name, payload, length, &object.sha256)
            .await?;
        Ok(Some(length))
    }

    /// Asks for the blob: its delivery network, which gets no token, or else the upstream.
    async fn source(&self) -> Option<Response<P::Body>> {
        let job = self.job;
        let request = UpstreamRequest {
            method: Method::GET,
            route: &job.route,
            query: "",
            headers: HeaderMap::new(),
        };
        let response = match &job.location {
            Some(location) => {
                let from = job.upstream.url(job.route.path());
                blob::fetch(self.context, &request, from, Some(location.clone())).await
            }
            None => {
                let upstreams = &job.upstreams;
                upstreams.blob(self.context, &job.upstream, &request).await
            }
        };
        let response = response.ok()?.response;
        (response.status() == StatusCode::OK).then_some(response)
    }

    /// Waits until the copy may begin, here and in the other instances.
    async fn take_turn(&self, guard: &mut CopyGuard<P>) -> bool {
        let platform = self.context.platform;
        let end = self.end(TURN_TIMEOUT);
        while platform.now() < end {
            if guard.start() {
                let claim = Change::Claim(&guard.object, 0, self.end(CLAIM));
                match self.change_ledger(claim).await {
                    (Turn::Taken, _) => return false,
                    (Turn::Granted, false) => return true,
                    (Turn::Granted, true) => {
                        platform.sleep(CLAIM_DELAY).await;
                        if self.turn().await == Turn::Granted {
                            return true;
                        }
                    }
                    (Turn::Later, _) => {}
                }
            }
            platform.sleep(TURN_INTERVAL).await;
        }
        false
    }

    /// Returns when the claim of an upload of so many bytes ends.
    pub fn claim_end(&self, length: u64) -> Duration {
        self.end(upload_time(length).min(MAX_CLAIM))
    }

    fn end(&self, duration: Duration) -> Duration {
        self.context.platform.now().saturating_add(duration)
    }

    /// Whether the claim still stands: another instance may have written over it.
    pub async fn turn(&self) -> Turn {
        let ledger = self.ledger().await;
        if ledger.holds(self.owner) {
            Turn::Granted
        } else if ledger.is_taken(&self.job.object.name, self.owner) {
            Turn::Taken
        } else {
            Turn::Later
        }
    }

    /// Whether as many copies run as may run.
    pub async fn is_list_full(&self) -> bool {
        self.ledger().await.is_full()
    }

    /// Reads the list of copies in the key-value store.
    async fn ledger(&self) -> Ledger {
        let stored = self.context.store.get(KEY).await.unwrap_or_default();
        Ledger::parse(&stored, self.context.platform.now())
    }

    /// Waits until no other copy of this instance changes the list.
    async fn list(&self) -> ListGuard<'_> {
        let copies = &self.store.copies;
        while copies.borrow().is_list_in_use {
            self.context.platform.sleep(LIST_INTERVAL).await;
        }
        copies.borrow_mut().is_list_in_use = true;
        ListGuard(copies)
    }

    /// Changes the list of copies. Returns whether it was written, too.
    pub async fn change_ledger(&self, change: Change<'_>) -> (Turn, bool) {
        // Of those that change it in the same moment all changes but one are lost.
        let _list = self.list().await;
        let before = self.ledger().await;
        let mut ledger = before.clone();
        let limit = self.client.config.bytes_per_minute;
        let turn = ledger.change(self.owner, change, limit);
        // Whoever has lost its claim must not write over another's.
        if turn != Turn::Granted || ledger == before {
            return (turn, false);
        }
        let is_written = self.context.store.set(KEY, ledger.to_bytes()).await;
        match change {
            // Nothing else counts the bytes of all copies.
            Change::Claim(..) if limit > 0 && !is_written => (Turn::Later, false),
            _ => (turn, is_written),
        }
    }
}
