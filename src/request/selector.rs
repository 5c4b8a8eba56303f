//! Which upstream a request asks for.

use crate::registry::address::RegistryAddress;
use crate::registry::docker_hub;
use crate::registry::origin::InvalidAddress;

/// How a request names its upstream. The first that is present wins.
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
    /// The request names none.
    Default,
}

impl UpstreamSelector {
    /// Returns the registry that is named; `None` where the default upstream is meant. So is Docker
    /// Hub in `ns=`: every containerd sends it, also to a mirror whose operator has put another
    /// source of Docker Hub's images in its place.
    pub fn registry(&self) -> Result<Option<RegistryAddress>, InvalidAddress> {
        match self {
            UpstreamSelector::Default => Ok(None),
            UpstreamSelector::Namespace(host) if docker_hub::is_alias(host) => Ok(None),
            UpstreamSelector::Query(host)
            | UpstreamSelector::Path(host)
            | UpstreamSelector::RepositoryPrefix(host)
            | UpstreamSelector::Namespace(host) => RegistryAddress::parse(host).map(Some),
        }
    }

    /// Whether a ping is answered by the mirror itself: whoever names an upstream wants to know
    /// about that one. `ns=` comes by itself.
    pub fn is_answered_here(&self) -> bool {
        matches!(
            self,
            UpstreamSelector::Default | UpstreamSelector::Namespace(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hubs_namespace_is_the_default_upstream() {
        for host in ["docker.io", "index.docker.io"] {
            assert_eq!(
                UpstreamSelector::Namespace(host.into()).registry(),
                Ok(None)
            );
            assert!(matches!(
                UpstreamSelector::RepositoryPrefix(host.into()).registry(),
                Ok(Some(_))
            ));
        }
        assert!(matches!(
            UpstreamSelector::Namespace("ghcr.io".into()).registry(),
            Ok(Some(_))
        ));
        assert_eq!(
            UpstreamSelector::Namespace("a b".into()).registry(),
            Err(InvalidAddress)
        );
    }
}
