//! A line of the log, in logfmt or as a JSON object. Whatever a value holds, it is one line, and
//! its fields can't be mistaken for others.

use crate::platform::Platform;
use serde_json::Value;
use std::fmt::Write as _;

/// The variable that holds the format.
pub const VARIABLE: &str = "log_format";
/// The values of the variable.
pub const FORMATS: [(&str, LogFormat); 2] =
    [("logfmt", LogFormat::Logfmt), ("json", LogFormat::Json)];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Logfmt,
    Json,
}

impl LogFormat {
    /// Reads the format where the other settings are not read, or can't be used.
    pub async fn read(platform: &impl Platform) -> LogFormat {
        let value = platform.variable(VARIABLE).await.ok().flatten();
        let value = value.as_deref().map(str::trim).unwrap_or_default();
        let format = FORMATS.iter().find(|(word, _)| *word == value);
        format.map(|(_, format)| *format).unwrap_or_default()
    }
}

/// A line that is being written.
#[derive(Debug)]
pub struct LogLine {
    format: LogFormat,
    text: String,
}

impl LogLine {
    /// Begins a line of this application.
    pub fn new(format: LogFormat) -> LogLine {
        let start = match format {
            LogFormat::Logfmt => "app=hammal",
            LogFormat::Json => r#"{"app":"hammal""#,
        };
        let text = start.to_owned();
        LogLine { format, text }
    }

    /// Adds a value whose grammar has no character that means something in a log.
    pub fn word(&mut self, key: &str, value: &str) {
        self.key(key);
        match self.format {
            LogFormat::Logfmt => self.text.push_str(value),
            LogFormat::Json => self.quoted(value),
        }
    }

    pub fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        let _ = write!(self.text, "{value}");
    }

    /// Adds a value that may be anything.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        match self.format {
            LogFormat::Logfmt => drop(write!(self.text, "{value:?}")),
            LogFormat::Json => self.quoted(value),
        }
    }

    /// Returns the line, without its line break.
    pub fn finish(mut self) -> String {
        if self.format == LogFormat::Json {
            self.text.push('}');
        }
        self.text
    }

    fn key(&mut self, key: &str) {
        let parts = match self.format {
            LogFormat::Logfmt => [" ", key, "="],
            LogFormat::Json => [",\"", key, "\":"],
        };
        self.text.extend(parts);
    }

    fn quoted(&mut self, value: &str) {
        let _ = write!(self.text, "{}", Value::from(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(format: LogFormat, words: &[String], number: u64, texts: &[String]) -> String {
        let mut line = LogLine::new(format);
        for (at, word) in words.iter().enumerate() {
            line.word(&format!("word{at}"), word);
        }
        line.number("number", number);
        for (at, text) in texts.iter().enumerate() {
            line.text(&format!("text{at}"), text);
        }
        line.finish()
    }

    proptest! {
        /// Control characters, quotes, separators and line ends of Unicode included.
        #[test]
        fn both_formats_are_one_line_of_the_same_fields(
            words in prop::collection::vec("[a-zA-Z0-9._/:@+-]{1,20}", 0..3),
            number: u64,
            texts in prop::collection::vec(any::<String>(), 0..3),
        ) {
            let json = line(LogFormat::Json, &words, number, &texts);
            prop_assert!(!json.contains(['\n', '\r']));
            let mut object: serde_json::Map<String, Value> = serde_json::from_str(&json).unwrap();
            let mut logfmt = String::from("app=hammal");
            prop_assert_eq!(object.remove("app"), Some(Value::from("hammal")));
            for (at, word) in words.iter().enumerate() {
                let key = format!("word{at}");
                logfmt += &format!(" {key}={word}");
                prop_assert_eq!(object.remove(&key), Some(Value::from(word.as_str())));
            }
            logfmt += &format!(" number={number}");
            prop_assert_eq!(object.remove("number"), Some(Value::from(number)));
            for (at, text) in texts.iter().enumerate() {
                let key = format!("text{at}");
                logfmt += &format!(" {key}={text:?}");
                prop_assert_eq!(object.remove(&key), Some(Value::from(text.as_str())));
            }
            prop_assert!(object.is_empty());
            let line = line(LogFormat::Logfmt, &words, number, &texts);
            prop_assert!(!line.contains(['\n', '\r']));
            prop_assert_eq!(line, logfmt);
        }
    }
}
