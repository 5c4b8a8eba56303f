//! The platform of the tests: it answers from a script and writes down what was asked, in order.

use crate::platform::{
    Platform, ReadBodyError, StoreError, Timeouts, TransportError, VariableError,
};
use futures_channel::oneshot;
use futures_util::future::{FutureExt, LocalBoxFuture};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// What an exchange brings.
pub type Exchanged = Result<http::Response<Vec<u8>>, TransportError>;

#[derive(Clone, Default)]
pub struct Scripted(Rc<World>);

#[derive(Default)]
struct World {
    answers: RefCell<VecDeque<Exchanged>>,
    asked: RefCell<Vec<http::Request<()>>>,
    variables: RefCell<HashMap<String, String>>,
    variables_fail: Cell<bool>,
    variables_read: Cell<usize>,
    store: RefCell<HashMap<String, Vec<u8>>>,
    store_calls: Cell<usize>,
    store_is: Cell<StoreIs>,
    exchanges_take: Cell<Duration>,
    next_body_breaks: Cell<bool>,
    deferred: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    log: RefCell<Vec<String>>,
    now: Cell<Duration>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum StoreIs {
    #[default]
    Well,
    Broken,
    /// What it holds can't be read; it can be written over.
    Unreadable,
    Hanging,
}

impl Scripted {
    pub fn new(answers: impl IntoIterator<Item = Exchanged>) -> Scripted {
        let scripted = Scripted::default();
        scripted.will_answer(answers);
        scripted.0.now.set(Duration::from_secs(1_000_000));
        // Most stories are of one exchange after the other; those of the cache turn it on.
        scripted.set_variable("manifest_cache", "off");
        scripted
    }

    pub fn will_answer(&self, answers: impl IntoIterator<Item = Exchanged>) {
        self.0.answers.borrow_mut().extend(answers);
    }

    pub fn set_variable(&self, name: &str, value: &str) {
        self.0
            .variables
            .borrow_mut()
            .insert(name.to_owned(), value.to_owned());
    }

    pub fn let_variables_fail(&self) {
        self.0.variables_fail.set(true);
    }

    pub fn variables_read(&self) -> usize {
        self.0.variables_read.get()
    }

    pub fn set_store(&self, state: StoreIs) {
        self.0.store_is.set(state);
    }

    /// The next body that is read breaks off.
    pub fn will_break(&self) {
        self.0.next_body_breaks.set(true);
    }

    pub fn pass(&self, time: Duration) {
        self.0.now.set(self.0.now.get() + time);
    }

    /// From now on each exchange takes so long.
    pub fn exchanges_take(&self, time: Duration) {
        self.0.exchanges_take.set(time);
    }

    /// The clock was ahead, and is set right.
    pub fn set_back(&self, time: Duration) {
        self.0.now.set(self.0.now.get() - time);
    }

    /// What was asked since the last call: `METHOD URL` and, where there was one, the token.
    pub fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.0.asked.borrow_mut());
        let describe = |request: http::Request<()>| {
            let token = request
                .headers()
                .get("authorization")
                .map(|value| format!(" {}", value.to_str().unwrap()));
            format!(
                "{} {}{}",
                request.method(),
                request.uri(),
                token.unwrap_or_default()
            )
        };
        asked.into_iter().map(describe).collect()
    }

    /// The requests themselves, since the last call.
    pub fn requests(&self) -> Vec<http::Request<()>> {
        std::mem::take(&mut *self.0.asked.borrow_mut())
    }

    /// What waits for an answer to have left that takes long.
    pub fn take_deferred(&self) -> Vec<LocalBoxFuture<'static, ()>> {
        std::mem::take(&mut *self.0.deferred.borrow_mut())
    }

    /// Does what waits for the answer to have left.
    pub async fn settle(&self) {
        loop {
            let deferred = self.take_deferred();
            if deferred.is_empty() {
                return;
            }
            futures_util::future::join_all(deferred).await;
        }
    }

    pub fn store(&self) -> HashMap<String, Vec<u8>> {
        self.0.store.borrow().clone()
    }

    pub fn change_store(&self, change: impl Fn(&mut Vec<u8>)) {
        self.0.store.borrow_mut().values_mut().for_each(change);
    }

    /// How often the store was read or written.
    pub fn store_calls(&self) -> usize {
        self.0.store_calls.get()
    }

    pub fn log(&self) -> Vec<String> {
        self.0.log.borrow().clone()
    }

    async fn call_store(&self, reads: bool) -> Result<(), StoreError> {
        self.0.store_calls.set(self.0.store_calls.get() + 1);
        match self.0.store_is.get() {
            StoreIs::Well => Ok(()),
            StoreIs::Unreadable if !reads => Ok(()),
            StoreIs::Unreadable => Err(StoreError("malformed".to_owned())),
            StoreIs::Broken => Err(StoreError("disk full".to_owned())),
            StoreIs::Hanging => std::future::pending().await,
        }
    }
}

impl Platform for Scripted {
    type Body = Vec<u8>;
    type Alarm = oneshot::Sender<()>;

    async fn send(&self, request: http::Request<()>, _timeouts: &Timeouts) -> Exchanged {
        let unasked = format!(
            "the script has no answer to {} {}",
            request.method(),
            request.uri()
        );
        self.0.asked.borrow_mut().push(request);
        // Others get a turn, as they do while a real exchange is under way.
        tokio::task::yield_now().await;
        self.pass(self.0.exchanges_take.get());
        self.0.answers.borrow_mut().pop_front().expect(&unasked)
    }

    async fn read(&self, body: Vec<u8>, limit: usize) -> Result<Vec<u8>, ReadBodyError> {
        if self.0.next_body_breaks.take() {
            return Err(ReadBodyError::Broken(TransportError::Broken));
        }
        if body.len() > limit {
            Err(ReadBodyError::TooLarge)
        } else {
            Ok(body)
        }
    }

    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.call_store(true).await?;
        Ok(self.0.store.borrow().get(key).cloned())
    }

    async fn save(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.call_store(false).await?;
        self.0.store.borrow_mut().insert(key.to_owned(), value);
        Ok(())
    }

    async fn variable(&self, name: &str) -> Result<Option<String>, VariableError> {
        self.0.variables_read.set(self.0.variables_read.get() + 1);
        tokio::task::yield_now().await;
        if self.0.variables_fail.get() {
            return Err(VariableError);
        }
        Ok(self.0.variables.borrow().get(name).cloned())
    }

    fn now(&self) -> Duration {
        self.0.now.get()
    }

    /// Time stands still until nothing else can go on.
    async fn sleep(&self, duration: Duration) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.pass(duration);
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
