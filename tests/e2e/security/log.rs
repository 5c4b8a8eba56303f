//! The log: one line per request, with what an operator wants to know and no secret.

use std::collections::BTreeMap;

use crate::support::client::Request;
use crate::support::hub_fixture::{HubFixture, NAME};

/// The fields of a line of logfmt.
fn fields(line: &str) -> BTreeMap<&str, &str> {
    line.split(' ')
        .filter_map(|field| field.split_once('='))
        .collect()
}

#[tokio::test]
async fn every_request_is_one_line_with_its_fields() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let upstream = hub.address().to_string();
    let manifest = format!("/v2/{NAME}/manifests/latest");
    let layer = &image.here().layers[0].digest;
    let blob = format!("/v2/{NAME}/blobs/{layer}");
    let ask: [(Request, &[(&str, &str)]); 5] = [
        (
            mirror.get(&manifest).accept_manifests(),
            &[
                ("method", "GET"),
                ("what", "manifest"),
                ("name", NAME),
                ("reference", "latest"),
                ("upstream", &upstream),
                ("status", "200"),
                ("requests", "2"),
                ("fetches", "1"),
                ("token", "fetched"),
            ],
        ),
        (
            mirror.head(&manifest).accept_manifests(),
            &[
                ("method", "HEAD"),
                ("what", "manifest"),
                ("status", "200"),
                ("requests", "1"),
            ],
        ),
        (
            mirror.get(&blob),
            &[
                ("what", "blob"),
                ("reference", layer),
                ("upstream", &upstream),
                ("status", "307"),
                ("requests", "1"),
            ],
        ),
        (
            mirror.get("/v2/Team/app/manifests/1.0"),
            &[("method", "GET"), ("status", "400")],
        ),
        (
            mirror.request("DELETE", &manifest),
            &[("method", "DELETE"), ("status", "405")],
        ),
    ];
    for (number, (request, expected)) in ask.into_iter().enumerate() {
        request.send().await;
        let lines = mirror.log(number + 1).await;
        assert_eq!(lines.len(), number + 1, "{lines:#?}");
        let got = fields(&lines[number]);
        for (name, value) in expected {
            assert_eq!(got.get(name), Some(value), "{name} in {}", lines[number]);
        }
        assert!(
            got.get("ms").is_some_and(|ms| ms.parse::<f64>().is_ok()),
            "{}",
            lines[number]
        );
    }
}

#[tokio::test]
async fn the_log_says_where_a_token_came_from() {
    let HubFixture {
        mut mirror,
        hub: _hub,
        ..
    } = HubFixture::start().await;
    let target = format!("/v2/{NAME}/manifests/latest");
    mirror
        .get(&target)
        .accept_manifests()
        .send()
        .await
        .expect(200);
    mirror.log(1).await;
    mirror.restart().await;
    mirror
        .get(&target)
        .accept_manifests()
        .send()
        .await
        .expect(200);
    let lines = mirror.log(2).await;
    assert_eq!(fields(&lines[0])["token"], "fetched", "{lines:#?}");
    assert_eq!(fields(&lines[1])["token"], "store", "{lines:#?}");
}

#[tokio::test]
async fn no_token_and_no_secret_of_a_client_is_logged() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let targets = [
        format!("/v2/{NAME}/manifests/latest"),
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
    mirror
        .get(&targets[0])
        .accept_manifests()
        .send()
        .await
        .expect(200);
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
async fn nobody_can_write_lines_into_the_log() {
    let HubFixture { mirror, .. } = HubFixture::start().await;
    let forged = "%0ahammal%20method=GET%20status=200";
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
    for line in lines {
        assert_eq!(line.matches("method=").count(), 1, "{line}");
        assert_eq!(line.matches(" status=").count(), 1, "{line}");
    }
}
