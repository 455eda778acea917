//! The client's side of the wire: what the server says, as owned values, and what a client says ([`mod@write`]).
//!
//! Reading is lenient, as the protocol asks of clients: unknown fields are ignored, a frame that this version does not
//! know is [`ServerEvent::Unknown`], and what a simpler server leaves out has its neutral value. Cursors are opaque texts.

use protocol::client::fields::{self, Fields, Malformed, Raw};
use protocol::{Encoding, UnixMillis};

use crate::body::Body;

pub mod people;
pub mod print;
pub mod write;

use people::{Counts, Done, MemberChange, Members, Presence, PresenceChange, ReadChange, Receipts};

/// One frame of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    Welcome(Welcome),
    Stream(StreamStart),
    Sent(Sent),
    Message(Message),
    History(History),
    Done(Done),
    Counts(Counts),
    Receipts(Receipts),
    Presence(Presence),
    Members(Members),
    PresenceChange(PresenceChange),
    MemberChange(MemberChange),
    ReadChange(ReadChange),
    Reset(Reset),
    Error(ErrorAnswer),
    Bye(Bye),
    Pong {
        id: Option<String>,
    },
    /// A frame of a newer server, or one that lacks what its type needs.
    Unknown {
        kind: String,
    },
}

/// The session is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The own user's ID; the own inbox is the stream `user:ID`.
    pub user: String,
    pub device: String,
    pub connection: String,
    pub node: String,
    pub heartbeat_ms: u64,
    /// Bytes that one frame to the server may have.
    pub bytes_max: u64,
    pub streams: Vec<StreamStart>,
    /// The groups that the user is a member of; their streams follow as [`StreamStart`].
    pub groups: Vec<String>,
}

/// Where a stream stands when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStart {
    pub of: String,
    pub status: Status,
    /// The position before the first message that follows.
    pub cursor: String,
    /// The newest number; it only informs.
    pub head: u64,
    /// How many messages follow before live ones, as far as known.
    pub replay: u64,
    /// Of a reset: `retention`, `epoch`, `ahead` or `fork`.
    pub reason: Option<String>,
    /// Of a reset by retention: how many messages are gone.
    pub lost: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    New,
    Resumed,
    /// Continuity cannot be proven: messages may be missing, and others come again.
    Reset,
}

/// A message was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub id: String,
    /// The stored message's name; durable ones only, and the same for a retry. It is no cursor.
    pub reference: Option<String>,
    pub at: UnixMillis,
    /// Whether the recipient is connected, where the server tells.
    pub online: Option<bool>,
}

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub to: String,
    pub from: String,
    pub id: String,
    pub at: UnixMillis,
    /// Its number in the stream; durable messages only.
    pub seq: Option<u64>,
    /// The position behind it; durable messages only.
    pub cursor: Option<String>,
    /// It follows a reset, and may have come before.
    pub again: bool,
    pub body: Body,
}

impl Message {
    /// The stream it came on: its `to` if that is a group or `all`, else the own inbox, `user:ID` of `own_user`.
    pub fn stream(&self, own_user: &str) -> String {
        if self.to == "all" || self.to.starts_with("group:") { self.to.clone() } else { format!("user:{own_user}") }
    }
}

/// Newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub id: String,
    pub messages: Vec<Message>,
    /// There are older ones.
    pub more: bool,
    /// Where the next page begins, if there are older ones: also where this page is empty, because nothing of the
    /// conversation was found in the part that was looked at.
    pub before: Option<String>,
}

/// The continuity of a running stream cannot be proven any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    pub of: String,
    pub reason: String,
    /// The position before the first message that follows.
    pub cursor: String,
    pub lost: Option<u64>,
}

/// The server did not do what one frame asked for. Never a reason to close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorAnswer {
    pub id: Option<String>,
    pub code: String,
    pub message: String,
    pub retry_ms: Option<u64>,
    /// Asking again cannot tell more.
    pub is_final: bool,
}

/// The server is about to close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bye {
    pub code: u16,
    pub reason: String,
    pub reconnect_ms: Option<u64>,
}

/// What the protocol says where a `welcome` does not.
const HEARTBEAT_DEFAULT_MS: u64 = 25_000;

/// Reads one WebSocket message: one map, or an array of maps in order.
///
/// # Errors
/// [`Malformed`]: nothing of the frame can be used; the connection is worth nothing any more.
pub fn read(encoding: Encoding, frame: &[u8]) -> Result<Vec<ServerEvent>, Malformed> {
    Ok(fields::split_server(encoding, frame)?.iter().map(ServerEvent::from_fields).collect())
}

impl ServerEvent {
    /// Reads the fields of one map.
    pub fn from_fields(fields: &Fields<'_>) -> Self {
        let reader = Reader(fields);
        let kind = reader.text("type").unwrap_or_default();
        reader.event(&kind).unwrap_or(Self::Unknown { kind })
    }
}

/// Fields that are there, not null, and of the wanted type.
struct Reader<'f, 'a>(&'f Fields<'a>);

impl<'a> Reader<'_, 'a> {
    fn event(&self, kind: &str) -> Option<ServerEvent> {
        Some(match kind {
            "message" => ServerEvent::Message(self.message()?),
            "sent" => ServerEvent::Sent(Sent {
                id: self.text("id")?,
                reference: self.text("ref"),
                at: UnixMillis(self.number("at").unwrap_or_default()),
                online: self.bool("online"),
            }),
            "welcome" => ServerEvent::Welcome(self.welcome()?),
            "stream" => ServerEvent::Stream(self.stream()?),
            "history" => ServerEvent::History(History {
                id: self.text("id")?,
                messages: self.maps("messages", |message| message.message())?,
                more: self.bool("more").unwrap_or_default(),
                before: self.text("before"),
            }),
            "ok" => ServerEvent::Done(self.done()?),
            "counts" => ServerEvent::Counts(self.counts()?),
            "receipts" => ServerEvent::Receipts(self.receipts()?),
            "presence" => ServerEvent::Presence(Presence { id: self.text("id")?, online: self.online()? }),
            "members" => ServerEvent::Members(self.members()?),
            "presence_change" => ServerEvent::PresenceChange(self.presence_change()?),
            "member_change" => ServerEvent::MemberChange(self.member_change()?),
            "read_change" => ServerEvent::ReadChange(self.read_change()?),
            "reset" => ServerEvent::Reset(Reset {
                of: self.text("of")?,
                reason: self.text("reason").unwrap_or_default(),
                cursor: self.text("cursor")?,
                lost: self.number("lost"),
            }),
            "error" => ServerEvent::Error(ErrorAnswer {
                id: self.text("id"),
                code: self.text("code")?,
                message: self.text("message").unwrap_or_default(),
                retry_ms: self.number("retry_ms"),
                is_final: self.bool("final").unwrap_or_default(),
            }),
            "bye" => ServerEvent::Bye(Bye {
                code: u16::try_from(self.number("code")?).ok()?,
                reason: self.text("reason").unwrap_or_default(),
                reconnect_ms: self.number("reconnect_ms"),
            }),
            "pong" => ServerEvent::Pong { id: self.text("id") },
            _ => return None,
        })
    }

    fn welcome(&self) -> Option<Welcome> {
        Some(Welcome {
            user: self.text("user")?,
            device: self.text("device").unwrap_or_default(),
            connection: self.text("connection").unwrap_or_default(),
            node: self.text("node").unwrap_or_default(),
            heartbeat_ms: self.number("heartbeat_ms").filter(|ms| *ms > 0).unwrap_or(HEARTBEAT_DEFAULT_MS),
            bytes_max: self.number("max_bytes").unwrap_or(u64::MAX),
            streams: self.maps("streams", |stream| stream.stream()).unwrap_or_default(),
            groups: self.texts("groups"),
        })
    }

    fn stream(&self) -> Option<StreamStart> {
        let status = match &*self.text("status")? {
            "new" => Status::New,
            "resumed" => Status::Resumed,
            // A word that this version does not know promises no continuity.
            _ => Status::Reset,
        };
        Some(StreamStart {
            of: self.text("of")?,
            status,
            cursor: self.text("cursor")?,
            head: self.number("head").unwrap_or_default(),
            replay: self.number("replay").unwrap_or_default(),
            reason: self.text("reason"),
            lost: self.number("lost"),
        })
    }

    fn message(&self) -> Option<Message> {
        let body = self.0.get("body")?;
        Some(Message {
            to: self.text("to")?,
            from: self.text("from")?,
            id: self.text("id")?,
            at: UnixMillis(self.number("at").unwrap_or_default()),
            seq: self.number("seq"),
            cursor: self.text("cursor"),
            again: self.bool("again").unwrap_or_default(),
            // Copied: a slice would keep the socket's whole read buffer alive for as long as the message is held.
            body: Body::encoded(body.encoding, body.bytes.to_vec()),
        })
    }

    fn present(&self, name: &str) -> Option<Raw<'a>> {
        self.0.get(name).filter(|raw| !raw.is_null())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.present(name)?.text().map(|text| text.into_owned())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.present(name)?.u64()
    }

    fn bool(&self, name: &str) -> Option<bool> {
        self.present(name)?.bool()
    }

    /// The texts of an array; empty where there is none.
    fn texts(&self, name: &str) -> Vec<String> {
        let list = self.present(name).and_then(|raw| raw.array()).unwrap_or_default();
        list.iter().filter_map(|raw| raw.text()).map(|text| text.into_owned()).collect()
    }

    /// The maps of an array; one that lacks what it needs is left out.
    fn maps<T>(&self, name: &str, read: impl Fn(&Reader<'_, 'a>) -> Option<T>) -> Option<Vec<T>> {
        let list = self.present(name)?.array()?;
        Some(list.iter().filter_map(|raw| raw.map()).filter_map(|fields| read(&Reader(&fields))).collect())
    }
}

#[cfg(test)]
mod tests;
