//! One master's copy of the group, and beside it what it forgets: who was a member when each message was stored.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use delivery::Members;
use delivery::members::{self, Bounds, ChangeRequest, Changed, Op};
use delivery::record::{self, Beside, Record, Whose};
use protocol::{Cursor, Epoch, Notice, Tag, UserId};

use super::node::Flying;
use crate::model::rules::{Post, limits, message};

pub(super) static USERS: LazyLock<[UserId; 2]> =
    LazyLock::new(|| ["a", "b"].map(|name| UserId::parse(name).expect("a plain name")));

pub(super) fn index_of(user: &UserId) -> usize {
    usize::from(*user == USERS[1])
}

/// Cheap to copy: a replica that has caught up is the same one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Group(Arc<Inner>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Inner {
    record: Option<Record>,
    members: Members,
    log: Vec<Stored>,
}

/// A message as it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stored {
    pub(super) at: Cursor,
    pub(super) tag: Tag,
    pub(super) mseq: u64,
    /// Each user's join, if he was a member then.
    pub(super) joined: [Option<u64>; 2],
}

impl Hash for Inner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.record.as_ref().map(|r| (r.epoch, r.version, r.end(), r.locations.len())).hash(state);
        self.members.log.hash(state);
        USERS.each_ref().map(|user| self.members.joined.get(user)).hash(state);
        self.log.hash(state);
    }
}

impl Group {
    pub(super) fn record(&self) -> Option<&Record> {
        self.0.record.as_ref()
    }

    pub(super) fn members(&self) -> &Members {
        &self.0.members
    }

    pub(super) fn log(&self) -> &[Stored] {
        &self.0.log
    }

    pub(super) fn joined(&self, user: usize) -> Option<u64> {
        self.0.members.joined.get(&USERS[user]).copied()
    }

    /// What was stored at a place.
    pub(super) fn stored(&self, at: Cursor) -> Option<&Stored> {
        self.0.log.iter().find(|stored| stored.at == at)
    }

    /// Runs a rule on the record, beside its members.
    pub(super) fn with<R>(&mut self, rule: impl FnOnce(&mut Option<Record>, &Beside<'_>) -> R) -> R {
        let Inner { record, members, .. } = Arc::make_mut(&mut self.0);
        rule(record, &Beside { whose: Whose::Group, members: Some(members), groups: None })
    }

    fn is_located(&self) -> bool {
        self.record().is_some_and(|record| !record.locations.is_empty())
    }

    /// Stores a message; what the node hears of it.
    pub(super) fn append(&mut self, now_us: u64, m: u8) -> Option<Flying> {
        let joined = [self.joined(0), self.joined(1)];
        let inner = Arc::make_mut(&mut self.0);
        let messages = [message(Post::first(m))];
        let epoch = Epoch(now_us.to_be_bytes());
        let appended = record::append(&mut inner.record, Whose::Group, epoch, now_us, 0, &messages, &limits(100));
        let row = appended.live.first()?;
        let mseq = row.stored.mseq.unwrap_or_default();
        inner.log.push(Stored { at: row.cursor, tag: row.stored.tag, mseq, joined });
        let flying = Flying::Entry { at: row.cursor, link: row.link, tag: row.stored.tag, mseq };
        self.is_located().then_some(flying)
    }

    /// Changes a membership: its number, and what the node hears of it.
    pub(super) fn change(&mut self, now_us: u64, user: usize, is_join: bool) -> (u64, Option<Flying>) {
        let inner = Arc::make_mut(&mut self.0);
        let op = if is_join { Op::Join } else { Op::Leave };
        let epoch = Epoch(now_us.to_be_bytes());
        let request = ChangeRequest { of: "group:g".into(), epoch, user: USERS[user].clone(), op, again: None };
        let (bounds, limits) = (Bounds::default(), limits(100));
        let changed = members::change(&mut inner.record, &mut inner.members, now_us, &request, &bounds, &limits);
        let Changed::Done { mseq, .. } = changed else { panic!("{changed:?}") };
        let told = members::told([(&request, changed)]);
        let Some(Notice::Members { before, count, .. }) = told.first().map(|told| &told.notice) else {
            panic!("{told:?}")
        };
        let flying = Flying::Change { before: *before, count: *count, mseq, user, is_join };
        (mseq, self.is_located().then_some(flying))
    }

    /// Messages before a change, as a set.
    pub(super) fn before(&self, mseq: u64) -> u8 {
        let before = self.0.log.iter().filter(|stored| stored.mseq < mseq);
        before.fold(0, |set, stored| set | crate::model::rules::bit(stored.tag))
    }

    /// Messages up to a place, as a set.
    pub(super) fn up_to(&self, at: Cursor) -> u8 {
        let before = self.0.log.iter().filter(|stored| stored.at.epoch == at.epoch && stored.at.seq <= at.seq);
        before.fold(0, |set, stored| set | crate::model::rules::bit(stored.tag))
    }
}
