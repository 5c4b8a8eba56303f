//! Which registry a request is meant for.

use crate::registry::docker_hub::{means_docker_hub, unalias};
use crate::registry::origin::{Authority, InvalidAddress, Scheme};

/// A registry as somebody named it: a host, `host:port`, or an `http(s)` URL of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryAddress {
    scheme: Option<Scheme>,
    authority: Authority,
}

/// How a request named its upstream; the first that is present wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamSelector {
    /// `/v2/…?upstream=HOST`
    Query(String),
    /// `/HOST/v2/…`: a `registry-mirrors` entry of dockerd may have a path, but no query.
    Path(String),
    /// `/v2/HOST/name/…`: podman, skopeo and `docker pull MIRROR/HOST/name` know no other way.
    RepositoryPrefix(String),
    /// `?ns=HOST`: containerd and dockerd 29 tell every mirror which registry an image belongs to.
    Namespace(String),
    /// Not at all.
    Default,
}

impl RegistryAddress {
    pub fn parse(text: &str) -> Result<RegistryAddress, InvalidAddress> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(_) => return Err(InvalidAddress),
            None => (None, text),
        };
        let host = if scheme.is_some() {
            rest.strip_suffix('/').unwrap_or(rest)
        } else {
            rest
        };
        let Authority { host, port } = Authority::parse(host)?;
        Ok(RegistryAddress {
            scheme,
            authority: Authority {
                host: unalias(host),
                port,
            },
        })
    }

    /// `None` where none was written.
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

impl UpstreamSelector {
    /// Docker Hub's own name in `ns=` means the default upstream: every containerd sends it, also to a mirror whose
    /// operator has put another source of Docker Hub's images in its place.
    pub fn named(&self) -> Result<Option<RegistryAddress>, InvalidAddress> {
        match self {
            UpstreamSelector::Default => Ok(None),
            UpstreamSelector::Namespace(host) if means_docker_hub(host) => Ok(None),
            UpstreamSelector::Query(host)
            | UpstreamSelector::Path(host)
            | UpstreamSelector::RepositoryPrefix(host)
            | UpstreamSelector::Namespace(host) => RegistryAddress::parse(host).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::listing;
    use proptest::prelude::*;
    use url::Host;

    fn resolve(text: &str) -> Result<String, String> {
        let policy = listing(&["127.0.0.1:5000"]);
        let named = RegistryAddress::parse(text).map_err(|_| "malformed".to_owned())?;
        let upstream = policy
            .permit_registry(&named)
            .map_err(|denied| format!("{denied:?}"))?;
        Ok(upstream.origin().to_string())
    }

    #[test]
    fn reads_every_form_of_a_registry() {
        for (text, resolved) in [
            ("ghcr.io", Ok("https://ghcr.io")),
            ("https://ghcr.io", Ok("https://ghcr.io")),
            ("https://ghcr.io/", Ok("https://ghcr.io")),
            ("https://ghcr.io:8443", Ok("https://ghcr.io:8443")),
            ("docker.io", Ok("https://registry-1.docker.io")),
            (
                "https://index.docker.io",
                Ok("https://registry-1.docker.io"),
            ),
            (
                "Registry.Hub.Docker.com",
                Ok("https://registry-1.docker.io"),
            ),
            ("127.0.0.1:5000", Ok("http://127.0.0.1:5000")),
            ("http://127.0.0.1:5000", Ok("http://127.0.0.1:5000")),
            ("http://ghcr.io", Err("PlainHttp")),
            ("ftp://ghcr.io", Err("malformed")),
            ("https://", Err("malformed")),
            ("https://ghcr.io/v2", Err("malformed")),
            ("ghcr.io/", Err("malformed")),
            ("https://user@ghcr.io", Err("malformed")),
            ("ghcr.io?x", Err("malformed")),
            ("", Err("malformed")),
        ] {
            assert_eq!(
                resolve(text),
                resolved.map(str::to_owned).map_err(str::to_owned),
                "{text}"
            );
        }
    }

    #[test]
    fn docker_hubs_namespace_is_the_default_upstream() {
        for host in ["docker.io", "index.docker.io"] {
            assert_eq!(UpstreamSelector::Namespace(host.into()).named(), Ok(None));
            assert!(matches!(
                UpstreamSelector::RepositoryPrefix(host.into()).named(),
                Ok(Some(_))
            ));
        }
        assert!(matches!(
            UpstreamSelector::Namespace("ghcr.io".into()).named(),
            Ok(Some(_))
        ));
        assert_eq!(
            UpstreamSelector::Namespace("a b".into()).named(),
            Err(InvalidAddress)
        );
    }

    proptest! {
        #[test]
        fn no_text_reaches_a_host_that_is_not_public(text in "(https?://)?([a-z0-9.:@/\\\\\\[\\]%]{0,20}|\\PC{0,20})") {
            if let Ok(named) = RegistryAddress::parse(&text)
                && let Ok(upstream) = listing(&[]).permit_registry(&named)
            {
                let origin = upstream.origin();
                prop_assert_eq!(origin.scheme, Scheme::Https);
                prop_assert!(matches!(&origin.host, Host::Domain(name) if name.contains('.')));
                prop_assert!(origin.port == 443 || origin.port > 1023);
            }
        }
    }
}
