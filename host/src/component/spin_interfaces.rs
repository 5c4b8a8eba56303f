//! Spin's own interfaces, as far as this host offers them: key-value and variables, in the versions of the SDKs for
//! WASIp3 (`spin:...@3.0.0`, asynchronous) and WASIp2 (`fermyon:spin@2.0.0`).

use crate::component::guest::Guest;
use crate::component::key_value::Store;
use crate::config::variables::check_name;
use anyhow::Result;
use std::sync::Arc;
use wasmtime::component::{Accessor, FutureReader, HasData, Linker, Resource, StreamReader};

/// What stands behind the `store` resource of both versions.
pub type OpenStore = Arc<Store>;

mod p3 {
    wasmtime::component::bindgen!({
        path: "wit/p3.wit",
        imports: {
            "spin:key-value/key-value.[drop]store": trappable,
            "spin:key-value/key-value.[method]store.get-keys": async | store | trappable,
        },
        with: { "spin:key-value/key-value.store": super::OpenStore },
    });
}

mod p2 {
    wasmtime::component::bindgen!({
        path: "wit/p2.wit",
        // What waits for nothing is no future: a WASIp2 instance reads all its settings for its one request.
        imports: {
            "fermyon:spin/key-value.[drop]store": trappable,
            "fermyon:spin/key-value.[method]store.set": async,
            "fermyon:spin/key-value.[method]store.delete": async,
        },
        with: { "fermyon:spin/key-value.store": super::OpenStore },
    });
}

use p2::fermyon::spin::{key_value as kv2, variables as variables2};
use p3::spin::key_value::key_value as kv3;
use p3::spin::variables::variables as variables3;

/// Offers both versions of both interfaces to the component.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    kv3::add_to_linker::<_, Spin>(linker, |guest| guest)?;
    variables3::add_to_linker::<_, Spin>(linker, |guest| guest)?;
    kv2::add_to_linker::<_, Spin>(linker, |guest| guest)?;
    variables2::add_to_linker::<_, Spin>(linker, |guest| guest)
}

/// Says that these interfaces work on the whole [`Guest`].
struct Spin;

impl HasData for Spin {
    type Data<'a> = &'a mut Guest;
}

/// What both versions of the key-value interface are made of.
impl Guest {
    /// `None` where the manifest doesn't allow the store.
    fn open_store(&mut self, label: &str) -> Result<Option<Resource<OpenStore>>> {
        let Some(store) = self.stores.get(label) else {
            return Ok(None);
        };
        store.open()?;
        Ok(Some(self.table.push(store)?))
    }

    fn store(&self, store: &Resource<OpenStore>) -> Result<OpenStore> {
        Ok(Arc::clone(self.table.get(store)?))
    }

    fn close_store(&mut self, store: Resource<OpenStore>) -> wasmtime::Result<()> {
        self.table.delete(store)?;
        Ok(())
    }
}

/// A failing store is the component's to handle; it is told what happened.
impl From<anyhow::Error> for kv3::Error {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(format!("{error:#}"))
    }
}

impl From<anyhow::Error> for kv2::Error {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(format!("{error:#}"))
    }
}

fn store_of<T>(accessor: &Accessor<T, Spin>, store: &Resource<OpenStore>) -> Result<OpenStore> {
    accessor.with(|mut access| access.get().store(store))
}

impl kv3::Host for Guest {}

impl kv3::HostStore for Guest {
    fn drop(&mut self, store: Resource<OpenStore>) -> wasmtime::Result<()> {
        self.close_store(store)
    }
}

impl<T: Send> kv3::HostStoreWithStore<T> for Spin {
    async fn open(
        accessor: &Accessor<T, Self>,
        label: String,
    ) -> Result<Resource<OpenStore>, kv3::Error> {
        accessor
            .with(|mut access| access.get().open_store(&label))?
            .ok_or(kv3::Error::AccessDenied)
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        store: Resource<OpenStore>,
        key: String,
    ) -> Result<Option<Vec<u8>>, kv3::Error> {
        Ok(store_of(accessor, &store)?.get(&key)?)
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        store: Resource<OpenStore>,
        key: String,
        value: Vec<u8>,
    ) -> Result<(), kv3::Error> {
        Ok(store_of(accessor, &store)?.set(key, value).await?)
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        store: Resource<OpenStore>,
        key: String,
    ) -> Result<(), kv3::Error> {
        Ok(store_of(accessor, &store)?.delete(key).await?)
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        store: Resource<OpenStore>,
        key: String,
    ) -> Result<bool, kv3::Error> {
        Ok(store_of(accessor, &store)?.exists(&key)?)
    }

    async fn get_keys(
        accessor: &Accessor<T, Self>,
        store: Resource<OpenStore>,
    ) -> wasmtime::Result<(StreamReader<String>, FutureReader<Result<(), kv3::Error>>)> {
        let (keys, outcome) = match store_of(accessor, &store).and_then(|store| store.keys()) {
            Ok(keys) => (keys, Ok(())),
            Err(error) => (Vec::new(), Err(error.into())),
        };
        accessor.with(|mut access| {
            let keys = StreamReader::new(&mut access, keys)?;
            let outcome =
                FutureReader::new(&mut access, async move { wasmtime::error::Ok(outcome) })?;
            Ok((keys, outcome))
        })
    }
}

impl kv2::Host for Guest {}

impl kv2::HostStore for Guest {
    fn open(&mut self, label: String) -> Result<Resource<OpenStore>, kv2::Error> {
        self.open_store(&label)?.ok_or(kv2::Error::AccessDenied)
    }

    fn get(
        &mut self,
        store: Resource<OpenStore>,
        key: String,
    ) -> Result<Option<Vec<u8>>, kv2::Error> {
        Ok(self.store(&store)?.get(&key)?)
    }

    async fn set(
        &mut self,
        store: Resource<OpenStore>,
        key: String,
        value: Vec<u8>,
    ) -> Result<(), kv2::Error> {
        Ok(self.store(&store)?.set(key, value).await?)
    }

    async fn delete(&mut self, store: Resource<OpenStore>, key: String) -> Result<(), kv2::Error> {
        Ok(self.store(&store)?.delete(key).await?)
    }

    fn exists(&mut self, store: Resource<OpenStore>, key: String) -> Result<bool, kv2::Error> {
        Ok(self.store(&store)?.exists(&key)?)
    }

    fn get_keys(&mut self, store: Resource<OpenStore>) -> Result<Vec<String>, kv2::Error> {
        Ok(self.store(&store)?.keys()?)
    }

    fn drop(&mut self, store: Resource<OpenStore>) -> wasmtime::Result<()> {
        self.close_store(store)
    }
}

impl variables3::Host for Guest {}

impl<T: Send> variables3::HostWithStore<T> for Spin {
    async fn get(accessor: &Accessor<T, Self>, name: String) -> Result<String, variables3::Error> {
        check_name(&name)
            .map_err(|error| variables3::Error::InvalidName(format!("{name:?}: {error}")))?;
        let value = accessor.with(|mut access| access.get().variables.get(&name).cloned());
        value.ok_or_else(|| {
            variables3::Error::Undefined(format!("the component has no variable {name:?}"))
        })
    }
}

impl variables2::Host for Guest {
    fn get(&mut self, name: String) -> Result<String, variables2::Error> {
        check_name(&name)
            .map_err(|error| variables2::Error::InvalidName(format!("{name:?}: {error}")))?;
        let value = self.variables.get(&name).cloned();
        value.ok_or_else(|| {
            variables2::Error::Undefined(format!("the component has no variable {name:?}"))
        })
    }
}
