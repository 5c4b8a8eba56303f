//! Which hosts may be contacted, and which repositories asked for. The policy is asked for the
//! upstream, for a challenge's realm, and for the target of each redirect that is followed here.
//!
//! What a name resolves to can't be seen from inside a component: the host closes private networks
//! when it connects (`block_networks` in `runtime-config.toml`).

pub mod candidates;
pub mod domain;
pub mod pattern;
pub mod permitted;

use self::domain::{is_one_below_the_other, is_public_name, share_domain};
use self::pattern::{HostPattern, PortRule, RepositoryPattern};
use self::permitted::{Denied, Permitted, Upstream};
use crate::oci::name::Name;
use crate::registry::address::RegistryAddress;
use crate::registry::docker_hub;
use crate::registry::origin::{Authority, Origin, Scheme};
use crate::request::route::Route;
use url::Host;

/// The operator's settings of who may be contacted. By default every public registry may, over
/// https, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The registries that are asked where a request names none.
    pub defaults: Vec<Origin>,
    /// Hosts that are reached over plain http, and may be private.
    pub plain_http: Vec<Origin>,
    /// The registries of `upstream` and `host_upstreams`. They may lead to the hosts in
    /// `plain_http`.
    pub own: Vec<HostPattern>,
    pub allowed_upstreams: Vec<HostPattern>,
    pub denied_upstreams: Vec<HostPattern>,
    /// Token servers that are allowed besides those of the upstream's own domain, for registries
    /// that only a client named and where `allowed_upstreams` is closed.
    pub token_services: Vec<HostPattern>,
    pub allowed_repositories: Vec<RepositoryPattern>,
    pub denied_repositories: Vec<RepositoryPattern>,
    /// The repositories whose content is kept in the blob store.
    pub kept_repositories: Vec<RepositoryPattern>,
    /// The blob store. It may be in a private network, so nobody leads this mirror there: it is no
    /// upstream, unless the operator names it as one.
    pub blob_store: Option<Origin>,
}

impl Policy {
    /// Permits a registry that a request or a setting names. One without a scheme is
    /// asked over https, unless it is listed for plain http.
    pub fn permit_registry(&self, registry: &RegistryAddress) -> Result<Upstream, Denied> {
        let authority = registry.authority();
        self.permit(match registry.scheme() {
            Some(scheme) => authority.on(scheme),
            None => self.default_origin(authority),
        })
    }

    fn default_origin(&self, authority: &Authority) -> Origin {
        let plain = authority.on(Scheme::Http);
        if self.plain_http.contains(&plain) {
            plain
        } else {
            authority.on(Scheme::Https)
        }
    }

    /// Permits a registry that a request names or another registry redirects to.
    pub fn permit(&self, origin: Origin) -> Result<Upstream, Denied> {
        let permitted = self.permit_host(origin)?;
        if matches_any(&self.allowed_upstreams, permitted.origin()) {
            let is_operators = self.is_operators(permitted.origin());
            Ok(Upstream::new(permitted, is_operators))
        } else {
            Err(Denied::ClosedUpstream)
        }
    }

    /// May tokens for `upstream` come from this realm. No credential ever goes there, so for the
    /// operator's own registries any public host may; an operator who closes the list of upstreams
    /// closes the realms with it. What a client named may be anybody's, who would be sent the
    /// `token` of any JSON that a realm answers: it has realms of its own domain, and those that
    /// grant tokens to everybody.
    pub fn permit_realm(&self, realm: Origin, upstream: &Origin) -> Result<Permitted, Denied> {
        let permitted = self.permit_content_host(realm, upstream)?;
        let is_open = self.allowed_upstreams.iter().any(HostPattern::is_all);
        if is_open && self.is_operators(upstream)
            || share_domain(permitted.origin(), upstream)
            || matches_any(&self.token_services, permitted.origin())
        {
            Ok(permitted)
        } else {
            Err(Denied::ClosedRealm)
        }
    }

    /// May the operator's account at `upstream` be used at this realm, which [`permit_realm`] has
    /// let pass: a password goes to the registry's own host, one above or below it, and to those that
    /// `token_services` names; in clear text only where it goes to the registry so. All of Docker
    /// Hub's domain is Docker's.
    ///
    /// [`permit_realm`]: Policy::permit_realm
    pub fn permit_credentials(&self, realm: &Origin, upstream: &Origin) -> Result<(), Denied> {
        let mut named = self.token_services.iter().filter(|one| !one.is_all());
        let mut is_named = || named.any(|one| one.matches(realm, PortRule::SchemeDefault));
        if realm.scheme == Scheme::Http && upstream.scheme == Scheme::Https {
            Err(Denied::PlainHttp)
        } else if is_one_below_the_other(realm, upstream)
            || docker_hub::is_docker_hub(upstream) && share_domain(realm, upstream)
            || is_named()
        {
            Ok(())
        } else {
            Err(Denied::ClosedRealm)
        }
    }

    /// Permits a host for content of `upstream`.
    pub fn permit_content_host(
        &self,
        origin: Origin,
        upstream: &Origin,
    ) -> Result<Permitted, Denied> {
        self.permit_internal_target(&origin, upstream)?;
        self.permit_host(origin)
    }

    /// May `upstream` lead to this host, if only the operator can open it. Otherwise anybody who
    /// has a registry could read what is there by letting the registry lead to it.
    pub fn permit_internal_target(&self, origin: &Origin, upstream: &Origin) -> Result<(), Denied> {
        if !self.is_listed(origin) || self.is_listed(upstream) || self.is_own(upstream) {
            Ok(())
        } else {
            Err(Denied::Internal)
        }
    }

    /// May `upstream` lead to a path that is no registry's: where repositories are denied, it may
    /// be one of those under another path. The operator's own registries may, and each on itself.
    pub fn permit_non_registry_path(
        &self,
        origin: &Origin,
        upstream: &Origin,
    ) -> Result<(), Denied> {
        let is_default = self.is_default(origin);
        let denies_some = |pattern: &RepositoryPattern| pattern.applies_to(origin, is_default);
        if origin == upstream
            || self.is_own(upstream)
            || !self.denied_repositories.iter().any(denies_some)
        {
            Ok(())
        } else {
            Err(Denied::ClosedRepository)
        }
    }

    /// Permits an upstream for this route.
    pub fn permit_route(&self, upstream: &Upstream, route: &Route) -> Result<(), Denied> {
        match &*route.at(upstream.origin()) {
            Route::Repository(name, _) => self.permit_repository(upstream.origin(), name),
            Route::Catalog => self.permit_catalog(),
            _ => Ok(()),
        }
    }

    /// Whether content of a repository is kept in the blob store: of registries that the operator
    /// names, in another setting or in a pattern. What only a client names never is: the operator
    /// pays for the store.
    pub fn keeps(&self, upstream: &Upstream, name: &Name) -> bool {
        let is_default = self.is_default(upstream.origin());
        self.kept_repositories.iter().any(|pattern| {
            (upstream.is_operators() || !pattern.is_all())
                && pattern.matches(upstream.origin(), is_default, name)
        })
    }

    /// Permits a repository that a request names.
    pub fn permit_repository(&self, upstream: &Origin, name: &Name) -> Result<(), Denied> {
        if !self.repository_matches(&self.allowed_repositories, upstream, name) {
            return Err(Denied::ClosedRepository);
        }
        self.permit_redirect_repository(upstream, name)
    }

    /// May a redirect of a repository that may be asked for lead to this one. Registries have their
    /// own names for what the operator allows (lscr.io redirects to ghcr.io), but what is denied
    /// stays denied.
    pub fn permit_redirect_repository(&self, upstream: &Origin, name: &Name) -> Result<(), Denied> {
        if self.repository_matches(&self.denied_repositories, upstream, name) {
            Err(Denied::ClosedRepository)
        } else {
            Ok(())
        }
    }

    /// May an upstream's list of all its repositories be asked for: it names those too that the
    /// operator has closed.
    pub fn permit_catalog(&self) -> Result<(), Denied> {
        let allows_all = self
            .allowed_repositories
            .iter()
            .any(RepositoryPattern::is_all);
        if allows_all && self.denied_repositories.is_empty() {
            Ok(())
        } else {
            Err(Denied::ClosedRepository)
        }
    }

    /// May a client be sent there for content. The client connects by itself, so its own network
    /// decides whether it can; but over plain http only to a host that the operator listed.
    pub fn permits_client_redirect(&self, origin: &Origin) -> bool {
        origin.scheme == Scheme::Https || self.is_listed(origin)
    }

    /// Whether the operator listed this host for plain http. It may be asked over https too.
    pub fn is_listed(&self, origin: &Origin) -> bool {
        self.plain_http
            .iter()
            .any(|listed| listed.host == origin.host && listed.port == origin.port)
    }

    /// Whether a setting of the operator names this registry, by itself or by its domain, and not
    /// only a client.
    pub fn is_operators(&self, origin: &Origin) -> bool {
        let mut named = self.allowed_upstreams.iter().filter(|one| !one.is_all());
        self.is_listed(origin)
            || self.is_own(origin)
            || named.any(|one| one.matches(origin, PortRule::SchemeDefault))
    }

    fn is_own(&self, upstream: &Origin) -> bool {
        matches_any(&self.own, upstream)
    }

    fn is_default(&self, origin: &Origin) -> bool {
        self.defaults.contains(origin)
    }

    /// Permits a host to be contacted at all: public, on https, and not denied; or listed.
    fn permit_host(&self, origin: Origin) -> Result<Permitted, Denied> {
        let is_denied = |pattern: &HostPattern| pattern.matches(&origin, PortRule::Any);
        if self.denied_upstreams.iter().any(is_denied) {
            return Err(Denied::ClosedUpstream);
        }
        if self.is_listed(&origin) {
            return Permitted::new(origin);
        }
        let is_blob_store = |store: &Origin| store.host == origin.host && store.port == origin.port;
        if self.blob_store.as_ref().is_some_and(is_blob_store) && !self.is_own(&origin) {
            return Err(Denied::ClosedUpstream);
        }
        if origin.scheme != Scheme::Https {
            return Err(Denied::PlainHttp);
        }
        match &origin.host {
            Host::Ipv4(_) | Host::Ipv6(_) => return Err(Denied::Address),
            Host::Domain(name) if !is_public_name(name) => return Err(Denied::PrivateName),
            Host::Domain(_) => {}
        }
        if origin.port != 443 && origin.port < 1024 {
            return Err(Denied::Port);
        }
        Permitted::new(origin)
    }

    fn repository_matches(
        &self,
        patterns: &[RepositoryPattern],
        upstream: &Origin,
        name: &Name,
    ) -> bool {
        let is_default = self.is_default(upstream);
        patterns
            .iter()
            .any(|pattern| pattern.matches(upstream, is_default, name))
    }
}

/// Whether a pattern opens this origin.
fn matches_any(patterns: &[HostPattern], origin: &Origin) -> bool {
    patterns
        .iter()
        .any(|pattern| pattern.matches(origin, PortRule::SchemeDefault))
}

#[cfg(test)]
pub mod tests;
