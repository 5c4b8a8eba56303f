//! The value of `?upstream=`: requests go to public hosts over https only.
#![no_main]

use hammal::registry::address::RegistryAddress;
use hammal::request::selector::UpstreamSelector;
use hammal_fuzz::{assert_public, get, handle, scripted};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for selector in [
        UpstreamSelector::Query(text.into()),
        UpstreamSelector::Path(text.into()),
        UpstreamSelector::Namespace(text.into()),
    ] {
        let _ = selector.registry();
    }
    if RegistryAddress::parse(text).is_err() {
        return;
    }
    let value: String = url::form_urlencoded::byte_serialize(data).collect();
    let platform = scripted([]);
    let request = get(&format!("/v2/a/tags/list?upstream={value}"));
    let response = handle(&platform, request);
    let sent = platform.requests();
    assert_public(&sent);
    assert_eq!(
        sent.is_empty(),
        matches!(response.status().as_u16(), 400 | 403),
        "{text:?}"
    );
});
