//! `/healthz` and `/readyz`.

use super::*;
use crate::platform::scripted::StoreState;

/// Asks a new mirror with these settings for `path`, and returns the status and the requests that
/// it sent.
async fn probe(settings: &[(&str, &str)], answers: Vec<Answer>, path: &str) -> (u16, Vec<String>) {
    let platform = Scripted::new(answers);
    for (name, value) in settings {
        platform.set_variable(name, value);
    }
    let received = send(&Mirror::new(platform.clone()), get(path)).await;
    (received.status(), platform.sent())
}

#[tokio::test]
async fn a_mirror_that_runs_is_healthy_whatever_its_settings() {
    for settings in [
        &[][..],
        &[("tag_ttl", "soon")],
        &[("secret", "0123456789abcdef")],
    ] {
        assert_eq!(probe(settings, vec![], "/healthz").await, (200, vec![]));
    }
    let platform = Scripted::new([]);
    platform.fail_variables();
    platform.set_store(StoreState::Hanging);
    let received = send(&Mirror::new(platform.clone()), get("/healthz")).await;
    assert_eq!((received.status(), received.text().as_str()), (200, "ok\n"));
    assert_eq!(platform.store_calls(), 0);
    // After the answer has left: the format of its line.
    assert_eq!(platform.variables_read(), 1);
    assert!(platform.log()[0].contains("endpoint=healthz"));
}

#[tokio::test]
async fn a_mirror_is_ready_with_right_settings_and_asks_no_upstream() {
    for (settings, status) in [
        (&[][..], 200),
        (&[("secret", "0123456789abcdef")], 200),
        (&[("client_limit", "1"), ("store", "off")], 200),
        (&[("tag_ttl", "soon")], 500),
        (&[("private_networks", "none")], 500),
    ] {
        let asked = probe(settings, vec![], "/readyz").await;
        assert_eq!(asked, (status, vec![]), "{settings:?}");
    }
}

#[tokio::test]
async fn a_mirror_is_not_ready_while_no_upstream_can_be_reached() {
    let platform = Scripted::new([Err(TransportError::Connect)]);
    let mirror = Mirror::new(platform.clone());
    let ready = async |path| send(&mirror, get(path)).await.status();
    assert_eq!(ready("/readyz").await, 200);
    assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 502);
    assert_eq!(ready("/readyz").await, 503);
    assert_eq!(ready("/readyz?exclude=upstream").await, 200);
    assert_eq!(ready("/healthz").await, 200);
    // Another instance knows it by the store.
    let other = send(&Mirror::new(platform.clone()), get("/readyz")).await;
    assert_eq!(
        (other.status(), other.code().as_str()),
        (503, "UNAVAILABLE")
    );
    let log = platform.log();
    let last = log.last().unwrap();
    assert!(last.contains("endpoint=readyz status=503"), "{last}");
    assert!(last.contains("no upstream of this mirror"), "{last}");
    platform.advance(Duration::from_secs(21));
    assert_eq!(ready("/readyz").await, 200);
}

#[tokio::test]
async fn one_of_several_upstreams_is_enough() {
    let down = Err(TransportError::Connect);
    let platform = Scripted::new([down, manifest(), Err(TransportError::Connect)]);
    platform.set_variable("upstream", "one.example,two.example");
    let mirror = Mirror::new(platform.clone());
    assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
    assert_eq!(send(&mirror, get("/readyz")).await.status(), 200);
}

#[tokio::test]
async fn private_networks_have_to_be_closed_where_the_operator_says_so() {
    let needs = &[("private_networks", "closed")];
    let found = answer(404, &[], "");
    for (host, status) in [
        (Err(TransportError::Forbidden), 200),
        (Err(TransportError::Connect), 503),
        (Err(TransportError::TimedOut), 503),
        (found, 503),
    ] {
        let (answered, sent) = probe(needs, vec![host], "/readyz").await;
        assert_eq!((answered, sent.len()), (status, 1), "{sent:?}");
        assert_eq!(sent[0], "GET http://127.0.0.1:1/");
    }
}

#[tokio::test]
async fn a_store_that_hangs_is_waited_for_only_so_long() {
    let platform = Scripted::new([]);
    platform.set_store(StoreState::Hanging);
    let mirror = Mirror::new(platform.clone());
    assert_eq!(send(&mirror, get("/readyz")).await.status(), 200);
    assert_eq!(platform.store_calls(), 1);
}

#[tokio::test]
async fn probes_are_read_only() {
    let mirror = Mirror::new(Scripted::new([]));
    for path in ["/healthz", "/readyz"] {
        let request = Request::post(path).body(()).unwrap();
        assert_eq!(send(&mirror, request).await.status(), 405);
        let request = Request::head(path).body(()).unwrap();
        let received = send(&mirror, request).await;
        assert_eq!((received.status(), received.text().as_str()), (200, ""));
        assert_eq!(received.header("content-length"), Some("3"));
        assert_eq!(received.header("cache-control"), Some("no-store"));
    }
}
