//! Images of several platforms and layers, as build tools make them.

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The media types of OCI or of Docker images.
#[derive(Clone, Copy)]
pub struct Family {
    pub index: &'static str,
    pub manifest: &'static str,
    config: &'static str,
    layer: &'static str,
}

pub const OCI: Family = Family {
    index: INDEX,
    manifest: MANIFEST,
    config: "application/vnd.oci.image.config.v1+json",
    layer: "application/vnd.oci.image.layer.v1.tar+gzip",
};
pub const DOCKER: Family = Family {
    index: DOCKER_LIST,
    manifest: DOCKER_MANIFEST,
    config: "application/vnd.docker.container.image.v1+json",
    layer: "application/vnd.docker.image.rootfs.diff.tar.gzip",
};

/// A manifest or a blob.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    pub digest: String,
    pub media_type: &'static str,
    pub bytes: Bytes,
}

impl Content {
    pub fn new(media_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: digest(&bytes),
            media_type,
            bytes,
        }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// The image for one platform.
#[derive(Clone)]
pub struct Platform {
    pub manifest: Content,
    pub config: Content,
    pub layers: Vec<Content>,
}

#[derive(Clone)]
pub struct Image {
    pub index: Content,
    /// This machine's platform comes first.
    pub platforms: Vec<Platform>,
}

impl Image {
    /// Three layers and a config for each of two platforms. All digests depend on `seed`.
    pub fn new(family: Family, seed: &str) -> Self {
        Self::with_layers(family, seed, 3)
    }

    /// The same with one to ten layers.
    pub fn with_layers(family: Family, seed: &str, layers: usize) -> Self {
        let here = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let other = if here == "amd64" { "arm64" } else { "amd64" };
        let platforms =
            [here, other].map(|architecture| Platform::new(family, seed, architecture, layers));
        let manifests =
            [here, other]
                .into_iter()
                .zip(&platforms)
                .map(|(architecture, platform)| {
                    let mut descriptor = platform.manifest.descriptor();
                    descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
                    descriptor
                });
        let manifests = manifests.collect::<Vec<_>>();
        let index =
            json!({ "schemaVersion": 2, "mediaType": family.index, "manifests": manifests });
        Self {
            index: Content::new(family.index, index.to_string()),
            platforms: platforms.into(),
        }
    }

    pub fn oci() -> Self {
        Self::new(OCI, "")
    }

    /// The image for this machine's platform.
    pub fn native(&self) -> &Platform {
        &self.platforms[0]
    }

    pub fn manifests(&self) -> impl Iterator<Item = &Content> {
        self.platforms
            .iter()
            .map(|platform| &platform.manifest)
            .chain([&self.index])
    }

    pub fn blobs(&self) -> impl Iterator<Item = &Content> {
        self.platforms.iter().flat_map(Platform::blobs)
    }
}

impl Platform {
    fn new(family: Family, seed: &str, architecture: &str, layers: usize) -> Self {
        let names = [
            "base", "middle", "top", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
            "tenth",
        ];
        let tars = names[..layers]
            .iter()
            .map(|name| layer(name, &format!("{seed} {architecture}")));
        let tars = tars.collect::<Vec<_>>();
        let diff_ids = tars.iter().map(|tar| digest(tar)).collect::<Vec<_>>();
        let config = json!({
            "os": "linux",
            "architecture": architecture,
            "created": "2024-01-01T00:00:00Z",
            "config": { "Env": ["PATH=/bin"], "Cmd": ["/top"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": tars.iter().map(|_| json!({ "created": "2024-01-01T00:00:00Z", "created_by": "hammal's tests" })).collect::<Vec<_>>(),
        });
        let config = Content::new(family.config, config.to_string());
        let layers = tars
            .iter()
            .map(|tar| Content::new(family.layer, gzip(tar)))
            .collect::<Vec<_>>();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": family.manifest,
            "config": config.descriptor(),
            "layers": layers.iter().map(Content::descriptor).collect::<Vec<_>>(),
        });
        Self {
            manifest: Content::new(family.manifest, manifest.to_string()),
            config,
            layers,
        }
    }

    pub fn blobs(&self) -> impl Iterator<Item = &Content> {
        [&self.config].into_iter().chain(&self.layers)
    }
}

pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold("sha256:".to_string(), |text, byte| {
            format!("{text}{byte:02x}")
        })
}

/// A tar archive with one file of 64 KiB that compresses badly.
fn layer(name: &str, seed: &str) -> Vec<u8> {
    let mut content = Vec::new();
    for block in 0..2048 {
        content.extend(Sha256::digest(format!("{name} {seed} {block}")));
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(1_700_000_000);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, name, content.as_slice())
        .expect("a file in an archive");
    archive.into_inner().expect("an archive")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    std::io::Write::write_all(&mut encoder, bytes).expect("compressed bytes");
    encoder.finish().expect("compressed bytes")
}
