//! Histories told by hand.

use crate::history::{Event, Level, MessageNo, What};

/// A history that is told event by event, a millisecond each. Sender 0 sends to recipient 0; device 0 is his.
#[derive(Clone, Default)]
pub(super) struct Tale {
    pub(super) events: Vec<Event>,
}

pub(super) const ME: u32 = 0;

pub(super) fn no(count: u32) -> MessageNo {
    MessageNo { sender: 0, count }
}

impl Tale {
    /// Session 1 attached as new.
    pub(super) fn begun() -> Self {
        Self::default().attached(1, "new")
    }

    pub(super) fn and(mut self, what: What) -> Self {
        let at_us = 1_000 * (self.events.len() as u64 + 1);
        self.events.push(Event { at_us, what });
        self
    }

    pub(super) fn asked(self, count: u32, level: Level) -> Self {
        self.and(What::Invoke { message: no(count), recipient: ME, level })
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
        self.and(What::Reset { session, reason: reason.to_owned(), lost: None })
    }

    pub(super) fn came(self, session: u32, counts: &[u32]) -> Self {
        let came =
            |tale: Self, &count: &u32| tale.and(What::Delivered { session, message: no(count), to: ME, again: false });
        counts.iter().fold(self, came)
    }

    pub(super) fn again(self, session: u32, counts: &[u32]) -> Self {
        let again =
            |tale: Self, &count: &u32| tale.and(What::Delivered { session, message: no(count), to: ME, again: true });
        counts.iter().fold(self, again)
    }

    pub(super) fn fault(self, begins: bool, proof: &str) -> Self {
        self.and(What::Fault { name: "freeze".to_owned(), begins, proof: proof.to_owned() })
    }

    pub(super) fn rested(self, session: u32) -> Self {
        self.and(What::CaughtUp { session, ms: Some(20) })
    }

    pub(super) fn log(self, counts: &[u32]) -> Self {
        self.trimmed_log(0, counts)
    }

    pub(super) fn trimmed_log(self, trimmed: u64, counts: &[u32]) -> Self {
        let messages = counts.iter().map(|&count| no(count)).collect();
        self.and(What::Log { recipient: ME, trimmed, messages })
    }
}
