//! The upstreams that may answer a request, in the operator's order.

use super::Policy;
use super::permitted::{Denied, Upstream};
use crate::cache::bucket::Owner;
use crate::oci::name::Name;
use crate::request::route::Route;

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

    /// Returns those that may be asked for this route, or why the first of them may not.
    pub fn permitted(&self, policy: &Policy, route: &Route) -> Result<Candidates, Denied> {
        let denied = policy.permit_route(&self.first, route).err();
        let permitted = self
            .iter()
            .filter(|one| policy.permit_route(one, route).is_ok());
        Candidates::new(permitted.cloned()).ok_or(denied.unwrap_or(Denied::ClosedRepository))
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

    /// Returns the key of what is cached of a repository: nothing that one list of upstreams sent is
    /// ever served for another.
    pub fn repository_key(&self, name: &Name) -> String {
        let mut key = String::with_capacity(128);
        for upstream in self.iter().map(Upstream::as_str) {
            key.push_str(upstream);
            key.push('\n');
        }
        key.push_str(name.as_str());
        key
    }

    /// Returns whose entries in the cache those of these upstreams are: the operator's, where all
    /// that may answer are.
    pub fn owner(&self) -> Owner {
        if self.iter().all(Upstream::is_operators) {
            Owner::Operator
        } else {
            Owner::Clients
        }
    }

    /// Whether there is only one.
    pub fn is_single(&self) -> bool {
        self.rest.is_empty()
    }
}
