//! Reads the body of a WASIp3 component's response as soon as the response is created.
//!
//! `wasmtime-wasi-http` starts reading once the component has returned. A body that is complete by
//! then, such as a manifest from the cache, makes it enter the component once more, which is an
//! eighth of the cost of such a request.

use crate::component::guest::Guest;
use std::pin::Pin;
use tokio::sync::oneshot;
use wasmtime::component::{Access, FutureReader, Linker, Resource, StreamReader};
use wasmtime::{AsContextMut as _, StoreContextMut};
use wasmtime_wasi_http::p3::Response;
use wasmtime_wasi_http::p3::bindings::http::types::{
    ErrorCode, Fields, HostResponseWithStore as _, Trailers,
};
use wasmtime_wasi_http::{Error, WasiHttp, WasiHttpView as _};

type Contents = Option<StreamReader<u8>>;
type TrailersReader = FutureReader<Result<Option<Resource<Trailers>>, ErrorCode>>;
type SendResult = FutureReader<Result<(), ErrorCode>>;

/// Replaces `response.new` of `wasi:http/types` in `linker`.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance("wasi:http/types@0.3.0")?.func_wrap(
        "[static]response.new",
        |store: StoreContextMut<'_, Guest>,
         (headers, contents, trailers): (Resource<Fields>, Contents, TrailersReader)| {
            Ok((new_response(store, headers, contents, trailers)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Creates a response whose body the host reads from now on: has the crate create it, turns its
/// body into one of the host's, and keeps the headers as they are.
fn new_response(
    mut store: StoreContextMut<'_, Guest>,
    headers: Resource<Fields>,
    contents: Contents,
    trailers: TrailersReader,
) -> wasmtime::Result<(Resource<Response>, SendResult)> {
    let has_body = contents.is_some();
    let access = Access::<_, WasiHttp>::new(store.as_context_mut(), Guest::http);
    let (resource, send_result) = WasiHttp::new(access, headers, contents, trailers)?;
    if !has_body {
        return Ok((resource, send_result));
    }
    let mut response = store.data_mut().table.delete(resource)?;
    // Without headers, `Content-Length` is not checked here, but when the response is sent.
    let headers = std::mem::take(&mut response.headers);
    let (outcome_sender, outcome_receiver) =
        oneshot::channel::<Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>>();
    // The outcome of sending is reported by the response that is created below.
    let outcome = async {
        match outcome_receiver.await {
            Ok(outcome) => outcome.await,
            Err(_) => Ok(()),
        }
    };
    let host_response = response.into_http(&mut store, outcome)?;
    let guest = store.data_mut();
    let (mut response, outcome) = Response::from_http(guest.http().hooks, host_response);
    response.headers = headers;
    // Fails if the task that reads the body has ended: nothing waits for the outcome then.
    let _ = outcome_sender.send(Box::pin(outcome));
    Ok((guest.table.push(response)?, send_result))
}
