//! Attacks: on a password, to have it sent elsewhere; on what only an account may read.
use super::*;
