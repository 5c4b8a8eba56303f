//! The limit of connections to upstreams, `max_connections` of the runtime configuration.

use crate::outbound::transport::Transport;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts open connections. Without a limit it does nothing.
#[derive(Clone, Debug, Default)]
pub struct ConnectionLimit(Option<Arc<Semaphore>>);

/// The right to one connection.
pub type Permit = OwnedSemaphorePermit;

impl ConnectionLimit {
    /// `None` is no limit; with 0 no connection is made.
    pub fn new(limit: Option<usize>) -> Self {
        let limit = limit.map(|limit| limit.min(Semaphore::MAX_PERMITS));
        Self(limit.map(|limit| Arc::new(Semaphore::new(limit))))
    }

    pub fn is_unlimited(&self) -> bool {
        self.0.is_none()
    }

    /// Waits until one connection more may be open. Returns `None` at once if there is no limit.
    pub async fn acquire(&self) -> Option<Permit> {
        // Never fails: nothing closes the semaphore.
        Arc::clone(self.0.as_ref()?).acquire_owned().await.ok()
    }

    /// Counts `stream` until it is closed.
    pub fn count(permit: Option<Permit>, stream: Box<dyn Transport>) -> Box<dyn Transport> {
        match permit {
            Some(_permit) => Box::new(Counted { stream, _permit }),
            None => stream,
        }
    }
}

/// An open connection that is counted.
struct Counted {
    stream: Box<dyn Transport>,
    _permit: Permit,
}

impl Transport for Counted {
    fn is_http2(&self) -> bool {
        self.stream.is_http2()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
