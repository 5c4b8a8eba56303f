//! DNS messages (RFC 1035, section 4): a question for addresses, and its answer.

use std::net::IpAddr;

/// The record types of IPv4 and IPv6 addresses.
pub const A: u16 = 1;
pub const AAAA: u16 = 28;

/// Bytes of a message before its question.
const HEADER: usize = 12;

/// The class of the Internet.
const IN: u16 = 1;

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The addresses of the name; none if there is no such name.
    Addresses(Vec<IpAddr>),
    /// They don't fit.
    Truncated,
    /// The server can't answer.
    Failed,
    /// It answers another question, or is no answer.
    Foreign,
}

/// Writes the question for the records of type `kind` of `name`; `None` if that is no name.
pub fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(HEADER + name.len() + 6);
    message.extend(id.to_be_bytes());
    // Recursion desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok()?;
        if !(1..=63).contains(&length) {
            return None;
        }
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(IN.to_be_bytes());
    (message.len() <= HEADER + 255 + 4).then_some(message)
}

/// Reads the answer to `question`.
pub fn answer(message: &[u8], question: &[u8]) -> Answer {
    let (Some(flags), Some(asked)) = (message.get(2..4), question.get(HEADER..)) else {
        return Answer::Foreign;
    };
    let is_response = flags[0] & 0x80 != 0;
    let repeats = message
        .get(HEADER..question.len())
        .is_some_and(|repeated| repeated.eq_ignore_ascii_case(asked));
    if !is_response || message.get(..2) != question.get(..2) || !repeats {
        return Answer::Foreign;
    }
    if flags[0] & 0x02 != 0 {
        return Answer::Truncated;
    }
    match flags[1] & 0x0f {
        0 => {}
        // There is no such name.
        3 => return Answer::Addresses(Vec::new()),
        _ => return Answer::Failed,
    }
    let kind = asked
        .len()
        .checked_sub(4)
        .and_then(|at| asked.get(at..at + 2));
    read_records(message, question.len(), kind.unwrap_or_default())
        .map_or(Answer::Failed, Answer::Addresses)
}

/// Reads the addresses of the records after the question, which ends at `start`. The server has
/// followed aliases; whose record it is makes no difference to who asked.
fn read_records(message: &[u8], start: usize, kind: &[u8]) -> Option<Vec<IpAddr>> {
    let count = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
    let mut rest = message.get(start..)?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        rest = skip_name(rest)?;
        // Type, class, time to live, length.
        let (fixed, data) = rest.split_at_checked(10)?;
        let length = usize::from(u16::from_be_bytes(fixed[8..].try_into().ok()?));
        let (data, next) = data.split_at_checked(length)?;
        if &fixed[..2] == kind && fixed[2..4] == IN.to_be_bytes() {
            addresses.push(match *data {
                [a, b, c, d] => [a, b, c, d].into(),
                _ => <[u8; 16]>::try_from(data).ok()?.into(),
            });
        }
        rest = next;
    }
    Some(addresses)
}

/// Returns what follows a name: labels, ended by an empty one or by a pointer.
fn skip_name(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (length, after) = rest.split_first()?;
        rest = match *length {
            0 => return Some(after),
            0xc0.. => return after.get(1..),
            length => after.get(usize::from(length)..)?,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to `question` with these flags and records of type, data.
    fn reply(question: &[u8], flags: [u8; 2], records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2..4].copy_from_slice(&flags);
        message[7] = u8::try_from(records.len()).unwrap();
        for (kind, data) in records {
            message.extend([0xc0, 12]);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 60]);
            message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend(*data);
        }
        message
    }

    #[test]
    fn reads_the_addresses_of_an_answer_and_nothing_else() {
        let asked = question(7, "ghcr.io", A).unwrap();
        let alias: (u16, &[u8]) = (5, &[3, b'l', b'b', b'1', 0xc0, 12]);
        let good = reply(&asked, [0x81, 0x80], &[alias, (A, &[192, 0, 2, 1])]);
        assert_eq!(
            answer(&good, &asked),
            Answer::Addresses(vec![[192, 0, 2, 1].into()])
        );
        let six = question(7, "ghcr.io", AAAA).unwrap();
        let long = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(
            answer(&reply(&six, [0x81, 0x80], &[(AAAA, &long)]), &six),
            Answer::Addresses(vec!["2001:db8::1".parse().unwrap()])
        );
        for (flags, expected) in [
            ([0x81, 0x83], Answer::Addresses(vec![])),
            ([0x81, 0x82], Answer::Failed),
            ([0x83, 0x80], Answer::Truncated),
            ([0x01, 0x80], Answer::Foreign),
        ] {
            assert_eq!(answer(&reply(&asked, flags, &[]), &asked), expected);
        }
        // Of another question, or with another number.
        assert_eq!(answer(&good, &six), Answer::Foreign);
        assert_eq!(
            answer(&good, &question(8, "ghcr.io", A).unwrap()),
            Answer::Foreign
        );
        // Cut off anywhere.
        for length in 0..good.len() {
            assert!(!matches!(
                answer(&good[..length], &asked),
                Answer::Addresses(found) if !found.is_empty()
            ));
        }
    }

    #[test]
    fn asks_for_names_only() {
        let (long, longer) = ("a".repeat(64), "a.".repeat(130));
        for name in ["", ".", "a..b", ".a", &long, longer.trim_end_matches('.')] {
            assert_eq!(question(1, name, A), None, "{name}");
        }
    }
}
