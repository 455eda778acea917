//! Tests of the gateway over real sockets on port 0.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails as tests do")]

mod api;
mod fake;
mod http;
mod logs;
mod people;
mod upgrade;
