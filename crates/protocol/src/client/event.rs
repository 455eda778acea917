//! What the server says.

use super::people::{self, MemberChange, MembersFrame, OnlineFrame, ReadChange, ReceiptsFrame};
use super::write::MapWriter;
use crate::address::Address;
use crate::code::{CloseCode, ErrorCode};
use crate::cursor::Cursor;
use crate::node::{Encoding, Entry, Envelope, Ephemeral};
use crate::time::UnixMillis;

/// One frame of the server.
#[derive(Clone, Debug)]
pub enum ServerFrame<'a> {
    Welcome(Welcome<'a>),
    Sent {
        id: &'a str,
        reference: Option<String>,
        at: UnixMillis,
        online: Option<bool>,
    },
    Message(MessageFrame<'a>),
    History(HistoryFrame<'a>),
    /// A stream has started that `welcome` did not wait for.
    Stream(StreamStatus),
    /// What was asked for is done: `join` says where its stream starts, `watch` how those are who are watched.
    Ok {
        id: &'a str,
        cursor: Option<Cursor>,
        online: Option<OnlineFrame<'a>>,
    },
    Counts {
        id: &'a str,
        total: u64,
        unread: u64,
        by: Vec<(&'a str, u64)>,
    },
    Receipts(ReceiptsFrame<'a>),
    Presence {
        id: &'a str,
        online: OnlineFrame<'a>,
    },
    PresenceChange {
        user: &'a str,
        is_online: bool,
        version: u64,
        at: UnixMillis,
    },
    Members(MembersFrame<'a>),
    MemberChange(MemberChange<'a>),
    ReadChange(ReadChange<'a>),
    Reset {
        of: &'a Address,
        reason: &'static str,
        cursor: Cursor,
        lost: Option<u64>,
    },
    Error(ErrorFrame<'a>),
    Bye(Bye<'a>),
    Pong {
        id: Option<&'a str>,
    },
}

#[derive(Clone, Debug)]
pub struct Welcome<'a> {
    pub user: &'a str,
    pub device: &'a str,
    pub connection: &'a str,
    pub node: &'a str,
    pub heartbeat_ms: u64,
    pub max_bytes: u64,
    pub streams: Vec<StreamStatus>,
    /// The groups that the user is a member of.
    pub groups: Vec<&'a str>,
}

/// Where a stream stands when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    pub of: Address,
    pub status: Status,
    /// The position before the first message that follows.
    pub cursor: Cursor,
    /// The newest number; it only informs.
    pub head: u64,
    /// How many messages follow before live ones, as far as known.
    pub replay: u64,
    pub lost: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    New,
    Resumed,
    /// Continuity cannot be proven, and why.
    Reset(&'static str),
}

/// A message on its way to a client. Ephemeral ones have no place.
#[derive(Clone, Debug)]
pub struct MessageFrame<'a> {
    pub envelope: &'a Envelope,
    pub at: UnixMillis,
    pub place: Option<Cursor>,
    /// It follows a reset: the client may have it already.
    pub again: bool,
}

impl<'a> MessageFrame<'a> {
    pub fn durable(entry: &'a Entry, again: bool) -> Self {
        Self { envelope: &entry.envelope, at: entry.at(), place: Some(entry.cursor), again }
    }

    pub fn ephemeral(one: &'a Ephemeral) -> Self {
        Self { envelope: &one.envelope, at: one.at, place: None, again: false }
    }

    fn fill(&self, map: &mut MapWriter<'_>) {
        map.text("to", &self.envelope.to).text("from", &self.envelope.from).text("id", &self.envelope.id);
        map.number("at", self.at.0);
        if let Some(cursor) = self.place {
            map.number("seq", cursor.seq).text("cursor", &cursor.to_text());
        }
        if self.again {
            map.bool("again", true);
        }
        map.body("body", self.envelope.encoding, &self.envelope.body);
    }
}

/// Newest first.
#[derive(Clone, Debug)]
pub struct HistoryFrame<'a> {
    pub id: &'a str,
    pub messages: &'a [Entry],
    pub more: bool,
    /// Where the next page goes on, if there is more.
    pub before: Option<Cursor>,
}

#[derive(Clone, Debug)]
pub struct ErrorFrame<'a> {
    pub id: Option<&'a str>,
    pub code: ErrorCode,
    pub message: &'a str,
    pub retry_ms: Option<u64>,
    /// Asking again cannot tell more.
    pub is_final: bool,
}

/// The last frame before a close, because a close code does not always reach the application.
#[derive(Clone, Debug)]
pub struct Bye<'a> {
    pub code: CloseCode,
    /// What happened, for people.
    pub reason: &'a str,
    /// When to come back, for codes that allow it.
    pub reconnect_ms: Option<u64>,
}

impl ServerFrame<'_> {
    /// Appends the frame as one map.
    pub fn encode(&self, encoding: Encoding, out: &mut Vec<u8>) {
        let mut map = MapWriter::begin(encoding, out);
        match self {
            Self::Message(message) => {
                map.text("type", "message");
                message.fill(&mut map);
            }
            Self::Sent { id, reference, at, online } => {
                map.text("type", "sent").text("id", id);
                if let Some(reference) = reference {
                    map.text("ref", reference);
                }
                map.number("at", at.0);
                if let Some(online) = online {
                    map.bool("online", *online);
                }
            }
            Self::Welcome(welcome) => welcome.fill(&mut map),
            Self::History(history) => {
                map.text("type", "history").text("id", history.id);
                map.maps("messages", history.messages.iter(), |m, entry| MessageFrame::durable(entry, false).fill(m));
                map.bool("more", history.more);
                if let Some(before) = history.before {
                    map.text("before", &before.to_text());
                }
            }
            Self::Stream(stream) => {
                map.text("type", "stream");
                stream.fill(&mut map);
            }
            Self::Ok { id, cursor, online } => {
                map.text("type", "ok").text("id", id);
                if let Some(cursor) = cursor {
                    map.text("cursor", &cursor.to_text());
                }
                if let Some(online) = online {
                    online.fill(&mut map);
                }
            }
            Self::Counts { id, total, unread, by } => people::counts(&mut map, id, *total, *unread, by),
            Self::Receipts(receipts) => receipts.fill(&mut map),
            Self::Presence { id, online } => {
                map.text("type", "presence").text("id", id);
                online.fill(&mut map);
            }
            Self::PresenceChange { user, is_online, version, at } => {
                map.text("type", "presence_change").text("user", user).bool("online", *is_online);
                map.number("version", *version).number("at", at.0);
            }
            Self::Members(members) => members.fill(&mut map),
            Self::MemberChange(change) => change.fill(&mut map),
            Self::ReadChange(change) => change.fill(&mut map),
            Self::Reset { of, reason, cursor, lost } => {
                map.text("type", "reset").text("of", &of.to_string()).text("reason", reason);
                map.text("cursor", &cursor.to_text());
                if let Some(lost) = lost {
                    map.number("lost", *lost);
                }
            }
            Self::Error(error) => error.fill(&mut map),
            Self::Bye(bye) => {
                map.text("type", "bye").number("code", u64::from(bye.code.number())).text("reason", bye.reason);
                if let Some(ms) = bye.reconnect_ms {
                    map.number("reconnect_ms", ms);
                }
            }
            Self::Pong { id } => {
                map.text("type", "pong");
                if let Some(id) = id {
                    map.text("id", id);
                }
            }
        }
        map.finish();
    }
}

impl Welcome<'_> {
    fn fill(&self, map: &mut MapWriter<'_>) {
        map.text("type", "welcome").text("user", self.user).text("device", self.device);
        map.text("connection", self.connection).text("node", self.node);
        map.number("heartbeat_ms", self.heartbeat_ms).number("max_bytes", self.max_bytes);
        map.maps("streams", self.streams.iter(), |m, stream| stream.fill(m));
        map.texts("groups", self.groups.iter().copied());
    }
}

impl StreamStatus {
    fn fill(&self, map: &mut MapWriter<'_>) {
        let (status, reason) = match self.status {
            Status::New => ("new", None),
            Status::Resumed => ("resumed", None),
            Status::Reset(reason) => ("reset", Some(reason)),
        };
        map.text("of", &self.of.to_string()).text("status", status).text("cursor", &self.cursor.to_text());
        map.number("head", self.head).number("replay", self.replay);
        if let Some(reason) = reason {
            map.text("reason", reason);
        }
        if let Some(lost) = self.lost {
            map.number("lost", lost);
        }
    }
}

impl ErrorFrame<'_> {
    fn fill(&self, map: &mut MapWriter<'_>) {
        map.text("type", "error");
        if let Some(id) = self.id {
            map.text("id", id);
        }
        map.text("code", self.code.as_str()).text("message", self.message);
        if let Some(ms) = self.retry_ms {
            map.number("retry_ms", ms);
        }
        if self.is_final {
            map.bool("final", true);
        }
        map.text("docs", &format!("/docs/{}", self.code.as_str()));
    }
}
