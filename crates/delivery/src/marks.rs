//! Read marks, counts and receipts: what the scripts of the same names do, as pure functions over one record.
//!
//! Nothing is kept with a message. A reader or a device has one place a stream, and has everything up to there.

use std::collections::HashMap;

use protocol::limits::{FIELDS_MAX, GROUP_FIELDS_MAX};
use protocol::{Cursor, Envelope, Text, UnixMillis};

use crate::record::{Record, Whose, size};
use crate::types::{Counted, Marked, Reason, Sender};

/// Bytes of entries that one part of a count looks at: with large messages a thousand of them would hold up the
/// backplane for long.
pub const COUNT_BYTES_MAX: u64 = 1024 * 1024;

/// A reader has read up to a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkRequest {
    pub of: Text,
    /// See [`crate::fields`].
    pub field: Text,
    pub cursor: Cursor,
}

/// A part of a stream to be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountRequest {
    pub of: Text,
    /// Behind this place; `None`: from the oldest. One that does not hold counts as the oldest.
    pub after: Option<Cursor>,
    /// One conversation: messages between these two addresses only.
    pub between: Option<(Text, Text)>,
    /// Of a group: the number of the reader's join, for what was stored before it is not for him; 0: everything.
    pub since: u64,
    /// The field of the read mark, and the reader's address.
    pub mark: Text,
    pub reader: Text,
}

/// A part of the places that a record keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldsPage {
    /// How many there are in all.
    pub total: u64,
    pub fields: Vec<(Text, Cursor)>,
    /// Where to go on; 0 at the end.
    pub next: u64,
}

/// The record keeps as many places as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// Places that a record keeps at the most.
pub fn fields_max(whose: Whose) -> u64 {
    if whose == Whose::Group { GROUP_FIELDS_MAX } else { FIELDS_MAX }
}

/// Moves a read mark forward. One that is no place of this inbox any more gives way to any that is.
///
/// # Errors
/// [`NoRoom`]: the mark would be a new one.
pub fn mark(record: Option<&mut Record>, whose: Whose, field: &Text, cursor: Cursor) -> Result<Marked, NoRoom> {
    let Some(record) = record else { return Ok(Marked::NoPlace(Reason::Epoch)) };
    if let Err(reason) = record.check(&cursor) {
        return Ok(Marked::NoPlace(reason));
    }
    match record.cursors.get(field).copied() {
        Some(stored) if record.check(&stored).is_ok() && stored.seq >= cursor.seq => return Ok(Marked::Behind(stored)),
        None if record.cursors.len() as u64 >= fields_max(whose) => return Err(NoRoom),
        _ => {}
    }
    record.cursors.insert(field.clone(), cursor);
    Ok(Marked::Moved)
}

/// Counts one part of a stream: at most so many entries and bytes, at least one entry.
pub fn count(record: Option<&Record>, now_us: u64, request: &CountRequest, entries: u64, bytes: u64) -> Counted {
    let Some(record) = record else { return Counted::default() };
    let after = request.after.filter(|after| record.check(after).is_ok());
    let read = record.cursors.get(&request.mark).filter(|mark| record.check(mark).is_ok());
    let (mut by, mut unread) = (HashMap::<Text, u64>::new(), 0);
    let first = after.map_or(1, |after| (after.seq - record.base_seq) as usize + 1);
    let (mut index, mut taken) = (first, 0);
    while let Some(stored) = record.entries.get(index) {
        taken += size(stored);
        let looked_at = (index - first) as u64;
        if looked_at > 0 && (looked_at >= entries || taken > bytes) {
            break;
        }
        let seq = record.base_seq + index as u64;
        index += 1;
        let Ok(envelope) = Envelope::decode(&stored.envelope) else { continue };
        let is_his = stored.mseq.unwrap_or(0) >= request.since;
        let is_of_both = request.between.as_ref().is_none_or(|(one, other)| {
            let pair = (&envelope.from, &envelope.to);
            pair == (one, other) || pair == (other, one)
        });
        if !is_his || !is_of_both || envelope.is_expired(stored.stamp.at(), UnixMillis(now_us / 1_000)) {
            continue;
        }
        if envelope.from != request.reader && read.is_none_or(|read| seq > read.seq) {
            unread += 1;
        }
        *by.entry(envelope.from).or_default() += 1;
    }
    let next = if index < record.entries.len() { record.place(index - 1) } else { None };
    Counted { by: by.into_iter().collect(), unread, next }
}

/// Who sent the message at a place.
pub fn sender(record: Option<&Record>, at: &Cursor) -> Sender {
    let Some(record) = record else { return Sender::NoPlace };
    match record.check(at) {
        Err(Reason::Retention) => Sender::Expired,
        Err(_) => Sender::NoPlace,
        // The base was trimmed, or is the stub at the start.
        Ok(()) if at.seq == record.base_seq => {
            if at.seq == 0 {
                Sender::NoPlace
            } else {
                Sender::Expired
            }
        }
        Ok(()) => {
            let stored = record.entries.get((at.seq - record.base_seq) as usize);
            let envelope = stored.and_then(|stored| Envelope::decode(&stored.envelope).ok());
            envelope.map_or(Sender::NoPlace, |envelope| Sender::From(envelope.from))
        }
    }
}

/// A part of the places that a record keeps. None goes while the record lives, so that a number of those before says where
/// to go on: one that comes meanwhile may be left out.
pub fn fields(record: Option<&Record>, from: u64, count: usize) -> FieldsPage {
    let Some(record) = record else { return FieldsPage::default() };
    let mut all: Vec<(Text, Cursor)> = record.cursors.iter().map(|(field, at)| (field.clone(), *at)).collect();
    all.sort_unstable_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    let total = all.len() as u64;
    let end = from.saturating_add(count.max(1) as u64);
    let fields = all.into_iter().skip(usize::try_from(from).unwrap_or(usize::MAX)).take(count.max(1)).collect();
    FieldsPage { total, fields, next: if end < total { end } else { 0 } }
}

#[cfg(test)]
mod tests;
