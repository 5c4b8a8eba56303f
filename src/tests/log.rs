//! The line of a request in both formats.

use super::*;
use serde_json::Value;
use std::collections::BTreeMap;

/// What the log says of some requests, the store's lines included.
async fn lines(format: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (settings, answers, path) in [
        (
            &[][..],
            vec![challenge(), token("one"), manifest()],
            MANIFEST,
        ),
        (&[], vec![redirect("https://cdn.example/a")], &blob()),
        (&[], vec![Err(TransportError::Dns)], MANIFEST),
        (&[], vec![], "/v2/a/manifests/%22,%0A=x%22"),
        (&[], vec![], "/v2/a/b/tags/list?upstream=localhost"),
        (&[], vec![], "/"),
        (&[], vec![], "/healthz"),
        (&[("store", "\"quoted\"\n")], vec![], MANIFEST),
        (&[("clients", "alice:0")], vec![], "/healthz"),
    ] {
        let platform = Scripted::new(answers);
        platform.set_variable("log_format", format);
        for (name, value) in settings {
            platform.set_variable(name, value);
        }
        platform.set_store(StoreState::Failing);
        let mut request = get(path);
        let id = "0123456789abcdef".parse().unwrap();
        request.headers_mut().insert("x-request-id", id);
        send(&Mirror::new(platform.clone()), request).await;
        let log = platform.log();
        assert!(!log.is_empty(), "{path}");
        lines.extend(log);
    }
    lines
}

/// Reads a line in logfmt: a value is a word, or quoted as Rust quotes strings.
fn fields(line: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').unwrap();
        let end = match after.strip_prefix('"') {
            None => after.find(' ').unwrap_or(after.len()),
            Some(quoted) => {
                let mut is_escaped = false;
                let end = quoted.find(|char| {
                    let ends = char == '"' && !is_escaped;
                    is_escaped = char == '\\' && !is_escaped;
                    ends
                });
                end.unwrap() + 2
            }
        };
        let (value, after) = after.split_at(end);
        fields.insert(key.to_owned(), value.to_owned());
        rest = after.trim_start();
    }
    fields
}

#[tokio::test]
async fn both_formats_have_the_same_fields() {
    let (logfmt, json) = (lines("logfmt").await, lines("json").await);
    assert_eq!(logfmt.len(), json.len());
    assert!(logfmt.iter().any(|line| line.contains(" store=failed ")));
    assert!(logfmt.iter().any(|line| line.contains(" cause=\"")));
    for (line, json) in logfmt.iter().zip(&json) {
        let object: BTreeMap<String, Value> = serde_json::from_str(json).unwrap();
        let object = object.into_iter().map(|(key, value)| {
            let text = match (&*key, value) {
                ("error" | "cause", Value::String(text)) => format!("{text:?}"),
                (_, Value::String(text)) => text,
                (_, number) => number.as_u64().unwrap().to_string(),
            };
            (key, text)
        });
        assert_eq!(fields(line), object.collect(), "{line}\n{json}");
    }
}
