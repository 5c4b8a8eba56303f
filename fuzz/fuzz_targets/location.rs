//! Whatever a redirect's `Location` says: what is followed here is public, and what a client is
//! handed goes to https and not back here, however it is read.
#![no_main]

use hammal_fuzz::{BLOB, MANIFEST, Scripted, World, answer, assert_public, get};
use url::Url;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let moved = || answer(307, &[("location", data)], b"");
    for (path, delivery) in [(MANIFEST, "redirect"), (BLOB, "redirect"), (BLOB, "stream")] {
        let variables = vec![("blob_delivery", delivery.to_owned())];
        let platform = Scripted::new(World {
            answers: vec![moved()],
            variables,
            ..World::default()
        });
        let response = platform.handle(get(path));
        assert_public(&platform.asked());
        let Some(location) = response.headers().get("location") else {
            continue;
        };
        let location = location.to_str().expect("text");
        let url = Url::parse(location).expect("an absolute URL");
        assert_eq!(url.scheme(), "https", "{location}");
        // On another port there is another server.
        let here = url.host_str() == Some("mirror.example") && url.port().is_none();
        assert!(!here, "{location}");
        // Clients have parsers of their own: a stricter one must not see another host.
        assert!(
            location.bytes().all(|byte| byte.is_ascii_graphic()),
            "{location}"
        );
        let strict = location
            .split_once('#')
            .map_or(location, |(before, _)| before)
            .parse::<http::Uri>();
        if let Ok(strict) = strict {
            let strict = strict.host().and_then(|host| url::Host::parse(host).ok());
            assert_eq!(strict, url.host().map(|host| host.to_owned()), "{location}");
        }
    }
});
