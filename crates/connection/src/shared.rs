//! What a node hands to many connections at once: one value, written once for each encoding.

use std::sync::OnceLock;

use bytes::Bytes;
use protocol::client::{Codec, MemberChange, MessageFrame, ReadChange, ServerFrame};
use protocol::{Cursor, Encoding, Entry, Ephemeral, GroupId, Text, UserId};

/// Something for the members of a group, or for everybody.
#[derive(Debug)]
pub struct Shared {
    /// The record of the stream.
    pub of: Text,
    pub what: What,
    json: OnceLock<Bytes>,
    message_pack: OnceLock<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Entry(Entry),
    Ephemeral(Ephemeral),
    /// A group has other members. `who`: and whether he joined; none where the group is too large to name each.
    Members {
        group: GroupId,
        who: Option<(UserId, bool)>,
        members: u64,
    },
    /// A member has read up to a place.
    Read {
        user: UserId,
        cursor: Cursor,
    },
}

impl Shared {
    pub fn new(of: Text, what: What) -> Self {
        Self { of, what, json: OnceLock::new(), message_pack: OnceLock::new() }
    }

    /// The frame, written by the first connection that asks for it.
    pub fn frame(&self, codec: Codec) -> Bytes {
        let written = match codec.0 {
            Encoding::Json => &self.json,
            Encoding::MessagePack => &self.message_pack,
        };
        written.get_or_init(|| codec.encode(&self.server_frame())).clone()
    }

    fn server_frame(&self) -> ServerFrame<'_> {
        match &self.what {
            What::Entry(entry) => ServerFrame::Message(MessageFrame::durable(entry, false)),
            What::Ephemeral(one) => ServerFrame::Message(MessageFrame::ephemeral(one)),
            What::Members { group, who, members } => ServerFrame::MemberChange(MemberChange {
                group: group.as_str(),
                who: who.as_ref().map(|(user, joined)| (user.as_str(), *joined)),
                members: Some(*members),
            }),
            What::Read { user, cursor } => {
                let (of, user, cursor) = (&*self.of, user.as_str(), *cursor);
                ServerFrame::ReadChange(ReadChange { of, with: None, user, cursor })
            }
        }
    }

    /// Bytes that it costs a queue.
    pub fn weight(&self) -> usize {
        match &self.what {
            What::Entry(entry) => entry.envelope.weight(),
            What::Ephemeral(one) => one.envelope.weight(),
            What::Members { .. } | What::Read { .. } => 256,
        }
    }
}
