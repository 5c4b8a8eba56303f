//! By WASIp2: an instance answers one request.

use spin_sdk_wasip2::variables;
use wasi::exports::http::incoming_handler::Guest;
use wasi::http::outgoing_handler;
use wasi::http::types::{
    ErrorCode, Fields, IncomingRequest, IncomingResponse, OutgoingBody, OutgoingRequest,
    OutgoingResponse, ResponseOutparam, Scheme,
};
use wasi::io::streams::{InputStream, OutputStream, StreamError};

/// How many bytes the host may move at once.
const SPLICE: u64 = 1024 * 1024;
/// A component that sets one of these gets `HeaderError::Forbidden`.
const FORBIDDEN: [&str; 7] = [
    "connection",
    "keep-alive",
    "host",
    "http2-settings",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

struct Component;

wasi::http::proxy::export!(Component);

impl Guest for Component {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        match exchange(&request) {
            Ok(upstream) => answer(&upstream, out),
            Err(code) => ResponseOutparam::set(out, Err(code)),
        }
    }
}

fn exchange(request: &IncomingRequest) -> Result<IncomingResponse, ErrorCode> {
    let internal = |what: &str| ErrorCode::InternalError(Some(what.to_owned()));
    let upstream = variables::get("upstream").map_err(|error| internal(&error.to_string()))?;
    let (scheme, authority) = match upstream.split_once("://") {
        Some(("http", authority)) => (Scheme::Http, authority),
        Some(("https", authority)) => (Scheme::Https, authority),
        _ => return Err(internal("the upstream is no URL")),
    };
    let outgoing = OutgoingRequest::new(allowed(&request.headers())?);
    let set = || {
        outgoing.set_method(&request.method())?;
        outgoing.set_scheme(Some(&scheme))?;
        outgoing.set_authority(Some(authority))?;
        outgoing.set_path_with_query(request.path_with_query().as_deref())
    };
    set().map_err(|()| internal("no request of HTTP"))?;
    let response = outgoing_handler::handle(outgoing, None)?;
    response.subscribe().block();
    response
        .get()
        .ok_or_else(|| internal("no response"))?
        .map_err(|()| internal("taken before"))?
}

fn answer(upstream: &IncomingResponse, out: ResponseOutparam) {
    let headers = match allowed(&upstream.headers()) {
        Ok(headers) => headers,
        Err(code) => return ResponseOutparam::set(out, Err(code)),
    };
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(upstream.status());
    let (Ok(sink), Ok(source)) = (response.body(), upstream.consume()) else {
        return ResponseOutparam::set(out, Ok(response));
    };
    let (Ok(output), Ok(input)) = (sink.write(), source.stream()) else {
        return ResponseOutparam::set(out, Ok(response));
    };
    // The first piece goes out together with the head.
    input.subscribe().block();
    let first = output.splice(&input, SPLICE);
    ResponseOutparam::set(out, Ok(response));
    let sent = match first {
        Ok(_) => splice(&output, &input),
        Err(StreamError::Closed) => Ok(()),
        Err(failed) => Err(failed),
    };
    drop(output);
    if sent.is_ok() {
        let _ = OutgoingBody::finish(sink, None);
    }
}

fn splice(output: &OutputStream, input: &InputStream) -> Result<(), StreamError> {
    loop {
        match output.blocking_splice(input, SPLICE) {
            Ok(_) => {}
            Err(StreamError::Closed) => return Ok(()),
            Err(failed) => return Err(failed),
        }
    }
}

fn allowed(headers: &Fields) -> Result<Fields, ErrorCode> {
    let mut entries = headers.entries();
    entries.retain(|(name, _)| !FORBIDDEN.contains(&name.as_str()) && !name.starts_with("spin-"));
    Fields::from_list(&entries).map_err(|error| ErrorCode::InternalError(Some(error.to_string())))
}
