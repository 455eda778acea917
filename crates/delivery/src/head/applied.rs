//! Which membership changes a node has applied: the number of the newest, and the few before it.

use std::collections::VecDeque;

use protocol::{Change, UserId};

/// Changes that are remembered: as many as a channel may be behind an answer, and as a user may need to sit down after his
/// join was answered. What is older is asked.
const RECENT: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Applied {
    number: u64,
    /// Oldest first, up to `number`; nothing lies between two of them.
    recent: VecDeque<Change>,
    /// The number before the oldest of them.
    since: u64,
}

impl Applied {
    /// Begins with this number; what was before it is not known.
    pub(super) fn at(number: u64) -> Self {
        Self { number, recent: VecDeque::new(), since: number }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// True if everything up to this number was applied, by the same history.
    pub(super) fn knows(&self, mseq: u64) -> bool {
        mseq == self.number || mseq == self.since || self.recent.iter().any(|change| change.mseq == mseq)
    }

    /// True if the number is too old to be told from one of a history that was lost.
    pub(super) fn is_old(&self, mseq: u64) -> bool {
        mseq < self.since
    }

    pub(super) fn push(&mut self, change: Change) {
        self.number = change.mseq;
        self.recent.push_back(change);
        if self.recent.len() > RECENT {
            self.since = self.recent.pop_front().map_or(self.since, |oldest| oldest.mseq);
        }
    }

    /// The record has a higher number and nobody changed: it began anew.
    pub(super) fn raise(&mut self, number: u64) {
        self.number = self.number.max(number);
    }

    /// The last change of a user behind a number; `None`: it reaches too far back to tell.
    pub(super) fn last_of(&self, user: &UserId, behind: u64) -> Option<Option<&Change>> {
        let is_his = |change: &&Change| change.user == *user && change.mseq > behind;
        (behind >= self.since).then(|| self.recent.iter().rev().find(is_his))
    }
}
