//! What a request line asks for. After this room nothing holds a raw path.

use crate::oci::digest::{Digest, InvalidDigest};
use crate::oci::name::{InvalidName, Name};
use crate::oci::reference::{InvalidReference, Reference};
use crate::registry::address::UpstreamSelector;
use crate::registry::docker_hub;
use crate::registry::origin::Origin;
use crate::request::query::{Query, decode_percent};
use http::{Method, Uri};
use std::borrow::Cow;
use std::fmt;

/// A request line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryRequest {
    pub head_only: bool,
    pub route: Route,
    pub naming: UpstreamSelector,
    /// What is left of the query for the upstream, as it was written.
    pub query: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/`: a person with a browser.
    Page,
    /// `/robots.txt`
    Robots,
    /// `/v2/` (end-1)
    Ping,
    /// `/v2/_catalog`: an extension that some registries answer.
    Catalog,
    Repository(Name, Resource),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `/v2/<name>/manifests/<reference>` (end-3)
    Manifest(Reference),
    /// `/v2/<name>/blobs/<digest>` (end-2)
    Blob(Digest),
    /// `/v2/<name>/tags/list` (end-8)
    Tags,
    /// `/v2/<name>/referrers/<digest>` (end-12)
    Referrers(Digest),
}

/// A longer query in bytes is refused. It is the one part of a path on a registry that no grammar bounds; where the next
/// page of a list begins is what is longest in one. See [`crate::upstream::limits::MAX_HEADER`] for what a longer one does.
const MAX_QUERY: usize = 4 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub enum InvalidRequest {
    Method,
    /// Outside `/v2/`.
    NotFound,
    /// Below `/v2/`, but none of the endpoints that read.
    Endpoint,
    Name(InvalidName),
    Reference(InvalidReference),
    Digest(InvalidDigest),
    /// A parameter that names an upstream stands there twice.
    Ambiguous(&'static str),
    /// It is over `MAX_QUERY`.
    Query,
}

impl fmt::Display for InvalidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidRequest::Method => f.write_str("this mirror reads only: use GET or HEAD"),
            InvalidRequest::NotFound => f.write_str("there is nothing here: images are under /v2/, the manual is at /"),
            InvalidRequest::Endpoint => f.write_str(
                "this mirror answers /v2/<name>/manifests/<reference>, /v2/<name>/blobs/<digest>, /v2/<name>/tags/list, \
                 /v2/<name>/referrers/<digest> and /v2/_catalog",
            ),
            InvalidRequest::Name(invalid) => invalid.fmt(f),
            InvalidRequest::Reference(invalid) => invalid.fmt(f),
            InvalidRequest::Digest(invalid) => invalid.fmt(f),
            InvalidRequest::Ambiguous(parameter) => write!(f, "{parameter}= may be given once"),
            InvalidRequest::Query => write!(f, "what follows the upstream_request mark may have {MAX_QUERY} bytes"),
        }
    }
}

impl RegistryRequest {
    /// `path` begins with `/` or is empty.
    pub fn parse(
        method: &Method,
        path: &str,
        query: Option<&str>,
    ) -> Result<RegistryRequest, InvalidRequest> {
        // Some clients escape the colon of a digest. What an escaped slash or dot makes of the path is judged like any
        // other path: what goes upstream is written anew from the parsed parts.
        let path = &*decode_percent(path);
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(InvalidRequest::Method);
        }
        if query.is_some_and(|query| query.len() > MAX_QUERY) {
            return Err(InvalidRequest::Query);
        }
        let mut query = Query::parse(query);
        let (prefix, path) = match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((host, rest)) if is_registry_host(host) && is_api(rest) => (Some(host), rest),
            _ => (None, path.strip_prefix('/').unwrap_or_default()),
        };
        if !is_api(path) {
            let route = match path {
                "" => Route::Page,
                "robots.txt" => Route::Robots,
                _ => return Err(InvalidRequest::NotFound),
            };
            return Ok(RegistryRequest {
                head_only: method == Method::HEAD,
                route,
                naming: UpstreamSelector::Default,
                query: String::new(),
            });
        }

        let mut take = |parameter| {
            query
                .take(parameter)
                .map_err(|_| InvalidRequest::Ambiguous(parameter))
        };
        let (upstream, namespace) = (take("upstream")?, take("ns")?);
        let is_host = |part: &str| {
            let may_be = upstream.is_none() && prefix.is_none() && is_registry_host(part);
            may_be
                && !namespace
                    .as_deref()
                    .is_some_and(|namespace| is_of_name(part, namespace))
        };
        let (route, host) = parse_route(path.strip_prefix("v2").unwrap_or_default(), is_host)?;
        let naming = match (upstream, prefix, host, namespace) {
            (Some(upstream), ..) => UpstreamSelector::Query(upstream),
            (_, Some(prefix), ..) => UpstreamSelector::Path(prefix.to_owned()),
            (.., Some(host), _) => UpstreamSelector::RepositoryPrefix(host),
            (.., Some(namespace)) => UpstreamSelector::Namespace(namespace),
            _ => UpstreamSelector::Default,
        };
        Ok(RegistryRequest {
            head_only: method == Method::HEAD,
            route,
            naming,
            query: query.to_string(),
        })
    }
}

impl Route {
    /// The path of this route on a registry.
    pub fn path(&self) -> String {
        match self {
            Route::Page => "/".to_owned(),
            Route::Robots => "/robots.txt".to_owned(),
            Route::Ping => "/v2/".to_owned(),
            Route::Catalog => "/v2/_catalog".to_owned(),
            Route::Repository(name, resource) => {
                let (endpoint, reference) = match resource {
                    Resource::Manifest(reference) => ("/manifests/", reference.as_str()),
                    Resource::Blob(digest) => ("/blobs/", digest.as_str()),
                    Resource::Tags => ("/tags/", "list"),
                    Resource::Referrers(digest) => ("/referrers/", digest.as_str()),
                };
                ["/v2/", name.as_str(), endpoint, reference].concat()
            }
        }
    }

    /// The route that a registry's own path is, where a redirect or a `Link` names one.
    pub fn of_upstream(uri: &Uri) -> Option<Route> {
        let path = decode_percent(uri.path());
        let api = path.strip_prefix('/').filter(|path| is_api(path))?;
        let (route, _) = parse_route(api.strip_prefix("v2")?, |_| false).ok()?;
        Some(route)
    }

    /// What is asked of the registry at `origin`: on Docker Hub some repositories have another name.
    pub fn at(&self, origin: &Origin) -> Cow<'_, Route> {
        match self {
            Route::Repository(name, resource) if docker_hub::is_docker_hub(origin) => {
                match docker_hub::official_name(name) {
                    Some(name) => Cow::Owned(Route::Repository(name, resource.clone())),
                    None => Cow::Borrowed(self),
                }
            }
            _ => Cow::Borrowed(self),
        }
    }

    pub fn name(&self) -> Option<&Name> {
        match self {
            Route::Repository(name, _) => Some(name),
            _ => None,
        }
    }

    /// The digest of the content that is asked for, where it is asked for by one.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Route::Repository(
                _,
                Resource::Blob(digest) | Resource::Manifest(Reference::Digest(digest)),
            ) => Some(digest),
            _ => None,
        }
    }

    pub fn is_blob(&self) -> bool {
        matches!(self, Route::Repository(_, Resource::Blob(_)))
    }

    /// The word for it in the log.
    pub fn what(&self) -> &'static str {
        match self {
            Route::Page => "page",
            Route::Robots => "robots",
            Route::Ping => "ping",
            Route::Catalog => "catalog",
            Route::Repository(_, Resource::Manifest(_)) => "manifest",
            Route::Repository(_, Resource::Blob(_)) => "blob",
            Route::Repository(_, Resource::Tags) => "tags",
            Route::Repository(_, Resource::Referrers(_)) => "referrers",
        }
    }
}

/// Whether a path without its first slash is `v2` or below it.
fn is_api(path: &str) -> bool {
    path.strip_prefix("v2")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the first part of an image's name is a registry: as in Docker's own references, it has a dot or a colon.
fn is_registry_host(part: &str) -> bool {
    part.contains(['.', ':'])
}

/// Whether `part` looks like a host, but begins the name of an image at `namespace`, where containerd says that it looks
/// for it: `gcr.io/google.com/cloudsdktool/…`. Docker Hub has no such names, nor any registry one with a colon.
fn is_of_name(part: &str, namespace: &str) -> bool {
    !part.contains(':') && part != namespace && !docker_hub::means_docker_hub(namespace)
}

/// Parses what follows `/v2`, from the right, since a name may hold `manifests` or `blobs` too. Returns also the first part
/// of the name where it `is_host`, the registry's.
fn parse_route(
    path: &str,
    is_host: impl Fn(&str) -> bool,
) -> Result<(Route, Option<String>), InvalidRequest> {
    let path = match path {
        "" | "/" => return Ok((Route::Ping, None)),
        "/_catalog" => return Ok((Route::Catalog, None)),
        path => path.strip_prefix('/').unwrap_or(path),
    };
    let (rest, last) = path.rsplit_once('/').ok_or(InvalidRequest::Endpoint)?;
    let (name, kind) = rest.rsplit_once('/').ok_or(InvalidRequest::Endpoint)?;
    let resource = match (kind, last) {
        ("manifests", reference) => {
            Resource::Manifest(Reference::parse(reference).map_err(InvalidRequest::Reference)?)
        }
        ("blobs", digest) => Resource::Blob(Digest::parse(digest).map_err(InvalidRequest::Digest)?),
        ("tags", "list") => Resource::Tags,
        ("referrers", digest) => {
            Resource::Referrers(Digest::parse(digest).map_err(InvalidRequest::Digest)?)
        }
        _ => return Err(InvalidRequest::Endpoint),
    };
    let (host, name) = match name.split_once('/') {
        Some((host, name)) if is_host(host) => (Some(host.to_owned()), name),
        _ => (None, name),
    };
    let name = Name::parse(name).map_err(InvalidRequest::Name)?;
    Ok((Route::Repository(name, resource), host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn parse(method: &Method, uri: &Uri) -> Result<RegistryRequest, InvalidRequest> {
        RegistryRequest::parse(method, uri.path(), uri.query())
    }

    fn get(path: &str) -> Result<RegistryRequest, InvalidRequest> {
        parse(
            &Method::GET,
            &path.replace("DIGEST", DIGEST).parse().unwrap(),
        )
    }

    #[test]
    fn reads_every_endpoint_in_every_way_of_naming_an_upstream() {
        let (query, path, name, ns, gcr) = (
            UpstreamSelector::Query("quay.io".into()),
            UpstreamSelector::Path("ghcr.io".into()),
            UpstreamSelector::RepositoryPrefix("ghcr.io".into()),
            UpstreamSelector::Namespace("docker.io".into()),
            UpstreamSelector::Namespace("gcr.io".into()),
        );
        for (asked, upstream_path, naming, rest) in [
            ("/v2", "/v2/", UpstreamSelector::Default, ""),
            ("/v2/", "/v2/", UpstreamSelector::Default, ""),
            ("/v2/?upstream=quay.io", "/v2/", query.clone(), ""),
            ("/ghcr.io/v2", "/v2/", path.clone(), ""),
            (
                "/v2/_catalog?n=5",
                "/v2/_catalog",
                UpstreamSelector::Default,
                "n=5",
            ),
            (
                "/v2/alpine/manifests/latest",
                "/v2/alpine/manifests/latest",
                UpstreamSelector::Default,
                "",
            ),
            (
                "/v2/a/manifests/b/manifests/c",
                "/v2/a/manifests/b/manifests/c",
                UpstreamSelector::Default,
                "",
            ),
            (
                "/v2/a/b/blobs/DIGEST",
                "/v2/a/b/blobs/DIGEST",
                UpstreamSelector::Default,
                "",
            ),
            (
                "/v2/a/manifests/sha256%3Aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "/v2/a/manifests/DIGEST",
                UpstreamSelector::Default,
                "",
            ),
            (
                "/v2/a/tags/list?n=2&last=x&upstream=quay.io",
                "/v2/a/tags/list",
                query.clone(),
                "n=2&last=x",
            ),
            (
                "/v2/a/referrers/DIGEST?artifactType=x%2Fy",
                "/v2/a/referrers/DIGEST",
                UpstreamSelector::Default,
                "artifactType=x%2Fy",
            ),
            (
                "/ghcr.io/v2/a/b/tags/list",
                "/v2/a/b/tags/list",
                path.clone(),
                "",
            ),
            (
                "/v2/ghcr.io/a/b/tags/list",
                "/v2/a/b/tags/list",
                name.clone(),
                "",
            ),
            ("/v2/a/tags/list?ns=docker.io", "/v2/a/tags/list", ns, ""),
            (
                "/v2/ghcr.io/a/tags/list?ns=ghcr.io",
                "/v2/a/tags/list",
                name.clone(),
                "",
            ),
            (
                "/v2/ghcr.io/a/tags/list?ns=docker.io",
                "/v2/a/tags/list",
                name.clone(),
                "",
            ),
            (
                "/v2/google.com/a/tags/list?ns=gcr.io",
                "/v2/google.com/a/tags/list",
                gcr,
                "",
            ),
            (
                "/ghcr.io/v2/a/tags/list?upstream=quay.io&ns=docker.io",
                "/v2/a/tags/list",
                query.clone(),
                "",
            ),
            (
                "/v2/my.app/a/tags/list?upstream=quay.io",
                "/v2/my.app/a/tags/list",
                query,
                "",
            ),
            (
                "/v2/ghcr.io/tags/list",
                "/v2/ghcr.io/tags/list",
                UpstreamSelector::Default,
                "",
            ),
        ] {
            let found = get(asked).unwrap_or_else(|refused| panic!("{asked}: {refused}"));
            assert_eq!(
                found.route.path(),
                upstream_path.replace("DIGEST", DIGEST),
                "{asked}"
            );
            assert_eq!(
                (found.naming, found.query.as_str()),
                (naming, rest),
                "{asked}"
            );
        }
        assert_eq!(get("/").map(|asked| asked.route), Ok(Route::Page));
        assert_eq!(
            get("/robots.txt").map(|asked| asked.route),
            Ok(Route::Robots)
        );
    }

    #[test]
    fn refuses_what_is_malformed_and_says_which_part() {
        for path in [
            "/v2//tags/list",
            "/v2/A/tags/list",
            "/v2//a/tags/list",
            "/v2/a//b/tags/list",
            "/v2/../tags/list",
            "/v2/a%2f..%2fb/tags/list",
        ] {
            assert!(matches!(get(path), Err(InvalidRequest::Name(_))), "{path}");
        }
        for path in [
            "/v2/a/manifests/",
            "/v2/a/manifests/.x",
            "/v2/a/manifests/sha256:1",
            "/v2/a/manifests/%00",
        ] {
            assert!(
                matches!(get(path), Err(InvalidRequest::Reference(_))),
                "{path}"
            );
        }
        for path in [
            "/v2/a/blobs/x",
            "/v2/a/blobs/",
            "/v2/a/referrers/latest",
            "/v2/a/blobs/sha256:%c3%a9",
        ] {
            assert!(
                matches!(get(path), Err(InvalidRequest::Digest(_))),
                "{path}"
            );
        }
        for path in [
            "/v2/a",
            "/v2/a/",
            "/v2/a/tags/lists",
            "/v2/a/tags/list/",
            "/v2/manifests/latest",
            "/v2/a/blobs/uploads/1",
            "/v2//",
        ] {
            assert!(matches!(get(path), Err(InvalidRequest::Endpoint)), "{path}");
        }
        for path in [
            "/v1/",
            "/v2x",
            "/index.html",
            "/ghcr.io",
            "/ghcr.io/",
            "//v2/",
            "/a/v2/",
            "/%2fv2/",
        ] {
            assert_eq!(get(path), Err(InvalidRequest::NotFound), "{path}");
        }
        assert_eq!(
            get("/v2/?upstream=a.io&upstream=b.io"),
            Err(InvalidRequest::Ambiguous("upstream"))
        );
        assert_eq!(
            get(&format!("/v2/_catalog?last={}", "x".repeat(MAX_QUERY))),
            Err(InvalidRequest::Query)
        );
        assert!(get(&format!("/v2/_catalog?last={}", "x".repeat(MAX_QUERY - 5))).is_ok());
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "X"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(
                parse(&method, &"/v2/a/blobs/uploads/".parse().unwrap()),
                Err(InvalidRequest::Method)
            );
        }
    }

    proptest! {
        #[test]
        fn no_path_panics_and_what_parses_is_parsed_again_as_what_it_is(
            path in "(/|v2|manifests|blobs|tags/list|%[0-9a-fA-F]{0,2}|[a-z.:@]{1,5}|\\PC){0,20}",
            query in "(upstream=|ns=|&|=|%|\\PC){0,9}",
        ) {
            if let Ok(asked) = RegistryRequest::parse(&Method::GET, &path, Some(&query))
                && !matches!(asked.route, Route::Page | Route::Robots)
            {
                let uri = asked.route.path().parse::<Uri>().unwrap();
                prop_assert_eq!(Route::of_upstream(&uri), Some(asked.route));
            }
        }

        #[test]
        fn whatever_parses_goes_upstream_as_a_clean_path(
            path in "(/[a-z0-9.:]{1,9})?/v2(/[a-zA-Z0-9._%:-]{0,9}){0,3}/(manifests|blobs|tags|referrers)/[a-zA-Z0-9._%:-]{0,80}",
            query in "[a-z=&%0-9]{0,20}",
        ) {
            if let Ok(uri) = format!("{path}?{query}").parse::<Uri>()
                && let Ok(asked) = parse(&Method::GET, &uri)
            {
                let upstream_path = asked.route.path();
                prop_assert!(upstream_path.starts_with("/v2/"));
                // A tag may have two dots in it.
                prop_assert!(!upstream_path.split('/').any(|part| matches!(part, "." | "..")));
                prop_assert!(!upstream_path.contains("//") && !upstream_path.contains('%'));
                let uri = format!("{upstream_path}?{}", asked.query);
                prop_assert!(uri.parse::<Uri>().is_ok());
            }
        }
    }
}
