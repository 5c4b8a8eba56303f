//! Tokens, and the responses of token servers.

use http::HeaderValue;
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// Bytes. A larger response of a token server is refused.
pub const MAX_RESPONSE: usize = 1024 * 1024;
/// Bytes. Registries refuse a longer header.
const MAX_TOKEN: usize = 8 * 1024;
/// How long a token is valid if the response has no `expires_in` (distribution's token
/// specification).
const DEFAULT_TTL: Duration = Duration::from_secs(60);
/// A token is replaced after this time, even if the token server says that it is valid longer.
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// A token is replaced this long before its end, or in the last tenth of its validity if that is
/// shorter: it has to arrive, and to be valid for the request that it goes with.
const MARGIN: Duration = Duration::from_secs(30);

/// An anonymous Bearer token, as the `Authorization` header that it is sent in. `Debug` does not
/// print it.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(HeaderValue);

const SCHEME: &str = "Bearer ";

/// A token server's response: a token, and how long it may be used from now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenResponse {
    pub token: Token,
    /// Until its end.
    pub valid_for: Duration,
    /// Until it should be replaced.
    pub fresh_for: Duration,
}

/// A token server's response without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTokenResponse;

impl Token {
    /// Returns the value of an `Authorization` header.
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

impl TokenResponse {
    pub fn parse(body: &[u8]) -> Result<TokenResponse, InvalidTokenResponse> {
        #[derive(Deserialize)]
        struct Body {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<f64>,
        }
        let body: Body = serde_json::from_slice(body).map_err(|_| InvalidTokenResponse)?;
        let token = [body.token, body.access_token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty());
        let token = Token::try_from(token.ok_or(InvalidTokenResponse)?)
            .map_err(|_| InvalidTokenResponse)?;
        // Counted from now, not from `issued_at`: clocks differ.
        let promised = match body.expires_in {
            None => DEFAULT_TTL,
            Some(seconds) => {
                Duration::try_from_secs_f64(seconds.min(MAX_TTL.as_secs_f64())).unwrap_or_default()
            }
        };
        let margin = MARGIN.min(promised.checked_div(10).unwrap_or_default());
        Ok(TokenResponse {
            token,
            valid_for: promised,
            fresh_for: promised.saturating_sub(margin),
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
            let response =
                TokenResponse::parse(body.as_bytes()).unwrap_or_else(|_| panic!("{body}"));
            assert_eq!(
                (
                    String::from(response.token).as_str(),
                    response.fresh_for.as_secs()
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
                TokenResponse::parse(body.as_bytes()),
                Err(InvalidTokenResponse),
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
            if let Ok(response) = TokenResponse::parse(body.as_bytes()) {
                prop_assert!(response.token.header().is_sensitive());
                prop_assert!(response.fresh_for <= response.valid_for && response.valid_for <= MAX_TTL);
            }
        }
    }
}
