//! Types that only the policy makes: proof that a host is permitted.

use crate::cache::bucket::Owner;
use crate::registry::docker_hub;
use crate::registry::origin::{HttpUrl, Origin, Scheme};
use http::{Uri, uri};
use std::fmt;
use std::rc::Rc;

/// Why a host may not be contacted, or a repository not be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    PlainHttp,
    Address,
    PrivateName,
    Port,
    ClosedUpstream,
    ClosedRealm,
    ClosedRepository,
    /// A registry that only a client named leads to a host that only the operator can open.
    Internal,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Denied::PlainHttp => {
                "it is reached over https only, unless the operator lists it in plain_http_upstreams"
            }
            Denied::Address => "a public registry is named by its host name, not by an address",
            Denied::PrivateName => "only hosts with a public DNS name are mirrored",
            Denied::Port => "the port of a public registry is 443 or above 1023",
            Denied::ClosedUpstream => {
                "the operator has closed it (allowed_upstreams, denied_upstreams)"
            }
            Denied::ClosedRealm => "it is neither the upstream's own nor in token_services",
            Denied::ClosedRepository => {
                "the operator has closed it (allowed_repositories, denied_repositories)"
            }
            Denied::Internal => "only a registry in upstream or host_upstreams may lead there",
        })
    }
}

impl std::error::Error for Denied {}

/// An origin that may be contacted. No other is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permitted(Rc<Contact>);

/// An origin in the forms that each request to it needs.
#[derive(Debug, PartialEq, Eq)]
struct Contact {
    origin: Origin,
    text: String,
    scheme: uri::Scheme,
    authority: uri::Authority,
}

impl Permitted {
    pub(super) fn new(origin: Origin) -> Result<Permitted, Denied> {
        let scheme = match origin.scheme {
            Scheme::Http => uri::Scheme::HTTP,
            Scheme::Https => uri::Scheme::HTTPS,
        };
        // Every host and port that was parsed is an authority.
        let authority = origin
            .authority()
            .try_into()
            .map_err(|_| Denied::PrivateName)?;
        Ok(Permitted(Rc::new(Contact {
            text: origin.to_string(),
            origin,
            scheme,
            authority,
        })))
    }

    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// Returns the origin as text: `https://ghcr.io`.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Returns `ghcr.io`, or `registry.example.com:5000`.
    pub fn authority(&self) -> &uri::Authority {
        &self.0.authority
    }

    /// Returns the URI of a path and query on this origin.
    pub fn uri(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        let (scheme, authority) = (self.0.scheme.clone(), self.0.authority.clone());
        Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(path_and_query)
            .build()
    }
}

/// A registry that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    permitted: Permitted,
    is_operators: bool,
}

impl Upstream {
    pub(super) fn new(permitted: Permitted, is_operators: bool) -> Upstream {
        Upstream {
            permitted,
            is_operators,
        }
    }

    pub fn permitted(&self) -> &Permitted {
        &self.permitted
    }

    pub fn origin(&self) -> &Origin {
        self.permitted.origin()
    }

    /// Whether the operator names it in a setting. Any other may be anybody's: only clients name
    /// it, or other registries.
    pub fn is_operators(&self) -> bool {
        self.is_operators
    }

    /// Returns whose entries in the cache those of this registry are.
    pub fn owner(&self) -> Owner {
        if self.is_operators {
            Owner::Operator
        } else {
            Owner::Clients
        }
    }

    /// Returns the origin as text, `https://ghcr.io`: the key of what is cached of this registry.
    pub fn as_str(&self) -> &str {
        self.permitted.as_str()
    }

    pub fn is_docker_hub(&self) -> bool {
        docker_hub::is_docker_hub(self.origin())
    }

    /// Returns the URL of `path_and_query`, which begins with `/`, on this registry.
    pub fn url(&self, path_and_query: String) -> HttpUrl {
        HttpUrl {
            origin: self.origin().clone(),
            path_and_query,
        }
    }
}
