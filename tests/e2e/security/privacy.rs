//! Headers and text that must not be passed on: those of clients to upstreams, those of upstreams
//! to clients.

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME, TAG};
use crate::support::mirror::Options;
use test_support::hub::{Hub, Service};
use test_support::image::Image;
use test_support::server::{ReceivedRequest, Reply};

/// The response of an internal host, and what of it must not be disclosed.
const WORDS: &str = "dial tcp vault.corp.example: password is hunter2";
const INTERNAL: [&str; 2] = ["vault.corp.example", "hunter2"];

/// Headers of clients that must not be forwarded.
const SECRETS: [(&str, &str); 10] = [
    ("authorization", "Basic dXNlcjpjbGllbnQtc2VjcmV0"),
    ("cookie", "session=client-secret"),
    ("x-api-key", "client-secret"),
    ("x-forwarded-for", "203.0.113.7"),
    ("forwarded", "for=203.0.113.7"),
    ("x-real-ip", "203.0.113.7"),
    ("referer", "https://client-secret.example.com/"),
    ("origin", "https://client-secret.example.com"),
    ("spin-full-url", "http://client-secret.example.com/"),
    ("spin-client-addr", "203.0.113.7:1"),
];

fn leaked(received: &ReceivedRequest) -> Option<String> {
    let line = |(name, value): (_, &hyper::header::HeaderValue)| {
        format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
    };
    received.headers.iter().map(line).find(|line| {
        [
            "client-secret",
            "dXNlcjpjbGllbnQtc2VjcmV0",
            "203.0.113.7",
            "cookie",
            "spin-",
            "x-api-key",
        ]
        .iter()
        .any(|secret| line.contains(secret))
    })
}

#[tokio::test]
async fn private_client_headers_are_not_forwarded() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let targets = [
        MANIFEST_PATH.to_owned(),
        format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest),
        format!("/v2/{NAME}/tags/list"),
        format!("/v2/{NAME}/referrers/{}", image.index.digest),
        format!("/v2/?upstream={}", hub.address()),
    ];
    for target in targets {
        for method in ["GET", "HEAD"] {
            let request = mirror.request(method, &target).accept_manifests();
            let request = SECRETS.iter().fold(request, |request, (name, value)| {
                request.header(name, value)
            });
            let response = request.send().await;
            assert!(
                matches!(response.status.as_u16(), 200 | 307),
                "{method} {target}: {response:?}"
            );
        }
    }
    for service in [Service::Registry, Service::Tokens, Service::Cdn] {
        for received in hub.received(service) {
            assert_eq!(leaked(&received), None, "{service:?}: {received:?}");
        }
    }
    assert!(
        hub.received(Service::Tokens)
            .iter()
            .all(|received| received.header("authorization").is_none())
    );
}

#[tokio::test]
async fn a_query_cannot_smuggle_a_second_request() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let target = format!("/v2/{NAME}/tags/list?n=1%0d%0aAuthorization:%20Basic%20eA==");
    mirror.get(&target).send().await;
    for received in hub.received(Service::Registry) {
        assert!(
            received
                .header("authorization")
                .is_none_or(|value| value.starts_with("Bearer anonymous")),
            "{received:?}"
        );
    }
}

#[tokio::test]
async fn every_accept_line_is_forwarded() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let lines = [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json;q=0.5",
        "*/*",
    ];
    let request = mirror.get(MANIFEST_PATH);
    lines
        .iter()
        .fold(request, |request, line| request.header("accept", line))
        .send()
        .await
        .expect(200);
    for received in hub.received(Service::Registry) {
        let all = received
            .headers
            .get_all("accept")
            .iter()
            .map(|line| line.to_str().expect("a readable header"));
        let all = all.collect::<Vec<_>>().join(", ");
        assert_eq!(all, lines.join(", "), "{received:?}");
    }
}

#[tokio::test]
async fn the_upstream_is_asked_for_no_encoding() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let request = mirror.get(MANIFEST_PATH).accept_manifests();
    request
        .header("accept-encoding", "zstd, gzip, deflate")
        .send()
        .await
        .expect(200);
    for received in hub.received(Service::Registry) {
        let encoding = received.header("accept-encoding").unwrap_or("identity");
        assert_eq!(encoding, "identity", "{received:?}");
    }
}

#[tokio::test]
async fn an_unrequested_encoding_is_declared_or_refused() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.script(|service, _| {
        let headers = [
            ("content-encoding", "gzip"),
            ("content-type", "application/octet-stream"),
        ];
        (service == Service::Registry).then(|| Reply::new(200, &headers, "\x1f\u{8b} as scripted"))
    });
    let target = format!("/v2/{NAME}/blobs/sha256:{}", "a".repeat(64));
    let response = mirror.get(&target).send().await;
    let whole = response.status == 200 && response.header("content-encoding") == Some("gzip");
    assert!(
        whole || response.status.is_client_error() || response.status.is_server_error(),
        "{response:?}"
    );
}

#[tokio::test]
async fn rate_limit_headers_are_passed_on_and_private_ones_are_not() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let targets = [
        (MANIFEST_PATH.to_owned(), 200),
        (
            format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest),
            307,
        ),
        (format!("/v2/{NAME}/manifests/missing"), 404),
        (format!("/v2/{NAME}/tags/list"), 200),
        (format!("/v2/?upstream={}", hub.address()), 200),
    ];
    for (target, status) in targets {
        let response = mirror.get_manifest(&target).await.expect(status);
        for name in [
            "set-cookie",
            "server",
            "strict-transport-security",
            "www-authenticate",
            "proxy-authenticate",
        ] {
            assert!(
                !response.headers.contains_key(name),
                "{target}: {name} in {response:?}"
            );
        }
        if target.contains("manifests/latest") {
            assert_eq!(response.header("ratelimit-limit"), Some("100;w=21600"));
            assert_eq!(response.header("ratelimit-remaining"), Some("99;w=21600"));
            assert_eq!(
                response.header("docker-ratelimit-source"),
                Some("192.0.2.1")
            );
        }
    }
}

#[tokio::test]
async fn challenges_are_never_passed_on() {
    for status in [200, 400, 401, 403, 404, 407, 429, 500, 503] {
        let HubFixture { mirror, hub, .. } = HubFixture::start().await;
        hub.script(move |service, _| {
            let headers = [
                ("www-authenticate", "Basic realm=\"give me your password\""),
                (
                    "proxy-authenticate",
                    "Basic realm=\"give me your password\"",
                ),
                ("content-type", test_support::image::INDEX),
            ];
            (service == Service::Registry).then(|| Reply::new(status, &headers, "{}"))
        });
        for target in [
            MANIFEST_PATH.to_owned(),
            format!("/v2/{NAME}/tags/list"),
            format!("/v2/?upstream={}", hub.address()),
        ] {
            let response = mirror.get_manifest(&target).await;
            assert!(
                !response.headers.contains_key("www-authenticate"),
                "{status} {target}: {response:?}"
            );
            assert!(
                !response.headers.contains_key("proxy-authenticate"),
                "{status} {target}: {response:?}"
            );
            assert_ne!(response.status, 401, "{status} {target}: {response:?}");
            assert_ne!(response.status, 407, "{status} {target}: {response:?}");
        }
    }
}

#[tokio::test]
async fn a_blob_is_never_served_as_html() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.script(|service, _| {
        let headers = [
            ("content-type", "text/html"),
            ("content-disposition", "inline"),
            ("refresh", "0; url=https://phishing.example.com/"),
            ("access-control-allow-origin", "*"),
            ("service-worker-allowed", "/"),
            ("x-anything", "else"),
        ];
        (service == Service::Registry)
            .then(|| Reply::new(200, &headers, "<script>alert(1)</script>"))
    });
    let digest = format!("sha256:{}", "a".repeat(64));
    for target in [
        format!("/v2/{NAME}/blobs/{digest}"),
        MANIFEST_PATH.to_owned(),
        format!("/v2/{NAME}/tags/list"),
    ] {
        let response = mirror.get_manifest(&target).await;
        let shown = response.header("content-type").unwrap_or_default();
        assert!(!shown.contains("html"), "{target}: {response:?}");
        assert_eq!(
            response.header("x-content-type-options"),
            Some("nosniff"),
            "{target}: {response:?}"
        );
        for name in [
            "content-disposition",
            "refresh",
            "access-control-allow-origin",
            "service-worker-allowed",
            "x-anything",
        ] {
            assert!(
                !response.headers.contains_key(name),
                "{target}: {name} in {response:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_blob_redirect_is_passed_on_without_its_body() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let location = hub.blob_url(&image.native().layers[0].digest);
    for status in [302, 307] {
        let location = location.clone();
        hub.script(move |service, _| {
            let headers = [("location", &*location), ("set-cookie", "a=b")];
            (service == Service::Registry).then(|| Reply::new(status, &headers, "moved"))
        });
        let target = format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest);
        let response = mirror.get(&target).send().await.expect(status);
        assert_eq!(
            response.header("location"),
            Some(&*hub.blob_url(&image.native().layers[0].digest))
        );
        assert!(response.body.is_empty(), "{response:?}");
        assert!(!response.headers.contains_key("set-cookie"), "{response:?}");
    }
    assert!(
        hub.received(Service::Cdn).is_empty(),
        "{:?}",
        hub.requests()
    );
}

#[tokio::test]
async fn a_relative_location_becomes_absolute() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let address = hub.address();
    let digest = &image.native().layers[0].digest;
    let target = format!("/v2/{NAME}/blobs/{digest}");
    let cases = [
        (
            "/store/x?sig=a%2Fb",
            format!("http://{address}/store/x?sig=a%2Fb"),
        ),
        ("other", format!("http://{address}/v2/{NAME}/blobs/other")),
        ("../x/./y", format!("http://{address}/v2/{NAME}/x/y")),
    ];
    for (location, expected) in cases {
        hub.script(move |service, _| {
            (service == Service::Registry).then(|| Reply::new(307, &[("location", location)], ""))
        });
        let response = mirror.get(&target).send().await.expect(307);
        assert_eq!(response.header("location"), Some(&*expected), "{location}");
    }
}

#[tokio::test]
async fn client_authorization_is_not_forwarded() {
    let hub = Hub::start().await;
    hub.push(NAME, TAG, &Image::oci());
    let mirror = Options::default().plain_http(hub.addresses()).start().await;
    let request = mirror
        .get(&format!("{MANIFEST_PATH}?upstream={}", hub.address()))
        .accept_manifests();
    request
        .header("authorization", "Basic dXNlcjpwYXNzd29yZA==")
        .send()
        .await
        .expect(200);
    let places = [Service::Registry, Service::Tokens, Service::Cdn];
    let received = places
        .into_iter()
        .flat_map(|service| hub.received(service))
        .collect::<Vec<_>>();
    assert!(
        received.iter().all(|received| received
            .header("authorization")
            .is_none_or(|value| !value.starts_with("Basic"))),
        "{received:?}"
    );
}

#[tokio::test]
async fn responses_of_internal_hosts_are_not_disclosed() {
    let headers = [
        ("content-type", "text/html"),
        ("retry-after", WORDS),
        ("location", "https://vault.corp.example/hunter2"),
        ("warning", WORDS),
        ("www-authenticate", "Basic realm=\"vault.corp.example\""),
        ("server", "vault.corp.example"),
        ("set-cookie", "vault=hunter2"),
    ];
    for service in [Service::Tokens, Service::Registry] {
        for status in [200, 302, 400, 401, 403, 404, 429, 500, 503] {
            let HubFixture { mirror, hub, image } = HubFixture::start().await;
            hub.respond_from(service, move |_| Reply::new(status, &headers, WORDS));
            let blob = format!("/v2/{NAME}/blobs/{}", image.native().layers[0].digest);
            for target in [
                MANIFEST_PATH.to_owned(),
                format!("/v2/{NAME}/tags/list"),
                blob,
            ] {
                let response = mirror.get_manifest(&target).await;
                let passed_on = service == Service::Registry && matches!(status, 200 | 302);
                let disclosed = format!(
                    "{:?} {}",
                    response.headers,
                    String::from_utf8_lossy(&response.body)
                );
                if !passed_on || target.contains("manifests") {
                    let code = &response.json()["errors"][0]["code"];
                    assert!(
                        code.is_string(),
                        "{service:?} {status} {target}: {response:?}"
                    );
                    assert!(
                        !INTERNAL.iter().any(|internal| disclosed.contains(internal)),
                        "{service:?} {status} {target}: {disclosed}"
                    );
                }
            }
            mirror.log(3).await;
            let log = mirror.stderr().join("\n");
            assert!(
                !INTERNAL.iter().any(|internal| log.contains(internal)),
                "{service:?} {status}: {log}"
            );
        }
    }
}

#[tokio::test]
async fn internal_realms_and_redirects_are_not_disclosed() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.challenge(|_| vec![r#"Bearer realm="https://vault.corp.internal/hunter2""#.into()]);
    let realm = mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(502, "UNAVAILABLE");
    hub.respond_from(Service::Registry, |_| {
        Reply::new(
            307,
            &[("location", "https://vault.corp.internal/hunter2")],
            "",
        )
    });
    let redirect = mirror
        .get_manifest(MANIFEST_PATH)
        .await
        .expect_error(502, "UNAVAILABLE");
    mirror.log(2).await;
    let disclosed = format!(
        "{} {} {}",
        realm.text(),
        redirect.text(),
        mirror.stderr().join("\n")
    );
    assert!(
        !disclosed.contains("vault") && !disclosed.contains("hunter2"),
        "{disclosed}"
    );
}
