//! Entries of the manifest cache in the blob store, behind memory and the key-value store: those
//! hold some hundreds of manifests, this as many as were pulled.

use super::BlobStore;
use super::client::Client;
use super::fault::Fault;
use super::sigv4::sha256_hex;
use crate::context::Context;
use crate::platform::{self, Payload, Platform, TransportError};
use std::rc::Rc;
use std::time::Duration;

/// Bytes. A longer entry was not written here.
const MAX_ENTRY: usize = 1024 * 1024;
/// How long the content of an entry may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

impl<P: Platform> BlobStore<P> {
    /// Returns the entry of a key, as it was written. `prefix` begins its name: see
    /// [`super::object::entries_prefix`].
    pub async fn entry(&self, context: &Context<'_, P>, prefix: &str, key: &str) -> Option<String> {
        let client = Client::new(context)?;
        if self.is_down(context).await {
            return None;
        }
        let platform = context.platform;
        let read = async {
            let response = client.get(&entry_name(prefix, key), None, None).await?;
            let Some(response) = response else {
                return Ok(None);
            };
            let read = platform.read(response.into_body(), MAX_ENTRY);
            let read = platform::within(platform, READ_TIMEOUT, read).await;
            let entry = read.and_then(Result::ok);
            // Else each request would wait as long.
            let entry = entry.ok_or(Fault::Transport(TransportError::TimedOut))?;
            Ok(String::from_utf8(entry).ok())
        };
        match read.await {
            Ok(entry) => entry,
            Err(fault) => {
                self.failed(context, "get", &fault);
                None
            }
        }
    }

    /// Writes the entry of a key once the answer has left. An empty one is none: to delete objects
    /// is more than the key of the store has to be allowed.
    pub fn put_entry(
        self: &Rc<Self>,
        context: &Context<'_, P>,
        prefix: &str,
        key: &str,
        entry: Vec<u8>,
    ) {
        let (store, object) = (Rc::clone(self), entry_name(prefix, key));
        let (platform, context) = (context.platform.clone(), context.to_owned());
        let write = async move {
            let context = context.borrow();
            let Some(client) = Client::new(&context) else {
                return;
            };
            if store.is_down(&context).await {
                return;
            }
            let (hash, length) = (sha256_hex(&entry), entry.len());
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            let put = client.put(&object, Payload::Bytes(entry), length, &hash);
            if let Err(fault) = put.await {
                store.failed(&context, "put", &fault);
            }
        };
        // As a copy is: see `copy_later`.
        let last = platform.clone();
        platform.defer(async move { last.defer(write) });
    }
}

fn entry_name(prefix: &str, key: &str) -> String {
    [prefix, &sha256_hex(key.as_bytes())].concat()
}
