//! What comes out of a connection: what its shell has to do, and to ask of the node.

use delivery::Claim;
use protocol::client::{Body, From};
use protocol::{Address, CloseCode, Cursor, DeviceId, GroupId, MessageId, Text, UserId};

use crate::asking::Question;
use crate::io::Credential;

/// What the shell has to do.
#[derive(Debug)]
pub enum Output {
    Request(Request),
    /// Write what is still to be transmitted, then close with this code and end. `None`: the socket is gone already.
    Close(Option<CloseCode>),
}

/// Something to be asked of the node; its answer comes back as an [`crate::Input`].
#[derive(Debug)]
pub enum Request {
    Authenticate(Credential),
    /// Register this connection at the address and read from the newest cursor that holds.
    Attach(Attach),
    /// Read from the newest cursor that holds. `with_head`: also after the places that this node remembers of a group.
    Read {
        of: Address,
        after: Vec<Cursor>,
        with_head: bool,
    },
    /// Follow a group, or everybody's stream, on this node; answered by [`crate::Input::Seated`] or
    /// [`crate::Input::Ended`]. Said again by one who sits, it changes what is known of the member, and is not answered.
    Seat(Seat),
    /// Follow it no more.
    Unseat {
        of: Address,
    },
    /// Where a member goes on, and whether he is one; his node follows the group already.
    Enter(Enter),
    /// Make the user a member, for as long as he likes.
    Join {
        id: MessageId,
        group: GroupId,
        user: UserId,
    },
    /// End it, on all his connections.
    Leave {
        id: MessageId,
        group: GroupId,
        user: UserId,
    },
    /// The user's set of groups names one that does not have him as a member, or the other way round.
    Repair {
        group: GroupId,
        user: UserId,
        is_in: bool,
    },
    /// Which groups is the user in?
    Groups {
        user: UserId,
    },
    /// A question that is answered by [`crate::Input::Answered`].
    Ask {
        id: MessageId,
        question: Question,
    },
    /// The user has read up to the cursor.
    Mark {
        of: Address,
        with: Option<UserId>,
        user: UserId,
        cursor: Cursor,
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
        /// Store it in the sender's own inbox, too; answered when both have it.
        echo: bool,
    },
    /// Hand a message to whoever is there; it is kept nowhere.
    Publish {
        message: Message,
        echo: bool,
    },
    History {
        id: MessageId,
        of: Address,
        before: Option<Cursor>,
        limit: u64,
        /// One conversation of the own inbox only.
        with: Option<UserId>,
        /// Of a group: only what was stored behind this membership change.
        since: u64,
    },
    /// Fire and forget: the device has everything up to the cursor.
    Ack {
        of: Address,
        user: UserId,
        device: DeviceId,
        cursor: Cursor,
    },
}

/// A place at a group's table on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// A group, or everybody.
    pub of: Address,
    pub user: UserId,
    /// The number of the join; 0 where it is not known yet, or there is none.
    pub joined: u64,
    /// A member of the group; else he is there as long as the connection.
    pub is_lasting: bool,
}

/// A member's start in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enter {
    pub of: Address,
    pub user: UserId,
    /// Whose stored cursor counts if none is given.
    pub device: Option<DeviceId>,
    /// Newest first; `None` stands for one that cannot be read.
    pub cursors: Vec<Option<Cursor>>,
    /// Where to start without any cursor.
    pub from: From,
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
    /// The version of the set of the user's groups that is known; `None`: it is not asked for.
    pub groups_known: Option<u64>,
    /// What the connection wants of others of its user.
    pub claim: Option<Claim>,
    pub profile: Option<Text>,
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
