//! The metrics of one process: these tests share them, so each looks at labels of its own.

use super::*;
use http::{Response, Uri};
use http_body_util::{BodyExt as _, Full};
use wasmtime_wasi_http::WasiBody;

fn enabled() {
    enable(hosts_of_settings([
        "registry.lan:5000, https://mirror.gcr.io",
    ]));
}

/// The value of a sample.
fn value(sample: &str) -> Option<f64> {
    let text = text();
    let line = text.lines().find(|line| {
        line.strip_prefix(sample)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

fn body(text: &'static str) -> WasiBody {
    Full::from(text).map_err(Into::into).boxed_unsync()
}

#[test]
fn counts_requests_by_the_lines_of_the_log() {
    enabled();
    let line = "app=hammal method=GET endpoint=tags status=418 upstream_requests=1 token_requests=0 \
                token_source=store cache=collapsed duration_ms=1\n";
    count_log_lines(format!("{line}something else\n{line}").as_bytes());
    let sample = "hammal_requests_total{endpoint=\"tags\",status=\"418\",cache=\"collapsed\"}";
    assert_eq!(value(sample), Some(2.0));
    assert_eq!(
        value("hammal_token_sources_total{source=\"store\"}"),
        Some(2.0)
    );
}

#[tokio::test]
async fn counts_upstreams_by_class_and_known_host() {
    enabled();
    for host in ["registry.lan:5000", "evil.example", "other.example"] {
        let uri: Uri = format!("http://{host}/v2/a/manifests/b").parse().unwrap();
        let request = UpstreamRequest::start(&uri).unwrap();
        let response = request.answered(Response::new(body("12345")));
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "12345"
        );
        UpstreamRequest::start(&uri).unwrap().failed("tls");
    }
    for (upstream, count) in [("registry.lan:5000", 1.0), ("other", 2.0)] {
        let labels = format!("class=\"manifest\",upstream=\"{upstream}\"");
        let sample =
            |name: &str, more: &str| value(&format!("hammal_upstream_{name}{{{labels}{more}}}"));
        assert_eq!(sample("responses_total", ",status=\"200\""), Some(count));
        assert_eq!(sample("errors_total", ",error=\"tls\""), Some(count));
        assert_eq!(
            sample("request_duration_seconds_count", ""),
            Some(2.0 * count)
        );
    }
    assert_eq!(
        value("hammal_upstream_received_bytes_total{upstream=\"registry.lan:5000\"}"),
        Some(5.0)
    );
}

#[tokio::test]
async fn measures_the_store() {
    enabled();
    let ok = measure_store("s", "get", async { Ok::<_, ()>(1) }).await;
    let failed = measure_store("s", "get", async { Err::<(), _>(2) }).await;
    assert_eq!((ok, failed), (Ok(1), Err(2)));
    let labels = "{store=\"s\",operation=\"get\"}";
    assert_eq!(
        value(&format!("hammal_store_errors_total{labels}")),
        Some(1.0)
    );
    let count = format!("hammal_store_operation_duration_seconds_count{labels}");
    assert_eq!(value(&count), Some(2.0));
}

#[tokio::test]
async fn counts_responses_until_their_end() {
    enabled();
    let respond = async {
        let mut response = Response::new(body("abc"));
        *response.status_mut() = http::StatusCode::IM_USED;
        response
    };
    let response = count_response(respond).await;
    let before = value("hammal_http_sent_bytes_total").unwrap();
    assert!(value("hammal_http_requests_in_progress") >= Some(1.0));
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "abc"
    );
    assert_eq!(value("hammal_http_sent_bytes_total"), Some(before + 3.0));
    assert_eq!(
        value("hammal_http_responses_total{status=\"226\"}"),
        Some(1.0)
    );
}

#[test]
fn has_the_metrics_of_the_process() {
    enabled();
    for sample in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
        "process_cpu_seconds_total",
    ] {
        assert!(
            value(sample).is_some_and(|value| value > 0.0),
            "{sample}\n{}",
            text()
        );
    }
}
