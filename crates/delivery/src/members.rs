//! A group's members, the log of their changes, and users' sets of groups: what the group scripts do, as pure functions.
//!
//! Every change has a number, which only grows and is never behind the backplane's clock: what a lost history numbered is
//! below. So whoever knows another number than the newest one knows that he has something to read. The rules and their
//! reasons: docs/delivery.md.

mod told;

use std::collections::{BTreeSet, HashMap, VecDeque};

use protocol::limits::{CHANGES_MAX, GROUPS_MAX, MEMBERS_MAX};
use protocol::{Change, Epoch, GroupId, Text, UserId};

use crate::record::{Record, Whose};
use crate::types::Limits;

pub use told::{Told, told};

/// What becomes of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Join,
    /// A member goes; nothing is written for one who is none.
    Leave,
    /// He goes, whether he is listed or not: who is there for the life of a connection hears of it, too.
    Remove,
}

/// One change of a group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRequest {
    pub of: Text,
    /// Of a new life of the inbox, if one begins: random.
    pub epoch: Epoch,
    pub user: UserId,
    pub op: Op,
    /// Its number, if it was answered once by another master, which may have lost it: nothing is done where it is in force,
    /// or where the user changed again behind it.
    pub again: Option<u64>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// By this call. `before` is the change before it.
    Done { mseq: u64, before: u64, members: u64 },
    /// He was a member already, since this number.
    Already { mseq: u64, members: u64 },
    /// He was none.
    NotMember,
    /// The group has as many members as a group may have.
    Full,
    /// It was asked again, and needs nothing.
    InForce,
}

/// What is in a group's log behind a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The newest number.
    pub version: u64,
    pub members: u64,
    /// Those behind the number, in order; `None`: it is not in the log (any more).
    pub list: Option<Vec<Change>>,
}

/// The memberships of some users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memberships {
    /// The newest number of the group.
    pub version: u64,
    pub members: u64,
    /// In the order that was asked: the number of each one's join.
    pub joined: Vec<Option<u64>>,
}

/// A part of a group's members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembersPage {
    /// Of all.
    pub members: u64,
    /// In no order. One who joins or leaves meanwhile may be in it or not, and one may come twice.
    pub users: Vec<UserId>,
    /// Where to go on; 0 at the end.
    pub next: u64,
}

/// How large groups may be: arguments, so that tests reach them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub members: u64,
    /// Changes that a log keeps.
    pub changes: usize,
    /// Groups of one user.
    pub groups: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { members: MEMBERS_MAX, changes: CHANGES_MAX, groups: GROUPS_MAX }
    }
}

/// The members of one group. Their newest number is in the group's record ([`Record::version`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// User -> the number of his join.
    pub joined: HashMap<UserId, u64>,
    /// The newest changes, oldest first.
    pub log: VecDeque<Logged>,
}

/// A change as the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Logged {
    pub change: Change,
    /// The number that it was given first: another one where it was asked again. Changes of one user that were lost and
    /// are asked again by different nodes, in any order, are told apart by these.
    pub origin: u64,
}

/// Changes one membership. What changes begins a record where there is none.
pub fn change(
    record: &mut Option<Record>,
    members: &mut Members,
    now_us: u64,
    request: &ChangeRequest,
    bounds: &Bounds,
    limits: &Limits,
) -> Changed {
    let ChangeRequest { user, op, again, .. } = request;
    let joined = members.joined.get(user).copied();
    match (again, op, joined) {
        (Some(number), ..) if members.is_in_force(user, *number, bounds) => return Changed::InForce,
        (None, Op::Join, Some(mseq)) => return Changed::Already { mseq, members: members.count() },
        (None, Op::Leave, None) => return Changed::NotMember,
        (_, Op::Join, None) if members.count() >= bounds.members => return Changed::Full,
        _ => {}
    }
    if record.as_ref().is_some_and(|r| !r.is_alive(now_us / 1_000)) {
        *record = None;
    }
    let record = record.get_or_insert_with(|| Record::begin(Whose::Group, request.epoch, now_us, limits));
    let before = record.version;
    // Behind everything that was ever seen of this group, also of a record that expired and of a history that was lost.
    let seen = [Some(before), members.log.back().map(|newest| newest.change.mseq), *again];
    let mseq = seen.into_iter().flatten().fold(now_us, |mseq, seen| mseq.max(seen + 1));
    match op {
        Op::Join => members.joined.insert(user.clone(), mseq),
        Op::Leave | Op::Remove => members.joined.remove(user),
    };
    let change = Change { mseq, user: user.clone(), is_join: *op == Op::Join };
    members.log.push_back(Logged { change, origin: again.unwrap_or(mseq) });
    members.log.drain(..members.log.len().saturating_sub(bounds.changes));
    record.version = mseq;
    record.touch(now_us, limits);
    Changed::Done { mseq, before, members: members.count() }
}

impl Members {
    pub fn count(&self) -> u64 {
        self.joined.len() as u64
    }

    /// Bytes that it takes of a memory, about.
    pub fn weight(&self) -> u64 {
        128 * (self.joined.len() + self.log.len()) as u64
    }

    /// A change that was numbered once needs nothing where it is what holds, or where the user changed again behind it.
    fn is_in_force(&self, user: &UserId, number: u64, bounds: &Bounds) -> bool {
        let newest = self.log.iter().rev().find(|logged| logged.change.user == *user);
        if let Some(Logged { change, origin }) = newest {
            return change.mseq == number || *origin >= number;
        }
        match self.joined.get(user) {
            Some(joined) => *joined >= number,
            // What the log cannot tell any more is not done again: a member who left must not come back.
            None => !self.reaches(number, bounds),
        }
    }

    /// True if the log has everything behind a number.
    fn reaches(&self, number: u64, bounds: &Bounds) -> bool {
        self.log.len() < bounds.changes || self.log.front().is_some_and(|oldest| oldest.change.mseq <= number)
    }

    /// What changed behind a number that a node knows. `record`: of this group, if there is one.
    pub fn changes(&self, record: Option<&Record>, after: u64) -> Changes {
        let version = record.map_or(0, |record| record.version);
        let behind = || {
            let at = self.log.binary_search_by_key(&after, |logged| logged.change.mseq).ok()?;
            Some(self.log.iter().skip(at + 1).map(|logged| logged.change.clone()).collect())
        };
        let list = if after == version { Some(Vec::new()) } else { behind() };
        Changes { version, members: self.count(), list }
    }

    pub fn memberships(&self, record: Option<&Record>, users: &[UserId]) -> Memberships {
        let version = record.map_or(0, |record| record.version);
        let joined = users.iter().map(|user| self.joined.get(user).copied()).collect();
        Memberships { version, members: self.count(), joined }
    }

    /// Members in the order of their joins, from a number on: who stays is in one of the pages.
    pub fn page(&self, from: u64, count: usize) -> MembersPage {
        let mut rest: Vec<(&UserId, u64)> =
            self.joined.iter().map(|(user, mseq)| (user, *mseq)).filter(|(_, mseq)| *mseq >= from).collect();
        rest.sort_unstable_by_key(|(_, mseq)| *mseq);
        let next = rest.get(count.max(1)).map_or(0, |(_, mseq)| *mseq);
        let users = rest.into_iter().take(count.max(1)).map(|(user, _)| user.clone()).collect();
        MembersPage { members: self.count(), users, next }
    }
}

/// What became of a change of a user's set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regrouped {
    /// The set is another one. With the version that his record has now, if he has one: who is connected has to hear of it.
    Changed(Option<u64>),
    /// It was so before.
    Same,
    /// He is in as many groups as a user may be.
    Full,
}

/// Puts a group into a user's set, or takes it out. Without a record only the set changes.
pub fn regroup(
    record: Option<&mut Record>,
    set: &mut BTreeSet<GroupId>,
    now_us: u64,
    group: &GroupId,
    is_in: bool,
    bounds: &Bounds,
) -> Regrouped {
    if set.contains(group) == is_in {
        return Regrouped::Same;
    }
    if is_in && set.len() as u64 >= bounds.groups {
        return Regrouped::Full;
    }
    if is_in {
        set.insert(group.clone())
    } else {
        set.remove(group)
    };
    let record = record.filter(|r| r.is_alive(now_us / 1_000));
    Regrouped::Changed(record.map(|record| {
        record.version = now_us.max(record.version + 1);
        record.version
    }))
}

#[cfg(test)]
mod tests;
