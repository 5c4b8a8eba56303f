//! A future that goes on when nobody waits for it any more.

use std::pin::Pin;
use std::task::{Context, Poll};

/// Runs its future in a task of its own if it is dropped before that has ended.
pub struct Detached<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> Detached<T> {
    /// Wraps `future`. Drop it within a Tokio runtime.
    pub fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<T: Send + 'static> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(future) = self.0.as_mut() else {
            return Poll::Pending;
        };
        let result = future.as_mut().poll(cx);
        if result.is_ready() {
            self.0 = None;
        }
        result
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        if let Some(future) = self.0.take() {
            tokio::spawn(async move { drop(future.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn goes_on_when_it_is_dropped() {
        let (sender, receiver) = oneshot::channel();
        let (done, is_done) = oneshot::channel();
        let mut detached = Detached::new(async move {
            drop(receiver.await);
            done.send(()).unwrap();
        });
        assert!((&mut detached).now_or_never().is_none());
        drop(detached);
        sender.send(()).unwrap();
        is_done.await.unwrap();
        assert_eq!(Detached::new(async { 1 }).await, 1);
    }
}
