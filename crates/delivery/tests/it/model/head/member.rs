//! A member's connection, as far as a group goes: a seat, a place of its own, and what it was told.

use delivery::{Attached, Consumer, Start, Step};
use protocol::{Cursor, Entry};

use super::breach;
use super::group::Group;
use crate::model::rules::bit;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Out,
    /// A seat is to be asked for.
    Wants,
    Waits,
    Sits(Consumer),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    user: usize,
    phase: Phase,
    /// The number of his join, as his connection knows it; 0: not yet.
    pub(super) joined: u64,
    /// The group's record is asked behind the seat.
    enters: bool,
    /// Where he goes on.
    cursor: Option<Cursor>,
    is_asking: bool,
    /// A page that waits at the head.
    pub(super) page: Option<Held>,
    last: Cursor,
    received: u8,
    /// Stored before he came.
    excused: u8,
    pub(super) broken: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) ticket: u64,
    pub(super) attached: Attached,
}

impl std::hash::Hash for Held {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.ticket, self.attached.cursor, self.attached.page.end, self.attached.version).hash(state);
    }
}

impl Member {
    pub(super) fn new(user: usize) -> Self {
        Self {
            user,
            phase: Phase::Out,
            joined: 0,
            enters: false,
            cursor: None,
            is_asking: false,
            page: None,
            last: Cursor::default(),
            received: 0,
            excused: 0,
            broken: 0,
        }
    }

    pub(super) fn is_out(&self) -> bool {
        self.phase == Phase::Out
    }

    pub(super) fn wants_seat(&self) -> bool {
        self.phase == Phase::Wants
    }

    /// A read is to be asked for.
    pub(super) fn wants_page(&self) -> bool {
        self.is_asking && self.page.is_none()
    }

    pub(super) fn sits(&self) -> bool {
        matches!(self.phase, Phase::Sits(_))
    }

    /// He joined, and knows the number of it, or somebody made him a member and his connection hears of the group only.
    pub(super) fn begin(&mut self, joined: Option<u64>) {
        *self = Self { phase: Phase::Wants, received: self.received, broken: self.broken, ..Self::new(self.user) };
        self.joined = joined.unwrap_or(0);
        self.enters = joined.is_none();
    }

    pub(super) fn ask(&mut self) {
        self.phase = Phase::Waits;
    }

    /// He has a seat. Answers his join, if the group's record was asked for it and knew one.
    pub(super) fn on_seated(&mut self, cursor: Cursor, master: &Group) -> Option<u64> {
        if self.phase != Phase::Waits {
            return None;
        }
        let is_first = self.cursor.is_none();
        let from = *self.cursor.get_or_insert_with(|| {
            self.excused = master.up_to(cursor);
            cursor
        });
        self.last = from;
        let mut consumer = Consumer::following(from);
        let _ = consumer.on_page(from, [], from, false);
        self.phase = Phase::Sits(consumer);
        if !std::mem::take(&mut self.enters) {
            self.doubt(cursor != from);
            return None;
        }
        match master.joined(self.user) {
            None => self.leave(),
            Some(joined) => {
                self.joined = joined;
                if is_first {
                    // His stream starts at his join, wherever the node is.
                    self.excused |= master.before(joined);
                }
                self.doubt(true);
            }
        }
        Some(self.joined).filter(|_| self.sits())
    }

    pub(super) fn leave(&mut self) {
        self.phase = Phase::Out;
        (self.is_asking, self.page) = (false, None);
    }

    pub(super) fn on_entry(&mut self, entry: &Entry, master: &Group) {
        let Phase::Sits(consumer) = &mut self.phase else { return };
        match consumer.on_live(entry.cursor, entry.link) {
            Step::Deliver => self.take(entry.cursor, entry.mseq, master),
            Step::Pull => self.is_asking = true,
            Step::Ignore => {}
        }
    }

    fn take(&mut self, at: Cursor, mseq: Option<u64>, master: &Group) {
        let Some(stored) = master.stored(at) else { return };
        if at.epoch == self.last.epoch && at.seq <= self.last.seq {
            self.broken |= breach::ORDER;
        }
        // What is behind his own floor he steps over, as a connection does.
        if mseq.unwrap_or(0) >= self.joined {
            let was_member = stored.joined[self.user].is_some_and(|joined| joined <= stored.mseq);
            self.broken |= if was_member { 0 } else { breach::OUTSIDER };
            self.received |= bit(stored.tag);
        } else if master.joined(self.user) == Some(self.joined) {
            self.excused |= bit(stored.tag);
        }
        self.last = at;
    }

    pub(super) fn doubt(&mut self, is_one: bool) {
        if let Phase::Sits(consumer) = &mut self.phase
            && is_one
            && consumer.on_doubt() == Step::Pull
        {
            self.is_asking = true;
        }
    }

    pub(super) fn on_head_at(&mut self, at: Cursor) {
        self.doubt(self.place() != Some(at));
    }

    /// Where he reads from.
    pub(super) fn place(&self) -> Option<Cursor> {
        match &self.phase {
            Phase::Sits(consumer) => Some(consumer.cursor()),
            _ => None,
        }
    }

    pub(super) fn on_page(&mut self, attached: &Attached, master: &Group) {
        let Phase::Sits(consumer) = &mut self.phase else { return };
        let mut consumer = consumer.clone();
        if let Start::Reset { .. } = attached.start {
            self.last = attached.cursor;
        }
        for entry in &attached.page.entries {
            self.take(entry.cursor, entry.mseq, master);
        }
        let places = attached.page.entries.iter().map(|entry| entry.cursor);
        let step = consumer.on_page(attached.cursor, places, attached.page.end, attached.page.more);
        self.is_asking = step == Step::Pull;
        self.phase = Phase::Sits(consumer);
    }

    pub(super) fn on_ended(&mut self, mseq: u64) {
        if self.phase == Phase::Out {
            return;
        }
        self.cursor = self.place().or(self.cursor);
        self.leave();
        if self.joined > mseq {
            (self.phase, self.enters) = (Phase::Wants, true);
        }
    }

    /// He asks the group's record what his join is.
    pub(super) fn on_renumbered(&mut self) {
        if self.sits() {
            self.cursor = self.place();
            self.leave();
            (self.phase, self.enters, self.joined) = (Phase::Wants, true, 0);
        }
    }

    /// What is wrong once all is calm: he is a member by the group's record since `joined`, or none.
    pub(super) fn judge(&self, joined: Option<u64>, may_be_out: bool, master: &Group) -> u16 {
        let Some(joined) = joined else { return if self.sits() { breach::LINGERS } else { 0 } };
        if !self.sits() {
            return if may_be_out { 0 } else { breach::THROWN_OUT };
        }
        let his = master.log().iter().filter(|stored| stored.mseq >= joined);
        let missing = his.filter(|stored| (self.received | self.excused) & bit(stored.tag) == 0).count();
        if missing > 0 { breach::MISSED } else { 0 }
    }
}
