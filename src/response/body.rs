//! The body of a response.

use http::header;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// How many headers a response usually has: a map that grows hashes all its entries anew.
const USUAL_HEADERS: usize = 10;

/// The body of a response: bytes in memory, or an upstream's body that has not been read.
#[derive(Debug, PartialEq, Eq)]
pub enum Body<B> {
    Buffered(Vec<u8>),
    Upstream(B),
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
