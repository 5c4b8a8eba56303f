//! Routes: the endpoints of a registry, parsed from a path. No raw path is used after this.

use crate::oci::digest::{Digest, InvalidDigest};
use crate::oci::name::{InvalidName, Name};
use crate::oci::reference::{InvalidReference, Reference};
use crate::registry::docker_hub;
use crate::registry::origin::Origin;
use crate::request::query::decode_percent;
use http::Uri;
use std::borrow::Cow;
use std::fmt;

/// A resource of the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/`: the page for people.
    Page,
    /// `/page/<name>` and `/robots.txt`
    File(PageFile),
    /// `/status.json`: what the mirror allows, and how its upstreams are.
    Status,
    /// `/speedtest.sh`
    SpeedTest,
    /// `/v1/search`: an index's answer to words.
    Search,
    /// `/v1/_ping`: `docker search` asks for it first.
    SearchPing,
    /// `/healthz`: whether the component runs.
    Healthz,
    /// `/readyz`: whether it can serve.
    Readyz,
    /// `/v2/` (end-1)
    Ping,
    /// `/v2/_catalog`: an extension that some registries have.
    Catalog,
    Repository(Name, Resource),
}

/// A file that is embedded in the component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFile {
    Style,
    Icon,
    Main,
    Image,
    Speed,
    Sha256,
    Robots,
}

/// A resource of a repository. The end-points are those of the distribution specification 1.1.
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
    /// `/speed/<host>/<name>:<tag>`: leads to a large layer.
    SpeedLayer(Reference),
}

/// The image whose layer is taken where a speed test names none: it has one layer, of more than
/// 10 MB.
const SPEED_IMAGE: &str = "library/debian:stable-slim";

/// A path below `/v2` that is no endpoint, or an endpoint with a malformed part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidRoute {
    Endpoint,
    Name(InvalidName),
    Reference(InvalidReference),
    Digest(InvalidDigest),
}

impl fmt::Display for InvalidRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidRoute::Endpoint => f.write_str(
                "this mirror answers /v2/<name>/manifests/<reference>, /v2/<name>/blobs/<digest>, \
                 /v2/<name>/tags/list, /v2/<name>/referrers/<digest> and /v2/_catalog",
            ),
            InvalidRoute::Name(invalid) => invalid.fmt(f),
            InvalidRoute::Reference(invalid) => invalid.fmt(f),
            InvalidRoute::Digest(invalid) => invalid.fmt(f),
        }
    }
}

impl std::error::Error for InvalidRoute {}

impl Route {
    /// Parses the part of a path behind `/v2`, from the right, since a name may hold `manifests` or
    /// `blobs` too. Returns also the first component of the name if `is_host` says that it is a
    /// registry's host; it is not a part of the name then.
    pub fn parse(
        path: &str,
        is_host: impl Fn(&str) -> bool,
    ) -> Result<(Route, Option<String>), InvalidRoute> {
        let path = match path {
            "" | "/" => return Ok((Route::Ping, None)),
            "/_catalog" => return Ok((Route::Catalog, None)),
            path => path.strip_prefix('/').unwrap_or(path),
        };
        let (rest, last) = path.rsplit_once('/').ok_or(InvalidRoute::Endpoint)?;
        let (name, kind) = rest.rsplit_once('/').ok_or(InvalidRoute::Endpoint)?;
        let resource = match (kind, last) {
            ("manifests", reference) => {
                Resource::Manifest(Reference::parse(reference).map_err(InvalidRoute::Reference)?)
            }
            ("blobs", digest) => {
                Resource::Blob(Digest::parse(digest).map_err(InvalidRoute::Digest)?)
            }
            ("tags", "list") => Resource::Tags,
            ("referrers", digest) => {
                Resource::Referrers(Digest::parse(digest).map_err(InvalidRoute::Digest)?)
            }
            _ => return Err(InvalidRoute::Endpoint),
        };
        let (host, name) = match name.split_once('/') {
            Some((host, name)) if is_host(host) => (Some(host.to_owned()), name),
            _ => (None, name),
        };
        let name = Name::parse(name).map_err(InvalidRoute::Name)?;
        Ok((Route::Repository(name, resource), host))
    }

    /// Parses a path (without its first slash) outside `/v2` that names no registry.
    pub fn outside_api(path: &str) -> Option<Route> {
        Some(match path {
            "" => Route::Page,
            "robots.txt" => Route::File(PageFile::Robots),
            "page/page.css" => Route::File(PageFile::Style),
            "page/icon.svg" => Route::File(PageFile::Icon),
            "page/page.js" => Route::File(PageFile::Main),
            "page/image.js" => Route::File(PageFile::Image),
            "page/speed.js" => Route::File(PageFile::Speed),
            "page/sha256.js" => Route::File(PageFile::Sha256),
            "status.json" => Route::Status,
            "speedtest.sh" => Route::SpeedTest,
            "v1/search" => Route::Search,
            "v1/_ping" => Route::SearchPing,
            _ => return None,
        })
    }

    /// Parses the part of a path behind `/speed/`: a registry's host, and an image if there is one.
    /// Returns also the host.
    pub fn speed(path: &str) -> Result<(Route, String), InvalidRoute> {
        let (host, image) = match path.split_once('/') {
            None | Some((_, "")) => (path.trim_end_matches('/'), SPEED_IMAGE),
            Some((host, image)) => (host, image),
        };
        let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
        let name = Name::parse(name).map_err(InvalidRoute::Name)?;
        let tag = Reference::parse(tag).map_err(InvalidRoute::Reference)?;
        let route = Route::Repository(name, Resource::SpeedLayer(tag));
        Ok((route, host.to_owned()))
    }

    /// Returns the route that a path on a registry is, as a redirect or a `Link` holds it.
    pub fn from_registry_path(uri: &Uri) -> Option<Route> {
        let path = decode_percent(uri.path());
        let (route, _) = Route::parse(below_api(path.strip_prefix('/')?)?, |_| false).ok()?;
        Some(route)
    }

    /// Returns the path of this route on a registry. One that only the mirror has is `/`.
    pub fn path(&self) -> String {
        match self {
            Route::Page
            | Route::File(_)
            | Route::Status
            | Route::SpeedTest
            | Route::Search
            | Route::SearchPing
            | Route::Healthz
            | Route::Readyz => "/".to_owned(),
            Route::Ping => "/v2/".to_owned(),
            Route::Catalog => "/v2/_catalog".to_owned(),
            Route::Repository(name, resource) => {
                let (endpoint, reference) = match resource {
                    Resource::Manifest(reference) => ("/manifests/", reference.as_str()),
                    Resource::Blob(digest) => ("/blobs/", digest.as_str()),
                    Resource::Tags => ("/tags/", "list"),
                    Resource::Referrers(digest) => ("/referrers/", digest.as_str()),
                    Resource::SpeedLayer(tag) => ("/speed/", tag.as_str()),
                };
                ["/v2/", name.as_str(), endpoint, reference].concat()
            }
        }
    }

    /// Returns the same route as the registry at `origin` has it: on Docker Hub `alpine` is
    /// `library/alpine`.
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

    /// Whether it is a registry's, and not the mirror's own page.
    pub fn is_registry(&self) -> bool {
        match self {
            Route::Ping | Route::Catalog => true,
            Route::Repository(_, resource) => !matches!(resource, Resource::SpeedLayer(_)),
            _ => false,
        }
    }

    /// Whether this is a part of the page, for which no upstream is asked.
    pub fn is_page(&self) -> bool {
        matches!(
            self,
            Route::Page | Route::File(_) | Route::Status | Route::SpeedTest
        )
    }

    pub fn name(&self) -> Option<&Name> {
        match self {
            Route::Repository(name, _) => Some(name),
            _ => None,
        }
    }

    /// Returns the digest that the content is asked for by, if it is.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Route::Repository(
                _,
                Resource::Blob(digest) | Resource::Manifest(Reference::Digest(digest)),
            ) => Some(digest),
            _ => None,
        }
    }

    pub fn is_manifest(&self) -> bool {
        matches!(self, Route::Repository(_, Resource::Manifest(_)))
    }

    pub fn is_blob(&self) -> bool {
        matches!(self, Route::Repository(_, Resource::Blob(_)))
    }

    pub fn is_referrers(&self) -> bool {
        matches!(self, Route::Repository(_, Resource::Referrers(_)))
    }

    /// Whether it is neither a manifest nor a blob: a list, or the ping.
    pub fn is_list(&self) -> bool {
        !self.is_manifest() && !self.is_blob()
    }

    /// Returns the word for it in the log.
    pub fn endpoint(&self) -> &'static str {
        match self {
            Route::Page => "page",
            Route::File(_) => "file",
            Route::Status => "status",
            Route::SpeedTest => "speedtest",
            Route::Search | Route::SearchPing => "search",
            Route::Healthz => "healthz",
            Route::Readyz => "readyz",
            Route::Ping => "ping",
            Route::Catalog => "catalog",
            Route::Repository(_, Resource::Manifest(_)) => "manifest",
            Route::Repository(_, Resource::Blob(_)) => "blob",
            Route::Repository(_, Resource::Tags) => "tags",
            Route::Repository(_, Resource::Referrers(_)) => "referrers",
            Route::Repository(_, Resource::SpeedLayer(_)) => "speed",
        }
    }
}

/// Returns the part of a path (without its first slash) behind `v2`, if it is `v2` or below it.
pub fn below_api(path: &str) -> Option<&str> {
    path.strip_prefix("v2")
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
}
