//! An upstream like Docker Hub: Bearer tokens of 300 s for each repository, indexes, manifests, and
//! blobs that redirect to a delivery network.

use http::{Method, Request, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// Of an image of one platform: the configuration and the layers.
pub const BLOBS: usize = 7;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The purpose of an upstream request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Without a token.
    Refused,
    /// By `HEAD`, which Docker Hub does not count.
    ManifestHead,
    Manifest,
    Blob,
    Token,
}

pub struct Hub {
    images: Vec<Image>,
    contents: HashMap<String, (&'static str, Vec<u8>)>,
}

struct Image {
    index: String,
    manifest: String,
    blobs: Vec<String>,
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

impl Hub {
    pub fn new(images: usize) -> Hub {
        let mut hub = Hub {
            images: Vec::new(),
            contents: HashMap::new(),
        };
        for number in 0..images {
            let blobs: Vec<String> = (0..BLOBS)
                .map(|blob| digest(format!("{number} {blob}").as_bytes()))
                .collect();
            let layers: Vec<_> = blobs
                .iter()
                .map(|digest| serde_json::json!({ "digest": digest, "size": 10_000_000 }))
                .collect();
            let manifest = serde_json::json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "config": layers[0], "layers": layers[1..],
            });
            let manifest = hub.add(MANIFEST, manifest.to_string());
            let index = serde_json::json!({
                "schemaVersion": 2, "mediaType": INDEX, "manifests": [{ "digest": manifest }],
            });
            let index = hub.add(INDEX, index.to_string());
            hub.images.push(Image {
                index,
                manifest,
                blobs,
            });
        }
        hub
    }

    fn add(&mut self, media_type: &'static str, content: String) -> String {
        let digest = digest(content.as_bytes());
        let entry = (media_type, content.into_bytes());
        self.contents.insert(digest.clone(), entry);
        digest
    }

    /// Returns the requests of a pull by containerd into an empty store.
    pub fn pull(&self, image: usize) -> Vec<Request<()>> {
        let own = &self.images[image];
        let head = ("HEAD", "manifests", "latest");
        let manifests = [&own.index, &own.manifest].map(|digest| ("GET", "manifests", &**digest));
        let blobs = own.blobs.iter().map(|digest| ("GET", "blobs", &**digest));
        let requests = [head].into_iter().chain(manifests).chain(blobs);
        requests
            .map(|(method, kind, reference)| {
                let uri = format!("http://mirror.example/v2/library/i{image}/{kind}/{reference}");
                let request = Request::builder().method(method).uri(uri);
                let accept = format!("{INDEX}, {MANIFEST}, */*");
                request
                    .header("accept", accept)
                    .body(())
                    .expect("a request")
            })
            .collect()
    }

    /// Answers an upstream request.
    pub fn answer(&self, request: &Request<()>) -> (Asked, Response<Vec<u8>>) {
        let uri = request.uri();
        if uri.host() == Some("auth.docker.io") {
            let token = r#"{"token":"t","expires_in":300}"#;
            return (Asked::Token, respond(200, &[], token.into()));
        }
        let path: Vec<&str> = uri.path().split('/').collect();
        let [_, _, "library", name, kind, reference] = path[..] else {
            panic!("{uri}");
        };
        if !request.headers().contains_key("authorization") {
            return (Asked::Refused, challenge(name));
        }
        if kind == "blobs" {
            let location = format!("https://cdn.example/{reference}");
            let redirect = respond(307, &[("location", &location)], Vec::new());
            return (Asked::Blob, redirect);
        }
        let number: usize = name[1..].parse().expect("a number");
        let digest = match reference {
            "latest" => &self.images[number].index,
            digest => digest,
        };
        let (media_type, content) = &self.contents[digest];
        let length = content.len().to_string();
        let headers = [
            ("content-type", *media_type),
            ("docker-content-digest", digest),
            ("content-length", &length),
        ];
        if request.method() == Method::HEAD {
            return (Asked::ManifestHead, respond(200, &headers, Vec::new()));
        }
        (Asked::Manifest, respond(200, &headers, content.clone()))
    }
}

fn challenge(name: &str) -> Response<Vec<u8>> {
    let challenge = format!(
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/{name}:pull""#
    );
    respond(401, &[("www-authenticate", &challenge)], Vec::new())
}

fn respond(status: u16, headers: &[(&str, &str)], body: Vec<u8>) -> Response<Vec<u8>> {
    let mut response = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).expect("a response")
}
