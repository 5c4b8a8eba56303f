//! The errors that clients get: an error document of the distribution specification ("Error
//! Codes"), with a status that makes a client go on to its next source at once, and a message that
//! says what would be right.
//!
//! Nothing that an upstream or a token server said is repeated, nor which host it was: it may be an
//! internal one.

use super::body::Body;
use crate::access::{LoginError, OverClientLimit};
use crate::config::ConfigError;
use crate::oci::error_code::ErrorCode;
use crate::oci::reference::InvalidReference;
use crate::policy::permitted::Denied;
use crate::registry::origin::InvalidAddress;
use crate::request::InvalidRequest;
use crate::request::cdn_loop::{LoopDetected, MAX_HOPS};
use crate::request::route::{InvalidRoute, Route};
use crate::upstream::error::UpstreamError;
use crate::upstream::outcome::{self, ClientError};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use std::fmt;
use std::time::Duration;

/// An error for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryError {
    pub status: StatusCode,
    pub code: ErrorCode,
    pub message: String,
    /// What the log says besides.
    pub cause: Option<String>,
    /// Headers of the response besides those that describe its body.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl RegistryError {
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> RegistryError {
        RegistryError {
            status,
            code,
            message: message.into(),
            cause: None,
            headers: Vec::new(),
        }
    }

    fn with_header(mut self, name: HeaderName, value: HeaderValue) -> RegistryError {
        self.headers.push((name, value));
        self
    }

    /// The policy denies the upstream that the request names.
    pub fn upstream_not_allowed(denied: Denied) -> RegistryError {
        let (status, code) = match denied {
            Denied::PlainHttp => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported),
            _ => (StatusCode::FORBIDDEN, ErrorCode::Denied),
        };
        RegistryError::new(status, code, format!("upstream not allowed: {denied}"))
    }

    /// The policy denies the repository, or the catalog.
    pub fn repository_not_allowed(denied: Denied) -> RegistryError {
        let message = format!("repository not allowed: {denied}");
        RegistryError::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
    }

    /// A limit is exceeded; the client may come back after `wait`.
    fn over_limit(message: &str, wait: Duration) -> RegistryError {
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests);
        RegistryError::new(status, code, message)
            .with_header(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)))
    }

    /// `/readyz` found that the mirror can't serve.
    pub fn not_ready(message: &str) -> RegistryError {
        RegistryError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Unavailable,
            message,
        )
    }

    /// Makes the client's error from an upstream's, by the table of [`outcome`].
    pub fn from_upstream(route: &Route, error: &UpstreamError) -> RegistryError {
        let ClientError {
            status,
            code,
            message,
        } = outcome::client_error(route, error);
        let headers = error.client_headers();
        RegistryError {
            cause: error.log_cause(),
            headers: headers
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            ..RegistryError::new(status, code, message)
        }
    }

    /// Makes the response with the error document. To a `HEAD` it has no body.
    pub fn into_response<B>(self, head_only: bool) -> Response<Body<B>> {
        let document = serde_json::json!({
            "errors": [{ "code": self.code.as_str(), "message": self.message, "detail": {} }]
        });
        let mut response = Body::respond(self.status, document.to_string().into_bytes(), head_only);
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response.headers_mut().extend(self.headers);
        response
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for RegistryError {}

impl From<OverClientLimit> for RegistryError {
    fn from(OverClientLimit(wait): OverClientLimit) -> RegistryError {
        let message = "this mirror's limit of requests per minute is reached";
        RegistryError::over_limit(message, wait)
    }
}

/// The only challenge that a client of this mirror ever sees is this one, for an account of the
/// mirror itself.
impl From<LoginError> for RegistryError {
    fn from(error: LoginError) -> RegistryError {
        let message = match error {
            LoginError::Missing => {
                "this mirror needs a login: use the name and token that its operator gave you, as \
                 with docker login"
            }
            LoginError::Wrong => "wrong login: this mirror has no such name with this token",
            LoginError::TooMany(wait) => {
                let message = "too many wrong logins from this address; try again in a minute";
                return RegistryError::over_limit(message, wait);
            }
        };
        RegistryError::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message).with_header(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"hammal\""),
        )
    }
}

impl From<InvalidRequest> for RegistryError {
    fn from(invalid: InvalidRequest) -> RegistryError {
        let (status, code) = match &invalid {
            InvalidRequest::Method => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported),
            InvalidRequest::NotFound | InvalidRequest::Route(InvalidRoute::Endpoint) => {
                (StatusCode::NOT_FOUND, ErrorCode::Unsupported)
            }
            InvalidRequest::Route(InvalidRoute::Name(_)) => {
                (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid)
            }
            InvalidRequest::Route(
                InvalidRoute::Digest(_) | InvalidRoute::Reference(InvalidReference::Digest(_)),
            ) => (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),
            // Such a manifest can't exist: the specification's conformance tests ask for one, and
            // expect a 404.
            InvalidRequest::Route(InvalidRoute::Reference(InvalidReference::Tag)) => {
                (StatusCode::NOT_FOUND, ErrorCode::ManifestInvalid)
            }
            InvalidRequest::Repeated(_) => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported),
            InvalidRequest::QueryTooLong => (StatusCode::URI_TOO_LONG, ErrorCode::Unsupported),
        };
        let error = RegistryError::new(status, code, invalid.to_string());
        match invalid {
            InvalidRequest::Method => {
                error.with_header(ALLOW, HeaderValue::from_static("GET, HEAD"))
            }
            _ => error,
        }
    }
}

impl From<InvalidAddress> for RegistryError {
    fn from(InvalidAddress: InvalidAddress) -> RegistryError {
        RegistryError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::Unsupported,
            "an upstream is a registry's host, host:port, or an https:// URL of one, such as ghcr.io",
        )
    }
}

impl From<LoopDetected> for RegistryError {
    fn from(LoopDetected: LoopDetected) -> RegistryError {
        let message = format!(
            "the request came through {MAX_HOPS} mirrors: an upstream leads back to this mirror"
        );
        RegistryError::new(StatusCode::LOOP_DETECTED, ErrorCode::Unsupported, message)
    }
}

impl From<ConfigError> for RegistryError {
    fn from(error: ConfigError) -> RegistryError {
        let message = error.to_string();
        RegistryError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Unknown,
            message,
        )
    }
}
