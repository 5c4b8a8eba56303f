//! Runs the component on Wasmtime: compiles and links it, makes its instances and limits them.

pub mod early_body;
pub mod guest;
pub mod instances;
pub mod key_value;
pub mod lifetime;
pub mod redis;
pub mod spin_interfaces;
pub mod stores;
mod wasi;

use self::guest::{Guest, GuestConfig};
use self::instances::{InstanceFactory, InstanceLimits};
use crate::stderr::warn;
use anyhow::{Context as _, Result, anyhow};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use wasmtime::component::{Component, Linker};
use wasmtime::{
    Cache, CacheConfig, Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
};
use wasmtime_wasi_http::handler::{ProxyHandler, ProxyPre};
use wasmtime_wasi_http::{p2, p3};

/// The most instances at one time. A WASIp2 component needs one for each download, until its end.
const MAX_INSTANCES: u32 = 4_000;

/// Bytes of an ended instance's linear memory that stay mapped for the next one, as in Spin.
const RESIDENT_MEMORY: usize = 2 * 1024 * 1024;

/// Bytes of an ended instance's tables that stay mapped for the next one, as in Spin.
const RESIDENT_TABLE: usize = 512 * 1024;

/// How long the component computes before it yields to other tasks of the host.
const EPOCH_INTERVAL: Duration = Duration::from_millis(1);

/// How long compiling may take before a message on stderr says so.
const COMPILE_MESSAGE_DELAY: Duration = Duration::from_millis(300);

/// Passes requests to instances of the component.
pub type Handler = ProxyHandler<InstanceFactory>;

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
