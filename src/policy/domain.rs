//! Host names: which are public, and which belong to one owner.

use crate::registry::origin::Origin;
use url::Host;

/// Suffixes of names that never belong to the public internet: RFC 6761, RFC 6762, ICANN's
/// `.internal`, Kubernetes, Spin.
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

/// Whether this name can belong to the public internet.
pub fn is_public_name(name: &str) -> bool {
    let is_within = |suffix: &&str| name == *suffix || is_subdomain(name, suffix);
    name.contains('.') && !PRIVATE_SUFFIXES.iter().any(is_within)
}

/// Whether `name` is a name below the domain `apex`.
pub fn is_subdomain(name: &str, apex: &str) -> bool {
    name.strip_suffix(apex)
        .is_some_and(|rest| rest.ends_with('.'))
}

/// Whether two hosts are the same, or names below one registrable domain.
pub fn share_domain(one: &Origin, other: &Origin) -> bool {
    match (&one.host, &other.host) {
        (Host::Domain(one), Host::Domain(other)) => {
            registrable_domain(one) == registrable_domain(other)
        }
        (one, other) => one == other,
    }
}

/// Whether one host is the other, or below it. Names beside each other may be of two owners:
/// providers give their customers names below one domain.
pub fn is_one_below_the_other(one: &Origin, other: &Origin) -> bool {
    let is_below = match (&one.host, &other.host) {
        (Host::Domain(one), Host::Domain(other)) => {
            one == other || is_subdomain(one, other) || is_subdomain(other, one)
        }
        (one, other) => one == other,
    };
    is_below && share_domain(one, other)
}

/// Returns the last two labels of a name; three where the second-last has three letters or fewer
/// below a country's domain (`co.uk`, `com.cn`). A list of all public suffixes would be larger than
/// the rest of the component. A wrong guess gives a token server nothing that is not public; passwords
/// need more: [`is_one_below_the_other`].
fn registrable_domain(name: &str) -> &str {
    let mut dots = name.rmatch_indices('.').map(|(at, _)| at);
    let (last, second) = (dots.next(), dots.next());
    let is_country_category = last.is_some_and(|last| {
        let begin = second.map_or(0, |dot| dot.saturating_add(1));
        name.len().saturating_sub(last) == 3 && last.saturating_sub(begin) <= 3
    });
    let cut = if is_country_category {
        dots.next()
    } else {
        second
    };
    cut.and_then(|dot| name.get(dot.saturating_add(1)..))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_registrable_domain() {
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
