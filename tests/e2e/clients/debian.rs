//! Real clients of this machine's own suite pull an image of several layers and platforms through the mirror, by the
//! recipes in `deploy/clients/`. Digests are compared, requests counted.

use serde_json::Value;

use crate::support::daemons::{Containerd, Dockerd};
use crate::support::process::run;
use crate::support::programs::{Programs, is_root};
use crate::support::scene::{REFERENCE, Scene, expect_blobs, hex};

#[tokio::test]
async fn skopeo_copies_one_platform_and_all() {
    let Some(programs) = Programs::installed(&["skopeo"]) else {
        return;
    };
    for scene in Scene::all().await {
        let skopeo = async |name: &str, more: &[&str]| {
            let dir = scene.path(name);
            let mut command = programs.command("skopeo");
            command
                .arg("--registries-conf")
                .arg(scene.write("registries.conf", &scene.recipe("registries.conf")));
            command
                .arg("copy")
                .args(more)
                .arg(format!("docker://{REFERENCE}"))
                .arg(format!("dir:{}", dir.display()));
            command.envs(scene.environment());
            run(&mut command.into()).await;
            dir
        };
        let here = skopeo("here", &[]).await;
        let manifest = std::fs::read(here.join("manifest.json")).expect("a manifest");
        assert_eq!(manifest, scene.image.here().manifest.bytes);
        expect_blobs(&here, scene.image.here());

        let all = skopeo("all", &["--all"]).await;
        let index = std::fs::read(all.join("manifest.json")).expect("an index");
        assert_eq!(index, scene.image.index.bytes);
        for platform in &scene.image.platforms {
            expect_blobs(&all, platform);
        }
        scene.expect_its_cost("skopeo", 2 + 4 + 3 + 8).await;
    }
}

#[tokio::test]
async fn skopeo_reads_the_mirror_as_a_registry() {
    let Some(programs) = Programs::installed(&["skopeo"]) else {
        return;
    };
    let Some(scene) = Scene::debian(true, 3).await else {
        return;
    };
    let mut command = programs.command("sh");
    command
        .arg("-e")
        .arg(scene.write("skopeo.sh", &scene.recipe("skopeo.sh")));
    command
        .current_dir(scene.path(""))
        .envs(scene.environment());
    let printed = run(&mut command.into()).await;
    assert!(printed.contains("latest"), "{printed}");
    assert!(
        printed.contains(&scene.image.here().manifest.digest),
        "{printed}"
    );
    for platform in &scene.image.platforms {
        expect_blobs(&scene.path("alpine"), platform);
    }
    scene.expect_its_cost("skopeo", 1 + 1 + 3 + 8).await;
}

/// podman and buildah share their storage and most of their options.
async fn pull_into_storage(name: &str, global: &[&str]) {
    let Some(programs) = Programs::installed(&[name]).filter(|_| is_root(name)) else {
        return;
    };
    for scene in Scene::all().await {
        let conf = scene.write("registries.conf", &scene.recipe("registries.conf"));
        let command = |more: &[&str]| {
            let mut command = programs.command(name);
            command
                .arg("--root")
                .arg(scene.path("root"))
                .arg("--runroot")
                .arg(scene.path("run"));
            command
                .args(["--storage-driver", "vfs"])
                .args(global)
                .args(more);
            command
                .env("CONTAINERS_REGISTRIES_CONF", &conf)
                .envs(scene.environment());
            command.current_dir(scene.path(""));
            tokio::process::Command::from(command)
        };
        let printed = run(&mut command(&["pull", "--quiet", REFERENCE])).await;
        assert_eq!(printed.trim(), hex(&scene.image.here().config.digest));
        let images = run(&mut command(&["images", "--digests", "--no-trunc"])).await;
        let here = &scene.image.here().manifest.digest;
        assert!(
            images.contains(&scene.image.index.digest) || images.contains(here),
            "{images}"
        );
        scene.expect_its_cost(name, 2 + 4).await;
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
    for scene in Scene::all().await {
        let config: Value =
            serde_json::from_str(&scene.recipe("daemon.json")).expect("daemon.json");
        let dockerd = Dockerd::start(
            programs,
            &scene.path("d"),
            &config,
            "vfs",
            scene.environment(),
        )
        .await;
        let docker = async |arguments: &[&str]| dockerd.docker(arguments).await.expect("docker");
        docker(&["pull", "alpine"]).await;
        let id = docker(&["image", "inspect", "alpine", "--format", "{{.Id}}"]).await;
        assert_eq!(id.trim(), scene.image.here().config.digest);
        let digests = docker(&["image", "inspect", "alpine", "--format", "{{.RepoDigests}}"]).await;
        assert!(digests.contains(&scene.image.index.digest), "{digests}");
        // HEAD of the tag, index, manifest, config, three layers.
        scene.expect_its_cost(client, 7).await;
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
    for scene in Scene::all().await {
        let containerd = Containerd::start(programs, &scene.path("c"), scene.environment()).await;
        scene.write("hosts/docker.io/hosts.toml", &scene.recipe("hosts.toml"));
        containerd
            .pull(&scene.path("hosts"), REFERENCE)
            .await
            .expect("a pull");
        let images = containerd.ctr(&["images", "ls"]).await.expect("images");
        assert!(images.contains(&scene.image.index.digest), "{images}");
        let content = containerd
            .ctr(&["content", "ls", "--quiet"])
            .await
            .expect("content");
        let here = scene.image.here();
        for wanted in here.blobs().chain([&here.manifest]) {
            assert!(
                content.contains(&wanted.digest),
                "{} not in {content}",
                wanted.digest
            );
        }
        scene.expect_its_cost(client, 7).await;
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
