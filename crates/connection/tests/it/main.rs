//! Told histories of one connection: what the client says, what the shell answers, what the client gets.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod groups;
mod harness;
mod once;
mod people;
mod refused;
mod removed;
mod scenarios;
mod sharing;
