//! What happened in a run: one line of JSON an event, on one monotonic clock. Who drives writes it, who judges reads it,
//! and neither knows the other.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A message, by sender and count: what its `id` and body say, so that nothing else has to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct MessageNo {
    pub(crate) sender: u32,
    pub(crate) count: u32,
}

/// Whom a message is for, and so the stream that it comes on. In a history a user is his number, the others their address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Spelled", into = "Spelled")]
pub(crate) enum To {
    User(u32),
    Group(u32),
    All,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Spelled {
    User(u32),
    Address(String),
}

impl From<To> for Spelled {
    fn from(to: To) -> Self {
        if let To::User(user) = to { Self::User(user) } else { Self::Address(to.to_string()) }
    }
}

impl From<Spelled> for To {
    fn from(spelled: Spelled) -> Self {
        match spelled {
            Spelled::User(user) => Self::User(user),
            Spelled::Address(address) => Self::of_address(&address),
        }
    }
}

impl To {
    /// Somebody of whom a run knows nothing.
    pub(crate) const NOBODY: Self = Self::User(u32::MAX);

    /// Reads what [`fmt::Display`] writes.
    pub(crate) fn of_address(address: &str) -> Self {
        let number = |kind: &str| address.strip_prefix(kind).and_then(|number| number.parse().ok());
        match (number("user:r"), number("group:f")) {
            (Some(user), _) => Self::User(user),
            (_, Some(group)) => Self::Group(group),
            _ if address == "all" => Self::All,
            _ => Self::NOBODY,
        }
    }

    pub(crate) fn group(self) -> Option<u32> {
        if let Self::Group(group) = self { Some(group) } else { None }
    }
}

/// The address, as clients write it.
impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user:r{user}"),
            Self::Group(group) => write!(f, "group:f{group}"),
            Self::All => f.write_str("all"),
        }
    }
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
        recipient: To,
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
    /// A further stream began in a session, `start` and `lost` as above. `is_named`: the opening named a place of it, so that
    /// it goes on there whether its user is a member or not.
    Stream {
        session: u32,
        of: To,
        start: String,
        lost: Option<u64>,
        is_named: bool,
    },
    /// It ended before its session did: the membership was over.
    StreamEnded {
        session: u32,
        of: To,
    },
    /// The node told a reset later, in the life of the connection. Without `of` that of the own inbox.
    Reset {
        session: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<To>,
        reason: String,
        lost: Option<u64>,
    },
    /// `to` is whom the frame says the message is for.
    Delivered {
        session: u32,
        message: MessageNo,
        to: To,
        again: bool,
    },
    /// One step of a user's way into a group, or out of it. `is_guest`: for the life of a connection.
    Membership {
        user: u32,
        group: u32,
        step: Step,
        is_guest: bool,
    },
    /// A connection of a watcher begins to watch all visitors.
    Watches {
        watcher: u32,
        session: u32,
    },
    /// What a watcher was told of a visitor: as the answer to his request, or later as a change.
    Told {
        watcher: u32,
        session: u32,
        visitor: u32,
        online: bool,
        version: u64,
        is_answer: bool,
    },
    /// A visitor has come, or his last connection is gone. He may be seen otherwise for a while.
    Here {
        visitor: u32,
        online: bool,
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
    /// Without `of` that of the own inbox.
    CaughtUp {
        session: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<To>,
        ms: Option<u64>,
    },
    /// Bytes queued for one connection, the most that a node has ever said, and what its cap is.
    Queue {
        node: String,
        bytes: u64,
        cap: u64,
    },
    /// What an inbox of Redis keeps at the end, oldest first, and how many entries were trimmed before it. Of a group also the
    /// number of the membership change before each entry.
    Log {
        recipient: To,
        trimmed: u64,
        messages: Vec<MessageNo>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mseqs: Vec<u64>,
    },
    /// Whom a group's record names at the end, and the changes that led there, oldest first.
    Members {
        group: u32,
        members: Vec<u32>,
        changes: Vec<Change>,
    },
}

/// How far a join or leave has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    AsksToJoin,
    Joined,
    AsksToLeave,
    Left,
    /// Answered with an error that says that nothing was done.
    Refused,
    /// It may have been done, or be done yet.
    Unknown,
}

/// A change of a group's members, as the group's record keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) mseq: u64,
    pub(crate) joined: bool,
    pub(crate) user: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_written_as_his_number_and_a_group_by_its_address() {
        for (to, written) in [(To::User(7), "7"), (To::Group(3), "\"group:f3\""), (To::All, "\"all\"")] {
            assert_eq!(serde_json::to_string(&to).unwrap(), written);
            assert_eq!(serde_json::from_str::<To>(written).unwrap(), to);
            assert_eq!(To::of_address(&to.to_string()), to);
        }
        assert_eq!(To::of_address("group:x"), To::NOBODY);
    }
}
