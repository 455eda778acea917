//! Keeps what this node answered `sent` until Redis' replicas have it, and appends it again to a master that does not.
//!
//! Rule: docs/delivery.md, Promises. The window itself is pure (`delivery::window`).

use std::time::Duration;

use backplane::{BackplaneError, Batch, BatchAnswer, BatchBuilder, BatchResult, Commands};
use delivery::{Acknowledged, NewMessage, Place, Window};
use metrics::Counter;
use parking_lot::Mutex;
use protocol::Epoch;
use protocol::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use routing::Topology;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// Bytes of messages that are not known to be safe: at 10,000 messages of 1 KB a second, six seconds.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// How often the master is asked how far its replicas are.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What a search for an entry is widened by: the margin of a retry, and the step between two masters' clocks.
const MARGIN_US: u64 = 65_000_000;

#[derive(Debug)]
pub(crate) struct Keeper {
    window: Mutex<Window>,
    /// Of the master that answered last.
    lineage: Mutex<Option<String>>,
    clock: Clock,
    topology: Topology,
    appended_again: Counter,
    unconfirmed: Counter,
}

impl Keeper {
    pub(crate) fn new(topology: Topology, clock: Clock, appended_again: Counter, unconfirmed: Counter) -> Self {
        let (window, lineage) = (Mutex::new(Window::new(BYTES_MAX)), Mutex::default());
        Self { window, lineage, clock, topology, appended_again, unconfirmed }
    }

    /// Keeps what a batch stored.
    pub(crate) fn keep(&self, batch: &Batch, answer: &BatchAnswer) {
        if self.lineage.lock().is_none() {
            return;
        }
        let now = self.clock.now();
        let mut window = self.window.lock();
        for (group, placed) in batch.groups.iter().zip(&answer.groups) {
            for (message, placed) in group.messages.iter().zip(placed.iter().flatten()) {
                if let Place::Stored(cursor) = placed.place {
                    let message = NewMessage { search_us: None, ..message.clone() };
                    window.push(Acknowledged { record: group.record.clone(), message, stamp: cursor.stamp }, now);
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
        let is_other = self.lineage.lock().as_deref().is_some_and(|known| known != lineage);
        if is_other {
            let kept: Vec<Acknowledged> = self.window.lock().replay().cloned().collect();
            let stored = self.append_again(commands, &kept).await?;
            tracing::warn!(kept = kept.len(), stored, "another master: what it lacked was appended again");
            self.appended_again.increment(stored);
        }
        *self.lineage.lock() = Some(lineage.to_owned());
        Ok(())
    }

    async fn append_again(&self, commands: &Commands, kept: &[Acknowledged]) -> Result<u64, BackplaneError> {
        let mut stored = 0;
        let mut rest = kept;
        while !rest.is_empty() {
            let (mut builder, mut taken, mut bytes) = (BatchBuilder::default(), 0, 0);
            for one in rest.iter().take(BATCH_MESSAGES_MAX) {
                bytes += one.message.envelope.len();
                if taken > 0 && bytes > BATCH_BYTES_MAX {
                    break;
                }
                let age_us = commands.now_us().saturating_sub(one.stamp.0);
                let message = NewMessage { search_us: Some(age_us + MARGIN_US), ..one.message.clone() };
                builder.push(&one.record, message, || Epoch(rand::random()));
                taken += 1;
            }
            // No number: this belongs to no lane, and asked twice it finds itself.
            let lane = self.topology.lane(&rest[0].record);
            let batch = builder.finish(lane, None, u64::MAX >> 12);
            if let BatchResult::Answered(answer) = commands.append(&batch).await? {
                let refused = answer.groups.iter().find_map(|group| group.as_ref().err());
                if let Some(why) = refused {
                    return Err(BackplaneError::NotRun(why.clone()));
                }
                let count = |is: fn(&Place) -> bool| {
                    answer.groups.iter().flatten().flatten().filter(|p| is(&p.place)).count() as u64
                };
                stored += count(|place| matches!(place, Place::Stored(_)));
                // In an inbox that is deeper than the search nobody can tell: not stored twice, but said.
                self.unconfirmed.increment(count(|place| matches!(place, Place::Unprovable)));
            }
            rest = &rest[taken..];
        }
        Ok(stored)
    }

    /// Lets go what the replicas have, as long as the generation lasts.
    pub(crate) async fn watch(&self, commands: Commands, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(ASK_EVERY)).await.is_some() {
            let question = self.window.lock().question();
            if let Ok(answer) = commands.replication().await {
                let mut window = self.window.lock();
                window.on_replication(question, &answer, self.clock.now());
                self.unconfirmed.increment(window.take_unconfirmed());
            }
        }
    }
}
