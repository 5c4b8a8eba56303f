//! How the cache took part in an answer: the `Cache-Status` header (RFC 9211) and the field of the log.

/// How an answer came out of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// Without asking anybody.
    Fresh,
    /// The upstream said that it has it still, or that the tag points there still.
    Revalidated,
    /// Another request brought it while this one waited.
    Collapsed,
    /// The upstream can't be asked.
    Stale,
}

impl Hit {
    /// The word for it in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Hit::Fresh => "hit",
            Hit::Revalidated => "revalidated",
            Hit::Collapsed => "collapsed",
            Hit::Stale => "stale",
        }
    }

    pub fn cache_status(self) -> &'static str {
        match self {
            Hit::Fresh => "hammal; hit",
            Hit::Revalidated => "hammal; fwd=stale; fwd-status=200; detail=revalidated",
            Hit::Collapsed => "hammal; fwd=miss; collapsed",
            Hit::Stale => "hammal; hit; detail=stale",
        }
    }
}
