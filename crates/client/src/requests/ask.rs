//! What a client may ask besides sending and history. All of it may be asked twice: a second time changes nothing.

/// A request that is not a message.
#[derive(Clone, Debug)]
pub struct AskRequest {
    pub id: String,
    pub ask: Ask,
}

/// Groups and users are bare IDs, `of` and `with` addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Become a member, or with `until_disconnect` follow the group as long as the session lasts, over its reconnects.
    Join {
        group: String,
        until_disconnect: bool,
        /// Where to go on; `None`: where the server says.
        cursor: Option<String>,
    },
    Leave {
        group: String,
    },
    /// The user has read everything up to the cursor; `with`: of one conversation of the own inbox.
    Read {
        of: String,
        with: Option<String>,
        cursor: String,
    },
    Counts {
        of: String,
        with: Option<String>,
    },
    /// Who has received and read the message with this `ref`.
    Receipts {
        reference: String,
    },
    Presence(Whom),
    Watch(Whom),
    Unwatch(Whom),
    Members {
        group: String,
        after: Option<String>,
        limit: Option<u64>,
    },
}

/// Who is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    Users(Vec<String>),
    /// The members of a group.
    Group(String),
}

impl Ask {
    /// The type of its frame.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
            Self::Read { .. } => "read",
            Self::Counts { .. } => "counts",
            Self::Receipts { .. } => "receipts",
            Self::Presence(_) => "presence",
            Self::Watch(_) => "watch",
            Self::Unwatch(_) => "unwatch",
            Self::Members { .. } => "members",
        }
    }
}
