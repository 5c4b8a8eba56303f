//! Requests to upstreams, by upstream and by what they are for.

use super::registry::{
    Metrics, OTHER, UpstreamErrorLabels, UpstreamLabels, UpstreamNameLabels, UpstreamStatusLabels,
};
use super::{InGauge, METRICS, body};
use http::{Response, Uri};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use wasmtime_wasi_http::WasiBody;

/// A request to an upstream that is being measured; `None` while nothing is counted.
pub struct UpstreamRequest {
    metrics: &'static Metrics,
    labels: UpstreamLabels,
    started: Instant,
}

impl UpstreamRequest {
    /// Starts to measure a request for `uri`.
    pub fn start(uri: &Uri) -> Option<Self> {
        let metrics = METRICS.get()?;
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let labels = UpstreamLabels {
            class: class(uri),
            upstream: metrics.upstream(host),
        };
        Some(Self {
            metrics,
            labels,
            started: Instant::now(),
        })
    }

    /// Counts the response, whose head has arrived, and the bytes of its body.
    pub fn answered(self, response: Response<WasiBody>) -> Response<WasiBody> {
        let UpstreamLabels { class, upstream } = self.labels.clone();
        let received =
            self.metrics
                .upstream_received_bytes
                .get_or_create_owned(&UpstreamNameLabels {
                    upstream: Arc::clone(&upstream),
                });
        self.metrics
            .upstream_responses
            .get_or_create(&UpstreamStatusLabels {
                class,
                upstream,
                status: response.status().as_u16(),
            })
            .inc();
        self.observe();
        response.map(|body| body::count_bytes(body, received, InGauge(None)))
    }

    /// Counts a failure: `error` is one of a few words.
    pub fn failed(self, error: &'static str) {
        let UpstreamLabels { class, upstream } = self.labels.clone();
        self.metrics
            .upstream_errors
            .get_or_create(&UpstreamErrorLabels {
                class,
                upstream,
                error,
            })
            .inc();
        self.observe();
    }

    fn observe(&self) {
        self.metrics
            .upstream_duration
            .get_or_create(&self.labels)
            .observe(self.started.elapsed().as_secs_f64());
    }
}

/// Returns the kind of resource that a URL of an upstream stands for. Blobs are also those at the
/// delivery networks that registries redirect to, token servers are known by the query that the
/// protocol gives them.
fn class(uri: &Uri) -> &'static str {
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let in_query = |name: &str| query.split('&').any(|pair| pair.starts_with(name));
    if path.contains("/blobs/") {
        "blob"
    } else if path.starts_with("/v2/") && path.contains("/manifests/") {
        "manifest"
    } else if path.starts_with("/v2/") && path.ends_with("/tags/list") {
        "tags"
    } else if path.starts_with("/v2/") && path.contains("/referrers/") {
        "referrers"
    } else if path == "/v2/" {
        "ping"
    } else if in_query("service=") || in_query("scope=") {
        "token"
    } else if path.contains("sha256") {
        "blob"
    } else {
        OTHER
    }
}

/// Returns the hosts in the values of settings that are lists of registries: `host`, `host:port`,
/// with a scheme in front, or as in `OWN.HOST=REGISTRY`. Patterns with `*` are none.
pub fn hosts_of_settings<'a>(values: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let entries = values.into_iter().flat_map(|value| value.split(','));
    entries
        .map(|entry| {
            let registry = entry.rsplit('=').next().unwrap_or_default().trim();
            let host = registry
                .strip_prefix("https://")
                .or(registry.strip_prefix("http://"))
                .unwrap_or(registry);
            // The blob store's URL has a path.
            let host = host.split('/').next().unwrap_or_default();
            host.to_ascii_lowercase()
        })
        .filter(|host| !host.is_empty() && !host.contains('*'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_classes_of_requests_apart() {
        for (url, expected) in [
            ("https://a.lan/v2/", "ping"),
            ("https://a.lan/v2/a/b/manifests/latest", "manifest"),
            ("https://a.lan/v2/a/b/blobs/sha256:00?ns=x", "blob"),
            ("https://a.lan/v2/a/b/tags/list?n=5", "tags"),
            ("https://a.lan/v2/a/b/referrers/sha256:00", "referrers"),
            (
                "https://auth.lan/token?service=a&scope=repository:a:pull",
                "token",
            ),
            ("https://auth.lan/v2/auth?scope=repository:a:pull", "token"),
            ("https://cdn.lan/images/sha256:00?signature=1", "blob"),
            ("https://cdn.lan/x?myscope=1", "other"),
        ] {
            assert_eq!(class(&url.parse().unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn takes_the_hosts_of_settings() {
        let hosts = hosts_of_settings([
            "registry-1.docker.io, http://Registry.lan:5000/",
            "ghcr.mirror.example=ghcr.io",
            "*,*.example,",
        ]);
        let expected = ["ghcr.io", "registry-1.docker.io", "registry.lan:5000"];
        assert!(hosts.iter().eq(expected), "{hosts:?}");
    }
}
