//! Points in time as signatures, signed URLs and the `Date` header write them, all in UTC.

use std::fmt;
use std::time::Duration;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Days of leap years before 1970.
const LEAP_DAYS_BEFORE_1970: u64 = 477;

/// A time in whole seconds, to be written as S3 does: `20130524T000000Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Days since the Unix epoch.
    days: u64,
    second_of_day: u64,
}

impl Timestamp {
    /// `now` is the time since the Unix epoch.
    pub fn new(now: Duration) -> Timestamp {
        const DAY: u64 = 24 * 60 * 60;
        Timestamp {
            days: now.as_secs() / DAY,
            second_of_day: now.as_secs() % DAY,
        }
    }

    /// Returns the date alone: `20130524`.
    pub fn date(self) -> String {
        let (mut year, mut day) = (1970_u64, self.days);
        let is_leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        while let Some(rest) = day.checked_sub(if is_leap(year) { 366 } else { 365 }) {
            (year, day) = (year.saturating_add(1), rest);
        }
        let february = if is_leap(year) { 29 } else { 28 };
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            let Some(rest) = day.checked_sub(length) else {
                break;
            };
            (month, day) = (u64::saturating_add(month, 1), rest);
        }
        format!("{year:04}{month:02}{:02}", day.saturating_add(1))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = self.second_of_day;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{}T{hour:02}{minute:02}{second:02}Z", self.date())
    }
}

/// Parses a time by a pattern, in which each of the letters `YMDhms` stands for a digit of the
/// year, month, day, hour, minute or second, and any other character for itself. Returns the time
/// since the Unix epoch; `None` where the text is another, or no time of 1970 or later.
pub fn parse(pattern: &str, text: &str) -> Option<Duration> {
    if pattern.len() != text.len() {
        return None;
    }
    let mut fields = [0_u64; 6];
    for (expected, byte) in pattern.bytes().zip(text.bytes()) {
        let field = b"YMDhms".iter().position(|letter| *letter == expected);
        match field.and_then(|field| fields.get_mut(field)) {
            Some(number) => {
                let digit = char::from(byte).to_digit(10)?;
                *number = number.saturating_mul(10).saturating_add(digit.into());
            }
            None if expected == byte => {}
            None => return None,
        }
    }
    let [year, month, day, hour, minute, second] = fields;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let minutes = days_since_epoch(year, month, day)?
        .saturating_mul(24)
        .saturating_add(hour)
        .saturating_mul(60)
        .saturating_add(minute);
    let seconds = minutes.saturating_mul(60).saturating_add(second);
    Some(Duration::from_secs(seconds))
}

/// Parses the value of a `Date` header: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
pub fn parse_http_date(text: &str) -> Option<Duration> {
    let (day, rest) = text.split_once(", ")?.1.split_once(' ')?;
    let (name, rest) = rest.strip_suffix(" GMT")?.split_once(' ')?;
    let month = MONTHS.iter().position(|month| *month == name)?;
    let month = month.saturating_add(1);
    parse("MM DD YYYY hh:mm:ss", &format!("{month:02} {day} {rest}"))
}

fn days_since_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    let leap_days = |year: u64| {
        (year / 4)
            .saturating_sub(year / 100)
            .saturating_add(year / 400)
    };
    let before = year.saturating_sub(1);
    let february = leap_days(year)
        .saturating_sub(leap_days(before))
        .saturating_add(28);
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let index = usize::try_from(month).ok()?.checked_sub(1)?;
    if year < 1970 || day == 0 || day > *months.get(index)? {
        return None;
    }
    let days = year
        .saturating_sub(1970)
        .saturating_mul(365)
        .saturating_add(leap_days(before))
        .saturating_sub(LEAP_DAYS_BEFORE_1970)
        .saturating_add(months.iter().take(index).sum())
        .saturating_add(day);
    days.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_times_of_the_protocols() {
        for (pattern, text, seconds) in [
            ("YYYYMMDDThhmmssZ", "20130524T000000Z", 1_369_353_600),
            (
                "YYYY-MM-DDThh:mm:ssZ",
                "2020-02-29T23:59:59Z",
                1_583_020_799,
            ),
            ("YYYY-MM-DD", "1970-01-01", 0),
            ("YYYY-MM-DD", "2000-12-31", 978_220_800),
        ] {
            assert_eq!(
                parse(pattern, text),
                Some(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        let date = parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date, Some(Duration::from_secs(784_111_777)));
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "1969-12-31",
            "2023-02-29",
            "1900-01-01",
            "2100-02-29",
            "2024-00-01",
            "2024-13-01",
            "2024-04-31",
            "2024-04-00",
            "2024/04/01",
            "2024-4-001",
            "+024-04-01",
            "2024-04-1é",
            "",
        ] {
            assert_eq!(parse("YYYY-MM-DD", text), None, "{text}");
        }
        for text in ["24:00:00", "00:60:00", "00:00:60", "00:00:0:"] {
            let text = format!("2024-01-01T{text}Z");
            assert_eq!(parse("YYYY-MM-DDThh:mm:ssZ", &text), None, "{text}");
        }
        for text in [
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "GMT",
            "",
        ] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_800, "20000301T000000Z"),
            (1_709_164_800, "20240229T000000Z"),
            (1_735_689_599, "20241231T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            let time = Timestamp::new(Duration::from_secs(seconds));
            assert_eq!(time.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn reads_every_second_until_the_year_9999(seconds in 0..253_402_300_800_u64) {
            let basic = Timestamp::new(Duration::from_secs(seconds)).to_string();
            let read = Some(Duration::from_secs(seconds));
            prop_assert_eq!(parse("YYYYMMDDThhmmssZ", &basic), read);
            let part = |from, to| &basic[from..to];
            let date = [part(0, 4), part(4, 6), part(6, 8)].join("-");
            let time = [part(9, 11), part(11, 13), part(13, 15)].join(":");
            let text = format!("{date}T{time}Z");
            prop_assert_eq!(parse("YYYY-MM-DDThh:mm:ssZ", &text), read);
            let month = MONTHS[text[5..7].parse::<usize>().unwrap() - 1];
            let (year, day, time) = (&text[..4], &text[8..10], &text[11..19]);
            let date = format!("Any, {day} {month} {year} {time} GMT");
            prop_assert_eq!(parse_http_date(&date), read);
        }

        #[test]
        fn no_text_panics(pattern in "[YMDhms:-]{0,40}", text in "\\PC{0,40}|[0-9]{0,40}") {
            let _ = parse(&pattern, &text);
            let _ = parse_http_date(&text);
            let _ = parse_http_date(&format!("Sun, {text} GMT"));
        }
    }
}
