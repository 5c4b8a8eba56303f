//! Whatever the key-value store holds under every key: nothing of it is used for another upstream,
//! and nothing panics.
#![no_main]

use hammal_fuzz::{BLOB, MANIFEST, Scripted, World, answer, assert_public, get};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    for path in [MANIFEST, BLOB, "/v2/a/b/tags/list?upstream=ghcr.io"] {
        let variables = vec![("client_limit", "5".to_owned())];
        let answers = vec![answer(404, &[], b"")];
        let platform = Scripted::new(World {
            answers,
            variables,
            stored: Some(data.to_vec()),
            ..World::default()
        });
        let mut request = get(path);
        request.headers_mut().insert(
            "spin-client-addr",
            http::HeaderValue::from_static("192.0.2.1:1"),
        );
        platform.handle(request);
        let asked = platform.asked();
        assert_public(&asked);
        for request in asked {
            // A token is sent where the entry says that it is for this very upstream.
            let host = request.uri().host().unwrap_or_default();
            let with_token = request.headers().contains_key("authorization");
            assert!(!with_token || text.contains(host), "{}", request.uri());
        }
    }
});
