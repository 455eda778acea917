//! What a master does with an asking, and what it tells of its replica.

use delivery::ledger::Ask;
use delivery::{BatchNumber, Place};
use protocol::Stamp;

use super::{Action, Copy, Item, Lane, Mutant, Reply, State};
use crate::model::client::breach;
use crate::model::inbox::Inbox;
use crate::model::rules::Post;

/// One master's memory, or a replica's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Master {
    pub(super) inbox: Inbox,
    /// Of each process: the number of its last batch, and the reply.
    pub(super) ledgers: Vec<Option<(BatchNumber, Vec<Told>)>>,
    /// Writes so far.
    pub(super) offset: u64,
}

/// What a sender is told of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Told {
    Stored(Stamp),
    Found(Stamp),
    Published,
    Unprovable,
}

impl From<Place> for Told {
    fn from(place: Place) -> Self {
        match place {
            Place::Stored(cursor) => Self::Stored(cursor.stamp),
            Place::Found(cursor) => Self::Found(cursor.stamp),
            Place::Published => Self::Published,
            Place::Unprovable => Self::Unprovable,
        }
    }
}

impl Lane {
    pub(super) fn master_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.failovers == 0 {
            return;
        }
        if state.masters.len() <= usize::from(self.failovers) {
            actions.push(Action::Failover);
            if state.replica != *state.master() {
                actions.push(Action::Replicate);
            }
            if state.others < self.others {
                actions.push(Action::Other);
            }
        }
        self.keeper_actions(state, actions);
    }

    /// Appends to one master; what it tells of each message.
    pub(super) fn store(&self, state: &mut State, master: usize, items: &[Item]) -> Vec<Told> {
        // Within a timeout a master's clock has moved with each of its writes.
        let now_us = self.now_us(state, master) + 10 * state.masters[master].offset;
        let post = |item: &Item| Post { m: item.m, is_retry: item.is_retry, is_ephemeral: self.is_ephemeral(item.m) };
        let batch: Vec<Post> = items.iter().map(post).collect();
        let (appended, is_twice) =
            state.masters[master].inbox.append(&self.rules, now_us, &batch, &super::shell::LIMITS);
        if is_twice {
            state.broken |= breach::STORED;
        }
        state.masters[master].offset += 1;
        for item in items.iter().filter(|item| self.is_ephemeral(item.m)) {
            self.publish(state, item.m);
        }
        appended.placed.into_iter().map(|placed| placed.place.into()).collect()
    }

    fn publish(&self, state: &mut State, m: u8) {
        if state.published & (1 << m) != 0 {
            state.broken |= breach::PUBLISHED;
        }
        state.published |= 1 << m;
    }

    pub(super) fn is_ephemeral(&self, m: u8) -> bool {
        self.ephemeral & (1 << m) != 0
    }

    /// An asking reaches its master: what append does with it.
    pub(super) fn arrive(&self, state: &mut State, index: usize) {
        let Copy { process, number, master, deadline_us, items } = state.network.remove(index);
        let lane = if self.mutant == Some(Mutant::LedgerByNode) { 0 } else { process };
        let held = state.masters[master].ledgers.get(lane).cloned().flatten().filter(|_| !self.by_record);
        let ask =
            (self.decide)(held.as_ref().map(|(number, _)| *number), number, deadline_us, self.now_us(state, master));
        let ask = if self.mutant == Some(Mutant::RecordWithoutDeadline) { Ask::Run } else { ask };
        if self.by_record && ask == Ask::Stale {
            // Says nothing of the askings before: it is asked again.
            return;
        }
        let told = match ask {
            Ask::Run => {
                let told = self.store(state, master, &items);
                let ledgers = &mut state.masters[master].ledgers;
                ledgers.resize(ledgers.len().max(lane + 1), None);
                ledgers[lane] = Some((number, told.clone()));
                Some(told)
            }
            Ask::Repeat => {
                if self.mutant == Some(Mutant::EphemeralAgain) {
                    items.iter().filter(|i| self.is_ephemeral(i.m)).for_each(|item| self.publish(state, item.m));
                }
                held.map(|(_, told)| told)
            }
            Ask::Stale => None,
        };
        let is_heard = master == state.at || self.mutant == Some(Mutant::OldAnswers);
        let is_asked = state.current.as_ref().is_some_and(|c| (c.process, c.number) == (process, number));
        if is_asked && is_heard {
            state.answers.push(Reply { number, is_repeat: ask == Ask::Repeat, told });
            state.answers.sort_unstable();
            state.answers.dedup();
        }
    }
}
