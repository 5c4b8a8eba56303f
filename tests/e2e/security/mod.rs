//! What the mirror refuses, limits, and keeps to itself.

mod attacks;
mod limits;
mod log;
mod privacy;
mod ssrf;
