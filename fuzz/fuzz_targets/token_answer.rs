//! A token server's answer: nothing of it gets into a response or the log.
#![no_main]

use hammal::response::body::Body;
use hammal_fuzz::{MANIFEST, answer, get, handle, scripted};
use std::sync::LazyLock;

/// The mirror's own words: all that is told where the token is a single letter.
static OWN_WORDS: LazyLock<String> = LazyLock::new(|| told(br#"{"token":"x"}"#));

/// Returns all that a client and the log are told where the upstream refuses the token of this
/// answer.
fn told(granted: &[u8]) -> String {
    let challenge: &[u8] =
        br#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#;
    let challenged = || answer(401, &[("www-authenticate", challenge)], b"");
    let answers = [
        challenged(),
        answer(200, &[], granted),
        challenged(),
        answer(200, &[], granted),
    ];
    let platform = scripted(answers);
    let response = handle(&platform, get(MANIFEST));
    assert!(
        matches!(response.status().as_u16(), 403 | 502),
        "{}",
        response.status()
    );
    let Body::Buffered(body) = response.body() else {
        panic!("an error has a document")
    };
    format!(
        "{:?} {} {:?}",
        response.headers(),
        String::from_utf8_lossy(body),
        platform.log()
    )
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let told = told(data);
    let token = serde_json::from_slice::<serde_json::Value>(data).ok();
    let token = token
        .as_ref()
        .and_then(|document| document.get("token")?.as_str())
        .filter(|token| token.len() > 8);
    if let Some(token) = token {
        assert!(
            !told.contains(token) || OWN_WORDS.contains(token),
            "{token}"
        );
    }
});
