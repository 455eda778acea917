//! Append: retries are searched for, the new ones are stored behind the last, then the inbox is trimmed.

use std::collections::HashMap;

use protocol::limits::{SEARCH_BYTES_MAX, SEARCH_ENTRIES_MAX};
use protocol::node::Stored;
use protocol::{Cursor, Epoch, Stamp, UnixMillis};

use super::{Record, Whose, size};
use crate::types::{Kind, Limits, NewMessage, Place, Placed};

/// Entries that are read at once by a search, and heads that are looked at for their age.
const SEARCH_STEP: usize = 16;
const AGE_STEP: usize = 32;

/// Entries that one append trims at the most, so that a lowered limit does not block Redis.
const TRIM_MAX: u64 = 1_000;

/// What an append did to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// In the order of the messages.
    pub placed: Vec<Placed>,
    /// What is to be published to each node of the address, in order.
    pub live: Vec<LiveRow>,
}

/// One message to be published, with where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveRow {
    pub kind: Kind,
    pub cursor: Cursor,
    pub link: Stamp,
    pub stored: Stored,
}

enum Plan {
    Store,
    Publish,
    Found(Cursor),
    Unprovable,
    /// The same as the message before it at this index.
    Same(usize),
}

/// Appends messages to one address. `first` is the place of the first one in its batch.
///
/// `record` is `None` where there is none; a durable message begins one with `epoch`. What a group keeps says which
/// membership change was the newest.
pub fn append(
    record: &mut Option<Record>,
    whose: Whose,
    epoch: Epoch,
    now_us: u64,
    first: u64,
    messages: &[NewMessage],
    limits: &Limits,
) -> Appended {
    if record.as_ref().is_some_and(|r| !r.is_alive(now_us / 1_000)) {
        *record = None;
    }
    let plans = plan(record.as_ref(), now_us, messages, limits);
    if record.is_none() && plans.iter().any(|p| matches!(p, Plan::Store)) {
        *record = Some(Record::begin(whose, epoch, now_us, limits));
    }
    let online = record.as_ref().is_some_and(|r| !r.locations.is_empty());
    let mut appended = Appended { placed: Vec::with_capacity(messages.len()), live: Vec::new() };
    let mut retried = false;
    for (index, (message, plan)) in messages.iter().zip(plans).enumerate() {
        let stamp = Stamp(now_us + first + index as u64);
        let mseq = record.as_ref().map(|r| r.version).filter(|_| whose == Whose::Group && matches!(plan, Plan::Store));
        let stored = Stored { tag: message.tag, stamp, mseq, envelope: message.envelope.clone() };
        let (place, at) = match (plan, record.as_mut()) {
            (Plan::Store, Some(record)) => {
                let link = record.end().stamp;
                record.bytes += size(&stored);
                record.entries.push_back(stored.clone());
                retried |= is_retry(message);
                appended.live.push(LiveRow { kind: Kind::Durable, cursor: record.end(), link, stored });
                (Place::Stored(record.end()), stamp.at())
            }
            (Plan::Store | Plan::Publish, _) => {
                let cursor = Cursor { stamp, ..Cursor::default() };
                appended.live.push(LiveRow { kind: Kind::Ephemeral, cursor, link: Stamp(0), stored });
                (Place::Published, stamp.at())
            }
            (Plan::Found(cursor), _) => (Place::Found(cursor), cursor.stamp.at()),
            (Plan::Unprovable, _) => (Place::Unprovable, UnixMillis(now_us / 1_000)),
            (Plan::Same(before), _) => {
                let Placed { place, at, .. } = appended.placed[before];
                (if let Place::Stored(cursor) = place { Place::Found(cursor) } else { place }, at)
            }
        };
        appended.placed.push(Placed { place, at, online });
    }
    if let Some(record) = record.as_mut() {
        if retried {
            record.retry_mark_us = now_us;
        }
        if appended.live.iter().any(|row| row.kind == Kind::Durable) {
            record.trim(now_us, limits);
            record.touch(now_us, limits);
        }
    }
    appended
}

/// The first pass: what is to be done with each message, without doing it.
fn plan(record: Option<&Record>, now_us: u64, messages: &[NewMessage], limits: &Limits) -> Vec<Plan> {
    let young = record.is_some_and(|r| now_us.saturating_sub(r.retry_mark_us) < limits.retry_young_us);
    let mut before: HashMap<u64, (usize, bool)> = HashMap::new();
    let mut plans = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        if message.kind == Kind::Ephemeral {
            plans.push(Plan::Publish);
            continue;
        }
        let is_searched = message.search_us.is_some();
        if let Some(&(earlier, earlier_is_searched)) = before.get(&message.tag.0)
            && (is_searched || earlier_is_searched || young)
        {
            plans.push(Plan::Same(earlier));
            continue;
        }
        before.insert(message.tag.0, (index, is_searched));
        let window = message.search_us.or(young.then_some(limits.retry_young_us));
        plans.push(match (record, window) {
            (Some(record), Some(window)) => match record.search(message, now_us.saturating_sub(window)) {
                Search::Found(cursor) => Plan::Found(cursor),
                // A first try that is looked for only because of somebody's retry is not refused for a deep inbox.
                Search::Bound if is_retry(message) => Plan::Unprovable,
                Search::Bound | Search::Absent => Plan::Store,
            },
            _ => Plan::Store,
        });
    }
    plans
}

/// Its sender says that it was tried before.
fn is_retry(message: &NewMessage) -> bool {
    message.search_us.is_some() && message.kind != Kind::Late
}

enum Search {
    Found(Cursor),
    Absent,
    /// The bound came before the answer.
    Bound,
}

impl Record {
    /// Looks for a tag from the end back, until an entry is older than `since_us`.
    fn search(&self, message: &NewMessage, since_us: u64) -> Search {
        // The stub at the start of an epoch is no message.
        let first = usize::from(self.base_seq == 0);
        let (mut seen, mut bytes) = (0, 0);
        let mut end = self.entries.len();
        while end > first {
            let from = end.saturating_sub(SEARCH_STEP).max(first);
            for index in (from..end).rev() {
                let stored = &self.entries[index];
                if stored.tag == message.tag {
                    return Search::Found(self.place(index).unwrap_or_default());
                }
                if stored.stamp.0 < since_us {
                    return Search::Absent;
                }
                bytes += size(stored) as usize;
            }
            seen += end - from;
            end = from;
            if end > first && (seen >= SEARCH_ENTRIES_MAX || bytes >= SEARCH_BYTES_MAX) {
                return Search::Bound;
            }
        }
        // Everything that is retained is young: what was trimmed may have been it.
        if self.base_seq > 0 { Search::Bound } else { Search::Absent }
    }

    /// Keeps the inbox within its limits: number, bytes, age. The newest entry and a base always stay.
    fn trim(&mut self, now_us: u64, limits: &Limits) {
        let deliverable = self.entries.len() as u64 - 1;
        let surplus = deliverable.saturating_sub(limits.inbox_max.max(1)).min(TRIM_MAX);
        (0..surplus).for_each(|_| self.trim_one());
        let mut trimmed = 0;
        while self.bytes > limits.inbox_bytes && self.entries.len() > 2 && trimmed < TRIM_MAX {
            self.trim_one();
            trimmed += 1;
        }
        let cutoff = now_us.saturating_sub(limits.retention_ms.saturating_mul(1_000));
        if self.oldest.0 < cutoff {
            let heads: Vec<Stamp> = self.entries.iter().skip(1).take(AGE_STEP).map(|e| e.stamp).collect();
            let old = heads.iter().take_while(|stamp| stamp.0 < cutoff).count();
            let old = old.min(self.entries.len().saturating_sub(2));
            self.oldest = heads.get(old).or(heads.last()).copied().unwrap_or(self.oldest);
            (0..old).for_each(|_| self.trim_one());
        }
    }

    fn trim_one(&mut self) {
        if let Some(base) = self.entries.pop_front() {
            self.bytes -= size(&base);
            self.base_seq += 1;
        }
    }
}
