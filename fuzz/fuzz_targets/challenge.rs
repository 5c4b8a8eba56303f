//! Whatever an upstream's `WWW-Authenticate` lines say (one a line of the input): only public hosts
//! are asked, and the token that the realm grants goes to the upstream alone.
#![no_main]

use hammal_fuzz::{MANIFEST, Scripted, World, answer, assert_public, get};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let lines: Vec<(&str, &[u8])> = data
        .split(|byte| *byte == b'\n')
        .map(|line| ("www-authenticate", line))
        .collect();
    let token = answer(200, &[], br#"{"token":"granted"}"#);
    let answers = [answer(401, &lines, b""), token, answer(401, &lines, b"")];
    let platform = Scripted::new(World {
        answers: answers.into(),
        ..World::default()
    });
    let response = platform.handle(get(MANIFEST));
    assert!(response.status() != 401 && !response.headers().contains_key("www-authenticate"));
    let asked = platform.asked();
    assert_public(&asked);
    for request in asked {
        let with_token = request.headers().contains_key("authorization");
        assert!(
            !with_token || request.uri().host() == Some("registry-1.docker.io"),
            "{}",
            request.uri()
        );
    }
});
