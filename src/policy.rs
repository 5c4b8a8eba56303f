//! Which hosts may be contacted: asked for the upstream, for a challenge's realm, and for the target of each redirect
//! that is followed here. What a name resolves to can't be seen from inside a component: the host closes private
//! networks when it connects (`block_networks` in `runtime-config.toml`).

use crate::origin::{Authority, Origin, Scheme};
use std::fmt;
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

/// The operator's choice of what may be contacted besides the public registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    plain_http: Vec<Origin>,
}

/// An origin that the policy has let pass. Nothing else can be contacted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Permitted(Origin);

/// Why a host may not be contacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    PlainHttp,
    Address,
    PrivateName,
    Port,
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
        })
    }
}

impl Policy {
    /// `plain_http` are the hosts that are reached over plain http, and that may be private.
    pub fn new(plain_http: impl IntoIterator<Item = Authority>) -> Policy {
        Policy {
            plain_http: plain_http
                .into_iter()
                .map(|authority| authority.on(Scheme::Http))
                .collect(),
        }
    }

    /// A host named without a scheme is asked over https, unless it is listed for plain http.
    pub fn permit_authority(&self, authority: &Authority) -> Result<Permitted, Denied> {
        let plain = authority.on(Scheme::Http);
        if self.plain_http.contains(&plain) {
            Ok(Permitted(plain))
        } else {
            self.permit(authority.on(Scheme::Https))
        }
    }

    pub fn permit(&self, origin: Origin) -> Result<Permitted, Denied> {
        if self.is_listed(&origin) {
            return Ok(Permitted(origin));
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
        Ok(Permitted(origin))
    }

    /// What the operator listed may be asked over https too.
    fn is_listed(&self, origin: &Origin) -> bool {
        self.plain_http
            .iter()
            .any(|listed| listed.host == origin.host && listed.port == origin.port)
    }
}

impl Permitted {
    pub fn origin(&self) -> &Origin {
        &self.0
    }
}

impl fmt::Display for Permitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn is_public_name(name: &str) -> bool {
    let is_within = |suffix: &str| name == suffix || name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    name.contains('.') && !PRIVATE_SUFFIXES.iter().any(|suffix| is_within(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(policy: &Policy, text: &str) -> Result<String, Denied> {
        let permitted = match text.split_once("://") {
            Some(("http", rest)) => policy.permit(Authority::parse(rest).unwrap().on(Scheme::Http)),
            Some((_, rest)) => policy.permit(Authority::parse(rest).unwrap().on(Scheme::Https)),
            None => policy.permit_authority(&Authority::parse(text).unwrap()),
        };
        permitted.map(|permitted| permitted.to_string())
    }

    #[test]
    fn lets_public_registries_pass_on_https_only() {
        let policy = Policy::default();
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
            ("registry.default.svc.cluster.local", Err(Denied::PrivateName)),
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
        let policy = Policy::new(["127.0.0.1:5000", "registry.lan"].map(|text| Authority::parse(text).unwrap()));
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
}
