//! One lane's batch, grouped by address, and its answer.

use std::collections::HashMap;

use delivery::{BatchNumber, NewMessage, Placed};
use protocol::{Epoch, NodeId, Text};
use routing::Lane;

/// What one append call stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub lane: Lane,
    /// The ledger's number; `None` touches no ledger.
    pub number: Option<BatchNumber>,
    /// By the backplane's clock, in microseconds: after it the batch is stale. One for all its askings.
    pub deadline_us: u64,
    /// Of every inbox that begins with this batch. Epochs are only ever compared within one record, so several may share one.
    pub epoch: Epoch,
    pub groups: Vec<Group>,
}

/// The messages to one address, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub record: Text,
    pub messages: Vec<NewMessage>,
}

/// Where a message lies in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub group: usize,
    pub index: usize,
}

/// Groups messages by address; each address keeps its order.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    epoch: Option<Epoch>,
    groups: Vec<Group>,
    by_record: HashMap<Text, usize>,
}

impl BatchBuilder {
    /// Adds a message; `epoch` is asked for with the first one.
    pub fn push(&mut self, record: &Text, message: NewMessage, epoch: impl FnOnce() -> Epoch) -> Slot {
        self.epoch.get_or_insert_with(epoch);
        let group = *self.by_record.entry(record.clone()).or_insert_with(|| {
            self.groups.push(Group { record: record.clone(), messages: Vec::with_capacity(1) });
            self.groups.len() - 1
        });
        self.groups[group].messages.push(message);
        Slot { group, index: self.groups[group].messages.len() - 1 }
    }

    pub fn finish(self, lane: Lane, number: Option<BatchNumber>, deadline_us: u64) -> Batch {
        Batch { lane, number, deadline_us, epoch: self.epoch.unwrap_or_default(), groups: self.groups }
    }
}

/// What became of a batch that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchResult {
    Answered(BatchAnswer),
    /// It did not run and never will: its number or its deadline has passed.
    Stale,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchAnswer {
    /// In the order of the groups: the places of its messages, or why nothing of it was stored.
    pub groups: Vec<Result<Vec<Placed>, String>>,
    /// Nodes that were published to, and how many subscribers heard it. Only a hint; empty on a repeated asking.
    pub receivers: Vec<(NodeId, u64)>,
    /// Some of it was stored on the master that is getting this slot: this generation's replicas do not have it.
    pub is_elsewhere: bool,
}

impl BatchAnswer {
    /// The answer for one message.
    ///
    /// # Errors
    /// Why its address refused it; also where the answer is shorter than the batch, which no backplane gives.
    pub fn get(&self, slot: Slot) -> Result<Placed, &str> {
        match self.groups.get(slot.group) {
            Some(Ok(placed)) => placed.get(slot.index).copied().ok_or("the backplane's answer is too short"),
            Some(Err(why)) => Err(why),
            None => Err("the backplane's answer is too short"),
        }
    }
}
