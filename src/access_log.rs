//! The access log: one line per request, in logfmt. It holds no secret and no token, and of a
//! request only what was parsed.

use crate::cache::status::CacheStatus;
use crate::context::{RequestStats, TokenSource};
use crate::policy::permitted::Upstream;
use crate::request::request_id::RequestId;
use crate::request::route::{Resource, Route};
use crate::response::error::RegistryError;
use http::{Method, StatusCode};
use std::fmt;
use std::time::Duration;

/// A line of the log, written when the head of the response is complete.
#[derive(Debug)]
pub struct Line<'a> {
    pub method: &'a Method,
    /// `None` where the request was refused before it was parsed.
    pub route: Option<&'a Route>,
    /// The account that the client has logged in to.
    pub client: Option<&'a str>,
    /// The upstream that was asked last, or else the first that would have been.
    pub upstream: Option<&'a Upstream>,
    pub status: StatusCode,
    pub stats: &'a RequestStats,
    /// Until the head of the response was complete.
    pub duration: Duration,
    pub request_id: &'a RequestId,
    pub error: Option<&'a RegistryError>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.route.map_or("unknown", Route::endpoint);
        let method = method_word(self.method);
        write!(f, "app=hammal method={method} endpoint={endpoint}")?;
        if let Some(Route::Repository(name, resource)) = self.route {
            write!(f, " repository={name}")?;
            match resource {
                Resource::Manifest(reference) | Resource::SpeedLayer(reference) => {
                    write!(f, " reference={reference}")?
                }
                Resource::Blob(digest) | Resource::Referrers(digest) => {
                    write!(f, " reference={digest}")?;
                }
                Resource::Tags => {}
            }
        }
        if let Some(client) = self.client {
            write!(f, " client={client}")?;
        }
        if let Some(upstream) = self.upstream {
            write!(f, " upstream={}", upstream.permitted().authority())?;
        }
        let stats = self.stats;
        write!(
            f,
            " status={} upstream_requests={} token_requests={} token_source={} cache={} \
             duration_ms={} request_id={}",
            self.status.as_str(),
            stats.upstream_requests.get(),
            stats.token_requests.get(),
            stats.token_source.get().map_or("none", TokenSource::as_str),
            stats.cache_status.get().map_or("none", CacheStatus::as_str),
            self.duration.as_millis(),
            self.request_id,
        )?;
        match self.error {
            Some(error) => {
                write!(f, " code={} error={:?}", error.code.as_str(), error.message)?;
                match &error.cause {
                    Some(cause) => write!(f, " cause={cause:?}"),
                    None => Ok(()),
                }
            }
            None => Ok(()),
        }
    }
}

/// Returns the word for a method. One that HTTP itself does not define may be of any length.
fn method_word(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS
        | Method::CONNECT
        | Method::TRACE => method.as_str(),
        _ => "other",
    }
}
