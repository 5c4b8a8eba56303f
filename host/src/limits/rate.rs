//! The component's `client_limit` and its limit of wrong logins, counted exactly within this
//! process. Instances of the component count too, each by itself and only roughly together.

use crate::limits::Settings;
use crate::limits::client::Client;
use crate::limits::login::{Login, MAX_WRONG_LOGINS};
use http::HeaderMap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds in which a client's requests are counted together, as in the component.
const WINDOW: u64 = 60;

/// The most clients that are counted in one window; the component alone counts those beyond it.
const MAX_CLIENTS: usize = 1_000_000;

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Counted {
    Address(Client),
    Account(Arc<str>),
}

/// Why a request goes no further; how long its client has to wait.
#[derive(Debug, PartialEq, Eq)]
pub enum OverLimit {
    Requests(Duration),
    WrongLogins(Duration),
}

/// Both limits.
#[derive(Debug)]
pub struct Rates {
    requests: ClientRate,
    wrong_logins: ClientRate,
}

impl Rates {
    /// Allows each client `client_limit` requests a minute; 0 is no limit.
    pub fn new(client_limit: u32) -> Self {
        Self {
            requests: ClientRate::new(client_limit),
            wrong_logins: ClientRate::new(MAX_WRONG_LOGINS),
        }
    }

    /// Counts a request of `client`: of its account if it has logged in, of its address if it needs
    /// no login. One that the component refuses counts for nothing, a wrong login for its address.
    pub fn check(
        &self,
        settings: &Settings,
        client: Client,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), OverLimit> {
        let (is_counted, login) = settings.registry_login(path, headers);
        let address = || Counted::Address(client);
        let counted = match login {
            _ if !is_counted => return Ok(()),
            None => address(),
            Some(Login::Missing) => return Ok(()),
            Some(Login::Wrong) => {
                let wrong = self.wrong_logins.check(address());
                return wrong.map_err(OverLimit::WrongLogins);
            }
            Some(Login::Right(name)) => {
                let others = self.wrong_logins.look(&address());
                others.map_err(OverLimit::WrongLogins)?;
                Counted::Account(name)
            }
        };
        self.requests.check(counted).map_err(OverLimit::Requests)
    }
}

/// Counts the requests of each client in this minute.
#[derive(Debug)]
struct ClientRate {
    /// 0 is no limit.
    limit: u32,
    counts: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    number: u64,
    counts: HashMap<Counted, u32>,
}

impl ClientRate {
    /// Allows each client `limit` requests a minute; 0 is no limit.
    fn new(limit: u32) -> Self {
        Self {
            limit,
            counts: Mutex::default(),
        }
    }

    /// Counts a request. Fails with the time to wait where it exceeds the limit.
    fn check(&self, client: Counted) -> Result<(), Duration> {
        if self.limit == 0 {
            return Ok(());
        }
        self.check_at(client, now())
    }

    fn check_at(&self, client: Counted, now: u64) -> Result<(), Duration> {
        let mut window = self.window(now);
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

    /// Fails like [`ClientRate::check`], without counting.
    fn look(&self, client: &Counted) -> Result<(), Duration> {
        let now = now();
        match self.window(now).counts.get(client) {
            Some(count) if *count >= self.limit => Err(Duration::from_secs(WINDOW - now % WINDOW)),
            _ => Ok(()),
        }
    }

    fn window(&self, now: u64) -> MutexGuard<'_, Window> {
        let mut window = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if window.number != now / WINDOW {
            *window = Window {
                number: now / WINDOW,
                counts: HashMap::new(),
            };
        }
        window
    }
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_client_exactly_and_anew_each_minute() {
        let rate = ClientRate::new(60);
        let client = |last| Counted::Address(Client::from_address([192, 0, 2, last].into()));
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

    #[test]
    fn counts_accounts_and_wrong_logins() {
        let entry = crate::limits::login::entry("alice", "one");
        let variables = [("clients".to_owned(), entry)];
        let settings = Settings::from_variables(&variables.into(), false);
        let client = |last| Client::from_address([192, 0, 2, last].into());
        let (right, wrong) = ("Basic YWxpY2U6b25l", "Basic YWxpY2U6dHdv");
        let check = |rates: &Rates, last, login: Option<&'static str>| {
            let login = login.map(http::HeaderValue::from_static);
            let headers = login.map(|login| (http::header::AUTHORIZATION, login));
            let headers = HeaderMap::from_iter(headers);
            rates.check(&settings, client(last), "/v2/", &headers)
        };
        // A new minute may begin meanwhile: counts are compared, no times.
        let rates = Rates::new(10);
        let served = |last: u8, login| {
            let served = (0..90).filter(|_| check(&rates, last, login).is_ok());
            served.count()
        };
        assert!(
            (10..=20).contains(
                &(0..90)
                    .filter(|at| check(&rates, *at, Some(right)).is_ok())
                    .count()
            )
        );
        assert!((30..=60).contains(&served(100, Some(wrong))));
        assert_eq!(served(101, None), 90);
        let rates = Rates::new(0);
        while check(&rates, 1, Some(wrong)).is_ok() {}
        assert!(matches!(
            check(&rates, 1, Some(right)),
            Ok(()) | Err(OverLimit::WrongLogins(_))
        ));
        assert_eq!(check(&rates, 2, Some(right)), Ok(()));
    }
}
