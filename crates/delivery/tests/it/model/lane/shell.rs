//! What the publisher's shell does around the lane's rules, and what the backplane does with an asking.

use delivery::batch::{Next, Outcome, after};
use delivery::ledger::Ask;
use delivery::{Batcher, Limits, Place};
use protocol::Millis;

use super::{Copy, Lane, State};
use crate::model::client::breach;
use crate::model::rules::{START_US, bit, limits};

/// The least command timeout that leaves room for the microseconds of a model's appends.
const TIMEOUT_US: u64 = 1_000;
/// A retry mark is young for four command timeouts, and a retry searches back beyond all of a model's time.
const LIMITS: Limits = Limits { retry_young_us: 4 * TIMEOUT_US, ..limits(100) };

impl State {
    fn now_us(&self) -> u64 {
        START_US + u64::from(self.ticks) * TIMEOUT_US + u64::from(self.micros)
    }

    fn now(&self) -> Millis {
        Millis(u64::from(self.ticks))
    }

    pub(super) fn stored(&self) -> u8 {
        self.inbox.retained().fold(0, |set, tag| set | bit(tag))
    }

    /// The sets of senders without an answer: each is told once.
    fn untold(&self, items: &[u8]) -> u8 {
        let told = self.sent | self.unknown | self.unavailable;
        items.iter().fold(0, |set, m| set | 1 << m) & !told
    }
}

impl Lane {
    pub(super) fn send(state: &mut State) {
        let _ = state.batcher.push(state.messages, 1, state.now());
        state.messages += 1;
    }

    pub(super) fn begin(state: &mut State) {
        let Some((number, items)) = state.batcher.begin() else { return };
        let deadline_us = state.now_us() + 2 * TIMEOUT_US;
        state.current = Some(Copy { process: state.process, number, deadline_us, items });
        state.may_have_run = false;
        Self::ask(state);
    }

    fn ask(state: &mut State) {
        state.asks += 1;
        state.network.extend(state.current.clone());
        state.network.sort_unstable();
    }

    /// The answer will not come.
    pub(super) fn lose(&self, state: &mut State, is_told: bool) {
        state.may_have_run = true;
        if is_told && let Some(current) = &state.current {
            state.unknown |= state.untold(&current.items);
        }
        self.end(state, Outcome::Unknown);
    }

    /// An asking has ended.
    pub(super) fn end(&self, state: &mut State, outcome: Outcome) {
        match after(outcome) {
            Next::Ask if self.new_number => {
                let Some(given_up) = state.current.take() else { return };
                for m in given_up.items {
                    let _ = state.batcher.push(m, 1, state.now());
                }
                state.batcher.finish();
            }
            Next::Ask => Self::ask(state),
            Next::Finish { unanswered } => {
                let Some(ended) = state.current.take() else { return };
                let untold = state.untold(&ended.items);
                if unanswered && (!state.may_have_run || outcome == Outcome::Stale) {
                    state.unavailable |= untold;
                } else if unanswered {
                    state.unknown |= untold;
                } else {
                    state.sent |= untold;
                }
                state.answers.retain(|(number, _)| *number != ended.number);
                state.batcher.finish();
            }
        }
    }

    /// What waited one timeout unasked.
    pub(super) fn expire(state: &mut State) -> Option<()> {
        let expired = state.batcher.expire(state.now(), 0);
        state.unavailable |= state.untold(&expired);
        (!expired.is_empty()).then_some(())
    }

    /// The process dies: its senders know nothing, what it wrote is still under way.
    pub(super) fn restart(&self, state: &mut State) {
        let all: Vec<u8> = (0..state.messages).collect();
        state.unknown |= state.untold(&all);
        state.process += 1;
        let ledger = if self.ledger_by_node { state.ledgers[0] } else { None };
        state.ledgers.push(ledger);
        state.batcher = Batcher::new(1 << 20);
        state.current = None;
        state.answers.clear();
    }

    /// Another node asks at once, and in time.
    pub(super) fn retry(&self, state: &mut State, m: u8) {
        state.retries += 1;
        state.retried |= 1 << m;
        self.store(state, &[m], true);
    }

    fn store(&self, state: &mut State, items: &[u8], is_retry: bool) {
        let now_us = state.now_us();
        state.micros += 10;
        let batch: Vec<_> = items.iter().map(|m| (*m, is_retry)).collect();
        let (appended, is_twice) = state.inbox.append(&self.rules, now_us, &batch, &LIMITS);
        if is_twice {
            state.broken |= breach::STORED;
        }
        debug_assert!(appended.placed.iter().all(|p| p.place != Place::Published));
    }

    /// An asking reaches the backplane: what append does with it.
    pub(super) fn arrive(&self, state: &mut State, index: usize) {
        let Copy { process, number, deadline_us, items } = state.network.remove(index);
        let ledger = if self.ledger_by_node { 0 } else { process };
        let ask = (self.decide)(state.ledgers[ledger], number, deadline_us, state.now_us());
        if ask == Ask::Run {
            self.store(state, &items, false);
            state.ledgers[ledger] = Some(number);
        }
        let is_asked = state.current.as_ref().is_some_and(|c| (c.process, c.number) == (process, number));
        if is_asked {
            state.answers.push((number, ask));
            state.answers.sort_unstable_by_key(|(number, ask)| (*number, *ask as u8));
            state.answers.dedup();
        }
    }

    pub(super) fn answer(&self, state: &mut State, index: usize) {
        let (_, ask) = state.answers.remove(index);
        let outcome = if ask == Ask::Stale { Outcome::Stale } else { Outcome::Answered };
        self.end(state, outcome);
    }
}
