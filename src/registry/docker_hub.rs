//! Docker Hub: the host of its registry, its other names, and `library/`.

use crate::oci::name::Name;
use crate::registry::origin::Origin;
use url::Host;

/// The host of Docker Hub's registry API.
pub const DOCKER_HUB: &str = "registry-1.docker.io";
/// Aliases of Docker Hub's registry.
const DOCKER_HUB_ALIASES: [&str; 3] = ["docker.io", "index.docker.io", "registry.hub.docker.com"];

/// Whether this is an alias of Docker Hub.
pub fn is_alias(name: &str) -> bool {
    DOCKER_HUB_ALIASES.contains(&name)
}

/// Whether this is the origin of Docker Hub's registry.
pub fn is_docker_hub(origin: &Origin) -> bool {
    matches!(&origin.host, Host::Domain(name) if name == DOCKER_HUB)
}

/// Whether two hosts are the same registry: the other names of Docker Hub answer for it too, where
/// a redirect leads there.
pub fn are_same_registry(one: &Host, other: &Host) -> bool {
    let is_of_docker_hub =
        |host: &Host| matches!(host, Host::Domain(name) if name == DOCKER_HUB || is_alias(name));
    one == other || is_of_docker_hub(one) && is_of_docker_hub(other)
}

/// Returns the host of Docker Hub's registry for its other names, and any other host as it is.
pub fn canonical_host(host: Host) -> Host {
    match host {
        Host::Domain(name) if is_alias(&name) => Host::Domain(DOCKER_HUB.to_owned()),
        host => host,
    }
}

/// Returns the name that Docker Hub keeps a one-part name under: `library/alpine` for `alpine`.
pub fn official_name(name: &Name) -> Option<Name> {
    let has_one_part = !name.as_str().contains('/');
    has_one_part
        .then(|| Name::parse(&format!("library/{name}")).ok())
        .flatten()
}

/// Returns the name that people pull an official repository by: `alpine` for `library/alpine`.
pub fn short_name(name: &Name) -> Option<&str> {
    name.as_str().strip_prefix("library/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_names_are_below_library() {
        for (asked, kept) in [
            ("alpine", "library/alpine"),
            ("grafana/grafana", "grafana/grafana"),
        ] {
            let name = Name::parse(asked).unwrap();
            assert_eq!(official_name(&name).unwrap_or(name).as_str(), kept);
        }
    }
}
