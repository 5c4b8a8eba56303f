//! The line that the component logs for each request: the one place that knows its format.

use std::collections::BTreeMap;

/// The beginning of a line: its first two fields. A host may put its own prefix before it.
pub const START: &str = "app=hammal method=";

/// Names of fields in the log. A line without one of the optional ones has `None` for it.
mod key {
    pub const METHOD: &str = "method";
    pub const ENDPOINT: &str = "endpoint";
    pub const REPOSITORY: &str = "repository";
    pub const REFERENCE: &str = "reference";
    pub const CLIENT: &str = "client";
    pub const UPSTREAM: &str = "upstream";
    pub const ACCOUNT: &str = "account";
    pub const STATUS: &str = "status";
    pub const UPSTREAM_REQUESTS: &str = "upstream_requests";
    pub const TOKEN_REQUESTS: &str = "token_requests";
    pub const TOKEN_SOURCE: &str = "token_source";
    pub const CACHE: &str = "cache";
    pub const DURATION_MS: &str = "duration_ms";
    pub const REQUEST_ID: &str = "request_id";
    pub const CODE: &str = "code";
    pub const ERROR: &str = "error";
    pub const CAUSE: &str = "cause";
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    pub method: String,
    pub endpoint: String,
    pub repository: Option<String>,
    pub reference: Option<String>,
    pub client: Option<String>,
    pub upstream: Option<String>,
    pub account: Option<String>,
    pub status: u16,
    pub upstream_requests: usize,
    pub token_requests: usize,
    pub token_source: String,
    pub cache: String,
    pub duration_ms: u64,
    /// `None` where the host refused the request itself.
    pub request_id: Option<String>,
    pub code: Option<String>,
    pub error: Option<String>,
    pub cause: Option<String>,
}

impl LogLine {
    /// Returns the log line in a line of the host's stderr, if it is one.
    ///
    /// Panics where the line is malformed, lacks a field, or has a field twice or one that is
    /// unknown.
    pub fn find(stderr: &str) -> Option<Self> {
        let text = &stderr[stderr.find(START)?..];
        let mut fields = fields(text);
        let mut optional = |key| fields.remove(key);
        let (repository, reference, upstream) = (
            optional(key::REPOSITORY),
            optional(key::REFERENCE),
            optional(key::UPSTREAM),
        );
        let account = optional(key::ACCOUNT);
        let (code, error) = (optional(key::CODE), optional(key::ERROR));
        let client = optional(key::CLIENT);
        let request_id = optional(key::REQUEST_ID);
        let cause = optional(key::CAUSE);
        let mut required =
            |key| optional(key).unwrap_or_else(|| panic!("no field {key} in the log line: {text}"));
        let line = Self {
            method: required(key::METHOD),
            endpoint: required(key::ENDPOINT),
            repository,
            reference,
            client,
            upstream,
            account,
            status: number(&required(key::STATUS)),
            upstream_requests: number(&required(key::UPSTREAM_REQUESTS)),
            token_requests: number(&required(key::TOKEN_REQUESTS)),
            token_source: required(key::TOKEN_SOURCE),
            cache: required(key::CACHE),
            duration_ms: number(&required(key::DURATION_MS)),
            request_id,
            code,
            error,
            cause,
        };
        assert!(
            fields.is_empty(),
            "unknown fields {fields:?} in the log line: {text}"
        );
        Some(line)
    }
}

/// The `key=value` pairs of a line in logfmt. A value with spaces is quoted.
fn fields(line: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    // The first word is the name of the program.
    let mut rest = line.split_once(' ').map_or("", |(_, rest)| rest).trim_end();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .unwrap_or_else(|| panic!("not a pair: {rest:?} in the log line: {line}"));
        let (value, after) = value(after)
            .unwrap_or_else(|| panic!("not a value: {after:?} in the log line: {line}"));
        let previous = fields.insert(key.to_owned(), value);
        assert_eq!(previous, None, "{key} twice in the log line: {line}");
        rest = after;
    }
    fields
}

/// Splits a value from the rest of the line.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_once(' ').unwrap_or((text, ""));
        return (!value.is_empty() && !value.contains(['=', '"']))
            .then(|| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.push(characters.next()?.1),
            '"' => {
                let rest = &quoted[at + 1..];
                return (rest.is_empty() || rest.starts_with(' '))
                    .then(|| (value, rest.trim_start()));
            }
            _ => value.push(character),
        }
    }
    None
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse()
        .unwrap_or_else(|error| panic!("{text:?} in the log is not a number: {error:?}"))
}

#[test]
fn the_fields_of_a_log_line_are_read_by_their_keys() {
    let pairs = [
        (key::STATUS, "502"),
        (key::CODE, "UNAVAILABLE"),
        (key::ERROR, r#""it said \"no\", status=200""#),
        (key::CAUSE, "\"it is gone\""),
        (key::ENDPOINT, "manifest"),
        (key::UPSTREAM_REQUESTS, "2"),
        (key::TOKEN_REQUESTS, "1"),
        (key::TOKEN_SOURCE, "fetched"),
        (key::CACHE, "miss"),
        (key::DURATION_MS, "7"),
        (key::REQUEST_ID, "a1"),
        (key::REPOSITORY, "team/app"),
        (key::ACCOUNT, "hub"),
        (key::CLIENT, "ci"),
    ];
    let pairs = pairs.map(|(key, value)| format!("{key}={value}"));
    let line = format!("[host] {START}GET {}", pairs.join(" "));
    let expected = LogLine {
        method: "GET".into(),
        endpoint: "manifest".into(),
        repository: Some("team/app".into()),
        reference: None,
        client: Some("ci".into()),
        upstream: None,
        account: Some("hub".into()),
        status: 502,
        upstream_requests: 2,
        token_requests: 1,
        token_source: "fetched".into(),
        cache: "miss".into(),
        duration_ms: 7,
        request_id: Some("a1".into()),
        code: Some("UNAVAILABLE".into()),
        error: Some(r#"it said "no", status=200"#.into()),
        cause: Some("it is gone".into()),
    };
    assert_eq!(LogLine::find(&line), Some(expected));
    assert_eq!(LogLine::find("starting"), None);
}

#[test]
#[should_panic(expected = "status twice")]
fn a_log_line_with_a_field_twice_is_malformed() {
    LogLine::find(&format!(
        "{START}GET {}=200 {}=200",
        key::STATUS,
        key::STATUS
    ));
}
