//! Blobs that go through this mirror: the bytes that a client gets fill the store too, as long as it
//! keeps up. A client never waits for the store.

use super::BlobResponse;
use super::client::{LEAST_RATE, length_of};
use super::copy::{self, CLAIM_DELAY, Copy, CopyGuard, Job};
use super::fault::Fault;
use super::ledger::{Change, Turn};
use super::object::BlobObject;
use crate::platform::pipe::{End, Pipe};
use crate::platform::{Payload, Platform};
use crate::response::body::{Body, Tee};
use futures_util::future::{Either, select};
use http::header::CONTENT_ENCODING;
use std::pin::pin;
use std::time::Duration;

/// How long a client's speed is measured before it is judged.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Bytes per second. A body that passes more slowly makes room for others, where as many are
/// uploaded as may be, and is copied afterwards.
const SLOW_RATE: u64 = 2 * 1024 * 1024;

/// Keeps the blob of a response: as it is sent, where it goes through this mirror and a copy may run
/// now, else by a copy afterwards.
pub fn keep<P: Platform>(
    mut guard: CopyGuard<P>,
    job: Job<P>,
    response: BlobResponse<P>,
) -> BlobResponse<P> {
    let is_encoded = response.headers().contains_key(CONTENT_ENCODING);
    let length = length_of(&response).filter(|length| *length > 0 && !is_encoded);
    let is_too_large = length.is_some_and(|length| length > job.max_blob());
    let (head, body) = response.into_parts();
    let body = match (body, length) {
        (body @ Body::Upstream(_), Some(_)) if is_too_large => body,
        (Body::Upstream(body), Some(length)) if guard.start() => {
            let (pipe, reader) = Pipe::new(length);
            let upload = upload(guard, job, reader, length);
            Body::Teed(body, Tee::new(pipe, upload))
        }
        (body, _) => {
            copy::later(guard, job);
            body
        }
    };
    BlobResponse::<P>::from_parts(head, body)
}

/// Uploads what is written to `pipe`. Where that comes to nothing, and the store is not to blame,
/// the blob is copied afterwards.
async fn upload<P: Platform>(guard: CopyGuard<P>, job: Job<P>, pipe: Pipe, length: u64) {
    // Nothing is asked for before the upstream has sent the first bytes.
    pipe.ready().await;
    let context = job.context.borrow();
    let Some(copy) = Copy::new(&context, &job, &guard.store) else {
        return;
    };
    let claim = Change::Claim(&job.object.name, length, copy.claim_end(length));
    let is_copied_later = match copy.change_ledger(claim).await {
        (Turn::Taken, _) => false,
        // Without the list nothing would tell how many there are.
        (Turn::Later, _) | (Turn::Granted, false) => true,
        (Turn::Granted, true) => {
            let begun = context.platform.now();
            let result = put(&copy, &pipe, length).await;
            let rest = length.saturating_sub(pipe.written());
            copy.change_ledger(Change::End(rest)).await;
            match &result {
                Ok(()) => copy.kept(length, begun, "tee"),
                // Another instance copies it.
                Err(Fault::Tee(End::Closed)) => {}
                Err(fault @ Fault::Tee(_)) => copy.not_kept("tee_given_up", fault),
                Err(fault @ Fault::Status { .. }) if fault.is_of_content() => {
                    copy.not_kept("not_kept", fault);
                }
                Err(fault) => guard.store.failed(&context, "put", fault),
            }
            matches!(result, Err(Fault::Tee(end)) if end != End::Closed)
        }
    };
    pipe.finish(End::Closed);
    if is_copied_later {
        copy::later(guard, job);
    }
}

/// Uploads what is written to `pipe`, as long as its claim holds and client and store keep up.
async fn put<P: Platform>(copy: &Copy<'_, P>, pipe: &Pipe, length: u64) -> Result<(), Fault> {
    // No upload ends before it is certain that it is the only one.
    pipe.hold(true);
    let BlobObject { name, sha256 } = &copy.job.object;
    let payload = Payload::Pipe(pipe.clone());
    let put = copy.client.put(name, payload, length, sha256);
    let (broken, watch) = (pin!(pipe.broken()), pin!(watch(copy, pipe)));
    let result = match select(select(broken, watch), pin!(put)).await {
        Either::Left((Either::Left(_), _)) => Err(Fault::Tee(End::Closed)),
        Either::Left((Either::Right((end, _)), _)) => Err(Fault::Tee(end)),
        Either::Right((result, _)) => result,
    };
    result.map_err(|fault| match pipe.end() {
        Some(end) if end != End::Whole && fault.is_of_content() => Fault::Tee(end),
        _ => fault,
    })
}

/// Returns why an upload may not go on, once its claim has settled: another instance has the object
/// or its place. Ends the pipe where the bytes pass too slowly.
async fn watch<P: Platform>(copy: &Copy<'_, P>, pipe: &Pipe) -> End {
    let platform = copy.context.platform;
    platform.sleep(CLAIM_DELAY).await;
    match copy.turn().await {
        Turn::Granted => {}
        Turn::Taken => return End::Closed,
        Turn::Later => return End::Refused,
    }
    if let Ok(Some(_)) = copy.client.head(&copy.job.object.name).await {
        return End::Closed;
    }
    pipe.hold(false);
    let mut before = 0;
    loop {
        platform.sleep(RATE_WINDOW).await;
        let written = pipe.written();
        let passed = written.saturating_sub(before);
        before = written;
        let is_below = |rate: u64| passed < RATE_WINDOW.as_secs().saturating_mul(rate);
        if pipe.end().is_none()
            && is_below(SLOW_RATE)
            && (is_below(LEAST_RATE) || copy.is_list_full().await)
        {
            pipe.finish(End::Slow);
        }
    }
}
