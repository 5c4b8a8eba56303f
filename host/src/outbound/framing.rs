//! The length of a response, where an upstream says several things about it.

use http::{HeaderMap, Response, header};
use wasmtime_wasi_http::Error;

/// Leaves at most one `Content-Length` in the head: the component passes it on, and a client that
/// gets another number of bytes breaks the connection off. Fails if there are different ones.
pub fn with_one_length<B>(mut response: Response<B>) -> Result<Response<B>, Error> {
    let headers = response.headers_mut();
    // RFC 9112, section 6.3: the body is as long as its chunks.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
        return Ok(response);
    }
    if has_different_lengths(headers) {
        return Err(Error::HttpProtocolError);
    }
    if let Some(length) = headers.get(header::CONTENT_LENGTH) {
        let first = length.as_bytes().split(|byte| *byte == b',').next();
        let first = first.unwrap_or_default().trim_ascii();
        let length =
            header::HeaderValue::from_bytes(first).map_err(|_| Error::HttpProtocolError)?;
        headers.insert(header::CONTENT_LENGTH, length);
    }
    Ok(response)
}

fn has_different_lengths(headers: &HeaderMap) -> bool {
    let mut lengths = headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    let first = lengths.next();
    lengths.any(|length| Some(length) != first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_has_one_length_or_none() {
        for (headers, expected) in [
            (&[][..], Ok(None)),
            (&[("content-length", "5")], Ok(Some("5"))),
            (
                &[("content-length", "5"), ("content-length", "5")],
                Ok(Some("5")),
            ),
            (&[("content-length", "5, 5")], Ok(Some("5"))),
            (&[("content-length", "5"), ("content-length", "6")], Err(())),
            (&[("content-length", "5, 6")], Err(())),
            (
                &[("content-length", "5"), ("transfer-encoding", "chunked")],
                Ok(None),
            ),
        ] {
            let response = headers
                .iter()
                .fold(Response::builder(), |response, (name, value)| {
                    response.header(*name, *value)
                });
            let response = with_one_length(response.body(()).unwrap());
            let lengths = response.map_err(drop).map(|response| {
                let lengths: Vec<_> = response
                    .headers()
                    .get_all("content-length")
                    .iter()
                    .collect();
                assert!(lengths.len() <= 1, "{headers:?}");
                lengths
                    .first()
                    .map(|length| length.to_str().unwrap().to_owned())
            });
            assert_eq!(
                lengths,
                expected.map(|length| length.map(str::to_owned)),
                "{headers:?}"
            );
        }
    }
}
