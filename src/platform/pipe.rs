//! A pipe for a body that is written to two places: to the client, who never waits, and to the blob
//! store, as long as that keeps up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The most bytes that wait for the reader, who has a batch besides. On a busy machine, a store that
/// is as fast as a client of 500 MB/s lags behind by as much for moments.
pub const MAX_PIPE_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that the reader takes at a time, unless they are the last. Each read wakes a task of the
/// host, so large ones cost less.
const BATCH: usize = 512 * 1024;

/// A pipe for a body of known length. Its clones are the same pipe.
#[derive(Clone, Debug)]
pub struct Pipe(Rc<RefCell<State>>);

/// The end of a pipe that is written to. Dropped, it ends the pipe.
#[derive(Debug)]
pub struct PipeWriter(Pipe);

#[derive(Debug)]
struct State {
    /// All but the last are full.
    batches: VecDeque<Vec<u8>>,
    /// Bytes of `batches`.
    waiting: usize,
    /// An empty batch.
    spare: Vec<u8>,
    written: u64,
    length: u64,
    /// Whether the last batch is held back.
    is_held: bool,
    end: Option<End>,
    reader: Option<Waker>,
}

/// How the writing of a pipe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the last byte.
    Whole,
    /// Before that: the source broke off, or whoever else takes its bytes did.
    Short,
    /// The reader did not keep up with the writer.
    Full,
    /// The writer was too slow for the reader.
    Slow,
    /// The reader needs no more.
    Closed,
    /// The reader may not go on now.
    Refused,
}

impl Pipe {
    /// Makes a pipe for a body of so many bytes.
    pub fn new(length: u64) -> (PipeWriter, Pipe) {
        let pipe = Pipe(Rc::new(RefCell::new(State {
            batches: VecDeque::new(),
            waiting: 0,
            spare: Vec::new(),
            written: 0,
            length,
            is_held: false,
            end: None,
            reader: None,
        })));
        (PipeWriter(pipe.clone()), pipe)
    }

    /// Returns the next bytes; none are the end. `read` are those that were returned before: their
    /// memory is used again.
    pub async fn read(&self, mut read: Vec<u8>) -> Vec<u8> {
        read.clear();
        self.0.borrow_mut().spare = read;
        poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            let has_to_wait = match state.end {
                None => state.waiting < BATCH,
                Some(End::Whole) => state.is_held && state.batches.len() <= 1,
                Some(_) => false,
            };
            if has_to_wait {
                return state.wait(context);
            }
            let batch = state.batches.pop_front().unwrap_or_default();
            state.waiting = state.waiting.saturating_sub(batch.len());
            Poll::Ready(batch)
        })
        .await
    }

    /// Says whether the last batch is held back. While it is, no reader gets a complete body.
    pub fn hold(&self, is_held: bool) {
        let mut state = self.0.borrow_mut();
        state.is_held = is_held;
        state.wake_reader();
    }

    /// Waits until something is written, or the writing ends.
    pub async fn ready(&self) {
        poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            if state.written > 0 || state.end.is_some() {
                return Poll::Ready(());
            }
            state.wait(context)
        })
        .await;
    }

    /// Waits until the pipe ends early.
    pub async fn broken(&self) {
        poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            match state.end {
                None | Some(End::Whole) => state.wait(context),
                Some(_) => Poll::Ready(()),
            }
        })
        .await;
    }

    /// Ends the pipe, if it has not ended. Unread bytes are discarded, unless the body is complete.
    pub fn finish(&self, end: End) {
        let mut state = self.0.borrow_mut();
        if state.end.is_some() {
            return;
        }
        state.end = Some(end);
        if end != End::Whole {
            state.batches = VecDeque::new();
            state.waiting = 0;
        }
        state.wake_reader();
    }

    /// How the writing ended, if it did.
    pub fn end(&self) -> Option<End> {
        self.0.borrow().end
    }

    /// Returns how many bytes were written so far.
    pub fn written(&self) -> u64 {
        self.0.borrow().written
    }
}

impl PipeWriter {
    /// Writes a piece. Where the reader is too far behind, the pipe ends, and unread bytes are
    /// discarded.
    pub fn write(&self, piece: &[u8]) {
        let end = {
            let mut state = self.0.0.borrow_mut();
            if state.end.is_some() {
                return;
            }
            if state.waiting.saturating_add(piece.len()) > MAX_PIPE_BYTES {
                End::Full
            } else {
                state.append(piece);
                if state.written < state.length {
                    return state.wake_reader();
                }
                End::Whole
            }
        };
        self.0.finish(end);
    }

    /// Whether somebody still wants what is written.
    pub fn is_open(&self) -> bool {
        self.0.end().is_none()
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.0.finish(End::Short);
    }
}

impl State {
    fn append(&mut self, mut piece: &[u8]) {
        self.waiting = self.waiting.saturating_add(piece.len());
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.written = self.written.saturating_add(length);
        while !piece.is_empty() {
            let last = self.batches.back_mut().filter(|last| last.len() < BATCH);
            let Some(last) = last else {
                let mut batch = std::mem::take(&mut self.spare);
                batch.reserve_exact(BATCH);
                self.batches.push_back(batch);
                continue;
            };
            let room = BATCH.saturating_sub(last.len()).min(piece.len());
            let (now, rest) = piece.split_at(room);
            last.extend_from_slice(now);
            piece = rest;
        }
    }

    fn wait<T>(&mut self, context: &Context<'_>) -> Poll<T> {
        self.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    /// Reads what can be read now.
    fn read(pipe: &Pipe) -> Option<Vec<u8>> {
        pipe.read(Vec::new()).now_or_never()
    }

    #[test]
    fn the_reader_gets_full_batches_then_the_last() {
        let length = 2 * BATCH + 3;
        let (writer, pipe) = Pipe::new(length as u64);
        assert_eq!(pipe.ready().now_or_never(), None);
        writer.write(&vec![1; BATCH - 1]);
        assert_eq!((read(&pipe), pipe.ready().now_or_never()), (None, Some(())));
        writer.write(&vec![2; BATCH + 1]);
        let batch = read(&pipe).unwrap();
        assert_eq!((batch.len(), batch.last()), (BATCH, Some(&2)));
        assert_eq!(read(&pipe).unwrap(), vec![2; BATCH]);
        writer.write(&[3; 3]);
        assert_eq!(pipe.end(), Some(End::Whole));
        drop(writer);
        assert_eq!((read(&pipe), read(&pipe)), (Some(vec![3; 3]), Some(vec![])));
        assert_eq!(pipe.end(), Some(End::Whole));
    }

    #[test]
    fn a_reader_that_does_not_keep_up_gets_no_more() {
        let (writer, pipe) = Pipe::new(u64::MAX);
        for _ in 0..MAX_PIPE_BYTES / BATCH {
            writer.write(&vec![0; BATCH]);
        }
        assert!(writer.is_open());
        writer.write(&[0]);
        assert_eq!((pipe.end(), writer.is_open()), (Some(End::Full), false));
        assert_eq!(read(&pipe), Some(vec![]));
    }

    #[test]
    fn the_first_end_counts_and_only_a_whole_body_is_read_after_it() {
        for end in [End::Short, End::Full, End::Slow, End::Closed] {
            let (writer, pipe) = Pipe::new(10);
            writer.write(&[0; 9]);
            pipe.finish(end);
            writer.write(&[0]);
            drop(writer);
            assert_eq!((pipe.end(), read(&pipe)), (Some(end), Some(vec![])));
        }
        let (writer, pipe) = Pipe::new(10);
        writer.write(&[0; 9]);
        drop(writer);
        assert_eq!((pipe.end(), pipe.written()), (Some(End::Short), 9));
    }

    #[test]
    fn the_last_batch_may_be_held_back() {
        let (writer, pipe) = Pipe::new(BATCH as u64 + 1);
        pipe.hold(true);
        writer.write(&vec![0; BATCH + 1]);
        assert_eq!(read(&pipe).unwrap().len(), BATCH);
        assert_eq!(read(&pipe), None);
        pipe.hold(false);
        assert_eq!(read(&pipe), Some(vec![0]));
    }

    proptest! {
        #[test]
        fn all_that_is_written_is_read_once(pieces in prop::collection::vec(0..=BATCH, 1..20), every in 1..5_usize) {
            let length: usize = pieces.iter().sum();
            let (writer, pipe) = Pipe::new(length as u64);
            let (mut written, mut got) = (Vec::new(), Vec::new());
            for (number, length) in pieces.into_iter().enumerate() {
                let piece: Vec<u8> = (0..length).map(|at| (at + number) as u8).collect();
                written.extend_from_slice(&piece);
                writer.write(&piece);
                // All that there is, or the pipe would be full after some pieces.
                while number % every == 0
                    && let Some(batch) = read(&pipe).filter(|batch| !batch.is_empty())
                {
                    got.extend(batch);
                }
            }
            drop(writer);
            while let Some(batch) = read(&pipe).filter(|batch| !batch.is_empty()) {
                got.extend(batch);
            }
            prop_assert!(got == written);
        }
    }
}
