//! What stays here: the client's secrets on the way out, the upstream's on the way back.

use crate::support::hub_fixture::{HubFixture, MANIFEST_PATH, NAME, TAG};
use crate::support::mirror::Options;
use test_support::hub::{Hub, Place};
use test_support::image::Image;
use test_support::server::{Reply, Seen};

/// Sent by a client with every kind of request; none of it is any upstream's business.
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

fn leaked(seen: &Seen) -> Option<String> {
    let line = |(name, value): (_, &hyper::header::HeaderValue)| {
        format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
    };
    seen.headers.iter().map(line).find(|line| {
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
async fn the_clients_private_headers_stay_here() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let targets = [
        format!("/v2/{NAME}/manifests/latest"),
        format!("/v2/{NAME}/blobs/{}", image.here().layers[0].digest),
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
            let answer = request.send().await;
            assert!(
                matches!(answer.status.as_u16(), 200 | 307),
                "{method} {target}: {answer:?}"
            );
        }
    }
    for place in [Place::Registry, Place::Tokens, Place::Cdn] {
        for seen in hub.seen(place) {
            assert_eq!(leaked(&seen), None, "{place:?}: {seen:?}");
        }
    }
    assert!(
        hub.seen(Place::Tokens)
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn a_query_cannot_smuggle_a_second_request() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let target = format!("/v2/{NAME}/tags/list?n=1%0d%0aAuthorization:%20Basic%20eA==");
    mirror.get(&target).send().await;
    for seen in hub.seen(Place::Registry) {
        assert!(
            seen.header("authorization")
                .is_none_or(|value| value.starts_with("Bearer anonymous")),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn every_accept_line_arrives() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let lines = [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json;q=0.5",
        "*/*",
    ];
    let request = mirror.get(&format!("/v2/{NAME}/manifests/latest"));
    lines
        .iter()
        .fold(request, |request, line| request.header("accept", line))
        .send()
        .await
        .expect(200);
    for seen in hub.seen(Place::Registry) {
        let all = seen
            .headers
            .get_all("accept")
            .iter()
            .map(|line| line.to_str().expect("a readable header"));
        let all = all.collect::<Vec<_>>().join(", ");
        assert_eq!(all, lines.join(", "), "{seen:?}");
    }
}

#[tokio::test]
async fn the_upstream_is_asked_for_bytes_as_they_are() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    let request = mirror
        .get(&format!("/v2/{NAME}/manifests/latest"))
        .accept_manifests();
    request
        .header("accept-encoding", "zstd, gzip, deflate")
        .send()
        .await
        .expect(200);
    for seen in hub.seen(Place::Registry) {
        let encoding = seen.header("accept-encoding").unwrap_or("identity");
        assert_eq!(encoding, "identity", "{seen:?}");
    }
}

#[tokio::test]
async fn an_encoding_that_an_upstream_chose_all_the_same_is_told() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.script(|place, _| {
        let headers = [
            ("content-encoding", "gzip"),
            ("content-type", "application/octet-stream"),
        ];
        (place == Place::Registry).then(|| Reply::new(200, &headers, "\x1f\u{8b} as scripted"))
    });
    let target = format!("/v2/{NAME}/blobs/sha256:{}", "a".repeat(64));
    let answer = mirror.get(&target).send().await;
    let whole = answer.status == 200 && answer.header("content-encoding") == Some("gzip");
    assert!(
        whole || answer.status.is_client_error() || answer.status.is_server_error(),
        "{answer:?}"
    );
}

#[tokio::test]
async fn the_upstreams_rate_limits_come_back_and_its_private_headers_do_not() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let targets = [
        (format!("/v2/{NAME}/manifests/latest"), 200),
        (
            format!("/v2/{NAME}/blobs/{}", image.here().layers[0].digest),
            307,
        ),
        (format!("/v2/{NAME}/manifests/missing"), 404),
        (format!("/v2/{NAME}/tags/list"), 200),
        (format!("/v2/?upstream={}", hub.address()), 200),
    ];
    for (target, status) in targets {
        let answer = mirror
            .get(&target)
            .accept_manifests()
            .send()
            .await
            .expect(status);
        for name in [
            "set-cookie",
            "server",
            "strict-transport-security",
            "www-authenticate",
            "proxy-authenticate",
        ] {
            assert!(
                !answer.headers.contains_key(name),
                "{target}: {name} in {answer:?}"
            );
        }
        if target.contains("manifests/latest") {
            assert_eq!(answer.header("ratelimit-limit"), Some("100;w=21600"));
            assert_eq!(answer.header("ratelimit-remaining"), Some("99;w=21600"));
            assert_eq!(answer.header("docker-ratelimit-source"), Some("192.0.2.1"));
        }
    }
}

#[tokio::test]
async fn a_challenge_never_comes_back_whatever_the_status() {
    for status in [200, 400, 401, 403, 404, 407, 429, 500, 503] {
        let HubFixture { mirror, hub, .. } = HubFixture::start().await;
        hub.script(move |place, _| {
            let headers = [
                ("www-authenticate", "Basic realm=\"give me your password\""),
                (
                    "proxy-authenticate",
                    "Basic realm=\"give me your password\"",
                ),
                ("content-type", test_support::image::INDEX),
            ];
            (place == Place::Registry).then(|| Reply::new(status, &headers, "{}"))
        });
        for target in [
            format!("/v2/{NAME}/manifests/latest"),
            format!("/v2/{NAME}/tags/list"),
            format!("/v2/?upstream={}", hub.address()),
        ] {
            let answer = mirror.get(&target).accept_manifests().send().await;
            assert!(
                !answer.headers.contains_key("www-authenticate"),
                "{status} {target}: {answer:?}"
            );
            assert!(
                !answer.headers.contains_key("proxy-authenticate"),
                "{status} {target}: {answer:?}"
            );
            assert_ne!(answer.status, 401, "{status} {target}: {answer:?}");
            assert_ne!(answer.status, 407, "{status} {target}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_web_page_under_a_blobs_name_is_not_shown_as_one() {
    let HubFixture { mirror, hub, .. } = HubFixture::start().await;
    hub.script(|place, _| {
        let headers = [
            ("content-type", "text/html"),
            ("content-disposition", "inline"),
            ("refresh", "0; url=https://phishing.example.com/"),
            ("access-control-allow-origin", "*"),
            ("service-worker-allowed", "/"),
            ("x-anything", "else"),
        ];
        (place == Place::Registry).then(|| Reply::new(200, &headers, "<script>alert(1)</script>"))
    });
    let digest = format!("sha256:{}", "a".repeat(64));
    for target in [
        format!("/v2/{NAME}/blobs/{digest}"),
        format!("/v2/{NAME}/manifests/latest"),
        format!("/v2/{NAME}/tags/list"),
    ] {
        let answer = mirror.get(&target).accept_manifests().send().await;
        let shown = answer.header("content-type").unwrap_or_default();
        assert!(!shown.contains("html"), "{target}: {answer:?}");
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{target}: {answer:?}"
        );
        for name in [
            "content-disposition",
            "refresh",
            "access-control-allow-origin",
            "service-worker-allowed",
            "x-anything",
        ] {
            assert!(
                !answer.headers.contains_key(name),
                "{target}: {name} in {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_redirect_before_any_challenge_goes_back_without_its_bytes() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let location = hub.blob_url(&image.here().layers[0].digest);
    for status in [302, 307] {
        let location = location.clone();
        hub.script(move |place, _| {
            let headers = [("location", &*location), ("set-cookie", "a=b")];
            (place == Place::Registry).then(|| Reply::new(status, &headers, "moved"))
        });
        let target = format!("/v2/{NAME}/blobs/{}", image.here().layers[0].digest);
        let answer = mirror.get(&target).send().await.expect(status);
        assert_eq!(
            answer.header("location"),
            Some(&*hub.blob_url(&image.here().layers[0].digest))
        );
        assert!(answer.body.is_empty(), "{answer:?}");
        assert!(!answer.headers.contains_key("set-cookie"), "{answer:?}");
    }
    assert!(hub.seen(Place::Cdn).is_empty(), "{:?}", hub.lines());
}

#[tokio::test]
async fn a_relative_location_becomes_absolute() {
    let HubFixture { mirror, hub, image } = HubFixture::start().await;
    let address = hub.address();
    let digest = &image.here().layers[0].digest;
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
        hub.script(move |place, _| {
            (place == Place::Registry).then(|| Reply::new(307, &[("location", location)], ""))
        });
        let answer = mirror.get(&target).send().await.expect(307);
        assert_eq!(answer.header("location"), Some(&*expected), "{location}");
    }
}

#[tokio::test]
async fn the_clients_authorization_goes_to_no_upstream() {
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
    let places = [Place::Registry, Place::Tokens, Place::Cdn];
    let seen = places
        .into_iter()
        .flat_map(|place| hub.seen(place))
        .collect::<Vec<_>>();
    assert!(
        seen.iter().all(|seen| seen
            .header("authorization")
            .is_none_or(|value| !value.starts_with("Basic"))),
        "{seen:?}"
    );
}
