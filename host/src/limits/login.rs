//! The accounts of the component's variable `clients`, and the login that a request shows. The
//! component decides who is let in; the host only counts the requests of one account together, and
//! the wrong logins of one address, exactly within this process.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use ring::digest::{SHA256, digest};
use std::sync::Arc;

/// Wrong logins of one address in a minute, as in the component.
pub const MAX_WRONG_LOGINS: u32 = 30;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The accounts; none if nobody needs one.
#[derive(Clone, Default)]
pub struct Accounts(Vec<Account>);

#[derive(Clone)]
struct Account {
    name: Arc<str>,
    /// In lower case.
    token_sha256: String,
}

/// The login of a request, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    Missing,
    Wrong,
    Right(Arc<str>),
}

impl Accounts {
    /// Reads the variable. What is malformed is left out; the component refuses every request then.
    pub fn parse(text: &str) -> Self {
        let account = |entry: &str| {
            let (name, hash) = entry.trim().split_once(':')?;
            Some(Account {
                name: name.into(),
                token_sha256: hash.to_ascii_lowercase(),
            })
        };
        Self(text.split(',').filter_map(account).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks for the account that a request logs in to, in the same time for every wrong token.
    pub fn login(&self, headers: &HeaderMap) -> Login {
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let Some(line) = lines.next() else {
            return Login::Missing;
        };
        let credentials = match lines.next() {
            None => basic_credentials(line.as_bytes()),
            Some(_) => None,
        };
        let Some((name, token)) = credentials else {
            return Login::Wrong;
        };
        let hash = hexadecimal(digest(&SHA256, &token).as_ref());
        let mut found = Login::Wrong;
        for account in &self.0 {
            let pairs = account.token_sha256.bytes().zip(hash.bytes());
            let differ = pairs.fold(0, |sum, (one, other)| sum | (one ^ other));
            let is_of_length = account.token_sha256.len() == hash.len();
            if is_of_length && differ == 0 && account.name.as_bytes() == name {
                found = Login::Right(Arc::clone(&account.name));
            }
        }
        found
    }
}

/// Reads an `Authorization: Basic …`. Returns the name and the token.
fn basic_credentials(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, encoded) = line.split_at_checked("basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut name = BASE64.decode(encoded.trim_ascii()).ok()?;
    let colon = name.iter().position(|byte| *byte == b':')?;
    let token = name.split_off(colon + 1);
    name.pop();
    Some((name, token))
}

/// Returns the entry of the variable for an account with this token.
pub fn entry(name: &str, token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    format!("{name}:{}", hexadecimal(hash.as_ref()))
}

/// Returns bytes as hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(lines: &[&str]) -> Login {
        let text = format!("{}, {}", entry("alice", "one"), entry("bob", "two"));
        let headers = lines
            .iter()
            .map(|line| (AUTHORIZATION, line.parse().unwrap()));
        let mut map = HeaderMap::new();
        map.extend(headers);
        Accounts::parse(&text).login(&map)
    }

    fn basic(credentials: &str) -> String {
        format!("Basic {}", BASE64.encode(credentials))
    }

    #[test]
    fn finds_the_account_of_a_right_login_only() {
        for (credentials, name) in [("alice:one", "alice"), ("bob:two", "bob")] {
            let line = basic(credentials);
            assert_eq!(login(&[&line]), Login::Right(name.into()));
            let bare = line.trim_end_matches('=').replacen("Basic", "basic", 1);
            assert_eq!(login(&[&bare]), Login::Right(name.into()));
            assert_eq!(login(&[&line, &line]), Login::Wrong);
        }
        for wrong in ["alice:two", "alice:", ":one", "alice", "carol:one", ""] {
            assert_eq!(login(&[&basic(wrong)]), Login::Wrong, "{wrong}");
        }
        for wrong in ["Bearer one", "Basic", "Basic !", "alice:one"] {
            assert_eq!(login(&[wrong]), Login::Wrong, "{wrong}");
        }
        assert_eq!(login(&[]), Login::Missing);
        // The SHA-256 of the empty text is in no setting.
        let none = Accounts::parse("alice:,bob");
        let line = basic("alice:").parse().unwrap();
        let headers = HeaderMap::from_iter([(AUTHORIZATION, line)]);
        assert_eq!(none.login(&headers), Login::Wrong);
    }
}
