//! Blobs and manifests in an object store: from where clients get them, what is kept, what happens
//! where the store fails.

mod accounts;
mod copy;
mod faults;
mod hit;
mod memory;
mod outage;
mod policy;
mod real_servers;
mod tee;

use crate::support::hub_fixture::HubFixture;
use crate::support::mirror::Options;
use crate::support::wait_for;
use test_support::hub::Service;
use test_support::s3::{ACCESS_KEY, REGION, S3, SECRET_KEY};

/// A mirror of a registry, with an object store.
struct Fixture {
    hub: HubFixture,
    s3: S3,
}

impl Fixture {
    async fn start() -> Self {
        Self::with(|options| options).await
    }

    async fn with(more: impl FnOnce(Options) -> Options) -> Self {
        let s3 = S3::start().await;
        let hub = HubFixture::with(|options| more(with_store(options, &s3))).await;
        Self { hub, s3 }
    }

    /// The name of the object that a layer is kept under.
    fn object(&self, digest: &str) -> String {
        let host = self.hub.hub.address().to_string().replace(':', "_");
        let hex = digest.trim_start_matches("sha256:");
        format!("public/blobs/http/{host}/library/alpine/sha256/{hex}")
    }

    /// The digest of the first layer.
    fn digest(&self) -> &str {
        &self.hub.image.native().layers[0].digest
    }

    /// Pulls the first layer through the mirror, and waits until it is kept.
    async fn keep_layer(&self) {
        let response = self.hub.mirror.get(&self.hub.layer()).send().await;
        assert!(
            response.status.is_success() || response.status.is_redirection(),
            "{response:?}"
        );
        let object = self.object(self.digest());
        wait_for("a copy", || self.s3.object(&object).is_some()).await;
        self.copies(1).await;
    }

    /// Waits until the mirror has logged so many copies.
    async fn copies(&self, count: usize) {
        wait_for("the log of a copy", || self.log("kept").len() >= count).await;
    }

    /// Waits until the store has refused a blob's content, which leaves no object and is not its fault.
    async fn expect_refusal(&self) {
        wait_for("a refusal", || self.log("not_kept").len() == 1).await;
        let line = self.log("not_kept").remove(0);
        assert!(line.contains("code=XAmzContentSHA256Mismatch"), "{line}");
        assert_eq!(self.s3.objects(), [""; 0]);
        assert_eq!(self.log("failed"), [""; 0]);
    }

    /// The lines of the log about the store.
    fn log(&self, what: &str) -> Vec<String> {
        let lines = self.hub.mirror.stderr();
        let word = format!("blob_store={what} ");
        lines
            .into_iter()
            .filter(|line| line.contains(&word))
            .collect()
    }

    /// Requests to the registry and its delivery network so far.
    fn upstream_requests(&self) -> usize {
        let received = |service| self.hub.hub.received(service).len();
        received(Service::Registry) + received(Service::Cdn) + received(Service::Tokens)
    }
}

/// Adds the settings of a store.
fn with_store(options: Options, s3: &S3) -> Options {
    options
        .variable("blob_store", s3.url())
        .variable("blob_store_region", REGION)
        .variable("blob_store_access_key", ACCESS_KEY)
        .variable("blob_store_secret_key", SECRET_KEY)
}
