//! All metrics, with their labels and texts.

use super::process::ProcessCollector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The label of upstreams that the operator's settings don't name.
pub const OTHER: &str = "other";

/// The most upstreams with a label of their own.
const MAX_UPSTREAMS: usize = 50;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub endpoint: &'static str,
    pub status: u16,
    pub cache: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabels {
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    pub source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpstreamLabels {
    pub class: &'static str,
    pub upstream: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpstreamStatusLabels {
    pub class: &'static str,
    pub upstream: Arc<str>,
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpstreamErrorLabels {
    pub class: &'static str,
    pub upstream: Arc<str>,
    pub error: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpstreamNameLabels {
    pub upstream: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabels {
    pub store: Arc<str>,
    pub operation: &'static str,
}

/// A family of histograms.
pub type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

pub struct Metrics {
    pub registry: Registry,
    pub upstreams: BTreeSet<Arc<str>>,
    pub other: Arc<str>,
    pub requests: Family<RequestLabels, Counter>,
    pub token_sources: Family<TokenLabels, Counter>,
    pub responses: Family<StatusLabels, Counter>,
    pub request_duration: Histogram,
    pub requests_in_progress: Gauge,
    pub requests_queued: Gauge,
    pub sent_bytes: Counter,
    pub upstream_responses: Family<UpstreamStatusLabels, Counter>,
    pub upstream_errors: Family<UpstreamErrorLabels, Counter>,
    pub upstream_duration: Histograms<UpstreamLabels>,
    pub upstream_received_bytes: Family<UpstreamNameLabels, Counter>,
    pub store_duration: Histograms<StoreLabels>,
    pub store_errors: Family<StoreLabels, Counter>,
    pub instances: Gauge,
    pub instances_created: Counter,
}

impl Metrics {
    pub fn new(upstreams: impl IntoIterator<Item = String>) -> Self {
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

    pub fn upstream(&self, host: &str) -> Arc<str> {
        Arc::clone(self.upstreams.get(host).unwrap_or(&self.other))
    }

    pub fn count_status(&self, status: u16, duration: Duration) {
        self.responses.get_or_create(&StatusLabels { status }).inc();
        self.request_duration.observe(duration.as_secs_f64());
    }
}
