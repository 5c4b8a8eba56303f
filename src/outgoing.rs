//! One request to one host that the policy has let pass.

use crate::auth::Token;
use crate::context::Context;
use crate::hops::CDN_LOOP;
use crate::platform::{Fault, Platform};
use crate::policy::Permitted;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("hammal/", env!("CARGO_PKG_VERSION")));

/// Why a request brought no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    Fault(Fault),
    /// The path can't stand in a request line: it came from a realm or a redirect.
    Malformed,
}

/// Sends `headers`, a token where there is one, and what every request of ours has.
pub async fn send<P: Platform>(
    context: &Context<'_, P>,
    host: &Permitted,
    method: Method,
    path_and_query: &str,
    headers: &HeaderMap,
    token: Option<&Token>,
) -> Result<Response<P::Body>, Unsent> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = host.uri(path_and_query).map_err(|_| Unsent::Malformed)?;
    let mut all = HeaderMap::with_capacity(headers.len().saturating_add(4));
    all.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    // containerd asks for zstd and gzip, and then a digest would be that of another body.
    all.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    all.insert(USER_AGENT, AGENT);
    all.insert(CDN_LOOP, context.hops.and_this_one());
    all.extend(token.map(|token| (AUTHORIZATION, token.header())));
    *request.headers_mut() = all;
    context.platform.send(request, &context.config.timeouts).await.map_err(Unsent::Fault)
}
