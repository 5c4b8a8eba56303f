//! A pipe for a body that is written to two places: to the client, who never waits, and to the blob
//! store, as long as that keeps up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The most bytes that wait for the reader, who has a batch besides. On a busy machine, a store that
/// is as fast as a client of 500 MB/s lags behind by as much for moments.
pub const MAX_WAITING: usize = 4 * 1024 * 1024;

/// Bytes that the reader takes at a time, unless they are the last: each time wakes a task of the
/// host, and a store is in no hurry.
const BATCH: usize = 256 * 1024;

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
    /// The reader did not keep up.
    Full,
    /// The writer did not.
    Slow,
    /// The reader needs no more.
    Closed,
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
            if state.waiting < BATCH && state.end.is_none() {
                return state.wait(context);
            }
            let batch = state.batches.pop_front().unwrap_or_default();
            state.waiting = state.waiting.saturating_sub(batch.len());
            Poll::Ready(batch)
        })
        .await
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

    /// Ends it, unless it has ended. What waits is dropped, but of a whole body.
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
    /// Writes a piece. It is dropped, and all that waits with it, where the reader is too far
    /// behind.
    pub fn write(&self, piece: &[u8]) {
        let end = {
            let mut state = self.0.0.borrow_mut();
            if state.end.is_some() {
                return;
            }
            if state.waiting.saturating_add(piece.len()) > MAX_WAITING {
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
