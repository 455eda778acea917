//! What goes into a connection and what comes out of it. All are plain values: no socket, no clock, no backplane.

use std::fmt;

use bytes::Bytes;
use protocol::client::{Body, Codec, From};
use protocol::{
    Address, CloseCode, Cursor, DeviceId, Entry, ErrorCode, Live, MessageId, Millis, Text, UnixMillis, UserId,
};

use delivery::{Attached, Placed, Reason, Standing};

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
    /// The answer to [`Request::Attach`] or [`Request::Read`]; `None`: there is no record (any more).
    Attached {
        of: Address,
        result: Result<Option<Attached>, Unavailable>,
    },
    Verified {
        of: Address,
        result: Result<Standing, Unavailable>,
    },
    Appended {
        id: MessageId,
        to: Address,
        result: Result<Placed, SendFault>,
    },
    History {
        id: MessageId,
        result: Result<Listing, HistoryFault>,
    },
    /// From the channel of this node.
    Live {
        record: Text,
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

/// The backplane cannot be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// Newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<Entry>,
    pub more: bool,
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

/// What the shell has to do.
#[derive(Debug)]
pub enum Output {
    Request(Request),
    /// Write what is still to be transmitted, then close with this code and end. `None`: the socket is gone already.
    Close(Option<CloseCode>),
}

/// Something to be asked of the node; its answer comes back as an [`Input`].
#[derive(Debug)]
pub enum Request {
    Authenticate(Credential),
    /// Register this connection at the address and read from the newest cursor that holds.
    Attach(Attach),
    /// Read from the newest cursor that holds.
    Read {
        of: Address,
        after: Vec<Cursor>,
    },
    /// Is this cursor the end? Restores a registration that was lost.
    Verify {
        of: Address,
        cursor: Cursor,
        device: Option<DeviceId>,
    },
    /// Store a message and hand it to whoever is there.
    Append {
        message: Message,
        retry_age_ms: Option<u64>,
        /// How long it may have been on its way to this node, if that is more than a moment: its own retry may be there.
        late_ms: Option<u64>,
        /// Its answer waits until a replica has it.
        replicated: bool,
    },
    /// Hand a message to whoever is there; it is kept nowhere.
    Publish(Message),
    History {
        id: MessageId,
        of: Address,
        before: Option<Cursor>,
        limit: u64,
    },
    /// Fire and forget: the device has everything up to the cursor.
    Ack {
        of: Address,
        device: DeviceId,
        cursor: Cursor,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    pub of: Address,
    /// Whose stored cursor counts if none is given; `None`: none is kept.
    pub device: Option<DeviceId>,
    /// Newest first; `None` stands for one that cannot be read.
    pub cursors: Vec<Option<Cursor>>,
    /// Where to start without any cursor.
    pub from: From,
}

/// A message on its way in.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: MessageId,
    pub to: Address,
    pub from: Address,
    pub body: Body,
    pub expires_ms: Option<u64>,
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

/// What happened since the shell last took it: for metrics and the line that is logged at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub frames_in: u64,
    pub sends_durable: u64,
    pub sends_ephemeral: u64,
    pub delivered_durable: u64,
    pub delivered_ephemeral: u64,
    /// Ephemeral messages that a full queue dropped.
    pub dropped_ephemeral: u64,
    /// Messages past their `expires_ms`.
    pub expired: u64,
    /// By [`PullCause`].
    pub pulls: [u64; PullCause::ALL.len()],
    /// By [`delivery::Reason`].
    pub resets: [u64; Reason::ALL.len()],
    pub rate_limited: u64,
    /// Of the newest live message: microseconds from when it was stored to when it was queued for the socket.
    pub delay_us: Option<u64>,
}

impl Counts {
    pub fn add(&mut self, more: &Self) {
        self.frames_in += more.frames_in;
        self.sends_durable += more.sends_durable;
        self.sends_ephemeral += more.sends_ephemeral;
        self.delivered_durable += more.delivered_durable;
        self.delivered_ephemeral += more.delivered_ephemeral;
        self.dropped_ephemeral += more.dropped_ephemeral;
        self.expired += more.expired;
        self.rate_limited += more.rate_limited;
        self.pulls.iter_mut().zip(more.pulls).for_each(|(sum, n)| *sum += n);
        self.resets.iter_mut().zip(more.resets).for_each(|(sum, n)| *sum += n);
    }
}

/// Why an inbox was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullCause {
    /// A live message did not follow the cursor.
    Gap,
    /// There was more than one page, or more came while it was read.
    More,
    /// Something was dropped on the way.
    Dirty,
    /// A new generation.
    Generation,
    /// The position check found the cursor behind.
    Check,
    /// The client takes messages again.
    Resume,
    /// A pull that had failed.
    Retry,
}

impl PullCause {
    pub const ALL: [Self; 7] =
        [Self::Gap, Self::More, Self::Dirty, Self::Generation, Self::Check, Self::Resume, Self::Retry];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::More => "more",
            Self::Dirty => "dirty",
            Self::Generation => "generation",
            Self::Check => "check",
            Self::Resume => "resume",
            Self::Retry => "retry",
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
