//! Attach, read and verify: where a cursor stands, and where a stream goes on from.

use protocol::client::From;
use protocol::limits::{PAGE_BYTES_MAX, PAGE_MESSAGES_MAX};
use protocol::{Cursor, DeviceId, Epoch};

use super::Record;
use crate::types::{Attached, Limits, Reason, Registration, Standing, Start, Verified};

/// What an attach names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    pub registration: Registration,
    /// Newest first; `None` stands for one that cannot be read.
    pub cursors: Vec<Option<Cursor>>,
    pub from: From,
}

/// Registers a connection and reads from the newest cursor that holds, in one step: either an append sees the location,
/// or the attach sees the append. Begins a record where there is none.
pub fn attach(
    record: &mut Option<Record>,
    epoch: Epoch,
    now_us: u64,
    request: &AttachRequest,
    limits: &Limits,
) -> Attached {
    if record.as_ref().is_some_and(|r| !r.is_alive(now_us / 1_000)) {
        *record = None;
    }
    let record = record.get_or_insert_with(|| Record::begin(epoch, now_us, limits));
    let mut attached = record.resume(&request.cursors, request.registration.device.as_ref(), request.from);
    record.register(&request.registration);
    record.touch(now_us, limits);
    attached.routed = true;
    attached.registered = record.registered(&request.registration.node);
    attached
}

/// Reads from the newest cursor that holds; registers nothing and begins nothing.
pub fn read(record: Option<&Record>, now_us: u64, cursors: &[Cursor]) -> Option<Attached> {
    let record = record.filter(|r| r.is_alive(now_us / 1_000))?;
    let cursors: Vec<Option<Cursor>> = cursors.iter().copied().map(Some).collect();
    Some(record.resume(&cursors, None, From::Oldest))
}

/// Where a cursor stands; puts a location back that was lost.
pub fn verify(
    record: &mut Option<Record>,
    now_us: u64,
    registration: &Registration,
    cursor: Cursor,
    limits: &Limits,
) -> Verified {
    let Some(record) = record.as_mut().filter(|r| r.is_alive(now_us / 1_000)) else {
        return Verified { standing: Standing::Gone, registered: Vec::new() };
    };
    record.register(registration);
    record.touch(now_us, limits);
    let standing = match record.check(&cursor) {
        Ok(()) if cursor == record.end() => Standing::Current,
        Ok(()) => Standing::Behind,
        Err(reason) => Standing::Forked(reason),
    };
    Verified { standing, registered: record.registered(&registration.node) }
}

impl Record {
    /// The start of a stream: the newest cursor given that holds, else the device's stored one, else new.
    pub(super) fn resume(&self, cursors: &[Option<Cursor>], device: Option<&DeviceId>, from: From) -> Attached {
        let stored = device.and_then(|device| self.cursors.get(device));
        let (start, cursor) = match (cursors.first(), stored) {
            (Some(given), _) => self.go_on(*given, &cursors[1..], stored),
            (None, Some(stored)) => self.go_on(Some(*stored), &[], None),
            (None, None) if from == From::Oldest => (Start::New, self.start()),
            (None, None) => (Start::New, self.end()),
        };
        let page = self.page(cursor, PAGE_MESSAGES_MAX, PAGE_BYTES_MAX);
        Attached { start, cursor, head: self.end().seq, page, routed: false, registered: Vec::new() }
    }

    fn go_on(&self, given: Option<Cursor>, earlier: &[Option<Cursor>], stored: Option<&Cursor>) -> (Start, Cursor) {
        let Some(given) = given else {
            return (Start::Reset { reason: Reason::Epoch, lost: None }, self.newest(earlier, stored));
        };
        match self.check(&given) {
            Ok(()) => (Start::Resumed, given),
            // What was trimmed is named with its exact number: everything between the cursor and the base.
            Err(Reason::Retention) => {
                let lost = Some(self.base_seq - given.seq);
                (Start::Reset { reason: Reason::Retention, lost }, self.start())
            }
            Err(reason) => (Start::Reset { reason, lost: None }, self.newest(earlier, stored)),
        }
    }

    /// The newest of some places that holds, else the base.
    fn newest(&self, earlier: &[Option<Cursor>], stored: Option<&Cursor>) -> Cursor {
        let given = earlier.iter().flatten().find(|c| self.check(c).is_ok());
        let stored = stored.filter(|c| self.check(c).is_ok());
        given.into_iter().chain(stored).max_by_key(|c| c.seq).copied().unwrap_or_else(|| self.start())
    }
}
