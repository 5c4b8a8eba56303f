//! What goes back to the client: an allow-list of an upstream's headers, and bodies that only a registry's client can
//! make something of.

pub mod body;
pub mod error;
pub mod link;

use crate::policy::Policy;
use crate::registry::address::UpstreamSelector;
use crate::registry::origin::{Authority, HttpUrl};
use crate::request::external_url::ExternalUrl;
use crate::request::route::{RegistryRequest, Resource, Route};
use crate::response::body::Body;
use crate::response::error::Refusal;
use crate::upstream::exchange::{self, UpstreamResponse};
use crate::upstream::limits::MAX_HEADER;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// What a registry that goes by `ns=` answers, so that containerd knows it does.
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// What of an upstream's headers comes back. `Location`, `Link` and `Content-Type` come back changed.
static RESPONSE_HEADERS: [HeaderName; 21] = [
    header::ACCEPT_RANGES,
    header::AGE,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::RETRY_AFTER,
    header::VARY,
    header::WARNING,
    CONTENT_DIGEST,
    HeaderName::from_static("docker-ratelimit-source"),
    HeaderName::from_static("oci-filters-applied"),
    HeaderName::from_static("oci-subject"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
];

/// `/v2/` of the mirror itself (end-1).
pub fn pong<B>(head_only: bool) -> Response<Body<B>> {
    let mut response = Body::respond(StatusCode::OK, b"{}".to_vec(), head_only);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Makes of an upstream's answer what the client gets. `here` is where it asked.
pub fn pass_on<B>(
    asked: &RegistryRequest,
    answer: UpstreamResponse<B>,
    here: &ExternalUrl,
    policy: &Policy,
) -> Result<Response<Body<B>>, Refusal> {
    let UpstreamResponse {
        response,
        upstream,
        path_and_query,
        redirected,
    } = answer;
    let (head, body) = response.into_parts();
    let from = upstream.target(path_and_query);
    let refuse = |what: &str| Refusal::not_a_registry(&asked.route, what);

    let mut headers = HeaderMap::with_capacity(16);
    for (name, value) in head
        .headers
        .iter()
        .filter(|(name, _)| RESPONSE_HEADERS.contains(name))
    {
        headers.append(name.clone(), value.clone());
    }
    if headers.values().any(|value| value.len() > MAX_HEADER) {
        return Err(refuse("answered with a header of more than 8 KiB"));
    }
    let with = |headers: HeaderMap, body: Body<B>| {
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = headers;
        response
    };

    match (&asked.route, head.status) {
        (Route::Ping, StatusCode::OK) => Ok(pong(asked.head_only)),
        (route, StatusCode::OK | StatusCode::PARTIAL_CONTENT) => {
            let content_type =
                content_type(route, head.status, &head.headers).ok_or_else(|| match route {
                    // registry.k8s.io sends who asks for them to a page for people.
                    Route::Repository(_, Resource::Referrers(_)) => Refusal::no_referrers(),
                    _ => refuse("answered with no registry's content"),
                })?;
            headers.insert(header::CONTENT_TYPE, content_type);
            if let Some(links) =
                link::rewrite(&head.headers, &from, &asked.naming, here, !redirected)
            {
                headers.insert(header::LINK, links);
            }
            if let Some(digest) = route.digest()
                && !headers.contains_key(CONTENT_DIGEST)
                && let Ok(digest) = HeaderValue::from_str(digest.as_str())
            {
                headers.insert(CONTENT_DIGEST, digest);
            }
            // A HEAD may have become a GET on its way.
            Ok(with(
                headers,
                if asked.head_only {
                    Body::Own(Vec::new())
                } else {
                    Body::Upstream(body)
                },
            ))
        }
        (_, StatusCode::NOT_MODIFIED) => Ok(with(headers, Body::Own(Vec::new()))),
        (route, status) if route.is_blob() && exchange::is_redirect(status) => {
            let location = exchange::location(&head.headers)
                .and_then(|location| delivery(location, &from, here, policy));
            headers.insert(
                header::LOCATION,
                location.ok_or_else(|| refuse("redirects to where no client should go"))?,
            );
            // Whatever the body says, the client does not need it.
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            Ok(with(headers, Body::Own(Vec::new())))
        }
        (route, status) => Err(Refusal::of_status(status, &head.headers, route)),
    }
}

/// Headers of every answer below `/v2/`: the protocol's, and those that keep a browser from taking what an upstream sent
/// for a page of this mirror.
pub fn seal(headers: &mut HeaderMap, naming: &UpstreamSelector) {
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    );
    if let UpstreamSelector::Namespace(namespace) = naming
        && let Ok(namespace) = HeaderValue::from_str(namespace)
    {
        headers.insert(OCI_NAMESPACE, namespace);
    }
}

/// Whether a success has a type, and a redirect a target, that can be passed on.
pub fn is_usable<B>(
    route: &Route,
    answer: &UpstreamResponse<B>,
    here: &ExternalUrl,
    policy: &Policy,
) -> bool {
    let (status, headers) = (answer.response.status(), answer.response.headers());
    if exchange::is_redirect(status) {
        let from = answer.upstream.target(answer.path_and_query.clone());
        let location = exchange::location(headers).filter(|_| route.is_blob());
        return location
            .and_then(|location| delivery(location, &from, here, policy))
            .is_some();
    }
    status != StatusCode::OK || content_type(route, status, headers).is_some()
}

/// Whether a registry that answers so to the `HEAD` of a manifest has none to speak of: a GET tells.
pub fn is_of_no_head<B>(response: &Response<B>) -> bool {
    match response.status() {
        StatusCode::OK => !response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(is_registry_type),
        StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::NOT_IMPLEMENTED => true,
        _ => false,
    }
}

/// Manifests and lists have a media type of a registry or are refused; a list may lack one. For blobs there is just one,
/// unless several ranges of one come at once: the type says what parts them.
fn content_type(route: &Route, status: StatusCode, headers: &HeaderMap) -> Option<HeaderValue> {
    match route {
        Route::Repository(_, Resource::Blob(_)) => {
            let is_ranges = |value: &&HeaderValue| essence(value) == "multipart/byteranges";
            let ranges = headers
                .get(header::CONTENT_TYPE)
                .filter(|_| status == StatusCode::PARTIAL_CONTENT);
            let ranges = ranges
                .filter(|value| value.len() <= MAX_HEADER)
                .filter(is_ranges);
            Some(
                ranges
                    .cloned()
                    .unwrap_or(HeaderValue::from_static("application/octet-stream")),
            )
        }
        Route::Repository(_, Resource::Tags) | Route::Catalog => {
            // A server in Go that says nothing of the type says this.
            let is_list =
                |value: &HeaderValue| is_registry_type(value) || essence(value) == "text/plain";
            let is_list = headers.get(header::CONTENT_TYPE).is_none_or(is_list);
            is_list.then(|| HeaderValue::from_static("application/json"))
        }
        _ => headers
            .get(header::CONTENT_TYPE)
            .filter(|value| is_registry_type(value))
            .cloned(),
    }
}

fn is_registry_type(value: &HeaderValue) -> bool {
    let essence = essence(value);
    essence == "application/json"
        || (essence.starts_with("application/vnd.")
            && (essence.ends_with("+json") || essence.ends_with("+prettyjws")))
}

/// A media type without its parameters, in small letters.
pub fn essence(value: &HeaderValue) -> String {
    let text = value.to_str().unwrap_or_default();
    text.split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// Where the client is sent for a blob: the `Location` untouched if it is plainly absolute (a signature may cover its
/// every character), to plain http only where the operator listed it, never back to this mirror.
fn delivery(
    location: &str,
    from: &HttpUrl,
    here: &ExternalUrl,
    policy: &Policy,
) -> Option<HeaderValue> {
    let target = from.join(location).ok()?;
    let back_here = here
        .authority()
        .is_some_and(|own| own.on(target.origin.scheme) == target.origin);
    if back_here || !policy.permit_redirect(&target.origin) {
        return None;
    }
    HeaderValue::try_from(if is_plain(location, &target) {
        location.to_owned()
    } else {
        target.to_string()
    })
    .ok()
}

/// Whether `location` is an absolute URL that no client's parser can take for one of another host than `target`: some
/// see a `\` as a slash, some see it as a part of a user's name.
fn is_plain(location: &str, target: &HttpUrl) -> bool {
    let (scheme, rest) = location.split_once("://").unwrap_or_default();
    let authority = Authority::parse(rest.split(['/', '?', '#']).next().unwrap_or_default());
    location.bytes().all(|byte| byte.is_ascii_graphic())
        && scheme.eq_ignore_ascii_case(target.origin.scheme.as_str())
        && authority.is_ok_and(|authority| authority.on(target.origin.scheme) == target.origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::listing;
    use crate::registry::origin::Scheme;
    use http::{Request, Uri};
    use proptest::prelude::*;
    use url::Host;

    fn delivered(location: &str) -> Option<String> {
        let from = HttpUrl::parse("https://registry.example/v2/a/blobs/x").unwrap();
        let request = Request::get("http://mirror.example/").body(()).unwrap();
        let delivered = delivery(
            location,
            &from,
            &ExternalUrl::of(&request, ""),
            &listing(&["cdn.example:5000"]),
        )?;
        Some(delivered.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_location_that_can_be_read_in_two_ways_is_written_in_one() {
        for (location, sent) in [
            (
                "https://cdn.example/a%2Fb?x=~|^",
                "https://cdn.example/a%2Fb?x=~|^",
            ),
            ("HTTPS://CDN.example:443/a", "HTTPS://CDN.example:443/a"),
            (
                "https:cdn.example/a",
                "https://registry.example/v2/a/blobs/cdn.example/a",
            ),
            ("https:/\\cdn.example/a", "https://cdn.example/a"),
            (
                "https://cdn.example\\@mirror.example/a",
                "https://cdn.example/@mirror.example/a",
            ),
            ("https://cdn.example/\ta", "https://cdn.example/a"),
        ] {
            assert_eq!(delivered(location).as_deref(), Some(sent), "{location}");
        }
        for location in [
            "https://mirror.example\\@cdn.example/a",
            "http://cdn.example/a",
            "http://cdn.example:80/a",
        ] {
            assert_eq!(delivered(location), None, "{location}");
        }
        let listed = "http://cdn.example:5000/a";
        assert_eq!(delivered(listed).as_deref(), Some(listed));
    }

    proptest! {
        #[test]
        fn clients_are_sent_to_https_and_to_one_host_however_they_read_it(
            location in "((https?|HTTPS):?)?[/\\\\]{0,3}([a-z]{1,3}@)?(cdn|mirror|10)?[.][a-z1]{1,7}[:@/\\\\?#\t]{0,2}[ -~]{0,20}",
        ) {
            if let Some(sent) = delivered(&location) {
                let target = HttpUrl::parse(&sent).unwrap();
                prop_assert!(target.origin.scheme == Scheme::Https || target.origin.port == 5000);
                prop_assert_ne!(target.origin.host.to_string(), "mirror.example");
                prop_assert!(sent.bytes().all(|byte| byte.is_ascii_graphic()));
                if let Ok(strict) = sent.split('#').next().unwrap().parse::<Uri>() {
                    prop_assert_eq!(Host::parse(strict.host().unwrap()).ok(), Some(target.origin.host));
                }
            }
        }
    }
}
