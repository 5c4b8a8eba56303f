//! Metrics in the text format of Prometheus, for `--metrics`. Until [`enable`] is called, nothing
//! is counted.
//!
//! Labels are bounded: endpoints, statuses and outcomes are few, and an upstream has a name of its
//! own only if the operator's settings name it.

mod body;
mod log_line;
mod process;
pub mod server;

pub use self::body::count_response;
use self::log_line::LogLine;
use self::process::ProcessCollector;
use http::{Response, Uri};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use wasmtime_wasi_http::WasiBody;

/// The label of upstreams that the operator's settings don't name.
const OTHER: &str = "other";

/// The most upstreams with a label of their own.
const MAX_UPSTREAMS: usize = 50;

/// The metrics of the process. One component runs in it.
static METRICS: OnceLock<Metrics> = OnceLock::new();

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: &'static str,
    status: u16,
    cache: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    class: &'static str,
    upstream: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamStatusLabels {
    class: &'static str,
    upstream: Arc<str>,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamErrorLabels {
    class: &'static str,
    upstream: Arc<str>,
    error: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamNameLabels {
    upstream: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    store: Arc<str>,
    operation: &'static str,
}

/// A family of histograms.
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

struct Metrics {
    registry: Registry,
    upstreams: BTreeSet<Arc<str>>,
    other: Arc<str>,
    requests: Family<RequestLabels, Counter>,
    token_sources: Family<TokenLabels, Counter>,
    responses: Family<StatusLabels, Counter>,
    request_duration: Histogram,
    requests_in_progress: Gauge,
    requests_queued: Gauge,
    sent_bytes: Counter,
    upstream_responses: Family<UpstreamStatusLabels, Counter>,
    upstream_errors: Family<UpstreamErrorLabels, Counter>,
    upstream_duration: Histograms<UpstreamLabels>,
    upstream_received_bytes: Family<UpstreamNameLabels, Counter>,
    store_duration: Histograms<StoreLabels>,
    store_errors: Family<StoreLabels, Counter>,
    instances: Gauge,
    instances_created: Counter,
}

/// Starts counting. `upstreams` are the hosts, with a port where it is not the scheme's own, that
/// have a label of their own.
pub fn enable(upstreams: impl IntoIterator<Item = String>) {
    METRICS.get_or_init(|| Metrics::new(upstreams));
}

/// Whether [`enable`] was called.
pub fn is_enabled() -> bool {
    METRICS.get().is_some()
}

/// Returns all metrics as text.
fn text() -> String {
    let mut text = String::new();
    if let Some(metrics) = METRICS.get() {
        // Writing to a string can't fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &metrics.registry);
    }
    text
}

/// Counts the requests in complete `lines` of the component's log.
pub fn count_log_lines(lines: &[u8]) {
    let Some(metrics) = METRICS.get() else { return };
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(line) = LogLine::parse(line) else {
            continue;
        };
        metrics
            .requests
            .get_or_create(&RequestLabels {
                endpoint: line.endpoint,
                status: line.status,
                cache: line.cache,
            })
            .inc();
        metrics
            .token_sources
            .get_or_create(&TokenLabels {
                source: line.token_source,
            })
            .inc();
    }
}

/// Counts a request as waiting for its turn, until the result is dropped.
pub fn request_queued() -> InGauge {
    InGauge::enter(|metrics| &metrics.requests_queued)
}

/// Counts an instance of the component, until the result is dropped.
pub fn instance_created() -> InGauge {
    if let Some(metrics) = METRICS.get() {
        metrics.instances_created.inc();
    }
    InGauge::enter(|metrics| &metrics.instances)
}

/// Runs a store's operation, and measures it.
pub async fn measure_store<T, E>(
    store: &str,
    operation: &'static str,
    run: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(metrics) = METRICS.get() else {
        return run.await;
    };
    let started = Instant::now();
    let result = run.await;
    let labels = StoreLabels {
        store: store.into(),
        operation,
    };
    if result.is_err() {
        metrics.store_errors.get_or_create(&labels).inc();
    }
    let duration = started.elapsed().as_secs_f64();
    metrics
        .store_duration
        .get_or_create(&labels)
        .observe(duration);
    result
}

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

/// Counts one in a gauge until it is dropped.
pub struct InGauge(Option<&'static Gauge>);

impl InGauge {
    fn enter(gauge: impl Fn(&'static Metrics) -> &'static Gauge) -> Self {
        let gauge = METRICS.get().map(gauge);
        if let Some(gauge) = gauge {
            gauge.inc();
        }
        Self(gauge)
    }
}

impl Drop for InGauge {
    fn drop(&mut self) {
        if let Some(gauge) = self.0 {
            gauge.dec();
        }
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

impl Metrics {
    fn new(upstreams: impl IntoIterator<Item = String>) -> Self {
        // From a hit in memory to the time-outs of a slow upstream.
        const SECONDS: [f64; 14] = [
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0,
        ];
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let upstreams: BTreeSet<Arc<str>> = upstreams.into_iter().map(Arc::from).collect();
        let mut metrics = Self {
            registry: Registry::default(),
            upstreams: upstreams.into_iter().take(MAX_UPSTREAMS).collect(),
            other: OTHER.into(),
            requests: Family::default(),
            token_sources: Family::default(),
            responses: Family::default(),
            request_duration: histogram(),
            requests_in_progress: Gauge::default(),
            requests_queued: Gauge::default(),
            sent_bytes: Counter::default(),
            upstream_responses: Family::default(),
            upstream_errors: Family::default(),
            upstream_duration: Family::new_with_constructor(histogram),
            upstream_received_bytes: Family::default(),
            store_duration: Family::new_with_constructor(histogram),
            store_errors: Family::default(),
            instances: Gauge::default(),
            instances_created: Counter::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        self.registry
            .register_collector(Box::new(ProcessCollector::new()));
        let registry = self.registry.sub_registry_with_prefix("hammal");
        registry.register(
            "build",
            "The version of the program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "requests",
            "Requests that the component answered, from its log",
            self.requests.clone(),
        );
        registry.register(
            "token_sources",
            "Where the tokens of these requests came from, from the component's log",
            self.token_sources.clone(),
        );
        registry.register(
            "http_responses",
            "Responses to clients, those of the host included",
            self.responses.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time from a request to the head of its response",
            Unit::Seconds,
            self.request_duration.clone(),
        );
        registry.register(
            "http_requests_in_progress",
            "Requests whose response is not yet sent to its end",
            self.requests_in_progress.clone(),
        );
        registry.register(
            "http_requests_queued",
            "Requests that wait until the component may handle them",
            self.requests_queued.clone(),
        );
        registry.register_with_unit(
            "http_sent",
            "Bytes of bodies sent to clients",
            Unit::Bytes,
            self.sent_bytes.clone(),
        );
        registry.register(
            "upstream_responses",
            "Responses of upstreams, token servers and delivery networks",
            self.upstream_responses.clone(),
        );
        registry.register(
            "upstream_errors",
            "Requests to upstreams without a response",
            self.upstream_errors.clone(),
        );
        registry.register_with_unit(
            "upstream_request_duration",
            "Time from a request to an upstream to the head of its response, or its failure",
            Unit::Seconds,
            self.upstream_duration.clone(),
        );
        registry.register_with_unit(
            "upstream_received",
            "Bytes of bodies received from upstreams",
            Unit::Bytes,
            self.upstream_received_bytes.clone(),
        );
        registry.register_with_unit(
            "store_operation_duration",
            "Time of an operation on a key-value store",
            Unit::Seconds,
            self.store_duration.clone(),
        );
        registry.register(
            "store_errors",
            "Operations on a key-value store that failed",
            self.store_errors.clone(),
        );
        registry.register(
            "instances",
            "Instances of the component",
            self.instances.clone(),
        );
        registry.register(
            "instances_created",
            "Instances of the component since the start",
            self.instances_created.clone(),
        );
    }

    fn upstream(&self, host: &str) -> Arc<str> {
        Arc::clone(self.upstreams.get(host).unwrap_or(&self.other))
    }

    fn count_status(&self, status: u16, duration: Duration) {
        self.responses.get_or_create(&StatusLabels { status }).inc();
        self.request_duration.observe(duration.as_secs_f64());
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
mod tests;
