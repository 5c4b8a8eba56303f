//! Whatever an upstream's `Link` says: what comes back leads through this mirror to the same
//! registry, or nowhere.
#![no_main]

use hammal::request::external_url::ExternalUrl;
use hammal::response::link;
use hammal::registry::origin::HttpUrl;
use hammal::request::route::RegistryRequest;
use hammal::registry::address::UpstreamSelector;
use http::header::LINK;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let headers = HeaderMap::from_iter([(LINK, value)]);
    let from = HttpUrl::parse("https://registry.example/v2/a/b/tags/list?n=2").expect("a URL");
    let here = ExternalUrl::of(&Request::new(()), "");
    let naming = UpstreamSelector::Query("registry.example".into());
    let Some(next) = link::rewrite(&headers, &from, &naming, &here, true) else {
        return;
    };
    let next = next.to_str().expect("text");
    let path = next
        .strip_prefix('<')
        .and_then(|next| next.strip_suffix(">; rel=\"next\""))
        .expect("one link");
    assert!(path.starts_with("/v2/"), "{next}");
    let uri: Uri = path.parse().expect("a path");
    let asked = RegistryRequest::parse(&Method::GET, uri.path(), uri.query()).expect("a route of ours");
    assert_eq!(asked.naming, naming, "{next}");
});
