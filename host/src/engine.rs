//! Wasmtime: the component compiled and linked, and how long an instance of it lives.

use crate::guest::{Guest, Shared};
use crate::interfaces;
use crate::output::note;
use crate::response;
use crate::wasi;
use anyhow::{Context as _, Result};
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc;
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

/// How many requests one instance of a WASIp3 component serves in its life, and at one time; as in Spin.
const REUSE: usize = 128;
const CONCURRENT: usize = 16;

/// How many instances there may be at one time: a WASIp2 component has one for each download, until its end.
const INSTANCES: u32 = 4_000;

/// How many bytes of an ended instance's memory, and of its tables, stay mapped for the next one, as in Spin.
const KEPT_MEMORY: usize = 2 * 1024 * 1024;
const KEPT_TABLE: usize = 512 * 1024;

/// How long an idle instance is kept, as in Spin.
const IDLE: Duration = Duration::from_secs(1);

/// How long the component may take until it answers. Spin sets no limit; without one, a component that loops keeps
/// its instance, and a client its connection, for ever.
pub const ANSWER: Duration = Duration::from_secs(120);

/// How long a WASIp2 component may take until the client has its whole answer: it sends the body before it returns.
const TRANSFER: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the component may compute at a stretch before other tasks of the host have their turn.
const TICK: Duration = Duration::from_millis(1);

/// Compiling for longer than this is announced.
const ANNOUNCE: Duration = Duration::from_millis(300);

/// The component, ready for requests.
pub type Handler = ProxyHandler<Instances>;

/// Makes instances.
pub struct Instances {
    engine: Engine,
    pre: ProxyPre<Guest>,
    shared: Shared,
}

/// Compiles the component in `file`, or takes it from the cache, and links it.
pub fn load(file: &Path, shared: Shared) -> Result<Handler> {
    let bytes = std::fs::read(file).with_context(|| {
        format!(
            "can't read the component {}; add --build to build it with the manifest's build command",
            file.display()
        )
    })?;
    let mut config = Config::new();
    config
        .wasm_component_model_async(true)
        .epoch_interruption(true);
    match Cache::new(CacheConfig::new()) {
        Ok(cache) => drop(config.cache(Some(cache))),
        Err(error) => note(&format!(
            "compiled code is not kept for the next start: {error:#}"
        )),
    }
    // As in Spin: mapping the memory of each new instance takes the kernel longer than many a request takes.
    config.allocation_strategy(pool());
    let engine = Engine::new(&config).or_else(|error| {
        // A machine without address space enough for the pool.
        note(&format!(
            "instances are made without a pool, which is slower: {error:#}"
        ));
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config)
    })?;
    let component = announced(
        "Compiling the component to machine code, once after each change of it...",
        || Component::from_binary(&engine, &bytes),
    );
    let component = component
        .map_err(anyhow::Error::from)
        .with_context(|| format!("{} is not a WebAssembly component", file.display()))?;

    let mut linker = Linker::new(&engine);
    wasi::add_to_linker(&mut linker, &component)?;
    p2::add_only_http_to_linker_async(&mut linker)?;
    p3::add_to_linker(&mut linker)?;
    response::add_to_linker(&mut linker)?;
    interfaces::add_to_linker(&mut linker)?;
    let instance = linker
        .instantiate_pre(&component)
        .map_err(anyhow::Error::from)
        .context("the component imports something that this host doesn't provide")?;
    let pre = match p3::bindings::ServicePre::new(instance.clone()) {
        Ok(pre) => ProxyPre::P3(pre),
        Err(p3_error) => {
            ProxyPre::P2(p2::bindings::ProxyPre::new(instance).map_err(|p2_error| {
                anyhow::anyhow!(
                    "the component exports neither wasi:http/handler@0.3 ({p3_error}) nor \
                 wasi:http/incoming-handler@0.2 ({p2_error})"
                )
            })?)
        }
    };
    let ticking = engine.weak();
    std::thread::spawn(move || {
        while let Some(engine) = ticking.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    });
    Ok(ProxyHandler::new(Instances {
        engine,
        pre,
        shared,
    }))
}

/// Where instances are made. It reserves addresses; memory is taken when it is used.
fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(INSTANCES)
        .total_core_instances(4 * INSTANCES)
        .total_memories(INSTANCES)
        .total_tables(2 * INSTANCES)
        .total_stacks(INSTANCES)
        .table_elements(100_000)
        .max_component_instance_size(10 * 1024 * 1024)
        .max_core_instance_size(10 * 1024 * 1024)
        .linear_memory_keep_resident(KEPT_MEMORY)
        .table_keep_resident(KEPT_TABLE);
    pool
}

/// Runs `work`; if that takes long, says on stderr what is going on.
fn announced<T>(message: &'static str, work: impl FnOnce() -> T) -> T {
    let (done, waiting) = mpsc::channel::<()>();
    let announcer = std::thread::spawn(move || {
        if waiting.recv_timeout(ANNOUNCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            note(message);
        }
    });
    let result = work();
    drop(done);
    // It only prints.
    let _ = announcer.join();
    result
}

impl HandlerState for Instances {
    type StoreData = Guest;
    type WorkerExpiration = Expiration;
    type WorkerState = Life;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Guest, Expiration, Life>> {
        let mut store = Store::new(&self.engine, Guest::new(&self.shared));
        store.limiter(|guest| &mut guest.limits);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let proxy = self.pre.instantiate_async(&mut store).await?;
        let (reuse, limit) = match proxy {
            Proxy::P3(_) => (REUSE, ANSWER),
            Proxy::P2(_) => (1, TRANSFER),
        };
        Ok(Instance {
            store,
            proxy,
            view: Guest::http,
            expiration: Expiration {
                limit,
                at: Box::pin(tokio::time::sleep(IDLE)),
            },
            state: Life { reuse, limit },
        })
    }
}

/// How many requests an instance takes, and for how long each.
pub struct Life {
    reuse: usize,
    limit: Duration,
}

impl WorkerState for Life {
    type StoreData = Guest;
    type RequestData = ();

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        match (total >= self.reuse, concurrent >= CONCURRENT) {
            (true, _) => ShouldAccept::Never,
            (false, true) => ShouldAccept::No,
            (false, false) => ShouldAccept::Yes,
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Guest>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        Box::pin(tokio::time::sleep(self.limit))
    }

    fn drop(&self, store: Store<Guest>, result: wasmtime::Result<()>) {
        // First, so that a panic message's last line comes before what is said about it.
        drop(store);
        if let Err(error) = result {
            note(&format!("an instance of the component ended: {error:?}"));
        }
    }
}

/// When an instance goes that doesn't end by itself.
pub struct Expiration {
    limit: Duration,
    at: Pin<Box<Sleep>>,
}

impl WorkerExpiration for Expiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        since: Instant,
    ) -> Poll<()> {
        let limit = match status {
            WorkerStatus::Idle => IDLE,
            WorkerStatus::Requests => self.limit,
            // A body that the component copies, or a write after the answer, takes as long as it takes.
            WorkerStatus::PostReturn => return Poll::Pending,
        };
        let deadline = tokio::time::Instant::from_std(since + limit);
        if self.at.deadline() != deadline {
            self.at.as_mut().reset(deadline);
        }
        self.at.as_mut().poll(cx)
    }
}
