//! Each function here takes the place of one shipped decision and is wrong in one way; all else is the shipped code.

use delivery::ledger::{self, Ask};
use delivery::record::{self, Appended, AttachRequest, Record};
use delivery::{Attached, BatchNumber, Consumer, Limits, NewMessage, Registration, Standing, Step, Verified};
use protocol::{Cursor, Epoch, Stamp, Tag};

use super::rules::{self, Rules, SHIPPED};

/// The link is taken to be right.
pub(super) const NO_LINK: Rules =
    Rules { on_live: |consumer, at, _| consumer.on_live(at, consumer.cursor().stamp), ..SHIPPED };

/// A higher number is delivered, whatever lies between.
pub(super) const OVER_A_GAP: Rules = Rules { on_live: over_a_gap, ..SHIPPED };

fn over_a_gap(consumer: &mut Consumer, at: Cursor, link: Stamp) -> Step {
    let before = consumer.cursor();
    if consumer.is_live() && at.epoch == before.epoch && at.seq > before.seq + 1 {
        let _ = consumer.on_page(before, [at], at, false);
        return Step::Deliver;
    }
    consumer.on_live(at, link)
}

/// A pause forgets the read in flight.
pub(super) const PAUSE_FORGETS: Rules = Rules {
    pause: |consumer| {
        consumer.on_failed();
        consumer.pause();
    },
    ..SHIPPED
};

/// A fork is compared with nothing but the cursor.
pub(super) const NO_PLACES: Rules = Rules { places: |consumer| vec![consumer.cursor()], ..SHIPPED };

/// A stamp names the message: the second try of it looks like the first.
pub(super) const STAMP_OF_MESSAGE: Rules = Rules { append: stamp_of_message, ..SHIPPED };

fn stamp_of_message(
    record: &mut Option<Record>,
    epoch: Epoch,
    now_us: u64,
    first: u64,
    messages: &[NewMessage],
    limits: &Limits,
) -> Appended {
    let mut appended = rules::append(record, epoch, now_us, first, messages, limits);
    let Some(record) = record else { return appended };
    record.entries.iter_mut().filter(|e| e.tag != Tag(0)).for_each(|e| e.stamp = Stamp(e.tag.0));
    for row in &mut appended.live {
        let index = (row.cursor.seq - record.base_seq) as usize;
        row.cursor = record.place(index).unwrap_or_default();
        row.link = record.place(index - 1).unwrap_or_default().stamp;
    }
    appended
}

/// A cursor holds wherever there is an entry of its number; one beyond the end is taken for the end.
pub(super) const NUMBERS_ONLY: Rules = Rules {
    attach: |record, epoch, now_us, request, limits| {
        let cursors = request.cursors.iter().map(|c| c.map(|c| by_number(record.as_ref(), c))).collect();
        rules::attach(record, epoch, now_us, &AttachRequest { cursors, ..request.clone() }, limits)
    },
    read: read_by_number,
    verify: verify_by_number,
    ..SHIPPED
};

/// The check compares numbers; attach and read are right.
pub(super) const CHECK_BY_NUMBER: Rules = Rules { verify: verify_by_number, ..SHIPPED };

/// A pull is answered with what another connection read from the same number on: its cursor was checked, not this one.
pub(super) const COALESCED: Rules = Rules { read: read_by_number, ..SHIPPED };

fn by_number(record: Option<&Record>, cursor: Cursor) -> Cursor {
    let Some(record) = record.filter(|r| r.epoch == cursor.epoch && r.base_seq <= cursor.seq) else { return cursor };
    record.place((cursor.seq - record.base_seq) as usize).unwrap_or(record.end())
}

fn read_by_number(record: Option<&Record>, now_us: u64, cursors: &[Cursor]) -> Option<Attached> {
    let cursors: Vec<Cursor> = cursors.iter().map(|c| by_number(record, *c)).collect();
    record::read(record, now_us, &cursors)
}

fn verify_by_number(
    record: &mut Option<Record>,
    now_us: u64,
    registration: &Registration,
    cursor: Cursor,
    limits: &Limits,
) -> Verified {
    let cursor = by_number(record.as_ref(), cursor);
    record::verify(record, now_us, registration, cursor, limits)
}

/// Every position check says that all is well.
pub(super) const NO_CHECK: Rules = Rules {
    verify: |record, now_us, registration, cursor, limits| Verified {
        standing: Standing::Current,
        ..record::verify(record, now_us, registration, cursor, limits)
    },
    ..SHIPPED
};

/// The last one trimmed is not kept: the cursor on it cannot be compared.
pub(super) const NO_BASE: Rules = Rules {
    attach: |record, epoch, now_us, request, limits| {
        let cursors = request.cursors.iter().map(|c| c.filter(|c| !is_base(record.as_ref(), c))).collect();
        rules::attach(record, epoch, now_us, &AttachRequest { cursors, ..request.clone() }, limits)
    },
    ..SHIPPED
};

fn is_base(record: Option<&Record>, cursor: &Cursor) -> bool {
    record.is_some_and(|r| r.start() == *cursor)
}

/// The client hands on whatever comes.
pub(super) const NO_IDS: Rules = Rules { is_new: |_, _| true, ..SHIPPED };

/// The client drops what it has had only where the gateway says `again`.
pub(super) const ONLY_AGAIN: Rules = Rules { is_new: |known, again| !known || !again, ..SHIPPED };

/// `hello` names the newest cursor only.
pub(super) const NEWEST_ONLY: Rules = Rules { names: |kept| kept.iter().take(1).copied().collect(), ..SHIPPED };

/// A retry is stored like any other message.
pub(super) const NO_SEARCH: Rules = Rules {
    append: |record, epoch, now_us, first, messages, limits| {
        let messages: Vec<_> = messages.iter().map(|m| NewMessage { search_us: None, ..m.clone() }).collect();
        rules::append(record, epoch, now_us, first, &messages, limits)
    },
    ..SHIPPED
};

/// The retry mark of a record is not looked at.
pub(super) const NO_MARK: Rules = Rules {
    append: |record, epoch, now_us, first, messages, limits| {
        rules::append(record, epoch, now_us, first, messages, &Limits { retry_young_us: 0, ..*limits })
    },
    ..SHIPPED
};

/// A message is compared with what is stored, not with those before it in its batch.
pub(super) const BATCH_NOT_COMPARED: Rules = Rules { append: batch_not_compared, ..SHIPPED };

fn batch_not_compared(
    record: &mut Option<Record>,
    epoch: Epoch,
    now_us: u64,
    first: u64,
    messages: &[NewMessage],
    limits: &Limits,
) -> Appended {
    const OTHER: u64 = 1 << 32;
    let mut messages = messages.to_vec();
    for index in 1..messages.len() {
        if messages[..index].iter().any(|m| m.tag == messages[index].tag) {
            messages[index].tag.0 += OTHER;
        }
    }
    let mut appended = rules::append(record, epoch, now_us, first, &messages, limits);
    appended.live.iter_mut().for_each(|row| row.stored.tag.0 %= OTHER);
    record.iter_mut().flat_map(|r| &mut r.entries).for_each(|e| e.tag.0 %= OTHER);
    appended
}

/// A detach removes every location of the address.
pub(super) const DETACH_BY_USER: Rules = Rules { detach: |record, _, _, _| record.locations.clear(), ..SHIPPED };

/// A detach removes a registration that came after it.
pub(super) const DETACH_LOWER: Rules =
    Rules { detach: |record, node, connection, _| record.detach(node, connection, u64::MAX), ..SHIPPED };

/// An attach replaces a registration that came after it.
pub(super) const ATTACH_LOWER: Rules = Rules {
    attach: |record, epoch, now_us, request, limits| {
        let at = request.registration.as_ref();
        record.iter_mut().zip(at).for_each(|(r, at)| r.detach(&at.node, at.connection, u64::MAX));
        rules::attach(record, epoch, now_us, request, limits)
    },
    ..SHIPPED
};

/// The position check looks, and puts nothing back.
pub(super) const NO_RESTORE: Rules = Rules {
    verify: |record, now_us, registration, cursor, limits| {
        let before = record.as_ref().map(|r| r.locations.clone());
        let verified = record::verify(record, now_us, registration, cursor, limits);
        record.iter_mut().zip(before).for_each(|(r, before)| r.locations = before);
        verified
    },
    ..SHIPPED
};

type Decide = fn(Option<BatchNumber>, BatchNumber, u64, u64) -> Ask;

/// Whatever comes in its time runs.
pub(super) const NO_NUMBERS: Decide =
    |_, number, deadline_us, now_us| ledger::decide(None, number, deadline_us, now_us);

/// A batch that comes after its successor runs.
pub(super) const LOWER_RUNS: Decide = |held, number, deadline_us, now_us| {
    ledger::decide(held.filter(|held| *held <= number), number, deadline_us, now_us)
};

/// What is too late is stale, even if it ran.
pub(super) const DEADLINE_FIRST: Decide = |held, number, deadline_us, now_us| match now_us > deadline_us {
    true => Ask::Stale,
    false => ledger::decide(held, number, deadline_us, now_us),
};

/// A first asking may come at any time.
pub(super) const NO_DEADLINE: Decide = |held, number, _, now_us| ledger::decide(held, number, u64::MAX, now_us);
