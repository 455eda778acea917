//! The rules of one connection, sans-IO: what a client may say when, and what it gets.
//!
//! A shell owns a [`Connection`] and its socket: it hands in every [`Input`] with the time, drains [`Output`]s, writes what
//! [`Connection::poll_transmit`] gives while the socket takes it, and comes back at [`Connection::deadline`]. Nothing here
//! waits, asks a clock, or knows that Redis exists.

mod answers;
mod asking;
mod connection;
mod counts;
mod due;
mod following;
mod groups;
mod heartbeat;
mod inbox;
mod io;
mod opening;
mod outbox;
mod output;
mod pages;
mod pulls;
mod questions;
mod rate;
mod requests;
mod rights;
mod session;
mod shared;
mod stream;
mod watching;

pub use asking::{Answer, InCommon, Member, People, Person, Question, Receipts, Whom};
pub use connection::{Connection, Transmit};
pub use counts::{Counts, PullCause};
pub use io::*;
pub use output::{Attach, Enter, Message, Output, Request, Seat};
pub use rights::{Pattern, Right, Rights};
pub use shared::{Shared, What};
