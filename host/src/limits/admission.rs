//! Admits requests to the component, and counts the bytes that are held for each client.
//!
//! A request waits in its client's queue until there is room for it. Room that becomes free goes to
//! the client that has least, so that whoever sends more waits longer. What the operator's own
//! upstreams need is kept: requests that name another have three quarters of everything, and those
//! that name the same one an eighth.

use crate::limits::client::Client;
use crate::limits::{Limits, MIB};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Bytes that a request with the component counts for, of its client: a manifest of 4 MiB is the
/// largest that the component reads.
pub const REQUEST_MEMORY: u64 = 4 * MIB;

/// Bytes that a request with the component counts for, of all clients together: most manifests have
/// some KiB, and many clients don't send for large ones at the same time by chance.
const REQUEST_SHARE: u64 = MIB;

/// The most requests with the component that name the same upstream, if it is not the operator's.
const MAX_PER_UPSTREAM: usize = 128;

/// The most requests of one client that wait. Each holds its head, up to 16 KiB.
const MAX_WAITING_PER_CLIENT: usize = 512;

/// The most requests that wait.
const MAX_WAITING: usize = 4096;

/// How long a request waits to be admitted.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Admits requests, for all connections.
#[derive(Debug)]
pub struct Admission {
    client_memory: u64,
    total_memory: u64,
    queue_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that count for all clients.
    held: u64,
    /// The part of `held` that is for upstreams that are not the operator's.
    held_for_named: u64,
    /// Bytes of each client.
    clients: HashMap<Client, u64>,
    /// Requests with the component by the upstream that they name.
    upstreams: HashMap<Box<str>, usize>,
    queues: HashMap<Client, VecDeque<Waiter>>,
    waiting: usize,
    next_number: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    named: Option<Box<str>>,
    admitted: oneshot::Sender<()>,
}

/// Why a request is not admitted.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many requests are waiting already.
    QueueFull,
    /// It waited for too long.
    TimedOut,
}

impl Admission {
    /// Admits within `limits`.
    pub fn new(limits: &Limits) -> Arc<Self> {
        Self::with_timeout(limits, QUEUE_TIMEOUT)
    }

    fn with_timeout(limits: &Limits, queue_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            // Otherwise no request would ever be admitted.
            client_memory: limits.client_memory.max(REQUEST_MEMORY),
            total_memory: limits.total_memory.max(4 * REQUEST_SHARE),
            queue_timeout,
            state: Mutex::default(),
        })
    }

    /// Waits until a request of `client` may go to the component. `named` is the upstream that it
    /// names, if that is not one of the operator's.
    pub async fn admit(
        self: &Arc<Self>,
        client: Client,
        named: Option<Box<str>>,
    ) -> Result<Turn, Refused> {
        let admitted = {
            let mut state = self.lock();
            if self.has_room(&state, client, named.as_deref()) {
                state.take(client, named.as_deref());
                return Ok(self.turn(client, named));
            }
            let queue = state.queues.get(&client).map_or(0, VecDeque::len);
            if queue >= MAX_WAITING_PER_CLIENT || state.waiting >= MAX_WAITING {
                return Err(Refused::QueueFull);
            }
            let (sender, receiver) = oneshot::channel();
            let number = state.next_number;
            state.next_number += 1;
            state.waiting += 1;
            state.queues.entry(client).or_default().push_back(Waiter {
                number,
                named: named.clone(),
                admitted: sender,
            });
            Waiting {
                admission: self,
                client,
                named: Some(named),
                number,
                receiver,
            }
        };
        admitted.wait(self.queue_timeout).await
    }

    /// Whether `client` holds as much as it may, so that one more request of it has to wait.
    pub fn has_used_up(&self, client: Client) -> bool {
        let held = self.lock().clients.get(&client).copied();
        held.unwrap_or_default() + REQUEST_MEMORY > self.client_memory
    }

    /// Whether requests wait that would be admitted if `client`, or all clients, held less.
    pub fn is_short(&self, client: Client) -> bool {
        let state = self.lock();
        state.queues.contains_key(&client)
            || (state.waiting > 0 && state.held + REQUEST_SHARE > self.total_memory)
    }

    fn has_room(&self, state: &State, client: Client, named: Option<&str>) -> bool {
        let of_client = state.clients.get(&client).copied().unwrap_or_default();
        if of_client + REQUEST_MEMORY > self.client_memory
            || state.held + REQUEST_SHARE > self.total_memory
        {
            return false;
        }
        named.is_none_or(|named| {
            let of_upstream = state.upstreams.get(named).copied().unwrap_or_default();
            of_upstream < MAX_PER_UPSTREAM
                && state.held_for_named + REQUEST_SHARE <= self.total_memory / 4 * 3
        })
    }

    fn turn(self: &Arc<Self>, client: Client, named: Option<Box<str>>) -> Turn {
        Turn {
            admission: Arc::clone(self),
            client,
            is_named: named.is_some(),
            upstream: named,
            of_client: REQUEST_MEMORY,
            of_total: REQUEST_SHARE,
        }
    }

    /// Admits those who wait, as far as there is room: of the clients, who holds least comes first.
    fn admit_waiting(&self, state: &mut State) {
        while state.waiting > 0 {
            let candidates = state.queues.iter().filter_map(|(client, queue)| {
                let at = queue
                    .iter()
                    .position(|waiter| self.has_room(state, *client, waiter.named.as_deref()))?;
                let held = state.clients.get(client).copied().unwrap_or_default();
                Some((held, queue[at].number, *client, at))
            });
            let Some((_, _, client, at)) = candidates.min() else {
                return;
            };
            let Some(waiter) = state.remove_waiter(client, at) else {
                return;
            };
            state.take(client, waiter.named.as_deref());
            if waiter.admitted.send(()).is_err() {
                // Not reached: who waits removes itself first.
                state.give_back(
                    client,
                    REQUEST_MEMORY,
                    REQUEST_SHARE,
                    waiter.named.is_some(),
                );
                state.leave_upstream(waiter.named.as_deref());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, client: Client, named: Option<&str>) {
        *self.clients.entry(client).or_default() += REQUEST_MEMORY;
        self.held += REQUEST_SHARE;
        if let Some(named) = named {
            self.held_for_named += REQUEST_SHARE;
            match self.upstreams.get_mut(named) {
                Some(count) => *count += 1,
                None => drop(self.upstreams.insert(named.into(), 1)),
            }
        }
    }

    fn give_back(&mut self, client: Client, of_client: u64, of_total: u64, is_named: bool) {
        if let Some(held) = self.clients.get_mut(&client) {
            *held -= of_client;
            if *held == 0 {
                self.clients.remove(&client);
            }
        }
        self.held -= of_total;
        if is_named {
            self.held_for_named -= of_total;
        }
    }

    fn leave_upstream(&mut self, named: Option<&str>) {
        if let Some(named) = named
            && let Some(count) = self.upstreams.get_mut(named)
        {
            *count -= 1;
            if *count == 0 {
                self.upstreams.remove(named);
            }
        }
    }

    fn remove_waiter(&mut self, client: Client, at: usize) -> Option<Waiter> {
        let queue = self.queues.get_mut(&client)?;
        let waiter = queue.remove(at)?;
        if queue.is_empty() {
            self.queues.remove(&client);
        }
        self.waiting -= 1;
        Some(waiter)
    }
}

/// A request in a queue. Dropped, because its client hung up or it waited for too long, it leaves
/// the queue.
struct Waiting<'a> {
    admission: &'a Arc<Admission>,
    client: Client,
    /// `None` once there is a turn.
    named: Option<Option<Box<str>>>,
    number: u64,
    receiver: oneshot::Receiver<()>,
}

impl Waiting<'_> {
    async fn wait(mut self, limit: Duration) -> Result<Turn, Refused> {
        match tokio::time::timeout(limit, &mut self.receiver).await {
            Ok(Ok(())) => {
                let named = self.named.take().flatten();
                Ok(self.admission.turn(self.client, named))
            }
            _ => Err(Refused::TimedOut),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(named) = self.named.take() else {
            return;
        };
        let mut state = self.admission.lock();
        let at = state
            .queues
            .get(&self.client)
            .and_then(|queue| queue.iter().position(|waiter| waiter.number == self.number));
        match at {
            Some(at) => drop(state.remove_waiter(self.client, at)),
            // Admitted in this moment.
            None => {
                state.give_back(self.client, REQUEST_MEMORY, REQUEST_SHARE, named.is_some());
                state.leave_upstream(named.as_deref());
                self.admission.admit_waiting(&mut state);
            }
        }
    }
}

/// A request that was admitted, and later its response: what is held for it. Dropped, it makes room
/// for others.
#[derive(Debug)]
pub struct Turn {
    admission: Arc<Admission>,
    client: Client,
    is_named: bool,
    /// The upstream that it counts for, while it is with the component.
    upstream: Option<Box<str>>,
    of_client: u64,
    of_total: u64,
}

impl Turn {
    /// The client that it is for.
    pub fn client(&self) -> Client {
        self.client
    }

    /// The component has answered: from now on it counts for `bytes` of a body.
    pub fn answered(&mut self, bytes: u64) {
        self.set(bytes);
        let upstream = self.upstream.take();
        let mut state = self.admission.lock();
        state.leave_upstream(upstream.as_deref());
        self.admission.admit_waiting(&mut state);
    }

    /// Counts for `bytes`, if it counts for less.
    pub fn hold_at_least(&mut self, bytes: u64) {
        if self.of_client < bytes {
            self.set(bytes);
        }
    }

    fn set(&mut self, bytes: u64) {
        let mut state = self.admission.lock();
        *state.clients.entry(self.client).or_default() += bytes;
        state.held += bytes;
        if self.is_named {
            state.held_for_named += bytes;
        }
        state.give_back(self.client, self.of_client, self.of_total, self.is_named);
        (self.of_client, self.of_total) = (bytes, bytes);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.give_back(self.client, self.of_client, self.of_total, self.is_named);
        state.leave_upstream(self.upstream.as_deref());
        self.admission.admit_waiting(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn client(last: u8) -> Client {
        Client::from_address([192, 0, 2, last].into())
    }

    fn admission(client_requests: u64, requests: u64) -> Arc<Admission> {
        let limits = Limits {
            client_memory: client_requests * REQUEST_MEMORY,
            total_memory: requests * REQUEST_SHARE,
            ..Limits::default()
        };
        Admission::with_timeout(&limits, Duration::from_millis(50))
    }

    fn now(admission: &Arc<Admission>, of: u8, named: Option<&str>) -> Option<Turn> {
        let turn = admission
            .admit(client(of), named.map(Into::into))
            .now_or_never();
        turn.map(|turn| turn.unwrap())
    }

    fn is_empty(admission: &Admission) -> bool {
        let state = admission.lock();
        state.held == 0
            && state.held_for_named == 0
            && state.waiting == 0
            && state.clients.is_empty()
            && state.upstreams.is_empty()
            && state.queues.is_empty()
    }

    #[tokio::test]
    async fn one_client_leaves_room_for_others() {
        let admission = admission(3, 8);
        let turns: Vec<_> = (0..20).filter_map(|_| now(&admission, 1, None)).collect();
        assert_eq!(turns.len(), 3);
        assert!(admission.has_used_up(client(1)) && !admission.has_used_up(client(2)));
        assert!(now(&admission, 2, None).is_some());
        assert!(!admission.is_short(client(1)));
        drop(turns);
        assert!(is_empty(&admission));
    }

    #[tokio::test]
    async fn what_becomes_free_goes_to_the_client_that_has_least() {
        let admission = admission(8, 8);
        let mut turns: Vec<_> = (0..8).filter_map(|_| now(&admission, 1, None)).collect();
        assert_eq!(turns.len(), 8);
        let (mut first, mut second) = (
            Box::pin(admission.admit(client(1), None)),
            Box::pin(admission.admit(client(2), None)),
        );
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        assert!(admission.is_short(client(3)));
        turns.pop();
        let second = second.now_or_never().unwrap().unwrap();
        assert_eq!(second.client(), client(2));
        assert!((&mut first).now_or_never().is_none());
        drop(first);
        drop((turns, second));
        assert!(is_empty(&admission));
    }

    #[tokio::test]
    async fn keeps_a_quarter_for_the_operators_own_upstreams() {
        let admission = admission(100, 400);
        let named = |number: usize| format!("registry-{number}.example");
        let turns: Vec<_> = (0..400)
            .filter_map(|at| {
                now(
                    &admission,
                    u8::try_from(at % 200).unwrap(),
                    Some(&named(at % 3)),
                )
            })
            .collect();
        assert_eq!(turns.len(), 300);
        let own: Vec<_> = (0..150)
            .filter_map(|at| now(&admission, at, None))
            .collect();
        assert_eq!(own.len(), 100);
        drop((turns, own));
        assert!(is_empty(&admission));
    }

    #[tokio::test]
    async fn one_named_upstream_does_not_take_all() {
        let admission = admission(1000, 1000);
        let turns: Vec<_> = (0..200)
            .filter_map(|_| now(&admission, 1, Some("slow.example")))
            .collect();
        assert_eq!(turns.len(), MAX_PER_UPSTREAM);
        assert!(now(&admission, 1, Some("other.example")).is_some());
        drop(turns);
        assert!(is_empty(&admission));
    }

    #[tokio::test]
    async fn a_response_counts_for_what_is_held_of_it() {
        let admission = admission(2, 1000);
        let mut turns: Vec<_> = (0..2).filter_map(|_| now(&admission, 1, None)).collect();
        assert!(now(&admission, 1, None).is_none());
        turns[0].answered(1024);
        assert!(now(&admission, 1, None).is_none());
        turns[1].answered(1024);
        assert!(now(&admission, 1, None).is_some());
        turns[1].hold_at_least(2 * REQUEST_MEMORY);
        assert!(now(&admission, 1, None).is_none());
        drop(turns);
        assert!(is_empty(&admission));
    }

    #[tokio::test]
    async fn who_waits_for_too_long_or_hangs_up_leaves_the_queue() {
        let admission = admission(1, 1000);
        let turn = now(&admission, 1, None);
        assert!(turn.is_some());
        assert_eq!(
            admission.admit(client(1), None).await.unwrap_err(),
            Refused::TimedOut
        );
        let hung_up = Box::pin(admission.admit(client(1), None));
        drop(turn);
        drop(hung_up);
        assert!(is_empty(&admission));

        let _turn = now(&admission, 1, None);
        let mut waiting: Vec<_> = (0..MAX_WAITING_PER_CLIENT)
            .map(|_| Box::pin(admission.admit(client(1), None)))
            .collect();
        for waiting in &mut waiting {
            assert!(waiting.now_or_never().is_none());
        }
        assert_eq!(
            admission.admit(client(1), None).await.unwrap_err(),
            Refused::QueueFull
        );
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_goes_to_the_next() {
        let admission = admission(1, 1000);
        let turn = now(&admission, 1, None);
        let (mut first, mut second) = (
            Box::pin(admission.admit(client(1), None)),
            Box::pin(admission.admit(client(1), None)),
        );
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        drop(turn);
        // Admitted, and dropped before it has noticed.
        drop(first);
        drop(second.now_or_never().unwrap().unwrap());
        assert!(is_empty(&admission));
    }
}
