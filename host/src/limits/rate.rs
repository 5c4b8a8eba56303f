//! The component's `client_limit`, counted exactly within this process. Instances of the component
//! count too, each by itself and only roughly together.

use crate::limits::client::Client;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds in which a client's requests are counted together, as in the component.
const WINDOW: u64 = 60;

/// The most clients that are counted in one window; the component alone counts those beyond it.
const MAX_CLIENTS: usize = 1_000_000;

/// Counts the requests of each client in this minute.
#[derive(Debug)]
pub struct ClientRate {
    /// 0 is no limit.
    limit: u32,
    counts: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    number: u64,
    counts: HashMap<Client, u32>,
}

impl ClientRate {
    /// Allows each client `limit` requests a minute; 0 is no limit.
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            counts: Mutex::default(),
        }
    }

    /// Counts a request. Fails with the time to wait where it exceeds the limit.
    pub fn check(&self, client: Client) -> Result<(), Duration> {
        if self.limit == 0 {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.check_at(client, now.unwrap_or_default().as_secs())
    }

    fn check_at(&self, client: Client, now: u64) -> Result<(), Duration> {
        let mut window = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if window.number != now / WINDOW {
            *window = Window {
                number: now / WINDOW,
                counts: HashMap::new(),
            };
        }
        if window.counts.len() >= MAX_CLIENTS && !window.counts.contains_key(&client) {
            return Ok(());
        }
        let count = window.counts.entry(client).or_default();
        if *count >= self.limit {
            return Err(Duration::from_secs(WINDOW - now % WINDOW));
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_client_exactly_and_anew_each_minute() {
        let rate = ClientRate::new(60);
        let client = |last| Client::from_address([192, 0, 2, last].into());
        let served = |now| {
            (0..400)
                .filter(|_| rate.check_at(client(1), now).is_ok())
                .count()
        };
        assert_eq!(served(6_000), 60);
        assert_eq!(
            rate.check_at(client(1), 6_015),
            Err(Duration::from_secs(45))
        );
        assert_eq!(rate.check_at(client(2), 6_015), Ok(()));
        assert_eq!(served(6_060), 60);
        assert!((0..1000).all(|_| ClientRate::new(0).check(client(1)).is_ok()));
    }
}
