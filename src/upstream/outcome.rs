//! The meaning of an upstream's answer: the fault table of `docs/errors.md`.

use super::UpstreamResponse;
use super::error::{RedirectError, TokenError, UpstreamError};
use crate::oci::error_code::ErrorCode;
use crate::platform::TransportError;
use crate::request::route::{Resource, Route};
use http::StatusCode;
use std::borrow::Cow;

/// How an answer affects failover, ordered by precedence: where all candidates fail, the client
/// gets the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The upstream does not have it, or does not show it. Another mirror says so of what it has
    /// not fetched yet: this does not speak for an upstream that the operator put before it and
    /// that could not be asked.
    Negative,
    /// The next candidate may have it.
    TryNext,
    /// The next candidate may have it, and this one is asked last for a while.
    Unavailable,
    /// No other candidate is asked.
    Final,
}

/// The meaning of an upstream's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    /// The error that the client gets; `None` where the answer goes back to it.
    pub client_error: Option<ClientError>,
    /// Whether a cached copy may be served instead.
    allows_stale: bool,
}

/// A status, a code and a message for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    pub status: StatusCode,
    pub code: ErrorCode,
    pub message: Cow<'static, str>,
}

impl ClientError {
    pub fn new(
        status: StatusCode,
        code: ErrorCode,
        message: impl Into<Cow<'static, str>>,
    ) -> ClientError {
        ClientError {
            status,
            code,
            message: message.into(),
        }
    }
}

impl Outcome {
    /// Whether a cached copy may be served instead: the upstream failed, its limit is reached, or
    /// it does not take a request that it took before.
    pub fn allows_stale(&self) -> bool {
        self.allows_stale
    }

    /// Whether a cached copy has to be dropped: the upstream does not have the manifest any more,
    /// or does not show it.
    pub fn forgets_copy(&self) -> bool {
        matches!(
            self.code(),
            Some(ErrorCode::ManifestUnknown | ErrorCode::Denied)
        )
    }

    fn code(&self) -> Option<ErrorCode> {
        self.client_error.as_ref().map(|error| error.code)
    }
}

/// Decides what an upstream's answer to a request for `route` means.
pub fn classify<B>(route: &Route, answer: &Result<UpstreamResponse<B>, UpstreamError>) -> Outcome {
    match answer {
        Ok(_) => Outcome {
            verdict: Verdict::Final,
            client_error: None,
            allows_stale: false,
        },
        Err(error) => classify_error(route, error),
    }
}

/// Decides what an upstream's error means.
pub fn classify_error(route: &Route, error: &UpstreamError) -> Outcome {
    let (verdict, client_error) = assess(route, error);
    let is_fault = matches!(
        client_error.code,
        ErrorCode::Unavailable | ErrorCode::TooManyRequests
    );
    let is_refused = matches!(error, UpstreamError::Status(status, _) if is_about_request(*status));
    Outcome {
        verdict,
        client_error: Some(client_error),
        allows_stale: is_fault || is_refused,
    }
}

/// Whether an upstream that is [`Verdict::Unavailable`] after this error is so for manifests too.
/// One blob or list that fails says nothing of them, and anybody can find one that does. That there
/// is no connection to be had concerns all.
pub fn concerns_manifests(route: &Route, error: &UpstreamError) -> bool {
    route.is_manifest()
        || matches!(
            error,
            UpstreamError::Transport(
                TransportError::Dns
                    | TransportError::Connect
                    | TransportError::Tls
                    | TransportError::Forbidden
            )
        )
}

/// Returns the error that the client gets for an upstream's.
pub fn client_error(route: &Route, error: &UpstreamError) -> ClientError {
    assess(route, error).1
}

fn assess(route: &Route, error: &UpstreamError) -> (Verdict, ClientError) {
    use UpstreamError as E;
    let unavailable = |verdict, status| (verdict, fault(route, status, error));
    let bad_gateway = |verdict| unavailable(verdict, StatusCode::BAD_GATEWAY);
    match error {
        E::Transport(error) | E::Token(TokenError::Transport(error)) => {
            unavailable(Verdict::Unavailable, status_of(*error))
        }
        E::Denied | E::Token(TokenError::Refused | TokenError::WrongPassword) => {
            (Verdict::Negative, denied())
        }
        E::Token(TokenError::TooManyRequests { .. }) => (Verdict::Unavailable, too_many_requests()),
        // It is about what was asked for: the rest of the upstream may work.
        E::Token(TokenError::Status(status)) if status.is_client_error() => {
            bad_gateway(Verdict::TryNext)
        }
        E::Token(TokenError::AskedBefore) => bad_gateway(Verdict::TryNext),
        // A delivery network is another host.
        E::BlobHost(_) | E::BlobHostFailed(_) => bad_gateway(Verdict::TryNext),
        E::Token(_) | E::Manifest(_) => bad_gateway(Verdict::Unavailable),
        // registry.k8s.io redirects a request for referrers to a web page.
        E::NotRegistryContent | E::Redirect(RedirectError::NotRegistry) if route.is_referrers() => {
            (Verdict::Final, referrers_unsupported())
        }
        E::Redirect(_) | E::HeaderTooLong | E::InvalidLength | E::NotRegistryContent => {
            bad_gateway(Verdict::TryNext)
        }
        // stargz-snapshotter asks for one range at a time after a 400, and for nothing more after a
        // 404.
        E::SeveralRanges => (
            Verdict::Final,
            ClientError::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::RangeInvalid,
                error.to_string(),
            ),
        ),
        E::RequestHeadersTooLong => (
            Verdict::Final,
            ClientError::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                ErrorCode::Unsupported,
                error.to_string(),
            ),
        ),
        E::Status(status, details) => assess_status(route, *status, details.code, error),
    }
}

fn assess_status(
    route: &Route,
    status: StatusCode,
    code: Option<ErrorCode>,
    error: &UpstreamError,
) -> (Verdict, ClientError) {
    if lacks_endpoint(route, status) {
        return (Verdict::Negative, unknown(route, code));
    }
    let verdict = match status {
        StatusCode::NOT_IMPLEMENTED => Verdict::TryNext,
        StatusCode::TOO_MANY_REQUESTS => Verdict::Unavailable,
        status if status.is_server_error() => Verdict::Unavailable,
        StatusCode::UNAUTHORIZED => Verdict::Negative,
        // Without referrers clients look for the tag that stands for them, which this upstream has
        // if it has the image.
        _ if route.is_referrers() => Verdict::Final,
        StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::GONE
        | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => Verdict::Negative,
        // A redirect that the mirror follows, but without a usable `Location`.
        status if status.is_redirection() => Verdict::TryNext,
        _ => Verdict::Final,
    };
    let client_error = match status {
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => denied(),
        StatusCode::NOT_FOUND | StatusCode::GONE => unknown(route, code),
        // Artifactory answers 406, others whatever they answer to an endpoint that they don't have.
        StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::NOT_IMPLEMENTED
            if route.is_referrers() =>
        {
            referrers_unsupported()
        }
        StatusCode::TOO_MANY_REQUESTS => too_many_requests(),
        StatusCode::RANGE_NOT_SATISFIABLE => ClientError::new(
            status,
            ErrorCode::RangeInvalid,
            "the content has no bytes in this range",
        ),
        StatusCode::PRECONDITION_FAILED => ClientError::new(
            status,
            ErrorCode::Unsupported,
            "the content is not the one that the request's conditions name",
        ),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            fault(route, status, error)
        }
        _ if is_about_request(status) && !route.is_blob() => refused(status, code),
        _ => fault(route, StatusCode::BAD_GATEWAY, error),
    };
    (verdict, client_error)
}

/// Whether a `GET` has to tell, after this answer to the `HEAD` of a manifest: the registry has no
/// `HEAD`, or none that tells type and length, or says that the manifest is gone or private, which
/// only a `GET` proves. To a client that asks by `HEAD`, the latter is the answer.
pub fn needs_get(error: &UpstreamError, head_only: bool) -> bool {
    match error {
        UpstreamError::NotRegistryContent | UpstreamError::InvalidLength => true,
        UpstreamError::Status(status, _) => match *status {
            StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_ACCEPTABLE
            | StatusCode::NOT_IMPLEMENTED => true,
            StatusCode::TOO_MANY_REQUESTS => false,
            status => !head_only && status.is_client_error(),
        },
        UpstreamError::Denied | UpstreamError::Token(TokenError::Refused) => !head_only,
        _ => false,
    }
}

fn denied() -> ClientError {
    let message = UpstreamError::Denied.to_string();
    ClientError::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
}

/// dockerd goes on to its next source at once after a 429; podman waits as long as `Retry-After`
/// says before it does. It stays a 429 all the same: a client without another source has to know
/// how long to wait.
fn too_many_requests() -> ClientError {
    ClientError::new(
        StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::TooManyRequests,
        "the upstream's limit for this mirror's address is reached",
    )
}

/// Clients act on these codes, so none is made up that says more than the upstream did: after
/// `NAME_UNKNOWN` for referrers oras and notation don't look for the tag that stands for them, and
/// distribution and ghcr.io answer a bare 404 where they have no such endpoint. For manifests and
/// blobs `MANIFEST_UNKNOWN` and `BLOB_UNKNOWN` are what all clients go on after.
fn unknown(route: &Route, code: Option<ErrorCode>) -> ClientError {
    let (code, message) = match (route, code) {
        (Route::Repository(_, Resource::Manifest(_) | Resource::SpeedLayer(_)), _) => (
            ErrorCode::ManifestUnknown,
            "the upstream has no such manifest",
        ),
        (Route::Repository(_, Resource::Blob(_)), _) => {
            (ErrorCode::BlobUnknown, "the upstream has no such blob")
        }
        (Route::Repository(..), Some(ErrorCode::NameUnknown)) => (
            ErrorCode::NameUnknown,
            "the upstream has no such repository",
        ),
        (Route::Repository(_, Resource::Referrers(_)), _) => return referrers_unsupported(),
        (Route::Repository(_, Resource::Tags), _) => (
            ErrorCode::Unsupported,
            "the upstream has no such repository, or does not list its tags",
        ),
        (Route::Catalog, _) => (ErrorCode::Unsupported, "the upstream has no catalog"),
        (Route::Search, _) => (ErrorCode::Unsupported, "the upstream has no search"),
        _ => (ErrorCode::Unsupported, "the upstream has no registry API"),
    };
    ClientError::new(StatusCode::NOT_FOUND, code, message)
}

/// The upstream does not take the request, as it was written. A code of its document that names a
/// part of the request is kept.
fn refused(status: StatusCode, code: Option<ErrorCode>) -> ClientError {
    let (code, message) = match code {
        Some(code @ ErrorCode::NameInvalid) => (
            code,
            "the upstream does not take the name of the repository",
        ),
        Some(code @ ErrorCode::TagInvalid) => (code, "the upstream does not take the tag"),
        Some(code @ ErrorCode::DigestInvalid) => (code, "the upstream does not take the digest"),
        Some(code @ ErrorCode::ManifestInvalid) => {
            (code, "the upstream does not take the reference")
        }
        Some(code @ ErrorCode::PaginationNumberInvalid) => {
            (code, "the upstream does not take this number of entries, n")
        }
        _ => (
            ErrorCode::Unsupported,
            "the upstream does not take the request",
        ),
    };
    ClientError::new(status, code, message)
}

/// Whether a status says that the request is at fault, whoever sends it. What a proxy or a
/// connection is at fault for (407, 408, 421, 425) is the upstream's matter.
fn is_about_request(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::NOT_ACCEPTABLE
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::URI_TOO_LONG
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    )
}

/// Whether a status says that the upstream has no such list. Of referrers it may be more.
fn lacks_endpoint(route: &Route, status: StatusCode) -> bool {
    let is_list = matches!(route, Route::Catalog | Route::Repository(_, Resource::Tags));
    is_list
        && matches!(
            status,
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
        )
}

/// Whether the client's error depends on the code of the upstream's error document, so that it is
/// worth reading.
pub fn depends_on_document(route: &Route, status: StatusCode) -> bool {
    match route {
        Route::Repository(_, Resource::Blob(_)) => false,
        Route::Repository(_, Resource::Tags | Resource::Referrers(_))
            if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) =>
        {
            true
        }
        Route::Repository(_, Resource::Referrers(_)) => false,
        _ => is_about_request(status),
    }
}

/// The upstream does not have the endpoint. After a 404 clients look for the tag that stands for
/// the referrers (distribution specification 1.1, "Unavailable Referrers API"); after a 5xx they
/// give up.
fn referrers_unsupported() -> ClientError {
    ClientError::new(
        StatusCode::NOT_FOUND,
        ErrorCode::Unsupported,
        "the upstream does not support the referrers API",
    )
}

/// dockerd up to 28 tries a layer again for 50 seconds after a 5xx, and goes on to Docker Hub at
/// once after a 404; so do containerd and podman. For anything else a 5xx makes them go on at once.
fn fault(route: &Route, status: StatusCode, error: &UpstreamError) -> ClientError {
    let (status, code) = if route.is_blob() {
        (StatusCode::NOT_FOUND, ErrorCode::BlobUnknown)
    } else {
        (status, ErrorCode::Unavailable)
    };
    ClientError::new(status, code, error.to_string())
}

fn status_of(error: TransportError) -> StatusCode {
    match error {
        TransportError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        TransportError::Dns
        | TransportError::Connect
        | TransportError::Tls
        | TransportError::Forbidden
        | TransportError::Broken => StatusCode::BAD_GATEWAY,
    }
}

#[cfg(test)]
mod tests;
