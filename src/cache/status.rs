//! How the cache took part in an answer: the `Cache-Status` header (RFC 9211), and the field
//! `cache` of the log.

use http::{HeaderName, HeaderValue};

/// RFC 9211, section 2.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How the cache took part in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStatus {
    /// Answered from the cache; no upstream was asked.
    Hit,
    /// Answered from the cache; the upstream confirmed by `HEAD` that it still has the content, or
    /// that the tag still points to it.
    Revalidated,
    /// Answered with what another request fetched while this one waited.
    Collapsed,
    /// Answered from the cache although it is stale: every upstream failed lately and was not
    /// asked.
    Stale,
    /// Answered from the cache although it is stale: the upstream was asked, and failed.
    StaleIfError,
    /// Fetched from the upstream.
    Miss,
}

impl CacheStatus {
    /// Returns the word for it in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            CacheStatus::Hit => "hit",
            CacheStatus::Revalidated => "revalidated",
            CacheStatus::Collapsed => "collapsed",
            CacheStatus::Stale | CacheStatus::StaleIfError => "stale",
            CacheStatus::Miss => "none",
        }
    }

    /// Returns the value of the `Cache-Status` header.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            CacheStatus::Hit => "hammal; hit",
            CacheStatus::Revalidated => "hammal; fwd=stale; fwd-status=200; detail=revalidated",
            CacheStatus::Collapsed => "hammal; fwd=miss; collapsed",
            CacheStatus::Stale => "hammal; hit; detail=stale",
            CacheStatus::StaleIfError => "hammal; fwd=stale; detail=upstream-failed",
            CacheStatus::Miss => "hammal; fwd=miss",
        })
    }
}
