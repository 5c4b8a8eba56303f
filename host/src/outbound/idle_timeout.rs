//! Applies the time-out between two pieces of a response body.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
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
    }
}

impl IdleTimeoutBody {
    /// Wraps `body`, which uses `stream`: one of the streams that a connection may have.
    pub fn new(body: Incoming, limit: Duration, stream: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            body: Some(body),
            limit,
            sleep: None,
            waiting: false,
            stream,
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
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            *this.waiting = false;
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
