//! Values of flags that are one value or a range, as `spin up` has them: `8`, `4..8`, `500ms`.

use std::fmt::Display;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// One value, or a range without its end, from which each instance gets a value at random: so that
/// instances that started together don't end together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<T> {
    first: T,
    /// `None` if there is one value.
    end: Option<T>,
}

impl<T: Copy + Into<u128> + TryFrom<u128>> Range<T> {
    /// Returns a value of the range.
    pub fn pick(&self) -> T {
        let Some(end) = self.end else {
            return self.first;
        };
        let first: u128 = self.first.into();
        let random = u128::from(RandomState::new().hash_one(()));
        T::try_from(first + random % (end.into() - first)).unwrap_or(self.first)
    }
}

impl<T: Copy> Range<T> {
    /// A range of this one value.
    pub const fn only(value: T) -> Self {
        Self {
            first: value,
            end: None,
        }
    }
}

/// A length of time in nanoseconds, so that [`Range`] can count in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub struct Nanoseconds(u64);

impl Nanoseconds {
    /// The same length. Limited to 584 years.
    pub const fn new(duration: Duration) -> Self {
        let nanoseconds = duration.as_nanos();
        Self(if nanoseconds > u64::MAX as u128 {
            u64::MAX
        } else {
            nanoseconds as u64
        })
    }
}

impl From<Nanoseconds> for u128 {
    fn from(value: Nanoseconds) -> Self {
        value.0.into()
    }
}

impl TryFrom<u128> for Nanoseconds {
    type Error = std::num::TryFromIntError;

    fn try_from(value: u128) -> Result<Self, Self::Error> {
        value.try_into().map(Self)
    }
}

impl From<Nanoseconds> for Duration {
    fn from(value: Nanoseconds) -> Self {
        Self::from_nanos(value.0)
    }
}

/// A number of at most 64 bits, so that [`Range`] can count in it.
pub type Count = u64;

/// Parses a number of requests: `8`, `4..8`.
pub fn parse_count(text: &str) -> Result<Range<Count>, String> {
    let range = parse(text, |number| number.parse::<Count>())?;
    if range.first == 0 {
        return Err("it has to be 1 or more".to_owned());
    }
    Ok(range)
}

/// Parses a length of time in seconds, or with one of the units s, ms, us, ns: `5`, `500ms`,
/// `1..8s`.
pub fn parse_duration(text: &str) -> Result<Range<Nanoseconds>, String> {
    parse(text, |length| {
        let digits = length.trim_end_matches(|c: char| !c.is_ascii_digit());
        let number: u64 = digits.parse().map_err(|_| UNITS)?;
        let duration = match &length[digits.len()..] {
            "" | "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            "us" | "μs" => Duration::from_micros(number),
            "ns" => Duration::from_nanos(number),
            _ => return Err(UNITS),
        };
        Ok(Nanoseconds::new(duration))
    })
}

const UNITS: &str = "write it as in 5, 5s, 500ms, 500us or 500ns";

fn parse<T: Copy + PartialOrd, E: Display>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Range<T>, String> {
    let parse = |text: &str| parse(text).map_err(|error| error.to_string());
    let Some((first, end)) = text.split_once("..") else {
        return parse(text).map(Range::only);
    };
    let (first, end) = (parse(first)?, parse(end)?);
    if first >= end {
        return Err("a range's end has to be greater than its start, as in 4..8".to_owned());
    }
    Ok(Range {
        first,
        end: Some(end),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values_and_ranges() {
        assert_eq!(parse_count("8"), Ok(Range::only(8)));
        let range = parse_count("4..6").unwrap();
        let picked: Vec<_> = (0..200).map(|_| range.pick()).collect();
        assert!(picked.iter().all(|value| [4, 5].contains(value)));
        assert!(picked.contains(&4) && picked.contains(&5), "{picked:?}");
    }

    #[test]
    fn reads_lengths_of_time() {
        for (text, milliseconds) in [("5", 5000), ("5s", 5000), ("20ms", 20), ("9000us", 9)] {
            let duration = Duration::from(parse_duration(text).unwrap().pick());
            assert_eq!(duration, Duration::from_millis(milliseconds), "{text}");
        }
        let range = parse_duration("1..2s").unwrap();
        let picked = Duration::from(range.pick());
        assert!(picked >= Duration::from_secs(1) && picked < Duration::from_secs(2));
    }

    #[test]
    fn says_how_to_write_them() {
        for text in ["0", "", "x", "8..4", "4..4", "-1"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
        for text in ["5m", "", "s", "1.5s", "2s..1s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("5m").unwrap_err().contains("500ms"));
    }
}
