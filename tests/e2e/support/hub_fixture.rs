//! The fixture of most tests: a registry like Docker Hub with one image, and a mirror of it.

use super::mirror::{Mirror, Options};
use test_support::hub::Hub;
use test_support::image::Image;

/// Repository and tag of the image.
pub const NAME: &str = "library/alpine";
pub const TAG: &str = "latest";
/// The path of its manifest.
pub const MANIFEST_PATH: &str = "/v2/library/alpine/manifests/latest";

pub struct HubFixture {
    pub mirror: Mirror,
    pub hub: Hub,
    pub image: Image,
}

impl HubFixture {
    pub async fn start() -> Self {
        Self::with(|options| options).await
    }

    pub async fn with(more: impl FnOnce(Options) -> Options) -> Self {
        let hub = Hub::start().await;
        let image = Image::oci();
        hub.push(NAME, TAG, &image);
        let options = Options::default()
            .upstream(hub.address())
            .plain_http([hub.tokens(), hub.cdn()]);
        let mirror = more(options).start().await;
        Self { mirror, hub, image }
    }

    /// The path of the first layer.
    pub fn layer(&self) -> String {
        self.blob(&self.image.native().layers[0].digest)
    }

    pub fn blob(&self, digest: &str) -> String {
        format!("/v2/{NAME}/blobs/{digest}")
    }
}
