//! Tests of the page and its files as they are sent.

use super::file::embedded;
use super::home::tests::external_url;
use super::*;
use http::HeaderValue;

const FILES: [PageFile; 6] = [
    PageFile::Style,
    PageFile::Icon,
    PageFile::Main,
    PageFile::Image,
    PageFile::Speed,
    PageFile::Sha256,
];

#[test]
fn all_of_it_is_under_80_kilobytes() {
    let url = external_url("mirror.test", "https", "");
    let page = home::page(&HeaderMap::new(), &url, "lang=zh", false)
        .content
        .len();
    let script = speed::script(&url).content.len();
    let files: usize = FILES.map(|file| embedded(file).content.len()).iter().sum();
    let whole = page + script + files;
    assert!(whole < 80_000, "{whole}");
}

#[test]
fn a_client_that_has_a_file_gets_304() {
    let fresh: Response<Body<()>> = embedded(PageFile::Style).respond(&HeaderMap::new(), false);
    let etag = fresh.headers()[header::ETAG].clone();
    for (tag, status) in [
        (etag.clone(), 304),
        (HeaderValue::from_static("\"other\""), 200),
        (HeaderValue::from_static("*"), 304),
        (
            format!("\"a\", W/{}", etag.to_str().unwrap())
                .parse()
                .unwrap(),
            304,
        ),
    ] {
        let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)]);
        let response: Response<Body<()>> = embedded(PageFile::Style).respond(&headers, false);
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()[header::ETAG], etag);
    }
}

#[test]
fn nothing_comes_from_another_host_or_is_inline() {
    let url = external_url("mirror.test", "https", "");
    let page = home::page(&HeaderMap::new(), &url, "", false).content;
    let page = std::str::from_utf8(&page).unwrap();
    for inline in ["style=", "onclick=", "onload=", "javascript:", "<style"] {
        assert!(!page.contains(inline), "{inline}");
    }
    for part in page.split("<script").skip(1) {
        let is_file = part.starts_with(" type=\"module\" src=\"/page/");
        assert!(
            is_file || part.starts_with(" type=\"application/json\""),
            "{part}"
        );
    }
    for attribute in page.split(&[' ', '\n'][..]) {
        if attribute.starts_with("href=\"") || attribute.starts_with("src=\"") {
            let target = attribute.split('"').nth(1).unwrap();
            assert!(
                target.starts_with('/') || target.starts_with('#'),
                "{attribute}"
            );
        }
    }
}
