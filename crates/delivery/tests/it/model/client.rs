//! The client: what it keeps, and what it was told that it never should have been.

use delivery::{Attached, Start};
use protocol::{Cursor, Tag};

use super::rules::{Rules, bit};

/// What was broken, as a set of bits.
pub(super) mod breach {
    pub(in super::super) const LOST: u16 = 1;
    pub(in super::super) const TWICE: u16 = 1 << 1;
    pub(in super::super) const WIRE: u16 = 1 << 2;
    pub(in super::super) const ORDER: u16 = 1 << 3;
    pub(in super::super) const NEEDLESS: u16 = 1 << 4;
    pub(in super::super) const FAR: u16 = 1 << 5;
    pub(in super::super) const STORED: u16 = 1 << 6;
    pub(in super::super) const BEHIND: u16 = 1 << 7;
    pub(in super::super) const UNROUTED: u16 = 1 << 8;
    pub(in super::super) const LATE: u16 = 1 << 9;
    pub(in super::super) const GHOST: u16 = 1 << 10;
    pub(in super::super) const TWO_READS: u16 = 1 << 11;
    pub(in super::super) const PUBLISHED: u16 = 1 << 12;
    pub(in super::super) const REFUSED: u16 = 1 << 13;
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Client {
    /// Newest first: the last one, and an earlier one to fall back to.
    cursors: Vec<Cursor>,
    /// The messages that the application had.
    had: u8,
    /// Those that came on the wire since the last reset.
    on_wire: u8,
    /// Trimmed on the master that said `welcome` or `reset`, which so told that they are gone; another may still have them.
    pub(super) told_gone: u8,
    /// Told `reset` at least once.
    pub(super) was_reset: bool,
    pub(super) broken: u16,
}

impl Client {
    pub(super) fn cursors(&self) -> &[Cursor] {
        &self.cursors
    }

    /// True unless this message was lost in silence.
    pub(super) fn knows_of(&self, tag: Tag) -> bool {
        (self.had | self.told_gone) & bit(tag) != 0
    }

    /// `welcome` or `reset`: where the stream goes on.
    pub(super) fn on_start(&mut self, attached: &Attached) {
        if matches!(attached.start, Start::Reset { .. }) {
            self.on_wire = 0;
            self.was_reset = true;
        } else if self.cursors.first().is_some_and(|last| *last != attached.cursor) {
            self.broken |= breach::ORDER;
        }
        if self.cursors.first() != Some(&attached.cursor) {
            self.cursors = vec![attached.cursor];
        }
    }

    /// One durable message.
    pub(super) fn on_message(&mut self, rules: &Rules, at: Cursor, tag: Tag, again: bool) {
        if !self.cursors.first().is_some_and(|last| at.follows(last)) {
            self.broken |= breach::ORDER;
        }
        if self.on_wire & bit(tag) != 0 {
            self.broken |= breach::WIRE;
        }
        let known = self.had & bit(tag) != 0;
        if known && (rules.is_new)(known, again) {
            self.broken |= breach::TWICE;
        }
        self.on_wire |= bit(tag);
        self.had |= bit(tag);
        self.cursors.insert(0, at);
        self.cursors.truncate(2);
    }
}
