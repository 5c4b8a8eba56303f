//! The key-value store behind guards: a store that fails or is slow costs speed only.

use crate::platform::{self, Platform};
use std::cell::Cell;
use std::time::Duration;

/// A read that takes longer is given up, and the store is not used for [`STORE_BACKOFF`].
const STORE_READ_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a store is not used after a read took too long. After an error it is only not read: a
/// value that can't be read can still be overwritten.
pub const STORE_BACKOFF: Duration = Duration::from_secs(5);

/// A key-value store that is not read for a while after it failed, and not used for a while after
/// it was slow.
#[derive(Debug)]
pub struct Store<P> {
    platform: P,
    no_reads_until: Cell<Duration>,
    no_writes_until: Cell<Duration>,
}

impl<P: Platform> Store<P> {
    pub fn new(platform: P) -> Store<P> {
        Store {
            platform,
            no_reads_until: Cell::default(),
            no_writes_until: Cell::default(),
        }
    }

    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Reads the value of `key`. Returns `None` where there is none, or the store can't be read.
    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
        if is_backing_off(self.no_reads_until.get(), self.platform.now()) {
            return None;
        }
        let read = self.platform.load(key);
        let error = match platform::within(&self.platform, STORE_READ_TIMEOUT, read).await {
            Some(Ok(value)) => return value,
            Some(Err(error)) => Some(error.to_string()),
            None => None,
        };
        let until = self.platform.now().saturating_add(STORE_BACKOFF);
        self.no_reads_until.set(until);
        let error = error.unwrap_or_else(|| {
            self.no_writes_until.set(until);
            "too slow".to_owned()
        });
        self.platform.log(&failure_line("reading", key, &error));
        None
    }

    /// Changes the value of `key` after the answer has been sent. A change that another instance
    /// makes at the same time may be lost, and a value that can't be read is overwritten: what it
    /// held costs speed only.
    pub fn update(
        &self,
        key: String,
        change: impl FnOnce(Option<Vec<u8>>) -> Option<Vec<u8>> + 'static,
    ) {
        if is_backing_off(self.no_writes_until.get(), self.platform.now()) {
            return;
        }
        let platform = self.platform.clone();
        self.platform.defer(async move {
            let (loaded, read_error) = match platform.load(&key).await {
                Ok(value) => (value, None),
                Err(error) => (None, Some(error)),
            };
            let Some(value) = change(loaded) else { return };
            if let Err(error) = platform.save(&key, value).await {
                platform.log(&failure_line("writing", &key, &error.to_string()));
            } else if let Some(error) = read_error {
                platform.log(&failure_line("reading", &key, &error.to_string()));
            }
        });
    }
}

/// Whether `until` is ahead, and not further than a back-off is long: a clock may have been set
/// back.
fn is_backing_off(until: Duration, now: Duration) -> bool {
    now < until && until <= now.saturating_add(STORE_BACKOFF)
}

fn failure_line(operation: &str, key: &str, error: &str) -> String {
    format!("app=hammal store=failed {operation}={key} error={error:?}")
}
