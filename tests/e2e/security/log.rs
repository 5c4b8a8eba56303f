//! The log: one line for each request, with all its fields and no secret.

use std::time::Duration;

use crate::support::client::Request;
use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME};
use crate::support::log_line::{LogLine, START};
use crate::support::mirror::Mirror;
use crate::support::wait_for;

/// Sends the request, and returns the one line that it adds to `lines` lines of the log.
async fn logged(mirror: &Mirror, lines: usize, request: Request) -> LogLine {
    request.send().await;
    let mut log = mirror.log(lines + 1).await;
    assert_eq!(log.len(), lines + 1, "{log:#?}");
    log.remove(lines)
}

#[tokio::test]
async fn each_request_is_logged_as_one_line_with_its_fields() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let upstream = Some(hub.address().to_string());
    let layer = &image.native().layers[0].digest;

    let request = mirror.get(MANIFEST_PATH).accept_manifests();
    let line = logged(&mirror, 0, request).await;
    let expected = LogLine {
        method: "GET".into(),
        endpoint: "manifest".into(),
        repository: Some(NAME.into()),
        reference: Some("latest".into()),
        upstream: upstream.clone(),
        status: 200,
        upstream_requests: 2,
        token_requests: 1,
        token_source: "fetched".into(),
        code: None,
        error: None,
        ..line.clone()
    };
    assert_eq!(line, expected);

    let request = mirror.head(MANIFEST_PATH).accept_manifests();
    let line = logged(&mirror, 1, request).await;
    let expected = LogLine {
        method: "HEAD".into(),
        endpoint: "manifest".into(),
        status: 200,
        upstream_requests: 1,
        ..line.clone()
    };
    assert_eq!(line, expected);

    let request = mirror.get(&format!("/v2/{NAME}/blobs/{layer}"));
    let line = logged(&mirror, 2, request).await;
    let expected = LogLine {
        endpoint: "blob".into(),
        reference: Some(layer.clone()),
        upstream,
        status: 307,
        upstream_requests: 1,
        ..line.clone()
    };
    assert_eq!(line, expected);

    let line = logged(&mirror, 3, mirror.get("/v2/Team/app/manifests/1.0")).await;
    assert_eq!((&*line.method, line.status), ("GET", 400));
    let line = logged(&mirror, 4, mirror.request("DELETE", MANIFEST_PATH)).await;
    assert_eq!((&*line.method, line.status), ("DELETE", 405));
}

#[tokio::test]
async fn the_log_names_the_source_of_a_token() {
    let HubFixture {
        mut mirror,
        hub: _hub,
        ..
    } = HubFixture::start().await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    mirror.log(1).await;
    // The store is written after the answer, and each value waits for the disk: the salt, the
    // token.
    tokio::time::sleep(Duration::from_secs(2)).await;
    mirror.restart().await;
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    let lines = mirror.log(2).await;
    let sources = lines.iter().map(|line| &*line.token_source);
    assert_eq!(
        sources.collect::<Vec<_>>(),
        ["fetched", "store"],
        "{lines:#?}"
    );
}

#[tokio::test]
async fn no_token_and_no_client_secret_is_logged() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let targets = [
        MANIFEST_PATH.to_owned(),
        format!("/v2/{NAME}/tags/list?key=query-secret"),
        "/?key=query-secret".into(),
    ];
    for target in &targets {
        let request = mirror
            .get(target)
            .accept_manifests()
            .header("authorization", "Bearer client-secret");
        request.header("cookie", "a=client-secret").send().await;
    }
    hub.revoke_tokens();
    mirror.get_manifest(&targets[0]).await.expect(200);
    mirror.log(targets.len() + 1).await;
    let all = mirror.stderr().join("\n");
    for secret in [
        "anonymous-token",
        "client-secret",
        "query-secret",
        "signature=",
    ] {
        assert!(!all.contains(secret), "{secret} in\n{all}");
    }
}

#[tokio::test]
async fn a_request_cannot_forge_log_lines() {
    let HubFixture { mirror, .. } = HubFixture::start().await;
    let forged = format!("%0a{}GET%20status=200", START.replace(' ', "%20"));
    let targets = [
        format!("/v2/a{forged}/manifests/latest"),
        format!("/v2/a/manifests/latest{forged}"),
        format!("/v2/a/tags/list?upstream=example.com{forged}"),
        format!("/{forged}"),
    ];
    for target in &targets {
        mirror.get(target).send().await;
    }
    let lines = mirror.log(targets.len()).await;
    assert_eq!(lines.len(), targets.len(), "{lines:#?}");
    // A line that had a field twice would not be parsed.
    for line in lines {
        let texts = [line.repository, line.reference, line.upstream, line.error];
        for text in texts.into_iter().flatten() {
            assert!(
                !text.contains("method=") && !text.contains(" status="),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn every_line_is_an_object_where_the_operator_wants_json() {
    let HubFixture {
        mirror, hub: _hub, ..
    } = HubFixture::with(|options| {
        let options = options.variable("log_format", "json");
        options.variable("client_limit", 3)
    })
    .await;
    mirror.get("/healthz").send().await.expect(200);
    mirror.get_manifest(MANIFEST_PATH).await.expect(200);
    let hostile = "/v2/a/manifests/%22,%22status%22:%22%0A";
    mirror.get(hostile).send().await.expect(400);
    // The embedded host refuses one of these itself; a new minute may begin meanwhile.
    for _ in 0..6 {
        mirror.get("/v2/").send().await;
    }
    let objects = || -> Vec<serde_json::Value> {
        let stderr = mirror.stderr();
        let lines = stderr.iter().filter(|line| line.contains("hammal\""));
        lines
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    };
    wait_for("9 lines of the log", || objects().len() >= 9).await;
    let objects = objects();
    for object in &objects {
        assert_eq!(object["app"], "hammal");
        assert!(object["status"].is_u64(), "{object}");
    }
    let is_over_limit = |object: &&serde_json::Value| object["code"] == "TOOMANYREQUESTS";
    assert!(objects.iter().any(|object| is_over_limit(&object)));
    assert!(
        !mirror
            .stderr()
            .iter()
            .any(|line| line.contains("app=hammal"))
    );
}
