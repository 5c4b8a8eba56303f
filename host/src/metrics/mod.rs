//! Metrics in the text format of Prometheus, for `--metrics`. Until [`enable`] is called, nothing
//! is counted.
//!
//! Labels are bounded: endpoints, statuses and outcomes are few, and an upstream has a name of its
//! own only if the operator's settings name it.

mod body;
mod log_line;
mod process;
mod registry;
pub mod server;
mod upstream;

pub use self::body::count_response;
use self::log_line::LogLine;
use self::registry::{Metrics, RequestLabels, StoreLabels, TokenLabels};
pub use self::upstream::{UpstreamRequest, hosts_of_settings};
use prometheus_client::metrics::gauge::Gauge;
use std::sync::OnceLock;
use std::time::Instant;

/// The metrics of the process. One component runs in it.
static METRICS: OnceLock<Metrics> = OnceLock::new();

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

#[cfg(test)]
mod tests;
