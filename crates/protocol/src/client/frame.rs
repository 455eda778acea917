//! What clients say.

use std::fmt;

use bytes::Bytes;

use super::fields::Fields;
use super::read::FieldReader;
use crate::address::Address;
use crate::cursor::Cursor;
use crate::ids::{ConnectionId, DeviceId, GroupId, MessageId, UserId};
use crate::node::Encoding;

/// One frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    Hello(Hello),
    Send(Send),
    /// The device has everything up to `cursor`.
    Ack {
        of: Address,
        cursor: Cursor,
    },
    /// The user has read everything up to `cursor`; answered where there is an `id`.
    Read {
        id: Option<MessageId>,
        of: Address,
        with: Option<UserId>,
        cursor: Cursor,
    },
    Join(Join),
    Leave {
        id: MessageId,
        group: GroupId,
    },
    History(History),
    /// How many messages a stream has, or one conversation of the own inbox.
    Counts {
        id: MessageId,
        of: Address,
        with: Option<UserId>,
    },
    /// Who has received and read the message with this `ref`.
    Receipts {
        id: MessageId,
        reference: String,
    },
    Presence {
        id: MessageId,
        whom: Named,
    },
    Watch {
        id: MessageId,
        whom: Named,
    },
    Unwatch {
        id: MessageId,
        whom: Named,
    },
    Members {
        id: MessageId,
        group: GroupId,
        /// What the answer before gave to go on with.
        after: Option<String>,
        limit: u64,
    },
    Ping {
        id: Option<MessageId>,
    },
}

/// The first frame.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// Only named where the hello is refused: its answer is `welcome`.
    pub id: Option<MessageId>,
    pub token: Option<String>,
    pub device: Option<DeviceId>,
    /// By stream; newest first. `None` stands for a cursor that cannot be read.
    pub cursors: Vec<StreamCursors>,
    pub from: Option<From>,
    /// The connection that this one replaces.
    pub takes_over: Option<ConnectionId>,
    /// All others of the same device are closed.
    pub exclusive: bool,
    /// The client takes arrays of frames.
    pub batch: bool,
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token_bytes = self.token.as_ref().map(String::len);
        f.debug_struct("Hello")
            .field("id", &self.id)
            .field("token_bytes", &token_bytes)
            .field("device", &self.device)
            .field("cursors", &self.cursors)
            .field("from", &self.from)
            .field("takes_over", &self.takes_over)
            .field("exclusive", &self.exclusive)
            .field("batch", &self.batch)
            .finish()
    }
}

/// A stream and its cursors.
pub type StreamCursors = (Address, Vec<Option<Cursor>>);

/// Where a stream starts that has no cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum From {
    #[default]
    Oldest,
    Now,
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    pub id: MessageId,
    pub to: Address,
    pub body: Body,
    pub ephemeral: bool,
    /// Milliseconds since the first try, if this is not the first.
    pub retry_age_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    /// `ack: "replicated"`: `sent` waits until a replica has it.
    pub replicated: bool,
    /// A copy into the sender's own inbox.
    pub echo: bool,
}

/// Follow a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    pub id: MessageId,
    pub group: GroupId,
    /// `until: "disconnect"`: for the life of the connection only.
    pub until_disconnect: bool,
    /// Where to go on: none, or one; `None` stands for one that cannot be read.
    pub cursors: Vec<Option<Cursor>>,
}

/// Messages of a stream, backwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub id: MessageId,
    pub of: Address,
    /// One conversation of the own inbox.
    pub with: Option<UserId>,
    pub before: Option<Cursor>,
    pub limit: u64,
}

/// Whom a question is about: these, or all members of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Users(Vec<UserId>),
    Group(GroupId),
}

/// A body as it came, unparsed. `Debug` prints its length only.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    pub encoding: Encoding,
    pub bytes: Bytes,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({:?}, {} bytes)", self.encoding, self.bytes.len())
    }
}

/// Why one frame cannot be executed; answered with `bad_request`, and the connection stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameError {
    /// The frame's `id`, where it could be read.
    pub id: Option<MessageId>,
    /// The field, what was expected, and what came.
    pub message: String,
    /// It was meant to be a `hello`: before the session is open anything else ends the connection.
    pub is_hello: bool,
}

impl ClientFrame {
    /// Reads the fields of one map. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`FrameError`] names the field and what was expected.
    pub fn read(frame: &Bytes, fields: &Fields<'_>) -> Result<Self, FrameError> {
        let reader = FieldReader { fields };
        reader.frame(frame).map_err(|message| {
            let id = fields.get("id").and_then(|raw| raw.text()).and_then(|text| MessageId::parse(&text).ok());
            let is_hello = fields.get("type").and_then(|raw| raw.text()).is_some_and(|kind| kind == "hello");
            FrameError { id, message, is_hello }
        })
    }
}
