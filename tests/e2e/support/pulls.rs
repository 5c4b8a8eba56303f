//! Pulls of `alpine` by the newer clients, through a mirror that is set up for Docker Hub.

use std::path::Path;

use serde_json::json;

use super::daemons::{Containerd, Dockerd};
use super::hub_fixture::{NAME, TAG};
use super::mirror::Mirror;
use super::programs::{Programs, is_root};

/// The programs of dockerd 28; `None` where the test is skipped.
pub fn dockerd_28() -> Option<Programs> {
    let programs = Programs::newer(&["dockerd", "docker", "containerd"]);
    programs.filter(|_| is_root("dockerd 28"))
}

/// The programs of containerd 2; `None` where the test is skipped.
pub fn containerd_2() -> Option<Programs> {
    let programs = Programs::newer(&["containerd", "ctr"]);
    programs.filter(|_| is_root("containerd 2"))
}

/// Pulls into an empty folder, and returns the id of the image, which is the digest of its config.
pub async fn pull_with_dockerd(programs: &Programs, mirror: &Mirror, folder: &Path) -> String {
    let config = json!({ "registry-mirrors": [format!("http://{}", mirror.address())] });
    let home = vec![("HOME", folder.to_path_buf())];
    let dockerd = Dockerd::start(programs, &folder.join("d"), &config, "vfs", home).await;
    dockerd.docker(&["pull", "alpine"]).await.expect("a pull");
    let id = dockerd
        .docker(&["image", "inspect", "alpine", "--format", "{{.Id}}"])
        .await
        .expect("an image");
    dockerd.stop();
    id
}

/// Pulls into an empty folder, and returns the digests of all content.
pub async fn pull_with_containerd(programs: &Programs, mirror: &Mirror, folder: &Path) -> String {
    let hosts = folder.join("hosts");
    std::fs::create_dir_all(hosts.join("docker.io")).expect("a folder");
    let text = format!(
        "[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        mirror.address()
    );
    std::fs::write(hosts.join("docker.io/hosts.toml"), text).expect("hosts.toml");
    let containerd = Containerd::start(programs, &folder.join("c"), vec![]).await;
    let reference = format!("docker.io/{NAME}:{TAG}");
    containerd.pull(&hosts, &reference).await.expect("a pull");
    let content = containerd
        .ctr(&["content", "ls", "--quiet"])
        .await
        .expect("content");
    containerd.stop();
    content
}
