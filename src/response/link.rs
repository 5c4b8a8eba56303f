//! Paging: the `Link` header of tags, referrers and catalogs (RFC 8288; distribution specification,
//! "Listing Tags"), rewritten so that the next page comes through this mirror, from the same
//! upstream.

use crate::registry::origin::HttpUrl;
use crate::request::external_url::ExternalUrl;
use crate::request::query::Query;
use crate::request::route::Route;
use crate::request::selector::UpstreamSelector;
use crate::upstream::MAX_HEADER;
use http::{HeaderValue, Uri};
use url::form_urlencoded;

/// The response whose links are rewritten.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// The `Link` headers as the upstream sent them.
    pub links: &'a [HeaderValue],
    /// The URL that the response came from.
    pub url: &'a HttpUrl,
    /// How the client named the upstream.
    pub selector: &'a UpstreamSelector,
    /// Whether the next page has to name the upstream itself, and not as the client did.
    pub pins_upstream: bool,
}

/// Returns the link to the next page, if it leads to the same upstream. Every other link would lead
/// past the mirror, and is left out.
pub fn rewrite(page: Page<'_>, external_url: &ExternalUrl) -> Option<HeaderValue> {
    let links = page.links.iter().filter_map(|value| value.to_str().ok());
    let next = links
        .filter(|text| text.len() <= MAX_HEADER)
        .flat_map(parse)
        .find(|link| link.is_next)?;
    let target = page
        .url
        .join(next.reference)
        .ok()
        .filter(|target| target.origin == page.url.origin)?;
    let own = UpstreamSelector::Query(page.url.origin.to_string());
    let selector = if page.pins_upstream {
        &own
    } else {
        page.selector
    };
    let path = mirror_path(&target.path_and_query, selector)?;
    HeaderValue::try_from(format!(
        "<{}{path}>; rel=\"next\"",
        external_url.path_prefix()
    ))
    .ok()
}

/// Returns the path and query on this mirror for a path and query on an upstream.
fn mirror_path(path_and_query: &str, selector: &UpstreamSelector) -> Option<String> {
    let uri: Uri = path_and_query.parse().ok()?;
    let path = Route::from_registry_path(&uri)?.path();
    let mut query = Query::parse(uri.query());
    // An upstream has no say in which upstream is asked next.
    query.take("upstream").ok()?;
    query.take("ns").ok()?;
    let (path, parameter) = match selector {
        UpstreamSelector::Default => (path, None),
        UpstreamSelector::Query(host) => (path, Some(("upstream", host))),
        UpstreamSelector::Namespace(host) => (path, Some(("ns", host))),
        UpstreamSelector::Path(host) => (format!("/{host}{path}"), None),
        UpstreamSelector::RepositoryPrefix(host) => {
            (format!("/v2/{host}{}", path.strip_prefix("/v2")?), None)
        }
    };
    let parameter = parameter.map(|(name, host)| {
        form_urlencoded::Serializer::new(String::new())
            .append_pair(name, host)
            .finish()
    });
    let query: Vec<String> = [query.to_string()]
        .into_iter()
        .chain(parameter)
        .filter(|part| !part.is_empty())
        .collect();
    Some(if query.is_empty() {
        path
    } else {
        format!("{path}?{}", query.join("&"))
    })
}

struct Link<'a> {
    reference: &'a str,
    is_next: bool,
}

/// Parses `<reference>; parameter; parameter="quoted, too", <reference>…`, up to the first part
/// that is malformed.
fn parse(text: &str) -> impl Iterator<Item = Link<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (reference, after) = rest
            .trim_start_matches([' ', '\t', ','])
            .strip_prefix('<')?
            .split_once('>')?;
        let end = end_of_parameters(after);
        let (parameters, left) = after.split_at_checked(end)?;
        rest = left;
        Some(Link {
            reference,
            is_next: parameters.split(';').any(is_next),
        })
    })
}

/// Returns where the parameters of a link end: at a comma outside quotes.
fn end_of_parameters(text: &str) -> usize {
    let mut quoted = false;
    let comma = text.bytes().position(|byte| {
        quoted ^= byte == b'"';
        byte == b',' && !quoted
    });
    comma.unwrap_or(text.len())
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    name.trim().eq_ignore_ascii_case("rel")
        && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rewritten(link: &str, selector: &UpstreamSelector, pins_upstream: bool) -> Option<String> {
        let page = Page {
            links: &[HeaderValue::from_str(link).unwrap()],
            url: &HttpUrl::parse("https://registry.example/v2/a/b/tags/list?n=2").unwrap(),
            selector,
            pins_upstream,
        };
        let link = rewrite(
            page,
            &ExternalUrl::from_request(&http::Request::new(()), ""),
        )?;
        Some(link.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_next_page_is_asked_for_as_the_first_one_was() {
        let link = r#"</v2/a/b/tags/list?last=x%2Fy&n=2>; rel="next""#;
        for (selector, path) in [
            (
                UpstreamSelector::Default,
                "/v2/a/b/tags/list?last=x%2Fy&n=2",
            ),
            (
                UpstreamSelector::Query("registry.example".into()),
                "/v2/a/b/tags/list?last=x%2Fy&n=2&upstream=registry.example",
            ),
            (
                UpstreamSelector::Query("https://registry.example:443".into()),
                "/v2/a/b/tags/list?last=x%2Fy&n=2&upstream=https%3A%2F%2Fregistry.example%3A443",
            ),
            (
                UpstreamSelector::Path("registry.example".into()),
                "/registry.example/v2/a/b/tags/list?last=x%2Fy&n=2",
            ),
            (
                UpstreamSelector::RepositoryPrefix("registry.example".into()),
                "/v2/registry.example/a/b/tags/list?last=x%2Fy&n=2",
            ),
            (
                UpstreamSelector::Namespace("registry.example".into()),
                "/v2/a/b/tags/list?last=x%2Fy&n=2&ns=registry.example",
            ),
        ] {
            assert_eq!(
                rewritten(link, &selector, false),
                Some(format!("<{path}>; rel=\"next\""))
            );
        }
        assert_eq!(
            rewritten(link, &UpstreamSelector::Default, true).unwrap(),
            r#"</v2/a/b/tags/list?last=x%2Fy&n=2&upstream=https%3A%2F%2Fregistry.example>; rel="next""#
        );
    }

    #[test]
    fn reads_every_form_of_a_link_and_drops_links_to_other_hosts() {
        let next = "</v2/a/b/tags/list?n=2>; rel=\"next\"";
        for (link, expected) in [
            (
                "<https://registry.example/v2/a/b/tags/list?n=2>; rel=next",
                Some(next),
            ),
            ("<?n=2>;REL=\"next\"", Some(next)),
            (
                r#"</v2/x/tags/list>; rel="prev"; title="a, <b>", </v2/a/b/tags/list?n=2>; rel="next""#,
                Some(next),
            ),
            (
                "</v2/a/b/tags/list?n=2&upstream=evil.example&ns=x>; rel=\"next\"",
                Some(next),
            ),
            (
                "<https://other.example/v2/a/b/tags/list?n=2>; rel=\"next\"",
                None,
            ),
            (
                "<http://registry.example/v2/a/b/tags/list?n=2>; rel=\"next\"",
                None,
            ),
            ("</login>; rel=\"next\"", None),
            ("</v2/a/b/tags/list?n=2>; rel=\"prev\"", None),
            ("</v2/a/b/tags/list?n=2", None),
            ("next", None),
            ("", None),
        ] {
            assert_eq!(
                rewritten(link, &UpstreamSelector::Default, false).as_deref(),
                expected,
                "{link}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_link_panics_or_leads_past_the_mirror(link in "(<[ -~]{0,30}>(; ?[a-z]{1,5}=\"?[ -~]{0,9}\"?){0,2},? ?){0,3}") {
            if let Some(rewritten) = rewritten(&link, &UpstreamSelector::Default, false) {
                prop_assert!(rewritten.starts_with("</v2/"));
            }
        }
    }
}
