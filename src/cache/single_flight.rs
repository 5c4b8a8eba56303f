//! Single-flight: requests that need the same thing at the same time share one fetch of it.

use crate::platform::Platform;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// The calls that are running, by key.
pub struct SingleFlight<P: Platform, T>(RefCell<HashMap<String, Call<P, T>>>);

struct Call<P: Platform, T> {
    result: Rc<OnceCell<T>>,
    /// One for each request that waits. Dropping it wakes the request.
    waiting: Vec<P::Alarm>,
}

/// The result of a call, for the request that ran it and for those that waited.
#[derive(Debug)]
pub enum Collapsed<O, T> {
    Own(O),
    Shared(T),
}

impl<P: Platform, T> Default for SingleFlight<P, T> {
    fn default() -> Self {
        SingleFlight(RefCell::default())
    }
}

impl<P: Platform, T: Clone> SingleFlight<P, T> {
    /// Runs `work`, or waits for the call with the same key that is running. All that waited get
    /// its result, good or bad. Where the request that runs it is cancelled, one of those that wait
    /// runs its own.
    pub async fn run(&self, platform: &P, key: &str, work: impl AsyncFn() -> T) -> T {
        loop {
            let joined = self.0.borrow_mut().get_mut(key).map(|call| {
                let (alarm, woken) = platform.alarm();
                call.waiting.push(alarm);
                (call.result.clone(), woken)
            });
            match joined {
                Some((result, woken)) => {
                    woken.await;
                    if let Some(result) = result.get() {
                        return result.clone();
                    }
                }
                None => {
                    let call = self.register(key);
                    let result = work().await;
                    return call.result.get_or_init(|| result).clone();
                }
            }
        }
    }

    /// Runs `work` for all with the same key, as [`SingleFlight::run`] does, where what it makes can't
    /// be shared as it is: the others get what `share` makes of it.
    pub async fn collapse<O>(
        &self,
        platform: &P,
        key: &str,
        work: impl AsyncFn() -> O,
        share: impl Fn(&O) -> T,
    ) -> Collapsed<O, T> {
        let own = RefCell::new(None);
        let work = async || {
            let result = work().await;
            let shared = share(&result);
            own.replace(Some(result));
            shared
        };
        let shared = self.run(platform, key, work).await;
        own.take().map_or(Collapsed::Shared(shared), Collapsed::Own)
    }

    fn register<'a>(&'a self, key: &'a str) -> CallGuard<'a, P, T> {
        let result = Rc::new(OnceCell::new());
        let call = Call {
            result: result.clone(),
            waiting: Vec::new(),
        };
        self.0.borrow_mut().insert(key.to_owned(), call);
        CallGuard {
            calls: self,
            key,
            result,
        }
    }
}

/// Removes a call when it ends, also by being cancelled, and wakes the requests that wait for it.
struct CallGuard<'a, P: Platform, T> {
    calls: &'a SingleFlight<P, T>,
    key: &'a str,
    result: Rc<OnceCell<T>>,
}

impl<P: Platform, T> Drop for CallGuard<'_, P, T> {
    fn drop(&mut self) {
        let ended = self.calls.0.borrow_mut().remove(self.key);
        drop(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::scripted::Scripted;
    use futures_util::future::{FutureExt, join_all};
    use std::cell::Cell;

    #[tokio::test]
    async fn simultaneous_callers_share_one_run_and_the_next_runs_again() {
        let (platform, calls, runs) = (Scripted::default(), SingleFlight::default(), Cell::new(0));
        let work = async || {
            runs.set(runs.get() + 1);
            tokio::task::yield_now().await;
            runs.get()
        };
        let results = join_all((0..40).map(|_| calls.run(&platform, "a", work))).await;
        assert_eq!(results, [1; 40]);
        assert_eq!(calls.run(&platform, "a", work).await, 2);
        assert!(calls.0.borrow().is_empty());
    }

    #[tokio::test]
    async fn other_keys_run_apart() {
        let (platform, calls, runs) = (Scripted::default(), SingleFlight::default(), Cell::new(0));
        let work = async || {
            runs.set(runs.get() + 1);
            tokio::task::yield_now().await;
        };
        join_all(["a", "b"].map(|identity| calls.run(&platform, identity, work))).await;
        assert_eq!(runs.get(), 2);
    }

    #[tokio::test]
    async fn a_waiting_caller_takes_over_where_the_first_is_cancelled() {
        let (platform, calls) = (Scripted::default(), SingleFlight::default());
        let mut first =
            Box::pin(calls.run(&platform, "a", async || std::future::pending::<u8>().await));
        let mut second = Box::pin(calls.run(&platform, "a", async || 2));
        assert_eq!((&mut first).now_or_never(), None);
        assert_eq!((&mut second).now_or_never(), None);
        drop(first);
        assert_eq!(second.await, 2);
    }
}
