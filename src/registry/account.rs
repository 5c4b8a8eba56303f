//! The operator's accounts at registries: entries `NAME@HOST=USER:PASSWORD` of
//! `upstream_credentials`.

use super::address::RegistryAddress;
use super::origin::Origin;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// Bytes. A longer name of an account is refused.
const MAX_NAME: usize = 32;
/// Bytes. A longer user and password are refused: registries take no longer header.
const MAX_CREDENTIAL: usize = 4096;

/// An account at one registry. Neither user nor password can be printed or read: all that is held
/// of them is the header that they are sent in.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    name: String,
    registry: RegistryAddress,
    authorization: HeaderValue,
    /// Tells passwords apart in keys of the store, whose readers could guess the password by more
    /// than these 16 bits.
    check: u16,
}

/// The accounts of all registries, in the operator's order, and what is served with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    list: Vec<Account>,
    pub serves: Serves,
}

/// What clients get of what an account may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serves {
    /// What the anonymous user may read too.
    #[default]
    Public,
    /// All of it.
    All,
}

/// Text that is not a list of accounts. It does not hold the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidAccount;

impl Account {
    /// Parses `NAME@HOST=USER:PASSWORD`. An entry without a name is named by its number.
    fn parse(text: &str, number: usize) -> Result<Account, InvalidAccount> {
        let (place, credential) = text.split_once('=').ok_or(InvalidAccount)?;
        let (name, host) = match place.split_once('@') {
            Some((name, host)) => (name.to_owned(), host),
            None => (number.to_string(), place),
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_name = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain);
        if !is_name || host.contains('/') {
            return Err(InvalidAccount);
        }
        let registry = RegistryAddress::parse(host).map_err(|_| InvalidAccount)?;
        // A colon ends the user: RFC 7617, section 2.
        let (user, password) = credential.split_once(':').ok_or(InvalidAccount)?;
        let (user, password) = (unescape(user)?, unescape(password)?);
        let length = user.len().saturating_add(password.len());
        if user.contains(':') || length > MAX_CREDENTIAL {
            return Err(InvalidAccount);
        }
        let basic = ["Basic ", &BASE64.encode(format!("{user}:{password}"))].concat();
        let hash: [u8; 32] = Sha256::digest(&basic).into();
        let [first, second, ..] = hash;
        let mut authorization = HeaderValue::try_from(basic).map_err(|_| InvalidAccount)?;
        authorization.set_sensitive(true);
        Ok(Account {
            name,
            registry,
            authorization,
            check: u16::from_be_bytes([first, second]),
        })
    }

    /// Returns the name for the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn registry(&self) -> &RegistryAddress {
        &self.registry
    }

    /// Returns the value of an `Authorization` header, with the Basic scheme.
    pub fn authorization(&self) -> HeaderValue {
        self.authorization.clone()
    }

    /// Returns the part of cache keys that tells what this account got from what others did:
    /// another password is another account.
    pub fn cache_key(&self) -> String {
        format!("account {} {:04x}", self.name, self.check)
    }

    /// Whether the account is one at this registry. An entry without a port is for the scheme's
    /// own.
    fn is_at(&self, origin: &Origin) -> bool {
        self.registry.authority().on(origin.scheme) == *origin
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", self.name)
    }
}

impl Accounts {
    /// Parses a comma-separated list.
    pub fn parse(text: &str) -> Result<Accounts, InvalidAccount> {
        let entries = text.split(',').map(str::trim);
        let mut list: Vec<Account> = Vec::new();
        for entry in entries.filter(|entry| !entry.is_empty()) {
            let account = Account::parse(entry, list.len().saturating_add(1))?;
            if list.iter().any(|other| other.name == account.name) {
                return Err(InvalidAccount);
            }
            list.push(account);
        }
        let serves = Serves::Public;
        Ok(Accounts { list, serves })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Account> {
        self.list.iter()
    }

    /// Returns the accounts at a registry.
    pub fn at<'a>(&'a self, origin: &'a Origin) -> impl Iterator<Item = &'a Account> {
        self.list.iter().filter(|account| account.is_at(origin))
    }

    pub fn has_any_at(&self, origin: &Origin) -> bool {
        self.at(origin).next().is_some()
    }
}

/// Decodes percent-escapes. What can't be in a list of one line has to be escaped: a comma, a
/// blank, `%` itself, whatever is not ASCII; and a colon in a user.
fn unescape(text: &str) -> Result<String, InvalidAccount> {
    let mut pieces = text.split('%');
    let plain = |piece: &str| piece.bytes().all(|byte| byte.is_ascii_graphic());
    let is_hexadecimal = |code: &str| code.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_escape = |piece: &str| piece.get(..2).is_some_and(is_hexadecimal) && plain(piece);
    if !pieces.next().is_some_and(plain) || !pieces.all(is_escape) {
        return Err(InvalidAccount);
    }
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| InvalidAccount)?;
    if decoded.is_empty() || decoded.chars().any(char::is_control) {
        return Err(InvalidAccount);
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::origin::HttpUrl;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    fn header(account: &Account) -> String {
        account.authorization().to_str().unwrap().to_owned()
    }

    #[test]
    fn reads_entries_with_and_without_names_and_escapes() {
        let list = "hub@docker.io=alice:dckr_pat_x, quay.io=org+robot:a=b:c@d,\
                    lan@registry.lan:5000=me%40corp:%25%2C%20%C3%BC,";
        let accounts = Accounts::parse(list).unwrap();
        let names: Vec<_> = accounts.iter().map(Account::name).collect();
        assert_eq!(names, ["hub", "2", "lan"]);
        let headers: Vec<_> = accounts.iter().map(header).collect();
        assert_eq!(
            headers,
            [
                "Basic YWxpY2U6ZGNrcl9wYXRfeA==",
                "Basic b3JnK3JvYm90OmE9YjpjQGQ=",
                "Basic bWVAY29ycDolLCDDvA==",
            ]
        );
    }

    #[test]
    fn refuses_what_is_no_account() {
        for text in [
            "docker.io",
            "docker.io=",
            "docker.io=alice",
            "docker.io=alice:",
            "docker.io=:secret",
            "=alice:secret",
            "@docker.io=alice:secret",
            "a b@docker.io=alice:secret",
            "a@b@docker.io=alice:secret",
            "https://docker.io=alice:secret",
            "docker.io/v2=alice:secret",
            "*.docker.io=alice:secret",
            "*=alice:secret",
            "docker.io=al%3Aice:secret",
            "docker.io=alice:100%",
            "docker.io=alice:%4",
            "docker.io=alice:%zz",
            "docker.io=alice:%+1",
            "docker.io=alice:a b",
            "docker.io=alice:\u{fc}",
            "docker.io=alice:%FF",
            "docker.io=alice:%0D%0AHost:x",
            "one@docker.io=a:b,one@quay.io=c:d",
            "2@docker.io=a:b,quay.io=c:d",
            "docker.io=alice:se,cret",
            &format!("docker.io=alice:{}", "x".repeat(MAX_CREDENTIAL)),
            &format!("{}@docker.io=a:b", "n".repeat(MAX_NAME + 1)),
        ] {
            assert_eq!(
                Accounts::parse(text).map(|_| ()),
                Err(InvalidAccount),
                "{text}"
            );
        }
    }

    #[test]
    fn an_account_is_bound_to_a_host_and_a_port() {
        let list = "docker.io=a:b,registry.example:5000=c:d,plain.lan=e:f";
        let accounts = Accounts::parse(list).unwrap();
        for (url, expected) in [
            ("https://registry-1.docker.io/", &["1"][..]),
            ("https://registry-1.docker.io:8443/", &[]),
            ("https://auth.docker.io/", &[]),
            ("https://docker.io.evil.example/", &[]),
            ("https://registry.example:5000/", &["2"]),
            ("http://registry.example:5000/", &["2"]),
            ("https://registry.example/", &[]),
            ("https://sub.registry.example:5000/", &[]),
            ("http://plain.lan/", &["3"]),
            ("http://plain.lan:443/", &[]),
        ] {
            let origin = HttpUrl::parse(url).unwrap().origin;
            let found: Vec<_> = accounts.at(&origin).map(Account::name).collect();
            assert_eq!(found, expected, "{url}");
        }
    }

    #[test]
    fn an_account_is_never_printed() {
        let accounts = Accounts::parse("hub@docker.io=alice:secret").unwrap();
        let account = accounts.iter().next().unwrap();
        let printed = format!("{accounts:?} {account:?} {:?}", account.authorization());
        assert!(
            printed.contains("Account(hub)") && printed.contains("Sensitive"),
            "{printed}"
        );
        assert!(
            !printed.contains("alice") && !printed.contains("secret"),
            "{printed}"
        );
        assert!(!printed.contains(&header(account)[6..]), "{printed}");
    }

    #[test]
    fn another_password_or_user_is_another_cache_key() {
        let keys = [
            "a@quay.io=u:p",
            "a@quay.io=u:q",
            "a@quay.io=v:p",
            "b@quay.io=u:p",
        ];
        let keys = keys.map(|text| Accounts::parse(text).unwrap().list.remove(0).cache_key());
        for (index, key) in keys.iter().enumerate() {
            assert!(
                !keys.iter().skip(index + 1).any(|other| other == key),
                "{keys:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_list_panics(text in "((([a-z]{0,3}@)?[a-z.:0-9]{0,9}=[!-~]{0,9}:[!-~]{0,9}|\\PC{0,9}),?){0,4}") {
            let _ = Accounts::parse(&text);
        }

        #[test]
        fn every_user_and_password_can_be_written(
            user in "[^:\\p{Cc}]{1,20}",
            password in "\\P{Cc}{1,40}",
        ) {
            let escape = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let text = format!("quay.io={}:{}", escape(&user), escape(&password));
            let accounts = Accounts::parse(&text).unwrap();
            let encoded = BASE64.encode(format!("{user}:{password}"));
            prop_assert_eq!(header(accounts.iter().next().unwrap()), format!("Basic {encoded}"));
        }
    }
}
