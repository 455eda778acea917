//! What is asked of a record and what it answers; the same for every backplane.

use bytes::Bytes;
use protocol::{ConnectionId, Cursor, DeviceId, NodeId, Page, Tag, UnixMillis};

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
    pub registered: Vec<(ConnectionId, u64)>,
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
    pub registered: Vec<(ConnectionId, u64)>,
}

/// `before` of a history is no place of this inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBefore;
