//! Registries that the speed test measures: fast, throttled, hanging, with wrong bytes, without a
//! redirect, without CORS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use test_support::image::{Content, INDEX, MANIFEST};
use test_support::server::{ReceivedRequest, Reply, ScriptedBody, Server};

pub const NAME: &str = "library/alpine";
/// Bytes of the layer.
pub const SIZE: usize = 8_000_000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Habit {
    Fast,
    /// 20 MB/s
    Throttled,
    Hangs,
    SendsWrongBytes,
    /// It sends blobs itself.
    DoesNotRedirect,
    /// Its delivery network lets no browser read its answers.
    HasNoCors,
}

/// An image with one layer that does not compress.
pub struct BigImage {
    index: Content,
    manifest: Content,
    pub layer: Content,
}

impl BigImage {
    pub fn new() -> Arc<Self> {
        let mut state = 1_u32;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .take(SIZE)
        .collect();
        let layer = Content::new("application/vnd.oci.image.layer.v1.tar+gzip", bytes);
        let describe = |content: &Content| json!({ "mediaType": content.media_type, "digest": content.digest, "size": content.bytes.len() });
        let config = Content::new("application/vnd.oci.image.config.v1+json", "{}");
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": describe(&config), "layers": [describe(&layer)] });
        let manifest = Content::new(MANIFEST, manifest.to_string());
        let mut entry = describe(&manifest);
        entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        let index = Content::new(INDEX, index.to_string());
        Arc::new(Self {
            index,
            manifest,
            layer,
        })
    }
}

/// A registry and its delivery network.
pub struct ScriptedMirror {
    registry: Server,
    cdn: Server,
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl ScriptedMirror {
    pub async fn start(image: &Arc<BigImage>, habit: Habit) -> Self {
        let layer = Arc::clone(image);
        let cdn = Server::plain("127.0.0.1", move |_| deliver(&layer, habit)).await;
        let (image, at) = (Arc::clone(image), cdn.address);
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let record = Arc::clone(&requests);
        let registry = Server::plain("127.0.0.1", move |received| {
            record
                .lock()
                .expect("requests")
                .push(format!("{} {}", received.method, received.target));
            answer(&image, habit, at, &received)
        })
        .await;
        Self {
            registry,
            cdn,
            requests,
        }
    }

    pub fn addresses(&self) -> [SocketAddr; 2] {
        [self.registry.address, self.cdn.address]
    }

    pub fn address(&self) -> SocketAddr {
        self.registry.address
    }

    /// Where its layer is.
    pub fn layer_url(&self) -> String {
        format!("http://{}/layer", self.cdn.address)
    }
}

fn answer(image: &BigImage, habit: Habit, cdn: SocketAddr, received: &ReceivedRequest) -> Reply {
    if habit == Habit::Hangs {
        return Reply::Hang;
    }
    let path = received.path();
    if path == "/v2/" {
        return Reply::new(200, &[("content-type", "application/json")], "{}");
    }
    let Some((_, reference)) = path.rsplit_once('/') else {
        return Reply::new(404, &[], "");
    };
    if path == "/v1/search" {
        let found = json!({ "num_results": 1, "query": "alp", "results": [{ "name": "alpine", "description": "A minimal image", "star_count": 9, "is_official": true }] });
        return Reply::new(
            200,
            &[("content-type", "application/json")],
            found.to_string(),
        );
    }
    if path.ends_with("/tags/list") {
        let last = received.query().iter().any(|(name, _)| name == "last");
        let (tags, link) = if last {
            (["3.20", "latest"], "")
        } else {
            (
                ["3.18", "3.19"],
                "</v2/library/alpine/tags/list?n=2&last=3.19>; rel=\"next\"",
            )
        };
        let document = json!({ "name": NAME, "tags": tags }).to_string();
        let headers = [("content-type", "application/json"), ("link", link)];
        return Reply::new(200, if last { &headers[..1] } else { &headers }, document);
    }
    if path.contains("/blobs/") {
        return if habit == Habit::DoesNotRedirect {
            deliver(image, habit)
        } else {
            Reply::new(307, &[("location", &format!("http://{cdn}/layer"))], "")
        };
    }
    for content in [&image.index, &image.manifest] {
        if reference == content.digest || reference == "latest" {
            return test_support::answers::content(received, content, content.media_type);
        }
    }
    Reply::new(404, &[], "")
}

/// Sends the layer.
fn deliver(image: &BigImage, habit: Habit) -> Reply {
    let length = SIZE.to_string();
    let mut headers = vec![
        ("content-type", "application/octet-stream"),
        ("content-length", &*length),
    ];
    if habit != Habit::HasNoCors {
        headers.push(("access-control-allow-origin", "*"));
    }
    let bytes = image.layer.bytes.clone();
    let body = match habit {
        Habit::Throttled => {
            let parts = bytes.chunks(500_000).map(Bytes::copy_from_slice);
            parts.fold(ScriptedBody::default(), |body, part| {
                body.data(part).pause(Duration::from_millis(25))
            })
        }
        Habit::SendsWrongBytes => {
            let mut wrong = bytes.to_vec();
            wrong[SIZE / 2] ^= 1;
            ScriptedBody::whole(wrong)
        }
        _ => ScriptedBody::whole(bytes),
    };
    Reply::streamed(200, &headers, body)
}
