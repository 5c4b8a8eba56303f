//! Tests of whole requests on the scripted platform, by behaviour: what is sent to whom, in which
//! order, and what the client gets.

mod access;
mod accounts;
mod auth;
mod blob_redirects;
mod blob_tee;
mod blobs;
mod client_accounts;
mod config;
mod errors;
mod failover;
mod headers;
mod health;
mod hostile_answers;
mod log;
mod manifest_cache;
mod named_registries;
mod page;
mod probes;
mod redirects;
mod registries;
mod requests;
mod store;

use crate::mirror::Mirror;
use crate::platform::TransportError;
use crate::platform::scripted::{Answer, Scripted, StoreState};
use crate::response::body::Body;
use http::{Request, Response};
use std::time::Duration;

const MANIFEST: &str = "/v2/library/alpine/manifests/latest";
const HUB: &str = "https://registry-1.docker.io";
const TOKEN_URL: &str = "https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Alibrary%2Falpine%3Apull";
const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Ok(response.body(body.as_bytes().to_vec()).unwrap())
}

fn manifest() -> Answer {
    let index = "application/vnd.oci.image.index.v1+json";
    answer(200, &[("content-type", index)], "{}")
}

/// What a `HEAD` of a manifest brings.
fn manifest_head() -> Answer {
    let headers = [
        ("content-type", "application/vnd.oci.image.index.v1+json"),
        ("docker-content-digest", DIGEST),
        ("content-length", "2"),
    ];
    answer(200, &headers, "")
}

fn challenge_of(realm: &str, repository: &str) -> Answer {
    let challenge = format!(
        r#"Bearer realm="{realm}",service="registry.docker.io",scope="repository:{repository}:pull""#
    );
    answer(
        401,
        &[("www-authenticate", &challenge), ("set-cookie", "a=b")],
        "secret words",
    )
}

fn challenge() -> Answer {
    challenge_of("https://auth.docker.io/token", "library/alpine")
}

fn token(token: &str) -> Answer {
    let document = format!(r#"{{"token":"{token}","expires_in":300}}"#);
    answer(200, &[], &document)
}

fn redirect(location: &str) -> Answer {
    answer(307, &[("location", location)], "")
}

fn get(path: &str) -> Request<()> {
    let uri = format!("http://mirror.example{path}");
    Request::get(uri).body(()).unwrap()
}

fn blob() -> String {
    format!("/v2/library/alpine/blobs/{DIGEST}")
}

/// A mirror that streams blobs.
fn streaming(answers: impl IntoIterator<Item = Answer>) -> (Scripted, Mirror<Scripted>) {
    let platform = Scripted::new(answers);
    platform.set_variable("blob_delivery", "stream");
    (platform.clone(), Mirror::new(platform))
}

/// The response that a client receives.
struct Received(Response<Body<Vec<u8>>>);

impl Received {
    fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let value = self.0.headers().get(name)?;
        Some(value.to_str().unwrap())
    }

    fn text(&self) -> String {
        match self.0.body() {
            Body::Buffered(bytes) | Body::Upstream(bytes) | Body::Teed(bytes, _) => {
                String::from_utf8(bytes.clone()).unwrap()
            }
        }
    }

    /// The code of the error document.
    fn code(&self) -> String {
        let document: serde_json::Value = serde_json::from_str(&self.text()).unwrap();
        document["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

/// Sends a request to the mirror, and does the work that it leaves for afterwards.
async fn send(mirror: &Mirror<Scripted>, request: Request<()>) -> Received {
    let response = mirror.handle(request).await;
    mirror.platform.run_deferred().await;
    Received(response)
}

/// A mirror that has fetched the token `one` for library/alpine.
async fn warm() -> (Scripted, Mirror<Scripted>) {
    let platform = Scripted::new([challenge(), token("one"), manifest()]);
    let mirror = Mirror::new(platform.clone());
    assert_eq!(send(&mirror, get(MANIFEST)).await.status(), 200);
    platform.sent();
    (platform, mirror)
}
