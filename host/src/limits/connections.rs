//! Limits the connections of clients, and closes those that stand still.

use crate::limits::Limits;
use crate::limits::admission::Admission;
use crate::limits::client::Client;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long a connection may be open without a request. Longer than the idle time-out of load
/// balancers, 60 s in most: otherwise one of them sends a request on a connection that this server
/// is about to close.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a client may take nothing of a response: it costs memory, file descriptors and, with a
/// WASIp2 component, an instance.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The same, while other requests wait for the memory.
const SHORT_STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the connections are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The open connections of all clients.
#[derive(Debug)]
pub struct Connections {
    per_client: usize,
    total: usize,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    of_clients: HashMap<Client, usize>,
    open: HashMap<u64, Arc<Shared>>,
    deliveries: HashMap<u64, Arc<Progress>>,
    next: u64,
}

#[derive(Debug)]
struct Shared {
    /// Requests and responses in progress.
    active: AtomicUsize,
    /// When `active` became 0, in milliseconds since the start.
    idle_since: AtomicU64,
    close: Notify,
}

/// One open connection. Dropped, it makes room for another.
#[derive(Debug)]
pub struct Connection {
    connections: Arc<Connections>,
    number: u64,
    client: Client,
    shared: Arc<Shared>,
}

impl Connections {
    /// `per_client` is `None` where clients come by way of proxies, so that the address of a
    /// connection is no client's.
    pub fn new(limits: &Limits, is_behind_proxies: bool) -> Arc<Self> {
        Arc::new(Self {
            per_client: if is_behind_proxies {
                limits.total_connections
            } else {
                limits.client_connections
            },
            total: limits.total_connections,
            started: Instant::now(),
            state: Mutex::default(),
        })
    }

    /// Counts a connection from `address`; `None` if that has, or all have, as many as they may.
    pub fn open(self: &Arc<Self>, address: IpAddr) -> Option<Connection> {
        let client = Client::from_address(address);
        let mut state = self.lock();
        let of_client = state.of_clients.get(&client).copied().unwrap_or_default();
        if of_client >= self.per_client || state.open.len() >= self.total {
            return None;
        }
        state.of_clients.insert(client, of_client + 1);
        let number = state.number();
        let shared = Arc::new(Shared {
            active: AtomicUsize::new(0),
            idle_since: AtomicU64::new(self.now()),
            close: Notify::new(),
        });
        state.open.insert(number, Arc::clone(&shared));
        Some(Connection {
            connections: Arc::clone(self),
            number,
            client,
            shared,
        })
    }

    /// Closes connections that stand still, for ever. `admission` knows whether others wait.
    pub async fn sweep(self: Arc<Self>, admission: Arc<Admission>) {
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            interval.tick().await;
            self.sweep_once(self.now(), &admission);
        }
    }

    fn sweep_once(&self, now: u64, admission: &Admission) {
        let state = self.lock();
        for progress in state.deliveries.values() {
            let stalled = progress.stalled(now);
            if stalled >= STALL_TIMEOUT
                || (stalled >= SHORT_STALL_TIMEOUT && admission.is_short(progress.client))
            {
                progress.connection.close.notify_one();
            }
        }
        for connection in state.open.values() {
            let idle = now.saturating_sub(connection.idle_since.load(Ordering::Relaxed));
            if connection.active.load(Ordering::Relaxed) == 0
                && Duration::from_millis(idle) >= IDLE_TIMEOUT
            {
                connection.close.notify_one();
            }
        }
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Connection {
    /// Resolves when the connection is to be closed.
    pub async fn to_be_closed(&self) {
        self.shared.close.notified().await;
    }

    /// Counts a request as in progress, until what is returned is dropped.
    pub fn request(&self) -> Active {
        self.shared.active.fetch_add(1, Ordering::Relaxed);
        Active {
            connections: Arc::clone(&self.connections),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.connections.lock();
        state.open.remove(&self.number);
        if let Some(count) = state.of_clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                state.of_clients.remove(&self.client);
            }
        }
    }
}

/// A request in progress, or its response.
#[derive(Debug)]
pub struct Active {
    connections: Arc<Connections>,
    shared: Arc<Shared>,
}

impl Active {
    /// Watches whether `client` takes the response.
    pub fn deliver(self, client: Client) -> Delivery {
        let progress = Arc::new(Progress {
            client,
            last: AtomicU64::new(self.connections.now()),
            waits_for_upstream: AtomicBool::new(true),
            connection: Arc::clone(&self.shared),
        });
        let mut state = self.connections.lock();
        let number = state.number();
        state.deliveries.insert(number, Arc::clone(&progress));
        drop(state);
        Delivery {
            active: self,
            number,
            progress,
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let now = self.connections.now();
        self.shared.idle_since.store(now, Ordering::Relaxed);
        self.shared.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Progress {
    client: Client,
    /// When the client last took something, in milliseconds since the start.
    last: AtomicU64,
    /// Whether there is nothing to take.
    waits_for_upstream: AtomicBool,
    connection: Arc<Shared>,
}

impl Progress {
    fn stalled(&self, now: u64) -> Duration {
        if self.waits_for_upstream.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        Duration::from_millis(now.saturating_sub(self.last.load(Ordering::Relaxed)))
    }
}

/// A response on its way.
#[derive(Debug)]
pub struct Delivery {
    active: Active,
    number: u64,
    progress: Arc<Progress>,
}

impl Delivery {
    /// The client takes a piece.
    pub fn advanced(&self) {
        let now = self.active.connections.now();
        self.progress.last.store(now, Ordering::Relaxed);
        self.progress
            .waits_for_upstream
            .store(false, Ordering::Relaxed);
    }

    /// The client would take more, if there were more.
    pub fn waits_for_upstream(&self) {
        self.progress
            .waits_for_upstream
            .store(true, Ordering::Relaxed);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.active
            .connections
            .lock()
            .deliveries
            .remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn connections(per_client: usize, total: usize) -> Arc<Connections> {
        let limits = Limits {
            client_connections: per_client,
            total_connections: total,
            ..Limits::default()
        };
        Connections::new(&limits, false)
    }

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn is_closed(connection: &Connection) -> bool {
        connection.to_be_closed().now_or_never().is_some()
    }

    const HOUR: u64 = 60 * 60 * 1000;

    #[test]
    fn limits_the_connections_of_each_client_and_of_all() {
        let connections = connections(2, 3);
        let first = connections.open(address(1)).unwrap();
        let _second = connections.open(address(1)).unwrap();
        assert!(connections.open(address(1)).is_none());
        let third = connections.open(address(2)).unwrap();
        assert!(connections.open(address(3)).is_none());
        drop((first, third));
        assert!(connections.open(address(1)).is_some());
        assert_eq!(connections.lock().open.len(), 1);
    }

    #[test]
    fn clients_behind_proxies_are_limited_together() {
        let limits = Limits {
            client_connections: 1,
            total_connections: 2,
            ..Limits::default()
        };
        let connections = Connections::new(&limits, true);
        let _open = [address(1), address(1)].map(|address| connections.open(address).unwrap());
        assert!(connections.open(address(2)).is_none());
    }

    #[test]
    fn closes_a_connection_without_requests() {
        let (connections, admission) = (connections(9, 9), Admission::new(&Limits::default()));
        let (idle, busy) = (
            connections.open(address(1)).unwrap(),
            connections.open(address(1)).unwrap(),
        );
        let request = busy.request();
        connections.sweep_once(connections.now() + 60_000, &admission);
        assert!(!is_closed(&idle));
        connections.sweep_once(connections.now() + 80_000, &admission);
        assert!(is_closed(&idle) && !is_closed(&busy));
        drop(request);
        connections.sweep_once(connections.now() + 80_000, &admission);
        assert!(is_closed(&busy));
    }

    #[tokio::test]
    async fn closes_a_connection_that_takes_nothing_sooner_where_others_wait() {
        let connections = connections(9, 9);
        let limits = Limits {
            client_memory: 1,
            ..Limits::default()
        };
        let admission = Admission::new(&limits);
        let connection = connections.open(address(1)).unwrap();
        let client = connection.client;
        let delivery = connection.request().deliver(client);
        connections.sweep_once(HOUR, &admission);
        assert!(!is_closed(&connection), "the upstream is slow");
        delivery.advanced();
        connections.sweep_once(connections.now() + 200_000, &admission);
        assert!(!is_closed(&connection));
        connections.sweep_once(connections.now() + 301_000, &admission);
        assert!(is_closed(&connection));

        let _turn = admission.admit(client, None).await.unwrap();
        let mut waiting = Box::pin(admission.admit(client, None));
        assert!((&mut waiting).now_or_never().is_none());
        connections.sweep_once(connections.now() + 5_000, &admission);
        assert!(!is_closed(&connection));
        connections.sweep_once(connections.now() + 11_000, &admission);
        assert!(is_closed(&connection));
    }
}
