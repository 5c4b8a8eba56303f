//! A response's body.

use http::header;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// How many headers most answers of our own have: a map that grows hashes all that is in it anew.
const OWN_HEADERS: usize = 10;

/// A response's body: of our own, or an upstream's that nobody has read.
#[derive(Debug, PartialEq, Eq)]
pub enum Body<B> {
    Own(Vec<u8>),
    Upstream(B),
}

impl<B> Body<B> {
    /// A response of our own. `Content-Length` is set always: without it a body made in a component goes out in chunks.
    pub fn respond(status: StatusCode, body: Vec<u8>, head_only: bool) -> Response<Body<B>> {
        let mut headers = HeaderMap::with_capacity(OWN_HEADERS);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut response = Response::new(Body::Own(if head_only { Vec::new() } else { body }));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}
