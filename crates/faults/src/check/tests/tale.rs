//! Histories told by hand.

use crate::history::{Change, Event, Level, MessageNo, Step, To, What};

/// A history that is told event by event, a millisecond each. Sender 0 sends to recipient 0; device 0 is his.
#[derive(Clone, Default)]
pub(super) struct Tale {
    pub(super) events: Vec<Event>,
    pause_ms: u64,
}

pub(super) const ME: u32 = 0;

pub(super) const DEN: To = To::Group(7);

pub(super) fn no(count: u32) -> MessageNo {
    MessageNo { sender: 0, count }
}

impl Tale {
    /// Session 1 attached as new.
    pub(super) fn begun() -> Self {
        Self::default().attached(1, "new")
    }

    pub(super) fn and(mut self, what: What) -> Self {
        let at_us = 1_000 * (self.events.len() as u64 + 1 + self.pause_ms);
        self.events.push(Event { at_us, what });
        self
    }

    pub(super) fn asked(self, count: u32, level: Level) -> Self {
        self.and(What::Invoke { message: no(count), recipient: To::User(ME), level })
    }

    pub(super) fn acked(self, count: u32, level: Level) -> Self {
        self.and(What::Acked { message: no(count), level })
    }

    /// Asked for and acknowledged.
    pub(super) fn sent(self, count: u32) -> Self {
        self.asked(count, Level::Stored).acked(count, Level::Stored)
    }

    pub(super) fn replicated(self, count: u32) -> Self {
        self.asked(count, Level::Replicated).acked(count, Level::Replicated)
    }

    pub(super) fn refused(self, count: u32) -> Self {
        self.asked(count, Level::Stored).and(What::Refused { message: no(count) })
    }

    pub(super) fn given_up(self, count: u32) -> Self {
        self.asked(count, Level::Stored).and(What::GivenUp { message: no(count) })
    }

    pub(super) fn attached(self, session: u32, start: &str) -> Self {
        self.attached_as(session, 0, start, None)
    }

    pub(super) fn attached_as(self, session: u32, device: u32, start: &str, lost: Option<u64>) -> Self {
        self.and(What::Attached { session, recipient: ME, device, start: start.to_owned(), lost })
    }

    pub(super) fn detached(self, session: u32) -> Self {
        self.and(What::Detached { session })
    }

    pub(super) fn reset(self, session: u32, reason: &str) -> Self {
        self.and(What::Reset { session, of: None, reason: reason.to_owned(), lost: None })
    }

    pub(super) fn came(self, session: u32, counts: &[u32]) -> Self {
        let came = |tale: Self, &count: &u32| {
            tale.and(What::Delivered { session, message: no(count), to: To::User(ME), again: false })
        };
        counts.iter().fold(self, came)
    }

    pub(super) fn again(self, session: u32, counts: &[u32]) -> Self {
        let again = |tale: Self, &count: &u32| {
            tale.and(What::Delivered { session, message: no(count), to: To::User(ME), again: true })
        };
        counts.iter().fold(self, again)
    }

    pub(super) fn fault(self, begins: bool, proof: &str) -> Self {
        self.and(What::Fault { name: "freeze".to_owned(), begins, proof: proof.to_owned() })
    }

    pub(super) fn rested(self, session: u32) -> Self {
        self.and(What::CaughtUp { session, of: None, ms: Some(20) })
    }

    pub(super) fn log(self, counts: &[u32]) -> Self {
        self.trimmed_log(0, counts)
    }

    pub(super) fn trimmed_log(self, trimmed: u64, counts: &[u32]) -> Self {
        let messages = counts.iter().map(|&count| no(count)).collect();
        self.and(What::Log { recipient: To::User(ME), trimmed, messages, mseqs: Vec::new() })
    }

    /// A step of [`ME`] on his way into [`DEN`] or out of it.
    pub(super) fn step(self, step: Step) -> Self {
        self.and(What::Membership { user: ME, group: 7, step, is_guest: false })
    }

    /// He joins, and the group's stream begins in this session.
    pub(super) fn joined(self, session: u32) -> Self {
        self.step(Step::AsksToJoin).step(Step::Joined).stream(session, "new", false)
    }

    /// He leaves, and the stream ends.
    pub(super) fn left(self, session: u32) -> Self {
        self.step(Step::AsksToLeave).step(Step::Left).and(What::StreamEnded { session, of: DEN })
    }

    pub(super) fn stream(self, session: u32, start: &str, is_named: bool) -> Self {
        self.and(What::Stream { session, of: DEN, start: start.to_owned(), lost: None, is_named })
    }

    /// Asked for and acknowledged, to the group.
    pub(super) fn sent_to_den(self, count: u32) -> Self {
        let asked = self.and(What::Invoke { message: no(count), recipient: DEN, level: Level::Stored });
        asked.acked(count, Level::Stored)
    }

    pub(super) fn came_from_den(self, session: u32, counts: &[u32]) -> Self {
        let came =
            |tale: Self, &count: &u32| tale.and(What::Delivered { session, message: no(count), to: DEN, again: false });
        counts.iter().fold(self, came)
    }

    /// The own inbox and the group's stream.
    pub(super) fn all_rested(self, session: u32) -> Self {
        self.rested(session).and(What::CaughtUp { session, of: Some(DEN), ms: Some(20) })
    }

    /// Each message with the number of the change before it.
    pub(super) fn den_log(self, rows: &[(u32, u64)]) -> Self {
        let messages = rows.iter().map(|&(count, _)| no(count)).collect();
        let mseqs = rows.iter().map(|&(_, mseq)| mseq).collect();
        self.and(What::Log { recipient: DEN, trimmed: 0, messages, mseqs })
    }

    /// The group's record: whom it has, and his changes.
    pub(super) fn den_has(self, members: &[u32], changes: &[(u64, bool)]) -> Self {
        let changes = changes.iter().map(|&(mseq, joined)| Change { mseq, joined, user: ME }).collect();
        self.and(What::Members { group: 7, members: members.to_vec(), changes })
    }

    /// Watcher 1 is told of visitor 1.
    pub(super) fn told(self, session: u32, version: u64, online: bool, is_answer: bool) -> Self {
        self.and(What::Told { watcher: 1, session, visitor: 1, online, version, is_answer })
    }

    pub(super) fn watches(self, session: u32) -> Self {
        self.and(What::Watches { watcher: 1, session })
    }

    pub(super) fn here(self, online: bool) -> Self {
        self.and(What::Here { visitor: 1, online })
    }

    /// This many milliseconds later.
    pub(super) fn after(mut self, ms: u64) -> Self {
        self.pause_ms += ms;
        self
    }
}
