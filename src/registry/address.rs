//! The address of a registry as a person writes it.

use crate::registry::docker_hub::canonical_host;
use crate::registry::origin::{Authority, InvalidAddress, Scheme};

/// A registry as a request or a setting names it: a host, `host:port`, or an `http(s)` URL of one.
/// The other names of Docker Hub have become that of its registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryAddress {
    scheme: Option<Scheme>,
    authority: Authority,
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
                host: canonical_host(host),
                port,
            },
        })
    }

    /// Returns the scheme; `None` where none was written.
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
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
