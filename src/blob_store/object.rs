//! Names of objects. A name begins with the upstream and the repository, so that nothing that one
//! repository holds is ever served as another's: whether a blob may be had is for each upstream to
//! say, for each repository. Blobs that several repositories share are kept once for each; a store
//! of links to common objects would save that, and cost a second look-up and a second life cycle.

use crate::config::Config;
use crate::oci::digest::Digest;
use crate::oci::name::Name;
use crate::policy::candidates::Candidates;
use crate::policy::permitted::Upstream;
use crate::registry::origin::Origin;
use std::fmt::Write as _;

/// Begins every name: content that the anonymous user may read. What an account may read besides is
/// not kept ([`Config::keeps`]).
const AUDIENCE: &str = "public";

/// A blob that may be kept.
#[derive(Clone, Debug)]
pub struct BlobObject {
    pub name: String,
    /// Hexadecimal digits.
    pub sha256: String,
}

impl BlobObject {
    /// Returns `None` for a digest that is no SHA-256: a store checks no other.
    pub fn new(upstream: &Upstream, repository: &Name, digest: &Digest) -> Option<BlobObject> {
        let sha256 = digest.as_str().strip_prefix("sha256:")?;
        let mut name = prefix("blobs", upstream, repository);
        let _ = write!(name, "sha256/{sha256}");
        Some(BlobObject {
            name,
            sha256: sha256.to_owned(),
        })
    }
}

/// Returns the beginning of the names of a repository's entries of one kind, where they are kept:
/// that is where all upstreams that may answer are to be kept. An entry's own name is the hash of
/// its key, which repeats all of them.
pub fn entries_prefix(config: &Config, candidates: &Candidates, name: &Name) -> Option<String> {
    config.blob_store.as_ref()?;
    let keeps = |upstream: &Upstream| config.keeps(upstream, name);
    let first = candidates.first();
    candidates
        .iter()
        .all(keeps)
        .then(|| prefix("manifests", first, name))
}

fn prefix(kind: &str, upstream: &Upstream, repository: &Name) -> String {
    let host = host(upstream.origin());
    let scheme = upstream.origin().scheme.as_str();
    format!("{AUDIENCE}/{kind}/{scheme}/{host}/{repository}/")
}

/// Returns an upstream's host, with its port where that is not the scheme's own. Of an address or
/// a port, `:` and brackets become `_`, which is in no host's name: stores differ in how they
/// percent-encode them.
fn host(origin: &Origin) -> String {
    origin.authority().replace([':', '[', ']'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::listing;
    use crate::registry::origin::HttpUrl;
    use proptest::prelude::*;

    fn name_of(upstream: &str, repository: &str) -> String {
        let origin = HttpUrl::parse(upstream).unwrap().origin;
        let authority = origin.authority();
        let mut policy = listing(&[&authority]);
        policy.own = Vec::new();
        let upstream = policy.permit(origin).unwrap();
        let digest = Digest::of(b"");
        BlobObject::new(&upstream, &Name::parse(repository).unwrap(), &digest)
            .unwrap()
            .name
    }

    #[test]
    fn names_tell_upstream_repository_and_digest() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (upstream, repository, start) in [
            ("https://ghcr.io/", "a/b", "public/blobs/https/ghcr.io/a/b"),
            (
                "http://127.0.0.1:5000/",
                "alpine",
                "public/blobs/http/127.0.0.1_5000/alpine",
            ),
            ("http://[::1]:5000/", "a", "public/blobs/http/___1__5000/a"),
        ] {
            assert_eq!(
                name_of(upstream, repository),
                format!("{start}/sha256/{empty}")
            );
        }
    }

    proptest! {
        #[test]
        fn no_character_has_to_be_percent_encoded(
            port in 1024..9999_u16,
            repository in "[a-z0-9]{1,9}((__|[._-])[a-z0-9]{1,9}){0,2}(/[a-z0-9]{1,9}){0,3}",
        ) {
            let name = name_of(&format!("http://a.example:{port}/"), &repository);
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte)));
            prop_assert!(!name.contains("//") && !name.starts_with('/'));
        }
    }
}
