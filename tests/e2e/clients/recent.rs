//! The same with newer clients: docker 28, containerd 2, BuildKit, crane and oras.

use serde_json::{Value, json};

use crate::clients::debian::{containerd_pulls, dockerd_pulls};
use crate::support::client_fixture::{ClientFixture, NAME, RequestCounts, expect_blobs};
use crate::support::daemons::Dockerd;
use crate::support::mirror::Options;
use crate::support::process::run;
use crate::support::programs::{Programs, is_root};
use test_support::hub::Hub;
use test_support::image::{DOCKER, Image};
use test_support::server::closed_address;

fn docker_28(more: &[&str]) -> Option<Programs> {
    Programs::newer(&[&["dockerd", "docker", "containerd"], more].concat())
        .filter(|_| is_root("dockerd"))
}

#[tokio::test]
async fn dockerd_28_pulls_through_its_registry_mirrors() {
    let Some(programs) = docker_28(&[]) else {
        return;
    };
    dockerd_pulls(&programs, "dockerd 28").await;
}

#[tokio::test]
async fn containerd_2_pulls_through_its_hosts_file() {
    let Some(programs) =
        Programs::newer(&["containerd", "ctr"]).filter(|_| is_root("containerd 2"))
    else {
        return;
    };
    containerd_pulls(&programs, "containerd 2").await;
}

/// dockerd 20 refuses such an entry of `registry-mirrors`.
#[tokio::test]
async fn dockerd_28_selects_an_upstream_by_a_path() {
    let Some(programs) = docker_28(&[]) else {
        return;
    };
    let (hub, image) = (Hub::start().await, Image::new(DOCKER, "by a path"));
    hub.push(NAME, "latest", &image);
    let mirror = Options::default()
        .upstream(closed_address().await)
        .plain_http(hub.addresses())
        .start()
        .await;
    let files = tempfile::tempdir().expect("a folder");
    let config =
        json!({ "registry-mirrors": [format!("http://{}/{}", mirror.address(), hub.address())] });
    let home = vec![("HOME", files.path().to_path_buf())];
    let dockerd = Dockerd::start(&programs, &files.path().join("d"), &config, "vfs", home).await;
    dockerd.docker(&["pull", "alpine"]).await.expect("a pull");
    let id = dockerd
        .docker(&["image", "inspect", "alpine", "--format", "{{.Id}}"])
        .await
        .expect("an image");
    assert_eq!(id.trim(), image.native().config.digest);
    dockerd.stop();
}

/// The target: a warm pull of six layers takes no more upstream requests than the client makes.
#[tokio::test]
async fn a_warm_pull_by_dockerd_28_needs_no_extra_requests() {
    let Some(programs) = docker_28(&[]) else {
        return;
    };
    let Some(fixture) = ClientFixture::docker_registry(false, 6).await else {
        return;
    };
    let config: Value = serde_json::from_str(&fixture.recipe("daemon.json")).expect("daemon.json");
    let mut before = None;
    for pull in ["cold", "warm"] {
        let dockerd = Dockerd::start(
            &programs,
            &fixture.path(pull),
            &config,
            "vfs",
            fixture.environment(),
        )
        .await;
        dockerd.docker(&["pull", "alpine"]).await.expect("a pull");
        let id = dockerd
            .docker(&["image", "inspect", "alpine", "--format", "{{.Id}}"])
            .await
            .expect("an image");
        assert_eq!(id.trim(), fixture.image.native().config.digest);
        dockerd.stop();
        // HEAD of the tag, index, manifest, config, six layers.
        let least = before.map_or(0, |counts: RequestCounts| counts.client) + 10;
        let counts = fixture.request_counts(least).await;
        if let Some(before) = before.replace(counts) {
            let (client, upstream) = (
                counts.client - before.client,
                counts.upstream - before.upstream,
            );
            let tokens = counts.tokens - before.tokens;
            println!(
                "dockerd 28, six layers, warm: {client} client requests, {upstream} upstream requests, {tokens} token requests"
            );
            assert!(upstream <= client, "{upstream} for {client}");
            assert!(tokens <= 1, "{tokens} token requests");
        } else {
            println!("dockerd 28, six layers, cold: {counts:?}");
        }
    }
}

#[tokio::test]
async fn dockerd_28_pulls_into_containerds_store() {
    let Some(programs) = docker_28(&[]) else {
        return;
    };
    for fixture in ClientFixture::all().await {
        let mut config: Value =
            serde_json::from_str(&fixture.recipe("daemon.json")).expect("daemon.json");
        config["features"] = json!({ "containerd-snapshotter": true });
        let dockerd = Dockerd::start(
            &programs,
            &fixture.path("d"),
            &config,
            "native",
            fixture.environment(),
        )
        .await;
        dockerd.docker(&["pull", "alpine"]).await.expect("a pull");
        let id = dockerd
            .docker(&["image", "inspect", "alpine", "--format", "{{.Id}}"])
            .await
            .expect("an image");
        assert_eq!(id.trim(), fixture.image.index.digest);
        fixture
            .expect_first_pull("dockerd 28 with containerd's store", 7)
            .await;
        dockerd.stop();
    }
}

/// BuildKit is part of dockerd, with a resolver of its own.
#[tokio::test]
async fn buildkit_builds_from_a_mirrored_image() {
    let Some(programs) = docker_28(&["docker-buildx"]) else {
        return;
    };
    for fixture in ClientFixture::all().await {
        let config: Value =
            serde_json::from_str(&fixture.recipe("daemon.json")).expect("daemon.json");
        let plugin = fixture.write(".docker/cli-plugins/docker-buildx", "");
        std::fs::remove_file(&plugin).expect("a file");
        std::os::unix::fs::symlink(programs.find("docker-buildx").expect("a plugin"), &plugin)
            .expect("a link");
        fixture.write("context/Dockerfile", "FROM alpine\nLABEL built=here\n");
        let dockerd = Dockerd::start(
            &programs,
            &fixture.path("d"),
            &config,
            "vfs",
            fixture.environment(),
        )
        .await;
        build_from_alpine(&dockerd, &fixture).await;
        // HEAD of the tag or its index, manifest, config, three layers.
        fixture.expect_first_pull("BuildKit", 6).await;
        dockerd.stop();
    }
}

/// Builds the Dockerfile of the folder `context`, which adds no layer to the image of the fixture.
pub async fn build_from_alpine(dockerd: &Dockerd, fixture: &ClientFixture) {
    let context = fixture.path("context").display().to_string();
    dockerd
        .docker(&["build", "--tag", "built", &context])
        .await
        .expect("a build");
    let format = ["--format", "{{json .RootFS.Layers}}"];
    let layers = dockerd
        .docker(&[&["image", "inspect", "built"][..], &format].concat())
        .await;
    let layers: Value = serde_json::from_str(&layers.expect("an image")).expect("layers");
    let config: Value =
        serde_json::from_slice(&fixture.image.native().config.bytes).expect("a config");
    assert_eq!(layers, config["rootfs"]["diff_ids"]);
}

/// Runs the commands of a recipe in the folder of the fixture, and returns their stdout.
async fn run_recipe(
    programs: &Programs,
    fixture: &ClientFixture,
    recipe: &str,
    lines: &str,
) -> String {
    let script = fixture.write(recipe, lines);
    let mut command = programs.command("sh");
    command
        .arg("-e")
        .arg(script)
        .current_dir(fixture.path(""))
        .envs(fixture.environment());
    run(&mut command.into()).await
}

#[tokio::test]
async fn crane_reads_the_mirror_as_a_registry() {
    let Some(programs) = Programs::newer(&["crane"]) else {
        return;
    };
    for fixture in ClientFixture::all().await {
        let printed =
            run_recipe(&programs, &fixture, "crane.sh", &fixture.recipe("crane.sh")).await;
        assert_eq!(printed, format!("latest\n{}\n", fixture.image.index.digest));
        for platform in &fixture.image.platforms {
            expect_blobs(&fixture.path("alpine/blobs/sha256"), platform);
        }
        fixture.expect_first_pull("crane", 1 + 1 + 3 + 8).await;
    }
}

#[tokio::test]
async fn oras_reads_the_mirror_as_a_registry() {
    let Some(programs) = Programs::newer(&["oras"]) else {
        return;
    };
    for fixture in ClientFixture::all().await {
        // It uses http with `localhost` only, unless told.
        let lines = fixture.recipe("oras.sh");
        let lines = if fixture.is_https() {
            lines
        } else {
            lines.replace("127.0.0.1", "localhost")
        };
        let printed = run_recipe(&programs, &fixture, "oras.sh", &lines).await;
        assert!(
            printed.starts_with("latest\n") && printed.contains(&fixture.image.index.digest),
            "{printed}"
        );
        for platform in &fixture.image.platforms {
            expect_blobs(&fixture.path("alpine/blobs/sha256"), platform);
        }
        fixture.expect_first_pull("oras", 1 + 1 + 3 + 8).await;
    }
}
