//! A platform whose clock, store and network are simulated, and counted.

use crate::hub::{Asked, Hub};
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use hammal::platform::{
    Payload, Platform, ReadBodyError, StoreError, Timeouts, TransportError, VariableError,
};
use http::{Request, Response};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

pub type Store = Rc<RefCell<HashMap<String, Vec<u8>>>>;

/// The counts of all requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Requests to the registry: those without a token, and the others.
    pub refused: u32,
    pub manifest_heads: u32,
    pub manifests: u32,
    pub blobs: u32,
    pub tokens: u32,
    pub store_reads: u32,
    pub store_writes: u32,
}

/// The state that all hosts of a run share.
pub struct World {
    pub hub: Rc<Hub>,
    pub variables: &'static [(&'static str, &'static str)],
    pub now: Cell<Duration>,
    pub counts: Cell<Counts>,
    random: Cell<u64>,
    deferred: RefCell<VecDeque<LocalBoxFuture<'static, ()>>>,
}

impl World {
    pub fn new(hub: Rc<Hub>, variables: &'static [(&'static str, &'static str)]) -> World {
        World {
            hub,
            variables,
            now: Cell::default(),
            counts: Cell::default(),
            random: Cell::default(),
            deferred: RefCell::default(),
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Does the work that waits until an answer has been sent.
    pub fn run_deferred(&self) {
        loop {
            let next = self.deferred.borrow_mut().pop_front();
            let Some(work) = next else { return };
            work.now_or_never().expect("nothing here waits");
        }
    }
}

/// The platform of one host.
#[derive(Clone)]
pub struct Simulated {
    pub world: Rc<World>,
    pub store: Store,
}

impl Platform for Simulated {
    type Body = Vec<u8>;
    type Alarm = ();

    async fn send(
        &self,
        request: Request<()>,
        _timeouts: &Timeouts,
    ) -> Result<Response<Vec<u8>>, TransportError> {
        let (asked, response) = self.world.hub.answer(&request);
        self.world.count(|counts| match asked {
            Asked::Refused => counts.refused += 1,
            Asked::ManifestHead => counts.manifest_heads += 1,
            Asked::Manifest => counts.manifests += 1,
            Asked::Blob => counts.blobs += 1,
            Asked::Token => counts.tokens += 1,
        });
        Ok(response)
    }

    async fn upload(
        &self,
        request: Request<Payload<Vec<u8>>>,
        timeouts: &Timeouts,
    ) -> Result<Response<Vec<u8>>, TransportError> {
        self.send(request.map(drop), timeouts).await
    }

    async fn read(&self, body: Vec<u8>, limit: usize) -> Result<Vec<u8>, ReadBodyError> {
        if body.len() > limit {
            return Err(ReadBodyError::TooLarge);
        }
        Ok(body)
    }

    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.world.count(|counts| counts.store_reads += 1);
        Ok(self.store.borrow().get(key).cloned())
    }

    async fn save(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.world.count(|counts| counts.store_writes += 1);
        self.store.borrow_mut().insert(key.to_owned(), value);
        Ok(())
    }

    async fn variable(&self, name: &str) -> Result<Option<String>, VariableError> {
        let mut variables = self.world.variables.iter();
        let found = variables.find(|(known, _)| *known == name);
        Ok(found.map(|(_, value)| (*value).to_owned()))
    }

    fn now(&self) -> Duration {
        self.world.now.get()
    }

    /// Returns another number each time, the same ones in each run.
    fn random(&self) -> u64 {
        let next = self.world.random.get().wrapping_add(1);
        self.world.random.set(next);
        next.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Nothing takes time here, so nothing takes too long.
    async fn sleep(&self, _duration: Duration) {
        pending().await
    }

    /// Requests come one after the other: none waits for another.
    fn alarm(&self) -> ((), impl Future<Output = ()> + 'static) {
        ((), pending())
    }

    fn defer(&self, work: impl Future<Output = ()> + 'static) {
        self.world.deferred.borrow_mut().push_back(Box::pin(work));
    }

    fn log(&self, _line: &str) {}
}
