//! Pulls by real clients, and the request sequence of one by hand.

mod account;
mod debian;
mod pull;
mod recent;
mod recipes;
