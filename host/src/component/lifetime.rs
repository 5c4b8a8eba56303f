//! What the server tells an instance of its requests: which of them nobody waits for any more.
//!
//! Wasmtime can't cancel one request of an instance. So an instance ends, with everything that it
//! has asked upstreams for, once nobody waits for any of its requests.

use futures::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            State::Queued => {
                instance.open.fetch_add(1, Ordering::SeqCst);
                *state = State::With(Arc::clone(instance));
            }
            State::With(_) => {}
            State::Over(given_up) => {
                if given_up {
                    instance.has_given_up.store(true, Ordering::SeqCst);
                }
            }
        }
    }

    fn end(&self, given_up: bool) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::With(instance) = &*state {
            instance.close(given_up);
        }
        *state = State::Over(given_up);
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
    /// Requests that somebody waits for, and responses that somebody takes.
    open: AtomicUsize,
    has_given_up: AtomicBool,
    /// When `open` became 0.
    since: Mutex<Option<Instant>>,
    waker: AtomicWaker,
    /// Bytes of linear memory.
    memory: AtomicUsize,
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
        if given_up {
            self.has_given_up.store(true, Ordering::SeqCst);
        }
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if self.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.waker.wake();
        }
    }

    /// Whether requests were given up, and nobody waits for others of this instance: since when.
    /// `Pending` wakes the task once that is so.
    pub fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<Instant> {
        self.waker.register(cx.waker());
        if !self.is_given_up() {
            return Poll::Pending;
        }
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        Poll::Ready(since.unwrap_or_else(Instant::now))
    }

    /// Whether requests were given up, and nobody waits for others of this instance.
    pub fn is_given_up(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 0 && self.has_given_up.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_request_may_be_given_up_before_an_instance_takes_it() {
        let instance = Arc::default();
        let queued = Arc::new(RequestLife::default());
        drop(Interest::new(Arc::clone(&queued)));
        queued.start(&instance);
        assert!(instance.is_given_up());
    }
}
