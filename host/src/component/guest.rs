//! What one instance of the component owns, and what all its instances share.

use crate::component::key_value::Stores;
use crate::outbound::Outbound;
use crate::stderr::LineWriter;
use std::collections::BTreeMap;
use std::sync::Arc;
use wasmtime::component::ResourceTable;
use wasmtime::{StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Memory of one instance, in bytes, where the runtime configuration has no `max_instance_memory`. Enough for
/// hundreds of manifests at a time; one broken request can't take the machine's.
const DEFAULT_MEMORY: usize = 256 * 1024 * 1024;

/// Everything that a new instance is given.
pub struct Shared {
    pub variables: Arc<BTreeMap<String, String>>,
    pub stores: Arc<Stores>,
    pub outbound: Outbound,
    pub environment: Vec<(String, String)>,
    /// Bytes.
    pub max_memory: Option<usize>,
    /// Whether what the component prints is dropped.
    pub quiet: bool,
}

/// The data of a Wasmtime store.
pub struct Guest {
    pub table: ResourceTable,
    pub variables: Arc<BTreeMap<String, String>>,
    pub stores: Arc<Stores>,
    pub limits: StoreLimits,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outbound: Outbound,
}

impl Guest {
    pub fn new(shared: &Shared) -> Self {
        let mut wasi = WasiCtxBuilder::new();
        wasi.envs(&shared.environment);
        if !shared.quiet {
            wasi.stdout(LineWriter::stderr())
                .stderr(LineWriter::stderr());
        }
        Self {
            table: ResourceTable::new(),
            variables: Arc::clone(&shared.variables),
            stores: Arc::clone(&shared.stores),
            limits: StoreLimitsBuilder::new()
                .memory_size(shared.max_memory.unwrap_or(DEFAULT_MEMORY))
                .build(),
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            outbound: shared.outbound.clone(),
        }
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
