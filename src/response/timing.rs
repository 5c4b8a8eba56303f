//! `Server-Timing` (W3C), by which a client sees where the time of an answer went. The times are
//! those until the head of the answer; what streams after it is not in them.

use crate::config::Config;
use crate::context::RequestStats;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Adds the times of a request that took `total`, in milliseconds, where the settings say so.
pub fn add_header(
    headers: &mut HeaderMap,
    config: Option<&Config>,
    stats: &RequestStats,
    total: Duration,
) {
    if !config.is_some_and(|config| config.server_timing) {
        return;
    }
    let text: Vec<String> = [
        ("token", stats.token_requests.time()),
        ("upstream", stats.upstream_requests.time()),
        ("store", stats.store_time.get()),
        ("total", total),
    ]
    .iter()
    .map(|(name, time)| {
        let (milliseconds, rest) = (time.as_millis(), time.subsec_micros() % 1000);
        format!("{name};dur={milliseconds}.{rest:03}")
    })
    .collect();
    if let Ok(value) = HeaderValue::try_from(text.join(", ")) {
        headers.insert(SERVER_TIMING, value);
    }
}
