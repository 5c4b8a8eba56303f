//! A client's request, parsed: the route, the upstream that it names, and the rest of its query.

pub mod accept;
pub mod cdn_loop;
pub mod external_url;
pub mod query;
pub mod request_id;
pub mod route;
pub mod selector;

use self::query::{Query, decode_percent};
use self::route::{InvalidRoute, Route, below_api};
use self::selector::UpstreamSelector;
use crate::registry::docker_hub;
use http::Method;
use std::fmt;

/// Bytes. A longer query is refused. It is the one part of a path on a registry that no grammar
/// bounds; the longest thing in one is the cursor of the next page of a list. See
/// [`crate::upstream::MAX_HEADER`] for what a longer one does.
const MAX_QUERY: usize = 4 * 1024;

/// A request for a resource of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryRequest {
    /// Whether the method is `HEAD`, and not `GET`.
    pub head_only: bool,
    pub route: Route,
    pub selector: UpstreamSelector,
    /// The query for the upstream, as it was written, without what names the upstream.
    pub query: String,
}

/// A request that the mirror does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidRequest {
    /// Neither `GET` nor `HEAD`.
    Method,
    /// A path outside `/v2/`, or without the secret of a closed mirror.
    NotFound,
    Route(InvalidRoute),
    /// A parameter that names an upstream is given twice.
    Repeated(&'static str),
    /// The query is longer than [`MAX_QUERY`].
    QueryTooLong,
}

impl fmt::Display for InvalidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidRequest::Method => f.write_str("this mirror is read-only: use GET or HEAD"),
            InvalidRequest::NotFound => {
                f.write_str("not found: images are under /v2/, the page is at /")
            }
            InvalidRequest::Route(invalid) => invalid.fmt(f),
            InvalidRequest::Repeated(parameter) => write!(f, "{parameter}= may be given only once"),
            InvalidRequest::QueryTooLong => {
                write!(f, "the query may have at most {MAX_QUERY} bytes")
            }
        }
    }
}

impl std::error::Error for InvalidRequest {}

impl RegistryRequest {
    /// Parses a request line. `path` begins with `/` or is empty.
    pub fn parse(
        method: &Method,
        path: &str,
        query: Option<&str>,
    ) -> Result<RegistryRequest, InvalidRequest> {
        // Some clients escape the colon of a digest. A slash or dot that was escaped is judged like
        // any other: the path that goes upstream is written from the parsed parts.
        let path = &*decode_percent(path);
        let head_only = match *method {
            Method::GET => false,
            Method::HEAD => true,
            _ => return Err(InvalidRequest::Method),
        };
        if query.is_some_and(|query| query.len() > MAX_QUERY) {
            return Err(InvalidRequest::QueryTooLong);
        }
        let path = path.strip_prefix('/').unwrap_or_default();
        let (prefix, path) = match path.split_once('/') {
            Some((host, rest)) if is_registry_host(host) && below_api(rest).is_some() => {
                (Some(host), rest)
            }
            _ => (None, path),
        };
        let Some(path) = below_api(path) else {
            let (route, selector) = match path.strip_prefix("speed/") {
                Some(path) => {
                    let (route, host) = Route::speed(path).map_err(InvalidRequest::Route)?;
                    (route, UpstreamSelector::Path(host))
                }
                None => {
                    let route = Route::outside_api(path).ok_or(InvalidRequest::NotFound)?;
                    (route, UpstreamSelector::Default)
                }
            };
            return Ok(RegistryRequest {
                head_only,
                route,
                selector,
                query: query.unwrap_or_default().to_owned(),
            });
        };

        let mut query = Query::parse(query);
        let mut take = |parameter| {
            query
                .take(parameter)
                .map_err(|_| InvalidRequest::Repeated(parameter))
        };
        let (upstream, namespace) = (take("upstream")?, take("ns")?);
        let is_host = |component: &str| {
            let is_of_name = |namespace: &str| is_first_component(component, namespace);
            upstream.is_none()
                && prefix.is_none()
                && is_registry_host(component)
                && !namespace.as_deref().is_some_and(is_of_name)
        };
        let (route, host) = Route::parse(path, is_host).map_err(InvalidRequest::Route)?;
        let selector = match (upstream, prefix, host, namespace) {
            (Some(upstream), ..) => UpstreamSelector::Query(upstream),
            (_, Some(prefix), ..) => UpstreamSelector::Path(prefix.to_owned()),
            (.., Some(host), _) => UpstreamSelector::RepositoryPrefix(host),
            (.., Some(namespace)) => UpstreamSelector::Namespace(namespace),
            _ => UpstreamSelector::Default,
        };
        Ok(RegistryRequest {
            head_only,
            route,
            selector,
            query: query.to_string(),
        })
    }

    /// Returns the request if its path is a probe's, which needs neither the secret of a closed
    /// mirror nor settings.
    pub fn probe(
        method: &Method,
        path: &str,
        query: Option<&str>,
    ) -> Result<Option<RegistryRequest>, InvalidRequest> {
        let route = match path {
            "/healthz" => Route::Healthz,
            "/readyz" => Route::Readyz,
            _ => return Ok(None),
        };
        let head_only = match *method {
            Method::GET => false,
            Method::HEAD => true,
            _ => return Err(InvalidRequest::Method),
        };
        Ok(Some(RegistryRequest {
            head_only,
            route,
            selector: UpstreamSelector::Default,
            query: query.unwrap_or_default().to_owned(),
        }))
    }

    pub fn method(&self) -> Method {
        if self.head_only {
            Method::HEAD
        } else {
            Method::GET
        }
    }
}

/// Whether the first component of an image's name is a registry: as in Docker's own references, it
/// has a dot or a colon.
fn is_registry_host(component: &str) -> bool {
    component.contains(['.', ':'])
}

/// Whether `component`, which looks like a host, is the first component of a name at the registry
/// `namespace`, where containerd says that it looks for it: `gcr.io/google.com/cloudsdktool/…`.
/// Docker Hub has no such names, and no registry has one with a colon.
fn is_first_component(component: &str, namespace: &str) -> bool {
    !component.contains(':') && component != namespace && !docker_hub::is_alias(namespace)
}

#[cfg(test)]
mod tests {
    use super::route::{PageFile, Resource};
    use super::*;
    use crate::oci::name::Name;
    use crate::oci::reference::Reference;
    use http::Uri;
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
    fn parses_every_endpoint_with_every_selector() {
        let (query, path, name, ns, gcr) = (
            UpstreamSelector::Query("quay.io".into()),
            UpstreamSelector::Path("ghcr.io".into()),
            UpstreamSelector::RepositoryPrefix("ghcr.io".into()),
            UpstreamSelector::Namespace("docker.io".into()),
            UpstreamSelector::Namespace("gcr.io".into()),
        );
        for (asked, upstream_path, selector, rest) in [
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
            let found = get(asked).unwrap_or_else(|invalid| panic!("{asked}: {invalid}"));
            assert_eq!(
                found.route.path(),
                upstream_path.replace("DIGEST", DIGEST),
                "{asked}"
            );
            assert_eq!(
                (found.selector, found.query.as_str()),
                (selector, rest),
                "{asked}"
            );
        }
        assert_eq!(get("/").map(|request| request.route), Ok(Route::Page));
        assert_eq!(
            get("/robots.txt").map(|request| request.route),
            Ok(Route::File(PageFile::Robots))
        );
    }

    #[test]
    fn reads_what_is_outside_the_api() {
        for (path, route) in [
            ("/page/page.css", Route::File(PageFile::Style)),
            ("/status.json", Route::Status),
            ("/speedtest.sh", Route::SpeedTest),
            ("/v1/search?q=nginx&n=25", Route::Search),
            ("/v1/_ping", Route::SearchPing),
        ] {
            assert_eq!(get(path).map(|request| request.route), Ok(route), "{path}");
        }
        for (path, host, name, tag) in [
            (
                "/speed/docker.io",
                "docker.io",
                "library/debian",
                "stable-slim",
            ),
            (
                "/speed/docker.io/",
                "docker.io",
                "library/debian",
                "stable-slim",
            ),
            ("/speed/ghcr.io/a/b", "ghcr.io", "a/b", "latest"),
            ("/speed/a.example:8443/b:1.0", "a.example:8443", "b", "1.0"),
        ] {
            let request = get(path).unwrap();
            let tag = Reference::parse(tag).unwrap();
            let name = Name::parse(name).unwrap();
            assert_eq!(
                (request.route, request.selector),
                (
                    Route::Repository(name, Resource::SpeedLayer(tag)),
                    UpstreamSelector::Path(host.to_owned())
                ),
                "{path}"
            );
        }
        for path in ["/speed", "/page/", "/page/page.html", "/v1/", "/v1/images"] {
            assert_eq!(get(path), Err(InvalidRequest::NotFound), "{path}");
        }
        for path in [
            "/speed/ghcr.io/A",
            "/speed/ghcr.io/a:.b",
            "/speed/a.io/b:c:d",
        ] {
            assert!(matches!(get(path), Err(InvalidRequest::Route(_))), "{path}");
        }
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
            assert!(
                matches!(get(path), Err(InvalidRequest::Route(InvalidRoute::Name(_)))),
                "{path}"
            );
        }
        for path in [
            "/v2/a/manifests/",
            "/v2/a/manifests/.x",
            "/v2/a/manifests/sha256:1",
            "/v2/a/manifests/%00",
        ] {
            assert!(
                matches!(
                    get(path),
                    Err(InvalidRequest::Route(InvalidRoute::Reference(_)))
                ),
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
                matches!(
                    get(path),
                    Err(InvalidRequest::Route(InvalidRoute::Digest(_)))
                ),
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
            assert!(
                matches!(
                    get(path),
                    Err(InvalidRequest::Route(InvalidRoute::Endpoint))
                ),
                "{path}"
            );
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
            Err(InvalidRequest::Repeated("upstream"))
        );
        assert_eq!(
            get(&format!("/v2/_catalog?last={}", "x".repeat(MAX_QUERY))),
            Err(InvalidRequest::QueryTooLong)
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
            if let Ok(request) = RegistryRequest::parse(&Method::GET, &path, Some(&query))
                && matches!(request.route, Route::Ping | Route::Catalog | Route::Repository(..))
                && request.route.endpoint() != "speed"
            {
                let uri = request.route.path().parse::<Uri>().unwrap();
                prop_assert_eq!(Route::from_registry_path(&uri), Some(request.route));
            }
        }

        #[test]
        fn whatever_parses_goes_upstream_as_a_clean_path(
            path in "(/[a-z0-9.:]{1,9})?/v2(/[a-zA-Z0-9._%:-]{0,9}){0,3}/(manifests|blobs|tags|referrers)/[a-zA-Z0-9._%:-]{0,80}",
            query in "[a-z=&%0-9]{0,20}",
        ) {
            if let Ok(uri) = format!("{path}?{query}").parse::<Uri>()
                && let Ok(request) = parse(&Method::GET, &uri)
            {
                let upstream_path = request.route.path();
                prop_assert!(upstream_path.starts_with("/v2/"));
                // A tag may have two dots in it.
                prop_assert!(!upstream_path.split('/').any(|part| matches!(part, "." | "..")));
                prop_assert!(!upstream_path.contains("//") && !upstream_path.contains('%'));
                let uri = format!("{upstream_path}?{}", request.query);
                prop_assert!(uri.parse::<Uri>().is_ok());
            }
        }
    }
}
