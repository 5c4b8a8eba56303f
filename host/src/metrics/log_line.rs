//! The fields of the component's log that are counted.

/// A line about one request. Its words are those of the component, or `other`.
#[derive(Debug, PartialEq, Eq)]
pub struct LogLine {
    pub endpoint: &'static str,
    pub status: u16,
    pub cache: &'static str,
    pub token_source: &'static str,
}

const ENDPOINTS: [&str; 15] = [
    "manifest",
    "blob",
    "tags",
    "referrers",
    "catalog",
    "ping",
    "speed",
    "search",
    "page",
    "file",
    "status",
    "speedtest",
    "healthz",
    "readyz",
    "unknown",
];
const CACHE: [&str; 5] = ["hit", "revalidated", "collapsed", "stale", "none"];
const TOKEN_SOURCES: [&str; 4] = ["memory", "store", "fetched", "none"];

impl LogLine {
    /// Reads a line in logfmt or JSON. Returns `None` if it is not about a request.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        if line.starts_with('{') {
            let object: serde_json::Value = serde_json::from_str(line).ok()?;
            return Self::from_fields(|name| match &object[name] {
                serde_json::Value::String(text) => Some(text.clone()),
                serde_json::Value::Number(number) => Some(number.to_string()),
                _ => None,
            });
        }
        // The error, the only value that may hold blanks, is last.
        let fields = line.split(" error=").next()?;
        Self::from_fields(|name| {
            let mut fields = fields.split(' ').filter_map(|field| field.split_once('='));
            Some(fields.find(|(key, _)| *key == name)?.1.to_owned())
        })
    }

    fn from_fields(field: impl Fn(&str) -> Option<String>) -> Option<Self> {
        if field("app")? != "hammal" {
            return None;
        }
        Some(Self {
            endpoint: known(&field("endpoint")?, &ENDPOINTS),
            status: field("status")?.parse().ok()?,
            cache: known(&field("cache")?, &CACHE),
            token_source: known(&field("token_source")?, &TOKEN_SOURCES),
        })
    }
}

fn known(word: &str, words: &[&'static str]) -> &'static str {
    words
        .iter()
        .find(|known| **known == word)
        .copied()
        .unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: LogLine = LogLine {
        endpoint: "manifest",
        status: 502,
        cache: "none",
        token_source: "fetched",
    };

    #[test]
    fn reads_both_formats() {
        let logfmt = "app=hammal method=GET endpoint=manifest repository=library/alpine \
            reference=latest upstream=registry-1.docker.io status=502 upstream_requests=2 \
            token_requests=1 token_source=fetched cache=none duration_ms=412 code=UNAVAILABLE \
            error=\"app=x status=200 endpoint=blob\"";
        assert_eq!(LogLine::parse(logfmt.as_bytes()), Some(EXPECTED));
        let json = r#"{"app":"hammal","endpoint":"manifest","status":502,"token_source":"fetched",
            "cache":"none","error":"status=200"}"#;
        assert_eq!(LogLine::parse(json.as_bytes()), Some(EXPECTED));
    }

    #[test]
    fn knows_every_endpoint_of_the_component() {
        let source = include_str!("../../../src/request/route.rs");
        let (_, body) = source.split_once("pub fn endpoint(&self)").unwrap();
        let (body, _) = body.split_once("\n    }\n").unwrap();
        let words: Vec<&str> = body.split('"').skip(1).step_by(2).collect();
        assert_eq!(words.len() + 1, ENDPOINTS.len(), "{words:?}");
        for word in words {
            assert_eq!(known(word, &ENDPOINTS), word);
        }
    }

    #[test]
    fn an_unknown_word_is_one_label() {
        let line = "app=hammal endpoint=new status=200 cache=warm token_source=none";
        let line = LogLine::parse(line.as_bytes()).unwrap();
        assert_eq!((line.endpoint, line.cache), ("other", "other"));
    }

    #[test]
    fn other_lines_are_not_requests() {
        for line in [
            "",
            "app=hammal store=failed reading=t1-17 error=\"too slow\"",
            "app=other endpoint=manifest status=200 cache=hit token_source=none",
            "thread panicked at src/lib.rs",
            "{\"app\":\"hammal\"}",
            "{",
        ] {
            assert_eq!(LogLine::parse(line.as_bytes()), None, "{line}");
        }
    }
}
