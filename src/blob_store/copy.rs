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
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

/// The most copies of an instance that run or wait. What is not copied now is with the next client.
const MAX_WAITING: usize = 64;
/// How long a copy waits for its turn.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it is its turn.
const LOOK: Duration = Duration::from_secs(1);
/// Until a claim that another instance wrote over is seen.
const SETTLE: Duration = Duration::from_millis(50);
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

impl<P: Platform> BlobStore<P> {
    /// Copies a blob once the answer has left. Does nothing where that is being done.
    pub fn copy_later(self: &Rc<Self>, job: Job<P>) {
        let mut copies = self.copies.borrow_mut();
        let name = &job.object.name;
        if copies.objects.len() >= MAX_WAITING || !copies.objects.insert(name.clone()) {
            return;
        }
        let guard = CopyGuard {
            store: Rc::clone(self),
            object: name.clone(),
            is_running: false,
        };
        let platform = job.context.platform.clone();
        // Deferred once more, so that it comes after all that the request itself leaves for later:
        // on WASIp2 one is done after the other.
        platform.clone().defer(async move {
            platform.defer(async move { copy(guard, job).await });
        });
    }

    /// Takes a place among the copies of this instance that run.
    fn start_copy(&self) -> bool {
        let mut copies = self.copies.borrow_mut();
        let is_free = copies.running < MAX_COPIES;
        if is_free {
            copies.running = copies.running.saturating_add(1);
        }
        is_free
    }
}

/// Removes a copy from those of the instance when it ends, also by being cancelled.
struct CopyGuard<P: Platform> {
    store: Rc<BlobStore<P>>,
    object: String,
    is_running: bool,
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
    let Some(client) = Client::new(&context) else {
        return;
    };
    let copy = Copy {
        client,
        context: &context,
        job: &job,
        owner: context.platform.random(),
    };
    if !copy.take_turn(&mut guard).await {
        return;
    }
    let begun = context.platform.now();
    let copied = copy.run(&guard.store).await;
    copy.change_ledger(Change::End).await;
    let (object, store) = (&job.object.name, &guard.store);
    let mut line = LogLine::new(context.config.log_format);
    match copied {
        Ok(None) => return,
        Ok(Some(length)) => {
            let now = context.platform.now();
            store.remember(object, length, now);
            let duration = now.saturating_sub(begun).as_millis();
            line.word("blob_store", "kept");
            line.word("object", object);
            line.number("bytes", length);
            line.number("duration_ms", u64::try_from(duration).unwrap_or(u64::MAX));
        }
        // The upstream may have broken off, or the store: the next look at the store tells.
        Err(fault) if fault.is_of_content() => {
            line.word("blob_store", "not_kept");
            line.word("object", object);
            fault.add_to(&mut line);
        }
        Err(fault) => return store.failed(&context, "put", &fault),
    }
    context.platform.log(&line.finish());
}

/// A copy that runs.
struct Copy<'a, P: Platform> {
    client: Client<'a, P>,
    context: &'a Context<'a, P>,
    job: &'a Job<P>,
    /// What its claim is known by.
    owner: u64,
}

impl<P: Platform> Copy<'_, P> {
    /// Copies the blob. Returns its length, `None` where it is there already, or is too large.
    async fn run(&self, store: &BlobStore<P>) -> Result<Option<u64>, Fault> {
        let object = &self.job.object;
        // Another instance may have been faster.
        if let Some(length) = self.client.head(&object.name).await? {
            store.remember(&object.name, length, self.context.platform.now());
            return Ok(None);
        }
        let response = self.source().await.ok_or(Fault::Source)?;
        let is_encoded = response.headers().contains_key(CONTENT_ENCODING);
        let length = length_of(&response).filter(|_| !is_encoded);
        let length = length.ok_or(Fault::Source)?;
        if length > self.client.config.max_blob {
            return Ok(None);
        }
        let until = self.end(upload_time(length).min(MAX_CLAIM));
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
        let end = self.end(PATIENCE);
        while platform.now() < end {
            guard.is_running = guard.is_running || guard.store.start_copy();
            if guard.is_running {
                let claim = Change::Claim(&guard.object, self.end(CLAIM));
                match self.change_ledger(claim).await {
                    (Turn::Taken, _) => return false,
                    (Turn::Granted, false) => return true,
                    (Turn::Granted, true) => {
                        platform.sleep(SETTLE).await;
                        if self.ledger().await.holds(self.owner) {
                            return true;
                        }
                    }
                    (Turn::Later, _) => {}
                }
            }
            platform.sleep(LOOK).await;
        }
        false
    }

    fn end(&self, duration: Duration) -> Duration {
        self.context.platform.now().saturating_add(duration)
    }

    /// Reads the list of copies in the key-value store.
    async fn ledger(&self) -> Ledger {
        let stored = self.context.store.get(KEY).await.unwrap_or_default();
        Ledger::parse(&stored, self.context.platform.now())
    }

    /// Changes the list of copies. Returns whether it was written, too.
    async fn change_ledger(&self, change: Change<'_>) -> (Turn, bool) {
        let mut ledger = self.ledger().await;
        let limit = self.client.config.bytes_per_minute;
        let turn = ledger.change(self.owner, change, limit);
        if turn != Turn::Granted {
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
