//! The vocabulary of the distribution specification: names, references, digests, error codes.

pub mod digest;
pub mod error_code;
pub mod name;
pub mod reference;
