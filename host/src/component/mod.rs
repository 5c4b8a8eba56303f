//! Runs the component on Wasmtime: compiles and links it, makes its instances and limits them.

pub mod early_body;
pub mod guest;
pub mod key_value;
pub mod lifetime;
pub mod redis;
pub mod spin_interfaces;
pub mod stores;
mod wasi;

use self::guest::{Guest, GuestConfig};
use self::lifetime::{InstanceLife, RequestLife};
use crate::config::range::{Count, Nanoseconds, Range};
use crate::stderr::warn;
use anyhow::{Context as _, Result, anyhow};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;
use wasmtime::component::{Component, GuestTaskId, Linker};
use wasmtime::{
    Cache, CacheConfig, Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    StoreContextMut,
};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, Proxy, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration,
    WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::{WasiHttpView as _, p2, p3};

/// The most requests that one instance of a WASIp3 component handles in total, as in Spin.
const MAX_REQUESTS_PER_INSTANCE: Count = 128;

/// The most requests that one instance of a WASIp3 component handles at one time, as in Spin.
const MAX_CONCURRENT_REQUESTS_PER_INSTANCE: Count = 16;

/// Bytes of linear memory beyond which an instance takes no more requests: it ends with those that
/// it has, and gives back what large manifests took.
const MAX_REUSED_MEMORY: usize = 4 * 1024 * 1024;

/// The most instances at one time. A WASIp2 component needs one for each download, until its end.
const MAX_INSTANCES: u32 = 4_000;

/// Bytes of an ended instance's linear memory that stay mapped for the next one, as in Spin.
const RESIDENT_MEMORY: usize = 2 * 1024 * 1024;

/// Bytes of an ended instance's tables that stay mapped for the next one, as in Spin.
const RESIDENT_TABLE: usize = 512 * 1024;

/// How long an instance without requests is kept, as in Spin.
const INSTANCE_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an instance goes on after the last of those who waited for it has gone: it may be
/// writing to the store what it has learnt.
const GIVEN_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a WASIp2 component may take for a request, response body included: it returns only
/// after it has sent the body.
const P2_REQUEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the component computes before it yields to other tasks of the host.
const EPOCH_INTERVAL: Duration = Duration::from_millis(1);

/// How long compiling may take before a message on stderr says so.
const COMPILE_MESSAGE_DELAY: Duration = Duration::from_millis(300);

/// Passes requests to instances of the component.
pub type Handler = ProxyHandler<InstanceFactory>;

/// Makes instances of the component, for [`Handler`].
pub struct InstanceFactory {
    engine: Engine,
    pre: ProxyPre<Guest>,
    config: GuestConfig,
    limits: InstanceLimits,
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

/// How Wasmtime compiles the component and allocates its instances.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Doesn't allocate instances from a pool.
    pub disable_pooling: bool,
    /// Doesn't cache compiled code.
    pub disable_cache: bool,
    /// Wasmtime's configuration file for the cache, instead of its default one.
    pub cache_config: Option<PathBuf>,
}

/// Compiles the component in `file`, or takes the result from the cache, and links it. Every
/// instance is made with `config`. Fails if the file can't be read, is no component, imports an
/// interface that is not linked, or exports no HTTP handler.
pub fn load(
    file: &Path,
    config: GuestConfig,
    limits: InstanceLimits,
    options: &EngineOptions,
) -> Result<Handler> {
    let engine = new_engine(options)?;
    let component = compile_file(&engine, file)?;
    let pre = link(&engine, &component)?;
    increment_epoch_regularly(&engine);
    Ok(ProxyHandler::new(InstanceFactory {
        engine,
        pre,
        config,
        limits,
    }))
}

/// Compiles the component in `file` into the cache.
pub fn compile(file: &Path, options: &EngineOptions) -> Result<()> {
    compile_file(&new_engine(options)?, file).map(drop)
}

fn compile_file(engine: &Engine, file: &Path) -> Result<Component> {
    let bytes = std::fs::read(file).with_context(|| {
        format!(
            "can't read the component {}; add --build to build it with the manifest's build command",
            file.display()
        )
    })?;
    let component = with_progress_message(
        "Compiling the component to machine code, once after each change of it...",
        || Component::from_binary(engine, &bytes),
    );
    component
        .map_err(anyhow::Error::from)
        .with_context(|| format!("{} is not a WebAssembly component", file.display()))
}

/// Configures Wasmtime. If there is no cache for compiled code, or too little address space for the
/// pool, it does without and writes a warning.
fn new_engine(options: &EngineOptions) -> Result<Engine> {
    let mut config = Config::new();
    config
        .wasm_component_model_async(true)
        .epoch_interruption(true);
    if !options.disable_cache {
        let cache = match &options.cache_config {
            Some(file) => CacheConfig::from_file(Some(file)),
            None => Ok(CacheConfig::new()),
        };
        match cache.and_then(Cache::new) {
            Ok(cache) => drop(config.cache(Some(cache))),
            Err(error) => warn(&format!(
                "compiled code is not cached for the next start: {error:#}"
            )),
        }
    }
    if options.disable_pooling {
        return Ok(Engine::new(&config)?);
    }
    // As in Spin: the kernel takes longer to map an instance's memory than many requests take.
    config.allocation_strategy(instance_pool());
    let engine = Engine::new(&config).or_else(|error| {
        // The machine has too little address space for the pool.
        warn(&format!(
            "instances are allocated without a pool, which is slower: {error:#}"
        ));
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config)
    })?;
    Ok(engine)
}

/// The pooling allocator's limits. The pool reserves addresses; memory is allocated on first use.
fn instance_pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(MAX_INSTANCES)
        .total_core_instances(4 * MAX_INSTANCES)
        .total_memories(MAX_INSTANCES)
        .total_tables(2 * MAX_INSTANCES)
        .total_stacks(MAX_INSTANCES)
        .table_elements(100_000)
        .max_component_instance_size(10 * 1024 * 1024)
        .max_core_instance_size(10 * 1024 * 1024)
        .linear_memory_keep_resident(RESIDENT_MEMORY)
        .table_keep_resident(RESIDENT_TABLE);
    pool
}

/// Links the component with every interface that this host provides, and finds the HTTP handler
/// that it exports: WASIp3's if it has both.
fn link(engine: &Engine, component: &Component) -> Result<ProxyPre<Guest>> {
    let mut linker = Linker::new(engine);
    wasi::add_to_linker(&mut linker, component)?;
    p2::add_only_http_to_linker_async(&mut linker)?;
    p3::add_to_linker(&mut linker)?;
    early_body::add_to_linker(&mut linker)?;
    spin_interfaces::add_to_linker(&mut linker)?;
    let instance = linker
        .instantiate_pre(component)
        .map_err(anyhow::Error::from)
        .context("the component imports something that this host doesn't provide")?;
    match p3::bindings::ServicePre::new(instance.clone()) {
        Ok(pre) => Ok(ProxyPre::P3(pre)),
        Err(p3_error) => match p2::bindings::ProxyPre::new(instance) {
            Ok(pre) => Ok(ProxyPre::P2(pre)),
            Err(p2_error) => Err(anyhow!(
                "the component exports neither wasi:http/handler@0.3 ({p3_error}) nor \
                 wasi:http/incoming-handler@0.2 ({p2_error})"
            )),
        },
    }
}

/// Starts a thread that increments the epoch every [`EPOCH_INTERVAL`] while the engine exists.
fn increment_epoch_regularly(engine: &Engine) {
    let engine = engine.weak();
    std::thread::spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(EPOCH_INTERVAL);
        }
    });
}

/// Runs `work`, and writes `message` to stderr if it takes longer than [`COMPILE_MESSAGE_DELAY`].
fn with_progress_message<T>(message: &'static str, work: impl FnOnce() -> T) -> T {
    let (done, is_done) = mpsc::channel::<()>();
    let timer = std::thread::spawn(move || {
        if is_done.recv_timeout(COMPILE_MESSAGE_DELAY) == Err(mpsc::RecvTimeoutError::Timeout) {
            warn(message);
        }
    });
    let result = work();
    drop(done);
    // The thread only writes a message.
    let _ = timer.join();
    result
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
