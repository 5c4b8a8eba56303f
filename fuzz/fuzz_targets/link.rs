//! Whatever an upstream's `Link` says: what comes back leads through this mirror to the same registry, or nowhere.
#![no_main]

use hammal::request::external_url::Address;
use hammal::response::link;
use hammal::registry::origin::Target;
use hammal::request::route::Asked;
use hammal::registry::address::Naming;
use http::header::LINK;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let headers = HeaderMap::from_iter([(LINK, value)]);
    let from = Target::parse("https://registry.example/v2/a/b/tags/list?n=2").expect("a URL");
    let here = Address::of(&Request::new(()), "");
    let naming = Naming::Query("registry.example".into());
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
    let asked = Asked::parse(&Method::GET, uri.path(), uri.query()).expect("a route of ours");
    assert_eq!(asked.naming, naming, "{next}");
});
