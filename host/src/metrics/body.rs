//! Counts the responses to clients and the bytes of bodies.

use super::{InGauge, METRICS};
use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use prometheus_client::metrics::counter::Counter;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use wasmtime_wasi_http::WasiBody;

/// Counts the response that `respond` makes, and its body's bytes until the end.
pub async fn count_response(
    respond: impl Future<Output = Response<WasiBody>>,
) -> Response<WasiBody> {
    let Some(metrics) = METRICS.get() else {
        return respond.await;
    };
    let in_progress = InGauge::enter(|metrics| &metrics.requests_in_progress);
    let started = Instant::now();
    let response = respond.await;
    metrics.count_status(response.status().as_u16(), started.elapsed());
    response.map(|body| count_bytes(body, metrics.sent_bytes.clone(), in_progress))
}

/// Adds the bytes of `body` to `bytes`, and keeps `in_progress` until its end.
pub fn count_bytes(body: WasiBody, bytes: Counter, in_progress: InGauge) -> WasiBody {
    let counted = CountedBody {
        body,
        bytes,
        _in_progress: in_progress,
    };
    counted.boxed_unsync()
}

struct CountedBody {
    body: WasiBody,
    bytes: Counter,
    _in_progress: InGauge,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = <WasiBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.bytes.inc_by(bytes as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
