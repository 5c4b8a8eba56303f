//! `WWW-Authenticate` headers of an upstream, one a line of the input: requests go to public hosts
//! only, and the token goes to the upstream alone.
#![no_main]

use hammal_fuzz::{MANIFEST, answer, assert_public, get, handle, scripted};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let lines: Vec<(&str, &[u8])> = data
        .split(|byte| *byte == b'\n')
        .map(|line| ("www-authenticate", line))
        .collect();
    let token = answer(200, &[], br#"{"token":"granted"}"#);
    let answers = [answer(401, &lines, b""), token, answer(401, &lines, b"")];
    let platform = scripted(answers);
    let response = handle(&platform, get(MANIFEST));
    assert!(response.status() != 401 && !response.headers().contains_key("www-authenticate"));
    let sent = platform.requests();
    assert_public(&sent);
    for request in sent {
        let with_token = request.headers().contains_key("authorization");
        assert!(
            !with_token || request.uri().host() == Some("registry-1.docker.io"),
            "{}",
            request.uri()
        );
    }
});
