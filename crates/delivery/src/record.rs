//! What the backplane keeps for one address, and the rules of append, attach, verify, read and detach.
//!
//! The embedded backplane runs this file; the Lua scripts must answer alike, which the conformance suite checks. The
//! clock and the epoch are arguments. Rules and reasons: docs/delivery.md.

mod append;
mod attach;

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use protocol::limits::HISTORY_BYTES_MAX;
use protocol::node::Stored;
use protocol::{ConnectionId, Cursor, Epoch, HandOver, NodeId, Page, Stamp, Tag, Text};

use crate::fields::{self, Field};
use crate::marks::fields_max;
use crate::types::{BadBefore, Limits, Reason, Registered, Registration};

pub use append::{Appended, LiveRow, append};
pub use attach::{AttachRequest, Beside, attach, claim, read, verify};

/// Whose record it is: what its version counts, which form its entries have, and how many places it keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    #[default]
    User,
    Group,
    /// Everybody's, or a service's.
    Other,
}

impl Whose {
    /// Told by the name of the record.
    pub fn of(record: &str) -> Self {
        match record.split_once(':') {
            Some(("user", _)) => Self::User,
            Some(("group", _)) => Self::Group,
            _ => Self::Other,
        }
    }
}

/// A registration, and whether another connection has taken its place since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub registration: Registration,
    pub hand_over: Option<HandOver>,
}

/// One address's meta, inbox and the places of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub epoch: Epoch,
    /// The number of the entry at index 0: the base, never delivered, only there to be compared.
    pub base_seq: u64,
    /// Never empty.
    pub entries: VecDeque<Stored>,
    /// Bytes of all entries as stored, the base's too.
    pub bytes: u64,
    /// No entry that can be delivered is older than this stamp.
    pub oldest: Stamp,
    pub expiry_ms: u64,
    /// When the newest retry was appended, in microseconds; 0: never.
    pub retry_mark_us: u64,
    /// Of a group the number of its newest membership change, of a user the version of the set of his groups (0: he never
    /// had any). Only grows: the next one is the backplane's time in microseconds, or this and one.
    pub version: u64,
    pub locations: Vec<Located>,
    /// By field, see [`crate::fields`].
    pub cursors: HashMap<Text, Cursor>,
}

impl Record {
    /// A new life of an inbox: a stub at index 0, so that there is always a base to compare with.
    pub fn begin(whose: Whose, epoch: Epoch, now_us: u64, limits: &Limits) -> Self {
        let stub = Stored { tag: Tag(0), stamp: Stamp(now_us), mseq: None, envelope: Bytes::new() };
        Self {
            epoch,
            base_seq: 0,
            bytes: size(&stub),
            oldest: stub.stamp,
            entries: VecDeque::from([stub]),
            expiry_ms: now_us / 1_000 + limits.life_ms(),
            retry_mark_us: 0,
            // Whoever joined a group before is a member of what is stored from now on.
            version: if whose == Whose::Group { now_us } else { 0 },
            locations: Vec::new(),
            cursors: HashMap::new(),
        }
    }

    /// The place of the entry at an index.
    pub fn place(&self, index: usize) -> Option<Cursor> {
        let stamp = self.entries.get(index)?.stamp;
        Some(Cursor { epoch: self.epoch, seq: self.base_seq + index as u64, stamp })
    }

    /// The place of the newest entry.
    pub fn end(&self) -> Cursor {
        self.place(self.entries.len() - 1).unwrap_or_default()
    }

    /// The place of the base: the position before everything that is retained.
    pub fn start(&self) -> Cursor {
        self.place(0).unwrap_or_default()
    }

    /// True unless nobody has touched the record for its whole life.
    pub fn is_alive(&self, now_ms: u64) -> bool {
        self.expiry_ms > now_ms
    }

    pub(crate) fn touch(&mut self, now_us: u64, limits: &Limits) {
        let now_ms = now_us / 1_000;
        if limits.is_due(self.expiry_ms, now_ms) {
            self.expiry_ms = now_ms + limits.life_ms();
        }
    }

    /// Whether a cursor still is a place of this inbox.
    ///
    /// # Errors
    /// [`Reason`] why it is not.
    pub fn check(&self, cursor: &Cursor) -> Result<(), Reason> {
        if cursor.epoch != self.epoch {
            return Err(Reason::Epoch);
        }
        if cursor.seq < self.base_seq {
            return Err(Reason::Retention);
        }
        // Both numbers are checked before the index is made.
        match self.place(usize::try_from(cursor.seq - self.base_seq).unwrap_or(usize::MAX)) {
            None => Err(Reason::Ahead),
            Some(place) if place == *cursor => Ok(()),
            Some(_) => Err(Reason::Fork),
        }
    }

    /// Up to `count` entries after a place that holds, and as many bytes as fit: at least one.
    pub fn page(&self, after: Cursor, count: usize, bytes: usize) -> Page {
        let first = (after.seq - self.base_seq) as usize + 1;
        let mut rows = Vec::new();
        let mut taken = 0;
        for stored in self.entries.iter().skip(first).take(count) {
            let row = Bytes::from(stored.encode());
            if !rows.is_empty() && taken + row.len() > bytes {
                break;
            }
            taken += row.len();
            rows.push(row);
        }
        let more = first + rows.len() < self.entries.len();
        Page::decode(after, &rows, more)
    }

    /// Entries before a place (or the end), newest first; the flag says whether there are older ones.
    ///
    /// # Errors
    /// [`BadBefore`]: the place is none of this inbox. One that was trimmed has nothing before it, which is no error.
    pub fn history(&self, before: Option<Cursor>, limit: usize) -> Result<(Page, bool), BadBefore> {
        let end = match before {
            None => self.entries.len(),
            Some(cursor) => match self.check(&cursor) {
                Ok(()) => (cursor.seq - self.base_seq) as usize,
                Err(Reason::Retention) => 0,
                Err(_) => return Err(BadBefore),
            },
        };
        let mut first = end;
        let mut taken = 0;
        while first > 1 && end - first < limit {
            taken += size(&self.entries[first - 1]) as usize;
            if first < end && taken > HISTORY_BYTES_MAX {
                break;
            }
            first -= 1;
        }
        let rows: Vec<Bytes> = (first..end).filter(|&i| i > 0).map(|i| Bytes::from(self.entries[i].encode())).collect();
        let start = self.place(first.saturating_sub(1)).unwrap_or_default();
        Ok((Page::decode(start, &rows, false), first > 1))
    }

    /// A device has everything up to the cursor. Only a place of this inbox counts, and none goes back. A place in
    /// everybody's stream is another record's: of two the one that was stored later counts.
    pub fn ack(&mut self, whose: Whose, field: &Text, cursor: Cursor) {
        let is_foreign = matches!(fields::parse(field), Field::AllDevice(_));
        if !is_foreign && self.check(&cursor).is_err() {
            return;
        }
        match self.cursors.get(field).copied() {
            Some(stored) if is_foreign && stored.stamp > cursor.stamp => {}
            Some(stored) if !is_foreign && self.check(&stored).is_ok() && stored.seq >= cursor.seq => {}
            None if self.cursors.len() as u64 >= fields_max(whose) => {}
            _ => drop(self.cursors.insert(field.clone(), cursor)),
        }
    }

    /// Writes a location; a lower registration number than the one there does nothing. Who gave its place does not get it
    /// back by registering again.
    fn register(&mut self, registration: &Registration) {
        let same = |l: &&mut Located| is_same(&l.registration, registration);
        match self.locations.iter_mut().find(same) {
            Some(there) if there.registration.reg > registration.reg => {}
            Some(there) => there.registration = registration.clone(),
            None => self.locations.push(Located { registration: registration.clone(), hand_over: None }),
        }
    }

    /// Removes exactly this registration: never one that came after it, never that of another connection.
    pub fn detach(&mut self, node: &NodeId, connection: ConnectionId, reg: u64) {
        self.locations
            .retain(|Located { registration: r, .. }| r.node != *node || r.connection != connection || r.reg > reg);
    }

    /// What is registered for one node.
    pub fn registered(&self, node: &NodeId) -> Vec<Registered> {
        let here = self.locations.iter().filter(|l| l.registration.node == *node);
        let one = |Located { registration: r, hand_over }: &Located| Registered {
            connection: r.connection,
            reg: r.reg,
            hand_over: *hand_over,
        };
        here.map(one).collect()
    }

    /// How many users are connected to a group or to everybody's stream: each node says so where a device is named
    /// otherwise.
    pub fn audience(&self) -> u64 {
        let of = |l: &Located| {
            let said = l.registration.device.as_ref()?.as_str();
            said.bytes().all(|b| b.is_ascii_digit()).then(|| said.parse::<u32>().ok())?
        };
        self.locations.iter().filter_map(of).map(u64::from).sum()
    }

    /// The nodes where the address is, each once, in the order of their first registration.
    pub fn nodes(&self) -> Vec<&NodeId> {
        let mut seen = BTreeMap::new();
        self.locations.iter().map(|l| &l.registration.node).filter(|n| seen.insert(*n, ()).is_none()).collect()
    }
}

/// The same connection of the same node.
fn is_same(one: &Registration, other: &Registration) -> bool {
    one.node == other.node && one.connection == other.connection
}

/// Bytes of an entry as stored.
pub(crate) fn size(stored: &Stored) -> u64 {
    let head = if stored.mseq.is_some() { 25 } else { 17 };
    head + stored.envelope.len() as u64
}

#[cfg(test)]
mod tests;
