//! Real clients pull an image of several layers and platforms through the mirror, from two registries: Debian's
//! `docker-registry`, and ours with its redirects to a CDN. Digests are compared, requests counted.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::docker_registry::DockerRegistry;
use crate::support::hub::{Hub, Place};
use crate::support::image::{DOCKER, Image, OCI, Platform, digest};
use crate::support::mirror::{Mirror, Options};
use crate::support::process::{Process, find, run};
use crate::support::skip;

const NAME: &str = "library/alpine";
const REFERENCE: &str = "docker.io/library/alpine:latest";

/// A mirror of one registry with one image, and a folder for the client.
struct Scene {
    upstream: Upstream,
    image: Image,
    mirror: Mirror,
    files: TempDir,
}

enum Upstream {
    Debian(DockerRegistry),
    Ours(Hub),
}

impl Scene {
    async fn debian() -> Option<Self> {
        let registry = DockerRegistry::start().await?;
        let image = Image::new(OCI, "debian");
        registry.push(NAME, "latest", &image).await;
        let options = Options::default()
            .upstream(registry.address())
            .plain_http([registry.tokens.address()]);
        Some(Self::of(Upstream::Debian(registry), image, options).await)
    }

    async fn ours() -> Self {
        let hub = Hub::start().await;
        let image = Image::new(DOCKER, "ours");
        hub.push(NAME, "latest", &image);
        let options = Options::default().upstream(hub.address()).plain_http(hub.addresses());
        Self::of(Upstream::Ours(hub), image, options).await
    }

    async fn of(upstream: Upstream, image: Image, options: Options) -> Self {
        Self {
            upstream,
            image,
            mirror: options.start().await,
            files: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// The file in which podman, skopeo and buildah read of a mirror.
    fn registries_conf(&self) -> PathBuf {
        let mirror = self.mirror.address();
        self.write(
            "registries.conf",
            &format!(
                "unqualified-search-registries = [\"docker.io\"]\n\
             [[registry]]\nlocation = \"docker.io\"\n\
             [[registry.mirror]]\nlocation = \"{mirror}\"\ninsecure = true\n"
            ),
        )
    }

    /// What the pull cost: one upstream request for each of the client's, one more for the first challenge, one token.
    async fn expect_its_cost(&self, client: &str, least: usize) {
        let (registry, requests, fetches) = match &self.upstream {
            Upstream::Debian(registry) => ("docker-registry", registry.requests(), registry.tokens.fetches()),
            Upstream::Ours(hub) => (
                "our registry",
                hub.seen(Place::Registry).len(),
                hub.seen(Place::Tokens).len(),
            ),
        };
        let lines = self.mirror.log(least).await;
        let asked = lines.iter().filter(|line| !line.contains("requests=0")).count();
        println!(
            "{client} from {registry}: {asked} requests of the client, {requests} upstream, {fetches} token fetches"
        );
        // Requests that arrive while the first token is on its way can meet the challenge too.
        assert!(requests <= asked + 1 + fetches, "{lines:#?}");
        assert!(asked >= least, "the client asked somebody else: {lines:#?}");
        assert!((1..=3).contains(&fetches), "{fetches} token fetches\n{lines:#?}");
    }
}

/// Both registries, or ours alone where Debian's is missing; none where the client is missing.
async fn scenes(programs: &[&str]) -> Vec<Scene> {
    if let Some(missing) = programs.iter().find(|program| find(program).is_none()) {
        skip(&format!("{missing} is not installed"));
        return Vec::new();
    }
    let debian = Scene::debian().await;
    if debian.is_none() {
        skip("docker-registry is not installed");
    }
    debian.into_iter().chain([Scene::ours().await]).collect()
}

/// The same for clients that mount and change owners.
async fn scenes_for_root(programs: &[&str]) -> Vec<Scene> {
    if !rustix::process::geteuid().is_root() {
        skip(&format!("{} needs root", programs[0]));
        return Vec::new();
    }
    scenes(programs).await
}

fn program(name: &str) -> tokio::process::Command {
    tokio::process::Command::new(find(name).expect("looked for before"))
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

/// A folder as `skopeo copy … dir:` writes it.
fn expect_blobs(dir: &Path, platform: &Platform) {
    for blob in platform.blobs() {
        let bytes = std::fs::read(dir.join(hex(&blob.digest))).expect("a blob");
        assert_eq!(digest(&bytes), blob.digest);
    }
}

#[tokio::test]
async fn skopeo_copies_one_platform_and_all() {
    for scene in scenes(&["skopeo"]).await {
        let skopeo = async |name: &str, more: &[&str]| {
            let dir = scene.path(name);
            let mut command = program("skopeo");
            command
                .arg("--registries-conf")
                .arg(scene.registries_conf())
                .args(["--insecure-policy", "copy"]);
            command
                .args(more)
                .arg(format!("docker://{REFERENCE}"))
                .arg(format!("dir:{}", dir.display()));
            run(command.env("HOME", scene.files.path())).await;
            dir
        };
        let here = skopeo("here", &[]).await;
        let manifest = std::fs::read(here.join("manifest.json")).expect("a manifest");
        assert_eq!(digest(&manifest), scene.image.here().manifest.digest);
        expect_blobs(&here, scene.image.here());

        let all = skopeo("all", &["--all"]).await;
        let index = std::fs::read(all.join("manifest.json")).expect("an index");
        assert_eq!(digest(&index), scene.image.index.digest);
        for platform in &scene.image.platforms {
            expect_blobs(&all, platform);
        }
        scene.expect_its_cost("skopeo", 2 + 4 + 3 + 8).await;
    }
}

/// podman and buildah share their storage and most of their options.
async fn pull_into_storage(name: &str, scene: &Scene, global: &[&str]) {
    let command = |more: &[&str]| {
        let mut command = program(name);
        command
            .arg("--root")
            .arg(scene.path("root"))
            .arg("--runroot")
            .arg(scene.path("run"));
        command.args(["--storage-driver", "vfs"]).args(global).args(more);
        command.env("CONTAINERS_REGISTRIES_CONF", scene.registries_conf());
        command
            .env("HOME", scene.files.path())
            .env("XDG_RUNTIME_DIR", scene.files.path());
        command
    };
    let printed = run(&mut command(&["pull", "--quiet", REFERENCE])).await;
    assert_eq!(printed.trim(), hex(&scene.image.here().config.digest));
    let images = run(&mut command(&["images", "--digests", "--no-trunc"])).await;
    assert!(
        images.contains(&scene.image.index.digest) || images.contains(&scene.image.here().manifest.digest),
        "{images}"
    );
    scene.expect_its_cost(name, 2 + 4).await;
}

#[tokio::test]
async fn podman_pulls() {
    for scene in scenes_for_root(&["podman"]).await {
        let tmp = scene.path("tmp");
        std::fs::create_dir(&tmp).expect("a folder");
        let tmp = tmp.display().to_string();
        let global = [
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "none",
            "--tmpdir",
            &tmp,
        ];
        pull_into_storage("podman", &scene, &global).await;
    }
}

#[tokio::test]
async fn buildah_pulls() {
    for scene in scenes_for_root(&["buildah"]).await {
        pull_into_storage("buildah", &scene, &[]).await;
    }
}

#[tokio::test]
async fn dockerd_pulls_through_its_registry_mirrors() {
    for scene in scenes_for_root(&["dockerd", "docker"]).await {
        let socket = format!("unix://{}", scene.path("docker.sock").display());
        let mut dockerd = Command::new(find("dockerd").expect("looked for before"));
        dockerd.args([
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--storage-driver=vfs",
        ]);
        dockerd.arg("--config-file").arg(scene.write("daemon.json", "{}"));
        dockerd
            .arg("--data-root")
            .arg(scene.path("data"))
            .arg("--exec-root")
            .arg(scene.path("exec"));
        dockerd.arg("--pidfile").arg(scene.path("pid")).args(["-H", &socket]);
        dockerd
            .arg("--registry-mirror")
            .arg(format!("http://{}", scene.mirror.address()));
        let mut dockerd = Process::spawn(&mut dockerd);
        dockerd
            .wait_for("dockerd", |dockerd| {
                dockerd.stderr().contains("API listen on").then_some(())
            })
            .await;

        let docker = async |arguments: &[&str]| {
            let mut command = program("docker");
            run(command
                .args(["-H", &socket])
                .args(arguments)
                .env("HOME", scene.files.path()))
            .await
        };
        docker(&["pull", "alpine"]).await;
        let id = docker(&["image", "inspect", "alpine", "--format", "{{.Id}}"]).await;
        assert_eq!(id.trim(), scene.image.here().config.digest);
        let digests = docker(&["image", "inspect", "alpine", "--format", "{{.RepoDigests}}"]).await;
        assert!(digests.contains(&scene.image.index.digest), "{digests}");
        // HEAD of the tag, index, manifest, config, three layers.
        scene.expect_its_cost("dockerd", 7).await;
        assert!(dockerd.stop(), "{}", dockerd.stderr());
    }
}

#[tokio::test]
async fn containerd_pulls_through_its_hosts_file() {
    for scene in scenes_for_root(&["containerd", "ctr"]).await {
        let socket = scene.path("containerd.sock").display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {socket:?}\n",
            scene.path("data"),
            scene.path("state")
        );
        let config = scene.write("containerd.toml", &config);
        let mut containerd = Command::new(find("containerd").expect("looked for before"));
        let mut containerd = Process::spawn(containerd.arg("--config").arg(config));
        let ready = |containerd: &Process| containerd.stderr().contains("successfully booted").then_some(());
        containerd.wait_for("containerd", ready).await;

        let mirror = scene.mirror.address();
        let hosts = format!(
            "server = \"https://registry-1.docker.io\"\n[host.\"http://{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        scene.write("hosts/docker.io/hosts.toml", &hosts);
        let ctr = async |arguments: &[&str]| {
            let mut command = program("ctr");
            run(command.args(["--address", &socket]).args(arguments)).await
        };
        let dir = scene.path("hosts").display().to_string();
        ctr(&[
            "images",
            "pull",
            "--hosts-dir",
            &dir,
            "--snapshotter",
            "native",
            REFERENCE,
        ])
        .await;
        let images = ctr(&["images", "ls"]).await;
        assert!(images.contains(&scene.image.index.digest), "{images}");
        let content = ctr(&["content", "ls", "--quiet"]).await;
        let here = scene.image.here();
        for wanted in here.blobs().chain([&here.manifest]) {
            assert!(content.contains(&wanted.digest), "{} not in {content}", wanted.digest);
        }
        scene.expect_its_cost("containerd", 7).await;
        assert!(containerd.stop(), "{}", containerd.stderr());
    }
}
