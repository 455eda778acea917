//! The rules of one connection, sans-IO: what a client may say when, and what it gets.
//!
//! A shell owns a [`Connection`] and its socket: it hands in every [`Input`] with the time, drains [`Output`]s, writes what
//! [`Connection::poll_transmit`] gives while the socket takes it, and comes back at [`Connection::deadline`]. Nothing here
//! waits, asks a clock, or knows that Redis exists.

mod connection;
mod heartbeat;
mod io;
mod opening;
mod outbox;
mod pulls;
mod rate;
mod requests;
mod stream;

pub use connection::{Connection, Transmit};
pub use io::*;
