//! Clients log in to a mirror with accounts, and pull. What they log in with reaches the mirror
//! only: the registry, its token server and the CDN that blobs are redirected to don't see it.

use serde_json::json;

use super::recent::build_from_alpine;
use crate::support::client_fixture::{
    ACCOUNT, ClientFixture, NAME, REFERENCE, TOKEN, basic_login, expect_blobs,
};
use crate::support::daemons::{Containerd, Dockerd};
use crate::support::process::{output, run};
use crate::support::programs::{Programs, is_root};

#[tokio::test]
async fn curl_downloads_a_blob() {
    let Some(programs) = Programs::installed(&["curl"]) else {
        return;
    };
    let fixture = ClientFixture::with_account().await;
    let layer = &fixture.image.native().layers[0];
    let url = format!(
        "http://{}/v2/{NAME}/blobs/{}",
        fixture.mirror.address(),
        layer.digest
    );
    let file = fixture.path("layer");
    let mut command = programs.command("curl");
    command
        .args(["--silent", "--fail", "--location", "--user"])
        .arg(format!("{ACCOUNT}:{TOKEN}"))
        .arg("--output")
        .arg(&file)
        .arg(&url);
    run(&mut command.into()).await;
    assert_eq!(std::fs::read(&file).expect("a layer"), layer.bytes);
    fixture.expect_login_here_only(1).await;
    let mut command = programs.command("curl");
    command.args(["--silent", "--fail", "--location", &url]);
    assert_eq!(output(&mut command.into()).await.status.code(), Some(22));
}

/// podman, skopeo and buildah share what they log in with, and look for it under the name of a
/// mirror of `registries.conf` too.
async fn log_in_and_pull(name: &str, global: &[&str], pull: &[&str]) -> Option<ClientFixture> {
    let programs = Programs::installed(&[name])?;
    let fixture = ClientFixture::with_account().await;
    let conf = fixture.write("registries.conf", &fixture.recipe("registries.conf"));
    let command = |more: &[&str]| {
        let mut command = programs.command(name);
        if name == "skopeo" {
            command.arg("--registries-conf").arg(&conf);
        }
        command.args(global).args(more);
        command
            .env("CONTAINERS_REGISTRIES_CONF", &conf)
            .envs(fixture.environment())
            .current_dir(fixture.path(""));
        tokio::process::Command::from(command)
    };
    let address = fixture.mirror.address().to_string();
    // As in `skopeo login --username NAME mirror.example`.
    let login = |token| {
        command(&[
            "login",
            "--tls-verify=false",
            "--username",
            ACCOUNT,
            "--password",
            token,
            &address,
        ])
    };
    let refused = output(&mut login("wrong")).await;
    assert!(!refused.status.success(), "{name}: {refused:?}");
    run(&mut login(TOKEN)).await;
    run(&mut command(pull)).await;
    Some(fixture)
}

#[tokio::test]
async fn skopeo_logs_in_and_copies() {
    let from = format!("docker://{REFERENCE}");
    let Some(fixture) = log_in_and_pull("skopeo", &[], &["copy", &from, "dir:image"]).await else {
        return;
    };
    expect_blobs(&fixture.path("image"), fixture.image.native());
    fixture.expect_login_here_only(2 + 4).await;
}

/// podman and buildah have the same storage and mostly the same options.
async fn pull_into_storage(program: &str, more: &[&str]) {
    if !is_root(program) {
        return;
    }
    let tmp = tempfile::tempdir().expect("a folder");
    let tmp = tmp.path().display().to_string();
    let (root, run) = (format!("{tmp}/root"), format!("{tmp}/run"));
    let mut global = vec!["--root", &root, "--runroot", &run];
    global.extend(["--storage-driver", "vfs"]);
    global.extend(more);
    if let Some(fixture) = log_in_and_pull(program, &global, &["pull", REFERENCE]).await {
        fixture.expect_login_here_only(2 + 4).await;
    }
}

#[tokio::test]
async fn podman_logs_in_and_pulls() {
    let more = ["--cgroup-manager", "cgroupfs", "--events-backend", "none"];
    pull_into_storage("podman", &more).await;
}

#[tokio::test]
async fn buildah_logs_in_and_pulls() {
    pull_into_storage("buildah", &[]).await;
}

/// With `docker login`, and the mirror in the image's name.
async fn docker_logs_in_and_pulls(programs: &Programs) {
    let fixture = ClientFixture::with_account().await;
    let environment = fixture.environment();
    let dockerd =
        Dockerd::start(programs, &fixture.path("d"), &json!({}), "vfs", environment).await;
    let address = fixture.mirror.address().to_string();
    let image = format!("{address}/{NAME}");
    assert!(dockerd.docker(&["pull", &image]).await.is_err());
    let login = async |token| {
        let arguments = ["login", "--username", ACCOUNT, "--password", token];
        dockerd
            .docker(&[&arguments[..], &[&address]].concat())
            .await
    };
    let refused = login("wrong").await.expect_err("a wrong token");
    assert!(refused.contains("401"), "{refused}");
    login(TOKEN).await.expect("a login");
    dockerd.docker(&["pull", &image]).await.expect("a pull");
    let id = dockerd
        .docker(&["image", "inspect", &image, "--format", "{{.Id}}"])
        .await
        .expect("an image");
    assert_eq!(id.trim(), fixture.image.native().config.digest);
    fixture.expect_login_here_only(6).await;
    dockerd.stop();
}

#[tokio::test]
async fn docker_pulls_after_a_login() {
    let Some(programs) = Programs::installed(&["dockerd", "docker"]).filter(|_| is_root("dockerd"))
    else {
        return;
    };
    docker_logs_in_and_pulls(&programs).await;
}

fn docker_28(more: &[&str]) -> Option<Programs> {
    Programs::newer(&[&["dockerd", "docker", "containerd"], more].concat())
        .filter(|_| is_root("dockerd"))
}

#[tokio::test]
async fn docker_28_pulls_after_a_login() {
    if let Some(programs) = docker_28(&[]) {
        docker_logs_in_and_pulls(&programs).await;
    }
}

/// dockerd answers the challenge of a mirror in `registry-mirrors` with the login for Docker Hub,
/// never with one for the mirror's own name. So it is given the secret in the path, which takes no
/// challenge.
async fn dockerd_pulls_through_a_closed_mirror(programs: &Programs, takes_paths: bool) {
    const SECRET: &str = "c1a7e2d0-path-of-dockerd";
    let hub = "https://index.docker.io/v1/".to_owned();
    for (path, login_for_hub, account, comes_through) in [
        ("", false, None, false),
        ("", true, Some(ACCOUNT), true),
        (SECRET, true, None, true),
    ] {
        if !path.is_empty() && !takes_paths {
            continue;
        }
        let fixture =
            ClientFixture::with_account_and(|options| options.variable("secret", SECRET)).await;
        let address = fixture.mirror.address();
        let mirrors = json!({ "registry-mirrors": [format!("http://{address}/{path}")] });
        let name = if login_for_hub {
            hub.clone()
        } else {
            address.to_string()
        };
        let auths = json!({ "auths": { name: { "auth": basic_login() } } });
        fixture.write(".docker/config.json", &auths.to_string());
        let environment = fixture.environment();
        let dockerd =
            Dockerd::start(programs, &fixture.path("d"), &mirrors, "vfs", environment).await;
        let pulled = dockerd.docker(&["pull", "alpine"]).await;
        let log = fixture.mirror.log(1).await;
        let manifests: Vec<_> = log
            .iter()
            .filter(|line| line.endpoint == "manifest")
            .collect();
        assert_eq!(manifests.is_empty(), !comes_through, "{log:?}");
        for line in manifests {
            assert_eq!(line.client.as_deref(), account, "{line:?}");
        }
        assert_eq!(pulled.is_ok(), comes_through, "{pulled:?}");
        assert!(!fixture.mirror.stderr().join("\n").contains(SECRET));
        dockerd.stop();
    }
}

#[tokio::test]
async fn dockerd_has_the_login_for_docker_hub_for_its_registry_mirrors() {
    let Some(programs) = Programs::installed(&["dockerd", "docker"]).filter(|_| is_root("dockerd"))
    else {
        return;
    };
    dockerd_pulls_through_a_closed_mirror(&programs, false).await;
}

#[tokio::test]
async fn dockerd_28_needs_a_path_for_its_registry_mirrors() {
    if let Some(programs) = docker_28(&[]) {
        dockerd_pulls_through_a_closed_mirror(&programs, true).await;
    }
}

/// BuildKit is a part of dockerd, with a resolver of its own.
#[tokio::test]
async fn buildkit_builds_after_a_login() {
    let Some(programs) = docker_28(&["docker-buildx"]) else {
        return;
    };
    let fixture = ClientFixture::with_account().await;
    let plugin = fixture.write(".docker/cli-plugins/docker-buildx", "");
    std::fs::remove_file(&plugin).expect("a file");
    std::os::unix::fs::symlink(programs.find("docker-buildx").expect("a plugin"), &plugin)
        .expect("a link");
    let address = fixture.mirror.address().to_string();
    let file = format!("FROM {address}/{NAME}\nLABEL built=here\n");
    fixture.write("context/Dockerfile", &file);
    let environment = fixture.environment();
    let dockerd = Dockerd::start(
        &programs,
        &fixture.path("d"),
        &json!({}),
        "vfs",
        environment,
    )
    .await;
    let login = [
        "login",
        "--username",
        ACCOUNT,
        "--password",
        TOKEN,
        &address,
    ];
    dockerd.docker(&login).await.expect("a login");
    build_from_alpine(&dockerd, &fixture).await;
    fixture.expect_login_here_only(6).await;
    dockerd.stop();
}

/// With the header of its hosts file, and with the login that Kubernetes hands over.
async fn containerd_pulls_with_an_account(programs: &Programs) {
    let fixture = ClientFixture::with_account().await;
    let containerd = Containerd::start(programs, &fixture.path("c"), fixture.environment()).await;
    let hosts = fixture.recipe("account-hosts.toml");
    assert!(hosts.contains("BASE64"));
    fixture.write(
        "hosts/docker.io/hosts.toml",
        &hosts.replace("BASE64", &basic_login()),
    );
    containerd
        .pull(&fixture.path("hosts"), REFERENCE)
        .await
        .expect("a pull");
    let content = containerd.ctr(&["content", "ls", "--quiet"]).await;
    let content = content.expect("content");
    let here = fixture.image.native();
    for wanted in here.blobs().chain([&here.manifest]) {
        assert!(content.contains(&wanted.digest), "{content}");
    }
    fixture.expect_login_here_only(7).await;
    containerd.stop();

    let fixture = ClientFixture::with_account().await;
    let containerd = Containerd::start(programs, &fixture.path("c"), fixture.environment()).await;
    let image = format!("{}/{NAME}:latest", fixture.mirror.address());
    let login = format!("{ACCOUNT}:{TOKEN}");
    let mut arguments = vec!["images", "pull", "--plain-http", "--user", &login];
    arguments.extend(["--snapshotter", "native"]);
    arguments.extend(programs.are_newer().then_some("--local"));
    arguments.push(&image);
    containerd.ctr(&arguments).await.expect("a pull");
    fixture.expect_login_here_only(6).await;
    containerd.stop();
}

#[tokio::test]
async fn containerd_pulls_with_a_header_or_a_login() {
    let Some(programs) =
        Programs::installed(&["containerd", "ctr"]).filter(|_| is_root("containerd"))
    else {
        return;
    };
    containerd_pulls_with_an_account(&programs).await;
}

#[tokio::test]
async fn containerd_2_pulls_with_a_header_or_a_login() {
    let Some(programs) =
        Programs::newer(&["containerd", "ctr"]).filter(|_| is_root("containerd 2"))
    else {
        return;
    };
    containerd_pulls_with_an_account(&programs).await;
}

/// Runs a login, and then the commands of a recipe, in the folder of the fixture.
async fn log_in_and_run(name: &str, login: &[&str], recipe: &str, host: &str) -> Option<()> {
    let programs = Programs::newer(&[name])?;
    let fixture = ClientFixture::with_account().await;
    let address = fixture.mirror.address();
    let own = format!("{host}:{}", address.port());
    let lines = fixture.recipe(recipe).replace(&address.to_string(), &own);
    let script = fixture.write(recipe, &lines);
    let command = |name: &str| {
        let mut command = programs.command(name);
        command
            .envs(fixture.environment())
            .current_dir(fixture.path(""));
        command
    };
    let mut logging_in = command(name);
    logging_in.args(login).arg(&own);
    run(&mut logging_in.into()).await;
    let mut sh = command("sh");
    sh.arg("-e").arg(script);
    run(&mut sh.into()).await;
    for platform in &fixture.image.platforms {
        expect_blobs(&fixture.path("alpine/blobs/sha256"), platform);
    }
    fixture.expect_login_here_only(1 + 1 + 3 + 8).await;
    Some(())
}

#[tokio::test]
async fn crane_reads_the_mirror_after_a_login() {
    let login = ["auth", "login", "--username", ACCOUNT, "--password", TOKEN];
    log_in_and_run("crane", &login, "crane.sh", "127.0.0.1").await;
}

/// It uses http with `localhost` only, unless told.
#[tokio::test]
async fn oras_reads_the_mirror_after_a_login() {
    let login = ["login", "--username", ACCOUNT, "--password", TOKEN];
    log_in_and_run("oras", &login, "oras.sh", "localhost").await;
}
