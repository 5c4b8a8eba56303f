//! What is wrong with a blob store, in words for the log.

use crate::platform::TransportError;
use crate::platform::log_line::LogLine;
use crate::platform::pipe::End;
use http::StatusCode;

/// Bytes of an error document that are looked at.
pub const MAX_DOCUMENT: usize = 4096;

/// Why a blob store did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Transport(TransportError),
    /// A status, and what the store says besides: a code, and the region of the bucket, where they
    /// are words.
    Status {
        status: StatusCode,
        code: Option<String>,
        region: Option<String>,
    },
    /// An answer that is no object store's.
    Nonsense,
    /// The upstream did not send what is to be kept.
    Source,
    /// The upload of what a client is sent was given up, for this reason.
    Tee(End),
}

impl Fault {
    /// Whether an upload may have failed for its body: it is not the one that its hash says, or
    /// broke off. That says nothing of the store.
    pub fn is_of_content(&self) -> bool {
        let code = match self {
            Fault::Transport(_) | Fault::Source | Fault::Tee(_) => return true,
            Fault::Status {
                status: StatusCode::BAD_REQUEST,
                code: Some(code),
                ..
            } => code,
            _ => return false,
        };
        ["SHA256Mismatch", "BadDigest", "InvalidDigest", "Incomplete"]
            .iter()
            .any(|word| code.contains(word))
    }

    /// Returns what the operator can do about it.
    fn hint(&self) -> Option<&'static str> {
        let (status, code) = match self {
            Fault::Status { status, code, .. } => (status.as_u16(), code.as_deref()),
            Fault::Transport(error) => return Some(error.reason()),
            Fault::Source => return Some("the upstream did not send it"),
            Fault::Nonsense => return Some("the answer is no object store's: see blob_store"),
            Fault::Tee(End::Full) => return Some("the store is slower than the client"),
            Fault::Tee(End::Slow) => return Some("the client is too slow, or the upstream"),
            Fault::Tee(End::Refused) => return Some("too much is copied now"),
            Fault::Tee(_) => return Some("the client went away, or the upstream broke off"),
        };
        Some(match (status, code.unwrap_or_default()) {
            (_, "RequestTimeTooSkewed") => "the clocks of this host and of the store differ",
            (_, "SignatureDoesNotMatch") => {
                "blob_store_secret_key is wrong, or a proxy before the store changes requests"
            }
            (_, "InvalidAccessKeyId") => "the store does not know blob_store_access_key",
            (_, "NoSuchBucket") => "there is no such bucket",
            (301 | 307, _) | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
                "the bucket is in another region, or has another URL: see blob_store_region"
            }
            (_, "SlowDown") | (503, _) => "the store asks for fewer requests",
            (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull") => "the store is full",
            (403, _) => "the key has to read, write and list the bucket",
            _ => return None,
        })
    }
}

impl Fault {
    /// Adds what happened to a line of the log.
    pub fn add_to(&self, line: &mut LogLine) {
        if let Fault::Status {
            status,
            code,
            region,
        } = self
        {
            line.number("status", status.as_u16().into());
            if let Some(code) = code {
                line.word("code", code);
            }
            if let Some(region) = region {
                line.word("region", region);
            }
        } else {
            line.word("status", "none");
        }
        if let Some(hint) = self.hint() {
            line.text("hint", hint);
        }
    }
}

/// Returns the code of an error document ("Error responses" in the Amazon S3 API reference), if it
/// is one word.
pub fn code_of(document: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(document).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    word(rest.split_once("</Code>")?.0)
}

/// Returns text that may stand in the log.
pub fn word(text: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let well_formed = (1..=64).contains(&text.len()) && text.bytes().all(is_plain);
    well_formed.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::log_line::LogFormat;
    use proptest::prelude::*;

    fn fault(status: u16, code: &str) -> Fault {
        Fault::Status {
            status: StatusCode::from_u16(status).unwrap(),
            code: word(code),
            region: None,
        }
    }

    #[test]
    fn known_faults_are_told_by_name() {
        for (fault, line) in [
            (
                fault(403, "RequestTimeTooSkewed"),
                "status=403 code=RequestTimeTooSkewed hint=\"the clocks of this host and of the store differ\"",
            ),
            (
                fault(503, "SlowDown"),
                "status=503 code=SlowDown hint=\"the store asks for fewer requests\"",
            ),
            (
                Fault::Status {
                    status: StatusCode::MOVED_PERMANENTLY,
                    code: None,
                    region: word("eu-west-1"),
                },
                "status=301 region=eu-west-1 hint=\"the bucket is in another region, or has another URL: see blob_store_region\"",
            ),
            (
                Fault::Transport(TransportError::TimedOut),
                "status=none hint=\"it did not answer in time\"",
            ),
            (fault(500, ""), "status=500"),
        ] {
            let mut written = LogLine::new(LogFormat::Logfmt);
            fault.add_to(&mut written);
            assert_eq!(written.finish(), format!("app=hammal {line}"));
        }
    }

    #[test]
    fn a_body_that_is_refused_says_nothing_of_the_store() {
        assert!(Fault::Transport(TransportError::Broken).is_of_content());
        for (status, code, is_of_content) in [
            (400, "XAmzContentSHA256Mismatch", true),
            (400, "BadDigest", true),
            (400, "IncompleteBody", true),
            (400, "InvalidRequest", false),
            (403, "BadDigest", false),
            (400, "", false),
        ] {
            assert_eq!(fault(status, code).is_of_content(), is_of_content, "{code}");
        }
    }

    proptest! {
        #[test]
        fn the_code_of_a_document_is_one_word(document in "\\PC{0,9}(<Code>)?[ -~]{0,70}(</Code>)?\\PC{0,9}") {
            if let Some(code) = code_of(document.as_bytes()) {
                prop_assert!(code.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'='));
            }
        }
    }
}
