//! A `Location` of an upstream: the mirror follows it to public hosts only, and a client is sent
//! over https and not back to the mirror, however it parses the URL.
#![no_main]

use hammal_fuzz::{BLOB, MANIFEST, answer, assert_public, get, handle, scripted};
use url::Url;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for (path, delivery) in [(MANIFEST, "redirect"), (BLOB, "redirect"), (BLOB, "stream")] {
        let platform = scripted([answer(307, &[("location", data)], b"")]);
        platform.set_variable("blob_delivery", delivery);
        let response = handle(&platform, get(path));
        assert_public(&platform.requests());
        let Some(location) = response.headers().get("location") else {
            continue;
        };
        let location = location.to_str().expect("text");
        let url = Url::parse(location).expect("an absolute URL");
        assert_eq!(url.scheme(), "https", "{location}");
        // Another port is another server.
        let is_mirror = url.host_str() == Some("mirror.example") && url.port().is_none();
        assert!(!is_mirror, "{location}");
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
