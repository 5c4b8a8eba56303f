//! The request's identifier, by which lines of the logs of a proxy and of the mirror are found.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use std::hash::{BuildHasher as _, RandomState};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest identifier that is taken from a client, in bytes.
const MAX_LENGTH: usize = 64;

/// An identifier that a proxy in front gave, or one of this mirror. It has no character that means
/// something in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// Keeps the client's `X-Request-Id` if it is well-formed, and makes one otherwise.
    fn from_headers(headers: &HeaderMap) -> RequestId {
        let sent = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        match sent.filter(|id| is_well_formed(id)) {
            Some(id) => RequestId(id.to_owned()),
            // Each state has keys of its own.
            None => RequestId(format!("{:016x}", RandomState::new().hash_one(()))),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes the identifier of a request, and adds it to the response's headers.
    pub fn echo(request: &HeaderMap, response: &mut HeaderMap) -> RequestId {
        let id = RequestId::from_headers(request);
        if let Ok(value) = HeaderValue::from_str(&id.0) {
            response.insert(REQUEST_ID, value);
        }
        id
    }
}

fn is_well_formed(id: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+/".contains(&byte);
    (1..=MAX_LENGTH).contains(&id.len()) && id.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sent: &str) -> String {
        let value = HeaderValue::from_str(sent).unwrap();
        let headers = HeaderMap::from_iter([(REQUEST_ID, value)]);
        RequestId::from_headers(&headers).0
    }

    #[test]
    fn keeps_what_is_well_formed() {
        for sent in ["7b9f1c", "0af7651916cd43dd-8448.eb:211c80319c+/", "a"] {
            assert_eq!(id(sent), sent);
        }
        assert_eq!(id(&"a".repeat(64)).len(), 64);
    }

    #[test]
    fn makes_another_for_what_is_not() {
        for sent in [
            "",
            "a b",
            "a\"b",
            "<a>",
            "a;b",
            "a,b",
            "a=b",
            &"a".repeat(65),
        ] {
            let made = id(sent);
            assert_ne!(made, sent);
            assert_eq!(made.len(), 16, "{made}");
        }
        let none = HeaderMap::new();
        assert_ne!(
            RequestId::from_headers(&none),
            RequestId::from_headers(&none)
        );
    }
}
