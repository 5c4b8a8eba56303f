//! The form in which Spin passes a request to a component.

use crate::config::route::Route;
use crate::limits::connections::Connection;
use crate::outbound::INCOMING_MARKER;
use anyhow::{Context as _, Result};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Uri, Version, header};
use std::net::SocketAddr;
use std::sync::Arc;

/// Tells the component the client's IP address and port, as Spin does.
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("spin-client-addr");

/// Tells the component, whose SDK doesn't give it the URL's scheme, that its URL starts with
/// `https:`. A proxy in front may have said so already.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The client of a connection.
#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// The address that it is connected to.
    pub local: Option<SocketAddr>,
    pub scheme: Scheme,
    pub connection: Arc<Connection>,
}

/// Gives a request the form in which Spin passes it to a component: with an absolute URI, `Host`
/// and the address of the client. Returns `false` if the route doesn't match. Fails if there is no
/// valid host, or several.
pub fn prepare(parts: &mut Parts, route: &Route, peer: &Peer) -> Result<bool> {
    if !route.matches(parts.uri.path()) {
        return Ok(false);
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts
        .next()
        .map(|host| Authority::try_from(host.as_bytes()))
        .transpose();
    let host = host.context("the Host header is not a host")?;
    if hosts.next().is_some() {
        anyhow::bail!("the request has several Host headers");
    }
    let authority = match (host, parts.uri.authority()) {
        (Some(host), None) => host,
        (None, Some(authority)) => authority.clone(),
        (Some(host), Some(authority)) if host == *authority => host,
        (Some(_), Some(_)) => anyhow::bail!("the Host header and the request's authority differ"),
        // Health checks of load balancers; HTTP/1.0 has no `Host`.
        (None, None) if parts.version == Version::HTTP_10 => match peer.local {
            Some(local) => Authority::try_from(local.to_string())?,
            None => anyhow::bail!("the request has no Host header"),
        },
        (None, None) => anyhow::bail!("the request has no Host header"),
    };

    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    if peer.scheme == Scheme::HTTPS && !parts.headers.contains_key(FORWARDED_PROTO) {
        let https = HeaderValue::from_static("https");
        parts.headers.insert(FORWARDED_PROTO, https);
    }
    uri.scheme = Some(peer.scheme.clone());
    uri.authority = Some(authority.clone());
    parts.uri = Uri::from_parts(uri)?;

    // Values that the client sent stay in front: the last one is the host's. Spin adds six more
    // headers, about the route and the URL. A mirror doesn't need them, and each costs a copy.
    let client = HeaderValue::try_from(peer.address.to_string())?;
    parts.headers.append(CLIENT_ADDRESS, client);
    parts.headers.remove(header::CONNECTION);
    // The marker directly before `Host`: see `outbound::Outbound`.
    parts.headers.remove(header::HOST);
    parts
        .headers
        .insert(INCOMING_MARKER, HeaderValue::from_static("1"));
    parts
        .headers
        .insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::limits::Limits;
    use crate::limits::connections::Connections;
    use http::Request;

    const CLIENT: HeaderValue = HeaderValue::from_static("127.0.0.1:4711");

    fn peer() -> Peer {
        let address: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        let connections = Connections::new(&Limits::default(), false);
        Peer {
            address,
            local: Some("192.0.2.1:3000".parse().unwrap()),
            scheme: Scheme::HTTP,
            connection: Arc::new(connections.open(address.ip()).unwrap()),
        }
    }

    fn prepare(request: http::request::Builder, route: &str) -> Result<Option<Parts>> {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let matches = super::prepare(&mut parts, &Route::parse(route).unwrap(), &peer())?;
        Ok(matches.then_some(parts))
    }

    #[test]
    fn passes_the_request_uri_host_and_client_address() {
        let request = Request::get("/v2//a%2Fb?n=1&m")
            .header("host", "mirror.lan:3000")
            .header("connection", "close")
            .header("spin-client-addr", "6.6.6.6:1");
        let parts = prepare(request, "/...").unwrap().unwrap();
        assert_eq!(parts.uri, "http://mirror.lan:3000/v2//a%2Fb?n=1&m");
        let last = |name| parts.headers.get_all(name).iter().next_back().unwrap();
        assert_eq!(last("host"), "mirror.lan:3000");
        assert_eq!(last("spin-client-addr"), CLIENT);
        assert!(!parts.headers.contains_key("connection"));
        let names: Vec<_> = parts.headers.keys().collect();
        assert_eq!(names[names.len() - 2..], [&INCOMING_MARKER, &header::HOST]);
    }

    #[test]
    fn says_that_the_request_came_over_tls() {
        let route = Route::parse("/...").unwrap();
        for (sent, seen) in [(None, "https"), (Some("http"), "http")] {
            let mut request = Request::get("/").header("host", "a.lan");
            if let Some(sent) = sent {
                request = request.header("x-forwarded-proto", sent);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            let peer = Peer {
                scheme: Scheme::HTTPS,
                ..peer()
            };
            assert!(super::prepare(&mut parts, &route, &peer).unwrap());
            assert_eq!(parts.uri, "https://a.lan/");
            assert_eq!(parts.headers["x-forwarded-proto"], seen);
        }
    }

    #[test]
    fn takes_the_host_from_the_authority_of_http2() {
        let parts = prepare(Request::get("http://a.lan/x"), "/...")
            .unwrap()
            .unwrap();
        assert_eq!(parts.headers["host"], "a.lan");
    }

    #[test]
    fn rejects_a_request_without_one_valid_host() {
        for request in [
            Request::get("/"),
            Request::get("/").header("host", "a b"),
            Request::get("http://a.lan/").header("host", "b.lan"),
            Request::get("/")
                .header("host", "a.lan")
                .header("host", "b.lan"),
            Request::get("/")
                .header("host", "a.lan")
                .header("host", "a.lan"),
        ] {
            assert!(prepare(request, "/...").is_err());
        }
    }

    #[test]
    fn answers_http10_without_a_host() {
        let request = Request::get("/v2/").version(Version::HTTP_10);
        let parts = prepare(request, "/...").unwrap().unwrap();
        assert_eq!(parts.uri, "http://192.0.2.1:3000/v2/");
    }

    #[test]
    fn does_not_match_other_routes() {
        assert!(
            prepare(Request::get("/x").header("host", "a"), "/v2/...")
                .unwrap()
                .is_none()
        );
    }
}
