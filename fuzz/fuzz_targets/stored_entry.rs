//! The value of every key of the key-value store: no token in it is sent to another upstream than
//! its own, and nothing panics.
#![no_main]

use hammal_fuzz::{BLOB, MANIFEST, answer, assert_public, get, handle, scripted};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    for path in [MANIFEST, BLOB, "/v2/a/b/tags/list?upstream=ghcr.io"] {
        let platform = scripted([answer(404, &[], b"")]);
        platform.set_variable("client_limit", "5");
        platform.store_everywhere(data.to_vec());
        let mut request = get(path);
        request.headers_mut().insert(
            "spin-client-addr",
            http::HeaderValue::from_static("192.0.2.1:1"),
        );
        handle(&platform, request);
        let sent = platform.requests();
        assert_public(&sent);
        for request in sent {
            // A token is sent where the entry says that it is for this very upstream.
            let host = request.uri().host().unwrap_or_default();
            let with_token = request.headers().contains_key("authorization");
            assert!(!with_token || text.contains(host), "{}", request.uri());
        }
    }
});
