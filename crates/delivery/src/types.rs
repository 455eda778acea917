//! What is asked of a record and what it answers; the same for every backplane.

use bytes::Bytes;
use protocol::{ConnectionId, Cursor, DeviceId, GroupId, HandOver, NodeId, Page, Tag, Text, UnixMillis};

/// How much of an inbox is kept; the first limit to be reached trims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub retention_ms: u64,
    /// Messages of one inbox.
    pub inbox_max: u64,
    /// Bytes of one inbox, as stored.
    pub inbox_bytes: u64,
    /// While the newest retry mark of a record is younger, every append looks for its own tag: four command timeouts.
    pub retry_young_us: u64,
}

impl Limits {
    /// How long a record lives after it was last touched: longer than what it holds, so that meta and inbox never
    /// outlive each other by a rounding, and at least two minutes.
    pub fn life_ms(&self) -> u64 {
        (self.retention_ms * 9 / 8).max(120_000)
    }

    /// True if an expiry has to be moved: it is moved in steps of 1/16 of the retention only.
    pub fn is_due(&self, expiry_ms: u64, now_ms: u64) -> bool {
        let life = self.life_ms();
        expiry_ms < now_ms + life - life / 18
    }
}

/// Kept in the inbox, or published to who is there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Durable,
    /// Durable, and a first try that may have been on its way for so long that its own retry is stored already: it is
    /// looked for, and stored where it is not found.
    Late,
    Ephemeral,
}

/// One message of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    pub kind: Kind,
    pub tag: Tag,
    /// Encoded, see [`protocol::Envelope`].
    pub envelope: Bytes,
    /// Set on a retry: how far back, in microseconds, the first try may lie.
    pub search_us: Option<u64>,
}

/// Where a message is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub place: Place,
    pub at: UnixMillis,
    /// Somebody is attached to the address.
    pub online: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Stored by this call.
    Stored(Cursor),
    /// A retry whose first try is stored: this is its place.
    Found(Cursor),
    /// Ephemeral: published, kept nowhere.
    Published,
    /// A retry whose first try may lie beyond the bound of the search. Nothing was stored.
    Unprovable,
}

impl Place {
    /// Where the message is stored, by this call or an earlier one.
    pub fn cursor(&self) -> Option<Cursor> {
        match self {
            Self::Stored(cursor) | Self::Found(cursor) => Some(*cursor),
            Self::Published | Self::Unprovable => None,
        }
    }
}

/// Where an address can be reached: a connection of a node, with the number of its registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub node: NodeId,
    pub connection: ConnectionId,
    /// Grows with every registration of this node; a write or removal with a lower one does nothing.
    pub reg: u64,
    pub device: Option<DeviceId>,
}

/// What an attach wants of other connections of the same user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This one gives its place.
    TakesOver(ConnectionId),
    /// All others of the same device do.
    Exclusive,
}

/// A registration as the record has it, for the node whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    pub connection: ConnectionId,
    pub reg: u64,
    /// Another connection took its place: this one is to be closed.
    pub hand_over: Option<HandOver>,
}

/// Why continuity cannot be proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The place was trimmed.
    Retention,
    /// The inbox began anew, or the cursor cannot be read.
    Epoch,
    /// The cursor is beyond the end: the backplane lost a tail.
    Ahead,
    /// Another entry stands at that number: the backplane lost a tail and went on.
    Fork,
}

impl Reason {
    pub const ALL: [Self; 4] = [Self::Retention, Self::Epoch, Self::Ahead, Self::Fork];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Epoch => "epoch",
            Self::Ahead => "ahead",
            Self::Fork => "fork",
        }
    }
}

/// How a stream starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    New,
    Resumed,
    /// `lost`, where the reason is retention: the exact number of messages between the cursor and the first one replayed.
    Reset {
        reason: Reason,
        lost: Option<u64>,
    },
}

/// The answer to an attach or a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub start: Start,
    /// The position before the first message of the page.
    pub cursor: Cursor,
    /// The newest number.
    pub head: u64,
    pub page: Page,
    /// The location was written. False on a backplane that takes no writes: the position check delivers.
    pub routed: bool,
    /// What is registered for the asking node, for it to detach what it does not know.
    pub registered: Vec<Registered>,
    /// Of a group's record the number of its newest membership change, of a user's the version of the set of his groups; 0
    /// before there is one.
    pub version: u64,
    /// Of a group's record, where a member was named: the number of his join, if he is one.
    pub joined: Option<u64>,
    /// Of a user's record: what the asker did not know yet.
    pub user: Option<OfUser>,
}

/// What a user's record says besides messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfUser {
    /// The groups that he is a member of, in no order. His set only says where to look: the group's record decides.
    pub groups: Vec<GroupId>,
    /// Up to where the device had everybody's stream.
    pub all: Option<Cursor>,
}

/// What a cursor is to an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the end.
    Current,
    Behind,
    Forked(Reason),
    /// There is no record: attach begins one.
    Gone,
}

/// The answer to a verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub standing: Standing,
    pub registered: Vec<Registered>,
    /// See [`Attached::version`].
    pub version: u64,
}

/// A device has everything up to a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The record where it is kept: of the stream; a device's place in `all` is kept in the record of its user.
    pub of: Text,
    /// What it is kept under, see [`crate::fields`].
    pub field: Text,
    pub cursor: Cursor,
}

/// What became of a read mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    Moved,
    /// It is there already, or further.
    Behind(Cursor),
    /// The cursor is no place of the stream.
    NoPlace(Reason),
}

/// A part of a stream, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Messages by sender (an address), in no order.
    pub by: Vec<(Text, u64)>,
    /// Behind the read mark, and not the reader's own.
    pub unread: u64,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// Who sent a message that is named by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    From(Text),
    /// It was trimmed.
    Expired,
    /// No message of this inbox.
    NoPlace,
}

/// How a user is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceOf {
    /// 0: he was never here.
    pub version: u64,
    pub is_online: bool,
    /// Since when.
    pub at: UnixMillis,
    /// His devices that are here, each with since when; connections without a named device by their id.
    pub devices: Vec<(Text, UnixMillis)>,
    /// As JSON.
    pub profile: Option<Text>,
}

/// `before` of a history is no place of this inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBefore;
