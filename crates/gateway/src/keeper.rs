//! Keeps what this node answered `sent` until Redis' replicas have it, and appends it again to a master that does not.
//!
//! Rule: docs/delivery.md, Promises. The window itself is pure (`delivery::window`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backplane::{BackplaneError, Batch, BatchAnswer, BatchBuilder, BatchResult, Commands};
use delivery::{Acknowledged, NewMessage, Place, Window};
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

/// However many slot groups: room for the largest message and those beside it.
const GROUP_BYTES_MIN: usize = 4 * 1024 * 1024;

/// What a search for an entry is widened by, beside the step between two masters' clocks.
const MARGIN_US: u64 = 5_000_000;

/// How long a call that appends again may be under way: less than the margin of its search.
const DEADLINE_US: u64 = 3_000_000;

/// What is kept of one slot group.
#[derive(Debug)]
struct Part {
    window: Mutex<Window>,
    /// Of the master that answered last.
    lineage: Mutex<Option<String>>,
    /// Some of it is on another master, which is getting its slot: this one's replicas say nothing about it.
    is_moving: AtomicBool,
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
                    let message = NewMessage { search_us: None, ..message.clone() };
                    window.push(Acknowledged { record: group.record.clone(), message, cursor }, now);
                }
            }
        }
    }

    /// A generation begins: if its master has another history, whatever it may lack is appended again, before anything
    /// new is asked of it. What is there is found by its tag.
    ///
    /// # Errors
    /// The generation is of no use; nothing is forgotten, and the next one tries again.
    pub(crate) async fn restore(&self, commands: &Commands) -> Result<(), BackplaneError> {
        let Some(lineage) = commands.lineage() else { return Ok(()) };
        for &group in commands.groups() {
            let part = self.part(group);
            let is_other = part.lineage.lock().as_deref().is_some_and(|known| known != lineage);
            if is_other {
                let kept: Vec<Acknowledged> = part.window.lock().replay().cloned().collect();
                let stored = self.append_again(commands, group, &kept).await?;
                if !kept.is_empty() {
                    tracing::warn!(kept = kept.len(), stored, "another master: what it lacked was appended again");
                }
                self.appended_again.increment(stored);
            }
            *part.lineage.lock() = Some(lineage.to_owned());
            part.is_moving.store(false, Ordering::Relaxed);
        }
        Ok(())
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
    ) -> Result<u64, BackplaneError> {
        let mut stored = 0;
        let missing = Self::missing(commands, kept).await;
        let mut rest = &missing[..];
        while !rest.is_empty() {
            let (mut builder, mut taken, mut bytes) = (BatchBuilder::default(), 0, 0);
            for one in rest.iter().take(BATCH_MESSAGES_MAX) {
                bytes += one.message.envelope.len();
                if taken > 0 && bytes > BATCH_BYTES_MAX {
                    break;
                }
                let age_us = commands.now_us().saturating_sub(one.cursor.stamp.0);
                let step_us = self.current.clock_step_us(group, age_us);
                let message = NewMessage { search_us: Some(age_us + step_us + MARGIN_US), ..one.message.clone() };
                builder.push(&one.record, message, || Epoch(rand::random()));
                taken += 1;
            }
            // No number: this belongs to no lane, and asked twice it finds itself. A copy that comes later than the search
            // reaches would not: so it has a deadline.
            let lane = self.topology.lane(&rest[0].record);
            let batch = builder.finish(lane, None, commands.now_us() + DEADLINE_US);
            let BatchResult::Answered(answer) = commands.append(&batch).await? else {
                return Err(BackplaneError::NotRun("it came too late".to_owned()));
            };
            if let Some(why) = answer.groups.iter().find_map(|group| group.as_ref().err()) {
                return Err(BackplaneError::NotRun(why.clone()));
            }
            let places = || answer.groups.iter().flatten().flatten().map(|placed| placed.place);
            stored += places().filter(|place| matches!(place, Place::Stored(_))).count() as u64;
            // In an inbox that is deeper than the search nobody can tell: not stored twice, but said.
            let unprovable = places().filter(|place| matches!(place, Place::Unprovable)).count();
            self.unconfirmed.increment(unprovable as u64);
            rest = &rest[taken..];
        }
        Ok(stored)
    }

    /// Lets go what the replicas have, as long as the generation lasts.
    pub(crate) async fn watch(&self, commands: Commands, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(ASK_EVERY)).await.is_some() {
            // Before the answer: it may be older than what is acknowledged meanwhile.
            let parts = commands.groups().iter().map(|group| self.part(*group));
            let parts: Vec<&Part> = parts.filter(|part| !part.is_moving.load(Ordering::Relaxed)).collect();
            let questions: Vec<_> = parts.iter().map(|part| part.window.lock().question()).collect();
            let Ok(answer) = commands.replication().await else { continue };
            for (part, question) in parts.into_iter().zip(questions) {
                let mut window = part.window.lock();
                window.on_replication(question, &answer, self.clock.now());
                self.unconfirmed.increment(window.take_unconfirmed());
            }
        }
    }
}
