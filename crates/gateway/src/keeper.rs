//! Keeps what this node answered for (messages, joins and leaves) until Redis' replicas have it, and asks it again of a
//! master that does not.
//!
//! Rule: docs/delivery.md, Promises. The window and the order of asking again are pure (`delivery::window`, `again`).

mod again;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use backplane::{BackplaneError, Batch, BatchAnswer, Commands};
use delivery::{Acknowledged, Kind, NewMessage, Promise, Window};
use metrics::Counter;
use parking_lot::Mutex;
use routing::{SlotGroup, Topology};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::current::Current;
use again::Outcome;

/// Bytes of what is not known to be safe: at 10,000 messages of 1 KB a second, six seconds.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// How often the master is asked how far its replicas are.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Between two looks at whether everything is confirmed.
const SETTLE_PAUSE: Duration = Duration::from_millis(20);

/// However many slot groups: room for the largest message and those beside it.
const GROUP_BYTES_MIN: usize = 4 * 1024 * 1024;

/// How many generations of a master may end before they began because some address refuses what is appended again. The
/// others on this master do not wait for it for ever.
const REFUSALS_MAX: u32 = 3;

/// What is kept of one slot group.
#[derive(Debug)]
struct Part {
    window: Mutex<Window<Promise>>,
    /// Of the master that answered last.
    lineage: Mutex<Option<String>>,
    /// Some of it is on another master, which is getting its slot: this one's replicas say nothing about it.
    is_moving: AtomicBool,
    /// How often in a row some of it was refused when it was appended again.
    refusals: AtomicU32,
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
                    let record = group.record.clone();
                    window.push(Promise::Message(Acknowledged { record, message, cursor, first_us }), now);
                }
            }
        }
    }

    /// Keeps joins and leaves of this slot group that were answered.
    pub(crate) fn promise(&self, group: SlotGroup, promises: impl IntoIterator<Item = Promise>) {
        let part = self.part(group);
        if part.lineage.lock().is_none() {
            return;
        }
        let (now, mut window) = (self.clock.now(), part.window.lock());
        promises.into_iter().for_each(|promise| window.push(promise, now));
    }

    /// A generation begins: if its master has another history, whatever it may lack is asked again, before anything new is
    /// asked of it. Messages that are there are found by their tags, changes of members by their numbers. An address that
    /// refuses is tried by a few generations, and then given up for this master: its record is broken, or its slot stays
    /// between two masters.
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
                let kept: Vec<Promise> = part.window.lock().replay().cloned().collect();
                let count = kept.len();
                let Outcome { stored, changed, unconfirmed, refused: lost, why, is_elsewhere } =
                    self.ask_again(commands, group, kept).await?;
                is_moving = is_elsewhere;
                self.appended_again.increment(stored);
                if let Some(why) = why {
                    if part.refusals.fetch_add(1, Ordering::Relaxed) + 1 < REFUSALS_MAX {
                        refused = Some(why);
                        continue;
                    }
                    tracing::error!(lost, why, "another master: what it lacked is refused, and is given up");
                }
                if count > 0 {
                    tracing::warn!(kept = count, stored, changed, "another master: what it lacked was asked again");
                }
                // In an inbox that is deeper than the search nobody can tell: not stored twice, but said.
                self.unconfirmed.increment(unconfirmed + lost);
                part.refusals.store(0, Ordering::Relaxed);
            }
            *part.lineage.lock() = Some(lineage.to_owned());
            part.is_moving.store(is_moving, Ordering::Relaxed);
        }
        refused.map_or(Ok(()), |why| Err(BackplaneError::NotRun(why)))
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
mod tests;
