//! One request to one host that the policy has let pass.

use crate::auth::Token;
use crate::context::{Context, count};
use crate::hops::CDN_LOOP;
use crate::platform::{Fault, Platform};
use crate::policy::Permitted;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use std::cell::Cell;
use std::time::Duration;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("hammal/", env!("CARGO_PKG_VERSION")));

/// A connection that breaks within this time may have been one that its host was about to close: after so many requests
/// (nginx: 1,000), or so long without one. No platform here sends such a request again, and every request here may be.
const RETIRED_WITHIN: Duration = Duration::from_secs(2);

/// Why a request brought no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    Fault(Fault),
    /// The path can't stand in a request line: it came from a realm or a redirect.
    Malformed,
}

/// Sends `headers`, a token where there is one, and what every request of ours has; once more where the connection breaks
/// at once. Each time is counted.
pub async fn send<P: Platform>(
    context: &Context<'_, P>,
    host: &Permitted,
    method: Method,
    path_and_query: &str,
    headers: &HeaderMap,
    token: Option<&Token>,
    counter: &Cell<u32>,
) -> Result<Response<P::Body>, Unsent> {
    let begun = context.platform.now();
    match send_once(
        context,
        host,
        method.clone(),
        path_and_query,
        headers,
        token,
        counter,
    )
    .await
    {
        Err(Unsent::Fault(Fault::Broken))
            if context.platform.now().saturating_sub(begun) < RETIRED_WITHIN =>
        {
            send_once(
                context,
                host,
                method,
                path_and_query,
                headers,
                token,
                counter,
            )
            .await
        }
        sent => sent,
    }
}

/// The same for who has another way to ask again.
pub async fn send_once<P: Platform>(
    context: &Context<'_, P>,
    host: &Permitted,
    method: Method,
    path_and_query: &str,
    headers: &HeaderMap,
    token: Option<&Token>,
    counter: &Cell<u32>,
) -> Result<Response<P::Body>, Unsent> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = host.uri(path_and_query).map_err(|_| Unsent::Malformed)?;
    let mut all = HeaderMap::with_capacity(headers.len().saturating_add(4));
    all.extend(
        headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    // containerd asks for zstd and gzip, and then a digest would be that of another body.
    all.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    all.insert(USER_AGENT, AGENT);
    all.insert(CDN_LOOP, context.hops.and_this_one());
    all.extend(token.map(|token| (AUTHORIZATION, token.header())));
    *request.headers_mut() = all;
    count(counter);
    context
        .platform
        .send(request, &context.config.timeouts)
        .await
        .map_err(Unsent::Fault)
}
