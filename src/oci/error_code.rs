//! Error codes of the distribution specification ("Error Codes"), and the documents that hold them.

use serde::Deserialize;

/// A code of the specification, or one of the reference implementation where the specification has
/// none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    BlobUnknown,
    Denied,
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    PaginationNumberInvalid,
    RangeInvalid,
    TagInvalid,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unknown,
    Unsupported,
}

/// All codes.
pub const CODES: [ErrorCode; 15] = [
    ErrorCode::BlobUnknown,
    ErrorCode::Denied,
    ErrorCode::DigestInvalid,
    ErrorCode::ManifestInvalid,
    ErrorCode::ManifestUnknown,
    ErrorCode::NameInvalid,
    ErrorCode::NameUnknown,
    ErrorCode::PaginationNumberInvalid,
    ErrorCode::RangeInvalid,
    ErrorCode::TagInvalid,
    ErrorCode::TooManyRequests,
    ErrorCode::Unauthorized,
    ErrorCode::Unavailable,
    ErrorCode::Unknown,
    ErrorCode::Unsupported,
];

impl ErrorCode {
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BlobUnknown => "BLOB_UNKNOWN",
            ErrorCode::Denied => "DENIED",
            ErrorCode::DigestInvalid => "DIGEST_INVALID",
            ErrorCode::ManifestInvalid => "MANIFEST_INVALID",
            ErrorCode::ManifestUnknown => "MANIFEST_UNKNOWN",
            ErrorCode::NameInvalid => "NAME_INVALID",
            ErrorCode::NameUnknown => "NAME_UNKNOWN",
            ErrorCode::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            ErrorCode::RangeInvalid => "RANGE_INVALID",
            ErrorCode::TagInvalid => "TAG_INVALID",
            ErrorCode::TooManyRequests => "TOOMANYREQUESTS",
            ErrorCode::Unauthorized => "UNAUTHORIZED",
            ErrorCode::Unavailable => "UNAVAILABLE",
            ErrorCode::Unknown => "UNKNOWN",
            ErrorCode::Unsupported => "UNSUPPORTED",
        }
    }

    /// Reads the first code of an error document; [`ErrorCode::Unknown`] for a code that is not
    /// known here. Returns `None` where the text is no error document. Nothing else of it is kept:
    /// a registry's words are not repeated.
    pub fn from_document(text: &[u8]) -> Option<ErrorCode> {
        #[derive(Deserialize)]
        struct Document {
            errors: Vec<Error>,
        }
        #[derive(Deserialize)]
        struct Error {
            code: String,
        }
        let document: Document = serde_json::from_slice(text).ok()?;
        let code = &document.errors.first()?.code;
        let known = CODES.into_iter().find(|known| known.as_str() == code);
        Some(known.unwrap_or(ErrorCode::Unknown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_code_of_an_error_document_and_of_nothing_else() {
        for (text, code) in [
            (
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"m","detail":{"name":"a"}}]}"#,
                Some(ErrorCode::NameUnknown),
            ),
            (
                r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID"},{"code":"UNKNOWN"}]}"#,
                Some(ErrorCode::PaginationNumberInvalid),
            ),
            (
                r#"{"errors":[{"code":"NOT_FOUND"}]}"#,
                Some(ErrorCode::Unknown),
            ),
            (r#"{"errors":[{"code":404}]}"#, None),
            (r#"{"errors":[]}"#, None),
            (r#"{"errors":null}"#, None),
            (r#"{"error":"NAME_UNKNOWN"}"#, None),
            ("NAME_UNKNOWN", None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(ErrorCode::from_document(text.as_bytes()), code, "{text}");
        }
        for code in CODES {
            let text = format!(r#"{{"errors":[{{"code":"{}"}}]}}"#, code.as_str());
            assert_eq!(ErrorCode::from_document(text.as_bytes()), Some(code));
        }
    }

    proptest! {
        #[test]
        fn no_document_panics(text in "(\\{\"errors\":\\[(\\{\"code\":\"?[A-Z_]{0,9}\"?\\},?){0,3}\\]\\}|\\PC{0,40})") {
            ErrorCode::from_document(text.as_bytes());
        }
    }
}
