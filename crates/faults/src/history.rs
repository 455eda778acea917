//! What happened in a run: one line of JSON an event, on one monotonic clock. Who drives writes it, who judges reads it,
//! and neither knows the other.

use serde::{Deserialize, Serialize};

/// A message, by sender and count: what its `id` and body say, so that nothing else has to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct MessageNo {
    pub(crate) sender: u32,
    pub(crate) count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    Stored,
    Replicated,
}

/// One event, at microseconds since the run began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) at_us: u64,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// A `session` is one connection of a receiver; a `recipient` is a user, whose connections come one after the other or
/// beside each other. Recipients are numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum What {
    /// A sender asks, for the first time.
    Invoke {
        message: MessageNo,
        recipient: u32,
        level: Level,
    },
    /// `sent` at the level that was asked for. One that was only `stored` first and `replicated` by a later try is acked
    /// twice, once a level.
    Acked {
        message: MessageNo,
        level: Level,
    },
    /// Answered with an error that says that nothing was stored, and never tried again.
    Refused {
        message: MessageNo,
    },
    /// Given up, and it is not known whether it was stored.
    GivenUp {
        message: MessageNo,
    },
    /// A receiver's connection was welcomed; `device` is kept over its reconnects. With `start` one of `new`, `resumed`,
    /// or the reason of a `reset`.
    Attached {
        session: u32,
        recipient: u32,
        device: u32,
        start: String,
        lost: Option<u64>,
    },
    /// The node told a reset later, in the life of the connection.
    Reset {
        session: u32,
        reason: String,
        lost: Option<u64>,
    },
    /// `user` is whom the connection belongs to, `to` whom the frame says the message is for.
    Delivered {
        session: u32,
        message: MessageNo,
        to: u32,
        again: bool,
    },
    Detached {
        session: u32,
    },
    /// A fault began, or ended; then `proof` says what shows that it bit, in numbers.
    Fault {
        name: String,
        begins: bool,
        proof: String,
    },
    /// All faults are over; from here on everything has to come to rest.
    Healed,
    /// The longest time that a live receiver has waited since then for its stream's end, in ms; `None`: it never reached it.
    CaughtUp {
        session: u32,
        ms: Option<u64>,
    },
    /// Bytes queued for one connection, the most that a node has ever said, and what its cap is.
    Queue {
        node: String,
        bytes: u64,
        cap: u64,
    },
    /// What an inbox of Redis keeps at the end, oldest first, and how many entries were trimmed before it.
    Log {
        recipient: u32,
        trimmed: u64,
        messages: Vec<MessageNo>,
    },
}
