//! Whatever stands in `?upstream=`: what is asked is a public name on https, under the name that
//! was permitted.
#![no_main]

use hammal::registry::address::{RegistryAddress, UpstreamSelector};
use hammal_fuzz::{Scripted, World, assert_public, get};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for naming in [
        UpstreamSelector::Query(text.into()),
        UpstreamSelector::Path(text.into()),
        UpstreamSelector::Namespace(text.into()),
    ] {
        let _ = naming.named();
    }
    if RegistryAddress::parse(text).is_err() {
        return;
    }
    let value: String = url::form_urlencoded::byte_serialize(data).collect();
    let platform = Scripted::new(World::default());
    let response = platform.handle(get(&format!("/v2/a/tags/list?upstream={value}")));
    let asked = platform.asked();
    assert_public(&asked);
    assert_eq!(
        asked.is_empty(),
        matches!(response.status().as_u16(), 400 | 403),
        "{text:?}"
    );
});
