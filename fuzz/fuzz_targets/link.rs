//! A `Link` of an upstream: the client's link leads through this mirror to the same registry, or
//! there is none.
#![no_main]

use hammal::registry::origin::HttpUrl;
use hammal::request::RegistryRequest;
use hammal::request::external_url::ExternalUrl;
use hammal::request::selector::UpstreamSelector;
use hammal::response::link::{self, Page};
use http::{HeaderValue, Method, Request, Uri};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let selector = UpstreamSelector::Query("registry.example".into());
    let page = Page {
        links: &[value],
        url: &HttpUrl::parse("https://registry.example/v2/a/b/tags/list?n=2").expect("a URL"),
        selector: &selector,
        pins_upstream: false,
    };
    let external_url = ExternalUrl::from_request(&Request::new(()), "");
    let Some(next) = link::rewrite(page, &external_url) else {
        return;
    };
    let next = next.to_str().expect("text");
    let path = next
        .strip_prefix('<')
        .and_then(|next| next.strip_suffix(">; rel=\"next\""))
        .expect("one link");
    assert!(path.starts_with("/v2/"), "{next}");
    let uri: Uri = path.parse().expect("a path");
    let request = RegistryRequest::parse(&Method::GET, uri.path(), uri.query());
    assert_eq!(
        request.expect("a valid request").selector,
        selector,
        "{next}"
    );
});
