//! Public registries that differ from others, under their real names, as they were observed to
//! behave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::public_registries::{Host, PublicRegistries};
use test_support::answers::error;
use test_support::image::{DOCKER_LIST, INDEX, digest};
use test_support::server::{ReceivedRequest, Reply};

fn challenge(line: &str) -> Reply {
    Reply::new(
        401,
        &[
            ("www-authenticate", line),
            ("content-type", "application/json"),
        ],
        "{}",
    )
}

fn token(token: &str) -> Reply {
    Reply::new(200, &[], format!(r#"{{"token":"{token}"}}"#))
}

fn manifest() -> Reply {
    let digest = digest(b"{}");
    Reply::new(
        200,
        &[
            ("content-type", INDEX),
            ("docker-content-digest", &digest),
            ("content-length", "2"),
        ],
        "{}",
    )
}

/// The same, without the body for a HEAD.
fn manifest_for(received: &ReceivedRequest) -> Reply {
    if received.method == "HEAD" {
        let digest = digest(b"{}");
        return Reply::new(
            200,
            &[
                ("content-type", INDEX),
                ("docker-content-digest", &digest),
                ("content-length", "2"),
            ],
            "",
        );
    }
    manifest()
}

fn redirect(status: u16, location: &str) -> Reply {
    Reply::new(status, &[("location", location)], "")
}

fn has(received: &ReceivedRequest, authorization: &str) -> bool {
    received.header("authorization") == Some(authorization)
}

fn blob(name: &str) -> String {
    format!("{name}/blobs/{}", digest(b"a layer"))
}

/// It has one token for all repositories, no HEAD of blobs, and refuses requests with Basic.
#[tokio::test]
async fn public_ecr_aws_has_one_token_for_all_repositories() {
    const CDN: &str = "https://d2glxqk2uabbnd.cloudfront.net/layer?Signature=a~b_&Key-Pair-Id=K";
    let ecr = Host::new("public.ecr.aws", |received| {
        match (&*received.method, received.path()) {
            (_, "/token/") => token("aws-token"),
            _ if received
                .header("authorization")
                .is_some_and(|value| value.starts_with("Basic")) =>
            {
                error(400, "UNSUPPORTED")
            }
            ("HEAD", path) if path.contains("/blobs/") => challenge(
                r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#,
            ),
            _ if !has(received, "Bearer aws-token") => challenge(
                r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#,
            ),
            (_, path) if path.contains("/blobs/") => redirect(307, CDN),
            _ => manifest_for(received),
        }
    });
    let Some(registries) = PublicRegistries::start([ecr]).await else {
        return;
    };
    let basic = registries
        .mirror
        .get("/v2/docker/library/alpine/manifests/3?upstream=public.ecr.aws");
    basic
        .accept_manifests()
        .header("authorization", "Basic eDp5")
        .send()
        .await
        .expect(200);
    registries
        .request("GET", "public.ecr.aws", "nginx/nginx/manifests/1")
        .await
        .expect(200);
    assert_eq!(
        registries.take_requests(),
        [
            "GET https://public.ecr.aws/v2/docker/library/alpine/manifests/3",
            "GET https://public.ecr.aws/token/?service=public.ecr.aws&scope=aws",
            "GET https://public.ecr.aws/v2/docker/library/alpine/manifests/3 Bearer aws-token",
            "GET https://public.ecr.aws/v2/nginx/nginx/manifests/1 Bearer aws-token",
        ]
    );
    let blob = blob("nginx/nginx");
    for method in ["HEAD", "GET"] {
        let response = registries
            .request(method, "public.ecr.aws", &blob)
            .await
            .expect(307);
        assert_eq!(response.header("location"), Some(CDN), "{method}");
    }
    let url = format!("https://public.ecr.aws/v2/{blob} Bearer aws-token");
    assert_eq!(
        registries.take_requests(),
        [
            format!("HEAD {url}"),
            format!("GET {url}"),
            format!("GET {url}")
        ]
    );
}

/// Its challenge has no service; an expired token gets a challenge with another realm, which has no
/// anonymous tokens.
#[tokio::test]
async fn nvcr_io_names_another_realm_for_an_expired_token() {
    let is_expired = Arc::new(AtomicBool::new(false));
    let expired = Arc::clone(&is_expired);
    let nvcr = Host::new("nvcr.io", move |received| {
        let good = if expired.load(Ordering::SeqCst) {
            "second"
        } else {
            "first"
        };
        match received.header("authorization") {
            _ if received.path() == "/proxy_auth" => token(good),
            Some(sent) if sent == format!("Bearer {good}") => manifest_for(received),
            Some(_) => {
                challenge(r#"Bearer realm="https://authn.nvidia.com/token?service=ngc",scope="x""#)
            }
            None => challenge(
                r#"Bearer realm="https://nvcr.io/proxy_auth",scope="repository:nvidia/cuda:pull,push""#,
            ),
        }
    });
    let authn = Host::new("authn.nvidia.com", |_| error(401, "UNAUTHORIZED"));
    let Some(registries) = PublicRegistries::start([nvcr, authn]).await else {
        return;
    };
    let request = || registries.request("GET", "nvcr.io", "nvidia/cuda/manifests/12");
    request().await.expect(200);
    is_expired.store(true, Ordering::SeqCst);
    request().await.expect(200);
    let url = "https://nvcr.io/v2/nvidia/cuda/manifests/12";
    let token_request = "GET https://nvcr.io/proxy_auth?scope=repository%3Anvidia%2Fcuda%3Apull";
    assert_eq!(
        registries.take_requests(),
        [
            format!("GET {url}"),
            token_request.into(),
            format!("GET {url} Bearer first"),
            format!("GET {url} Bearer first"),
            format!("GET {url}"),
            token_request.into(),
            format!("GET {url} Bearer second"),
        ]
    );
}

/// It redirects everything to ghcr.io, whose challenge and token must not be used for lscr.io.
#[tokio::test]
async fn lscr_io_redirects_everything_to_ghcr_io() {
    const CDN: &str = "https://pkg-containers.githubusercontent.com/ghcr1/blobs/x?sig=a%2Fb%3D";
    let lscr = Host::new("lscr.io", |received| {
        redirect(307, &format!("https://ghcr.io{}", received.target))
    });
    let ghcr = Host::new("ghcr.io", |received| match received.path() {
        "/token" => token("of-ghcr"),
        _ if !has(received, "Bearer of-ghcr") => challenge(
            r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:linuxserver/nginx:pull""#,
        ),
        path if path.contains("/blobs/") => redirect(307, CDN),
        _ => manifest_for(received),
    });
    let Some(registries) = PublicRegistries::start([lscr, ghcr]).await else {
        return;
    };
    for method in ["HEAD", "GET"] {
        registries
            .request(method, "lscr.io", "linuxserver/nginx/manifests/latest")
            .await
            .expect(200);
    }
    let path = "v2/linuxserver/nginx/manifests/latest";
    assert_eq!(
        registries.take_requests(),
        [
            format!("HEAD https://lscr.io/{path}"),
            format!("HEAD https://ghcr.io/{path}"),
            "GET https://ghcr.io/token?service=ghcr.io&scope=repository%3Alinuxserver%2Fnginx%3Apull".into(),
            format!("HEAD https://ghcr.io/{path} Bearer of-ghcr"),
            format!("GET https://lscr.io/{path}"),
            format!("GET https://ghcr.io/{path} Bearer of-ghcr"),
        ]
    );
    // A client that is redirected to ghcr.io would have no token for it.
    let blob = blob("linuxserver/nginx");
    let response = registries
        .request("GET", "lscr.io", &blob)
        .await
        .expect(307);
    assert_eq!(response.header("location"), Some(CDN));
    assert_eq!(
        registries.take_requests(),
        [
            format!("GET https://lscr.io/v2/{blob}"),
            format!("GET https://ghcr.io/v2/{blob} Bearer of-ghcr")
        ]
    );
}

/// It redirects manifests to another registry, with a 307 that clients don't follow, and blobs to a
/// bucket.
#[tokio::test]
async fn registry_k8s_io_redirects_manifests_to_another_registry() {
    const BUCKET: &str =
        "https://prod-registry-k8s-io-eu-west-1.s3.dualstack.eu-west-1.amazonaws.com/containers/x";
    let k8s = Host::new("registry.k8s.io", |received| {
        match received.path().split_once("/blobs/") {
            Some(_) => redirect(307, BUCKET),
            None => redirect(
                307,
                &received.target.replace(
                    "/v2/",
                    "https://europe-west1-docker.pkg.dev/v2/k8s-artifacts-prod/images/",
                ),
            ),
        }
    });
    let pkg = Host::new("europe-west1-docker.pkg.dev", manifest_for);
    let Some(registries) = PublicRegistries::start([k8s, pkg]).await else {
        return;
    };
    for method in ["HEAD", "GET"] {
        let response = registries
            .request(method, "registry.k8s.io", "pause/manifests/3.9")
            .await
            .expect(200);
        assert_eq!(response.header("content-type"), Some(INDEX));
        assert_eq!(response.header("content-length"), Some("2"));
        assert_eq!(
            response.header("docker-content-digest"),
            Some(&*digest(b"{}"))
        );
        assert_eq!(response.header("location"), None);
        assert_eq!(
            registries.take_requests(),
            [
                format!("{method} https://registry.k8s.io/v2/pause/manifests/3.9"),
                format!(
                    "{method} https://europe-west1-docker.pkg.dev/v2/k8s-artifacts-prod/images/pause/manifests/3.9"
                ),
            ]
        );
    }
    let response = registries
        .request("GET", "registry.k8s.io", &blob("pause"))
        .await
        .expect(307);
    assert_eq!(response.header("location"), Some(BUCKET));
}

/// Registries that differ by their challenges, or have none: the requests that follow a first
/// request.
#[tokio::test]
async fn first_requests_get_tokens_from_the_right_server() {
    #[derive(Clone, Copy)]
    struct Case {
        registry: &'static str,
        rest: &'static str,
        /// The challenge, and the path that has it; all if empty.
        challenge: Option<(&'static str, &'static str)>,
        /// The host of the token server, and the path and query of the token request.
        token_server: &'static str,
        token_request: &'static str,
        requests: usize,
    }
    let cases = [
        // Only the 401 of `/v2/` has a challenge.
        Case {
            registry: "gcr.io",
            rest: "project/image/manifests/1",
            challenge: Some((
                r#"Bearer realm="https://gcr.io/v2/token",service="gcr.io""#,
                "/v2/",
            )),
            token_server: "gcr.io",
            token_request: "/v2/token?service=gcr.io&scope=repository%3Aproject%2Fimage%3Apull",
            requests: 4,
        },
        Case {
            registry: "registry.gitlab.com",
            rest: "group/project/image/manifests/1",
            challenge: Some((
                r#"Bearer realm="https://gitlab.com/jwt/auth",service="container_registry",scope="repository:group/project/image:pull",error="invalid_token""#,
                "",
            )),
            token_server: "gitlab.com",
            token_request: "/jwt/auth?service=container_registry&scope=repository%3Agroup%2Fproject%2Fimage%3Apull",
            requests: 3,
        },
        Case {
            registry: "mcr.microsoft.com",
            rest: "dotnet/sdk/manifests/8.0",
            challenge: None,
            token_server: "mcr.microsoft.com",
            token_request: "",
            requests: 1,
        },
    ];
    for case in cases {
        let response = move |received: &ReceivedRequest| match case.challenge {
            _ if !case.token_request.is_empty() && received.target == case.token_request => {
                token("granted")
            }
            None => manifest_for(received),
            Some(_) if has(received, "Bearer granted") => manifest_for(received),
            Some((line, at)) if at.is_empty() || at == received.path() => challenge(line),
            Some(_) => error(401, "UNAUTHORIZED"),
        };
        let mut hosts = vec![Host::new(case.registry, response)];
        if case.token_server != case.registry {
            hosts.push(Host::new(case.token_server, response));
        }
        let Some(registries) = PublicRegistries::start(hosts).await else {
            return;
        };
        let received = registries.request("GET", case.registry, case.rest).await;
        let requests = registries.take_requests();
        assert_eq!(received.status, 200, "{}: {requests:#?}", case.registry);
        assert_eq!(
            requests.len(),
            case.requests,
            "{}: {requests:#?}",
            case.registry
        );
        let token_request = format!("GET https://{}{}", case.token_server, case.token_request);
        assert_eq!(
            requests.contains(&token_request),
            case.challenge.is_some(),
            "{}: {requests:#?}",
            case.registry
        );
        // From then on each request takes one upstream request.
        registries
            .request("GET", case.registry, case.rest)
            .await
            .expect(200);
        assert_eq!(registries.take_requests().len(), 1, "{}", case.registry);
    }
}

/// It has no anonymous tokens for private repositories, and a 404 where the types in `Accept` don't
/// match.
#[tokio::test]
async fn ghcr_io_denies_tokens_for_private_repositories() {
    for refusal in [401, 403] {
        let ghcr = Host::new("ghcr.io", move |received| match received.path() {
            "/token" if received.target.contains("private") => error(refusal, "DENIED"),
            "/token" => token("t"),
            _ if !has(received, "Bearer t") => {
                challenge(r#"Bearer realm="https://ghcr.io/token",service="ghcr.io""#)
            }
            _ => {
                let mut types = received.headers.get_all("accept").iter();
                let knows = types.any(|line| line.to_str().is_ok_and(|line| line.contains(INDEX)));
                if knows {
                    manifest_for(received)
                } else {
                    error(404, "MANIFEST_UNKNOWN")
                }
            }
        });
        let Some(registries) = PublicRegistries::start([ghcr]).await else {
            return;
        };
        registries
            .request("GET", "ghcr.io", "owner/private/manifests/1")
            .await
            .expect_error(403, "DENIED");
        registries
            .request("GET", "ghcr.io", &blob("owner/private"))
            .await
            .expect_error(403, "DENIED");
        registries
            .request("GET", "ghcr.io", "owner/image/manifests/1")
            .await
            .expect(200);
        let old = registries
            .mirror
            .get("/v2/owner/image/manifests/1?upstream=ghcr.io")
            .header("accept", DOCKER_LIST);
        old.send().await.expect_error(404, "MANIFEST_UNKNOWN");
    }
}

/// Its redirects have status 302, those of others 307: both are passed on unchanged.
#[tokio::test]
async fn quay_io_redirects_blobs_with_302_or_307() {
    for status in [302, 307] {
        let cdn = "https://cdn01.quay.io/quayio-production-s3/sha256/aa/x?X-Amz-Signature=b%2Fc&cf_sign=d%3D%3D";
        let quay = Host::new("quay.io", move |_| redirect(status, cdn));
        let Some(registries) = PublicRegistries::start([quay]).await else {
            return;
        };
        for method in ["GET", "HEAD"] {
            let response = registries
                .request(method, "quay.io", &blob("coreos/etcd"))
                .await
                .expect(status);
            assert_eq!(response.header("location"), Some(cdn));
            assert!(response.body.is_empty());
        }
    }
}

/// Over its rate limit it responds with plain text and `Retry-After`; below it, with what is left.
#[tokio::test]
async fn docker_hub_reports_its_rate_limits() {
    let hub = Host::new("registry-1.docker.io", |received| match received.path() {
        path if path.contains("/busy/") => Reply::new(
            429,
            &[
                ("content-type", "text/plain"),
                ("retry-after", "60"),
                ("ratelimit-remaining", "0;w=21600"),
            ],
            "Too Many Requests (HAP429).\n",
        ),
        _ => {
            let headers = [
                ("content-type", INDEX),
                ("ratelimit-limit", "100;w=21600"),
                ("ratelimit-remaining", "76;w=21600"),
                ("docker-ratelimit-source", "192.0.2.1"),
            ];
            Reply::new(200, &headers, "{}")
        }
    });
    let Some(registries) = PublicRegistries::start([hub]).await else {
        return;
    };
    let response = registries
        .request("GET", "docker.io", "alpine/manifests/latest")
        .await
        .expect(200);
    assert_eq!(response.header("ratelimit-limit"), Some("100;w=21600"));
    assert_eq!(response.header("ratelimit-remaining"), Some("76;w=21600"));
    assert_eq!(
        response.header("docker-ratelimit-source"),
        Some("192.0.2.1")
    );
    assert_eq!(
        registries.take_requests(),
        ["GET https://registry-1.docker.io/v2/library/alpine/manifests/latest"]
    );
    for rest in ["team/busy/manifests/latest", &blob("team/busy")] {
        let response = registries
            .request("GET", "docker.io", rest)
            .await
            .expect_error(429, "TOOMANYREQUESTS");
        assert_eq!(response.header("retry-after"), Some("60"), "{rest}");
        assert_eq!(
            response.header("ratelimit-remaining"),
            Some("0;w=21600"),
            "{rest}"
        );
    }
}

/// Registries that mount blobs across repositories may redirect to another path of their own.
#[tokio::test]
async fn a_blob_redirect_within_a_registry_is_followed() {
    let target = format!("/v2/{}", blob("shared/base"));
    let location = target.clone();
    let registry = Host::new("registry.example.com", move |received| {
        match received.path() {
            path if path == location => Reply::new(
                200,
                &[("content-type", "application/octet-stream")],
                "a layer",
            ),
            _ => redirect(307, &location),
        }
    });
    let Some(registries) = PublicRegistries::start([registry]).await else {
        return;
    };
    let response = registries
        .request("GET", "registry.example.com", &blob("team/app"))
        .await
        .expect(200);
    assert_eq!(
        (&*response.body, response.header("location")),
        (&b"a layer"[..], None)
    );
    assert_eq!(
        registries.take_requests()[1],
        format!("GET https://registry.example.com{target}")
    );
}
