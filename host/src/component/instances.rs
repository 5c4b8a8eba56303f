//! Makes instances of the component, and says which requests each takes and when it ends.

use super::guest::{Guest, GuestConfig};
use super::lifetime::{InstanceLife, RequestLife};
use crate::config::range::{Count, Nanoseconds, Range};
use crate::stderr::warn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;
use wasmtime::component::GuestTaskId;
use wasmtime::{Engine, Store, StoreContextMut};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, Proxy, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState,
    WorkerStatus,
};

/// The most requests that one instance of a WASIp3 component handles in total, as in Spin.
const MAX_REQUESTS_PER_INSTANCE: Count = 128;

/// The most requests that one instance of a WASIp3 component handles at one time, as in Spin.
const MAX_CONCURRENT_REQUESTS_PER_INSTANCE: Count = 16;

/// Bytes of linear memory beyond which an instance takes no more requests: it ends with those that
/// it has, and gives back what large manifests took.
const MAX_REUSED_MEMORY: usize = 4 * 1024 * 1024;

/// How long an instance without requests is kept, as in Spin.
const INSTANCE_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an instance goes on after the last of those who waited for it has gone: it may be
/// writing to the store what it has learnt.
const GIVEN_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a WASIp2 component may take for a request, response body included: it returns only
/// after it has sent the body.
const P2_REQUEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes instances of the component, for [`Handler`].
pub struct InstanceFactory {
    pub engine: Engine,
    pub pre: ProxyPre<Guest>,
    pub config: GuestConfig,
    pub limits: InstanceLimits,
}

/// The limits of one instance. Where it is a range, each instance has its own.
#[derive(Clone, Debug)]
pub struct InstanceLimits {
    pub max_requests: Range<Count>,
    pub max_concurrent_requests: Range<Count>,
    pub idle_timeout: Range<Nanoseconds>,
}

impl Default for InstanceLimits {
    fn default() -> Self {
        Self {
            max_requests: Range::only(MAX_REQUESTS_PER_INSTANCE),
            max_concurrent_requests: Range::only(MAX_CONCURRENT_REQUESTS_PER_INSTANCE),
            idle_timeout: Range::only(Nanoseconds::new(INSTANCE_IDLE_TIMEOUT)),
        }
    }
}

impl HandlerState for InstanceFactory {
    type StoreData = Guest;
    type WorkerExpiration = InstanceExpiration;
    type WorkerState = InstancePolicy;

    async fn instantiate(
        &self,
    ) -> wasmtime::Result<Instance<Guest, InstanceExpiration, InstancePolicy>> {
        let life = Arc::<InstanceLife>::default();
        let mut store = Store::new(&self.engine, Guest::new(&self.config, &life));
        store.limiter(|guest| &mut guest.limits);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let proxy = self.pre.instantiate_async(&mut store).await?;
        let limits = &self.limits;
        let (max_requests, request_timeout) = match proxy {
            // Spin has no such limit; without one, an endless loop in the component holds its
            // instance and the client's connection for ever.
            Proxy::P3(_) => (limits.max_requests.pick(), self.config.request_timeout),
            Proxy::P2(_) => (1, P2_REQUEST_TIMEOUT),
        };
        let idle_timeout = limits.idle_timeout.pick().into();
        Ok(Instance {
            store,
            proxy,
            view: Guest::http,
            expiration: InstanceExpiration {
                request_timeout,
                idle_timeout,
                life: Arc::clone(&life),
                timer: Box::pin(tokio::time::sleep(idle_timeout)),
            },
            state: InstancePolicy {
                max_requests,
                max_concurrent_requests: limits.max_concurrent_requests.pick(),
                request_timeout,
                life,
                has_grown: AtomicBool::new(false),
            },
        })
    }
}

/// Limits the requests of one instance: their number and the time of each.
pub struct InstancePolicy {
    max_requests: Count,
    max_concurrent_requests: Count,
    request_timeout: Duration,
    life: Arc<InstanceLife>,
    /// Whether the memory was beyond [`MAX_REUSED_MEMORY`] when the last request began. It is
    /// looked at only then: a worker that becomes unavailable at another time keeps the notice of
    /// the next request to itself, and nobody takes that.
    has_grown: AtomicBool,
}

impl WorkerState for InstancePolicy {
    type StoreData = Guest;
    type RequestData = Arc<RequestLife>;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        match (
            total as Count >= self.max_requests || self.has_grown.load(Ordering::Relaxed),
            concurrent as Count >= self.max_concurrent_requests,
        ) {
            (true, _) => ShouldAccept::Never,
            (false, true) => ShouldAccept::No,
            (false, false) => ShouldAccept::Yes,
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Guest>,
        request: Arc<RequestLife>,
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        request.start(&self.life);
        let has_grown = self.life.memory() > MAX_REUSED_MEMORY;
        self.has_grown.store(has_grown, Ordering::Relaxed);
        Box::pin(tokio::time::sleep(self.request_timeout))
    }

    fn drop(&self, store: Store<Guest>, result: wasmtime::Result<()>) {
        // Flushes the component's output first, so that the warning follows its panic message.
        drop(store);
        if let Err(error) = result
            && !self.life.is_given_up()
        {
            warn(&format!("an instance of the component ended: {error:?}"));
        }
    }
}

/// Ends an instance that is idle, that takes longer for a request than it may, or that nobody waits
/// for any more.
pub struct InstanceExpiration {
    request_timeout: Duration,
    idle_timeout: Duration,
    life: Arc<InstanceLife>,
    timer: Pin<Box<Sleep>>,
}

impl WorkerExpiration for InstanceExpiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        since: Instant,
    ) -> Poll<()> {
        let given_up = match self.life.poll_given_up(cx) {
            Poll::Ready(since) => Some(since + GIVEN_UP_TIMEOUT),
            Poll::Pending => None,
        };
        let limit = match status {
            WorkerStatus::Idle => Some(since + self.idle_timeout),
            WorkerStatus::Requests => Some(since + self.request_timeout),
            // No limit here for a response body that the component copies, or a later store write.
            WorkerStatus::PostReturn => None,
        };
        let Some(deadline) = [given_up, limit].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        let deadline = tokio::time::Instant::from_std(deadline);
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx)
    }
}
