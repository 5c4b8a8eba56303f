//! The body of a response.

use crate::platform::pipe::PipeWriter;
use futures_util::future::LocalBoxFuture;
use http::header;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use std::future::poll_fn;
use std::pin::pin;

/// How many headers a response usually has: a map that grows hashes all its entries anew.
const USUAL_HEADERS: usize = 10;

/// The body of a response: bytes in memory, or an upstream's body that has not been read.
pub enum Body<B> {
    Buffered(Vec<u8>),
    Upstream(B),
    /// An upstream's body whose bytes go to the client and to the blob store.
    Teed(B, Tee),
}

/// Where the bytes go that a client gets, besides. Dropped, it is given up.
pub struct Tee {
    /// Takes each piece that the client gets.
    pub pipe: PipeWriter,
    upload: Option<LocalBoxFuture<'static, ()>>,
}

impl Tee {
    /// Makes a tee whose pipe is read by `upload`.
    pub fn new(pipe: PipeWriter, upload: impl Future<Output = ()> + 'static) -> Tee {
        Tee {
            pipe,
            upload: Some(Box::pin(upload)),
        }
    }

    /// Sends a piece to the client by `send`, and meanwhile uploads as much as can be.
    pub async fn beside<T>(&mut self, send: impl Future<Output = T>) -> T {
        let mut send = pin!(send);
        poll_fn(|context| {
            let sent = send.as_mut().poll(context);
            if let Some(upload) = &mut self.upload
                && upload.as_mut().poll(context).is_ready()
            {
                self.upload = None;
            }
            sent
        })
        .await
    }

    /// Ends the upload, once the client has all or is gone.
    pub async fn finish(self) {
        drop(self.pipe);
        if let Some(upload) = self.upload {
            upload.await;
        }
    }
}

impl<B> Body<B> {
    /// Returns a body without bytes.
    pub fn empty() -> Body<B> {
        Body::Buffered(Vec::new())
    }

    /// Makes a response of bytes in memory. It always has a `Content-Length`: a host sends a
    /// component's body without one in chunks. To a `HEAD` it has no body.
    pub fn respond(status: StatusCode, body: Vec<u8>, head_only: bool) -> Response<Body<B>> {
        let mut headers = HeaderMap::with_capacity(USUAL_HEADERS);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut response = Response::new(if head_only {
            Body::empty()
        } else {
            Body::Buffered(body)
        });
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}
