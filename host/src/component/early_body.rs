//! How a WASIp3 component makes an answer: as in `wasmtime-wasi-http`, but its body is taken while it is made.
//!
//! That crate begins to take a body once the component has returned. One that has all of it at hand, as for a manifest from
//! the cache, has to be entered once more then, which is an eighth of what such a request costs.

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
type Sent = FutureReader<Result<(), ErrorCode>>;

/// Replaces `response.new` of `wasi:http` in `linker`.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance("wasi:http/types@0.3.0")?.func_wrap(
        "[static]response.new",
        |store: StoreContextMut<'_, Guest>,
         (headers, contents, trailers): (Resource<Fields>, Contents, TrailersReader)| {
            Ok((new(store, headers, contents, trailers)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Makes an answer of which the body is piped to the host from now on: of what the crate makes, the body is turned into one
/// of the host's, and the headers go on as they are.
fn new(
    mut store: StoreContextMut<'_, Guest>,
    headers: Resource<Fields>,
    contents: Contents,
    trailers: TrailersReader,
) -> wasmtime::Result<(Resource<Response>, Sent)> {
    let has_body = contents.is_some();
    let access = Access::<_, WasiHttp>::new(store.as_context_mut(), Guest::http);
    let (made, sent) = WasiHttp::new(access, headers, contents, trailers)?;
    if !has_body {
        return Ok((made, sent));
    }
    let mut response = store.data_mut().table.delete(made)?;
    // Without them the body is not held to its `Content-Length` here: it is when the answer leaves.
    let headers = std::mem::take(&mut response.headers);
    let (tell, told) =
        oneshot::channel::<Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>>();
    // How it is transmitted is known of the answer that is made below.
    let outcome = async {
        match told.await {
            Ok(transmitted) => transmitted.await,
            Err(_) => Ok(()),
        }
    };
    let piped = response.into_http(&mut store, outcome)?;
    let guest = store.data_mut();
    let (mut response, transmitted) = Response::from_http(guest.http().hooks, piped);
    response.headers = headers;
    // The pipe holds the other end, unless it is gone already.
    let _ = tell.send(Box::pin(transmitted));
    Ok((guest.table.push(response)?, sent))
}
