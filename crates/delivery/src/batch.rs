//! Group commit: one lane's queue. What arrives while a batch is in flight forms the next one. No timer: an idle lane
//! sends at once, a busy one batches by itself.

use std::collections::VecDeque;

use protocol::Millis;
use protocol::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};

/// Numbers a lane's batches; the ledger in the backplane remembers the last one. Starts at 1 with each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchNumber(pub u64);

/// The queue is full in bytes; the item comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// How the asking of a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every message of it has its answer.
    Answered,
    /// The call did not run: a refusal of the whole, or nobody to ask.
    NotRun,
    /// The ledger says that it did not run and never will.
    Stale,
    /// It may have run: the answer did not come.
    Unknown,
}

/// What the lane does after an asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// The next number begins. `unanswered`: the senders still waiting get `unavailable`.
    Finish { unanswered: bool },
    /// Ask again with the same number and the same deadline, so that it is stored once.
    Ask,
}

/// A batch whose outcome is not known is asked again until it is: a successor must not overtake it.
pub fn after(outcome: Outcome) -> Next {
    match outcome {
        Outcome::Answered => Next::Finish { unanswered: false },
        Outcome::NotRun | Outcome::Stale => Next::Finish { unanswered: true },
        Outcome::Unknown => Next::Ask,
    }
}

/// How many microseconds the lane waits before it asks a batch again; `None`: it asks now.
///
/// `asked`: how many askings of this number went out before. `is_other_master`: the master that is to be asked has another
/// history than one of those that were. The present time is that master's clock. The old master may still run an asking
/// that lies in a socket, and this one has no ledger that would tell: both would publish the batch's ephemeral messages.
/// And the deadline is of the old master's clock: where this one's is behind, an asking would be in time for so long that
/// it outlives the mark of a retry. Past the deadline no copy runs, and this asking is answered from the ledger or is stale.
pub fn wait_before(asked: u32, is_other_master: bool, now_us: u64, deadline_us: u64) -> Option<u64> {
    (asked > 0 && is_other_master && now_us <= deadline_us).then(|| deadline_us - now_us + 1)
}

/// One lane: a queue bounded in bytes, and whether a batch is in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Batcher<T> {
    waiting: VecDeque<Waiting<T>>,
    bytes: usize,
    bytes_max: usize,
    in_flight: bool,
    next: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting<T> {
    item: T,
    bytes: usize,
    since: Millis,
}

impl<T> Batcher<T> {
    pub fn new(bytes_max: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, bytes_max, in_flight: false, next: 1 }
    }

    /// Queues an item.
    ///
    /// # Errors
    /// [`Full`] gives it back: its sender is told `overloaded`.
    pub fn push(&mut self, item: T, bytes: usize, now: Millis) -> Result<(), Full<T>> {
        if self.bytes + bytes > self.bytes_max {
            return Err(Full(item));
        }
        self.bytes += bytes;
        self.waiting.push_back(Waiting { item, bytes, since: now });
        Ok(())
    }

    /// Takes the next batch. `None` while one is in flight, or while nothing waits.
    pub fn begin(&mut self) -> Option<(BatchNumber, Vec<T>)> {
        if self.in_flight || self.waiting.is_empty() {
            return None;
        }
        let mut items = Vec::with_capacity(self.waiting.len().min(BATCH_MESSAGES_MAX));
        let mut bytes = 0;
        while let Some(first) = self.waiting.front() {
            if items.len() >= BATCH_MESSAGES_MAX || (!items.is_empty() && bytes + first.bytes > BATCH_BYTES_MAX) {
                break;
            }
            bytes += first.bytes;
            items.extend(self.waiting.pop_front().map(|w| w.item));
        }
        self.bytes -= bytes;
        self.in_flight = true;
        let number = BatchNumber(self.next);
        self.next += 1;
        Some((number, items))
    }

    /// The batch in flight has ended, however.
    pub fn finish(&mut self) {
        self.in_flight = false;
    }

    /// Takes out what has waited for longer than `age_ms` without being asked: it was never sent.
    pub fn expire(&mut self, now: Millis, age_ms: u64) -> Vec<T> {
        let mut expired = Vec::new();
        while self.waiting.front().is_some_and(|w| now.since(w.since) > age_ms) {
            if let Some(w) = self.waiting.pop_front() {
                self.bytes -= w.bytes;
                expired.push(w.item);
            }
        }
        expired
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(0);

    #[test]
    fn what_arrives_while_a_batch_is_in_flight_forms_the_next() {
        let mut lane = Batcher::new(1_000);
        lane.push("a", 1, NOW).unwrap();
        assert_eq!(lane.begin(), Some((BatchNumber(1), vec!["a"])));
        lane.push("b", 1, NOW).unwrap();
        lane.push("c", 1, NOW).unwrap();
        assert_eq!(lane.begin(), None, "one in flight");
        lane.finish();
        assert_eq!(lane.begin(), Some((BatchNumber(2), vec!["b", "c"])));
        lane.finish();
        assert_eq!(lane.begin(), None);
    }

    #[test]
    fn a_batch_is_bounded_in_messages_and_bytes_and_takes_at_least_one() {
        let mut lane = Batcher::new(usize::MAX);
        for n in 0..=BATCH_MESSAGES_MAX {
            lane.push(n, 1, NOW).unwrap();
        }
        assert_eq!(lane.begin().unwrap().1.len(), BATCH_MESSAGES_MAX);
        lane.finish();
        assert_eq!(lane.begin().unwrap().1, [BATCH_MESSAGES_MAX]);
        lane.finish();
        lane.push(1, 2 * BATCH_BYTES_MAX, NOW).unwrap();
        lane.push(2, 1, NOW).unwrap();
        assert_eq!(lane.begin().unwrap().1, [1]);
    }

    #[test]
    fn a_full_queue_gives_the_item_back_and_takes_again_when_it_drains() {
        let mut lane = Batcher::new(10);
        lane.push("a", 6, NOW).unwrap();
        assert_eq!(lane.push("b", 6, NOW), Err(Full("b")));
        lane.begin().unwrap();
        assert_eq!(lane.bytes(), 0);
        lane.push("b", 6, NOW).unwrap();
    }

    #[test]
    fn what_waited_too_long_unasked_is_taken_out_in_order() {
        let mut lane = Batcher::new(100);
        lane.push("a", 1, Millis(0)).unwrap();
        lane.push("b", 1, Millis(500)).unwrap();
        assert_eq!(lane.expire(Millis(1_001), 1_000), ["a"]);
        assert_eq!(lane.begin(), Some((BatchNumber(1), vec!["b"])));
    }

    #[test]
    fn only_an_unknown_outcome_is_asked_again() {
        assert_eq!(after(Outcome::Unknown), Next::Ask);
        assert_eq!(after(Outcome::Answered), Next::Finish { unanswered: false });
        assert_eq!(after(Outcome::Stale), Next::Finish { unanswered: true });
        assert_eq!(after(Outcome::NotRun), Next::Finish { unanswered: true });
    }

    #[test]
    fn a_batch_that_was_asked_of_another_master_waits_for_its_deadline() {
        assert_eq!(wait_before(1, true, 70, 100), Some(31), "the deadline itself is still in time");
        assert_eq!(wait_before(3, true, 100, 100), Some(1));
        assert_eq!(wait_before(2, true, 101, 100), None, "it is past");
        assert_eq!(wait_before(2, false, 70, 100), None, "this master's ledger knows");
        assert_eq!(wait_before(0, true, 70, 100), None, "nobody was asked");
    }
}
