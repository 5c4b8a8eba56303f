//! By WASIp3: an instance answers many requests.

use anyhow::Context as _;
use http::{HeaderMap, HeaderName, Uri, header};
use spin_sdk::http::Request;
use spin_sdk::wasip3::http::client;
use spin_sdk::wasip3::http::types::{self, ErrorCode, Fields, Method, Response, Scheme, Trailers};
use spin_sdk::wasip3::wit_future;
use spin_sdk::wit_bindgen::FutureReader;
use spin_sdk::{http_service, variables};
use std::cell::OnceCell;

/// A component that sets one of these gets `HeaderError::Forbidden`.
const FORBIDDEN: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::HOST,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

thread_local! {
    static UPSTREAM: OnceCell<Uri> = const { OnceCell::new() };
}

#[http_service]
async fn forward(request: Request) -> anyhow::Result<Response> {
    let upstream = client::send(outgoing(&request, &upstream().await?)?).await?;
    let status = upstream.get_status_code();
    let headers = allowed(upstream.get_headers().try_into()?)?;

    let (_, received) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(upstream, received);
    let response = Response::new(headers, Some(body), trailers).0;
    response
        .set_status_code(status)
        .ok()
        .context("no status of HTTP")?;
    Ok(response)
}

fn outgoing(request: &Request, upstream: &Uri) -> anyhow::Result<types::Request> {
    let mut headers = request.headers().clone();
    let of_the_host: Vec<_> = headers
        .keys()
        .filter(|name| is_of_the_host(name))
        .cloned()
        .collect();
    for name in of_the_host {
        headers.remove(name);
    }
    let (outgoing, _sent) = types::Request::new(allowed(headers)?, None, no_trailers(), None);
    let set = || {
        outgoing.set_method(&Method::from(request.method()))?;
        outgoing.set_scheme(upstream.scheme().map(Scheme::from).as_ref())?;
        outgoing.set_authority(upstream.authority().map(|authority| authority.as_str()))?;
        outgoing.set_path_with_query(request.uri().path_and_query().map(|path| path.as_str()))
    };
    set().ok().context("no request of HTTP")?;
    Ok(outgoing)
}

/// The host tells its guests about the request in headers.
fn is_of_the_host(name: &HeaderName) -> bool {
    name.as_str().starts_with("spin-")
}

fn allowed(mut headers: HeaderMap) -> anyhow::Result<Fields> {
    for name in FORBIDDEN {
        headers.remove(name);
    }
    Ok(Fields::try_from(headers)?)
}

fn no_trailers() -> FutureReader<Result<Option<Trailers>, ErrorCode>> {
    wit_future::new(|| Ok(None)).1
}

/// The variable is read once in an instance.
async fn upstream() -> anyhow::Result<Uri> {
    if let Some(uri) = UPSTREAM.with(|cell| cell.get().cloned()) {
        return Ok(uri);
    }
    let uri: Uri = variables::get("upstream").await?.parse()?;
    Ok(UPSTREAM.with(|cell| cell.get_or_init(|| uri).clone()))
}
