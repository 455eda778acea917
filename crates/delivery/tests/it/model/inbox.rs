//! One master's copy of the record, and beside it what the record forgets: everything that was ever stored.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use delivery::record::{Appended, Record};
use delivery::{Kind, Limits};
use protocol::{Cursor, Epoch, Tag};

use super::rules::{Post, Rules, message};

/// Cheap to copy: a replica that has caught up is the same one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Inbox(Arc<Inner>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Inner {
    record: Option<Record>,
    log: Vec<(Cursor, Tag)>,
}

impl Hash for Inner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // What is stored is in the log; of the rest only what can differ where these agree.
        let record = self.record.as_ref();
        record.map(|r| (r.epoch, r.base_seq, r.start(), r.retry_mark_us)).hash(state);
        record.into_iter().flat_map(|r| &r.locations).for_each(|l| {
            let at = &l.registration;
            (&at.node, at.connection, at.reg).hash(state);
        });
        self.log.iter().for_each(|(place, tag)| (place, tag).hash(state));
    }
}

impl Inbox {
    pub(super) fn record(&self) -> Option<&Record> {
        self.0.record.as_ref()
    }

    /// Runs a rule on the record.
    pub(super) fn with<R>(&mut self, rule: impl FnOnce(&mut Option<Record>) -> R) -> R {
        rule(&mut Arc::make_mut(&mut self.0).record)
    }

    /// Appends messages; true where one of them was stored a second time.
    pub(super) fn append(&mut self, rules: &Rules, now_us: u64, batch: &[Post], limits: &Limits) -> (Appended, bool) {
        let inner = Arc::make_mut(&mut self.0);
        let messages: Vec<_> = batch.iter().map(|post| message(*post)).collect();
        let appended = (rules.append)(&mut inner.record, Epoch(now_us.to_be_bytes()), now_us, 0, &messages, limits);
        let mut is_twice = false;
        for row in appended.live.iter().filter(|row| row.kind == Kind::Durable) {
            is_twice |= inner.log.iter().any(|(_, tag)| *tag == row.stored.tag);
            inner.log.push((row.cursor, row.stored.tag));
        }
        (appended, is_twice)
    }

    /// True if nothing is missing between a cursor and what is retained: told by the log, not by the record.
    pub(super) fn holds(&self, cursor: &Cursor) -> bool {
        let Some(record) = &self.0.record else { return false };
        let was_stored = self.0.log.iter().any(|(place, _)| place == cursor);
        (was_stored || *cursor == record.start()) && cursor.seq >= record.base_seq
    }

    /// The retained messages.
    pub(super) fn retained(&self) -> impl Iterator<Item = Tag> {
        let base = self.0.record.as_ref().map(Record::start).unwrap_or_default();
        self.0
            .log
            .iter()
            .filter(move |(place, _)| place.epoch == base.epoch && place.seq > base.seq)
            .map(|(_, tag)| *tag)
    }

    /// The messages that were trimmed.
    pub(super) fn trimmed(&self) -> impl Iterator<Item = Tag> {
        let base = self.0.record.as_ref().map(Record::start).unwrap_or_default();
        self.0
            .log
            .iter()
            .filter(move |(place, _)| place.epoch == base.epoch && place.seq <= base.seq)
            .map(|(_, tag)| *tag)
    }

    pub(super) fn has_trimmed(&self) -> bool {
        self.0.record.as_ref().is_some_and(|r| r.base_seq > 0)
    }
}
