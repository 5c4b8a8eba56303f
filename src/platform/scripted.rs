//! A platform for tests and fuzzing: it answers requests from a script, and records what was sent.

use super::pipe::End;
use super::{
    Payload, Platform, ReadBodyError, StoreError, Timeouts, TransportError, VariableError,
};
use futures_channel::oneshot;
use futures_util::future::{self, FutureExt, LocalBoxFuture};
use http::{Request, Response};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// The result of a request.
pub type Answer = Result<Response<Vec<u8>>, TransportError>;

/// Answers a request.
pub type Responder = Box<dyn Fn(&Request<()>) -> Answer>;

/// A scripted platform. Its clones share one state.
#[derive(Clone, Default)]
pub struct Scripted(Rc<State>);

#[derive(Default)]
struct State {
    answers: RefCell<VecDeque<Answer>>,
    /// Answers what the script does not.
    responder: RefCell<Option<Responder>>,
    /// What a request gets when the script is at its end; a panic where there is nothing.
    last_answer: Cell<Option<TransportError>>,
    sent: RefCell<Vec<Request<()>>>,
    uploads: RefCell<Vec<Vec<u8>>>,
    variables: RefCell<HashMap<String, String>>,
    variables_fail: Cell<bool>,
    variables_read: Cell<usize>,
    store: RefCell<HashMap<String, Vec<u8>>>,
    /// The value of every key that was not written.
    stored_everywhere: RefCell<Option<Vec<u8>>>,
    store_calls: Cell<usize>,
    store_state: Cell<StoreState>,
    exchange_duration: Cell<Duration>,
    next_body_breaks: Cell<bool>,
    deferred: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    log: RefCell<Vec<String>>,
    now: Cell<Duration>,
    /// When those end that sleep.
    sleepers: RefCell<Vec<Duration>>,
    random: Cell<u64>,
}

/// How the key-value store behaves.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum StoreState {
    #[default]
    Working,
    Failing,
    /// Its values can't be read, but written over.
    Unreadable,
    /// It never answers.
    Hanging,
}

impl Scripted {
    /// Makes a platform with these answers, in order. The manifest cache is off: most tests are of
    /// single exchanges.
    pub fn new(answers: impl IntoIterator<Item = Answer>) -> Scripted {
        let scripted = Scripted::default();
        scripted.add_answers(answers);
        scripted.0.now.set(Duration::from_secs(1_000_000));
        scripted.set_variable("manifest_cache", "off");
        scripted
    }

    pub fn add_answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.0.answers.borrow_mut().extend(answers);
    }

    /// Lets `respond` answer requests when the script is at its end.
    pub fn respond(&self, respond: impl Fn(&Request<()>) -> Answer + 'static) {
        self.0.responder.replace(Some(Box::new(respond)));
    }

    /// Lets requests fail when the script is at its end, which is a panic otherwise.
    pub fn fail_at_end(&self, error: TransportError) {
        self.0.last_answer.set(Some(error));
    }

    pub fn set_variable(&self, name: &str, value: &str) {
        let mut variables = self.0.variables.borrow_mut();
        variables.insert(name.to_owned(), value.to_owned());
    }

    pub fn fail_variables(&self) {
        self.0.variables_fail.set(true);
    }

    pub fn variables_read(&self) -> usize {
        self.0.variables_read.get()
    }

    pub fn set_store(&self, state: StoreState) {
        self.0.store_state.set(state);
    }

    /// Lets every key that was not written have this value.
    pub fn store_everywhere(&self, value: Vec<u8>) {
        // Without a salt nothing else would be read.
        let salt = format!("{:016x}", self.random()).into_bytes();
        self.0.store.borrow_mut().insert("salt".to_owned(), salt);
        self.0.stored_everywhere.replace(Some(value));
    }

    /// Lets the next body that is read break off.
    pub fn break_next_body(&self) {
        self.0.next_body_breaks.set(true);
    }

    pub fn advance(&self, time: Duration) {
        self.0.now.set(self.0.now.get().saturating_add(time));
    }

    pub fn set_clock_back(&self, time: Duration) {
        self.0.now.set(self.0.now.get().saturating_sub(time));
    }

    /// Lets each exchange take this long from now on.
    pub fn set_exchange_duration(&self, time: Duration) {
        self.0.exchange_duration.set(time);
    }

    /// Returns the requests that were sent since the last call: `METHOD URL`, and the credential
    /// where there was one.
    pub fn sent(&self) -> Vec<String> {
        let describe = |request: Request<()>| {
            let credential = request.headers().get("authorization");
            let credential = credential.and_then(|value| value.to_str().ok());
            let credential = credential.map(|value| format!(" {value}"));
            let (method, uri) = (request.method(), request.uri());
            format!("{method} {uri}{}", credential.unwrap_or_default())
        };
        self.requests().into_iter().map(describe).collect()
    }

    /// Returns the requests that were sent since the last call.
    pub fn requests(&self) -> Vec<Request<()>> {
        self.0.sent.take()
    }

    /// Returns the bodies that were uploaded since the last call.
    pub fn uploads(&self) -> Vec<Vec<u8>> {
        self.0.uploads.take()
    }

    /// Returns the work that waits until an answer has been sent.
    pub fn take_deferred(&self) -> Vec<LocalBoxFuture<'static, ()>> {
        self.0.deferred.take()
    }

    /// Does the work that waits until an answer has been sent.
    pub async fn run_deferred(&self) {
        loop {
            let deferred = self.take_deferred();
            if deferred.is_empty() {
                return;
            }
            future::join_all(deferred).await;
        }
    }

    pub fn store(&self) -> HashMap<String, Vec<u8>> {
        self.0.store.borrow().clone()
    }

    /// Changes all buckets.
    pub fn change_store(&self, change: impl Fn(&mut Vec<u8>)) {
        let mut store = self.0.store.borrow_mut();
        let buckets = store.iter_mut().filter(|(key, _)| *key != "salt");
        buckets.for_each(|(_, value)| change(value));
    }

    /// Returns how often the store was read or written.
    pub fn store_calls(&self) -> usize {
        self.0.store_calls.get()
    }

    pub fn log(&self) -> Vec<String> {
        self.0.log.borrow().clone()
    }

    async fn call_store(&self, reads: bool) -> Result<(), StoreError> {
        let calls = self.0.store_calls.get().saturating_add(1);
        self.0.store_calls.set(calls);
        match self.0.store_state.get() {
            StoreState::Working => Ok(()),
            StoreState::Unreadable if !reads => Ok(()),
            StoreState::Unreadable => Err(StoreError("malformed".to_owned())),
            StoreState::Failing => Err(StoreError("disk full".to_owned())),
            StoreState::Hanging => future::pending().await,
        }
    }
}

impl Platform for Scripted {
    type Body = Vec<u8>;
    type Alarm = oneshot::Sender<()>;

    #[allow(clippy::panic, reason = "a test has to fail here")]
    async fn send(&self, request: Request<()>, _timeouts: &Timeouts) -> Answer {
        let description = format!("{} {}", request.method(), request.uri());
        let response = {
            let respond = self.0.responder.borrow();
            respond.as_ref().map(|respond| respond(&request))
        };
        self.0.sent.borrow_mut().push(request);
        // Other requests go on meanwhile, as they do during a real exchange.
        yield_now().await;
        self.advance(self.0.exchange_duration.get());
        let answer = self.0.answers.borrow_mut().pop_front().or(response);
        match (answer, self.0.last_answer.get()) {
            (Some(answer), _) => answer,
            (None, Some(error)) => Err(error),
            (None, None) => panic!("the script has no answer to {description}"),
        }
    }

    /// Records the body; one that breaks off gets no answer.
    async fn upload(&self, request: Request<Payload<Vec<u8>>>, timeouts: &Timeouts) -> Answer {
        let (head, payload) = request.into_parts();
        let body = match payload {
            Payload::Bytes(bytes) => bytes,
            Payload::Stream(_) if self.0.next_body_breaks.take() => {
                return Err(TransportError::Broken);
            }
            Payload::Stream(bytes) => bytes,
            Payload::Pipe(pipe) => {
                let mut bytes = Vec::new();
                let mut piece = pipe.read(Vec::new()).await;
                while !piece.is_empty() {
                    bytes.extend_from_slice(&piece);
                    piece = pipe.read(piece).await;
                }
                if pipe.end() != Some(End::Whole) {
                    return Err(TransportError::Broken);
                }
                bytes
            }
        };
        self.0.uploads.borrow_mut().push(body);
        self.send(Request::from_parts(head, ()), timeouts).await
    }

    async fn read(&self, body: Vec<u8>, limit: usize) -> Result<Vec<u8>, ReadBodyError> {
        if self.0.next_body_breaks.take() {
            return Err(ReadBodyError::Transport(TransportError::Broken));
        }
        if body.len() > limit {
            Err(ReadBodyError::TooLarge)
        } else {
            Ok(body)
        }
    }

    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.call_store(true).await?;
        let written = self.0.store.borrow().get(key).cloned();
        Ok(written.or_else(|| self.0.stored_everywhere.borrow().clone()))
    }

    async fn save(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.call_store(false).await?;
        self.0.store.borrow_mut().insert(key.to_owned(), value);
        Ok(())
    }

    async fn variable(&self, name: &str) -> Result<Option<String>, VariableError> {
        let read = self.0.variables_read.get().saturating_add(1);
        self.0.variables_read.set(read);
        yield_now().await;
        if self.0.variables_fail.get() {
            return Err(VariableError);
        }
        Ok(self.0.variables.borrow().get(name).cloned())
    }

    fn now(&self) -> Duration {
        self.0.now.get()
    }

    /// Returns another number each time.
    fn random(&self) -> u64 {
        let random = self.0.random.get().wrapping_mul(0x5851_f42d_4c95_7f2d);
        let random = random.wrapping_add(0x1405_7b7e_f767_814f);
        self.0.random.set(random);
        random
    }

    /// Lets everything else go on first, as far as it can. Then the time passes at once, for whoever
    /// sleeps least.
    async fn sleep(&self, duration: Duration) {
        let sleeper = Sleeper::new(&self.0, self.now().saturating_add(duration));
        while self.now() < sleeper.end {
            for _ in 0..100 {
                yield_now().await;
            }
            let ends = self.0.sleepers.borrow().clone();
            if ends.iter().min() == Some(&sleeper.end) {
                self.0.now.set(self.now().max(sleeper.end));
            }
        }
    }

    fn alarm(&self) -> (oneshot::Sender<()>, impl Future<Output = ()> + 'static) {
        let (alarm, woken) = oneshot::channel();
        (alarm, woken.map(drop))
    }

    fn defer(&self, work: impl Future<Output = ()> + 'static) {
        self.0.deferred.borrow_mut().push(Box::pin(work));
    }

    fn log(&self, line: &str) {
        self.0.log.borrow_mut().push(line.to_owned());
    }
}

/// One who sleeps.
struct Sleeper<'a> {
    state: &'a State,
    end: Duration,
}

impl Sleeper<'_> {
    fn new(state: &State, end: Duration) -> Sleeper<'_> {
        state.sleepers.borrow_mut().push(end);
        Sleeper { state, end }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let mut sleepers = self.state.sleepers.borrow_mut();
        let own = sleepers.iter().position(|end| *end == self.end);
        own.map(|own| sleepers.swap_remove(own));
    }
}

/// Lets other futures of the same task go on.
async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
