//! One fetch for many: requests that need the same thing at the same time share one fetch of it.

use crate::platform::Platform;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// The fetches under way, by what they fetch.
pub struct Flights<P: Platform, T>(RefCell<HashMap<String, Flight<P, T>>>);

struct Flight<P: Platform, T> {
    brought: Rc<OnceCell<T>>,
    /// One for each request that waits; dropping it wakes the request.
    waiting: Vec<P::Alarm>,
}

impl<P: Platform, T> Default for Flights<P, T> {
    fn default() -> Self {
        Flights(RefCell::default())
    }
}

impl<P: Platform, T: Clone> Flights<P, T> {
    /// Runs `fetch`, or waits for the one that is under way for the same `identity`. What it brings, good or bad, goes to
    /// all that waited. Where the request that fetched goes away before it is done, one of those that wait fetches.
    pub async fn share(&self, platform: &P, identity: &str, fetch: impl AsyncFn() -> T) -> T {
        loop {
            let joined = self.0.borrow_mut().get_mut(identity).map(|flight| {
                let (alarm, woken) = platform.alarm();
                flight.waiting.push(alarm);
                (flight.brought.clone(), woken)
            });
            match joined {
                Some((brought, woken)) => {
                    woken.await;
                    if let Some(brought) = brought.get() {
                        return brought.clone();
                    }
                }
                None => {
                    let landing = self.take_off(identity);
                    let brought = fetch().await;
                    return landing.brought.get_or_init(|| brought).clone();
                }
            }
        }
    }

    fn take_off<'a>(&'a self, identity: &'a str) -> Landing<'a, P, T> {
        let brought = Rc::new(OnceCell::new());
        let flight = Flight {
            brought: brought.clone(),
            waiting: Vec::new(),
        };
        self.0.borrow_mut().insert(identity.to_owned(), flight);
        Landing {
            flights: self,
            identity,
            brought,
        }
    }
}

/// Takes a flight off the list, and wakes who waits for it, also when its request goes away.
struct Landing<'a, P: Platform, T> {
    flights: &'a Flights<P, T>,
    identity: &'a str,
    brought: Rc<OnceCell<T>>,
}

impl<P: Platform, T> Drop for Landing<'_, P, T> {
    fn drop(&mut self) {
        let landed = self.flights.0.borrow_mut().remove(self.identity);
        drop(landed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::scripted::Scripted;
    use futures_util::future::{FutureExt, join_all};
    use std::cell::Cell;

    #[tokio::test]
    async fn many_share_one_fetch_and_the_next_fetches_again() {
        let (platform, flights, fetches) = (Scripted::default(), Flights::default(), Cell::new(0));
        let fetch = async || {
            fetches.set(fetches.get() + 1);
            tokio::task::yield_now().await;
            fetches.get()
        };
        let brought = join_all((0..40).map(|_| flights.share(&platform, "a", fetch))).await;
        assert_eq!(brought, [1; 40]);
        assert_eq!(flights.share(&platform, "a", fetch).await, 2);
        assert!(flights.0.borrow().is_empty());
    }

    #[tokio::test]
    async fn what_differs_is_fetched_apart() {
        let (platform, flights, fetches) = (Scripted::default(), Flights::default(), Cell::new(0));
        let fetch = async || {
            fetches.set(fetches.get() + 1);
            tokio::task::yield_now().await;
        };
        join_all(["a", "b"].map(|identity| flights.share(&platform, identity, fetch))).await;
        assert_eq!(fetches.get(), 2);
    }

    #[tokio::test]
    async fn another_takes_over_where_the_first_goes_away() {
        let (platform, flights) = (Scripted::default(), Flights::default());
        let mut first =
            Box::pin(flights.share(&platform, "a", async || std::future::pending::<u8>().await));
        let mut second = Box::pin(flights.share(&platform, "a", async || 2));
        assert_eq!((&mut first).now_or_never(), None);
        assert_eq!((&mut second).now_or_never(), None);
        drop(first);
        assert_eq!(second.await, 2);
    }
}
