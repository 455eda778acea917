//! What goes into a connection. All are plain values: no socket, no clock, no backplane.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use delivery::{Attached, Placed, Standing};
use protocol::client::Codec;
use protocol::{
    Address, CloseCode, Cursor, DeviceId, Entry, ErrorCode, GroupId, HandOver, Live, MessageId, Millis, Text,
    UnixMillis, UserId,
};

use crate::asking::Answer;
use crate::rights::Rights;
use crate::shared::Shared;

/// What the HTTP request that was upgraded said.
#[derive(Clone, Debug)]
pub struct Opening {
    pub codec: Codec,
    /// From the `Authorization` header, `?token=`, or with `--auth none` `?user=`.
    pub credential: Option<Credential>,
    /// `?auto=1`: with credentials in the request no `hello` is needed.
    pub auto: bool,
    /// `?cursor=`, as it came: resumes the own inbox where no `hello` is sent.
    pub cursor: Option<String>,
}

/// Who somebody says to be. `Debug` prints lengths only.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Token(String),
    /// A bare user ID: development only.
    User(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(token) => write!(f, "Token({} bytes)", token.len()),
            Self::User(user) => write!(f, "User({} bytes)", user.len()),
        }
    }
}

/// Who somebody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: UserId,
    /// The device that the token names, if it does.
    pub device: Option<DeviceId>,
    /// When the credentials end, by the wall clock.
    pub expires: Option<UnixMillis>,
    /// Joined for the life of the connection.
    pub groups: Vec<GroupId>,
    pub rights: Rights,
    /// As JSON: shown to others.
    pub profile: Option<Text>,
}

/// Why somebody is not let in. The texts say what was expected; they never hold the credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    Unauthorized(String),
    Expired,
}

/// What happens to a connection.
#[derive(Debug)]
pub enum Input {
    /// A whole WebSocket message: text or binary.
    Text(Bytes),
    Binary(Bytes),
    /// A ping, a pong: the peer lives.
    Activity,
    /// The bytes break RFC 6455, are no UTF-8, or are too many.
    Broken(CloseCode),
    /// The peer closed, or the socket is gone.
    Gone,
    Authenticated(Result<Identity, Refused>),
    /// The answer to [`crate::Request::Attach`] or [`crate::Request::Read`]; `None`: there is no record (any more).
    Attached {
        of: Address,
        result: Result<Option<Attached>, Unavailable>,
    },
    Verified {
        of: Address,
        result: Result<(Standing, u64), Unavailable>,
    },
    /// The answer to [`crate::Request::Seat`]: from now on the group's messages come as [`Input::Shared`].
    Seated {
        /// The node's own copy of the name: the connection keeps that one.
        of: Address,
        result: Result<Seated, Unavailable>,
    },
    /// The node's own place in a group is known to hold, in a new generation: a member whose place is another one reads.
    HeadAt {
        of: Text,
        cursor: Cursor,
    },
    /// Something of this stream was dropped on the way, or its log forked: read from the own place.
    Doubt {
        of: Text,
    },
    /// He has no seat any more, or gets none: the user was removed by the change with this number, or, where that is no
    /// greater than his join's, he is a member by another join than his seat was for.
    Ended {
        of: Text,
        mseq: u64,
    },
    /// A member, or everybody's stream: see [`Shared`].
    Shared(Arc<Shared>),
    /// The answer to [`crate::Request::Join`].
    Joined {
        id: MessageId,
        group: GroupId,
        result: Result<Joined, SendFault>,
    },
    /// The answer to [`crate::Request::Leave`].
    Left {
        id: MessageId,
        group: GroupId,
        result: Result<(), SendFault>,
    },
    /// The answer to [`crate::Request::Groups`]: the version of the user's set, and the set.
    Groups {
        result: Result<(u64, Vec<GroupId>), Unavailable>,
    },
    /// The answer to [`crate::Request::Ask`].
    Answered {
        id: MessageId,
        result: Result<Answer, SendFault>,
    },
    /// The answer to [`crate::Request::Mark`].
    Marked {
        of: Address,
        with: Option<UserId>,
        cursor: Cursor,
        result: Result<delivery::Marked, Unavailable>,
    },
    /// Somebody who is watched came or went.
    Presence {
        user: UserId,
        version: u64,
        is_online: bool,
        at: UnixMillis,
    },
    /// Another connection took this one's place.
    HandOver(HandOver),
    Appended {
        id: MessageId,
        to: Address,
        result: Result<Placed, SendFault>,
    },
    History {
        id: MessageId,
        result: Result<Listing, HistoryFault>,
    },
    /// From the channel of this node, of the own inbox.
    Live {
        record: Text,
        /// Of the set of the user's groups at that moment.
        version: u64,
        live: Live,
    },
    /// Something for this connection was dropped on the way: read the inbox again.
    Dirty,
    /// A new generation began: register again, and check the cursor.
    Generation,
    /// The user has as many connections here as are allowed.
    TooMany,
    /// The node is being stopped.
    Drain {
        reconnect_ms: u64,
    },
    /// [`crate::Connection::deadline`] has come.
    Timer,
}

/// Where a node stands in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seated {
    /// What comes from now on follows this place.
    pub cursor: Cursor,
    /// The number of the newest membership change that the node knows.
    pub version: u64,
}

/// A membership that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The number of the join; 0 for one that lasts as long as the connection.
    pub mseq: u64,
    pub members: u64,
}

/// The backplane cannot be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// Newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<Entry>,
    pub more: bool,
    /// Where to go on, if there is more.
    pub before: Option<Cursor>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryFault {
    Unavailable,
    /// `before` is no place in this inbox.
    Before,
}

/// Why a message has no place, for the `error` that answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendFault {
    pub code: ErrorCode,
    pub message: String,
    pub retry_ms: Option<u64>,
    pub is_final: bool,
}

/// What a connection is told about its node. Shared by all of them.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node: String,
    /// How long a connection may take to say `hello`.
    pub hello_ms: u64,
    /// How often the server pings; silence of two of these closes.
    pub heartbeat_ms: u64,
    /// Bytes of one frame of a client.
    pub max_bytes: u64,
    /// Frames a second and at once; `None`: unlimited.
    pub rate: Option<Rate>,
    /// Bytes queued for the socket before durable delivery pauses and ephemeral messages are dropped.
    pub queue_bytes: usize,
    /// How long delivery may stay paused before the connection is closed with 4502.
    pub stuck_ms: u64,
    /// Requests in flight, before `overloaded`.
    pub requests_max: usize,
    /// A quiet connection checks its cursor about this often.
    pub position_check_ms: u64,
    /// Acks are held back this long: the last one wins.
    pub ack_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

impl Default for Settings {
    /// The documented defaults of docs/protocol.md and docs/config.md.
    fn default() -> Self {
        Self {
            node: String::new(),
            hello_ms: 8_000,
            heartbeat_ms: 25_000,
            max_bytes: 64 * 1024,
            rate: Some(Rate { per_second: 100, burst: 200 }),
            queue_bytes: 256 * 1024,
            stuck_ms: 30_000,
            requests_max: 256,
            position_check_ms: 30_000,
            ack_ms: 1_000,
        }
    }
}

/// The time, as the shell hands it in with every input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub at: Millis,
    /// The backplane's clock in microseconds: what `at` and `expires_ms` are counted by.
    pub backplane_us: u64,
}

impl Now {
    pub fn wall(self) -> UnixMillis {
        UnixMillis(self.backplane_us / 1_000)
    }
}
