//! What the targets share: a mirror on the scripted platform, and what must always hold.

use futures_executor::block_on;
use hammal::mirror::Mirror;
use hammal::platform::TransportError;
use hammal::platform::scripted::{Answer, Scripted};
use hammal::response::body::Body;
use http::Response;

pub const MANIFEST: &str = "/v2/library/alpine/manifests/latest";
pub const BLOB: &str = "/v2/library/alpine/blobs/sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Makes a platform with these answers, in order; every request after them fails. The manifest
/// cache is on, as it is by default.
pub fn scripted(answers: impl IntoIterator<Item = Response<Vec<u8>>>) -> Scripted {
    let platform = Scripted::new(answers.into_iter().map(Answer::Ok));
    platform.set_variable("manifest_cache", "on");
    platform.fail_at_end(TransportError::Connect);
    platform
}

/// Answers one request, and does the work that it leaves for afterwards.
pub fn handle(platform: &Scripted, request: http::Request<()>) -> Response<Body<Vec<u8>>> {
    let mirror = Mirror::new(platform.clone());
    block_on(async {
        let response = mirror.handle(request).await;
        platform.run_deferred().await;
        response
    })
}

pub fn get(path: &str) -> http::Request<()> {
    http::Request::get(format!("http://mirror.example{path}"))
        .body(())
        .expect("a request")
}

pub fn answer(status: u16, headers: &[(&str, &[u8])], body: &[u8]) -> Response<Vec<u8>> {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, http::HeaderValue::from_bytes(value)));
    let mut response = http::Response::builder().status(status);
    for (name, value) in headers {
        // A host never hands over what is not valid in a header.
        if let Ok(value) = value {
            response = response.header(name, value);
        }
    }
    response.body(body.to_vec()).expect("a response")
}

/// Panics where a request was sent to anything but a public host over https.
pub fn assert_public(sent: &[http::Request<()>]) {
    for request in sent {
        let uri = request.uri();
        let host = uri.host().expect("a host");
        assert_eq!(uri.scheme_str(), Some("https"), "{uri}");
        let is_name = matches!(url::Host::parse(host), Ok(url::Host::Domain(_)));
        assert!(is_name && host.contains('.'), "{uri}");
        assert!(
            uri.port_u16().is_none_or(|port| port == 443 || port > 1023),
            "{uri}"
        );
        for private in [".local", ".internal", ".svc", ".localhost", ".lan"] {
            assert!(!host.ends_with(private), "{uri}");
        }
    }
}
