//! WASIp2, for Spin 3.4 and later: an instance answers one request.

use super::{conversions, nanoseconds};
use crate::mirror::Mirror;
use crate::platform::{
    Payload, Platform, ReadBodyError, StoreError, Timeouts, TransportError, VariableError,
};
use crate::response::body::{Body, Tee};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use spin_executor::{CancelOnDropToken, push_waker_and_get_token};
use spin_sdk_wasip2::key_value::{self, Store};
use spin_sdk_wasip2::variables;
use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use wasi::clocks::monotonic_clock;
use wasi::exports::http::incoming_handler::Guest;
use wasi::http::outgoing_handler;
use wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingRequest, IncomingResponse, Method,
    OutgoingBody, OutgoingRequest, OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
    http_error_code,
};
use wasi::io::poll::Pollable;
use wasi::io::streams::{InputStream, OutputStream, StreamError};

/// Bytes that are moved out of the host at a time.
const PIECE_SIZE: u64 = 16 * 1024;

/// Bytes that are moved at a time of a body that goes to the client and into the store.
const TEE_PIECE_SIZE: u64 = 64 * 1024;

/// Bytes that the host may move at a time from an upstream to the client. It moves what has
/// arrived.
const SPLICE_SIZE: u64 = 1024 * 1024;

struct Component;

wasi::http::proxy::export!(Component);

impl Guest for Component {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        spin_executor::run(serve(&request, out));
    }
}

async fn serve(request: &IncomingRequest, out: ResponseOutparam) {
    let Some(request) = client_request(request) else {
        ResponseOutparam::set(out, Err(ErrorCode::HttpRequestUriInvalid));
        return;
    };
    let spin = Spin::default();
    let head_only = request.method() == http::Method::HEAD;
    // Never dropped: its memory goes with the instance.
    let mirror = ManuallyDrop::new(Mirror::new(spin.clone()));
    let response = mirror.handle(request).await;
    let tee = respond(response, head_only, out).await;
    spin.run_deferred().await;
    if let Some(tee) = tee {
        tee.finish().await;
        spin.run_deferred().await;
    }
}

/// Sends a response. Returns once the host has taken all of it, with the tee of which the blob store
/// has not.
async fn respond(
    response: http::Response<Body<IncomingResponse>>,
    head_only: bool,
    out: ResponseOutparam,
) -> Option<Tee> {
    let (head, body) = response.into_parts();
    let response = match outgoing_response(&head) {
        Ok(response) => response,
        Err(code) => {
            ResponseOutparam::set(out, Err(code));
            return None;
        }
    };
    // Without a body, the host does not compare its length with the `Content-Length` of a HEAD or
    // 304.
    let stream = match &body {
        Body::Buffered(bytes) if bytes.is_empty() => None,
        _ if head_only => None,
        _ => response.body().ok(),
    };
    let Some((sink, output)) =
        stream.and_then(|sink| sink.write().ok().map(|output| (sink, output)))
    else {
        ResponseOutparam::set(out, Ok(response));
        return None;
    };
    // Called once the first bytes of the body are there, so that they go out in one packet with the
    // head.
    let send_head = || ResponseOutparam::set(out, Ok(response));
    let mut upload = None;
    let sent = match body {
        Body::Buffered(bytes) => write(&bytes, &output, send_head),
        Body::Upstream(upstream) => splice(&upstream, &output, send_head),
        Body::Teed(upstream, tee) => {
            let tee = upload.insert(tee);
            Box::pin(send_teed(&upstream, &output, tee, send_head)).await
        }
    };
    drop(output);
    match sent {
        // The host aborts the response where the body is shorter than its `Content-Length`.
        Ok(()) => drop(OutgoingBody::finish(sink, None)),
        // Dropped without being finished, it is aborted: the client must not take a part for the
        // whole.
        Err(_) => drop(sink),
    }
    upload
}

fn write(bytes: &[u8], output: &OutputStream, send_head: impl FnOnce()) -> Result<(), StreamError> {
    let first = write_some(output, bytes);
    send_head();
    let mut rest = first?;
    while !rest.is_empty() {
        output.subscribe().block();
        rest = write_some(output, rest)?;
    }
    Ok(())
}

/// Writes what the host takes without blocking. Returns the rest.
fn write_some<'a>(output: &OutputStream, bytes: &'a [u8]) -> Result<&'a [u8], StreamError> {
    let taken = usize::try_from(output.check_write()?).unwrap_or(usize::MAX);
    let (now, rest) = bytes.split_at(taken.min(bytes.len()));
    output.write(now)?;
    Ok(rest)
}

/// Passes an upstream's body on. The host moves its bytes as fast as the client takes them; they
/// don't enter the component.
fn splice(
    upstream: &IncomingResponse,
    output: &OutputStream,
    send_head: impl FnOnce(),
) -> Result<(), StreamError> {
    let body = upstream.consume().ok();
    let input = body.as_ref().and_then(|body| body.stream().ok());
    let Some(input) = input else {
        send_head();
        return Err(StreamError::Closed);
    };
    let mut moved = output.blocking_splice(&input, SPLICE_SIZE);
    send_head();
    loop {
        match moved {
            Ok(_) => moved = output.blocking_splice(&input, SPLICE_SIZE),
            // The end of the body, or a client that went away.
            Err(StreamError::Closed) => return Ok(()),
            Err(failed) => return Err(failed),
        }
    }
}

/// Passes an upstream's body on, piece by piece, to the client and into a pipe; once that is closed,
/// as [`splice`] does.
async fn send_teed(
    upstream: &IncomingResponse,
    output: &OutputStream,
    tee: &mut Tee,
    send_head: impl FnOnce(),
) -> Result<(), StreamError> {
    let body = upstream.consume().ok();
    let input = body.as_ref().and_then(|body| body.stream().ok());
    let Some(input) = input else {
        send_head();
        return Err(StreamError::Closed);
    };
    let mut sent = tee.beside(send_piece(&input, output)).await;
    send_head();
    let failed = loop {
        match sent {
            Ok(piece) => tee.pipe.write(&piece),
            Err(failed) => break failed,
        }
        if !tee.pipe.is_open() {
            break tee.beside(splice_all(&input, output)).await;
        }
        sent = tee.beside(send_piece(&input, output)).await;
    };
    match failed {
        // The end of the body, or a client that went away.
        StreamError::Closed => Ok(()),
        failed => Err(failed),
    }
}

/// Passes what has arrived on to the client, and returns it.
async fn send_piece(input: &InputStream, output: &OutputStream) -> Result<Vec<u8>, StreamError> {
    let piece = next_piece(input, TEE_PIECE_SIZE).await?;
    write_all(output, &piece).await?;
    Ok(piece)
}

async fn write_all(output: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        writable(output).await?;
        rest = write_some(output, rest)?;
    }
    Ok(())
}

/// Reads what has arrived, at most `limit` bytes, and waits for it.
async fn next_piece(input: &InputStream, limit: u64) -> Result<Vec<u8>, StreamError> {
    let piece = || match input.read(limit) {
        Ok(piece) if piece.is_empty() => None,
        read => Some(read),
    };
    ready(piece, || input.subscribe()).await
}

/// Waits until the host takes bytes.
async fn writable(output: &OutputStream) -> Result<(), StreamError> {
    let permit = || match output.check_write() {
        Ok(0) => None,
        permit => Some(permit.map(drop)),
    };
    ready(permit, || output.subscribe()).await
}

/// Lets the host move all bytes, until one of both ends.
async fn splice_all(input: &InputStream, output: &OutputStream) -> StreamError {
    let moved = || match output.splice(input, SPLICE_SIZE) {
        Ok(0) => None,
        moved => Some(moved),
    };
    loop {
        if let Err(ended) = writable(output).await {
            return ended;
        }
        if let Err(ended) = ready(moved, || input.subscribe()).await {
            return ended;
        }
    }
}

fn outgoing_response(head: &http::response::Parts) -> Result<OutgoingResponse, ErrorCode> {
    let response = OutgoingResponse::new(fields(&head.headers)?);
    // 200 is the default, and each call of the host costs time.
    if head.status != StatusCode::OK {
        let invalid_status = |()| ErrorCode::InternalError(Some("invalid status".to_owned()));
        response
            .set_status_code(head.status.as_u16())
            .map_err(invalid_status)?;
    }
    Ok(response)
}

/// Spin, for one request. Its clones share one state.
#[derive(Clone, Default)]
struct Spin(Rc<State>);

#[derive(Default)]
struct State {
    store: OnceCell<Store>,
    deferred: RefCell<VecDeque<Pin<Box<dyn Future<Output = ()>>>>>,
}

impl Spin {
    /// The store is opened once.
    fn store(&self) -> Result<&Store, StoreError> {
        if let Some(store) = self.0.store.get() {
            return Ok(store);
        }
        let opened = Store::open_default().map_err(store_error)?;
        Ok(self.0.store.get_or_init(|| opened))
    }

    fn next_deferred(&self) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        self.0.deferred.borrow_mut().pop_front()
    }

    async fn run_deferred(&self) {
        while let Some(work) = self.next_deferred() {
            work.await;
        }
    }
}

impl Platform for Spin {
    type Body = IncomingResponse;
    type Alarm = ();

    async fn send(
        &self,
        request: http::Request<()>,
        timeouts: &Timeouts,
    ) -> Result<http::Response<IncomingResponse>, TransportError> {
        let (head, ()) = request.into_parts();
        let request = upstream_request(head).map_err(|()| TransportError::Broken)?;
        let exchange =
            outgoing_handler::handle(request, Some(options(timeouts))).map_err(transport_error)?;
        response(&exchange).await
    }

    async fn upload(
        &self,
        request: http::Request<Payload<IncomingResponse>>,
        timeouts: &Timeouts,
    ) -> Result<http::Response<IncomingResponse>, TransportError> {
        let broken = |()| TransportError::Broken;
        let (head, payload) = request.into_parts();
        let request = upstream_request(head).map_err(broken)?;
        let sink = request.body().map_err(broken)?;
        let output = sink.write().map_err(broken)?;
        let exchange =
            outgoing_handler::handle(request, Some(options(timeouts))).map_err(transport_error)?;
        let sent = send_payload(payload, &output).await;
        drop(output);
        match sent {
            // The host breaks the request off where the body is shorter than its `Content-Length`.
            Ok(()) => drop(OutgoingBody::finish(sink, None)),
            // So it does where the body is dropped without being finished.
            Err(_) => drop(sink),
        }
        // A server that refuses the body says so before it has all of it.
        response(&exchange).await
    }

    async fn read(&self, body: IncomingResponse, limit: usize) -> Result<Vec<u8>, ReadBodyError> {
        let broken = |()| ReadBodyError::Transport(TransportError::Broken);
        let length = body.headers().get(&CONTENT_LENGTH.as_str().to_owned());
        let mut bytes = super::read_buffer(length.first(), limit);
        let source = body.consume().map_err(broken)?;
        let input = source.stream().map_err(broken)?;
        loop {
            match next_piece(&input, PIECE_SIZE).await {
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(StreamError::Closed) => return Ok(bytes),
                Err(StreamError::LastOperationFailed(error)) => {
                    let code = http_error_code(&error);
                    return Err(ReadBodyError::Transport(
                        code.map_or(TransportError::Broken, transport_error),
                    ));
                }
            }
            if bytes.len() > limit {
                return Err(ReadBodyError::TooLarge);
            }
        }
    }

    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store()?.get(key).map_err(store_error)
    }

    async fn save(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.store()?.set(key, &value).map_err(store_error)
    }

    async fn variable(&self, name: &str) -> Result<Option<String>, VariableError> {
        match variables::get(name) {
            Ok(value) => Ok(Some(value)),
            Err(variables::Error::Undefined(_)) => Ok(None),
            Err(_) => Err(VariableError),
        }
    }

    fn now(&self) -> Duration {
        super::now()
    }

    fn random(&self) -> u64 {
        super::random()
    }

    async fn sleep(&self, duration: Duration) {
        let end = monotonic_clock::now().saturating_add(nanoseconds(duration));
        let over = || (monotonic_clock::now() >= end).then_some(());
        ready(over, || monotonic_clock::subscribe_instant(end)).await;
    }

    /// No other request can wait: an instance answers one.
    fn alarm(&self) -> ((), impl Future<Output = ()> + 'static) {
        ((), pending())
    }

    fn defer(&self, work: impl Future<Output = ()> + 'static) {
        self.0.deferred.borrow_mut().push_back(Box::pin(work));
    }

    fn log(&self, line: &str) {
        let line = format!("{line}\n");
        self.defer(async move { super::log(&line) });
    }
}

/// Waits until `check` returns a value. `subscribe` returns the event after which it may.
async fn ready<T>(mut check: impl FnMut() -> Option<T>, subscribe: impl Fn() -> Pollable) -> T {
    let mut waiting = None;
    poll_fn(|context| match check() {
        Some(value) => Poll::Ready(value),
        None => {
            let token = push_waker_and_get_token(subscribe(), context.waker().clone());
            waiting = Some(CancelOnDropToken::from(token));
            Poll::Pending
        }
    })
    .await
}

fn client_request(request: &IncomingRequest) -> Option<http::Request<()>> {
    let mut incoming = http::Request::new(());
    *incoming.method_mut() = client_method(request.method())?;
    *incoming.headers_mut() = super::request_headers(request.headers().entries())?;
    *incoming.uri_mut() =
        super::request_uri(incoming.headers(), request.path_with_query(), || {
            request.authority()
        })?;
    Some(incoming)
}

fn client_method(method: Method) -> Option<http::Method> {
    Some(match method {
        Method::Get => http::Method::GET,
        Method::Head => http::Method::HEAD,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Delete => http::Method::DELETE,
        Method::Connect => http::Method::CONNECT,
        Method::Options => http::Method::OPTIONS,
        Method::Trace => http::Method::TRACE,
        Method::Patch => http::Method::PATCH,
        Method::Other(name) => name.parse().ok()?,
    })
}

async fn response(
    exchange: &FutureIncomingResponse,
) -> Result<http::Response<IncomingResponse>, TransportError> {
    let response = ready(|| exchange.get(), || exchange.subscribe()).await;
    let response = response
        .map_err(|()| TransportError::Broken)?
        .map_err(transport_error)?;
    let mut head = http::Response::new(());
    *head.status_mut() =
        http::StatusCode::from_u16(response.status()).map_err(|_| TransportError::Broken)?;
    *head.headers_mut() =
        super::header_map(response.headers().entries()).ok_or(TransportError::Broken)?;
    Ok(head.map(|()| response))
}

/// Writes the body of a request as fast as the server takes it. The host moves the bytes of a
/// stream; they don't enter the component.
async fn send_payload(
    payload: Payload<IncomingResponse>,
    output: &OutputStream,
) -> Result<(), StreamError> {
    match payload {
        Payload::Bytes(bytes) => write_all(output, &bytes).await,
        Payload::Pipe(pipe) => {
            let mut piece = pipe.read(Vec::new()).await;
            while !piece.is_empty() {
                write_all(output, &piece).await?;
                piece = pipe.read(piece).await;
            }
            Ok(())
        }
        Payload::Stream(source) => {
            let closed = |()| StreamError::Closed;
            let body = source.consume().map_err(closed)?;
            let input = body.stream().map_err(closed)?;
            match splice_all(&input, output).await {
                // The end of the source, or a server that takes no more: the length tells.
                StreamError::Closed => Ok(()),
                failed => Err(failed),
            }
        }
    }
}

fn upstream_request(head: http::request::Parts) -> Result<OutgoingRequest, ()> {
    let scheme = match head.uri.scheme_str() {
        Some("http") => Scheme::Http,
        _ => Scheme::Https,
    };
    let request = OutgoingRequest::new(fields(&head.headers).map_err(drop)?);
    match head.method {
        http::Method::GET => {}
        http::Method::HEAD => request.set_method(&Method::Head)?,
        http::Method::PUT => request.set_method(&Method::Put)?,
        other => request.set_method(&Method::Other(other.to_string()))?,
    }
    request.set_scheme(Some(&scheme))?;
    request.set_authority(head.uri.authority().map(|authority| authority.as_str()))?;
    request.set_path_with_query(head.uri.path_and_query().map(|path| path.as_str()))?;
    Ok(request)
}

fn fields(headers: &HeaderMap) -> Result<Fields, ErrorCode> {
    Fields::from_list(&super::entries(headers))
        .map_err(|error| ErrorCode::InternalError(Some(error.to_string())))
}

conversions!(ErrorCode, key_value::Error, RequestOptions);
