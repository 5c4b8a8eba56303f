//! Applies the time-out between two pieces of a response body, and the limit of large ones that the
//! component reads.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::Error;

pin_project_lite::pin_project! {
    /// A response body that fails if its next piece takes longer than `limit`. It applies to bodies
    /// that the component passes to its client unread, too.
    pub struct IdleTimeoutBody {
        // Dropped, with its connection, as soon as the time-out is over.
        body: Option<Incoming>,
        limit: Duration,
        #[pin]
        sleep: Option<Sleep>,
        // Whether `sleep` is set for the piece that is awaited now.
        waiting: bool,
        // Released when the body is dropped.
        stream: Option<OwnedSemaphorePermit>,
        // For a body that the component reads.
        large: Option<LargeRead>,
    }
}

impl IdleTimeoutBody {
    /// Wraps `body`, which uses `stream`: one of the streams that a connection may have.
    pub fn new(
        body: Incoming,
        limit: Duration,
        stream: Option<OwnedSemaphorePermit>,
        large: Option<LargeRead>,
    ) -> Self {
        Self {
            body: Some(body),
            limit,
            sleep: None,
            waiting: false,
            stream,
            large,
        }
    }
}

impl Body for IdleTimeoutBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut() else {
            return Poll::Ready(None);
        };
        if let Some(large) = this.large.as_mut() {
            ready!(large.poll_turn(cx));
        }
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            *this.waiting = false;
            if let (Some(large), Some(Ok(frame))) = (this.large.as_mut(), &frame) {
                large.read += frame.data_ref().map_or(0, Bytes::len);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(|_| Error::HttpProtocolError)));
        }
        if !*this.waiting {
            *this.waiting = true;
            match this.sleep.as_mut().as_pin_mut() {
                Some(sleep) => sleep.reset(Instant::now() + *this.limit),
                None => this.sleep.set(Some(tokio::time::sleep(*this.limit))),
            }
        }
        if let Some(sleep) = this.sleep.as_pin_mut() {
            ready!(sleep.poll(cx));
        }
        *this.body = None;
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

/// Bytes of a body that the component may read without a turn.
const SMALL: usize = 256 * 1024;

type Turn = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// A body that the component reads into its memory. Few of them may be large at the same time.
pub struct LargeRead {
    read: usize,
    turns: Arc<Semaphore>,
    turn: Option<OwnedSemaphorePermit>,
    waiting: Option<Turn>,
}

impl LargeRead {
    /// Takes one of `turns` once the body is large, and keeps it until its end.
    pub fn new(turns: Arc<Semaphore>) -> Self {
        Self {
            read: 0,
            turns,
            turn: None,
            waiting: None,
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.read <= SMALL || self.turn.is_some() {
            return Poll::Ready(());
        }
        let turns = &self.turns;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(Arc::clone(turns).acquire_owned()));
        // The semaphore is never closed.
        self.turn = ready!(waiting.as_mut().poll(cx)).ok();
        self.waiting = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;

    #[test]
    fn few_large_bodies_are_read_at_a_time() {
        let turns = Arc::new(Semaphore::new(1));
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let [mut small, mut first, mut second] =
            [SMALL, SMALL + 1, SMALL + 1].map(|read| LargeRead {
                read,
                ..LargeRead::new(Arc::clone(&turns))
            });
        assert!(first.poll_turn(&mut cx).is_ready());
        assert!(second.poll_turn(&mut cx).is_pending());
        assert!(small.poll_turn(&mut cx).is_ready());
        assert!(first.poll_turn(&mut cx).is_ready());
        drop(first);
        assert!(second.poll_turn(&mut cx).is_ready());
    }
}
