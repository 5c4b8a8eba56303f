//! The page for people, outside `/v2/`.

use crate::request::external_url::ExternalUrl;
use crate::response::body::Body;
use http::header;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

const ENGLISH: &str = include_str!("en.html");
const CHINESE: &str = include_str!("zh.html");
/// A mirror has nothing for search engines.
const ROBOTS: &str = "User-agent: *\nDisallow: /\n";

/// Returns the manual, in Chinese for browsers that prefer it, with this mirror's own URL in its
/// examples.
pub fn manual<B>(
    headers: &HeaderMap,
    external_url: &ExternalUrl,
    head_only: bool,
) -> Response<Body<B>> {
    let page = if prefers_chinese(headers) {
        CHINESE
    } else {
        ENGLISH
    };
    let page = if external_url.path_prefix().is_empty() {
        page.to_owned()
    } else {
        without_docker_pull(page)
    };
    let page = page
        .replace("{{mirror}}", &external_url.url())
        .replace("{{host}}", &external_url.host());
    let mut response = Body::respond(StatusCode::OK, page.into_bytes(), head_only);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::VARY,
        HeaderValue::from_static("accept-language, host"),
    );
    // The URL of a closed mirror holds its secret.
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
        ),
    );
    response
}

/// Returns `robots.txt`.
pub fn robots<B>(head_only: bool) -> Response<Body<B>> {
    let mut response = Body::respond(StatusCode::OK, ROBOTS.as_bytes().to_vec(), head_only);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Removes the example of `docker pull`: an image's name can't hold the path prefix of a closed
/// mirror.
fn without_docker_pull(page: &str) -> String {
    match (
        page.split_once("<!-- open -->"),
        page.split_once("<!-- /open -->"),
    ) {
        (Some((before, _)), Some((_, after))) => format!("{before}{after}"),
        _ => page.to_owned(),
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
    use http::Request;

    fn manual_at(path_prefix: &str, headers: &[(&str, &str)]) -> String {
        let mut request = Request::get("http://in.the.uri:3000/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        match manual::<()>(
            request.headers(),
            &ExternalUrl::from_request(&request, path_prefix),
            false,
        )
        .into_body()
        {
            Body::Buffered(page) => String::from_utf8(page).unwrap(),
            Body::Upstream(()) => unreachable!(),
        }
    }

    #[test]
    fn shows_the_mirrors_own_url() {
        let headers = [
            ("host", "mirror.example.org"),
            ("x-forwarded-proto", "https"),
        ];
        let (open, closed) = (manual_at("", &headers), manual_at("/hidden", &headers));
        assert!(open.contains("https://mirror.example.org/v2/"));
        assert!(open.contains("docker pull mirror.example.org/library/alpine"));
        assert!(closed.contains("https://mirror.example.org/hidden/v2/"));
        assert!(!closed.contains("docker pull mirror.example.org"));
        assert!(!open.contains("{{") && !closed.contains("{{"));
    }

    #[test]
    fn is_in_the_browsers_language() {
        assert!(
            manual_at("", &[("accept-language", "zh-CN,zh;q=0.9,en;q=0.8")])
                .contains("lang=\"zh-CN\"")
        );
        for language in ["en-US,zh;q=0.5", "de", ""] {
            assert!(
                manual_at("", &[("accept-language", language)]).contains("lang=\"en\""),
                "{language}"
            );
        }
    }
}
