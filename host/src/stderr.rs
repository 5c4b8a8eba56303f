//! Writes to stderr: the host's warnings, and the component's standard output and error. Only whole
//! lines are written, so that lines of concurrent instances don't mix.

use crate::metrics;
use bytes::Bytes;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes. A longer line is written in parts.
const MAX_LINE: usize = 16 * 1024;

/// Writes a warning of the host. Unlike `eprintln!`, it does not panic when stderr is closed.
pub fn warn(message: &str) {
    write(format!("hammal-host: {message}\n").as_bytes());
}

/// Writes a line of the access log, like those of the component.
pub fn log(line: &str) {
    write(format!("{line}\n").as_bytes());
}

fn write(lines: &[u8]) {
    // A failure can't be reported anywhere: stderr is closed.
    let _ = io::stderr().lock().write_all(lines);
}

/// Standard output or error of one instance. As in Spin, both go to the host's stderr: the host's
/// stdout is for `--format json`.
#[derive(Clone)]
pub struct LineWriter(Arc<Mutex<LineBuffer>>);

struct LineBuffer {
    /// The bytes since the last line break.
    line: Vec<u8>,
    output: fn(&[u8]),
}

impl LineWriter {
    /// A writer with an empty buffer of its own.
    pub fn stderr() -> Self {
        Self::new(write)
    }

    /// A writer of lines that are counted and not written.
    pub fn discarding() -> Self {
        Self::new(|_| {})
    }

    fn new(output: fn(&[u8])) -> Self {
        Self(Arc::new(Mutex::new(LineBuffer {
            line: Vec::new(),
            output,
        })))
    }

    fn buffer(&self) -> MutexGuard<'_, LineBuffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LineBuffer {
    fn write(&mut self, bytes: &[u8]) {
        self.line.extend_from_slice(bytes);
        let complete = match bytes.iter().rposition(|byte| *byte == b'\n') {
            // Everything after the last line break in `bytes` stays in the buffer.
            Some(at) => self.line.len() - (bytes.len() - at - 1),
            None if self.line.len() >= MAX_LINE => self.line.len(),
            None => return,
        };
        let rest = self.line.split_off(complete);
        metrics::count_log_lines(&self.line);
        (self.output)(&self.line);
        self.line = rest;
    }
}

impl Drop for LineBuffer {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.write(b"\n");
        }
    }
}

impl IsTerminal for LineWriter {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LineWriter {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    /// The default implementation writes from a task, which costs more than the write itself.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for LineWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.buffer().write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_LINE)
    }
}

#[async_trait]
impl Pollable for LineWriter {
    async fn ready(&mut self) {}
}

impl AsyncWrite for LineWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.buffer().write(bytes);
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
    fn writes_whole_lines_and_the_rest_when_dropped() {
        let lines = LineWriter::new(|bytes| {
            WRITTEN
                .lock()
                .unwrap()
                .push(String::from_utf8_lossy(bytes).into_owned())
        });
        for piece in ["a", "b\nc", "d", "\ne\nf", "g"] {
            lines.buffer().write(piece.as_bytes());
        }
        drop(lines);
        assert_eq!(*WRITTEN.lock().unwrap(), ["ab\n", "cd\ne\n", "fg\n"]);
    }
}
