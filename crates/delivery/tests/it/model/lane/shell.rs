//! What the publisher's shell does around the lane's rules, and what senders do.

use delivery::batch::{Next, Outcome, after};
use delivery::{Batcher, Limits, Replication, Window};
use protocol::{Millis, Tag};

use super::keeper::Watch;
use super::master::{Master, Told};
use super::{Action, Copy, Item, Lane, Mutant, State};
use crate::model::check::Memo;
use crate::model::rules::{START_US, bit, limits};

/// The least command timeout that leaves room for the microseconds of a model's appends.
const TIMEOUT_US: u64 = 1_000;
/// A retry mark is young for four command timeouts, and a retry searches back beyond all of a model's time.
pub(super) const LIMITS: Limits = Limits { retry_young_us: 4 * TIMEOUT_US, ..limits(100) };

/// A node that has seen a replica.
fn window() -> Window {
    let mut window = Window::new(1 << 20);
    let answer = Replication { master_offset: 0, replica_offsets: vec![0] };
    window.on_replication(window.question(), &answer, Millis(0));
    window
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            masters: vec![Master::default()],
            replica: Master::default(),
            at: 0,
            batcher: Batcher::new(1 << 20),
            current: None,
            asked: 0,
            is_other: false,
            is_due: false,
            may_have_run: false,
            network: Vec::new(),
            answers: Vec::new(),
            window: window(),
            watch: Watch::Idle,
            owes: false,
            process: 0,
            ticks: 0,
            asks: 0,
            retries: 0,
            others: 0,
            messages: 0,
            sent: 0,
            unknown: 0,
            unavailable: 0,
            promised: 0,
            unconfirmed: 0,
            retried: 0,
            published: 0,
            broken: 0,
            memo: Memo::default(),
        }
    }

    pub(super) fn master(&self) -> &Master {
        &self.masters[self.masters.len() - 1]
    }

    fn now(&self) -> Millis {
        Millis(u64::from(self.ticks))
    }

    /// What the surviving log keeps, in its order.
    pub(super) fn log(&self) -> impl Iterator<Item = Tag> {
        self.master().inbox.retained()
    }

    pub(super) fn stored(&self) -> u8 {
        self.log().fold(0, |set, tag| set | bit(tag))
    }

    /// The sets of senders without an answer: each is told once.
    fn untold(&self, items: &[Item]) -> u8 {
        let told = self.sent | self.unknown | self.unavailable;
        items.iter().filter(|item| !item.is_retry).fold(0, |set, item| set | 1 << item.m) & !told
    }
}

impl Lane {
    /// The clock of a master.
    pub(super) fn now_us(&self, state: &State, master: usize) -> u64 {
        START_US + u64::from(state.ticks) * TIMEOUT_US - self.behind * master as u64 * TIMEOUT_US
    }

    pub(super) fn lane_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let may_ask = state.asks < self.asks;
        match &state.current {
            None if state.batcher.bytes() > 0 && may_ask => actions.push(Action::Begin),
            None => {}
            Some(current) => {
                let wait = (self.wait)(state.asked, state.is_other, self.now_us(state, state.at), current.deadline_us);
                if may_ask && state.is_due && wait.is_none() {
                    actions.push(Action::Ask);
                }
                if may_ask && !state.is_due {
                    actions.push(Action::Break);
                }
                // What a sender was told matters where it tries again.
                if may_ask && !state.is_due && (self.retries > 0 || self.failovers == 0) {
                    actions.push(Action::TimeOut);
                }
                if state.may_have_run {
                    actions.push(Action::Refuse);
                }
            }
        }
        if state.batcher.bytes() > 0 {
            actions.push(Action::Expire);
        }
    }

    pub(super) fn sender_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.messages < self.messages {
            actions.push(Action::Send);
        }
        if state.retries < self.retries {
            let is_unknown = |m: &u8| state.unknown & (1 << m) != 0 && !self.is_ephemeral(*m);
            for m in (0..state.messages).filter(is_unknown) {
                actions.push(Action::Retry { m });
                if self.failovers > 0 {
                    actions.push(Action::RetryHere { m });
                }
            }
        }
    }

    pub(super) fn send(state: &mut State) {
        let _ = state.batcher.push(Item { m: state.messages, is_retry: false }, 1, state.now());
        state.messages += 1;
    }

    pub(super) fn begin(&self, state: &mut State) {
        let Some((number, items)) = state.batcher.begin() else { return };
        let deadline_us = self.deadline_us(state);
        state.current = Some(Copy { process: state.process, number, master: state.at, deadline_us, items });
        (state.asked, state.is_other, state.may_have_run) = (0, false, false);
        self.ask(state);
    }

    /// A batch is stale from the second timeout after its first asking on, whatever a master's microseconds say.
    fn deadline_us(&self, state: &State) -> u64 {
        self.now_us(state, state.at) + 2 * TIMEOUT_US - 1
    }

    pub(super) fn ask(&self, state: &mut State) {
        let renewed = self.deadline_us(state);
        let Some(current) = &mut state.current else { return };
        if self.by_record || self.mutant == Some(Mutant::DeadlineRenewed) {
            current.deadline_us = renewed;
        }
        current.master = state.at;
        let mut copy = current.clone();
        if self.by_record && state.asked > 0 && self.mutant != Some(Mutant::RecordNotSearched) {
            copy.items.iter_mut().for_each(|item| item.is_retry = true);
        }
        state.asks += 1;
        state.asked += 1;
        state.is_due = false;
        state.network.push(copy);
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
            Next::Ask if self.mutant == Some(Mutant::NewNumber) => {
                let Some(given_up) = state.current.take() else { return };
                for item in given_up.items {
                    let _ = state.batcher.push(item, 1, state.now());
                }
                state.batcher.finish();
            }
            Next::Ask => self.ask(state),
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
                state.answers.retain(|answer| answer.number != ended.number);
                (state.asked, state.is_other, state.is_due, state.may_have_run) = (0, false, false, false);
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

    /// The process dies: its senders know nothing, what it wrote is still under way, what it kept is gone.
    pub(super) fn restart(&self, state: &mut State) {
        let all: Vec<Item> = (0..state.messages).map(|m| Item { m, is_retry: false }).collect();
        state.unknown |= state.untold(&all);
        state.process += 1;
        state.batcher = Batcher::new(1 << 20);
        state.current = None;
        (state.asked, state.is_other, state.is_due, state.may_have_run) = (0, false, false, false);
        state.answers.clear();
        state.window = window();
        state.watch = Watch::Idle;
        state.promised = 0;
        state.owes = false;
        state.at = state.masters.len() - 1;
    }

    /// Another node asks at once, and in time.
    pub(super) fn retry(&self, state: &mut State, m: u8) {
        state.retries += 1;
        state.retried |= 1 << m;
        self.store(state, state.masters.len() - 1, &[Item { m, is_retry: true }]);
    }

    pub(super) fn retry_here(state: &mut State, m: u8) {
        state.retries += 1;
        state.retried |= 1 << m;
        let _ = state.batcher.push(Item { m, is_retry: true }, 1, state.now());
    }

    pub(super) fn answer(&self, state: &mut State, index: usize) {
        let answer = state.answers.remove(index);
        let Some(told) = answer.told else { return self.end(state, Outcome::Stale) };
        let items = state.current.as_ref().map(|current| current.items.clone()).unwrap_or_default();
        for (item, told) in items.into_iter().zip(told) {
            self.keep(state, item, told);
            if matches!(told, Told::Stored(_) | Told::Found(_)) {
                state.promised |= 1 << item.m;
            }
        }
        self.end(state, Outcome::Answered);
    }
}
