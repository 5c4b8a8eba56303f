//! Which copies are running, over all instances: one value of the key-value store, which can't
//! grow. Its changes are not atomic: where two instances change it in the same moment, one of the
//! changes is lost, and a blob may be copied twice. Without the store each instance counts its own
//! copies, and copies nothing where bytes are limited.

use std::time::Duration;

/// The most copies at a time.
pub const MAX_COPIES: usize = 4;
/// The key of the value. No bucket of a cache has it.
pub const KEY: &str = "copies1";
/// Claims whose end is further away were written by a clock that is wrong.
const MAX_CLAIM: u64 = 24 * 60 * 60;

/// The copies that are running, and how many bytes of copies began in this minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Minutes since the Unix epoch.
    minute: u64,
    bytes: u64,
    claims: Vec<Claim>,
}

/// One copy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    object: String,
    /// A random number of who copies.
    owner: u64,
    /// Seconds since the Unix epoch. Who ends without a word has copied for so long at most.
    until: u64,
}

/// A change of the list.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// Claims an object until a time, for a copy of so many bytes; 0 where that is not known yet.
    Claim(&'a str, u64, Duration),
    /// A copy of so many bytes begins; its claim holds until a time.
    Begin(u64, Duration),
    /// It has ended, so many bytes before its end.
    End(u64),
}

/// What becomes of a wish to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It may begin.
    Granted,
    /// Somebody copies this object.
    Taken,
    /// Too much is copied now.
    Later,
}

impl Ledger {
    /// Parses a stored value: a line of the minute and its bytes, and one for each claim. What is
    /// malformed, or over, is left out.
    pub fn parse(stored: &[u8], now: Duration) -> Ledger {
        let text = std::str::from_utf8(stored).unwrap_or_default();
        let mut lines = text.lines();
        let first = lines.next().and_then(|line| line.split_once(' '));
        let number = |text: &str| text.parse::<u64>().ok();
        let (minute, bytes) = first
            .and_then(|(minute, bytes)| Some((number(minute)?, number(bytes)?)))
            .unwrap_or_default();
        let this_minute = now.as_secs() / 60;
        let is_open = |claim: &Claim| {
            let left = claim.until.checked_sub(now.as_secs());
            left.is_some_and(|left| left > 0 && left <= MAX_CLAIM)
        };
        let claim = |line: &str| {
            let mut parts = line.split(' ');
            Some(Claim {
                object: parts.next()?.to_owned(),
                owner: number(parts.next()?)?,
                until: number(parts.next()?)?,
            })
        };
        Ledger {
            minute: this_minute,
            bytes: if minute == this_minute { bytes } else { 0 },
            claims: lines
                .filter_map(claim)
                .filter(is_open)
                .take(MAX_COPIES)
                .collect(),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {}\n", self.minute, self.bytes);
        for Claim {
            object,
            owner,
            until,
        } in &self.claims
        {
            text.push_str(&format!("{object} {owner} {until}\n"));
        }
        text.into_bytes()
    }

    /// Changes the claim of one owner.
    pub fn change(&mut self, owner: u64, change: Change<'_>, limit: u64) -> Turn {
        match change {
            Change::Claim(object, length, until) => {
                let turn = self.claim(object, owner, until, limit);
                if turn == Turn::Granted {
                    self.begin(owner, length, until);
                }
                return turn;
            }
            Change::Begin(length, until) => self.begin(owner, length, until),
            Change::End(rest) => {
                if self.holds(owner) {
                    self.bytes = self.bytes.saturating_sub(rest);
                }
                self.claims.retain(|claim| claim.owner != owner);
            }
        }
        Turn::Granted
    }

    /// Claims an object until a time. `limit` is the most bytes of a minute; 0 is no limit.
    fn claim(&mut self, object: &str, owner: u64, until: Duration, limit: u64) -> Turn {
        if self.claims.iter().any(|claim| claim.object == object) {
            return Turn::Taken;
        }
        if self.is_full() || (limit > 0 && self.bytes >= limit) {
            return Turn::Later;
        }
        self.claims.push(Claim {
            object: object.to_owned(),
            owner,
            until: until.as_secs(),
        });
        Turn::Granted
    }

    /// Whether as many copies run as may run.
    pub fn is_full(&self) -> bool {
        self.claims.len() >= MAX_COPIES
    }

    /// Whether a claim is there: another instance may have written over it.
    pub fn holds(&self, owner: u64) -> bool {
        self.claims.iter().any(|claim| claim.owner == owner)
    }

    /// Whether somebody else has a claim to an object.
    pub fn is_taken(&self, object: &str, owner: u64) -> bool {
        let mut claims = self.claims.iter();
        claims.any(|claim| claim.object == object && claim.owner != owner)
    }

    /// Counts the bytes of a copy that begins, and extends its claim.
    fn begin(&mut self, owner: u64, length: u64, until: Duration) {
        self.bytes = self.bytes.saturating_add(length);
        let mut claims = self.claims.iter_mut();
        if let Some(claim) = claims.find(|claim| claim.owner == owner) {
            claim.until = until.as_secs();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(6_000_000);
    const LATER: Duration = Duration::from_secs(6_000_060);

    fn again(ledger: &Ledger, now: Duration) -> Ledger {
        Ledger::parse(&ledger.to_bytes(), now)
    }

    #[test]
    fn an_object_is_claimed_once_until_its_copy_ends() {
        let mut ledger = Ledger::parse(b"", NOW);
        assert_eq!(ledger.claim("a", 1, LATER, 0), Turn::Granted);
        assert_eq!(ledger.claim("a", 2, LATER, 0), Turn::Taken);
        assert_eq!(ledger.claim("b", 3, LATER, 0), Turn::Granted);
        let mut ledger = again(&ledger, NOW);
        assert!(ledger.holds(1) && ledger.holds(3) && !ledger.holds(2));
        assert!(ledger.is_taken("a", 2) && !ledger.is_taken("a", 1) && !ledger.is_taken("c", 1));
        ledger.change(1, Change::End(0), 0);
        assert_eq!(ledger.claim("a", 2, LATER, 0), Turn::Granted);
        // Who ended without a word loses its claim.
        assert!(!again(&ledger, LATER).holds(2));
        ledger.begin(2, 10, LATER + Duration::from_secs(1));
        assert!(again(&ledger, LATER).holds(2));
    }

    #[test]
    fn a_few_copies_run_at_a_time_and_so_many_bytes_begin_in_a_minute() {
        let mut ledger = Ledger::parse(b"", NOW);
        for owner in 0..MAX_COPIES as u64 {
            assert_eq!(
                ledger.claim(&format!("o{owner}"), owner, LATER, 0),
                Turn::Granted
            );
        }
        assert_eq!(ledger.claim("x", 9, LATER, 0), Turn::Later);
        ledger.change(0, Change::End(0), 0);
        ledger.begin(1, 100, LATER);
        assert_eq!(ledger.claim("x", 9, LATER, 100), Turn::Later);
        assert_eq!(ledger.claim("x", 9, LATER, 101), Turn::Granted);
        let mut next_minute = again(&ledger, LATER);
        assert_eq!(
            next_minute.claim("y", 10, LATER + LATER, 100),
            Turn::Granted
        );
    }

    #[test]
    fn what_a_wrong_clock_claimed_is_not_believed() {
        let mut ledger = Ledger::parse(b"", NOW);
        let until = NOW + Duration::from_secs(MAX_CLAIM + 1);
        assert_eq!(ledger.claim("a", 1, until, 0), Turn::Granted);
        assert!(!again(&ledger, NOW).holds(1));
    }

    proptest! {
        #[test]
        fn no_stored_value_panics_or_makes_it_grow(stored in "([0-9]{1,20} [0-9]{1,20}\n)?(\\PC{0,9} [0-9]{1,20} 60000[0-9]{2}\n){0,9}") {
            let ledger = Ledger::parse(stored.as_bytes(), NOW);
            prop_assert!(ledger.claims.len() <= MAX_COPIES);
            prop_assert_eq!(again(&ledger, NOW), ledger);
        }
    }
}
