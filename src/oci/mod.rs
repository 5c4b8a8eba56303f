//! The vocabulary of the distribution specification: names, references, digests, media types,
//! error codes.

pub mod digest;
pub mod error_code;
pub mod media_type;
pub mod name;
pub mod reference;
