//! What a token server answers, and how long it is good for.

use http::HeaderValue;
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// A larger answer in bytes is refused.
pub const MAX_ANSWER: usize = 1024 * 1024;
/// A longer token in bytes would be refused as a header by the registries themselves.
const MAX_TOKEN: usize = 8 * 1024;
/// An answer without `expires_in` is good for this long (distribution's token specification).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// However long a token server promises, a token is fetched anew after this long.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// A token is fetched anew this long before its end, or for the last tenth of its life if that is shorter: it has to
/// arrive, and to last for the request that it goes with.
const MARGIN: Duration = Duration::from_secs(30);

/// An anonymous Bearer token, as the `Authorization` header that it is sent in. Printing it shows that there is one.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(HeaderValue);

const SCHEME: &str = "Bearer ";

/// A token and how long it may be used from now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub token: Token,
    /// Until its end.
    pub life: Duration,
    /// Until it had better be fetched anew.
    pub fresh: Duration,
}

/// A token server's answer that holds no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidAnswer;

impl Token {
    /// The value of an `Authorization` header.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl TryFrom<String> for Token {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Token, Self::Error> {
        let well_formed = !text.is_empty()
            && text.len() <= MAX_TOKEN
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        let value = well_formed
            .then(|| HeaderValue::try_from(format!("{SCHEME}{text}")).ok())
            .flatten();
        let mut value = value.ok_or("not a token")?;
        value.set_sensitive(true);
        Ok(Token(value))
    }
}

impl From<Token> for String {
    fn from(token: Token) -> String {
        token
            .0
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix(SCHEME))
            .unwrap_or_default()
            .to_owned()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Granted {
    pub fn parse(body: &[u8]) -> Result<Granted, InvalidAnswer> {
        #[derive(Deserialize)]
        struct UpstreamResponse {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<f64>,
        }
        let answer: UpstreamResponse = serde_json::from_slice(body).map_err(|_| InvalidAnswer)?;
        let token = [answer.token, answer.access_token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty());
        let token = Token::try_from(token.ok_or(InvalidAnswer)?).map_err(|_| InvalidAnswer)?;
        // The life is counted from now, not from `issued_at`: clocks differ.
        let promised = match answer.expires_in {
            None => DEFAULT_LIFE,
            Some(seconds) => Duration::try_from_secs_f64(seconds.min(LONGEST_LIFE.as_secs_f64()))
                .unwrap_or_default(),
        };
        let margin = MARGIN.min(promised.checked_div(10).unwrap_or_default());
        Ok(Granted {
            token,
            life: promised,
            fresh: promised.saturating_sub(margin),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_token_servers_answer() {
        for (body, token, fresh) in [
            (r#"{"token":"t"}"#, "t", 54),
            (r#"{"access_token":"a"}"#, "a", 54),
            (
                r#"{"token":"t","access_token":"a","expires_in":300,"issued_at":"2020-01-01T00:00:00Z"}"#,
                "t",
                270,
            ),
            (
                r#"{"token":"","access_token":"a","expires_in":null}"#,
                "a",
                54,
            ),
            (r#"{"token":"t","expires_in":10}"#, "t", 9),
            (r#"{"token":"t","expires_in":3600.5}"#, "t", 3570),
            (r#"{"token":"t","expires_in":0}"#, "t", 0),
            (r#"{"token":"t","expires_in":-5}"#, "t", 0),
            (r#"{"token":"t","expires_in":1e300}"#, "t", 86370),
        ] {
            let granted = Granted::parse(body.as_bytes()).unwrap_or_else(|_| panic!("{body}"));
            assert_eq!(
                (
                    String::from(granted.token).as_str(),
                    granted.fresh.as_secs()
                ),
                (token, fresh),
                "{body}"
            );
        }
    }

    #[test]
    fn refuses_what_holds_no_token() {
        let long = format!(r#"{{"token":"{}"}}"#, "t".repeat(MAX_TOKEN + 1));
        for body in [
            "",
            "null",
            "[]",
            "{}",
            "<html>",
            r#"{"token":null}"#,
            r#"{"token":""}"#,
            r#"{"token":1}"#,
            r#"{"token":"a b"}"#,
            r#"{"token":"a\r\nX: y"}"#,
            r#"{"token":"é"}"#,
            r#"{"token":"t","expires_in":"soon"}"#,
            r#"{"token":"t""#,
            &long,
        ] {
            assert_eq!(
                Granted::parse(body.as_bytes()),
                Err(InvalidAnswer),
                "{body}"
            );
        }
    }

    #[test]
    fn a_token_is_never_printed() {
        let token = Token::try_from("secret".to_owned()).unwrap();
        assert_eq!(
            format!("{token:?} {:?}", token.header()),
            "Token(…) Sensitive"
        );
    }

    proptest! {
        #[test]
        fn no_answer_panics_and_every_token_is_a_header(
            body in "(\\{\"(token|access_token)\":\"\\PC{0,9}\"(,\"expires_in\":-?[0-9]{1,9}(e[0-9]{1,3})?)?\\}|\\PC{0,40})"
        ) {
            if let Ok(granted) = Granted::parse(body.as_bytes()) {
                prop_assert!(granted.token.header().is_sensitive());
                prop_assert!(granted.fresh <= granted.life && granted.life <= LONGEST_LIFE);
            }
        }
    }
}
