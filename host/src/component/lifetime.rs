//! What the server tells an instance of its requests: which of them nobody waits for any more.
//!
//! Wasmtime can't cancel one request of an instance. So an instance ends, with everything that it
//! has asked upstreams for, once nobody waits for any of its requests.

use futures::task::AtomicWaker;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

/// One request, as its instance sees it.
#[derive(Debug, Default)]
pub struct RequestLife(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    /// No instance has taken the request yet.
    #[default]
    Queued,
    With(Arc<InstanceLife>),
    /// Nobody waits for it: `true` if it was given up before it was answered.
    Over(bool),
}

impl RequestLife {
    /// `instance` begins to handle the request.
    pub fn start(&self, instance: &Arc<InstanceLife>) {
        let mut state = self.lock();
        match *state {
            State::Queued => {
                instance.requests().open += 1;
                *state = State::With(Arc::clone(instance));
            }
            State::With(_) => {}
            State::Over(given_up) => instance.requests().ended(given_up),
        }
    }

    /// Whether nobody waited for it any more before it was answered.
    pub fn is_given_up(&self) -> bool {
        matches!(*self.lock(), State::Over(true))
    }

    fn end(&self, given_up: bool) {
        let mut state = self.lock();
        if let State::With(instance) = &*state {
            instance.close(given_up);
        }
        *state = State::Over(given_up);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held while somebody waits for a request, or takes its response. Dropped before the response has
/// begun, the request is given up.
#[derive(Debug)]
pub struct Interest {
    request: Arc<RequestLife>,
    is_answered: bool,
}

impl Interest {
    /// Somebody waits for `request`.
    pub fn new(request: Arc<RequestLife>) -> Self {
        Self {
            request,
            is_answered: false,
        }
    }

    /// The response has begun.
    pub fn answered(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.request.end(!self.is_answered);
    }
}

/// One instance's requests.
#[derive(Debug, Default)]
pub struct InstanceLife {
    requests: Mutex<Requests>,
    waker: AtomicWaker,
    /// Bytes of linear memory.
    memory: AtomicUsize,
}

#[derive(Debug, Default)]
struct Requests {
    /// Requests that somebody waits for, and responses that somebody takes.
    open: usize,
    /// Uploads in progress.
    uploads: usize,
    has_given_up: bool,
    /// When the last of them ended.
    last_end: Option<Instant>,
}

impl Requests {
    fn ended(&mut self, given_up: bool) {
        self.has_given_up |= given_up;
        self.last_end = Some(Instant::now());
    }

    /// Since when nobody waits for any of them, if one was given up.
    fn given_up_since(&self) -> Option<Instant> {
        self.last_end
            .filter(|_| self.open == 0 && self.uploads == 0 && self.has_given_up)
    }
}

impl InstanceLife {
    /// Its linear memory has grown to `bytes`.
    pub fn set_memory(&self, bytes: usize) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of linear memory: what was used once remains until the instance ends.
    pub fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    fn close(&self, given_up: bool) {
        let mut requests = self.requests();
        requests.open -= 1;
        requests.ended(given_up);
        if requests.open == 0 {
            self.waker.wake();
        }
    }

    /// The instance begins to upload something, which goes on until the result is dropped: a copy for
    /// the blob store serves other clients than the one who has given up.
    pub fn upload(self: &Arc<Self>) -> Upload {
        self.requests().uploads += 1;
        Upload(Arc::clone(self))
    }

    /// Whether requests were given up, and nobody waits for others of this instance: since when.
    /// `Pending` wakes the task once that is so.
    pub fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<Instant> {
        self.waker.register(cx.waker());
        match self.requests().given_up_since() {
            Some(since) => Poll::Ready(since),
            None => Poll::Pending,
        }
    }

    /// Whether requests were given up, and nobody waits for others of this instance.
    pub fn is_given_up(&self) -> bool {
        self.requests().given_up_since().is_some()
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An upload of an instance.
#[derive(Debug)]
pub struct Upload(Arc<InstanceLife>);

impl Drop for Upload {
    fn drop(&mut self) {
        let mut requests = self.0.requests();
        requests.uploads -= 1;
        requests.last_end = Some(Instant::now());
        if requests.uploads == 0 {
            self.0.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use std::time::Duration;

    fn request(instance: &Arc<InstanceLife>) -> Interest {
        let request = Arc::new(RequestLife::default());
        request.start(instance);
        Interest::new(request)
    }

    #[test]
    fn an_instance_is_given_up_with_the_last_of_its_requests() {
        let instance = Arc::default();
        let (first, mut second) = (request(&instance), request(&instance));
        drop(first);
        assert!(!instance.is_given_up());
        second.answered();
        assert!(!instance.is_given_up());
        drop(second);
        assert!(instance.is_given_up());
        let _third = request(&instance);
        assert!(!instance.is_given_up());
    }

    #[test]
    fn an_instance_whose_requests_are_answered_goes_on() {
        let instance = Arc::default();
        let mut only = request(&instance);
        only.answered();
        drop(only);
        assert!(!instance.is_given_up());
    }

    #[test]
    fn an_upload_goes_on_although_another_request_was_given_up() {
        let instance = Arc::default();
        let given_up = request(&instance);
        let upload = instance.upload();
        drop(given_up);
        assert!(!instance.is_given_up());
        drop(upload);
        assert!(instance.is_given_up());
    }

    #[test]
    fn a_request_may_be_given_up_before_an_instance_takes_it() {
        let instance = Arc::default();
        let queued = Arc::new(RequestLife::default());
        drop(Interest::new(Arc::clone(&queued)));
        queued.start(&instance);
        assert!(queued.is_given_up() && instance.is_given_up());
    }

    #[test]
    fn the_end_of_an_instance_that_is_given_up_is_not_put_off() {
        let cx = &mut Context::from_waker(Waker::noop());
        let (queued, running) = (Arc::default(), Arc::default());
        let before = Arc::new(RequestLife::default());
        drop(Interest::new(Arc::clone(&before)));
        before.start(&queued);
        drop(request(&running));
        for instance in [queued, running] {
            let first = instance.poll_given_up(cx);
            assert!(first.is_ready());
            std::thread::sleep(Duration::from_millis(2));
            assert_eq!(instance.poll_given_up(cx), first);
        }
    }
}
