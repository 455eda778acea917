//! What is known of a batch that is asked again while its slot is on its way: there, no ledger tells what ran.

use std::collections::HashMap;

use delivery::{BatchNumber, Kind, NewMessage, Place, Placed};
use parking_lot::Mutex;
use protocol::Stamp;
use routing::Lane;

use crate::api::{Batch, Group};

/// How much further back than its deadline, beside what a retry asks for, a message is searched for that may have been
/// stored by an asking before: further than the first asking was before it.
const SEARCH_US: u64 = 10_000_000;

/// How the newest batch of each lane was asked. A ledger is of one master, and a batch that was asked record by record has
/// none: it is asked so to its end, and its ephemeral messages belong to the first asking.
#[derive(Default)]
pub(super) struct Askings(Mutex<HashMap<Lane, Asking>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asking {
    number: u64,
    /// It may have run before.
    pub(super) is_repeated: bool,
    /// It was asked record by record.
    pub(super) is_moving: bool,
}

impl Askings {
    /// Books an asking, and says what is known of the ones before.
    pub(super) fn begin(&self, batch: &Batch) -> Asking {
        let Some(BatchNumber(number)) = batch.number else { return Asking::default() };
        let mut all = self.0.lock();
        let known = all.get(&batch.lane).filter(|asking| asking.number == number).copied();
        let asking = known.unwrap_or(Asking { number, ..Asking::default() });
        all.insert(batch.lane, Asking { is_repeated: true, ..asking });
        asking
    }

    pub(super) fn moves(&self, batch: &Batch) {
        if let Some(asking) = self.0.lock().get_mut(&batch.lane) {
            asking.is_moving = true;
        }
    }

    /// It did not run: the next asking is the first.
    pub(super) fn undo(&self, batch: &Batch, asking: Asking) {
        if batch.number.is_some() {
            self.0.lock().insert(batch.lane, asking);
        }
    }
}

/// A message of a batch that is asked record by record; `None`: not again. `overdue_us`: how long its deadline has passed,
/// which may be as long as nobody was there to ask.
pub(super) fn as_asked(one: &NewMessage, asking: Asking, overdue_us: u64) -> Option<NewMessage> {
    let reach_us = one.search_us.unwrap_or(0).saturating_add(SEARCH_US).saturating_add(overdue_us);
    match one.kind {
        Kind::Ephemeral => (!asking.is_repeated).then(|| one.clone()),
        Kind::Durable | Kind::Late if !asking.is_repeated => Some(one.clone()),
        Kind::Durable | Kind::Late => {
            Some(NewMessage { kind: Kind::Durable, search_us: Some(reach_us), ..one.clone() })
        }
    }
}

/// The answers for a whole group, from those for what was asked of it: the rest was published before.
pub(super) fn with_published(whole: &Group, placed: Vec<Placed>, now_us: u64) -> Vec<Placed> {
    if placed.len() == whole.messages.len() {
        return placed;
    }
    let online = placed.first().is_some_and(|one| one.online);
    let published = Placed { place: Place::Published, at: Stamp(now_us).at(), online };
    let mut placed = placed.into_iter();
    let one = |one: &NewMessage| match one.kind {
        Kind::Ephemeral => Some(published),
        Kind::Durable | Kind::Late => placed.next(),
    };
    whole.messages.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use protocol::Epoch;

    /// What was published by the first asking was published again by every later one.
    #[test]
    fn a_batch_asked_again_publishes_nothing_and_searches() {
        let message = |kind| NewMessage { kind, tag: protocol::Tag(1), envelope: Bytes::new(), search_us: None };
        let batch = Batch {
            lane: Lane(3),
            number: Some(BatchNumber(7)),
            deadline_us: 0,
            epoch: Epoch::default(),
            groups: vec![Group {
                record: "user:b".into(),
                messages: vec![message(Kind::Ephemeral), message(Kind::Durable)],
            }],
        };
        let askings = Askings::default();
        let first = askings.begin(&batch);
        assert_eq!((first.is_repeated, first.is_moving), (false, false));
        assert!(batch.groups[0].messages.iter().all(|one| as_asked(one, first, 0).as_ref() == Some(one)));
        askings.moves(&batch);
        let again = askings.begin(&batch);
        assert_eq!((again.is_repeated, again.is_moving), (true, true));
        assert_eq!(as_asked(&message(Kind::Ephemeral), again, 0), None);
        let searched = |overdue_us| as_asked(&message(Kind::Durable), again, overdue_us).and_then(|one| one.search_us);
        assert_eq!((searched(0), searched(60_000_000)), (Some(SEARCH_US), Some(SEARCH_US + 60_000_000)));
        let found = Placed { place: Place::Unprovable, at: Stamp(0).at(), online: true };
        let places = with_published(&batch.groups[0], vec![found], 5).into_iter().map(|one| one.place);
        assert_eq!(places.collect::<Vec<_>>(), [Place::Published, Place::Unprovable]);
        let next = Batch { number: Some(BatchNumber(8)), ..batch };
        let first = askings.begin(&next);
        assert!(!first.is_repeated && !first.is_moving);
        askings.undo(&next, first);
        assert_eq!(askings.begin(&next), first, "what did not run was not asked");
    }
}
