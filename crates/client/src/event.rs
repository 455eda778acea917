//! What an application hears from its client.

use crate::error::StopReason;
use crate::wire::people::{MemberChange, Online, PresenceChange, ReadChange};
use crate::wire::{ErrorAnswer, Message, Reset, StreamStart, Welcome};

/// What happened, in the order of the wire. Nothing is left out, and nothing comes twice within the newest 1,024
/// messages of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A session is open: the first, or the next one after [`Event::Disconnected`]. A stream whose status is
    /// [`crate::Status::Reset`] may have lost messages.
    Welcome(Welcome),
    /// A further stream begins, for example that of a group.
    Stream(StreamStart),
    Message(Message),
    /// The continuity of a running stream cannot be proven: messages may be missing. Those that the client has had and
    /// that come again are left out.
    Reset(Reset),
    /// Somebody who is watched came or went.
    PresenceChange(PresenceChange),
    /// How those are who are watched: after every reconnect, because changes meanwhile are told to nobody.
    Presence(Online),
    /// A group has other members. The own removal ends the group's stream.
    MemberChange(MemberChange),
    /// Somebody has read up to a place.
    ReadChange(ReadChange),
    /// The server did not like a frame that has no id.
    Error(ErrorAnswer),
    /// The connection is gone, or could not be made. The client comes back by itself.
    Disconnected {
        /// The code of `bye` or of the close, if there was one.
        code: Option<u16>,
        /// For people.
        reason: String,
        /// The client tries again after so many milliseconds.
        again_ms: u64,
    },
    /// The last event: the client does not come back.
    Stopped(StopReason),
}

impl Event {
    /// About how many bytes it holds in memory: what the bound of the events that wait is counted in.
    pub(crate) fn weight_bytes(&self) -> usize {
        const FRAME: usize = 256;
        FRAME
            + match self {
                Self::Message(message) => message.body.raw().len(),
                Self::Welcome(welcome) => (welcome.streams.len() + welcome.groups.len()) * FRAME,
                Self::Presence(Online::Each(users)) => users.len() * FRAME,
                _ => 0,
            }
    }
}
