//! Names, digests and references of the distribution specification.

pub mod digest;
pub mod name;
pub mod reference;
