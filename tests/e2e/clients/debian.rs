//! Clients of this machine's Debian suite pull an image through the mirror, with the files of
//! `deploy/clients/`. The tests compare digests and count requests.

use serde_json::Value;

use crate::support::client_fixture::{ClientFixture, REFERENCE, expect_blobs, hex};
use crate::support::daemons::{Containerd, Dockerd};
use crate::support::process::run;
use crate::support::programs::{Programs, is_root};

#[tokio::test]
async fn skopeo_copies_one_platform_and_all() {
    let Some(programs) = Programs::installed(&["skopeo"]) else {
        return;
    };
    for fixture in ClientFixture::all().await {
        let skopeo = async |name: &str, more: &[&str]| {
            let dir = fixture.path(name);
            let mut command = programs.command("skopeo");
            command
                .arg("--registries-conf")
                .arg(fixture.write("registries.conf", &fixture.recipe("registries.conf")));
            command
                .arg("copy")
                .args(more)
                .arg(format!("docker://{REFERENCE}"))
                .arg(format!("dir:{}", dir.display()));
            command.envs(fixture.environment());
            run(&mut command.into()).await;
            dir
        };
        let here = skopeo("here", &[]).await;
        let manifest = std::fs::read(here.join("manifest.json")).expect("a manifest");
        assert_eq!(manifest, fixture.image.native().manifest.bytes);
        expect_blobs(&here, fixture.image.native());

        let all = skopeo("all", &["--all"]).await;
        let index = std::fs::read(all.join("manifest.json")).expect("an index");
        assert_eq!(index, fixture.image.index.bytes);
        for platform in &fixture.image.platforms {
            expect_blobs(&all, platform);
        }
        fixture.expect_first_pull("skopeo", 2 + 4 + 3 + 8).await;
    }
}

#[tokio::test]
async fn skopeo_reads_the_mirror_as_a_registry() {
    let Some(programs) = Programs::installed(&["skopeo"]) else {
        return;
    };
    let Some(fixture) = ClientFixture::docker_registry(true, 3).await else {
        return;
    };
    let mut command = programs.command("sh");
    command
        .arg("-e")
        .arg(fixture.write("skopeo.sh", &fixture.recipe("skopeo.sh")));
    command
        .current_dir(fixture.path(""))
        .envs(fixture.environment());
    let printed = run(&mut command.into()).await;
    assert!(printed.contains("latest"), "{printed}");
    assert!(
        printed.contains(&fixture.image.native().manifest.digest),
        "{printed}"
    );
    for platform in &fixture.image.platforms {
        expect_blobs(&fixture.path("alpine"), platform);
    }
    fixture.expect_first_pull("skopeo", 1 + 1 + 3 + 8).await;
}

/// podman and buildah have the same storage and mostly the same options.
async fn pull_into_storage(name: &str, global: &[&str]) {
    let Some(programs) = Programs::installed(&[name]).filter(|_| is_root(name)) else {
        return;
    };
    for fixture in ClientFixture::all().await {
        let conf = fixture.write("registries.conf", &fixture.recipe("registries.conf"));
        let command = |more: &[&str]| {
            let mut command = programs.command(name);
            command
                .arg("--root")
                .arg(fixture.path("root"))
                .arg("--runroot")
                .arg(fixture.path("run"));
            command
                .args(["--storage-driver", "vfs"])
                .args(global)
                .args(more);
            command
                .env("CONTAINERS_REGISTRIES_CONF", &conf)
                .envs(fixture.environment());
            command.current_dir(fixture.path(""));
            tokio::process::Command::from(command)
        };
        let printed = run(&mut command(&["pull", "--quiet", REFERENCE])).await;
        assert_eq!(printed.trim(), hex(&fixture.image.native().config.digest));
        let images = run(&mut command(&["images", "--digests", "--no-trunc"])).await;
        let here = &fixture.image.native().manifest.digest;
        assert!(
            images.contains(&fixture.image.index.digest) || images.contains(here),
            "{images}"
        );
        fixture.expect_first_pull(name, 2 + 4).await;
    }
}

#[tokio::test]
async fn podman_pulls() {
    let tmp = tempfile::tempdir().expect("a folder");
    let tmp = tmp.path().display().to_string();
    let global = [
        "--cgroup-manager",
        "cgroupfs",
        "--events-backend",
        "none",
        "--tmpdir",
        &tmp,
    ];
    pull_into_storage("podman", &global).await;
}

#[tokio::test]
async fn buildah_pulls() {
    pull_into_storage("buildah", &[]).await;
}

pub async fn dockerd_pulls(programs: &Programs, client: &str) {
    for fixture in ClientFixture::all().await {
        let config: Value =
            serde_json::from_str(&fixture.recipe("daemon.json")).expect("daemon.json");
        let dockerd = Dockerd::start(
            programs,
            &fixture.path("d"),
            &config,
            "vfs",
            fixture.environment(),
        )
        .await;
        let docker = async |arguments: &[&str]| dockerd.docker(arguments).await.expect("docker");
        docker(&["pull", "alpine"]).await;
        let id = docker(&["image", "inspect", "alpine", "--format", "{{.Id}}"]).await;
        assert_eq!(id.trim(), fixture.image.native().config.digest);
        let digests = docker(&["image", "inspect", "alpine", "--format", "{{.RepoDigests}}"]).await;
        assert!(digests.contains(&fixture.image.index.digest), "{digests}");
        // HEAD of the tag, index, manifest, config, three layers.
        fixture.expect_first_pull(client, 7).await;
        dockerd.stop();
    }
}

#[tokio::test]
async fn dockerd_pulls_through_its_registry_mirrors() {
    let Some(programs) = Programs::installed(&["dockerd", "docker"]).filter(|_| is_root("dockerd"))
    else {
        return;
    };
    dockerd_pulls(&programs, "dockerd").await;
}

pub async fn containerd_pulls(programs: &Programs, client: &str) {
    for fixture in ClientFixture::all().await {
        let containerd =
            Containerd::start(programs, &fixture.path("c"), fixture.environment()).await;
        fixture.write("hosts/docker.io/hosts.toml", &fixture.recipe("hosts.toml"));
        containerd
            .pull(&fixture.path("hosts"), REFERENCE)
            .await
            .expect("a pull");
        let images = containerd.ctr(&["images", "ls"]).await.expect("images");
        assert!(images.contains(&fixture.image.index.digest), "{images}");
        let content = containerd
            .ctr(&["content", "ls", "--quiet"])
            .await
            .expect("content");
        let here = fixture.image.native();
        for wanted in here.blobs().chain([&here.manifest]) {
            assert!(
                content.contains(&wanted.digest),
                "{} not in {content}",
                wanted.digest
            );
        }
        fixture.expect_first_pull(client, 7).await;
        containerd.stop();
    }
}

#[tokio::test]
async fn containerd_pulls_through_its_hosts_file() {
    let Some(programs) =
        Programs::installed(&["containerd", "ctr"]).filter(|_| is_root("containerd"))
    else {
        return;
    };
    containerd_pulls(&programs, "containerd").await;
}
