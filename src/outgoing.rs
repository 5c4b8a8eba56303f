//! One request to one host that the policy has let pass.

use crate::context::Context;
use crate::platform::{Fault, Platform};
use crate::hops::CDN_LOOP;
use crate::policy::Permitted;
use http::header::{ACCEPT_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("hammal/", env!("CARGO_PKG_VERSION")));

/// Why a request brought no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    Fault(Fault),
    /// The path can't stand in a request line: it came from a realm or a redirect.
    Malformed,
}

/// Sends `headers` and what every request of ours has.
pub async fn send<P: Platform>(
    context: &Context<'_, P>,
    host: &Permitted,
    method: Method,
    path_and_query: &str,
    headers: HeaderMap,
) -> Result<Response<P::Body>, Unsent> {
    let origin = host.origin();
    let uri =
        Uri::builder().scheme(origin.scheme.as_str()).authority(origin.authority()).path_and_query(path_and_query);
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri.build().map_err(|_| Unsent::Malformed)?;
    *request.headers_mut() = headers;
    // containerd asks for zstd and gzip, and then a digest would be that of another body.
    all.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    all.insert(USER_AGENT, AGENT);
    all.insert(CDN_LOOP, context.hops.and_this_one());
    all.extend(token.map(|token| (AUTHORIZATION, token.header())));
    *request.headers_mut() = all;
    context.platform.send(request, &context.config.timeouts).await.map_err(Unsent::Fault)
}
