//! What of an upstream counts as down after which fault.

use super::*;

const TAGS: &str = "/v2/library/alpine/tags/list";

/// Whether a stale copy of the manifest is served without a request, after `path` was answered so.
async fn manifests_rest_after(path: &str, faults: Vec<Answer>, streams: bool) -> bool {
    let platform = Scripted::new([]);
    platform.set_variable("manifest_cache", "on");
    if streams {
        platform.set_variable("blob_delivery", "stream");
    }
    let digest = crate::oci::digest::Digest::of(b"{}");
    let headers = [
        ("content-type", "application/vnd.oci.image.index.v1+json"),
        ("docker-content-digest", digest.as_str()),
        ("content-length", "2"),
    ];
    platform.add_answers([answer(200, &headers, "{}")]);
    let mirror = Mirror::new(platform.clone());
    assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
    platform.add_answers(faults);
    send(&mirror, get(path)).await;
    platform.sent();
    platform.add_answers([answer(200, &headers, "")]);
    let received = send(&Mirror::new(platform.clone()), get(MANIFEST)).await;
    assert_eq!(received.status(), 200, "{path}");
    platform.sent().is_empty()
}

#[tokio::test]
async fn one_blob_or_list_that_fails_is_not_the_registrys_failure() {
    let broken = || vec![Err(TransportError::Broken), Err(TransportError::Broken)];
    let timeout = || vec![Err(TransportError::TimedOut)];
    let status = |status| vec![answer(status, &[], "")];
    let no_cdn = |fault: fn() -> Answer| {
        let cdn = || redirect("https://cdn.example/x");
        vec![cdn(), fault(), cdn(), fault()]
    };
    let blob = blob();
    for (path, faults, streams) in [
        (&*blob, broken(), false),
        (&blob, timeout(), false),
        (&blob, status(500), false),
        (&blob, status(429), false),
        (&blob, no_cdn(|| Err(TransportError::Connect)), true),
        (&blob, no_cdn(|| Err(TransportError::TimedOut)), true),
        (&blob, no_cdn(|| answer(500, &[], "")), true),
        (TAGS, broken(), false),
        (TAGS, timeout(), false),
        (TAGS, status(503), false),
    ] {
        let described = format!("{path} {faults:?}");
        assert!(
            !manifests_rest_after(path, faults, streams).await,
            "{described}"
        );
    }
    let other = "/v2/library/alpine/manifests/other";
    for (path, faults) in [
        (other, timeout()),
        (other, broken()),
        (other, status(500)),
        (&blob, vec![Err(TransportError::Connect)]),
        (&blob, vec![Err(TransportError::Tls)]),
        (TAGS, vec![Err(TransportError::Dns)]),
        (TAGS, vec![Err(TransportError::Forbidden)]),
    ] {
        let described = format!("{path} {faults:?}");
        assert!(
            manifests_rest_after(path, faults, false).await,
            "{described}"
        );
    }
}

#[tokio::test]
async fn an_upstream_whose_blobs_fail_is_asked_last_for_blobs_only() {
    let platform = Scripted::new([answer(500, &[], ""), answer(200, &[], "bytes")]);
    platform.set_variable("upstream", "first.example, docker.io");
    send(&Mirror::new(platform.clone()), get(&blob())).await;
    platform.sent();
    platform.add_answers([answer(200, &[], "bytes"), manifest()]);
    for path in [&blob(), MANIFEST] {
        send(&Mirror::new(platform.clone()), get(path)).await;
    }
    assert_eq!(
        platform.sent(),
        [
            format!("GET {HUB}{}", blob()),
            format!("GET https://first.example{MANIFEST}")
        ]
    );
}
