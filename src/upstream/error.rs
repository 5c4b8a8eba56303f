//! Why an upstream has no answer for the client. [`super::outcome`] decides what follows from each.

use super::{MAX_HEADER, RATE_LIMITS};
use crate::oci::error_code::ErrorCode;
use crate::platform::TransportError;
use crate::policy::permitted::Denied;
use http::header::{CONTENT_RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::error::Error;
use std::fmt;

/// The headers of an upstream's error that go back to the client, besides [`RATE_LIMITS`].
const ERROR_HEADERS: [HeaderName; 2] = [RETRY_AFTER, CONTENT_RANGE];

/// Why an upstream has no answer for the client. Its words are for the client and the log: nothing
/// that an upstream said is in them, nor which host it was, since it may be an internal one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    Transport(TransportError),
    Token(TokenError),
    /// 401 in spite of a new token, or without a challenge: the anonymous user is not admitted.
    Denied,
    /// A status that is neither a success nor a redirect for the client, and what else of the
    /// response counts.
    Status(StatusCode, ErrorDetails),
    Redirect(RedirectError),
    /// A blob is streamed, and the host that the upstream redirects to answers with this status.
    BlobHost(StatusCode),
    /// The same, and the host has no answer.
    BlobHostFailed(TransportError),
    /// Headers are longer than [`MAX_HEADER`] together.
    HeaderTooLong,
    /// The `Content-Length` in the answer to a `HEAD` is no number, or several.
    InvalidLength,
    /// A success whose media type is not a registry's: a web page.
    NotRegistryContent,
    Manifest(ManifestError),
    /// The client's headers are longer than [`MAX_HEADER`] together.
    RequestHeadersTooLong,
    /// The client asks for several ranges of a blob, which this upstream sends one at a time
    /// (Google's storage).
    SeveralRanges,
}

/// What an upstream's error tells besides its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorDetails {
    /// The code of a registry's error document, where there is one and it was read.
    pub code: Option<ErrorCode>,
    /// The headers that the client gets.
    pub headers: HeaderMap,
}

/// Why a manifest that an upstream sent can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// The limit in bytes is exceeded.
    TooLarge(usize),
    Truncated,
    DigestMismatch,
}

/// Why a redirect was not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectError {
    /// The target is not an http(s) URL.
    Malformed,
    Forbidden(Denied),
    /// More redirects than this.
    TooMany(usize),
    /// A registry that only a client named leads to a path that is not a registry's.
    NotRegistry,
    /// A blob's redirect leads to where no client may be sent.
    ClientTarget,
}

/// Why there is no token. Of what the token server said there is only the status: it may be an
/// internal host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// The realm is a host that may not be contacted.
    Forbidden(Denied),
    Transport(TransportError),
    /// The token server does not admit the anonymous user, or the account.
    Refused,
    /// The user or the password of the operator's account is wrong.
    WrongPassword,
    /// 429
    TooManyRequests {
        retry_after: Option<HeaderValue>,
    },
    Status(StatusCode),
    /// A registry that only a client named sends this mirror there a second time for one request.
    AskedBefore,
    /// It redirects, and that can't be followed.
    Redirect(RedirectError),
    /// The limit in bytes is exceeded.
    TooLarge(usize),
    /// The answer holds no token.
    NoToken,
}

impl UpstreamError {
    /// Makes the error of a response, with the code of its document and the headers that the client
    /// gets.
    pub fn from_status(
        status: StatusCode,
        code: Option<ErrorCode>,
        headers: &HeaderMap,
    ) -> UpstreamError {
        let mut kept = HeaderMap::new();
        for name in ERROR_HEADERS.into_iter().chain(RATE_LIMITS) {
            let is_valid = |value: &&HeaderValue| {
                value.len() <= MAX_HEADER && (name != RETRY_AFTER || is_retry_after(value))
            };
            if let Some(value) = headers.get(&name).filter(is_valid) {
                kept.insert(name, value.clone());
            }
        }
        let details = ErrorDetails {
            code,
            headers: kept,
        };
        UpstreamError::Status(status, details)
    }

    /// Returns what is for the log only: why there is no connection, or where it would have been.
    /// A client could tell by it which hosts and ports there are in the mirror's network.
    pub fn log_cause(&self) -> Option<String> {
        match self {
            UpstreamError::Transport(error)
            | UpstreamError::BlobHostFailed(error)
            | UpstreamError::Token(TokenError::Transport(error)) => Some(error.reason().to_owned()),
            UpstreamError::BlobHost(status) => Some(format!("status {}", status.as_u16())),
            UpstreamError::Redirect(RedirectError::Forbidden(denied))
            | UpstreamError::Token(TokenError::Forbidden(denied)) => Some(denied.to_string()),
            _ => None,
        }
    }

    /// Returns the headers that the client gets with this error.
    pub fn client_headers(&self) -> HeaderMap {
        match self {
            UpstreamError::Status(_, details) => details.headers.clone(),
            UpstreamError::Token(TokenError::TooManyRequests {
                retry_after: Some(value),
            }) if is_retry_after(value) => HeaderMap::from_iter([(RETRY_AFTER, value.clone())]),
            _ => HeaderMap::new(),
        }
    }
}

impl TokenError {
    /// Whether the realm that is remembered may be out of date, so that the next request should ask
    /// the upstream without a token first.
    pub fn may_be_of_an_old_realm(&self) -> bool {
        !matches!(
            self,
            TokenError::Refused | TokenError::WrongPassword | TokenError::TooManyRequests { .. }
        )
    }
}

impl From<TransportError> for UpstreamError {
    fn from(error: TransportError) -> UpstreamError {
        UpstreamError::Transport(error)
    }
}

impl From<TokenError> for UpstreamError {
    fn from(error: TokenError) -> UpstreamError {
        UpstreamError::Token(error)
    }
}

impl From<RedirectError> for UpstreamError {
    fn from(error: RedirectError) -> UpstreamError {
        UpstreamError::Redirect(error)
    }
}

impl From<ManifestError> for UpstreamError {
    fn from(error: ManifestError) -> UpstreamError {
        UpstreamError::Manifest(error)
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamError::Transport(error) => write!(f, "the upstream failed: {error}"),
            // It may ask for the password itself.
            UpstreamError::Token(error @ TokenError::WrongPassword) => {
                write!(f, "the upstream {error}")
            }
            UpstreamError::Token(error) => write!(f, "the upstream's token server {error}"),
            UpstreamError::Denied => f.write_str(
                "the upstream does not show this to anonymous users: it is private, or does not \
                 exist",
            ),
            UpstreamError::Status(status, _) => {
                write!(f, "the upstream answered with status {}", status.as_u16())
            }
            UpstreamError::Redirect(error) => write!(f, "the upstream redirects {error}"),
            UpstreamError::BlobHost(_) | UpstreamError::BlobHostFailed(_) => {
                f.write_str("the upstream redirects to a host that does not send the content")
            }
            UpstreamError::HeaderTooLong => {
                write!(
                    f,
                    "the upstream answered with headers of more than {MAX_HEADER} bytes"
                )
            }
            UpstreamError::InvalidLength => {
                f.write_str("the upstream answered with a length that is no number")
            }
            UpstreamError::NotRegistryContent => {
                f.write_str("the upstream answered with content that is not a registry's")
            }
            UpstreamError::Manifest(error) => write!(f, "the upstream answered with {error}"),
            UpstreamError::RequestHeadersTooLong => write!(
                f,
                "the headers that go upstream may have at most {MAX_HEADER} bytes together"
            ),
            UpstreamError::SeveralRanges => {
                f.write_str("the upstream sends one range at a time of this content")
            }
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestError::TooLarge(limit) => {
                write!(f, "a manifest of more than {} MiB", limit >> 20)
            }
            ManifestError::Truncated => f.write_str("a manifest that broke off"),
            ManifestError::DigestMismatch => {
                f.write_str("another manifest than the one that its digest names")
            }
        }
    }
}

impl fmt::Display for RedirectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RedirectError::Malformed => f.write_str("to something that is not an http(s) URL"),
            RedirectError::Forbidden(_) => f.write_str("to where this mirror does not go"),
            RedirectError::NotRegistry => f.write_str("to a path that is not a registry's"),
            RedirectError::TooMany(limit) => write!(f, "more than {limit} times"),
            RedirectError::ClientTarget => f.write_str("to where no client may be sent"),
        }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenError::Forbidden(_) => f.write_str("is not asked"),
            TokenError::Transport(error) => write!(f, "failed: {error}"),
            TokenError::Refused => f.write_str("does not admit anonymous users"),
            TokenError::WrongPassword => f.write_str("does not admit the operator's account"),
            TokenError::TooManyRequests { .. } => f.write_str("answered with status 429"),
            TokenError::Status(status) => write!(f, "answered with status {}", status.as_u16()),
            TokenError::AskedBefore => f.write_str("was asked for this request already"),
            TokenError::Redirect(error) => write!(f, "redirects {error}"),
            TokenError::TooLarge(limit) => write!(f, "answered with more than {} MiB", limit >> 20),
            TokenError::NoToken => f.write_str("answered without a token"),
        }
    }
}

impl Error for UpstreamError {}
impl Error for ManifestError {}
impl Error for RedirectError {}
impl Error for TokenError {}

/// Whether a `Retry-After` is seconds or a date (RFC 9110, section 10.2.3). Anything else may be an
/// internal server's words.
fn is_retry_after(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let is_seconds = (1..=10).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_digit);
    is_seconds || (bytes.len() == 29 && bytes.get(3) == Some(&b',') && bytes.ends_with(b" GMT"))
}
