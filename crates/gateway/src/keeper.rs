//! Keeps what this node answered `sent` until Redis' replicas have it, and appends it again to a master that does not.
//!
//! Rule: docs/delivery.md, Promises. The window itself is pure (`delivery::window`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use backplane::{BackplaneError, Batch, BatchAnswer, BatchBuilder, BatchResult, Commands};
use delivery::{Acknowledged, Kind, NewMessage, Place, Window};
use metrics::Counter;
use parking_lot::Mutex;
use protocol::Epoch;
use protocol::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use routing::{SlotGroup, Topology};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::current::Current;

/// Bytes of messages that are not known to be safe: at 10,000 messages of 1 KB a second, six seconds.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// How often the master is asked how far its replicas are.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Between two looks at whether everything is confirmed.
const SETTLE_PAUSE: Duration = Duration::from_millis(20);

/// However many slot groups: room for the largest message and those beside it.
const GROUP_BYTES_MIN: usize = 4 * 1024 * 1024;

/// What a search for an entry is widened by, beside the step between two masters' clocks. When its first try was is known
/// here, so this is only for the deadline below; in a busy inbox every second more is a thousand entries to look through.
const MARGIN_US: u64 = 2_000_000;

/// How long a call that appends again may be under way: less than the margin of its search.
const DEADLINE_US: u64 = 1_500_000;

/// How long a call that appends again is waited for. One alone is answered sooner; records on their way between two masters
/// are asked one after the other.
const CALL_WITHIN: Duration = Duration::from_secs(5);

/// How many generations of a master may end before they began because some address refuses what is appended again. The
/// others on this master do not wait for it for ever.
const REFUSALS_MAX: u32 = 3;

/// What is kept of one slot group.
#[derive(Debug)]
struct Part {
    window: Mutex<Window>,
    /// Of the master that answered last.
    lineage: Mutex<Option<String>>,
    /// Some of it is on another master, which is getting its slot: this one's replicas say nothing about it.
    is_moving: AtomicBool,
    /// How often in a row some of it was refused when it was appended again.
    refusals: AtomicU32,
}

/// What became of messages that were appended again.
#[derive(Debug, Default)]
struct Again {
    stored: u64,
    unprovable: u64,
    refused: u64,
    /// Of an address that refused.
    why: Option<String>,
    /// Some of it is on the master that is getting the slot.
    is_elsewhere: bool,
}

#[derive(Debug)]
pub(crate) struct Keeper {
    parts: Vec<Part>,
    clock: Clock,
    topology: Topology,
    current: Arc<Current>,
    appended_again: Counter,
    unconfirmed: Counter,
}

impl Keeper {
    pub(crate) fn new(
        topology: Topology,
        current: Arc<Current>,
        clock: Clock,
        (appended_again, unconfirmed): (Counter, Counter),
    ) -> Self {
        let bytes_max = (BYTES_MAX / topology.groups().count()).max(GROUP_BYTES_MIN);
        let part = |_| Part {
            window: Mutex::new(Window::new(bytes_max)),
            lineage: Mutex::default(),
            is_moving: AtomicBool::new(false),
            refusals: AtomicU32::new(0),
        };
        let parts = topology.groups().map(part).collect();
        Self { parts, clock, topology, current, appended_again, unconfirmed }
    }

    fn part(&self, group: SlotGroup) -> &Part {
        &self.parts[usize::from(group.0)]
    }

    /// Keeps what a batch stored.
    pub(crate) fn keep(&self, batch: &Batch, answer: &BatchAnswer) {
        let part = self.part(self.topology.group_of_lane(batch.lane));
        if part.lineage.lock().is_none() {
            return;
        }
        part.is_moving.fetch_or(answer.is_elsewhere, Ordering::Relaxed);
        let now = self.clock.now();
        let mut window = part.window.lock();
        for (group, placed) in batch.groups.iter().zip(&answer.groups) {
            for (message, placed) in group.messages.iter().zip(placed.iter().flatten()) {
                // Found counts: who stored it may be dead, and this node answered for it now.
                if let Some(cursor) = placed.place.cursor() {
                    let first_us = cursor.stamp.0.saturating_sub(message.search_us.unwrap_or(0));
                    let message = NewMessage { kind: Kind::Durable, search_us: None, ..message.clone() };
                    window.push(Acknowledged { record: group.record.clone(), message, cursor, first_us }, now);
                }
            }
        }
    }

    /// A generation begins: if its master has another history, whatever it may lack is appended again, before anything
    /// new is asked of it. What is there is found by its tag. An address that refuses is tried by a few generations, and
    /// then given up for this master: its record is broken, or its slot stays between two masters.
    ///
    /// # Errors
    /// The generation is of no use; nothing is forgotten, and the next one tries again.
    pub(crate) async fn restore(&self, commands: &Commands) -> Result<(), BackplaneError> {
        let Some(lineage) = commands.lineage() else { return Ok(()) };
        let mut refused = None;
        for &group in commands.groups() {
            let part = self.part(group);
            let is_other = part.lineage.lock().as_deref().is_some_and(|known| known != lineage);
            // What was stored where the slot is going may be there still, or here again: the replicas of neither said so.
            let was_moving = part.is_moving.load(Ordering::Relaxed);
            let mut is_moving = false;
            if is_other || was_moving {
                let kept: Vec<Acknowledged> = part.window.lock().replay().cloned().collect();
                let Again { stored, unprovable, refused: lost, why, is_elsewhere } =
                    self.append_again(commands, group, &kept).await?;
                is_moving = is_elsewhere;
                self.appended_again.increment(stored);
                if let Some(why) = why {
                    if part.refusals.fetch_add(1, Ordering::Relaxed) + 1 < REFUSALS_MAX {
                        refused = Some(why);
                        continue;
                    }
                    tracing::error!(lost, why, "another master: what it lacked is refused, and is given up");
                }
                if !kept.is_empty() {
                    tracing::warn!(kept = kept.len(), stored, "another master: what it lacked was appended again");
                }
                // In an inbox that is deeper than the search nobody can tell: not stored twice, but said.
                self.unconfirmed.increment(unprovable + lost);
                part.refusals.store(0, Ordering::Relaxed);
            }
            *part.lineage.lock() = Some(lineage.to_owned());
            part.is_moving.store(is_moving, Ordering::Relaxed);
        }
        refused.map_or(Ok(()), |why| Err(BackplaneError::NotRun(why)))
    }

    /// What is not where it was stored, nor trimmed there. Where nobody can say, appending finds it by its tag.
    async fn missing(commands: &Commands, kept: &[Acknowledged]) -> Vec<Acknowledged> {
        let mut missing = Vec::new();
        for some in kept.chunks(BATCH_MESSAGES_MAX) {
            let entries: Vec<_> = some.iter().map(|one| (one.record.clone(), one.cursor)).collect();
            let held = commands.holds(&entries).await.unwrap_or_default();
            let held = held.into_iter().chain(std::iter::repeat(false));
            missing.extend(some.iter().zip(held).filter(|(_, is_held)| !is_held).map(|(one, _)| one.clone()));
        }
        missing
    }

    async fn append_again(
        &self,
        commands: &Commands,
        group: SlotGroup,
        kept: &[Acknowledged],
    ) -> Result<Again, BackplaneError> {
        let mut again = Again::default();
        let missing = Self::missing(commands, kept).await;
        let mut rest = &missing[..];
        while !rest.is_empty() {
            let (mut builder, mut taken, mut bytes) = (BatchBuilder::default(), 0, 0);
            for one in rest.iter().take(BATCH_MESSAGES_MAX) {
                bytes += one.message.envelope.len();
                if taken > 0 && bytes > BATCH_BYTES_MAX {
                    break;
                }
                let age_us = commands.now_us().saturating_sub(one.first_us);
                let step_us = self.current.clock_step_us(group, age_us);
                let message = NewMessage { search_us: Some(age_us + step_us + MARGIN_US), ..one.message.clone() };
                builder.push(&one.record, message, || Epoch(rand::random()));
                taken += 1;
            }
            // No number: this belongs to no lane, and asked twice it finds itself. A copy that comes later than the search
            // reaches would not: so it has a deadline.
            let lane = self.topology.lane(&rest[0].record);
            let batch = builder.finish(lane, None, commands.now_us() + DEADLINE_US);
            rest = &rest[taken..];
            let Ok(answered) = tokio::time::timeout(CALL_WITHIN, commands.append(&batch)).await else {
                again.refused += taken as u64;
                again.why.get_or_insert_with(|| "it took too long".to_owned());
                continue;
            };
            let BatchResult::Answered(answer) = answered? else {
                return Err(BackplaneError::NotRun("it came too late".to_owned()));
            };
            again.is_elsewhere |= answer.is_elsewhere;
            for (group, answer) in batch.groups.iter().zip(&answer.groups) {
                if let Err(why) = answer {
                    again.refused += group.messages.len() as u64;
                    again.why.get_or_insert_with(|| why.clone());
                }
            }
            let places = || answer.groups.iter().flatten().flatten().map(|placed| placed.place);
            again.stored += places().filter(|place| matches!(place, Place::Stored(_))).count() as u64;
            again.unprovable += places().filter(|place| matches!(place, Place::Unprovable)).count() as u64;
        }
        Ok(again)
    }

    /// Waits until the replicas that are there have what this node answered for: when it has left, nobody appends it again.
    pub(crate) async fn settle(&self) {
        let awaits = |part: &Part| part.window.lock().awaits_replica(self.clock.now());
        while self.parts.iter().any(awaits) {
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }

    /// Lets go what the replicas have, as long as the generation lasts.
    pub(crate) async fn watch(&self, commands: Commands, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(ASK_EVERY)).await.is_some() {
            // Before the answer: it may be older than what is acknowledged meanwhile.
            let parts = commands.groups().iter().map(|group| self.part(*group));
            let parts: Vec<&Part> = parts.filter(|part| !part.is_moving.load(Ordering::Relaxed)).collect();
            let questions: Vec<_> = parts.iter().map(|part| part.window.lock().question()).collect();
            let Ok(answer) = commands.replication().await else { continue };
            // Offsets of a master that is none any more say nothing, and its successor may have been given these messages.
            if stop.is_cancelled() {
                return;
            }
            for (part, question) in parts.into_iter().zip(questions) {
                let mut window = part.window.lock();
                window.on_replication(question, &answer, self.clock.now());
                self.unconfirmed.increment(window.take_unconfirmed());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asker::tests::fake::{Fake, Mode};
    use backplane::Group;
    use bytes::Bytes;
    use delivery::Placed;
    use protocol::{Cursor, Stamp, Tag};
    use routing::{Layout, Settings};

    fn keeper() -> (Keeper, crate::metrics::Metrics) {
        let settings = Settings { partitions: 1, layout: Layout::Cluster, ..Settings::default() };
        let topology = Topology::new(settings).unwrap();
        let metrics = crate::metrics::Metrics::new();
        let counters = (metrics.appended_again.clone(), metrics.unconfirmed.clone());
        let current = Arc::new(Current::new(topology.clone()));
        (Keeper::new(topology, current, Clock::start(), counters), metrics)
    }

    fn master(lineage: &str, broken: Option<&str>) -> Commands {
        let (lineage, broken) = (Some(lineage.to_owned()), broken.map(Into::into));
        Arc::new(Fake { lineage, broken, ..Fake::of([SlotGroup(0)], Mode::Answers) })
    }

    fn answered(keeper: &Keeper, records: &[&str]) {
        let mut window = keeper.parts[0].window.lock();
        for (&record, n) in records.iter().zip(1..) {
            let envelope = Bytes::from_static(b"x");
            let message = NewMessage { kind: Kind::Durable, tag: Tag(n), envelope, search_us: None };
            let (record, cursor) = (record.into(), Cursor::default());
            window.push(Acknowledged { record, message, cursor, first_us: 0 }, keeper.clock.now());
        }
    }

    /// A message was stored on a master that went away, and its retry on the next one. Then the first master came back, and
    /// the node that had stored the retry looked back to that only: the message was there twice.
    #[tokio::test]
    async fn what_was_a_retry_is_looked_for_as_far_back_as_its_first_try() {
        let (keeper, _metrics) = keeper();
        keeper.restore(&master("old", None)).await.unwrap();
        let (tag, envelope) = (Tag(1), Bytes::from_static(b"x"));
        let message = |search_us, kind| NewMessage { kind, tag, envelope: envelope.clone(), search_us };
        let messages =
            vec![message(Some(30_000_000), Kind::Durable), message(None, Kind::Durable), message(Some(7), Kind::Late)];
        let record = "user:a".into();
        let batch = Batch {
            lane: routing::Lane(0),
            number: None,
            deadline_us: 0,
            epoch: Epoch::default(),
            groups: vec![Group { record, messages }],
        };
        let cursor = Cursor { stamp: Stamp(100_000_000), ..Cursor::default() };
        let placed = |place| Placed { place, at: Stamp(0).at(), online: false };
        let places = [Place::Found(cursor), Place::Stored(cursor), Place::Stored(cursor)].map(placed);
        let answer = BatchAnswer { groups: vec![Ok(places.to_vec())], receivers: Vec::new(), is_elsewhere: false };
        keeper.keep(&batch, &answer);
        let mut window = keeper.parts[0].window.lock();
        let kept: Vec<_> = window.replay().map(|one| (one.first_us, one.message.kind, one.message.search_us)).collect();
        let durable = |first_us| (first_us, Kind::Durable, None);
        assert_eq!(kept, [durable(70_000_000), durable(100_000_000), durable(99_999_993)]);
    }

    /// A key of another type under one user's inbox kept every generation of its master from beginning, for ever.
    #[tokio::test]
    async fn a_record_that_refuses_is_given_up_after_a_few_generations_and_the_others_are_appended() {
        let (keeper, metrics) = keeper();
        keeper.restore(&master("old", None)).await.unwrap();
        answered(&keeper, &["user:a", "user:bad", "user:c"]);
        let new = master("new", Some("user:bad"));
        for _ in 1..REFUSALS_MAX {
            keeper.restore(&new).await.unwrap_err();
        }
        assert!(metrics.render().contains("switchboard_unconfirmed_total 0"), "not given up yet");
        keeper.restore(&new).await.unwrap();
        assert!(metrics.render().contains("switchboard_unconfirmed_total 1"), "{}", metrics.render());
        assert_eq!(keeper.parts[0].lineage.lock().as_deref(), Some("new"));
        assert_eq!(keeper.parts[0].window.lock().len(), 3, "until the replicas have it, or the next master");
    }
}
