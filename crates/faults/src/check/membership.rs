//! Who was a member of a group when a message was stored: as far as his own requests and their answers say it for certain,
//! and as the group's record says it at the end.

use std::collections::{BTreeMap, HashMap};

use super::story::Message;
use super::verdict::{Class, Example, Verdict};
use crate::history::{Change, Step};

/// A request whose answer did not come may still be done for so long: it lay in a frozen node, or in a network that stood.
const LATE_US: u64 = 60_000_000;

/// How many changes a record keeps. Where there were more, it does not tell of the older ones.
const CHANGES_MAX: usize = 4_096;

/// From one moment to another, both within.
type Span = (u64, u64);

/// What one user's requests say about one group.
#[derive(Debug, Default)]
struct Way {
    /// He was a member for certain.
    sure: Vec<Span>,
    /// He may have been one.
    possible: Vec<Span>,
    is_guest: bool,
    /// The last request, unless its outcome is open: when it was answered, and whether he is a member since then.
    ends: Option<(u64, bool)>,
    // While it is read:
    sure_from: Option<u64>,
    possible_from: Option<u64>,
    asked: Option<(Step, u64)>,
    late_until: u64,
}

impl Way {
    fn on_step(&mut self, at_us: u64, step: Step, is_guest: bool) {
        self.is_guest |= is_guest;
        match step {
            Step::AsksToJoin => {
                self.possible_from.get_or_insert(at_us);
                (self.asked, self.ends) = (Some((step, at_us)), None);
            }
            Step::AsksToLeave => {
                self.sure.extend(self.sure_from.take().filter(|from| *from < at_us).map(|from| (from, at_us)));
                (self.asked, self.ends) = (Some((step, at_us)), None);
            }
            Step::Joined => {
                self.sure_from.get_or_insert(at_us.max(self.late_until));
                self.settle(at_us, true);
            }
            Step::Left => {
                let end = at_us.max(self.late_until);
                self.possible.extend(self.possible_from.take().map(|from| (from, end)));
                self.settle(at_us, false);
            }
            Step::Refused => match self.asked.take() {
                // Nothing came of it: everything is as it was.
                Some((Step::AsksToJoin, asked_us)) => {
                    self.possible_from = self.possible_from.filter(|from| *from != asked_us);
                }
                Some((_, asked_us)) => {
                    let last = self.sure.pop_if(|(_, end)| *end == asked_us);
                    self.sure_from = last.map(|(from, _)| from).or(self.sure_from);
                }
                None => {}
            },
            Step::Unknown => (self.asked, self.late_until) = (None, at_us + LATE_US),
        }
    }

    fn settle(&mut self, at_us: u64, is_in: bool) {
        self.asked = None;
        self.ends = (at_us >= self.late_until).then_some((at_us, is_in));
    }

    fn finish(&mut self) {
        self.sure.extend(self.sure_from.take().map(|from| (from, u64::MAX)));
        self.possible.extend(self.possible_from.take().map(|from| (from, u64::MAX)));
    }
}

/// What a group's record says at the end.
#[derive(Debug, Default)]
struct Record {
    members: Vec<u32>,
    changes: Vec<Change>,
}

#[derive(Debug, Default)]
pub(super) struct Memberships {
    /// By user and group.
    ways: BTreeMap<(u32, u32), Way>,
    records: HashMap<u32, Record>,
    /// By message: the number that its entry carries in the final log.
    mseqs: HashMap<u32, u64>,
}

impl Memberships {
    pub(super) fn on_step(&mut self, at_us: u64, (user, group): (u32, u32), step: Step, is_guest: bool) {
        self.ways.entry((user, group)).or_default().on_step(at_us, step, is_guest);
    }

    pub(super) fn on_members(&mut self, group: u32, members: &[u32], changes: &[Change]) {
        self.records.insert(group, Record { members: members.to_vec(), changes: changes.to_vec() });
    }

    pub(super) fn on_entry(&mut self, message: u32, mseq: u64) {
        self.mseqs.insert(message, mseq);
    }

    pub(super) fn finish(&mut self) {
        self.ways.values_mut().for_each(Way::finish);
    }

    /// The message has to come to him: he was a member before it was asked for, and did not ask to leave before it was
    /// answered. A guest's stream itself says from where on everything has to come. Where Redis may lose, also the group's
    /// record has to say so, because what it lost of a membership is lost for him as well.
    pub(super) fn owes(&self, user: u32, group: u32, message: (u32, &Message), may_redis_lose: bool) -> bool {
        let Some(way) = self.ways.get(&(user, group)) else { return false };
        let (number, message) = message;
        let Some(invoked_us) = message.invoked_us else { return false };
        let last_us = message.acked_us.unwrap_or(u64::MAX);
        let is_sure = way.is_guest || way.sure.iter().any(|&(from, to)| from <= invoked_us && last_us <= to);
        is_sure && (way.is_guest || !may_redis_lose || self.is_in_record(user, group, number) == Some(true))
    }

    /// He was surely no member at any moment at which the message can have been stored.
    pub(super) fn forbids(&self, user: u32, group: u32, message: &Message) -> bool {
        let Some(first_us) = message.invoked_us else { return false };
        let last_us = message.acked_us.unwrap_or(u64::MAX);
        let possible = self.ways.get(&(user, group)).map_or(&[][..], |way| &way.possible);
        !possible.iter().any(|&(from, to)| from <= last_us && first_us <= to)
    }

    /// Users and groups where the last answer was to a join, when that was; and the record has him, too.
    pub(super) fn in_the_end(&self) -> impl Iterator<Item = (u32, u32, u64)> {
        let knows = |user: u32, group| self.records.get(&group).is_some_and(|record| record.members.contains(&user));
        let members = self.ways.iter().filter(|(_, way)| !way.is_guest);
        let joined = members.filter_map(|(&(user, group), way)| Some((user, group, way.ends.filter(|(_, is)| *is)?.0)));
        joined.filter(move |&(user, group, _)| knows(user, group))
    }

    /// Whether the record had him when the entry that is kept was stored; `None`: it does not say.
    fn is_in_record(&self, user: u32, group: u32, message: u32) -> Option<bool> {
        let (mseq, record) = (*self.mseqs.get(&message)?, self.records.get(&group)?);
        let own = record.changes.iter().filter(|change| change.user == user && change.mseq <= mseq);
        let last = own.max_by_key(|change| change.mseq);
        let is_whole = record.changes.len() < CHANGES_MAX;
        last.map(|change| change.joined).or(is_whole.then_some(false))
    }
}

/// Joins and leaves that were answered, and that the group's record does not know at the end. Redis may forget them where it
/// may forget messages; but nobody who joined before the first fault, unless it throws keys away.
pub(super) fn forgotten(all: &Memberships, first_fault_us: u64, may_evict: bool, verdict: &mut Verdict) {
    for (&(user, group), way) in &all.ways {
        let Some((at_us, is_in)) = way.ends.filter(|_| !way.is_guest) else { continue };
        let Some(record) = all.records.get(&group) else { continue };
        if record.members.contains(&user) == is_in {
            continue;
        }
        let is_old = at_us < first_fault_us && !may_evict;
        let what = if is_in { "joined and is none of the members" } else { "left and is still a member" };
        let class = if is_old { Class::Lost } else { Class::MembershipLost };
        verdict.add(class, || Example {
            at_us,
            recipient: Some(user),
            says: format!("he {what} of group {group} in the end"),
            ..Example::default()
        });
    }
}
