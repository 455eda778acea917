//! Told histories of one connection: what the client says, what the shell answers, what the client gets.

mod harness;
mod scenarios;
