//! The host's data of one instance of the component, and the configuration of all instances.

use crate::component::lifetime::InstanceLife;
use crate::component::stores::Stores;
use crate::metrics;
use crate::outbound::Outbound;
use crate::stderr::LineWriter;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// The default of the runtime configuration's `max_instance_memory`, in bytes: enough for hundreds
/// of manifests at a time, and a faulty request can't use up the machine's memory.
const DEFAULT_MAX_MEMORY: usize = 256 * 1024 * 1024;

/// The configuration that every new instance is made with.
pub struct GuestConfig {
    /// The component's variables by name, templates expanded.
    pub variables: Arc<BTreeMap<String, String>>,
    pub stores: Arc<Stores>,
    pub outbound: Outbound,
    /// The component's environment variables.
    pub environment: Vec<(String, String)>,
    /// How long the component may take until it returns a response.
    pub request_timeout: Duration,
    /// Bytes of linear memory; `None` is the default.
    pub max_memory: Option<usize>,
    /// Whether the component's output is discarded.
    pub quiet: bool,
}

/// The host's data of one instance: the data of its Wasmtime store.
pub struct Guest {
    /// The resources that the instance holds handles of.
    pub table: ResourceTable,
    pub variables: Arc<BTreeMap<String, String>>,
    pub stores: Arc<Stores>,
    /// The limit of its linear memory.
    pub limits: MemoryLimit,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outbound: Outbound,
    _counted: metrics::InGauge,
}

impl Guest {
    /// Makes the data of a new instance.
    pub fn new(config: &GuestConfig, life: &Arc<InstanceLife>) -> Self {
        let mut wasi = WasiCtxBuilder::new();
        wasi.envs(&config.environment);
        if !config.quiet {
            wasi.stdout(LineWriter::stderr())
                .stderr(LineWriter::stderr());
        } else if metrics::is_enabled() {
            wasi.stdout(LineWriter::discarding())
                .stderr(LineWriter::discarding());
        }
        Self {
            table: ResourceTable::new(),
            variables: Arc::clone(&config.variables),
            stores: Arc::clone(&config.stores),
            limits: MemoryLimit {
                max: config.max_memory.unwrap_or(DEFAULT_MAX_MEMORY),
                life: Arc::clone(life),
            },
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            outbound: config.outbound.of_instance(life),
            _counted: metrics::instance_created(),
        }
    }
}

/// Limits the linear memory of an instance, and tells how large it is.
pub struct MemoryLimit {
    max: usize,
    life: Arc<InstanceLife>,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let is_permitted = desired <= self.max;
        if is_permitted {
            self.life.set_memory(desired);
        }
        Ok(is_permitted)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outbound,
        }
    }
}
