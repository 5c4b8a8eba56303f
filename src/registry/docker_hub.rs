//! Docker Hub: its registry's host, the names that people type for it, and `library/`.

use crate::oci::name::Name;
use crate::registry::origin::Origin;
use url::Host;

/// Where Docker Hub answers the registry's protocol.
pub const DOCKER_HUB: &str = "registry-1.docker.io";
/// What people type for it.
const DOCKER_HUB_ALIASES: [&str; 3] = ["docker.io", "index.docker.io", "registry.hub.docker.com"];

/// Whether this is what people type for Docker Hub.
pub fn means_docker_hub(name: &str) -> bool {
    DOCKER_HUB_ALIASES.contains(&name)
}

pub fn is_docker_hub(origin: &Origin) -> bool {
    matches!(&origin.host, Host::Domain(name) if name == DOCKER_HUB)
}

/// Whether two hosts are one registry: what people type for Docker Hub answers for it too, where a redirect leads there.
pub fn are_one(one: &Host, other: &Host) -> bool {
    let is_of_docker_hub = |host: &Host| matches!(host, Host::Domain(name) if name == DOCKER_HUB || means_docker_hub(name));
    one == other || is_of_docker_hub(one) && is_of_docker_hub(other)
}

/// The host that answers for what people type for Docker Hub.
pub fn unalias(host: Host) -> Host {
    match host {
        Host::Domain(name) if means_docker_hub(&name) => Host::Domain(DOCKER_HUB.to_owned()),
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

/// The part of an official repository's name that people pull it by: `alpine` of `library/alpine`.
pub fn pulled_as(name: &Name) -> Option<&str> {
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
