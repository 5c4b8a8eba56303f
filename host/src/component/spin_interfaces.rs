//! Implements Spin's interfaces for key-value stores and variables, in the versions that its SDKs
//! for WASIp3 (`spin:...@3.0.0`, asynchronous) and WASIp2 (`fermyon:spin@2.0.0`) import.

use crate::component::guest::Guest;
use crate::component::stores::Store;
use crate::config::variables::check_name;
use anyhow::Result;
use std::sync::Arc;
use wasmtime::component::{Accessor, FutureReader, HasData, Linker, Resource, StreamReader};

/// The host's data of a `store` resource, in both versions.
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
        // Only what waits is asynchronous, which costs time: a WASIp2 instance reads all its
        // variables for its single request.
        imports: {
            "fermyon:spin/key-value.[drop]store": trappable,
            "fermyon:spin/key-value.[method]store.get": async,
            "fermyon:spin/key-value.[method]store.exists": async,
            "fermyon:spin/key-value.[method]store.get-keys": async,
            "fermyon:spin/key-value.[method]store.set": async,
            "fermyon:spin/key-value.[method]store.delete": async,
        },
        with: { "fermyon:spin/key-value.store": super::OpenStore },
    });
}

use p2::fermyon::spin::{key_value as kv2, variables as variables2};
use p3::spin::key_value::key_value as kv3;
use p3::spin::variables::variables as variables3;

/// Adds both versions of both interfaces to `linker`.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    kv3::add_to_linker::<_, SpinInterfaces>(linker, |guest| guest)?;
    variables3::add_to_linker::<_, SpinInterfaces>(linker, |guest| guest)?;
    kv2::add_to_linker::<_, SpinInterfaces>(linker, |guest| guest)?;
    variables2::add_to_linker::<_, SpinInterfaces>(linker, |guest| guest)
}

/// Gives the interfaces' implementations access to the whole [`Guest`].
struct SpinInterfaces;

impl HasData for SpinInterfaces {
    type Data<'a> = &'a mut Guest;
}

/// The parts that both versions of the key-value interface share.
impl Guest {
    /// Opens the store `label`. `None` if the component's `key_value_stores` don't list it.
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

/// The component handles a store's error; it gets the message.
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

fn get_store<T>(
    accessor: &Accessor<T, SpinInterfaces>,
    store: &Resource<OpenStore>,
) -> Result<OpenStore> {
    accessor.with(|mut access| access.get().store(store))
}

impl kv3::Host for Guest {}

impl kv3::HostStore for Guest {
    fn drop(&mut self, store: Resource<OpenStore>) -> wasmtime::Result<()> {
        self.close_store(store)
    }
}

impl<T: Send> kv3::HostStoreWithStore<T> for SpinInterfaces {
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
        Ok(get_store(accessor, &store)?.get(&key).await?)
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        store: Resource<OpenStore>,
        key: String,
        value: Vec<u8>,
    ) -> Result<(), kv3::Error> {
        Ok(get_store(accessor, &store)?.set(key, value).await?)
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        store: Resource<OpenStore>,
        key: String,
    ) -> Result<(), kv3::Error> {
        Ok(get_store(accessor, &store)?.delete(key).await?)
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        store: Resource<OpenStore>,
        key: String,
    ) -> Result<bool, kv3::Error> {
        Ok(get_store(accessor, &store)?.exists(&key).await?)
    }

    async fn get_keys(
        accessor: &Accessor<T, Self>,
        store: Resource<OpenStore>,
    ) -> wasmtime::Result<(StreamReader<String>, FutureReader<Result<(), kv3::Error>>)> {
        let keys = match get_store(accessor, &store) {
            Ok(store) => store.keys().await,
            Err(error) => Err(error),
        };
        let (keys, outcome) = match keys {
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

    async fn get(
        &mut self,
        store: Resource<OpenStore>,
        key: String,
    ) -> Result<Option<Vec<u8>>, kv2::Error> {
        Ok(self.store(&store)?.get(&key).await?)
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

    async fn exists(
        &mut self,
        store: Resource<OpenStore>,
        key: String,
    ) -> Result<bool, kv2::Error> {
        Ok(self.store(&store)?.exists(&key).await?)
    }

    async fn get_keys(&mut self, store: Resource<OpenStore>) -> Result<Vec<String>, kv2::Error> {
        Ok(self.store(&store)?.keys().await?)
    }

    fn drop(&mut self, store: Resource<OpenStore>) -> wasmtime::Result<()> {
        self.close_store(store)
    }
}

impl variables3::Host for Guest {}

impl<T: Send> variables3::HostWithStore<T> for SpinInterfaces {
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
