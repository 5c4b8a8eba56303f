//! Accounts of clients, and the login that a request shows: Basic authorisation (RFC 7617), which
//! every registry client has (`docker login`).
//!
//! A token is compared by its SHA-256. A hash that is slow on purpose protects passwords, which
//! people choose; each request would pay for it. So tokens have to be random.

use super::secret::Secret;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Base64 (RFC 4648, section 4), read with its padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const MAX_NAME: usize = 64;
/// Bytes. A longer `Authorization` is no login of this mirror.
const MAX_LOGIN: usize = 1024;

/// A client that may use the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    name_hash: Secret,
    token: Secret,
}

/// An entry that is not `NAME:SHA256`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidAccount;

/// The login of a request, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login<'a> {
    Missing,
    /// A name and a token that are no account's, or another kind of credential.
    Wrong,
    Right(&'a Account),
}

impl Account {
    /// Reads `NAME:SHA256-OF-TOKEN`.
    pub fn parse(entry: &str) -> Result<Account, InvalidAccount> {
        let (name, hash) = entry.split_once(':').ok_or(InvalidAccount)?;
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(is_allowed) {
            return Err(InvalidAccount);
        }
        Ok(Account {
            name: name.to_owned(),
            name_hash: Secret::hash(name.as_bytes()),
            token: Secret::from_hex(hash).map_err(|_| InvalidAccount)?,
        })
    }
}

/// Whether no two accounts have the same name.
pub fn have_different_names(mut accounts: &[Account]) -> bool {
    while let Some((last, others)) = accounts.split_last() {
        if others.iter().any(|other| other.name == last.name) {
            return false;
        }
        accounts = others;
    }
    true
}

impl<'a> Login<'a> {
    /// Looks for the account that a request logs in to. Every account is compared, whatever the
    /// name, and every byte of it: the time tells nothing of names or tokens.
    pub fn find(accounts: &'a [Account], headers: &HeaderMap) -> Login<'a> {
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let Some(line) = lines.next() else {
            return Login::Missing;
        };
        let credentials = lines
            .next()
            .is_none()
            .then(|| basic_credentials(line.as_bytes()))
            .flatten();
        let Some((name, token)) = credentials else {
            return Login::Wrong;
        };
        let mut found = Login::Wrong;
        for account in accounts {
            let difference = account.name_hash.difference(&name) | account.token.difference(&token);
            if std::hint::black_box(difference) == 0 {
                found = Login::Right(account);
            }
        }
        found
    }

    /// Returns the name of the account.
    pub fn name(self) -> Option<&'a str> {
        match self {
            Login::Right(account) => Some(&account.name),
            Login::Missing | Login::Wrong => None,
        }
    }
}

/// Reads an `Authorization: Basic …`. Returns the hashes of the name and the token.
fn basic_credentials(line: &[u8]) -> Option<(Secret, Secret)> {
    const SCHEME: &[u8] = b"basic ";
    if line.len() > MAX_LOGIN {
        return None;
    }
    let (scheme, encoded) = line.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    let decoded = BASE64.decode(encoded.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (name, token) = decoded.split_at_checked(colon)?;
    Some((Secret::hash(name), Secret::hash(token.get(1..)?)))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;
    use std::fmt::Write as _;

    /// The value of `Authorization` for a name and a token.
    pub fn basic(name: &str, token: &str) -> String {
        format!("Basic {}", BASE64.encode(format!("{name}:{token}")))
    }

    /// The entry of the setting for a name and a token.
    pub fn entry(name: &str, token: &str) -> String {
        use sha2::{Digest as _, Sha256};
        let mut entry = format!("{name}:");
        for byte in Sha256::digest(token) {
            write!(entry, "{byte:02x}").unwrap();
        }
        entry
    }

    fn accounts() -> Vec<Account> {
        ["alice", "bob", "ci.runner-1_a"]
            .map(|name| Account::parse(&entry(name, &format!("token of {name}"))).unwrap())
            .into()
    }

    fn login(lines: &[&str]) -> Option<String> {
        let accounts = accounts();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(AUTHORIZATION, line.parse().unwrap());
        }
        let login = Login::find(&accounts, &headers);
        assert_eq!(lines.is_empty(), login == Login::Missing);
        login.name().map(str::to_owned)
    }

    #[test]
    fn an_entry_is_a_name_and_a_hash() {
        let hash = "0a".repeat(32);
        for name in ["a", "Alice", "ci.runner-1_a", "-", &"x".repeat(64)] {
            let account = Account::parse(&format!("{name}:{hash}")).unwrap();
            assert_eq!(account.name, name);
            assert!(!format!("{account:?}").contains("0a0a"));
        }
        for bad in [
            "".to_owned(),
            "alice".to_owned(),
            format!(":{hash}"),
            format!("alice:{hash}0"),
            format!("alice:{}", &hash[1..]),
            format!("alice:sha256:{hash}"),
            format!("{}:{hash}", "x".repeat(65)),
            format!("a b:{hash}"),
            format!("é:{hash}"),
            format!("a\"b:{hash}"),
            format!("alice:{} ", &hash[1..]),
            "alice:token in clear text that is 64 characters long, like a hash --".to_owned(),
        ] {
            assert_eq!(Account::parse(&bad), Err(InvalidAccount), "{bad}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        let mut accounts = accounts();
        assert!(have_different_names(&accounts));
        accounts.push(Account::parse(&entry("alice", "another")).unwrap());
        assert!(!have_different_names(&accounts));
        assert!(have_different_names(&[]));
    }

    #[test]
    fn each_account_has_its_own_token() {
        for name in ["alice", "bob", "ci.runner-1_a"] {
            let right = basic(name, &format!("token of {name}"));
            assert_eq!(login(&[&right]).as_deref(), Some(name));
            let lower = right.replacen("Basic ", "bAsIC  ", 1);
            assert_eq!(login(&[&lower]).as_deref(), Some(name));
            assert_eq!(login(&[right.trim_end_matches('=')]).as_deref(), Some(name));
        }
        for (name, token) in [
            ("alice", "token of bob"),
            ("Alice", "token of alice"),
            ("alice", "token of alice "),
            ("alice", "token of alic"),
            ("", "token of alice"),
            ("alice", ""),
            ("", ""),
            ("carol", "token of alice"),
            ("alice:token of alice", ""),
        ] {
            assert_eq!(login(&[&basic(name, token)]), None, "{name} {token}");
        }
        let right = basic("alice", "token of alice");
        for lines in [
            &[][..],
            &[&*right, &*right],
            &["Bearer abc"],
            &["Basic"],
            &["Basic "],
            &["Basic YWxpY2U="],
            &["Basic ===="],
            &[&right.replacen("Basic ", "Basic", 1)],
            &[&format!("{right}===")],
            &[&format!("{right} x")],
            &[&basic("alice", &"x".repeat(2000))],
        ] {
            assert_eq!(login(lines), None, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn base64_is_decoded_as_it_was_encoded(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let encoded = BASE64.encode(&bytes);
            prop_assert_eq!(BASE64.decode(&encoded).ok(), Some(bytes.clone()));
            let bare = encoded.trim_end_matches('=');
            prop_assert_eq!(BASE64.decode(bare).ok(), Some(bytes));
        }

        #[test]
        fn no_header_panics_or_logs_in(line in prop::collection::vec(any::<u8>(), 0..60), is_basic: bool) {
            let accounts = accounts();
            let line = [if is_basic { &b"Basic "[..] } else { b"" }, &line].concat();
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
                prop_assert_eq!(Login::find(&accounts, &headers), Login::Wrong);
            }
        }

        #[test]
        fn no_entry_panics(entry in "\\PC{0,20}|[a-z]{0,70}:[0-9a-fA-F]{60,68}") {
            let _ = Account::parse(&entry);
        }
    }
}
