//! One line per request, in logfmt. Nothing of it was taken from a request or an upstream unparsed, and no token is in it.

use crate::context::{Cost, TokenFrom};
use crate::manifests::Hit;
use crate::refusal::Refusal;
use crate::route::{Resource, Route};
use crate::upstream::Upstream;
use http::{Method, StatusCode};
use std::fmt::Write as _;
use std::time::Duration;

/// What is known of a request when its answer leaves.
#[derive(Debug)]
pub struct Line<'a> {
    pub method: &'a Method,
    /// `None` where the request was refused before it was understood.
    pub route: Option<&'a Route>,
    /// `None` where none was asked.
    pub upstream: Option<&'a Upstream>,
    pub status: StatusCode,
    pub cost: &'a Cost,
    /// Until the head of the answer was there.
    pub took: Duration,
    pub refusal: Option<&'a Refusal>,
}

impl Line<'_> {
    pub fn write(&self) -> String {
        let mut line = format!("hammal method={} what={}", self.method, self.route.map_or("unknown", Route::what));
        // Writing to a string can't fail.
        if let Some(Route::Repository(name, resource)) = self.route {
            let _ = write!(line, " name={name}");
            let _ = match resource {
                Resource::Manifest(reference) => write!(line, " reference={reference}"),
                Resource::Blob(digest) | Resource::Referrers(digest) => write!(line, " reference={digest}"),
                Resource::Tags => Ok(()),
            };
        }
        if let Some(upstream) = self.upstream {
            let _ = write!(line, " upstream={upstream}");
        }
        let _ = write!(
            line,
            " status={} requests={} fetches={} token={} cache={} ms={}",
            self.status.as_u16(),
            self.cost.requests.get(),
            self.cost.fetches.get(),
            self.cost.token.get().map_or("none", TokenFrom::as_str),
            self.cost.cache.get().map_or("none", Hit::as_str),
            self.took.as_millis(),
        );
        if let Some(refusal) = self.refusal {
            let _ = write!(line, " code={} reason={:?}", refusal.code.as_str(), refusal.message);
        }
        line
    }
}
