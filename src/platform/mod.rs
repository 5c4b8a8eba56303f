//! The platform that the component runs on, as a trait: the Spin adapter implements it, and the
//! scripted platform of the tests does.

pub mod log_line;
pub mod pipe;
#[cfg(any(test, feature = "test-util"))]
pub mod scripted;

use self::pipe::Pipe;
use futures_util::future::{self, Either};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

/// A handle on the platform. Cloning it is cheap, and every clone is the same platform.
///
/// Everything runs on one thread, as a component does, so no future here needs to be `Send`.
pub trait Platform: Clone + 'static {
    /// A response's body that has not been read.
    type Body;
    /// Wakes the future that was made with it when it is dropped: see [`Platform::alarm`].
    type Alarm;

    /// Sends a request and returns the head of its response, with the body unread. Follows no
    /// redirect and decompresses nothing.
    fn send(
        &self,
        request: http::Request<()>,
        timeouts: &Timeouts,
    ) -> impl Future<Output = Result<http::Response<Self::Body>, TransportError>>;

    /// Sends a request with a body, and returns the head of its response. `request` has the body's
    /// `Content-Length`: where the body turns out shorter, or breaks off, the request is broken off
    /// too. A [`Payload::Stream`] is passed on as it arrives, and is never in memory as a whole.
    fn upload(
        &self,
        request: http::Request<Payload<Self::Body>>,
        timeouts: &Timeouts,
    ) -> impl Future<Output = Result<http::Response<Self::Body>, TransportError>>;

    /// Reads a body to its end, at most `limit` bytes.
    fn read(
        &self,
        body: Self::Body,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<u8>, ReadBodyError>>;

    /// Reads the value of `key` (letters, digits and `-`, at most 255 bytes) from the key-value
    /// store.
    fn load(&self, key: &str) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>>;

    /// Writes a value to the key-value store.
    fn save(&self, key: &str, value: Vec<u8>) -> impl Future<Output = Result<(), StoreError>>;

    /// Returns the value of a variable of the application; `None` where the manifest does not
    /// declare it.
    fn variable(&self, name: &str) -> impl Future<Output = Result<Option<String>, VariableError>>;

    /// Returns the time since the Unix epoch.
    fn now(&self) -> Duration;

    /// Returns a number that nobody outside can guess.
    fn random(&self) -> u64;

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;

    /// Returns an alarm and a future that completes once the alarm is dropped. Requests that run at
    /// the same time are tasks of their own, and a platform may have no other way for one to wake
    /// another.
    fn alarm(&self) -> (Self::Alarm, impl Future<Output = ()> + 'static);

    /// Lets the other requests of this instance go on, where it has several.
    fn yield_now(&self) -> impl Future<Output = ()> {
        future::ready(())
    }

    /// Runs `work` after the answer has been sent.
    fn defer(&self, work: impl Future<Output = ()> + 'static);

    /// Writes a line to the log, at once or soon after.
    fn log(&self, line: &str);
}

/// Runs `work` for at most `limit`. Returns `None` where it takes longer.
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

/// The body of a request.
#[derive(Debug)]
pub enum Payload<B> {
    Bytes(Vec<u8>),
    /// The body of a response that has not been read.
    Stream(B),
    /// A body that is written to a client at the same time.
    Pipe(Pipe),
}

/// How long an exchange with an upstream may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the request to the head of its response.
    pub first_byte: Duration,
    /// Between two pieces of a body.
    pub between_bytes: Duration,
    /// Of a whole exchange whose body is read here: a token, a manifest.
    pub exchange: Duration,
}

/// Why a request got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The name does not resolve.
    Dns,
    /// No connection could be made.
    Connect,
    Tls,
    TimedOut,
    /// The host that runs this component forbids the connection.
    Forbidden,
    /// The connection broke, or the answer was not HTTP.
    Broken,
}

impl TransportError {
    /// Returns why, in words for the log.
    pub fn reason(self) -> &'static str {
        match self {
            TransportError::Dns => "its name does not resolve",
            TransportError::Connect => "it can't be reached",
            TransportError::Tls => "no TLS connection can be made to it",
            TransportError::TimedOut => "it did not answer in time",
            TransportError::Forbidden => "the host of this mirror does not connect to it",
            TransportError::Broken => "it broke the connection",
        }
    }
}

/// One text for all: they would tell a client which hosts and ports there are.
impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no connection to it, or no answer")
    }
}

impl Error for TransportError {}

/// Why a body could not be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBodyError {
    TooLarge,
    Transport(TransportError),
}

impl fmt::Display for ReadBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadBodyError::TooLarge => f.write_str("the body is too large"),
            ReadBodyError::Transport(error) => error.fmt(f),
        }
    }
}

impl Error for ReadBodyError {}

/// An error of the key-value store, in its own words: text for the log, not for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError(pub String);

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for StoreError {}

/// The provider of the variables failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VariableError;

impl fmt::Display for VariableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the provider of the variables failed")
    }
}

impl Error for VariableError {}
