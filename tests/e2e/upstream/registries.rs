//! Every registry that behaves unlike the others, as it was seen to behave, under its real name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::public_registries::{Host, PublicRegistries};
use test_support::answers::error;
use test_support::image::{DOCKER_LIST, INDEX, digest};
use test_support::server::{Reply, Seen};

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

/// The same for HEAD: a server of ours leaves the body out.
fn manifest_for(seen: &Seen) -> Reply {
    if seen.method == "HEAD" {
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

fn has(seen: &Seen, authorization: &str) -> bool {
    seen.header("authorization") == Some(authorization)
}

fn blob(name: &str) -> String {
    format!("{name}/blobs/{}", digest(b"a layer"))
}

/// One token for every repository; no HEAD of blobs; whoever comes with Basic is turned away.
#[tokio::test]
async fn public_ecr_aws() {
    const CDN: &str = "https://d2glxqk2uabbnd.cloudfront.net/layer?Signature=a~b_&Key-Pair-Id=K";
    let ecr = Host::new("public.ecr.aws", |seen| {
        match (&*seen.method, seen.path()) {
            (_, "/token/") => token("aws-token"),
            _ if seen
                .header("authorization")
                .is_some_and(|value| value.starts_with("Basic")) =>
            {
                error(400, "UNSUPPORTED")
            }
            ("HEAD", path) if path.contains("/blobs/") => challenge(
                r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#,
            ),
            _ if !has(seen, "Bearer aws-token") => challenge(
                r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#,
            ),
            (_, path) if path.contains("/blobs/") => redirect(307, CDN),
            _ => manifest_for(seen),
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
        .ask("GET", "public.ecr.aws", "nginx/nginx/manifests/1")
        .await
        .expect(200);
    assert_eq!(
        registries.asked(),
        [
            "GET https://public.ecr.aws/v2/docker/library/alpine/manifests/3",
            "GET https://public.ecr.aws/token/?service=public.ecr.aws&scope=aws",
            "GET https://public.ecr.aws/v2/docker/library/alpine/manifests/3 Bearer aws-token",
            "GET https://public.ecr.aws/v2/nginx/nginx/manifests/1 Bearer aws-token",
        ]
    );
    let blob = blob("nginx/nginx");
    for method in ["HEAD", "GET"] {
        let answer = registries
            .ask(method, "public.ecr.aws", &blob)
            .await
            .expect(307);
        assert_eq!(answer.header("location"), Some(CDN), "{method}");
    }
    let url = format!("https://public.ecr.aws/v2/{blob} Bearer aws-token");
    assert_eq!(
        registries.asked(),
        [
            format!("HEAD {url}"),
            format!("GET {url}"),
            format!("GET {url}")
        ]
    );
}

/// No service in the challenge; an expired token gets a challenge of another token server, which knows no anonymous users.
#[tokio::test]
async fn nvcr_io() {
    let is_expired = Arc::new(AtomicBool::new(false));
    let expired = Arc::clone(&is_expired);
    let nvcr = Host::new("nvcr.io", move |seen| {
        let good = if expired.load(Ordering::SeqCst) {
            "second"
        } else {
            "first"
        };
        match seen.header("authorization") {
            _ if seen.path() == "/proxy_auth" => token(good),
            Some(sent) if sent == format!("Bearer {good}") => manifest_for(seen),
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
    let ask = || registries.ask("GET", "nvcr.io", "nvidia/cuda/manifests/12");
    ask().await.expect(200);
    is_expired.store(true, Ordering::SeqCst);
    ask().await.expect(200);
    let url = "https://nvcr.io/v2/nvidia/cuda/manifests/12";
    let fetch = "GET https://nvcr.io/proxy_auth?scope=repository%3Anvidia%2Fcuda%3Apull";
    assert_eq!(
        registries.asked(),
        [
            format!("GET {url}"),
            fetch.into(),
            format!("GET {url} Bearer first"),
            format!("GET {url} Bearer first"),
            format!("GET {url}"),
            fetch.into(),
            format!("GET {url} Bearer second"),
        ]
    );
}

/// Redirects everything to ghcr.io, whose challenge and token are none of lscr.io's.
#[tokio::test]
async fn lscr_io() {
    const CDN: &str = "https://pkg-containers.githubusercontent.com/ghcr1/blobs/x?sig=a%2Fb%3D";
    let lscr = Host::new("lscr.io", |seen| {
        redirect(307, &format!("https://ghcr.io{}", seen.target))
    });
    let ghcr = Host::new("ghcr.io", |seen| match seen.path() {
        "/token" => token("of-ghcr"),
        _ if !has(seen, "Bearer of-ghcr") => challenge(
            r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:linuxserver/nginx:pull""#,
        ),
        path if path.contains("/blobs/") => redirect(307, CDN),
        _ => manifest_for(seen),
    });
    let Some(registries) = PublicRegistries::start([lscr, ghcr]).await else {
        return;
    };
    for method in ["HEAD", "GET"] {
        registries
            .ask(method, "lscr.io", "linuxserver/nginx/manifests/latest")
            .await
            .expect(200);
    }
    let path = "v2/linuxserver/nginx/manifests/latest";
    assert_eq!(
        registries.asked(),
        [
            format!("HEAD https://lscr.io/{path}"),
            format!("HEAD https://ghcr.io/{path}"),
            "GET https://ghcr.io/token?service=ghcr.io&scope=repository%3Alinuxserver%2Fnginx%3Apull".into(),
            format!("HEAD https://ghcr.io/{path} Bearer of-ghcr"),
            format!("GET https://lscr.io/{path}"),
            format!("GET https://ghcr.io/{path} Bearer of-ghcr"),
        ]
    );
    // A client that was sent to ghcr.io itself would have no token for it.
    let blob = blob("linuxserver/nginx");
    let answer = registries.ask("GET", "lscr.io", &blob).await.expect(307);
    assert_eq!(answer.header("location"), Some(CDN));
    assert_eq!(
        registries.asked(),
        [
            format!("GET https://lscr.io/v2/{blob}"),
            format!("GET https://ghcr.io/v2/{blob} Bearer of-ghcr")
        ]
    );
}

/// Manifests are at another registry, by way of a 307 that no client follows; blobs at a bucket.
#[tokio::test]
async fn registry_k8s_io() {
    const BUCKET: &str =
        "https://prod-registry-k8s-io-eu-west-1.s3.dualstack.eu-west-1.amazonaws.com/containers/x";
    let k8s = Host::new("registry.k8s.io", |seen| {
        match seen.path().split_once("/blobs/") {
            Some(_) => redirect(307, BUCKET),
            None => redirect(
                307,
                &seen.target.replace(
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
        let answer = registries
            .ask(method, "registry.k8s.io", "pause/manifests/3.9")
            .await
            .expect(200);
        assert_eq!(answer.header("content-type"), Some(INDEX));
        assert_eq!(answer.header("content-length"), Some("2"));
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(&*digest(b"{}"))
        );
        assert_eq!(answer.header("location"), None);
        assert_eq!(
            registries.asked(),
            [
                format!("{method} https://registry.k8s.io/v2/pause/manifests/3.9"),
                format!(
                    "{method} https://europe-west1-docker.pkg.dev/v2/k8s-artifacts-prod/images/pause/manifests/3.9"
                ),
            ]
        );
    }
    let answer = registries
        .ask("GET", "registry.k8s.io", &blob("pause"))
        .await
        .expect(307);
    assert_eq!(answer.header("location"), Some(BUCKET));
}

/// Registries whose challenges, or the lack of them, make the difference: what a first request has to lead to.
#[tokio::test]
async fn who_grants_tokens() {
    #[derive(Clone, Copy)]
    struct Case {
        registry: &'static str,
        rest: &'static str,
        /// The challenge, and the path on which it is.
        challenge: Option<(&'static str, &'static str)>,
        /// The token server, where it isn't the registry, and what it is asked.
        grantor: &'static str,
        fetch: &'static str,
        requests: usize,
    }
    let cases = [
        // The challenge is missing where it counts.
        Case {
            registry: "gcr.io",
            rest: "project/image/manifests/1",
            challenge: Some((
                r#"Bearer realm="https://gcr.io/v2/token",service="gcr.io""#,
                "/v2/",
            )),
            grantor: "gcr.io",
            fetch: "/v2/token?service=gcr.io&scope=repository%3Aproject%2Fimage%3Apull",
            requests: 4,
        },
        Case {
            registry: "registry.gitlab.com",
            rest: "group/project/image/manifests/1",
            challenge: Some((
                r#"Bearer realm="https://gitlab.com/jwt/auth",service="container_registry",scope="repository:group/project/image:pull",error="invalid_token""#,
                "",
            )),
            grantor: "gitlab.com",
            fetch: "/jwt/auth?service=container_registry&scope=repository%3Agroup%2Fproject%2Fimage%3Apull",
            requests: 3,
        },
        Case {
            registry: "mcr.microsoft.com",
            rest: "dotnet/sdk/manifests/8.0",
            challenge: None,
            grantor: "mcr.microsoft.com",
            fetch: "",
            requests: 1,
        },
    ];
    for case in cases {
        let answer = move |seen: &Seen| match case.challenge {
            _ if !case.fetch.is_empty() && seen.target == case.fetch => token("granted"),
            None => manifest_for(seen),
            Some(_) if has(seen, "Bearer granted") => manifest_for(seen),
            Some((line, at)) if at.is_empty() || at == seen.path() => challenge(line),
            Some(_) => error(401, "UNAUTHORIZED"),
        };
        let mut hosts = vec![Host::new(case.registry, answer)];
        if case.grantor != case.registry {
            hosts.push(Host::new(case.grantor, answer));
        }
        let Some(registries) = PublicRegistries::start(hosts).await else {
            return;
        };
        let seen = registries.ask("GET", case.registry, case.rest).await;
        let asked = registries.asked();
        assert_eq!(seen.status, 200, "{}: {asked:#?}", case.registry);
        assert_eq!(asked.len(), case.requests, "{}: {asked:#?}", case.registry);
        let fetch = format!("GET https://{}{}", case.grantor, case.fetch);
        assert_eq!(
            asked.contains(&fetch),
            case.challenge.is_some(),
            "{}: {asked:#?}",
            case.registry
        );
        // From then on each request is one.
        registries
            .ask("GET", case.registry, case.rest)
            .await
            .expect(200);
        assert_eq!(registries.asked().len(), 1, "{}", case.registry);
    }
}

/// The token server turns the anonymous away from private repositories; the types in `Accept` decide what exists.
#[tokio::test]
async fn ghcr_io() {
    for refusal in [401, 403] {
        let ghcr = Host::new("ghcr.io", move |seen| match seen.path() {
            "/token" if seen.target.contains("private") => error(refusal, "DENIED"),
            "/token" => token("t"),
            _ if !has(seen, "Bearer t") => {
                challenge(r#"Bearer realm="https://ghcr.io/token",service="ghcr.io""#)
            }
            _ => {
                let mut types = seen.headers.get_all("accept").iter();
                let knows = types.any(|line| line.to_str().is_ok_and(|line| line.contains(INDEX)));
                if knows {
                    manifest_for(seen)
                } else {
                    error(404, "MANIFEST_UNKNOWN")
                }
            }
        });
        let Some(registries) = PublicRegistries::start([ghcr]).await else {
            return;
        };
        registries
            .ask("GET", "ghcr.io", "owner/private/manifests/1")
            .await
            .expect_error(403, "DENIED");
        registries
            .ask("GET", "ghcr.io", &blob("owner/private"))
            .await
            .expect_error(403, "DENIED");
        registries
            .ask("GET", "ghcr.io", "owner/image/manifests/1")
            .await
            .expect(200);
        let old = registries
            .mirror
            .get("/v2/owner/image/manifests/1?upstream=ghcr.io")
            .header("accept", DOCKER_LIST);
        old.send().await.expect_error(404, "MANIFEST_UNKNOWN");
    }
}

/// quay.io sends clients on with 302, others with 307: both are theirs to follow, to the letter.
#[tokio::test]
async fn quay_io() {
    for status in [302, 307] {
        let cdn = "https://cdn01.quay.io/quayio-production-s3/sha256/aa/x?X-Amz-Signature=b%2Fc&cf_sign=d%3D%3D";
        let quay = Host::new("quay.io", move |_| redirect(status, cdn));
        let Some(registries) = PublicRegistries::start([quay]).await else {
            return;
        };
        for method in ["GET", "HEAD"] {
            let answer = registries
                .ask(method, "quay.io", &blob("coreos/etcd"))
                .await
                .expect(status);
            assert_eq!(answer.header("location"), Some(cdn));
            assert!(answer.body.is_empty());
        }
    }
}

/// Past its limits Docker Hub answers in plain text, and says when to come again; before them, how much is left.
#[tokio::test]
async fn docker_hub() {
    let hub = Host::new("registry-1.docker.io", |seen| match seen.path() {
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
    let answer = registries
        .ask("GET", "docker.io", "alpine/manifests/latest")
        .await
        .expect(200);
    assert_eq!(answer.header("ratelimit-limit"), Some("100;w=21600"));
    assert_eq!(answer.header("ratelimit-remaining"), Some("76;w=21600"));
    assert_eq!(answer.header("docker-ratelimit-source"), Some("192.0.2.1"));
    assert_eq!(
        registries.asked(),
        ["GET https://registry-1.docker.io/v2/library/alpine/manifests/latest"]
    );
    for rest in ["team/busy/manifests/latest", &blob("team/busy")] {
        let answer = registries
            .ask("GET", "docker.io", rest)
            .await
            .expect_error(429, "TOOMANYREQUESTS");
        assert_eq!(answer.header("retry-after"), Some("60"), "{rest}");
        assert_eq!(
            answer.header("ratelimit-remaining"),
            Some("0;w=21600"),
            "{rest}"
        );
    }
}

/// Registries that mount blobs across repositories may send clients to another path of their own.
#[tokio::test]
async fn a_blob_elsewhere_in_the_same_registry() {
    let target = format!("/v2/{}", blob("shared/base"));
    let location = target.clone();
    let registry = Host::new("registry.example.com", move |seen| match seen.path() {
        path if path == location => Reply::new(
            200,
            &[("content-type", "application/octet-stream")],
            "a layer",
        ),
        _ => redirect(307, &location),
    });
    let Some(registries) = PublicRegistries::start([registry]).await else {
        return;
    };
    let answer = registries
        .ask("GET", "registry.example.com", &blob("team/app"))
        .await
        .expect(200);
    assert_eq!(
        (&*answer.body, answer.header("location")),
        (&b"a layer"[..], None)
    );
    assert_eq!(
        registries.asked()[1],
        format!("GET https://registry.example.com{target}")
    );
}
