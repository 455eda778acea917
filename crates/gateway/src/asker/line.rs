//! What a node asks the backplane for its connections and heads: who waits for it, and what goes together in one call.

/// Requests of one call. A page may come with each, so an attach call carries fewer.
const ATTACH_MAX: usize = 32;
const SMALL_MAX: usize = 256;

/// Who waits for it. The order is the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A client: its connection is opening, or it asked for a history.
    Client,
    /// A stream that is not where its inbox is.
    Gap,
    /// A stream that may be fine.
    Check,
    /// Nobody: acks and detaches.
    Behind,
}

impl Class {
    pub const ALL: [Self; 4] = [Self::Client, Self::Gap, Self::Check, Self::Behind];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Gap => "gap",
            Self::Check => "check",
            Self::Behind => "behind",
        }
    }
}

/// One kind of request of one class. What waits on one line for one slot group goes in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The attach of a connection that is opening, a member's start in a group, or the first attach of a head.
    Opening,
    History,
    /// A read behind a gap.
    Read,
    /// The attach of an open connection that was active lately.
    Again,
    /// What a head asks about members: until it knows, nothing is handed out.
    Changes,
    Verify,
    /// The attach of an open connection that was not.
    Quiet,
    Detach,
    Ack,
}

impl Line {
    pub(crate) const COUNT: usize = 9;
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Opening,
        Self::History,
        Self::Read,
        Self::Again,
        Self::Changes,
        Self::Verify,
        Self::Quiet,
        Self::Detach,
        Self::Ack,
    ];

    pub(crate) fn class(self) -> Class {
        match self {
            Self::Opening | Self::History => Class::Client,
            Self::Read | Self::Again | Self::Changes => Class::Gap,
            Self::Verify | Self::Quiet => Class::Check,
            Self::Detach | Self::Ack => Class::Behind,
        }
    }

    pub(crate) fn call_max(self) -> usize {
        match self {
            Self::History | Self::Read | Self::Changes => 1,
            Self::Opening | Self::Again | Self::Quiet => ATTACH_MAX,
            Self::Verify | Self::Detach | Self::Ack => SMALL_MAX,
        }
    }

    /// One call at a time for a slot group: what comes meanwhile goes with the next one.
    pub(crate) fn is_batched(self) -> bool {
        self.call_max() > 1
    }

    pub(crate) fn answers_pages(self) -> bool {
        matches!(self, Self::Opening | Self::Read | Self::Again | Self::Quiet)
    }
}
