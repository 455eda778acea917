//! Attach, read and verify: where a cursor stands, and where a stream goes on from.

use std::collections::BTreeSet;

use protocol::client::From;
use protocol::limits::{PAGE_BYTES_MAX, PAGE_MESSAGES_MAX};
use protocol::{Cursor, Epoch, GroupId, HandOver, NodeId, Notice, Text, UserId};

use super::{Record, Whose, is_same};
use crate::fields;
use crate::members::Members;
use crate::types::{Attached, Claim, Limits, OfUser, Reason, Registration, Standing, Start, Verified};

/// What an attach names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// What is written. `None`: nothing is registered and no record begun, as for a member of a group that its node has
    /// attached already.
    pub registration: Option<Registration>,
    /// Newest first; `None` stands for one that cannot be read.
    pub cursors: Vec<Option<Cursor>>,
    pub from: From,
    /// What the stored cursor is kept under, see [`crate::fields`]; `None`: none is.
    pub stored: Option<Text>,
    /// Of a group: whose membership is asked for. Without any cursor `oldest` is where his entries begin.
    pub member: Option<UserId>,
    /// Of a user: the version of the set of his groups that is known; another one is answered with the set. `None`: not
    /// asked.
    pub groups_known: Option<u64>,
    /// Of a user: what the connection wants of others of his.
    pub claim: Option<Claim>,
    /// Of a user: his profile, as JSON; `None`: it stays as it is.
    pub profile: Option<Text>,
}

impl AttachRequest {
    /// A registration that goes on from cursors, or from what its device acknowledged.
    pub fn of(registration: Registration, cursors: Vec<Option<Cursor>>, from: From) -> Self {
        let stored = registration.device.as_ref().map(fields::device);
        Self { registration: Some(registration), cursors, from, stored, ..Self::default() }
    }
}

/// What a record is, and what is kept beside it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    pub whose: Whose,
    /// Of a group.
    pub members: Option<&'a Members>,
    /// Of a user: the groups that he is in.
    pub groups: Option<&'a BTreeSet<GroupId>>,
}

/// Registers a connection and reads from the newest cursor that holds, in one step: either an append sees the location,
/// or the attach sees the append. Begins a record where there is none; `None` where there is none and nothing is registered.
///
/// What the request claims is done before, by [`claim`].
pub fn attach(
    record: &mut Option<Record>,
    epoch: Epoch,
    now_us: u64,
    request: &AttachRequest,
    beside: &Beside<'_>,
    limits: &Limits,
) -> Option<Attached> {
    if record.as_ref().is_some_and(|r| !r.is_alive(now_us / 1_000)) {
        *record = None;
    }
    if record.is_none() && request.registration.is_some() {
        *record = Some(Record::begin(beside.whose, epoch, now_us, limits));
    }
    let record = record.as_mut()?;
    let member = request.member.as_ref().map(|user| beside.members.and_then(|m| m.joined.get(user)).copied());
    let mut attached = record.resume(&request.cursors, request.stored.as_ref(), request.from, member);
    attached.joined = member.flatten();
    if let Some(registration) = &request.registration {
        let has_groups = beside.whose == Whose::User && beside.groups.is_some_and(|groups| !groups.is_empty());
        if record.version == 0 && has_groups {
            // His record has expired since he joined them.
            record.version = now_us;
        }
        record.register(registration);
        record.touch(now_us, limits);
        attached.routed = true;
        attached.registered = record.registered(&registration.node);
    }
    attached.version = record.version;
    attached.user = of_user(record, request, beside);
    Some(attached)
}

/// What a user's connection does not know yet: of the set of his groups by its version, of everybody's stream always.
fn of_user(record: &Record, request: &AttachRequest, beside: &Beside<'_>) -> Option<OfUser> {
    let known = request.groups_known?;
    if beside.whose != Whose::User || known != 0 && known == record.version {
        return None;
    }
    let device = request.registration.as_ref().and_then(|r| r.device.as_ref());
    let all = device.and_then(|device| record.cursors.get(&fields::all_device(device)).copied());
    Some(OfUser { groups: beside.groups.into_iter().flatten().cloned().collect(), all })
}

/// Other connections give their places to the one that a request registers: which nodes are to hear of it. They stay
/// locations until their nodes detach them, and every answer to such a node says so again. Who has given his own place takes
/// nobody's: of two that want to be the only one, the later one is.
pub fn claim(record: &mut Option<Record>, now_us: u64, request: &AttachRequest) -> Vec<(NodeId, Notice)> {
    let alive = record.as_mut().filter(|r| r.is_alive(now_us / 1_000));
    let (Some(record), Some(own), Some(claim)) = (alive, &request.registration, request.claim) else {
        return Vec::new();
    };
    let mut told = Vec::new();
    if record.locations.iter().any(|l| is_same(&l.registration, own) && l.hand_over.is_some()) {
        return told;
    }
    for located in record.locations.iter_mut().filter(|l| !is_same(&l.registration, own)) {
        let other = &located.registration;
        let why = match claim {
            Claim::TakesOver(connection) if other.connection == connection => HandOver::TakenOver,
            Claim::Exclusive if own.device.is_some() && other.device == own.device => HandOver::Exclusive,
            Claim::TakesOver(_) | Claim::Exclusive => continue,
        };
        located.hand_over = Some(why);
        told.push((other.node.clone(), Notice::HandOver { connection: other.connection, why }));
    }
    told
}

/// Reads from the newest cursor that holds; registers nothing and begins nothing.
pub fn read(record: Option<&Record>, now_us: u64, cursors: &[Cursor]) -> Option<Attached> {
    let record = record.filter(|r| r.is_alive(now_us / 1_000))?;
    let cursors: Vec<Option<Cursor>> = cursors.iter().copied().map(Some).collect();
    Some(record.resume(&cursors, None, From::Oldest, None))
}

/// Where a cursor stands; puts a location back that was lost.
pub fn verify(
    record: &mut Option<Record>,
    now_us: u64,
    registration: &Registration,
    cursor: Cursor,
    limits: &Limits,
) -> Verified {
    let Some(record) = record.as_mut().filter(|r| r.is_alive(now_us / 1_000)) else {
        return Verified { standing: Standing::Gone, registered: Vec::new(), version: 0 };
    };
    record.register(registration);
    record.touch(now_us, limits);
    let standing = match record.check(&cursor) {
        Ok(()) if cursor == record.end() => Standing::Current,
        Ok(()) => Standing::Behind,
        Err(reason) => Standing::Forked(reason),
    };
    Verified { standing, registered: record.registered(&registration.node), version: record.version }
}

impl Record {
    /// The start of a stream: the newest cursor given that holds, else the stored one, else new. `member`: of a group's, the
    /// number of the join of who asks, if he is one.
    pub(super) fn resume(
        &self,
        cursors: &[Option<Cursor>],
        stored: Option<&Text>,
        from: From,
        member: Option<Option<u64>>,
    ) -> Attached {
        let stored = stored.and_then(|field| self.cursors.get(field));
        let (start, cursor) = match (cursors.first(), stored) {
            (Some(given), _) => self.go_on(*given, &cursors[1..], stored, member),
            (None, Some(stored)) => self.go_on(Some(*stored), &[], None, member),
            (None, None) if from == From::Oldest => (Start::New, self.first(member)),
            (None, None) => (Start::New, self.end()),
        };
        let page = self.page(cursor, PAGE_MESSAGES_MAX, PAGE_BYTES_MAX);
        Attached {
            start,
            cursor,
            head: self.end().seq,
            page,
            routed: false,
            registered: Vec::new(),
            version: self.version,
            joined: None,
            user: None,
        }
    }

    fn go_on(
        &self,
        given: Option<Cursor>,
        earlier: &[Option<Cursor>],
        stored: Option<&Cursor>,
        member: Option<Option<u64>>,
    ) -> (Start, Cursor) {
        let newest = || self.newest(earlier, stored).unwrap_or_else(|| self.first(member));
        let Some(given) = given else {
            return (Start::Reset { reason: Reason::Epoch, lost: None }, newest());
        };
        match self.check(&given) {
            Ok(()) => (Start::Resumed, given),
            // What was trimmed is named with its exact number: everything between the cursor and where it goes on, which is
            // the base, or the end for who is no member: what was stored before he came is not for him.
            Err(Reason::Retention) => {
                let start = if member == Some(None) { self.end() } else { self.start() };
                (Start::Reset { reason: Reason::Retention, lost: Some(start.seq - given.seq) }, start)
            }
            Err(reason) => (Start::Reset { reason, lost: None }, newest()),
        }
    }

    /// Where a stream begins that goes on from nowhere: at the oldest, of a group at what is for who asks.
    fn first(&self, member: Option<Option<u64>>) -> Cursor {
        member.map_or(self.start(), |joined| self.floor(joined))
    }

    /// The place before the first entry that is for a member: the numbers of changes never fall along an inbox. Nothing is
    /// for who is none.
    fn floor(&self, joined: Option<u64>) -> Cursor {
        let Some(joined) = joined else { return self.end() };
        let first = self.entries.partition_point(|entry| entry.mseq.unwrap_or(0) < joined);
        self.place(first.saturating_sub(1)).unwrap_or_default()
    }

    /// The newest of some places that holds.
    fn newest(&self, earlier: &[Option<Cursor>], stored: Option<&Cursor>) -> Option<Cursor> {
        let given = earlier.iter().flatten().find(|c| self.check(c).is_ok());
        let stored = stored.filter(|c| self.check(c).is_ok());
        given.into_iter().chain(stored).max_by_key(|c| c.seq).copied()
    }
}

#[cfg(test)]
mod tests;
