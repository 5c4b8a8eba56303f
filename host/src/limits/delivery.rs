//! The body of a response on its way to a client.

use crate::component::lifetime::Interest;
use crate::limits::admission::{REQUEST_MEMORY, Turn};
use crate::limits::connections::Delivery;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use wasmtime_wasi_http::{Error, WasiBody};

/// Bytes that a body counts for that is passed on as it arrives, if it is not shorter: the buffers
/// of both connections, what the component has copied, and half of the window that an upstream's
/// HTTP/2 stream has, which few fill.
pub const STREAM_MEMORY: u64 = 1024 * 1024;

/// The least that a body counts for.
const LEAST_MEMORY: u64 = 16 * 1024;

/// Bytes that are handed to HTTP/1.1 at a time.
const HTTP1_PIECE: usize = 64 * 1024;

/// Bytes that are handed to HTTP/2 at a time. Each waits until the client has opened its window for
/// all before it.
const HTTP2_PIECE: usize = 16 * 1024;

/// Bytes of the last piece over HTTP/2: hyper forgets the response once it has this, and holds it
/// until the client opens its window.
const HTTP2_LAST_PIECE: usize = 1024;

/// Whether a request is for a blob, by the last two segments of its path. What is percent-encoded is
/// none: to the component it may be something else.
pub fn is_blob(path: &str) -> bool {
    let mut segments = path.rsplit('/');
    let digest = segments.next().unwrap_or_default();
    digest.contains(':') && !digest.contains('%') && segments.next() == Some("blobs")
}

/// Returns the bytes that a body counts for. Only blobs are known to be passed on as they arrive:
/// the component has manifests whole, and so has the host until their client takes them.
fn memory(length: Option<u64>, is_blob: bool) -> u64 {
    let most = if is_blob {
        STREAM_MEMORY
    } else {
        REQUEST_MEMORY
    };
    length.map_or(STREAM_MEMORY, |length| length.clamp(LEAST_MEMORY, most))
}

/// A body that counts for its client until it is sent. It has no trailers: the component judges
/// headers, and doesn't see those.
pub struct ClientBody {
    body: WasiBody,
    /// What of `body` was read and not handed on.
    rest: Bytes,
    /// Whether `rest` is a part of so much that a piece must not keep all of it.
    is_large: bool,
    /// Bytes that `body` still has, where that is known.
    remaining: Option<u64>,
    is_http2: bool,
    turn: Turn,
    delivery: Delivery,
    // Its instance goes on while this is not dropped.
    _interest: Interest,
}

impl ClientBody {
    /// Sends `body`. `turn` is that of its request, `is_blob` says whether that was for a blob,
    /// `is_http2` over which protocol the body leaves.
    pub fn new(
        body: WasiBody,
        length: Option<u64>,
        is_blob: bool,
        is_http2: bool,
        mut turn: Turn,
        delivery: Delivery,
        interest: Interest,
    ) -> Self {
        let length = if body.is_end_stream() {
            Some(0)
        } else {
            length.or(body.size_hint().exact())
        };
        turn.answered(memory(length, is_blob));
        Self {
            body,
            rest: Bytes::new(),
            is_large: false,
            remaining: length,
            is_http2,
            turn,
            delivery,
            _interest: interest,
        }
    }

    fn next_piece(&mut self) -> Bytes {
        self.delivery.advanced();
        let mut length = self.rest.len();
        if self.is_http2 {
            // Without a length, each may be the last.
            let may_be_last = self.remaining.is_none_or(|remaining| remaining == 0);
            if may_be_last && length > HTTP2_LAST_PIECE {
                length -= HTTP2_LAST_PIECE;
            }
            length = length.min(HTTP2_PIECE);
        } else {
            length = length.min(HTTP1_PIECE);
        }
        let piece = self.rest.split_to(length);
        // A piece that only refers to the rest would keep all of that in memory.
        if self.is_large || (self.is_http2 && self.rest.is_empty()) {
            return Bytes::copy_from_slice(&piece);
        }
        piece
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            this.delivery.waits_for_upstream();
            let data = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame.into_data(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            // Trailers.
            let Ok(data) = data else {
                return Poll::Ready(None);
            };
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            this.turn.hold_at_least(length);
            this.is_large = data.len() > HTTP1_PIECE;
            this.remaining = this
                .remaining
                .map(|remaining| remaining.saturating_sub(length));
            this.rest = data;
        }
        let piece = this.next_piece();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let hint = self.body.size_hint();
        let mut sum = SizeHint::new();
        if let Some(upper) = hint.upper() {
            sum.set_upper(upper.saturating_add(rest));
        }
        sum.set_lower(hint.lower().saturating_add(rest));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::limits::admission::Admission;
    use crate::limits::client::Client;
    use crate::limits::connections::Connections;
    use http::HeaderMap;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use std::sync::Arc;

    async fn body(frames: Vec<Frame<Bytes>>, length: Option<u64>, is_http2: bool) -> ClientBody {
        let limits = Limits::default();
        let connections = Connections::new(&limits, false);
        let address = [192, 0, 2, 1].into();
        let client = Client::from_address(address);
        let connection = connections.open(address).unwrap();
        let turn = Admission::new(&limits).admit(client, None).await.unwrap();
        let frames = futures::stream::iter(frames.into_iter().map(Ok));
        ClientBody::new(
            StreamBody::new(frames).boxed_unsync(),
            length,
            false,
            is_http2,
            turn,
            connection.request().deliver(client),
            Interest::new(Arc::default()),
        )
    }

    async fn pieces(mut body: ClientBody) -> Vec<usize> {
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap().len());
        }
        pieces
    }

    #[test]
    fn only_a_blob_counts_for_less_than_it_has() {
        for (path, is_a_blob) in [
            ("/v2/library/alpine/blobs/sha256:12", true),
            ("/v2/library/alpine/manifests/latest", false),
            ("/v2/library/blobs/manifests/latest", false),
            ("/v2/blobs/tags/list", false),
            ("/v2/blobs/x%2Fmanifests%2Fsha256:12", false),
            ("/v2/blobs/manifests/sha256:12", false),
            ("/blobs/", false),
            ("/blobs", false),
            ("", false),
        ] {
            assert_eq!(is_blob(path), is_a_blob, "{path:?}");
        }
        let (small, large) = (Some(10), Some(1 << 40));
        for (length, is_blob, expected) in [
            (small, false, LEAST_MEMORY),
            (small, true, LEAST_MEMORY),
            (Some(3 * STREAM_MEMORY), false, 3 * STREAM_MEMORY),
            (Some(3 * STREAM_MEMORY), true, STREAM_MEMORY),
            (large, false, REQUEST_MEMORY),
            (large, true, STREAM_MEMORY),
            (None, false, STREAM_MEMORY),
            (None, true, STREAM_MEMORY),
        ] {
            assert_eq!(memory(length, is_blob), expected, "{length:?} {is_blob}");
        }
    }

    #[tokio::test]
    async fn drops_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("set-cookie", "a=b".parse().unwrap());
        let frames = vec![Frame::data("data".into()), Frame::trailers(trailers)];
        let sent = body(frames, None, true).await.collect().await.unwrap();
        assert_eq!(sent.trailers(), None);
        assert_eq!(sent.to_bytes(), "data");
    }

    #[tokio::test]
    async fn hands_on_small_pieces_and_over_http2_a_smaller_last_one() {
        let data = |length| Frame::data(vec![7; length].into());
        for (chunks, length, is_http2, expected) in [
            (vec![100], Some(100), false, vec![100]),
            (vec![100_000], None, false, vec![65_536, 34_464]),
            (vec![100], Some(100), true, vec![100]),
            (vec![3000, 2000], Some(5000), true, vec![3000, 976, 1024]),
            (vec![3000, 2000], None, true, vec![1976, 1024, 976, 1024]),
            (
                vec![40_000],
                Some(40_000),
                true,
                vec![16_384, 16_384, 6208, 1024],
            ),
        ] {
            let frames = chunks.iter().copied().map(data).collect();
            assert_eq!(
                pieces(body(frames, length, is_http2).await).await,
                expected,
                "{chunks:?} {length:?} {is_http2}"
            );
        }
    }

    #[tokio::test]
    async fn knows_its_length_in_between() {
        let mut sent = body(vec![Frame::data(vec![7; 100_000].into())], None, false).await;
        sent.body = Full::new(Bytes::from(vec![7; 100_000]))
            .map_err(Into::into)
            .boxed_unsync();
        assert_eq!(sent.size_hint().exact(), Some(100_000));
        sent.frame().await.unwrap().unwrap();
        assert_eq!(sent.size_hint().exact(), Some(100_000 - 65_536));
        assert!(!sent.is_end_stream());
        sent.frame().await.unwrap().unwrap();
        assert!(sent.is_end_stream());
    }
}
