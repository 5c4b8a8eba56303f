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
use url::{Url, form_urlencoded};

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

/// Returns the link to the next page. An upstream behind a proxy may write it with its inner
/// scheme, host, port or path prefix (Nexus, Pulp): the client would take half a list for the whole
/// without it. So where it leads to does not count, only the list that it is of, and the next page
/// is asked of the upstream that sent this one. A link to another list of the upstream itself is
/// kept too.
pub fn rewrite(page: Page<'_>, external_url: &ExternalUrl) -> Option<HeaderValue> {
    let links = page.links.iter().filter_map(|value| value.to_str().ok());
    let own = UpstreamSelector::Query(page.url.origin.to_string());
    let selector = if page.pins_upstream {
        &own
    } else {
        page.selector
    };
    let path = links
        .filter(|text| text.len() <= MAX_HEADER)
        .flat_map(parse)
        .filter(|link| link.is_next)
        .find_map(|link| mirror_path(next_page(page.url, link.reference)?, selector))?;
    HeaderValue::try_from(format!(
        "<{}{path}>; rel=\"next\"",
        external_url.path_prefix()
    ))
    .ok()
}

/// Returns the route and the query that a link on the page at `url` is of.
fn next_page(url: &HttpUrl, reference: &str) -> Option<(Route, Option<String>)> {
    let base = Url::parse(&url.to_string()).ok()?;
    let target = base.join(reference).ok()?;
    if !matches!(target.scheme(), "http" | "https") {
        return None;
    }
    let route = |path: &str| Route::from_registry_path(&path.parse::<Uri>().ok()?);
    let this_page = route(base.path())?;
    let is_own = |next: &Route| target.origin() == base.origin() || *next == this_page;
    let next = match route(target.path()).filter(is_own) {
        Some(next) => next,
        None if target.path().ends_with(base.path()) => this_page,
        None => return None,
    };
    Some((next, target.query().map(str::to_owned)))
}

/// Returns the path and query on this mirror for a route and query on an upstream.
fn mirror_path(
    (route, query): (Route, Option<String>),
    selector: &UpstreamSelector,
) -> Option<String> {
    let path = route.path();
    let mut query = Query::parse(query.as_deref());
    // An upstream has no say in which upstream is asked next, however often it tries.
    for parameter in ["upstream", "ns"] {
        let _ = query.take(parameter);
    }
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
            is_next: split_unquoted(parameters, b';').any(is_next),
        })
    })
}

/// Returns where the parameters of a link end: at a comma outside quotes.
fn end_of_parameters(text: &str) -> usize {
    find_unquoted(text, b',').unwrap_or(text.len())
}

fn find_unquoted(text: &str, byte: u8) -> Option<usize> {
    let mut is_quoted = false;
    text.bytes().position(|one| {
        is_quoted ^= one == b'"';
        one == byte && !is_quoted
    })
}

fn split_unquoted(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let end = find_unquoted(text, separator);
        rest = end.and_then(|end| text.get(end.saturating_add(1)..));
        text.get(..end.unwrap_or(text.len()))
    })
}

/// Whether a parameter is `rel` with `next` among its relation types (RFC 8288, section 3.3).
fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let mut types = value.trim().trim_matches('"').split_whitespace();
    name.trim().eq_ignore_ascii_case("rel") && types.any(|one| one.eq_ignore_ascii_case("next"))
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
    fn reads_every_form_of_a_link() {
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
                "</v2/a/b/tags/list?upstream=a&n=2&upstream=b>; rel=\"next\"",
                Some(next),
            ),
            ("<?n=2>; rel=\"last next\"", Some(next)),
            (
                "<?n=1>; title=\"; rel=next\", <?n=2>; rel = next",
                Some(next),
            ),
            ("</login>; rel=next, <?n=2>; rel=next", Some(next)),
            (
                "</v2/c/tags/list>; rel=next",
                Some("</v2/c/tags/list>; rel=\"next\""),
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

    #[test]
    fn keeps_the_next_page_of_a_list_that_names_another_host() {
        for origin in [
            "http://registry.internal:5000",
            "https://registry.example:8443",
            "http://registry.example",
            "HTTP://10.0.0.7:8081",
            "//my_nexus.",
            "https://user:word@other.example",
        ] {
            for (path, is_kept) in [
                ("/v2/a/b/tags/list", true),
                ("/v2/a/b/tags/list/", false),
                ("/repository/docker/v2/a/b/tags/list", true),
                ("/v2/a/tags/list", false),
                ("/v2/x/a/b/tags/list", false),
                ("/v2/_catalog", false),
                ("/api", false),
            ] {
                let link = format!("<{origin}{path}?last=x%2Fy&n=2>; rel=\"next\"");
                let kept = r#"</v2/a/b/tags/list?last=x%2Fy&n=2>; rel="next""#;
                assert_eq!(
                    rewritten(&link, &UpstreamSelector::Default, false).as_deref(),
                    is_kept.then_some(kept),
                    "{link}"
                );
            }
        }
        for link in [
            "<ftp://a.example/v2/a/b/tags/list?n=2>; rel=next",
            "<data:x>; rel=next",
        ] {
            assert_eq!(rewritten(link, &UpstreamSelector::Default, false), None);
        }
    }

    proptest! {
        #[test]
        fn no_link_panics_or_leads_past_the_mirror(link in "(<[ -~]{0,30}>(; ?[a-z]{1,5}=\"?[ -~]{0,9}\"?){0,2},? ?){0,3}") {
            if let Some(rewritten) = rewritten(&link, &UpstreamSelector::Default, false) {
                prop_assert!(rewritten.starts_with("</v2/"));
            }
        }

        /// Whatever host a link names, its list does not end, and is asked of the same upstream.
        #[test]
        fn no_link_to_the_list_ends_it_or_leads_elsewhere(
            origin in "((https?:|HTTPS:)?//([a-z]{1,3}(:[a-z]{1,3})?@)?([a-z]{1,4}[._-]){0,2}[a-z]{1,4}[.]?(:[1-9][0-9]{0,3})?)?",
            prefix in "(/[a-z]{1,5}){0,2}",
            cursor in "[a-z0-9.%2F_~-]{0,9}",
            extra in "(&(upstream|ns|u%70stream)=[a-z.]{1,9}){0,3}",
            parameters in "((; ?(title|type)=\"[a-z;, ]{0,5}\")?; ?rel ?= ?(next|\"next\"|\"prev next\")(; ?title=\"[a-z;,<> ]{0,9}\")?)",
            number in 0..5_usize,
            pins in any::<bool>(),
        ) {
            let host = || "registry.example".to_owned();
            let selectors = [
                UpstreamSelector::Default,
                UpstreamSelector::Query(host()),
                UpstreamSelector::Path(host()),
                UpstreamSelector::RepositoryPrefix(host()),
                UpstreamSelector::Namespace(host()),
            ];
            let selector = selectors.get(number).unwrap();
            let link = format!("<{origin}{prefix}/v2/a/b/tags/list?last={cursor}&n=2{extra}>{parameters}");
            let (path, named) = match selector {
                _ if pins => ("/v2/a/b", "&upstream=https%3A%2F%2Fregistry.example"),
                UpstreamSelector::Default => ("/v2/a/b", ""),
                UpstreamSelector::Query(_) => ("/v2/a/b", "&upstream=registry.example"),
                UpstreamSelector::Path(_) => ("/registry.example/v2/a/b", ""),
                UpstreamSelector::RepositoryPrefix(_) => ("/v2/registry.example/a/b", ""),
                UpstreamSelector::Namespace(_) => ("/v2/a/b", "&ns=registry.example"),
            };
            let expected = format!("<{path}/tags/list?last={cursor}&n=2{named}>; rel=\"next\"");
            prop_assert_eq!(rewritten(&link, selector, pins), Some(expected), "{}", link);
        }
    }
}
