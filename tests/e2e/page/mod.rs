//! The page for people, and what the command line has of it.

mod browser;
mod command_line;
mod mirrors;
mod speed;
