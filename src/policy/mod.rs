//! Which hosts may be contacted: asked for the upstream, for a challenge's realm, and for the target of each redirect
//! that is followed here. What a name resolves to can't be seen from inside a component: the host closes private
//! networks when it connects (`block_networks` in `runtime-config.toml`).

pub mod pattern;

use crate::oci::name::Name;
use crate::policy::pattern::{HostPattern, RepositoryPattern, Unported, is_below};
use crate::registry::address::RegistryAddress;
use crate::registry::docker_hub;
use crate::registry::origin::{Authority, HttpUrl, Origin, Scheme};
use http::{Uri, uri};
use std::fmt;
use std::rc::Rc;
use url::Host;

/// Names that never belong to the public internet: RFC 6761, RFC 6762, ICANN's `.internal`, Kubernetes, Spin.
const PRIVATE_SUFFIXES: [&str; 10] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "lan",
    "home.arpa",
    "svc",
    "onion",
    "invalid",
];

/// What the operator opens and closes. By default every public registry may be asked over https, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Reached over plain http, and possibly private.
    pub plain_http: Vec<Origin>,
    /// The registries of `upstream` and `host_upstreams`. What these say of the hosts in `plain_http` is followed.
    pub own: Vec<HostPattern>,
    pub allowed_upstreams: Vec<HostPattern>,
    pub denied_upstreams: Vec<HostPattern>,
    /// Besides the upstream's own domain, where `allowed_upstreams` is closed.
    pub token_services: Vec<HostPattern>,
    pub allowed_repositories: Vec<RepositoryPattern>,
    pub denied_repositories: Vec<RepositoryPattern>,
}

/// An origin that the policy has let pass. Nothing else can be contacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permitted(Rc<Contacted>);

/// An origin in the forms that each request to it needs.
#[derive(Debug, PartialEq, Eq)]
struct Contacted {
    origin: Origin,
    text: String,
    scheme: uri::Scheme,
    authority: uri::Authority,
}

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
    Inner,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Denied::PlainHttp => {
                "it is reached over https only, unless the mirror's operator lists it in plain_http_upstreams"
            }
            Denied::Address => "a public registry is named by its host name, not by an address",
            Denied::PrivateName => "only hosts with a public DNS name are mirrored",
            Denied::Port => "the port of a public registry is 443 or above 1023",
            Denied::ClosedUpstream => "the mirror's operator has closed it (allowed_upstreams, denied_upstreams)",
            Denied::ClosedRealm => "it is none of the upstream's, nor in token_services",
            Denied::ClosedRepository => {
                "the mirror's operator has closed it (allowed_repositories, denied_repositories)"
            }
            Denied::Inner => "only the operator's own registries lead there",
        })
    }
}

impl Policy {
    /// A host named without a scheme is asked over https, unless it is listed for plain http.
    pub fn permit_authority(&self, authority: &Authority) -> Result<Permitted, Denied> {
        let plain = authority.on(Scheme::Http);
        if self.plain_http.contains(&plain) {
            self.permit(plain)
        } else {
            self.permit(authority.on(Scheme::Https))
        }
    }

    /// May this registry be asked, because a request or a setting names it.
    pub fn permit_registry(&self, named: &RegistryAddress) -> Result<Upstream, Denied> {
        match named.scheme() {
            Some(scheme) => self.permit(named.authority().on(scheme)),
            None => self.permit_authority(named.authority()),
        }
        .map(Upstream)
    }

    /// May this registry be asked, because a request names it or another registry redirects to it.
    pub fn permit(&self, origin: Origin) -> Result<Permitted, Denied> {
        let permitted = self.permit_host(origin)?;
        let opens =
            |pattern: &HostPattern| pattern.matches(permitted.origin(), Unported::SchemesOwn);
        if self.allowed_upstreams.iter().any(opens) {
            Ok(permitted)
        } else {
            Err(Denied::ClosedUpstream)
        }
    }

    /// May `upstream`'s tokens come from this realm. No credential ever goes there, so any public host will do; an
    /// operator who has closed the list of upstreams has closed the realms with it.
    pub fn permit_realm(&self, realm: Origin, upstream: &Origin) -> Result<Permitted, Denied> {
        let permitted = self.permit_delivery(realm, upstream)?;
        let is_open = self.allowed_upstreams.iter().any(HostPattern::is_all);
        let known =
            |pattern: &HostPattern| pattern.matches(permitted.origin(), Unported::SchemesOwn);
        if is_open
            || share_domain(permitted.origin(), upstream)
            || self.token_services.iter().any(known)
        {
            Ok(permitted)
        } else {
            Err(Denied::ClosedRealm)
        }
    }

    /// May content be fetched there for an upstream that was permitted.
    pub fn permit_delivery(&self, origin: Origin, upstream: &Origin) -> Result<Permitted, Denied> {
        self.permit_inside(&origin, upstream)?;
        self.permit_host(origin)
    }

    /// May this registry lead there, if that is a host which only the operator can open. What is asked of it would come
    /// out to anybody who has a registry of his own name it.
    pub fn permit_inside(&self, origin: &Origin, upstream: &Origin) -> Result<(), Denied> {
        let may_lead = !self.is_listed(origin) || self.is_listed(upstream) || self.is_own(upstream);
        if may_lead { Ok(()) } else { Err(Denied::Inner) }
    }

    /// May this registry lead to what is no path of a registry: where repositories are denied, nobody can say that it is none
    /// of those. The operator's own registries may, and each on itself.
    pub fn permit_unnamed(
        &self,
        origin: &Origin,
        is_default: bool,
        upstream: &Origin,
    ) -> Result<(), Denied> {
        let denies_some = |pattern: &RepositoryPattern| pattern.is_of(origin, is_default);
        if origin == upstream
            || self.is_own(upstream)
            || !self.denied_repositories.iter().any(denies_some)
        {
            Ok(())
        } else {
            Err(Denied::ClosedRepository)
        }
    }

    fn is_own(&self, upstream: &Origin) -> bool {
        self.own
            .iter()
            .any(|pattern| pattern.matches(upstream, Unported::SchemesOwn))
    }

    /// Public, on https, and not denied, or else listed.
    fn permit_host(&self, origin: Origin) -> Result<Permitted, Denied> {
        if self
            .denied_upstreams
            .iter()
            .any(|pattern| pattern.matches(&origin, Unported::Every))
        {
            return Err(Denied::ClosedUpstream);
        }
        if self.is_listed(&origin) {
            return Permitted::new(origin);
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

    /// May this repository be asked for.
    pub fn permit_repository(
        &self,
        upstream: &Origin,
        is_default: bool,
        name: &Name,
    ) -> Result<(), Denied> {
        let matches = |pattern: &RepositoryPattern| pattern.matches(upstream, is_default, name);
        if !self.allowed_repositories.iter().any(matches) {
            return Err(Denied::ClosedRepository);
        }
        self.permit_redirected(upstream, is_default, name)
    }

    /// May a redirect of a repository that may be asked for lead to this one: registries have their own names for what
    /// the operator has opened (lscr.io redirects to ghcr.io), but what is denied stays denied.
    pub fn permit_redirected(
        &self,
        upstream: &Origin,
        is_default: bool,
        name: &Name,
    ) -> Result<(), Denied> {
        let matches = |pattern: &RepositoryPattern| pattern.matches(upstream, is_default, name);
        if self.denied_repositories.iter().any(matches) {
            Err(Denied::ClosedRepository)
        } else {
            Ok(())
        }
    }

    /// May an upstream's list of all its repositories be asked for: it names those too that the operator has closed.
    pub fn permit_catalog(&self) -> Result<(), Denied> {
        if self
            .allowed_repositories
            .iter()
            .any(RepositoryPattern::is_all)
            && self.denied_repositories.is_empty()
        {
            Ok(())
        } else {
            Err(Denied::ClosedRepository)
        }
    }

    /// May a client be sent there for content. It has to reach it by itself, so it is its own network that decides; but
    /// what is not encrypted is only what the operator listed.
    pub fn permit_redirect(&self, origin: &Origin) -> bool {
        origin.scheme == Scheme::Https || self.is_listed(origin)
    }

    /// What the operator listed may be asked over https too.
    pub fn is_listed(&self, origin: &Origin) -> bool {
        self.plain_http
            .iter()
            .any(|listed| listed.host == origin.host && listed.port == origin.port)
    }
}

impl Permitted {
    fn new(origin: Origin) -> Result<Permitted, Denied> {
        let scheme = match origin.scheme {
            Scheme::Http => uri::Scheme::HTTP,
            Scheme::Https => uri::Scheme::HTTPS,
        };
        // Every host and port that was parsed can be written so; no other is contacted.
        let authority = origin
            .authority()
            .try_into()
            .map_err(|_| Denied::PrivateName)?;
        Ok(Permitted(Rc::new(Contacted {
            text: origin.to_string(),
            origin,
            scheme,
            authority,
        })))
    }

    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// Such as `https://ghcr.io`.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Such as `ghcr.io`, or `registry.example.com:5000`.
    pub fn authority(&self) -> &uri::Authority {
        &self.0.authority
    }

    /// The URI of a path with its query on it.
    pub fn uri(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        let (scheme, authority) = (self.0.scheme.clone(), self.0.authority.clone());
        Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(path_and_query)
            .build()
    }
}

/// A registry that the policy lets this mirror ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream(Permitted);

impl Upstream {
    /// A registry that another one redirected to.
    pub fn redirected(permitted: Permitted) -> Upstream {
        Upstream(permitted)
    }

    pub fn permitted(&self) -> &Permitted {
        &self.0
    }

    pub fn origin(&self) -> &Origin {
        self.0.origin()
    }

    /// Such as `https://ghcr.io`: what is remembered of it is remembered under this.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn is_docker_hub(&self) -> bool {
        docker_hub::is_docker_hub(self.origin())
    }

    /// The URL of `path_and_query`, which begins with `/`, on this registry.
    pub fn target(&self, path_and_query: String) -> HttpUrl {
        HttpUrl {
            origin: self.origin().clone(),
            path_and_query,
        }
    }
}

fn is_public_name(name: &str) -> bool {
    let is_within = |suffix: &&str| name == *suffix || is_below(name, suffix);
    name.contains('.') && !PRIVATE_SUFFIXES.iter().any(is_within)
}

/// Whether two hosts are one, or names below one registrable domain.
fn share_domain(one: &Origin, other: &Origin) -> bool {
    match (&one.host, &other.host) {
        (Host::Domain(one), Host::Domain(other)) => {
            registrable_domain(one) == registrable_domain(other)
        }
        (one, other) => one == other,
    }
}

/// The last two labels of a name; three where a country's registry has names of three letters or fewer for its kinds of
/// domains (`co.uk`, `com.cn`). A list of all public suffixes would be larger than this whole component, and a realm gets
/// nothing from a request that is not public.
fn registrable_domain(name: &str) -> &str {
    let mut dots = name.rmatch_indices('.').map(|(at, _)| at);
    let (last, second) = (dots.next(), dots.next());
    let of_a_country = match (last, second) {
        (Some(last), second) => {
            let begin = second.map_or(0, |dot| dot.saturating_add(1));
            name.len().saturating_sub(last) == 3 && last.saturating_sub(begin) <= 3
        }
        _ => false,
    };
    let cut = if of_a_country { dots.next() } else { second };
    cut.and_then(|dot| name.get(dot.saturating_add(1)..))
        .unwrap_or(name)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The policy of the defaults, with these hosts listed for plain http.
    pub fn listing(plain_http: &[&str]) -> Policy {
        let hosts = |text: &[&str]| {
            text.iter()
                .map(|text| HostPattern::parse(text).unwrap())
                .collect()
        };
        Policy {
            plain_http: plain_http
                .iter()
                .map(|text| Authority::parse(text).unwrap().on(Scheme::Http))
                .collect(),
            own: hosts(&["registry-1.docker.io"]),
            allowed_upstreams: hosts(&["*"]),
            denied_upstreams: Vec::new(),
            token_services: hosts(&["auth.docker.io", "ghcr.io"]),
            allowed_repositories: vec![RepositoryPattern::parse("*").unwrap()],
            denied_repositories: Vec::new(),
        }
    }

    fn origin(text: &str) -> Origin {
        match text.split_once("://") {
            Some(("http", rest)) => Authority::parse(rest).unwrap().on(Scheme::Http),
            Some((_, rest)) => Authority::parse(rest).unwrap().on(Scheme::Https),
            None => Authority::parse(text).unwrap().on(Scheme::Https),
        }
    }

    fn permit(policy: &Policy, text: &str) -> Result<String, Denied> {
        let permitted = match text.contains("://") {
            true => policy.permit(origin(text)),
            false => policy.permit_authority(&Authority::parse(text).unwrap()),
        };
        permitted.map(|permitted| permitted.as_str().to_owned())
    }

    #[test]
    fn lets_public_registries_pass_on_https_only() {
        let policy = listing(&[]);
        for (asked, answer) in [
            ("ghcr.io", Ok("https://ghcr.io")),
            (
                "https://registry.example.com:8443",
                Ok("https://registry.example.com:8443"),
            ),
            ("http://ghcr.io", Err(Denied::PlainHttp)),
            ("127.0.0.1", Err(Denied::Address)),
            ("https://[::1]:5000", Err(Denied::Address)),
            ("8.8.8.8", Err(Denied::Address)),
            ("2130706433", Err(Denied::Address)),
            ("0x7f.0.0.1", Err(Denied::Address)),
            ("[::ffff:10.0.0.1]", Err(Denied::Address)),
            ("localhost:5000", Err(Denied::PrivateName)),
            ("registry", Err(Denied::PrivateName)),
            ("a.localhost", Err(Denied::PrivateName)),
            ("printer.local", Err(Denied::PrivateName)),
            ("metadata.google.internal", Err(Denied::PrivateName)),
            ("registry.default.svc", Err(Denied::PrivateName)),
            (
                "registry.default.svc.cluster.local",
                Err(Denied::PrivateName),
            ),
            ("service.spin.internal", Err(Denied::PrivateName)),
            ("registry.example.com:22", Err(Denied::Port)),
            ("registry.example.com:80", Err(Denied::Port)),
            ("notlocal.example", Ok("https://notlocal.example")),
        ] {
            assert_eq!(permit(&policy, asked), answer.map(str::to_owned), "{asked}");
        }
    }

    #[test]
    fn what_the_operator_lists_may_be_plain_and_private() {
        let policy = listing(&["127.0.0.1:5000", "registry.lan"]);
        for (asked, answer) in [
            ("127.0.0.1:5000", Ok("http://127.0.0.1:5000")),
            ("http://127.0.0.1:5000", Ok("http://127.0.0.1:5000")),
            ("https://127.0.0.1:5000", Ok("https://127.0.0.1:5000")),
            ("registry.lan", Ok("http://registry.lan")),
            ("registry.lan:80", Ok("http://registry.lan")),
            ("127.0.0.1:5001", Err(Denied::Address)),
            ("http://127.0.0.1:5001", Err(Denied::PlainHttp)),
            ("127.0.0.2:5000", Err(Denied::Address)),
            ("registry.lan:5000", Err(Denied::PrivateName)),
        ] {
            assert_eq!(permit(&policy, asked), answer.map(str::to_owned), "{asked}");
        }
    }

    #[test]
    fn the_operator_closes_upstreams_and_their_realms() {
        let patterns = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| HostPattern::parse(text).unwrap())
                .collect()
        };
        let closed = Policy {
            allowed_upstreams: patterns(&["ghcr.io", "*.example.com", "127.0.0.1:5000"]),
            denied_upstreams: patterns(&["bad.example.com"]),
            ..listing(&["127.0.0.1:5000", "127.0.0.1:5001"])
        };
        for (asked, answer) in [
            ("ghcr.io", Ok("https://ghcr.io")),
            ("a.example.com", Ok("https://a.example.com")),
            ("127.0.0.1:5000", Ok("http://127.0.0.1:5000")),
            ("127.0.0.1:5001", Err(Denied::ClosedUpstream)),
            ("quay.io", Err(Denied::ClosedUpstream)),
            ("ghcr.io:8443", Err(Denied::ClosedUpstream)),
            ("bad.example.com", Err(Denied::ClosedUpstream)),
            ("bad.example.com:8443", Err(Denied::ClosedUpstream)),
        ] {
            assert_eq!(permit(&closed, asked), answer.map(str::to_owned), "{asked}");
        }
        for (realm, upstream, answer) in [
            ("auth.docker.io", "ghcr.io", Ok(())),
            ("gitlab.com", "registry.gitlab.com", Ok(())),
            ("token.example.co.uk", "registry.example.co.uk", Ok(())),
            (
                "token.other.co.uk",
                "registry.example.co.uk",
                Err(Denied::ClosedRealm),
            ),
            ("evil.example", "ghcr.io", Err(Denied::ClosedRealm)),
            (
                "bad.example.com",
                "a.example.com",
                Err(Denied::ClosedUpstream),
            ),
            ("10.0.0.1", "10.0.0.1", Err(Denied::Address)),
            ("http://127.0.0.1:5001", "http://127.0.0.1:5000", Ok(())),
        ] {
            let permitted = closed
                .permit_realm(origin(realm), &origin(upstream))
                .map(drop);
            assert_eq!(permitted, answer, "{realm} for {upstream}");
        }
        assert!(
            listing(&[])
                .permit_realm(origin("evil.example"), &origin("ghcr.io"))
                .is_ok()
        );
    }

    #[test]
    fn only_the_operators_own_registries_lead_to_what_is_listed() {
        let policy = listing(&["127.0.0.1:5000", "127.0.0.1:5001"]);
        for (upstream, to, answer) in [
            ("registry-1.docker.io", "http://127.0.0.1:5000", Ok(())),
            ("http://127.0.0.1:5001", "http://127.0.0.1:5000", Ok(())),
            ("evil.example", "http://127.0.0.1:5000", Err(Denied::Inner)),
            ("evil.example", "https://127.0.0.1:5000", Err(Denied::Inner)),
            (
                "registry-1.docker.io:8443",
                "http://127.0.0.1:5000",
                Err(Denied::Inner),
            ),
            ("evil.example", "https://cdn.example", Ok(())),
        ] {
            assert_eq!(
                policy
                    .permit_delivery(origin(to), &origin(upstream))
                    .map(drop),
                answer,
                "{upstream} to {to}"
            );
            assert_eq!(
                policy.permit_realm(origin(to), &origin(upstream)).map(drop),
                answer,
                "{upstream} to {to}"
            );
        }
    }

    #[test]
    fn the_operator_closes_repositories() {
        let patterns = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| RepositoryPattern::parse(text).unwrap())
                .collect()
        };
        let policy = Policy {
            allowed_repositories: patterns(&["library/*", "ghcr.io/team/*"]),
            denied_repositories: patterns(&["ghcr.io/team/secret"]),
            ..listing(&[])
        };
        for (upstream, is_default, name, permitted) in [
            ("registry-1.docker.io", true, "library/alpine", true),
            ("registry-1.docker.io", true, "other/alpine", false),
            ("quay.io", false, "library/alpine", false),
            ("ghcr.io", false, "team/app", true),
            ("ghcr.io", false, "team/secret", false),
        ] {
            let answer = policy.permit_repository(
                &origin(upstream),
                is_default,
                &Name::parse(name).unwrap(),
            );
            assert_eq!(answer.is_ok(), permitted, "{upstream} {name}");
        }
    }

    #[test]
    fn registrable_domains_are_what_somebody_registered() {
        for (name, domain) in [
            ("registry-1.docker.io", "docker.io"),
            ("ghcr.io", "ghcr.io"),
            ("a.b.c.example.com", "example.com"),
            ("r.example.co.uk", "example.co.uk"),
            ("r.example.com.cn", "example.com.cn"),
            ("com.cn", "com.cn"),
            ("r.aliyuncs.cn", "aliyuncs.cn"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(registrable_domain(name), domain);
        }
    }
}
