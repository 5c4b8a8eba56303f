//! What a person with a browser sees outside `/v2/`.

use crate::origin::Authority;
use crate::reply::Body;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

const ENGLISH: &str = include_str!("en.html");
const CHINESE: &str = include_str!("zh.html");
/// Mirrors have nothing that a search engine could show.
const ROBOTS: &str = "User-agent: *\nDisallow: /\n";
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The manual, in Chinese for those whose browser prefers it, with this mirror's own address in its examples.
pub fn manual<B>(request: &Request<()>, head_only: bool) -> Response<Body<B>> {
    let page = if prefers_chinese(request.headers()) {
        CHINESE
    } else {
        ENGLISH
    };
    let authority = own_authority(request).map_or_else(|| "mirror.example".to_owned(), |own| own.to_string());
    let page = page
        .replace("{{mirror}}", &format!("{}://{authority}", own_scheme(request)))
        .replace("{{host}}", &authority);
    let mut response = Body::respond(StatusCode::OK, page.into_bytes(), head_only);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-language, host"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"),
    );
    response
}

pub fn robots<B>(head_only: bool) -> Response<Body<B>> {
    let mut response = Body::respond(StatusCode::OK, ROBOTS.as_bytes().to_vec(), head_only);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// The address that the client knows this mirror by; its grammar leaves nothing that means something in HTML.
pub fn own_authority(request: &Request<()>) -> Option<Authority> {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    host.or_else(|| request.uri().authority().map(|authority| authority.as_str()))
        .and_then(|text| Authority::parse(text).ok())
}

/// `https` where something in front of the mirror says that it took the request over TLS. It is shown, nothing depends on it.
fn own_scheme(request: &Request<()>) -> &'static str {
    let forwarded = request
        .headers()
        .get(FORWARDED_PROTO)
        .is_some_and(|value| value == "https");
    if forwarded || request.uri().scheme_str() == Some("https") {
        "https"
    } else {
        "http"
    }
}

fn prefers_chinese(headers: &HeaderMap) -> bool {
    let languages = headers
        .get(header::ACCEPT_LANGUAGE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    // Browsers list their languages in the order of preference.
    languages
        .split(',')
        .next()
        .is_some_and(|first| first.trim().to_ascii_lowercase().starts_with("zh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manual_for(headers: &[(&str, &str)]) -> String {
        let mut request = Request::get("http://in.the.uri:3000/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match manual::<()>(&request.body(()).unwrap(), false).into_body() {
            Body::Own(page) => String::from_utf8(page).unwrap(),
            Body::Upstream(()) => unreachable!(),
        }
    }

    #[test]
    fn shows_its_own_address() {
        for (headers, address) in [
            (&[][..], "http://in.the.uri:3000/v2/"),
            (&[("host", "127.0.0.1:3000")], "http://127.0.0.1:3000/v2/"),
            (
                &[("host", "mirror.example.org"), ("x-forwarded-proto", "https")],
                "https://mirror.example.org/v2/",
            ),
        ] {
            let page = manual_for(headers);
            assert!(page.contains(address), "{address}");
            assert!(!page.contains("{{"));
        }
    }

    #[test]
    fn a_host_header_can_put_nothing_into_the_page() {
        for host in ["<script>alert(1)</script>", "a\"b", "a&b", "user@a", "a b"] {
            let page = manual_for(&[("host", host)]);
            assert!(!page.contains(&format!("://{host}")), "{host}");
            assert!(page.contains("mirror.example"));
        }
    }

    #[test]
    fn speaks_the_browsers_language() {
        assert!(manual_for(&[("accept-language", "zh-CN,zh;q=0.9,en;q=0.8")]).contains("lang=\"zh-CN\""));
        for language in ["en-US,zh;q=0.5", "de", ""] {
            assert!(
                manual_for(&[("accept-language", language)]).contains("lang=\"en\""),
                "{language}"
            );
        }
    }
}
