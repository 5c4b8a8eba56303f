//! The access log: one line per request, in logfmt or JSON. It holds no secret and no token, and of a
//! request only what was parsed.

use crate::cache::status::CacheStatus;
use crate::config::Config;
use crate::context::{RequestStats, TokenSource};
use crate::platform::Platform;
use crate::platform::log_line::{FORMATS, LogFormat, LogLine};
use crate::policy::permitted::Upstream;
use crate::request::request_id::RequestId;
use crate::request::route::{Resource, Route};
use crate::response::error::RegistryError;
use http::{Method, StatusCode};
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

/// Writes the line of a request to the log. Where the settings are not read, or can't be used, the
/// format is read after the answer has left: nothing may hold up a `/healthz`.
pub fn write<P: Platform>(line: &Line<'_>, platform: &P, config: Option<&Config>) {
    if let Some(config) = config {
        return platform.log(&line.format(config.log_format));
    }
    let lines = FORMATS.map(|(_, format)| (format, line.format(format)));
    let own = platform.clone();
    platform.defer(async move {
        let format = LogFormat::read(&own).await;
        let line = lines.iter().find(|(one, _)| *one == format);
        if let Some((_, line)) = line {
            own.log(line);
        }
    });
}

impl Line<'_> {
    fn format(&self, format: LogFormat) -> String {
        let mut line = LogLine::new(format);
        line.word("method", method_word(self.method));
        let endpoint = self.route.map_or("unknown", Route::endpoint);
        line.word("endpoint", endpoint);
        if let Some(Route::Repository(name, resource)) = self.route {
            line.word("repository", name.as_str());
            match resource {
                Resource::Manifest(reference) | Resource::SpeedLayer(reference) => {
                    line.word("reference", reference.as_str());
                }
                Resource::Blob(digest) | Resource::Referrers(digest) => {
                    line.word("reference", digest.as_str());
                }
                Resource::Tags => {}
            }
        }
        if let Some(client) = self.client {
            line.word("client", client);
        }
        if let Some(upstream) = self.upstream {
            line.word("upstream", upstream.permitted().authority().as_str());
        }
        let stats = self.stats;
        let account = stats.account.borrow();
        if !account.is_empty() {
            line.word("account", &account);
        }
        let source = stats.token_source.get().map_or("none", TokenSource::as_str);
        let cache = stats.cache_status.get().map_or("none", CacheStatus::as_str);
        let milliseconds = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        line.number("status", self.status.as_u16().into());
        line.number("upstream_requests", stats.upstream_requests.get().into());
        line.number("token_requests", stats.token_requests.get().into());
        line.word("token_source", source);
        line.word("cache", cache);
        line.number("duration_ms", milliseconds);
        line.word("request_id", self.request_id.as_str());
        if let Some(error) = self.error {
            line.word("code", error.code.as_str());
            line.text("error", &error.message);
            if let Some(cause) = &error.cause {
                line.text("cause", cause);
            }
        }
        line.finish()
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
