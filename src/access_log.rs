//! One line per request, in logfmt. Nothing of it was taken from a request or an upstream unparsed, and no token is in it.

use crate::cache::status::Hit;
use crate::context::{Cost, TokenFrom};
use crate::policy::Upstream;
use crate::request::route::{Resource, Route};
use crate::response::error::Refusal;
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
        let mut line = String::with_capacity(256);
        line.extend([
            "hammal method=",
            self.method.as_str(),
            " what=",
            self.route.map_or("unknown", Route::what),
        ]);
        if let Some(Route::Repository(name, resource)) = self.route {
            line.extend([" name=", name.as_str()]);
            match resource {
                Resource::Manifest(reference) => line.extend([" reference=", reference.as_str()]),
                Resource::Blob(digest) | Resource::Referrers(digest) => {
                    line.extend([" reference=", digest.as_str()])
                }
                Resource::Tags => {}
            }
        }
        if let Some(upstream) = self.upstream {
            line.extend([" upstream=", upstream.permitted().authority().as_str()]);
        }
        let token = self.cost.token.get().map_or("none", TokenFrom::as_str);
        let cache = self.cost.cache.get().map_or("none", Hit::as_str);
        line.extend([" status=", self.status.as_str()]);
        // Writing to a string can't fail.
        let _ = write!(
            line,
            " requests={} fetches={}",
            self.cost.requests.get(),
            self.cost.fetches.get()
        );
        line.extend([" token=", token, " cache=", cache]);
        let _ = write!(line, " ms={}", self.took.as_millis());
        if let Some(refusal) = self.refusal {
            let _ = write!(
                line,
                " code={} reason={:?}",
                refusal.code.as_str(),
                refusal.message
            );
        }
        line
    }
}
