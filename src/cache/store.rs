//! The key-value store behind guards: a store that fails or is slow costs speed only.

use super::single_flight::SingleFlight;
use crate::platform::log_line::{LogFormat, LogLine};
use crate::platform::{self, Platform, StoreError};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// A read that takes longer is given up, and the store is not used for [`STORE_BACKOFF`].
const STORE_READ_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a store is not used after a read took too long. After an error it is only not read: a
/// value that can't be read can still be overwritten.
pub const STORE_BACKOFF: Duration = Duration::from_secs(5);

/// The key of the store's salt: 16 hexadecimal digits.
const SALT: &str = "salt";

/// A key-value store that is not read for a while after it failed, and not used for a while after
/// it was slow.
pub struct Store<P: Platform> {
    platform: P,
    state: Rc<State>,
    salt: Rc<Salt<P>>,
    /// How long reads took.
    read_time: Rc<Cell<Duration>>,
}

/// What all handles on a store share.
struct State {
    /// Whether the operator's settings leave it on. Off, it is never called: on WASIp2 a call
    /// blocks the component, and no time-out of its own ends one that hangs.
    is_on: Cell<bool>,
    log_format: Cell<LogFormat>,
    no_reads_until: Cell<Duration>,
    no_writes_until: Cell<Duration>,
}

/// The random number of a store that decides which bucket an entry is in. Whoever writes first to a
/// store makes it. Where two instances do so at once, one of them looks in the wrong buckets for
/// the rest of its short life, and finds nothing there: every entry has its own key with it.
struct Salt<P: Platform> {
    known: Cell<Option<u64>>,
    making: SingleFlight<P, Result<u64, StoreError>>,
}

impl<P: Platform> Salt<P> {
    /// Returns the salt of the store, and makes it where there is none. A salt that can't be read
    /// is written over, as every value is.
    async fn get_or_make(&self, platform: &P) -> Result<u64, StoreError> {
        if let Some(salt) = self.known.get() {
            return Ok(salt);
        }
        let make = async || {
            let stored = platform.load(SALT).await.ok().flatten();
            if let Some(salt) = stored.as_deref().and_then(parse_salt) {
                return Ok(salt);
            }
            let own = platform.random();
            platform
                .save(SALT, format!("{own:016x}").into_bytes())
                .await?;
            Ok(own)
        };
        let salt = self.making.run(platform, "", make).await?;
        self.known.set(Some(salt));
        Ok(salt)
    }
}

fn parse_salt(stored: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(stored).ok()?;
    let is_hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16)
        .ok()
        .filter(|_| is_hexadecimal && text.len() == 16)
}

impl<P: Platform> Store<P> {
    pub fn new(platform: P) -> Store<P> {
        Store {
            platform,
            state: Rc::new(State {
                is_on: Cell::new(true),
                log_format: Cell::default(),
                no_reads_until: Cell::default(),
                no_writes_until: Cell::default(),
            }),
            read_time: Rc::default(),
            salt: Rc::new(Salt {
                known: Cell::default(),
                making: SingleFlight::default(),
            }),
        }
    }

    /// Returns a handle on the same store that adds the time of its own reads to `read_time`.
    pub fn timed(&self, read_time: &Rc<Cell<Duration>>) -> Store<P> {
        Store {
            platform: self.platform.clone(),
            state: Rc::clone(&self.state),
            salt: Rc::clone(&self.salt),
            read_time: Rc::clone(read_time),
        }
    }

    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Returns the salt of the store. Without one nothing is stored.
    pub async fn salt(&self) -> Option<u64> {
        if let Some(salt) = self.salt.known.get() {
            return Some(salt);
        }
        let salt = parse_salt(&self.get(SALT).await?)?;
        self.salt.known.set(Some(salt));
        Some(salt)
    }

    /// Turns the store on or off, and sets the format of its log, as the settings say.
    pub fn set_up(&self, is_on: bool, log_format: LogFormat) {
        self.state.is_on.set(is_on);
        self.state.log_format.set(log_format);
    }

    /// Reads the value of `key`. Returns `None` where there is none, or the store can't be read.
    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
        if !self.state.is_on.get()
            || is_backing_off(self.state.no_reads_until.get(), self.platform.now())
        {
            return None;
        }
        let (read, begun) = (self.platform.load(key), self.platform.now());
        let read = platform::within(&self.platform, STORE_READ_TIMEOUT, read).await;
        let time = self.platform.now().saturating_sub(begun);
        self.read_time
            .set(self.read_time.get().saturating_add(time));
        let error = match read {
            Some(Ok(value)) => return value,
            Some(Err(error)) => Some(error.to_string()),
            None => None,
        };
        let until = self.platform.now().saturating_add(STORE_BACKOFF);
        self.state.no_reads_until.set(until);
        let error = error.unwrap_or_else(|| {
            self.state.no_writes_until.set(until);
            "too slow".to_owned()
        });
        let line = failure_line(self.state.log_format.get(), "reading", key, &error);
        self.platform.log(&line);
        None
    }

    /// Writes the value of `key` at once. Returns whether it was written.
    pub async fn set(&self, key: &str, value: Vec<u8>) -> bool {
        if !self.state.is_on.get()
            || is_backing_off(self.state.no_writes_until.get(), self.platform.now())
        {
            return false;
        }
        let write = self.platform.save(key, value);
        match platform::within(&self.platform, STORE_READ_TIMEOUT, write).await {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                let format = self.state.log_format.get();
                let line = failure_line(format, "writing", key, &error.to_string());
                self.platform.log(&line);
                false
            }
            None => false,
        }
    }

    /// Changes the value of the key that `key` makes of the salt, after the answer has been sent. A
    /// change that another instance makes at the same time may be lost, and a value that can't be
    /// read is overwritten: what it held costs speed only.
    pub fn update(
        &self,
        key: impl FnOnce(u64) -> String + 'static,
        change: impl FnOnce(Option<Vec<u8>>) -> Option<Vec<u8>> + 'static,
    ) {
        if !self.state.is_on.get()
            || is_backing_off(self.state.no_writes_until.get(), self.platform.now())
        {
            return;
        }
        let (platform, salt) = (self.platform.clone(), Rc::clone(&self.salt));
        let format = self.state.log_format.get();
        let failed = move |operation, key: &str, error: StoreError| {
            failure_line(format, operation, key, &error.to_string())
        };
        self.platform.defer(async move {
            let key = match salt.get_or_make(&platform).await {
                Ok(salt) => key(salt),
                Err(error) => {
                    return platform.log(&failed("writing", SALT, error));
                }
            };
            let (loaded, read_error) = match platform.load(&key).await {
                Ok(value) => (value, None),
                Err(error) => (None, Some(error)),
            };
            let Some(value) = change(loaded) else { return };
            if let Err(error) = platform.save(&key, value).await {
                platform.log(&failed("writing", &key, error));
            } else if let Some(error) = read_error {
                platform.log(&failed("reading", &key, error));
            }
        });
    }
}

/// Whether `until` is ahead, and not further than a back-off is long: a clock may have been set
/// back.
fn is_backing_off(until: Duration, now: Duration) -> bool {
    now < until && until <= now.saturating_add(STORE_BACKOFF)
}

fn failure_line(format: LogFormat, operation: &str, key: &str, error: &str) -> String {
    let mut line = LogLine::new(format);
    line.word("store", "failed");
    line.word(operation, key);
    line.text("error", error);
    line.finish()
}
