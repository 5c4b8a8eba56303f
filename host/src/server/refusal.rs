//! The responses to requests that the host does not pass to the component, in the form of the
//! component's own: an error document of the distribution specification, and a line of the log.

use crate::limits::Settings;
use crate::metrics;
use crate::stderr;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use std::time::Duration;
use wasmtime_wasi_http::WasiBody;

/// Seconds after which a client may try again where the host is busy.
const BUSY_RETRY: Duration = Duration::from_secs(5);

/// The client exceeds `client_limit`; it may come back after `wait`.
pub fn over_client_limit(
    method: &Method,
    settings: &Settings,
    wait: Duration,
) -> Response<WasiBody> {
    let message = "this mirror's limit of requests per minute is reached";
    over_limit(method, settings, message, wait)
}

/// Too many wrong logins came from the client's address.
pub fn too_many_wrong_logins(
    method: &Method,
    settings: &Settings,
    wait: Duration,
) -> Response<WasiBody> {
    let message = "too many wrong logins from this address; try again in a minute";
    over_limit(method, settings, message, wait)
}

fn over_limit(
    method: &Method,
    settings: &Settings,
    message: &str,
    wait: Duration,
) -> Response<WasiBody> {
    let (status, code) = (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS");
    error(method, settings, status, code, message, wait)
}

/// The request waited for too long, or too many wait.
pub fn busy(method: &Method, settings: &Settings) -> Response<WasiBody> {
    let message = "too many concurrent requests; try again later";
    error(
        method,
        settings,
        StatusCode::SERVICE_UNAVAILABLE,
        "UNAVAILABLE",
        message,
        BUSY_RETRY,
    )
}

fn error(
    method: &Method,
    settings: &Settings,
    status: StatusCode,
    code: &str,
    message: &str,
    wait: Duration,
) -> Response<WasiBody> {
    let line = line(method, settings.logs_json, status, code, message);
    metrics::count_log_lines(line.as_bytes());
    if !settings.quiet {
        stderr::log(&line);
    }
    let document = serde_json::json!({
        "errors": [{ "code": code, "message": message, "detail": {} }]
    });
    let body = match *method {
        Method::HEAD => Bytes::new(),
        _ => document.to_string().into(),
    };
    let mut response = Response::new(Full::new(body).map_err(Into::into).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    headers.insert(
        "docker-distribution-api-version",
        HeaderValue::from_static("registry/2.0"),
    );
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// A line of the access log with the fields of the component's.
fn line(method: &Method, is_json: bool, status: StatusCode, code: &str, message: &str) -> String {
    // Of a method only what is a standard one: a client can write anything.
    let method = match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        _ => "other",
    };
    if is_json {
        return serde_json::json!({
            "app": "hammal",
            "method": method,
            "endpoint": "unknown",
            "status": status.as_u16(),
            "upstream_requests": 0,
            "token_requests": 0,
            "token_source": "none",
            "cache": "none",
            "duration_ms": 0,
            "code": code,
            "error": message,
        })
        .to_string();
    }
    format!(
        "app=hammal method={method} endpoint=unknown status={} upstream_requests=0 \
         token_requests=0 token_source=none cache=none duration_ms=0 code={code} error={message:?}",
        status.as_str()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_a_line_of_one_method_word_in_both_formats() {
        let method = Method::from_bytes(&[b'X'; 10_000]).unwrap();
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let text = line(&method, false, status, "UNAVAILABLE", "busy");
        assert!(text.starts_with("app=hammal method=other endpoint=unknown status=503 "));
        assert!(text.ends_with(" code=UNAVAILABLE error=\"busy\""));
        let json = line(&method, true, status, "UNAVAILABLE", "busy");
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        for field in text.split(' ') {
            let (key, value) = field.split_once('=').unwrap();
            let own = object[key].to_string();
            assert_eq!(own.trim_matches('"'), value.trim_matches('"'), "{json}");
        }
        assert_eq!(object.as_object().unwrap().len(), text.split(' ').count());
    }
}
