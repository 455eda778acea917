//! Who is connected, what he follows, and what he may do.

use std::collections::BTreeMap;

use protocol::client::From;
use protocol::limits::GROUPS_MAX;
use protocol::{Address, Cursor, DeviceId, GroupId, MessageId, Millis, Text, UserId};

use crate::inbox::Inbox;
use crate::rights::Rights;
use crate::stream::{How, Stream};
use crate::watching::Heard;

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) user: UserId,
    /// `None`: the client named none, and no cursor is kept.
    pub(crate) device: Option<DeviceId>,
    pub(crate) rights: Rights,
    pub(crate) profile: Option<Box<Text>>,
    /// Groups that the token names: joined for the life of the connection.
    pub(crate) named: Box<[GroupId]>,
    /// Where `hello` wants streams to start that have no cursor.
    pub(crate) from: Option<From>,
    pub(crate) inbox: Inbox,
    pub(crate) all: Stream,
    /// Ordered by name. Boxed: a list that grows by one leaves a hole of its old size behind each time.
    #[allow(clippy::vec_box, reason = "what is moved when it grows is small")]
    pub(crate) groups: Vec<Box<Stream>>,
    /// The version of the set of the user's groups that is known.
    pub(crate) set_known: u64,
    /// The set is asked for.
    pub(crate) is_asking_set: bool,
    /// Questions and read marks without an answer.
    pub(crate) questions: u16,
    /// Pages that are asked for.
    pub(crate) pages: u16,
    /// Streams that wait for their turn to ask for one.
    pub(crate) waiting: u16,
    /// `None` for most.
    pub(crate) busy: Option<Box<Busy>>,
    /// Some delivery is paused.
    pub(crate) is_paused: bool,
    /// When something of a group, or of everybody's stream, is due; not later than that.
    pub(crate) due: Option<Millis>,
}

/// What only some connections do.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    /// Joins on their way.
    pub(crate) joining: Vec<Joining>,
    /// Read marks on their way that have an `id`.
    pub(crate) marking: Vec<Marking>,
    /// Of those who are watched.
    pub(crate) heard: BTreeMap<UserId, Heard>,
    /// Another version of the set of groups that was heard of while it was asked for.
    pub(crate) set_heard: Option<u64>,
    /// When the set is asked for again, because nobody could answer.
    pub(crate) set_retry_at: Option<Millis>,
}

#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) id: MessageId,
    pub(crate) group: GroupId,
    pub(crate) cursors: Vec<Option<Cursor>>,
}

#[derive(Debug)]
pub(crate) struct Marking {
    pub(crate) id: MessageId,
    pub(crate) of: Address,
    pub(crate) with: Option<UserId>,
    pub(crate) cursor: Cursor,
}

impl Session {
    pub(crate) fn own(&self) -> Address {
        Address::User(self.user.clone())
    }

    pub(crate) fn is_own_inbox(&self, of: &Address) -> bool {
        matches!(of, Address::User(user) if *user == self.user)
    }

    /// A group's stream, or everybody's.
    pub(crate) fn stream(&mut self, of: &Address) -> Option<&mut Stream> {
        match of {
            Address::All => Some(&mut self.all),
            Address::Group(group) => self.group_mut(group.as_str()),
            _ => None,
        }
    }

    /// The same, by the text of its record.
    pub(crate) fn by_record(&mut self, record: &str) -> Option<&mut Stream> {
        match record.strip_prefix("group:") {
            Some(group) => self.group_mut(group),
            None => (record == "all").then_some(&mut self.all),
        }
    }

    /// The stream of this group, also one that does not run; made if there is none.
    pub(crate) fn place_for(&mut self, of: &Address) -> Option<&mut Stream> {
        let Address::Group(group) = of else { return self.stream(of) };
        let at = match self.find(group.as_str()) {
            Ok(at) => at,
            Err(at) => {
                self.groups.reserve_exact(1);
                self.groups.insert(at, Box::new(Stream::new(Some(group.clone()))));
                at
            }
        };
        self.groups.get_mut(at).map(|stream| &mut **stream)
    }

    pub(crate) fn remove(&mut self, group: &str) {
        if let Ok(at) = self.find(group) {
            self.groups.remove(at);
        }
    }

    pub(crate) fn group(&self, name: &str) -> Option<&Stream> {
        self.groups.get(self.find(name).ok()?).map(|stream| &**stream)
    }

    fn group_mut(&mut self, name: &str) -> Option<&mut Stream> {
        let at = self.find(name).ok()?;
        self.groups.get_mut(at).map(|stream| &mut **stream)
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.groups.binary_search_by(|stream| stream.name().cmp(name))
    }

    pub(crate) fn streams_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        std::iter::once(&mut self.all).chain(self.groups.iter_mut().map(|stream| &mut **stream))
    }

    pub(crate) fn has_room_for_a_group(&self) -> bool {
        let alive = self.groups.iter().filter(|stream| stream.is_alive()).count();
        ((alive + self.joining().len()) as u64) < GROUPS_MAX
    }

    pub(crate) fn is_joining(&self, group: &GroupId) -> bool {
        self.joining().iter().any(|joining| joining.group == *group)
    }

    pub(crate) fn busy(&mut self) -> &mut Busy {
        self.busy.get_or_insert_default()
    }

    fn joining(&self) -> &[Joining] {
        self.busy.as_ref().map_or(&[], |busy| &busy.joining)
    }

    /// Something of a stream is due then.
    pub(crate) fn wake(&mut self, at: Millis) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// One of the user's own groups: he follows it, or the token names it.
    pub(crate) fn is_own(&self, group: &GroupId) -> bool {
        let is_known = |stream: &Stream| stream.beginning().is_none_or(|b| b.how != How::Cursor);
        let follows = self.group(group.as_str()).is_some_and(|stream| stream.is_alive() && is_known(stream));
        follows || self.named.contains(group)
    }

    /// His own groups, for somebody else to look which of them another user is in.
    pub(crate) fn own_groups(&self) -> Vec<GroupId> {
        let followed = self.groups.iter().filter_map(|stream| stream.group.as_ref());
        let mut groups: Vec<GroupId> =
            followed.chain(&self.named).filter(|group| self.is_own(group)).cloned().collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    pub(crate) fn may_send(&self, to: &Address) -> bool {
        let send = &self.rights.send;
        send.names(to) || send.own && matches!(to, Address::Group(group) if self.is_own(group))
    }

    pub(crate) fn may_join(&self, group: &GroupId) -> bool {
        let join = &self.rights.join;
        join.names(&Address::Group(group.clone())) || join.own && self.named.contains(group)
    }

    /// Who is in the group, who of them is there, what is said in it.
    pub(crate) fn may_look_into(&self, group: &GroupId) -> bool {
        self.is_own(group) || self.rights.look.names(&Address::Group(group.clone()))
    }

    /// How this user is, whoever he shares a group with.
    pub(crate) fn may_look_at(&self, user: &UserId) -> bool {
        *user == self.user || self.rights.look.names(&Address::User(user.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node has a hundred thousand connections, most of them idle: what is rare has no place here.
    #[test]
    fn what_an_idle_connection_holds_is_small() {
        assert!(size_of::<crate::Connection>() <= 440, "{}", size_of::<crate::Connection>());
        assert!(size_of::<Session>() <= 400, "{}", size_of::<Session>());
    }
}
