//! Whatever a token server's answer holds: it never ends up in an answer or the log, and a token is
//! a header's value.
#![no_main]

use hammal::response::Body;
use hammal_fuzz::{MANIFEST, Scripted, World, answer, get};
use std::sync::LazyLock;

/// What is told of an answer whose token is a mere letter: the mirror's own words.
static OWN_WORDS: LazyLock<String> = LazyLock::new(|| told(br#"{"token":"x"}"#));

/// All that a client and the operator hear of a token server's answer, where the upstream refuses
/// the token.
fn told(granted: &[u8]) -> String {
    let challenge: &[u8] =
        br#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#;
    let asks = || answer(401, &[("www-authenticate", challenge)], b"");
    let answers = [
        asks(),
        answer(200, &[], granted),
        asks(),
        answer(200, &[], granted),
    ];
    let platform = Scripted::new(World {
        answers: answers.into(),
        ..World::default()
    });
    let response = platform.handle(get(MANIFEST));
    assert!(
        matches!(response.status().as_u16(), 403 | 502),
        "{}",
        response.status()
    );
    let Body::Own(body) = response.body() else {
        panic!("a refusal has a body of its own")
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
