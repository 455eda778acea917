//! What the server says about people: who is in a group, who is there, who has read what.

use std::collections::BTreeMap;

use protocol::UnixMillis;

use super::Reader;
use crate::body::Body;

/// What was asked for is done: the answer to `join`, `leave`, `read`, `watch` and `unwatch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub id: String,
    /// Of `join`: the position before the group's first message that follows.
    pub cursor: Option<String>,
    /// Of `watch`: how those are who are watched from now on.
    pub online: Option<Online>,
}

/// Messages of a stream, or of one conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    pub id: String,
    pub total: u64,
    /// Of others, behind the own read mark.
    pub unread: u64,
    /// By the sender's ID.
    pub by: BTreeMap<String, u64>,
}

/// Who has received and read one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipts {
    pub id: String,
    pub delivered: Delivered,
    pub read: Readers,
    /// The message is not kept any more: nobody can tell.
    pub is_expired: bool,
}

/// In a large group numbers stand instead of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The devices that have it, by user.
    Devices(BTreeMap<String, Vec<String>>),
    Count(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readers {
    Users(Vec<String>),
    Count(u64),
}

/// The answer to `presence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    pub id: String,
    pub online: Online,
}

/// How people are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Online {
    Each(BTreeMap<String, UserPresence>),
    /// Of a large group: how many are connected, of how many.
    Count {
        online: u64,
        members: u64,
    },
}

/// How one user is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPresence {
    /// Only grows: what has a lower one is older. 0: he was never here.
    pub version: u64,
    pub is_online: bool,
    /// Since when.
    pub at: UnixMillis,
    pub devices: Vec<Device>,
    /// What his token says of him.
    pub profile: Option<Body>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub device: String,
    pub since: UnixMillis,
}

/// A part of a group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    pub id: String,
    pub members: Vec<Member>,
    /// Of the whole group.
    pub total: u64,
    /// What the next request says as `after`, if there are more.
    pub after: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub user: String,
    pub profile: Option<Body>,
}

/// Somebody who is watched came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceChange {
    pub user: String,
    pub is_online: bool,
    /// A change with a lower one than was seen before is late, and means nothing.
    pub version: u64,
    pub at: UnixMillis,
}

/// A group has other members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberChange {
    pub group: String,
    /// Who, and whether he joined; `None` in a large group, which says only how many they are.
    pub who: Option<(String, bool)>,
    /// How many there are now, where the server knows.
    pub members: Option<u64>,
}

/// Somebody has read up to a place: the other side of a conversation, a member, or an own device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadChange {
    pub of: String,
    /// One conversation of an inbox.
    pub with: Option<String>,
    pub user: String,
    pub cursor: String,
}

impl Reader<'_, '_> {
    pub(super) fn done(&self) -> Option<Done> {
        Some(Done { id: self.text("id")?, cursor: self.text("cursor"), online: self.online() })
    }

    pub(super) fn counts(&self) -> Option<Counts> {
        let by = self.present("by").and_then(|raw| raw.map());
        let by = by.map(|by| by.iter().filter_map(|(user, raw)| Some((user.to_owned(), raw.u64()?))).collect());
        Some(Counts {
            id: self.text("id")?,
            total: self.number("total")?,
            unread: self.number("unread").unwrap_or_default(),
            by: by.unwrap_or_default(),
        })
    }

    pub(super) fn receipts(&self) -> Option<Receipts> {
        let delivered = match self.number("delivered_count") {
            Some(count) => Delivered::Count(count),
            None => Delivered::Devices(self.devices_by_user("delivered")),
        };
        let read = match self.number("read_count") {
            Some(count) => Readers::Count(count),
            None => Readers::Users(self.texts("read")),
        };
        let is_expired = self.bool("expired").unwrap_or_default();
        Some(Receipts { id: self.text("id")?, delivered, read, is_expired })
    }

    fn devices_by_user(&self, name: &str) -> BTreeMap<String, Vec<String>> {
        let Some(users) = self.present(name).and_then(|raw| raw.map()) else { return BTreeMap::new() };
        let of_one = |(user, _): (&str, _)| (user.to_owned(), Reader(&users).texts(user));
        users.iter().map(of_one).collect()
    }

    /// A map of users, or two numbers; none at all in an answer that is about nobody.
    pub(super) fn online(&self) -> Option<Online> {
        if let Some(online) = self.number("count") {
            return Some(Online::Count { online, members: self.number("members").unwrap_or_default() });
        }
        let users = self.present("online")?.map()?;
        let of_one = |(user, raw): (&str, protocol::client::fields::Raw<'_>)| {
            let fields = raw.map()?;
            Some((user.to_owned(), Reader(&fields).user_presence()))
        };
        Some(Online::Each(users.iter().filter_map(of_one).collect()))
    }

    fn user_presence(&self) -> UserPresence {
        let device = |device: &Reader<'_, '_>| {
            let since = UnixMillis(device.number("since").unwrap_or_default());
            Some(Device { device: device.text("device")?, since })
        };
        UserPresence {
            version: self.number("version").unwrap_or_default(),
            is_online: self.bool("online").unwrap_or_default(),
            at: UnixMillis(self.number("at").unwrap_or_default()),
            devices: self.maps("devices", device).unwrap_or_default(),
            profile: self.value("profile"),
        }
    }

    pub(super) fn members(&self) -> Option<Members> {
        let member =
            |member: &Reader<'_, '_>| Some(Member { user: member.text("user")?, profile: member.value("profile") });
        Some(Members {
            id: self.text("id")?,
            members: self.maps("members", member)?,
            total: self.number("total").unwrap_or_default(),
            after: self.text("after"),
        })
    }

    pub(super) fn presence_change(&self) -> Option<PresenceChange> {
        Some(PresenceChange {
            user: self.text("user")?,
            is_online: self.bool("online")?,
            version: self.number("version").unwrap_or_default(),
            at: UnixMillis(self.number("at").unwrap_or_default()),
        })
    }

    pub(super) fn member_change(&self) -> Option<MemberChange> {
        Some(MemberChange {
            group: self.text("group")?,
            who: self.text("user").zip(self.bool("joined")),
            members: self.number("members"),
        })
    }

    pub(super) fn read_change(&self) -> Option<ReadChange> {
        Some(ReadChange {
            of: self.text("of")?,
            with: self.text("with"),
            user: self.text("user")?,
            cursor: self.text("cursor")?,
        })
    }

    fn value(&self, name: &str) -> Option<Body> {
        self.present(name).map(|raw| Body::encoded(raw.encoding, raw.bytes.to_vec()))
    }
}
