//! What the rooms above need from the world: the trait that the Spin adapter implements, and the scripted platform of
//! the tests.

#[cfg(test)]
pub mod scripted;

use futures_util::future::{self, Either};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

/// A handle on the platform; cloning it is cheap, and every clone is the same platform.
///
/// Everything runs on one thread, as a component does, so no future here needs to be `Send`.
pub trait Platform: Clone + 'static {
    /// A response's body that has not been read.
    type Body;
    type Alarm;

    /// Makes one exchange: no redirect is followed, nothing is decompressed. The response's head is complete, its body
    /// unread.
    fn send(
        &self,
        request: http::Request<()>,
        timeouts: &Timeouts,
    ) -> impl Future<Output = Result<http::Response<Self::Body>, TransportError>>;

    /// Reads a body to its end, at most `limit` bytes.
    fn read(
        &self,
        body: Self::Body,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<u8>, ReadBodyError>>;

    /// Reads the value of `key` (letters, digits and `-`, at most 255 bytes) from the key-value store.
    fn load(&self, key: &str) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>>;

    /// Writes a value to the key-value store.
    fn save(&self, key: &str, value: Vec<u8>) -> impl Future<Output = Result<(), StoreError>>;

    /// The value of a variable of the application; `None` where the manifest does not declare it.
    fn variable(&self, name: &str) -> impl Future<Output = Result<Option<String>, VariableError>>;

    /// The time since the Unix epoch.
    fn now(&self) -> Duration;

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;

    /// A future that is done once the alarm is dropped. Requests that run at the same time are tasks of their own, and a
    /// platform may have no other way for one to wake another.
    fn alarm(&self) -> (Self::Alarm, impl Future<Output = ()> + 'static);

    /// Does some work after the answer has left.
    fn defer(&self, work: impl Future<Output = ()> + 'static);

    /// Writes a line to the log, at once or soon after.
    fn log(&self, line: &str);
}

/// Waits for `work` no longer than `limit`; `None` where it takes longer.
pub async fn within<P: Platform, T>(
    platform: &P,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    match future::select(pin!(work), pin!(platform.sleep(limit))).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

/// How long one exchange with an upstream may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the request to the head of its response.
    pub first_byte: Duration,
    /// Between two pieces of a body.
    pub between_bytes: Duration,
    /// For an exchange whose body is read here, from its start to its end.
    pub exchange: Duration,
}

/// Why an exchange brought no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The name does not resolve.
    Dns,
    /// Nobody answers there.
    Connect,
    Tls,
    /// A time-out passed.
    TimedOut,
    /// The host that runs this component forbids the connection.
    Forbidden,
    /// The connection broke, or what came was no HTTP.
    Broken,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TransportError::Dns => "its name does not resolve",
            TransportError::Connect => "it can't be reached",
            TransportError::Tls => "no TLS connection can be made to it",
            TransportError::TimedOut => "it did not answer in time",
            TransportError::Forbidden => "the host of this mirror does not connect to it",
            TransportError::Broken => "it broke the connection",
        })
    }
}

/// Why a body can't be had whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBodyError {
    TooLarge,
    Broken(TransportError),
}

/// The key-value store failed. What it said is the operator's, so it is text for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError(pub String);

/// Who provides the variables failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VariableError;
