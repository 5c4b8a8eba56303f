//! What goes to stderr while requests are served: the host's remarks, and what the component prints, whole lines each,
//! so that those who write at the same time don't mix theirs.

use bytes::Bytes;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// A line that gets longer than this many bytes is written in parts.
const LONGEST_LINE: usize = 16 * 1024;

/// A remark of the host. Unlike `eprintln!`, it outlives a closed stderr.
pub fn note(remark: &str) {
    write(format!("hammal-host: {remark}\n").as_bytes());
}

fn write(lines: &[u8]) {
    // Nobody is left to tell when stderr is closed.
    let _ = io::stderr().lock().write_all(lines);
}

/// One stream of one instance. As in Spin, what the component writes on stdout comes out on the host's stderr, too:
/// the host's stdout is for `--format json`.
#[derive(Clone)]
pub struct Lines(Arc<Mutex<Pending>>);

struct Pending {
    line: Vec<u8>,
    out: fn(&[u8]),
}

impl Lines {
    pub fn to_stderr() -> Self {
        Self::new(write)
    }

    fn new(out: fn(&[u8])) -> Self {
        Self(Arc::new(Mutex::new(Pending {
            line: Vec::new(),
            out,
        })))
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn write(&mut self, bytes: &[u8]) {
        self.line.extend_from_slice(bytes);
        let complete = match bytes.iter().rposition(|byte| *byte == b'\n') {
            // What follows the last line break in `bytes` stays.
            Some(at) => self.line.len() - (bytes.len() - at - 1),
            None if self.line.len() >= LONGEST_LINE => self.line.len(),
            None => return,
        };
        let rest = self.line.split_off(complete);
        (self.out)(&self.line);
        self.line = rest;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.write(b"\n");
        }
    }
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Lines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    /// Without the task that would write, were this left out: it costs more than the writing.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.pending().write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LONGEST_LINE)
    }
}

#[async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Lines {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pending().write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static WRITTEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

    #[test]
    fn writes_whole_lines_and_the_last_one_at_the_end() {
        let lines = Lines::new(|bytes| {
            WRITTEN
                .lock()
                .unwrap()
                .push(String::from_utf8_lossy(bytes).into_owned())
        });
        for piece in ["a", "b\nc", "d", "\ne\nf", "g"] {
            lines.pending().write(piece.as_bytes());
        }
        drop(lines);
        assert_eq!(*WRITTEN.lock().unwrap(), ["ab\n", "cd\ne\n", "fg\n"]);
    }
}
