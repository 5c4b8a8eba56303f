//! Redirects of upstreams: those that are followed here, and those of blobs that go back to the
//! client.

use super::error::RedirectError;
use super::{MAX_HEADER, RawResponse, signed_url, timestamp};
use crate::context::Context;
use crate::oci::name::Name;
use crate::platform::Platform;
use crate::policy::Policy;
use crate::policy::domain::is_subdomain;
use crate::policy::permitted::{Denied, Upstream};
use crate::registry::docker_hub;
use crate::registry::origin::{Authority, HttpUrl, Origin};
use crate::request::route::Route;
use http::header::{DATE, LOCATION};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use std::time::Duration;
use url::Host;

/// A longer chain of redirects is not followed.
pub const MAX_REDIRECTS: usize = 5;

/// One registry of a chain of redirects, and the path that is asked for there.
pub struct Hop {
    pub upstream: Upstream,
    pub path_and_query: String,
    /// The repository, if the path is a registry's: tokens are for one repository.
    pub name: Option<Name>,
    /// The endpoint that the client asks for.
    endpoint: &'static str,
    /// Whether the operator names this registry, or one that led here.
    is_trusted: bool,
}

/// The parameters of the protocol, for lists and referrers.
const PARAMETERS: [&str; 4] = ["artifactType", "last", "n", "ns"];

impl Hop {
    /// Returns the registry that the request is for.
    pub fn first(upstream: &Upstream, route: &Route, query: &str) -> Hop {
        let route = route.at(upstream.origin());
        let path = route.path();
        Hop {
            upstream: upstream.clone(),
            path_and_query: if query.is_empty() {
                path
            } else {
                format!("{path}?{query}")
            },
            name: route.name().cloned(),
            endpoint: route.endpoint(),
            is_trusted: upstream.is_operators(),
        }
    }

    /// Returns the registry that this one redirects to. One that the operator names may keep its
    /// manifests in a bucket. Any other leads to a registry's path of the same kind only, or its
    /// owner could have any URL asked from here, and read what it answers.
    pub fn follow<P: Platform>(
        &self,
        context: &Context<'_, P>,
        location: &str,
    ) -> Result<Hop, RedirectError> {
        let mut target = resolve_location(&self.url(), location)?;
        if !self.is_trusted {
            target.path_and_query = self
                .registry_path(&target.path_and_query)
                .ok_or(RedirectError::NotRegistry)?;
        }
        let (policy, from) = (&context.config.policy, self.upstream.origin());
        let permit = || {
            let upstream = policy.permit(target.origin.clone())?;
            let route = permit_path(context, &target, from)?;
            if route.is_none() {
                policy.permit_internal_target(&target.origin, from)?;
            }
            Ok((upstream, route))
        };
        let (upstream, route) = permit().map_err(RedirectError::Forbidden)?;
        Ok(Hop {
            endpoint: self.endpoint,
            is_trusted: self.is_trusted || upstream.is_operators(),
            upstream,
            path_and_query: target.path_and_query,
            name: route.and_then(|route| route.name().cloned()),
        })
    }

    /// Writes a path anew if it is a registry's, of the endpoint that is asked for. Of the query
    /// the protocol's parameters stay; that of a blob may be a signature.
    fn registry_path(&self, path_and_query: &str) -> Option<String> {
        let uri: Uri = path_and_query.parse().ok()?;
        let route = Route::from_registry_path(&uri)?;
        if route.endpoint() != self.endpoint {
            return None;
        }
        let is_kept = |parameter: &&str| {
            let name = parameter.split('=').next().unwrap_or_default();
            route.is_blob() || PARAMETERS.contains(&name)
        };
        let query = uri.query().unwrap_or_default();
        let query: Vec<&str> = query.split('&').filter(is_kept).collect();
        let path = route.path();
        Some(match query.join("&") {
            query if query.is_empty() => path,
            query => format!("{path}?{query}"),
        })
    }

    pub fn url(&self) -> HttpUrl {
        self.upstream.url(self.path_and_query.clone())
    }
}

/// Returns the URL that a redirect from `from` leads to. Other names of Docker Hub become that of
/// its registry, so that the operator's settings for it hold for all of them.
pub fn resolve_location(from: &HttpUrl, location: &str) -> Result<HttpUrl, RedirectError> {
    let mut target = from.join(location).map_err(|_| RedirectError::Malformed)?;
    target.origin.host = docker_hub::canonical_host(target.origin.host);
    Ok(target)
}

/// May a redirect lead to this path: a repository that the operator has closed is not reached by
/// way of another registry either. Returns the route, if it is a registry's path.
pub fn permit_path<P: Platform>(
    context: &Context<'_, P>,
    target: &HttpUrl,
    from: &Origin,
) -> Result<Option<Route>, Denied> {
    let uri = target.path_and_query.parse::<Uri>().ok();
    let route = uri.and_then(|uri| Route::from_registry_path(&uri));
    let (policy, origin) = (&context.config.policy, &target.origin);
    match &route {
        Some(Route::Repository(name, _)) => policy.permit_redirect_repository(origin, name)?,
        Some(Route::Catalog) => policy.permit_catalog()?,
        _ => policy.permit_non_registry_path(origin, from)?,
    }
    Ok(route)
}

/// Returns the `Location` of a response that has to be followed here. That of a blob has to be if
/// it is a registry's path again (lscr.io, registry.k8s.io): a client would go there without the
/// token that this registry asks for.
pub fn location_to_follow<'r, B>(
    route: &Route,
    hop: &Hop,
    response: &'r Response<B>,
) -> Option<&'r str> {
    if !is_redirect(response.status()) {
        return None;
    }
    let location = location(response.headers())?;
    if route.is_blob() {
        let target = hop.url().join(location).ok()?;
        let uri: Uri = target.path_and_query.parse().ok()?;
        Route::from_registry_path(&uri).filter(Route::is_blob)?;
    }
    Some(location)
}

/// Returns the `Location` of a response as its upstream wrote it.
pub fn location(headers: &HeaderMap) -> Option<&str> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    (location.len() <= MAX_HEADER).then_some(location)
}

/// Whether a status is a redirect with a `Location`. 304 is none.
pub fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether this answer to a `HEAD` may mean that only a `GET` is answered there: the URLs that
/// delivery networks and buckets redirect to are signed for one method.
pub fn refuses_head(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED
    )
}

/// Returns the `Location` that a client gets for a blob: the upstream's untouched if it is plainly
/// absolute (a signature may cover its every character), else the URL that it means. `None` where
/// the client may not be sent: over plain http to a host that the operator did not list, or back to
/// this mirror.
pub fn client_location<P: Platform>(
    context: &Context<'_, P>,
    from: &HttpUrl,
    location: &str,
) -> Option<HeaderValue> {
    if takes_login_to(context, from, location) {
        return None;
    }
    let own = context.external_url.authority();
    permitted_location(&context.config.policy, own.as_ref(), from, location)
}

/// Whether the client is not sent where this response redirects to, since it would take its login
/// at this mirror along.
pub fn takes_login_along<P: Platform, B>(
    context: &Context<'_, P>,
    response: &RawResponse<B>,
) -> bool {
    is_redirect(response.response.status())
        && location(response.response.headers())
            .is_some_and(|location| takes_login_to(context, &response.url, location))
}

/// Whether clients log in here, and would take their login along to where this leads.
fn takes_login_to<P: Platform>(context: &Context<'_, P>, from: &HttpUrl, location: &str) -> bool {
    let target = || from.join(location).ok().map(|target| target.origin.host);
    host_gets_login(context, target)
}

/// Whether clients log in here, and would do so at a host too: Go's HTTP library sends
/// `Authorization` again to the same host at any port, and to names below it.
pub fn host_gets_login<P: Platform>(
    context: &Context<'_, P>,
    host: impl FnOnce() -> Option<Host>,
) -> bool {
    if context.config.access.clients.is_empty() {
        return false;
    }
    let own = context.external_url.authority().map(|own| own.host);
    match (host(), own) {
        (Some(Host::Domain(name)), Some(Host::Domain(own))) => {
            name == own || is_subdomain(&name, &own)
        }
        (target, own) => target == own,
    }
}

fn permitted_location(
    policy: &Policy,
    own: Option<&Authority>,
    from: &HttpUrl,
    location: &str,
) -> Option<HeaderValue> {
    let target = from.join(location).ok()?;
    let is_mirror = own.is_some_and(|own| own.on(target.origin.scheme) == target.origin);
    if is_mirror || !policy.permits_client_redirect(&target.origin) {
        return None;
    }
    let location = if is_plainly_absolute(location, &target) {
        location.to_owned()
    } else {
        target.to_string()
    };
    HeaderValue::try_from(location).ok()
}

/// Returns when the URL of a redirect stops being good, by a clock that shows `now`: see
/// [`signed_url::valid_until`]. A clock that is behind the upstream's is found by the `Date` of the
/// answer, or every URL would be handed out for too long.
pub fn ends(headers: &HeaderMap, location: &HeaderValue, now: Duration) -> Option<Duration> {
    let end = signed_url::valid_until(location.to_str().ok()?)?;
    let date = headers.get(DATE).and_then(|date| date.to_str().ok());
    let behind = date.and_then(timestamp::parse_http_date);
    let behind = behind.unwrap_or_default().saturating_sub(now);
    Some(end.saturating_sub(behind))
}

/// Whether `location` is an absolute URL that no client's parser can take for one of another host
/// than `target`: some parsers see a `\` as a slash, some as a part of a user's name.
fn is_plainly_absolute(location: &str, target: &HttpUrl) -> bool {
    let (scheme, rest) = location.split_once("://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    let url = HttpUrl::parse(&format!("{}://{authority}/", target.origin.scheme.as_str()));
    location.bytes().all(|byte| byte.is_ascii_graphic())
        && scheme.eq_ignore_ascii_case(target.origin.scheme.as_str())
        && authority.bytes().all(is_plain)
        && !authority.ends_with(':')
        && url.is_ok_and(|url| url.origin == target.origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::listing;
    use crate::registry::origin::Scheme;
    use proptest::prelude::*;
    use url::Host;

    fn location_for_client(location: &str) -> Option<String> {
        let from = HttpUrl::parse("https://registry.example/v2/a/blobs/x").unwrap();
        let own = Authority::parse("mirror.example").unwrap();
        let policy = listing(&["cdn.example:5000"]);
        let location = permitted_location(&policy, Some(&own), &from, location)?;
        Some(location.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_location_that_parsers_read_differently_is_rewritten() {
        for (location, sent) in [
            (
                "https://cdn.example/a%2Fb?x=~|^",
                "https://cdn.example/a%2Fb?x=~|^",
            ),
            ("HTTPS://CDN.example:443/a", "HTTPS://CDN.example:443/a"),
            (
                "https://my_bucket.cdn.example/a",
                "https://my_bucket.cdn.example/a",
            ),
            (
                "https://cdn.example./a?sig=x",
                "https://cdn.example./a?sig=x",
            ),
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
            assert_eq!(
                location_for_client(location).as_deref(),
                Some(sent),
                "{location}"
            );
        }
        for location in [
            "https://mirror.example\\@cdn.example/a",
            "https://mirror.example./a",
            "http://cdn.example/a",
            "http://cdn.example:80/a",
        ] {
            assert_eq!(location_for_client(location), None, "{location}");
        }
        let listed = "http://cdn.example:5000/a";
        assert_eq!(location_for_client(listed).as_deref(), Some(listed));
    }

    proptest! {
        #[test]
        fn clients_are_sent_to_one_host_over_https_however_they_parse_the_location(
            location in "((https?|HTTPS):?)?[/\\\\]{0,3}([a-z]{1,3}@)?(cdn|mirror|10)?[.][a-z1]{1,7}[:@/\\\\?#\t]{0,2}[ -~]{0,20}",
        ) {
            if let Some(sent) = location_for_client(&location) {
                let target = HttpUrl::parse(&sent).unwrap();
                prop_assert!(target.origin.scheme == Scheme::Https || target.origin.port == 5000);
                prop_assert_ne!(target.origin.host.to_string(), "mirror.example");
                prop_assert!(sent.bytes().all(|byte| byte.is_ascii_graphic()));
                if let Ok(strict) = sent.split('#').next().unwrap().parse::<Uri>() {
                    let host = strict.host().unwrap();
                    let host = host.strip_suffix('.').unwrap_or(host);
                    prop_assert_eq!(Host::parse(host).ok(), Some(target.origin.host));
                }
            }
        }
    }
}
