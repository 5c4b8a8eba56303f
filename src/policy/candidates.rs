//! The upstreams that may answer a request, in the operator's order.

use super::permitted::Upstream;

/// A list of upstreams that is never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    first: Upstream,
    rest: Vec<Upstream>,
}

impl Candidates {
    pub fn one(upstream: Upstream) -> Candidates {
        Candidates {
            first: upstream,
            rest: Vec::new(),
        }
    }

    /// Returns `None` where there is no upstream.
    pub fn new(upstreams: impl IntoIterator<Item = Upstream>) -> Option<Candidates> {
        let mut upstreams = upstreams.into_iter();
        Some(Candidates {
            first: upstreams.next()?,
            rest: upstreams.collect(),
        })
    }

    pub fn first(&self) -> &Upstream {
        &self.first
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Upstream> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    pub fn contains(&self, upstream: &Upstream) -> bool {
        self.iter().any(|candidate| candidate == upstream)
    }

    /// Whether there is only one.
    pub fn is_single(&self) -> bool {
        self.rest.is_empty()
    }
}
