//! WASIp3, for Spin 4.1 and later: an instance answers many requests.

use super::{READ_SIZE, conversions, nanoseconds};
use crate::mirror::Mirror;
use crate::platform::{
    Payload, Platform, ReadBodyError, StoreError, Timeouts, TransportError, VariableError,
};
use crate::response::body::{Body, Tee};
use futures_util::future::{Either, join, select};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use spin_sdk::key_value::{self, Store};
use spin_sdk::variables;
use spin_sdk::wasip3::clocks::monotonic_clock;
use spin_sdk::wasip3::exports::http::handler::Guest;
use spin_sdk::wasip3::http::client;
use spin_sdk::wasip3::http::types::{
    ErrorCode, Fields, HeaderError, Method, Request, RequestOptions, Response, Scheme, Trailers,
};
use spin_sdk::wasip3::{self, spawn, wit_future, wit_stream};
use spin_sdk::wit_bindgen::{FutureReader, StreamReader, StreamResult, StreamWriter, yield_async};
use std::cell::{OnceCell, RefCell};
use std::future::{poll_fn, ready};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// How long a line of the log waits for lines of other requests. Writing many in one call takes a
/// host hardly longer than writing one.
const LOG_DELAY: Duration = Duration::from_millis(5);
/// Bytes of lines that are written at a time: a host takes no more in one call, and would cut a
/// line in two.
const MAX_LOG_WRITE: usize = 4096;

/// Bytes that are read at a time of a body that goes to the client and into the store.
const TEE_PIECE_SIZE: usize = 64 * 1024;

thread_local! {
    /// Lives as long as the instance, which answers up to 128 requests, 16 at a time.
    static MIRROR: Rc<Mirror<Spin>> = Rc::new(Mirror::new(Spin));
    static STORE: OnceCell<Rc<Store>> = const { OnceCell::new() };
    static OPTIONS: OnceCell<(Timeouts, RequestOptions)> = const { OnceCell::new() };
    /// Lines of the log that are not written yet.
    static LINES: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Component;

wasip3::http::service::export!(Component with_types_in wasip3);

impl Guest for Component {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let request = client_request(&request).ok_or(ErrorCode::HttpRequestUriInvalid)?;
        let mirror = MIRROR.with(Rc::clone);
        let (head, body) = mirror.handle(request).await.into_parts();
        let response = match body {
            Body::Buffered(bytes) => buffered(head.headers, bytes).await,
            Body::Upstream(upstream) => spliced(head.headers, upstream),
            Body::Teed(upstream, tee) => teed(head.headers, upstream, tee),
        };
        let response =
            response.map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
        if head.status != StatusCode::OK {
            let invalid_status = |()| ErrorCode::InternalError(Some("invalid status".to_owned()));
            response
                .set_status_code(head.status.as_u16())
                .map_err(invalid_status)?;
        }
        Ok(response)
    }
}

/// Parses a client's request. The SDK's own conversion would make a stream of the body too, which
/// nobody reads.
fn client_request(request: &Request) -> Option<http::Request<()>> {
    let mut incoming = http::Request::new(());
    *incoming.method_mut() = request.get_method().try_into().ok()?;
    *incoming.headers_mut() = super::request_headers(request.get_headers().copy_all())?;
    *incoming.uri_mut() =
        super::request_uri(incoming.headers(), request.get_path_with_query(), || {
            request.get_authority()
        })?;
    Some(incoming)
}

/// Makes a response with a body in memory. The body is offered before the head leaves, so that both
/// go out in one packet: in two, the second would wait 40 ms in Spin's server for the client's
/// delayed acknowledgement of the first.
async fn buffered(headers: HeaderMap, bytes: Vec<u8>) -> Result<Response, HeaderError> {
    let headers = fields(&headers)?;
    if bytes.is_empty() {
        return Ok(Response::new(headers, None, no_trailers()).0);
    }
    let (mut writer, reader) = wit_stream::new();
    let (no_trailers, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(reader), trailers);
    let mut offered = Box::pin(async move {
        // A client that went away leaves the rest unwritten.
        drop(writer.write_all(bytes).await);
        // Dropping a writer sends its default, here: no trailers.
        drop((writer, no_trailers));
    });
    if poll_fn(|context| Poll::Ready(offered.as_mut().poll(context)))
        .await
        .is_pending()
    {
        spawn(offered);
        // Where all tasks of a request wait, their list (`FuturesUnordered`, futures-rs#2333)
        // yields once more to the host, which has the head by then but not the body. It does not
        // where the last task is done.
        spawn(ready(()));
    }
    Ok(response)
}

/// Makes a response with an upstream's unread body. The host moves its bytes; they don't enter the
/// component.
fn spliced(headers: HeaderMap, upstream: Response) -> Result<Response, HeaderError> {
    let (sent, received) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(upstream, received);
    // Sends the default once the host waits for it: sent before, it would wake this task when it is
    // taken.
    drop(sent);
    Ok(Response::new(fields(&headers)?, Some(body), trailers).0)
}

/// Makes a response with an upstream's unread body, whose bytes go into the pipe of a tee too.
fn teed(headers: HeaderMap, upstream: Response, mut tee: Tee) -> Result<Response, HeaderError> {
    let (mut writer, reader) = wit_stream::new();
    let (response, _sent) = Response::new(fields(&headers)?, Some(reader), no_trailers());
    let (sent, received) = wit_future::new(|| Ok(()));
    let (mut body, trailers) = Response::consume_body(upstream, received);
    drop((sent, trailers));
    spawn(async move {
        let mut buffer = Vec::with_capacity(TEE_PIECE_SIZE);
        loop {
            let (_, piece) = tee.beside(body.read(buffer)).await;
            if piece.is_empty() {
                break;
            }
            tee.pipe.write(&piece);
            buffer = tee.beside(writer.write_all(piece)).await;
            // A client that went away leaves the rest unwritten.
            if !buffer.is_empty() {
                break;
            }
        }
        // The host aborts a response that is shorter than its `Content-Length`.
        drop(writer);
        tee.finish().await;
    });
    Ok(response)
}

fn fields(headers: &HeaderMap) -> Result<Fields, HeaderError> {
    Fields::from_list(&super::entries(headers))
}

fn no_trailers() -> FutureReader<Result<Option<Trailers>, ErrorCode>> {
    wit_future::new(|| Ok(None)).1
}

#[derive(Clone, Copy, Debug)]
struct Spin;

impl Platform for Spin {
    type Body = Response;
    type Alarm = StreamWriter<u8>;

    async fn send(
        &self,
        request: http::Request<()>,
        timeouts: &Timeouts,
    ) -> Result<http::Response<Response>, TransportError> {
        let (head, ()) = request.into_parts();
        let request = upstream_request(head, None, no_trailers(), timeouts);
        exchange(request.map_err(|()| TransportError::Broken)?).await
    }

    async fn upload(
        &self,
        request: http::Request<Payload<Response>>,
        timeouts: &Timeouts,
    ) -> Result<http::Response<Response>, TransportError> {
        let (head, payload) = request.into_parts();
        let broken = |()| TransportError::Broken;
        match payload {
            // The host moves its bytes. How it ended reaches the server as the request's trailers:
            // of a body that broke off it gets no end.
            Payload::Stream(source) => {
                let (received, result) = wit_future::new(|| Ok(()));
                let (body, trailers) = Response::consume_body(source, result);
                drop(received);
                let request = upstream_request(head, Some(body), trailers, timeouts);
                exchange(request.map_err(broken)?).await
            }
            Payload::Pipe(pipe) => {
                let (mut writer, body) = wit_stream::new();
                let request = upstream_request(head, Some(body), no_trailers(), timeouts);
                let exchange = exchange(request.map_err(broken)?);
                // The host breaks off what is shorter than its `Content-Length`.
                let write = async move {
                    let mut piece = pipe.read(Vec::new()).await;
                    while !piece.is_empty() {
                        let rest = writer.write_all(piece).await;
                        if !rest.is_empty() {
                            break;
                        }
                        piece = pipe.read(rest).await;
                    }
                };
                // A server may refuse a body before it has all of it.
                match select(pin!(write), pin!(exchange)).await {
                    Either::Left(((), exchange)) => exchange.await,
                    Either::Right((response, _)) => response,
                }
            }
            Payload::Bytes(bytes) => {
                let (mut writer, body) = wit_stream::new();
                let request = upstream_request(head, Some(body), no_trailers(), timeouts);
                let write = async move { drop(writer.write_all(bytes).await) };
                let (_written, response) = join(write, exchange(request.map_err(broken)?)).await;
                response
            }
        }
    }

    async fn read(&self, body: Response, limit: usize) -> Result<Vec<u8>, ReadBodyError> {
        let length = body.get_headers().get(CONTENT_LENGTH.as_str());
        let mut bytes = super::read_buffer(length.first(), limit);
        let (_received, result) = wit_future::new(|| Ok(()));
        let (mut stream, trailers) = Response::consume_body(body, result);
        loop {
            let (result, filled) = stream.read(bytes).await;
            bytes = filled;
            if bytes.len() > limit {
                return Err(ReadBodyError::TooLarge);
            }
            if !matches!(result, StreamResult::Complete(_)) {
                break;
            }
            if bytes.len() == bytes.capacity() {
                bytes.reserve(READ_SIZE);
            }
        }
        trailers
            .await
            .map_err(|code| ReadBodyError::Transport(transport_error(code)))?;
        Ok(bytes)
    }

    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        store().await?.get(key).await.map_err(store_error)
    }

    async fn save(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        store().await?.set(key, value).await.map_err(store_error)
    }

    async fn variable(&self, name: &str) -> Result<Option<String>, VariableError> {
        match variables::get(name).await {
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
        monotonic_clock::wait_for(nanoseconds(duration)).await;
    }

    /// The alarm is a stream that nothing is written to. It ends when the alarm is dropped, and the
    /// host wakes its reader.
    fn alarm(&self) -> (StreamWriter<u8>, impl Future<Output = ()> + 'static) {
        let (alarm, mut woken) = wit_stream::new();
        (alarm, async move {
            drop(woken.read(Vec::with_capacity(1)).await)
        })
    }

    async fn yield_now(&self) {
        yield_async().await;
    }

    fn defer(&self, work: impl Future<Output = ()> + 'static) {
        spawn(work);
    }

    fn log(&self, line: &str) {
        let is_first = LINES.with_borrow_mut(|lines| {
            if lines.len().saturating_add(line.len()) >= MAX_LOG_WRITE {
                super::log(&std::mem::take(lines));
            }
            let is_first = lines.is_empty();
            lines.push_str(line);
            lines.push('\n');
            is_first
        });
        if is_first {
            let flush = LogFlush;
            spawn(async move {
                monotonic_clock::wait_for(nanoseconds(LOG_DELAY)).await;
                drop(flush);
            });
        }
    }
}

/// Writes the lines that are waiting when it is dropped, also because its request was cancelled:
/// only the request of the first line has one.
struct LogFlush;

impl Drop for LogFlush {
    fn drop(&mut self) {
        super::log(&LINES.take());
    }
}

/// Sends a request, and returns the head of its response.
async fn exchange(request: Request) -> Result<http::Response<Response>, TransportError> {
    let response = client::send(request).await.map_err(transport_error)?;
    let mut head = http::Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(response.get_status_code())
        .map_err(|_| TransportError::Broken)?;
    *head.headers_mut() =
        super::header_map(response.get_headers().copy_all()).ok_or(TransportError::Broken)?;
    Ok(head.map(|()| response))
}

fn upstream_request(
    head: http::request::Parts,
    body: Option<StreamReader<u8>>,
    trailers: FutureReader<Result<Option<Trailers>, ErrorCode>>,
    timeouts: &Timeouts,
) -> Result<Request, ()> {
    let headers = fields(&head.headers).map_err(drop)?;
    let (request, _sent) = Request::new(headers, body, trailers, Some(cached_options(timeouts)));
    if head.method != http::Method::GET {
        request.set_method(&Method::from(&head.method))?;
    }
    request.set_scheme(head.uri.scheme().map(Scheme::from).as_ref())?;
    request.set_authority(head.uri.authority().map(|authority| authority.as_str()))?;
    request.set_path_with_query(head.uri.path_and_query().map(|path| path.as_str()))?;
    Ok(request)
}

/// Returns the options of an upstream request: a copy of the first ones where the time-outs are the
/// same, as they are for all the life of an instance. Setting each is a call of the host.
fn cached_options(timeouts: &Timeouts) -> RequestOptions {
    OPTIONS.with(|cached| {
        let (of, first) = cached.get_or_init(|| (timeouts.clone(), options(timeouts)));
        if of == timeouts {
            first.clone()
        } else {
            options(timeouts)
        }
    })
}

/// Returns the key-value store. An instance opens it once.
async fn store() -> Result<Rc<Store>, StoreError> {
    if let Some(store) = STORE.with(|store| store.get().cloned()) {
        return Ok(store);
    }
    let opened = Rc::new(Store::open_default().await.map_err(store_error)?);
    Ok(STORE.with(|store| store.get_or_init(|| opened).clone()))
}

conversions!(ErrorCode, key_value::Error, RequestOptions);
