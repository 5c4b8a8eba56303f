//! What a client is told instead of an image: an error document of the distribution specification ("Error Codes"), with a
//! status that makes it go on to its next source at once, and a message that says what would have been right.
//!
//! Nothing that an upstream or a token server said is repeated, nor which host it was: it may be an internal one.

use crate::config::Mistake;
use crate::oci::reference::InvalidReference;
use crate::platform::TransportError;
use crate::policy::Denied;
use crate::request::cdn_loop::{LoopDetected, MAX_HOPS};
use crate::request::route::{InvalidRequest, Resource, Route};
use crate::response::body::Body;
use crate::upstream::auth;
use crate::upstream::exchange::{self, RedirectError};
use crate::upstream::limits::MAX_HEADER;
use http::header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use std::fmt::Display;
use std::time::Duration;

/// What of an upstream's headers stays with a refusal.
const KEPT_HEADERS: [HeaderName; 5] = [
    RETRY_AFTER,
    CONTENT_RANGE,
    HeaderName::from_static("docker-ratelimit-source"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
];

/// A code of the specification, or one of the reference implementation where the specification has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BlobUnknown,
    Denied,
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    RangeInvalid,
    TooManyRequests,
    Unavailable,
    Unknown,
    Unsupported,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: Code,
    pub message: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether it is the upstream that failed: a copy may help.
    pub upstream_failed: bool,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Code::BlobUnknown => "BLOB_UNKNOWN",
            Code::Denied => "DENIED",
            Code::DigestInvalid => "DIGEST_INVALID",
            Code::ManifestInvalid => "MANIFEST_INVALID",
            Code::ManifestUnknown => "MANIFEST_UNKNOWN",
            Code::NameInvalid => "NAME_INVALID",
            Code::NameUnknown => "NAME_UNKNOWN",
            Code::RangeInvalid => "RANGE_INVALID",
            Code::TooManyRequests => "TOOMANYREQUESTS",
            Code::Unavailable => "UNAVAILABLE",
            Code::Unknown => "UNKNOWN",
            Code::Unsupported => "UNSUPPORTED",
        }
    }
}

impl Refusal {
    fn new(status: StatusCode, code: Code, message: impl Display) -> Refusal {
        Refusal {
            status,
            code,
            message: message.to_string(),
            headers: Vec::new(),
            upstream_failed: false,
        }
    }

    fn with(mut self, name: HeaderName, value: Option<HeaderValue>) -> Refusal {
        self.headers.extend(value.map(|value| (name, value)));
        self
    }

    /// `?upstream=` or another way of naming one holds something else.
    pub fn malformed_upstream() -> Refusal {
        let message = "an upstream is a registry's host, host:port, or an https:// URL of one, such as ghcr.io";
        Refusal::new(StatusCode::BAD_REQUEST, Code::Unsupported, message)
    }

    /// The policy keeps this mirror from asking the upstream that was named.
    pub fn forbidden_upstream(denied: Denied) -> Refusal {
        let message = format!("this upstream is not asked: {denied}");
        match denied {
            Denied::PlainHttp => Refusal::new(StatusCode::BAD_REQUEST, Code::Unsupported, message),
            _ => Refusal::new(StatusCode::FORBIDDEN, Code::Denied, message),
        }
    }

    /// The upstream answered, but not as a registry does.
    pub fn not_a_registry(route: &Route, what: impl Display) -> Refusal {
        Refusal::upstream_fault(
            route,
            StatusCode::BAD_GATEWAY,
            format!("the upstream {what}"),
        )
    }

    /// There was no answer.
    pub fn of_failure(failure: exchange::UpstreamError, route: &Route) -> Refusal {
        use exchange::UpstreamError;
        match failure {
            UpstreamError::Transport(fault) => Refusal::upstream_fault(
                route,
                status_of(fault),
                format!("the upstream failed: {fault}"),
            ),
            UpstreamError::Token(failure) => Refusal::of_token_failure(failure, route),
            UpstreamError::Denied => Refusal::denied(),
            UpstreamError::Redirect(failure) => Refusal::not_a_registry(
                route,
                match failure {
                    RedirectError::Malformed => "redirects to what is no http(s) URL".to_owned(),
                    RedirectError::Forbidden(denied) => {
                        format!("redirects to where this mirror does not go: {denied}")
                    }
                    RedirectError::TooMany => "redirects more than 5 times".to_owned(),
                },
            ),
            UpstreamError::Delivery(status) => Refusal::not_a_registry(
                route,
                format!("redirects to what answers with status {}", status.as_u16()),
            ),
            // stargz-snapshotter asks for one range at a time after a 400, and for nothing more after a 404.
            UpstreamError::SeveralRanges => {
                let message = "the upstream has one range at a time of this content";
                Refusal::new(StatusCode::BAD_REQUEST, Code::RangeInvalid, message)
            }
            UpstreamError::HeadersTooLong => Refusal::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Code::Unsupported,
                format!("the headers that go upstream may have {MAX_HEADER} bytes together"),
            ),
        }
    }

    fn of_token_failure(failure: auth::TokenError, route: &Route) -> Refusal {
        use auth::TokenError;
        let (status, what) = match failure {
            TokenError::Refused => return Refusal::denied(),
            TokenError::TooMany { retry_after } => {
                return Refusal::too_many().with(RETRY_AFTER, retry_after.filter(is_retry_after));
            }
            TokenError::Transport(fault) => (status_of(fault), format!("failed: {fault}")),
            TokenError::Status(status) => (
                StatusCode::BAD_GATEWAY,
                format!("answered with status {}", status.as_u16()),
            ),
            TokenError::Forbidden(denied) => {
                (StatusCode::BAD_GATEWAY, format!("is not asked: {denied}"))
            }
            TokenError::TooLarge => (
                StatusCode::BAD_GATEWAY,
                "answered with more than 1 MiB".to_owned(),
            ),
            TokenError::NoToken => (
                StatusCode::BAD_GATEWAY,
                "answered without a token".to_owned(),
            ),
        };
        Refusal::upstream_fault(route, status, format!("the upstream's token server {what}"))
    }

    /// The upstream answered with a status that is no success. What it says of limits and ranges is kept.
    pub fn of_status(status: StatusCode, headers: &HeaderMap, route: &Route) -> Refusal {
        let answered = || format!("the upstream answered with status {}", status.as_u16());
        let refusal = match status {
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => Refusal::denied(),
            StatusCode::NOT_FOUND | StatusCode::GONE => Refusal::unknown(route),
            // Artifactory says 406, others what they say to what they don't know.
            StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_ACCEPTABLE
            | StatusCode::NOT_IMPLEMENTED
                if matches!(route, Route::Repository(_, Resource::Referrers(_))) =>
            {
                Refusal::no_referrers()
            }
            StatusCode::TOO_MANY_REQUESTS => Refusal::too_many(),
            StatusCode::RANGE_NOT_SATISFIABLE => Refusal::new(
                status,
                Code::RangeInvalid,
                "the content has no bytes in this range",
            ),
            StatusCode::PRECONDITION_FAILED => {
                let message = "the content is not the one that the request's conditions name";
                Refusal::new(status, Code::Unsupported, message)
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Refusal::upstream_fault(route, status, answered())
            }
            _ => Refusal::upstream_fault(route, StatusCode::BAD_GATEWAY, answered()),
        };
        KEPT_HEADERS.iter().fold(refusal, |refusal, name| {
            let value = headers.get(name).filter(|value| value.len() <= MAX_HEADER);
            let value = value.filter(|value| name != RETRY_AFTER || is_retry_after(value));
            refusal.with(name.clone(), value.cloned())
        })
    }

    /// The repository is closed by the operator.
    pub fn closed_repository(denied: Denied) -> Refusal {
        Refusal::new(
            StatusCode::FORBIDDEN,
            Code::Denied,
            format!("this repository is not mirrored: {denied}"),
        )
    }

    /// The client has made more requests in this minute than the operator lets it.
    pub fn over_client_limit(wait: Duration) -> Refusal {
        let message = "this mirror's limit of requests per minute is reached";
        Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            Code::TooManyRequests,
            message,
        )
        .with(RETRY_AFTER, Some(HeaderValue::from(wait.as_secs().max(1))))
    }

    fn denied() -> Refusal {
        let message =
            "the upstream does not show this to anonymous users: it is private, or does not exist";
        Refusal::new(StatusCode::FORBIDDEN, Code::Denied, message)
    }

    /// dockerd goes on to its next source at once after a 429; podman waits as long as `Retry-After` says before it does. It
    /// stays a 429 all the same: a client without another source has to know how long to wait.
    fn too_many() -> Refusal {
        let message = "the upstream's limit for this mirror's address is reached";
        let refusal = Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            Code::TooManyRequests,
            message,
        );
        Refusal {
            upstream_failed: true,
            ..refusal
        }
    }

    fn unknown(route: &Route) -> Refusal {
        let (code, what) = match route {
            Route::Repository(_, Resource::Manifest(_)) => (Code::ManifestUnknown, "manifest"),
            Route::Repository(_, Resource::Blob(_)) => (Code::BlobUnknown, "blob"),
            _ => (Code::NameUnknown, "repository"),
        };
        Refusal::new(
            StatusCode::NOT_FOUND,
            code,
            format!("the upstream has no such {what}"),
        )
    }

    /// The upstream does not know the endpoint. With a 404 clients go on to the tag that stands for it (OCI distribution
    /// specification 1.1, "Unavailable Referrers API"); with a 5xx they give up.
    pub fn no_referrers() -> Refusal {
        Refusal::new(
            StatusCode::NOT_FOUND,
            Code::Unsupported,
            "the upstream does not answer for referrers",
        )
    }

    /// dockerd up to 28 tries a layer again for 50 seconds after a 5xx, and goes on to Docker Hub at once after a 404; so
    /// do containerd and podman. For anything else a 5xx makes them go on at once, and is the truth.
    fn upstream_fault(route: &Route, status: StatusCode, message: String) -> Refusal {
        if route.is_blob() {
            Refusal::new(StatusCode::NOT_FOUND, Code::BlobUnknown, message)
        } else {
            Refusal {
                upstream_failed: true,
                ..Refusal::new(status, Code::Unavailable, message)
            }
        }
    }

    pub fn into_response<B>(self, head_only: bool) -> Response<Body<B>> {
        let document = serde_json::json!({
            "errors": [{ "code": self.code.as_str(), "message": self.message, "detail": {} }]
        });
        let mut response = Body::respond(self.status, document.to_string().into_bytes(), head_only);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<InvalidRequest> for Refusal {
    fn from(refused: InvalidRequest) -> Refusal {
        let (status, code) = match &refused {
            InvalidRequest::Method => (StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported),
            InvalidRequest::NotFound | InvalidRequest::Endpoint => {
                (StatusCode::NOT_FOUND, Code::Unsupported)
            }
            InvalidRequest::Name(_) => (StatusCode::BAD_REQUEST, Code::NameInvalid),
            InvalidRequest::Digest(_) | InvalidRequest::Reference(InvalidReference::Digest(_)) => {
                (StatusCode::BAD_REQUEST, Code::DigestInvalid)
            }
            // Such a manifest can't exist: the specification's conformance tests ask for one and expect 404.
            InvalidRequest::Reference(InvalidReference::Tag) => {
                (StatusCode::NOT_FOUND, Code::ManifestInvalid)
            }
            InvalidRequest::Ambiguous(_) => (StatusCode::BAD_REQUEST, Code::Unsupported),
            InvalidRequest::Query => (StatusCode::URI_TOO_LONG, Code::Unsupported),
        };
        let allow = matches!(refused, InvalidRequest::Method)
            .then(|| HeaderValue::from_static("GET, HEAD"));
        Refusal::new(status, code, refused).with(ALLOW, allow)
    }
}

impl From<LoopDetected> for Refusal {
    fn from(LoopDetected: LoopDetected) -> Refusal {
        let message = format!(
            "this request came through {MAX_HOPS} mirrors: an upstream leads back to this one"
        );
        Refusal::new(StatusCode::LOOP_DETECTED, Code::Unsupported, message)
    }
}

impl From<Mistake> for Refusal {
    fn from(mistake: Mistake) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown, mistake)
    }
}

/// Seconds or a date (RFC 9110, section 10.2.3): what else a server says there may be an internal one's words.
fn is_retry_after(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let is_seconds = (1..=10).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_digit);
    is_seconds || (bytes.len() == 29 && bytes.get(3) == Some(&b',') && bytes.ends_with(b" GMT"))
}

fn status_of(fault: TransportError) -> StatusCode {
    match fault {
        TransportError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        TransportError::Dns
        | TransportError::Connect
        | TransportError::Tls
        | TransportError::Forbidden
        | TransportError::Broken => StatusCode::BAD_GATEWAY,
    }
}
