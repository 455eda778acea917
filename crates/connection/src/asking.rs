//! Questions about people and streams: asked by a frame with an `id`, answered once, and nothing of the connection changes.

use protocol::{Address, GroupId, Text, UserId};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Messages of a stream by sender, and how many are unread.
    Counts {
        of: Address,
        with: Option<UserId>,
        user: UserId,
    },
    /// Who has received and read a message that the asker sent.
    Receipts {
        reference: String,
        user: UserId,
    },
    /// How users are, or the members of a group.
    Presence(Whom),
    /// The same, and their changes from now on.
    Watch(Whom),
    Unwatch(Whom),
    /// Members of a group, with their profiles.
    Members {
        group: GroupId,
        after: Option<Text>,
        limit: u64,
    },
}

/// People whom an asker may look at only as far as they are in a group of his.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InCommon {
    pub users: Vec<UserId>,
    pub groups: Vec<GroupId>,
}

/// Who is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// `shared`: those of them whom no pattern of his rights names.
    Users {
        users: Vec<UserId>,
        shared: Option<InCommon>,
    },
    Group(GroupId),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `by`: addresses of senders.
    Counts {
        total: u64,
        unread: u64,
        by: Vec<(Text, u64)>,
    },
    Receipts(Receipts),
    Presence(People),
    Watching(People),
    Unwatched,
    Members {
        members: Vec<Member>,
        total: u64,
        next: Option<Text>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipts {
    pub delivered: Vec<(Text, Vec<Text>)>,
    pub read: Vec<Text>,
    /// Above 1,000 members: how many, and no names.
    pub counts: Option<(u64, u64)>,
    /// It is not kept any more: nobody can tell.
    pub is_expired: bool,
}

/// How people are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum People {
    Each(Vec<Person>),
    /// Of a group with more than 1,000 members: connected ones, of how many.
    Count {
        online: u64,
        members: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub user: UserId,
    pub presence: delivery::PresenceOf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub user: UserId,
    pub profile: Option<Text>,
}
