//! The speed test for the command line: one URL that leads to a large layer of an image at a
//! registry, and a script that measures with it.

use super::file::File;
use super::home::MIRRORS;
use super::template::fill;
use super::{Answer, Registry};
use crate::config::BlobDelivery;
use crate::manifest;
use crate::manifest::entry::ManifestKey;
use crate::oci::digest::Digest;
use crate::oci::error_code::ErrorCode;
use crate::oci::name::Name;
use crate::oci::reference::Reference;
use crate::platform::Platform;
use crate::request::RegistryRequest;
use crate::request::external_url::ExternalUrl;
use crate::request::route::{Resource, Route};
use crate::request::selector::UpstreamSelector;
use crate::response::body::Body;
use crate::response::error::RegistryError;
use crate::upstream::error::UpstreamError;
use crate::upstream::failover::ProxyRequest;
use crate::upstream::{CONTENT_DIGEST, UpstreamRequest, manifest_body};
use http::header::{ACCEPT, CACHE_CONTROL, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

/// What dockerd accepts.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
                              application/vnd.docker.distribution.manifest.list.v2+json, \
                              application/vnd.oci.image.manifest.v1+json, \
                              application/vnd.docker.distribution.manifest.v2+json";

/// Returns the manifest that an index has for the platform that most servers are, or else its
/// first; `None` for the manifest of one image.
fn platform(manifest: &Value) -> Option<Digest> {
    let entries = manifest.get("manifests")?.as_array()?;
    let is_usual = |entry: &&Value| {
        let platform = |key| entry.get("platform")?.get(key)?.as_str();
        platform("os") == Some("linux") && platform("architecture") == Some("amd64")
    };
    digest(entries.iter().find(is_usual).or(entries.first())?)
}

fn largest_layer(manifest: &Value) -> Option<Digest> {
    let size = |layer: &&Value| layer.get("size").and_then(Value::as_u64);
    let layers = manifest.get("layers")?.as_array()?;
    digest(layers.iter().max_by_key(size)?)
}

fn digest(descriptor: &Value) -> Option<Digest> {
    Digest::parse(descriptor.get("digest")?.as_str()?).ok()
}

/// A registry and one of its repositories.
struct Repository<'a, P: Platform> {
    registry: &'a Registry<'a, P>,
    proxy: &'a ProxyRequest<'a, P>,
    name: &'a Name,
}

/// Leads to the largest layer of an image: to where the registry redirects, or to this mirror where
/// it does not or blobs are streamed. The digest of the layer goes along.
pub async fn respond<P: Platform>(
    registry: &Registry<'_, P>,
    proxy: &ProxyRequest<'_, P>,
    name: &Name,
    tag: &Reference,
) -> Answer<P> {
    let repository = Repository {
        registry,
        proxy,
        name,
    };
    let mut manifest = repository.manifest(tag).await?;
    if let Some(digest) = platform(&manifest) {
        manifest = repository.manifest(&Reference::Digest(digest)).await?;
    }
    let layer = largest_layer(&manifest).ok_or_else(no_layer)?;
    let location = repository.locate(&layer).await?;
    let mut response = Body::respond(StatusCode::TEMPORARY_REDIRECT, Vec::new(), false);
    let headers = response.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(digest) = HeaderValue::from_str(layer.as_str()) {
        headers.insert(CONTENT_DIGEST, digest);
    }
    Ok(response)
}

impl<P: Platform> Repository<'_, P> {
    fn request(&self, resource: Resource) -> RegistryRequest {
        RegistryRequest {
            head_only: false,
            route: Route::Repository(self.name.clone(), resource),
            selector: self.proxy.request.selector.clone(),
            query: String::new(),
        }
    }

    async fn manifest(&self, reference: &Reference) -> Result<Value, RegistryError> {
        let request = self.request(Resource::Manifest(reference.clone()));
        let fail = |error: UpstreamError| RegistryError::from_upstream(&request.route, &error);
        let (context, registry) = (self.proxy.context, self.registry);
        let proxy = ProxyRequest {
            request: &request,
            ..*self.proxy
        };
        let accept = (ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        let outbound = UpstreamRequest::new(&request, &HeaderMap::from_iter([accept]));
        let outbound = outbound.map_err(fail)?;
        let key = ManifestKey::new(
            context.config,
            proxy.candidates,
            self.name,
            reference,
            &outbound.headers,
        );
        let response = match key.filter(|_| context.config.manifest_cache) {
            Some(key) => {
                let manifests = registry.manifests;
                manifests
                    .serve(registry.upstreams, &proxy, &outbound, &key)
                    .await
            }
            None => manifest::forward(registry.upstreams, &proxy, &outbound).await,
        };
        let (head, body) = response.map_err(fail)?.into_parts();
        let body = match body {
            Body::Buffered(body) => body,
            Body::Upstream(body) | Body::Teed(body, _) => {
                let body = manifest_body::read(context, &head.headers, body).await;
                body.map_err(fail)?
            }
        };
        serde_json::from_slice(&body).map_err(|_| no_layer())
    }

    /// Returns where a client gets a layer.
    async fn locate(&self, layer: &Digest) -> Result<HeaderValue, RegistryError> {
        let own = self.own_location(layer);
        if self.proxy.context.config.blob_delivery == BlobDelivery::Stream {
            return own;
        }
        let request = self.request(Resource::Blob(layer.clone()));
        let fail = |error: UpstreamError| RegistryError::from_upstream(&request.route, &error);
        let proxy = ProxyRequest {
            request: &request,
            ..*self.proxy
        };
        let outbound = UpstreamRequest::new(&request, &HeaderMap::new()).map_err(fail)?;
        // The body of an upstream that does not redirect is not read.
        let upstream = self.registry.upstreams.send(&proxy, &outbound).await;
        match upstream.map_err(fail)?.headers.get(LOCATION) {
            Some(location) => Ok(location.clone()),
            None => own,
        }
    }

    /// Returns the layer's path on this mirror. It has no host: the client knows the right one, and
    /// its scheme.
    fn own_location(&self, layer: &Digest) -> Result<HeaderValue, RegistryError> {
        let prefix = self.proxy.context.external_url.path_prefix();
        let selector = match &self.proxy.request.selector {
            UpstreamSelector::Path(host) => format!("?upstream={host}"),
            _ => String::new(),
        };
        let path = self.request(Resource::Blob(layer.clone())).route.path();
        HeaderValue::try_from(format!("{prefix}{path}{selector}")).map_err(|_| no_layer())
    }
}

fn no_layer() -> RegistryError {
    RegistryError::new(
        StatusCode::NOT_FOUND,
        ErrorCode::ManifestUnknown,
        "the image has no layer to measure with",
    )
}

/// Returns the script of the speed test, for this mirror.
pub fn script(external_url: &ExternalUrl) -> File {
    let mirrors: Vec<&str> = serde_json::from_str(MIRRORS).unwrap_or_default();
    let script = fill(include_str!("speedtest.sh"), |name| match name {
        "mirror" => Some(external_url.url().into()),
        "mirrors" => Some(mirrors.join(" ").into()),
        _ => None,
    });
    File {
        content_type: "text/x-shellscript; charset=utf-8",
        content: script.into_bytes().into(),
        is_gzip: false,
        vary: Some("host, x-forwarded-proto"),
    }
}
