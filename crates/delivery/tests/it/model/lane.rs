//! One lane: a batch that is asked again until its outcome is known, its ledger, and copies of it that lie in a socket or
//! a proxy and arrive late, after a successor, after the process that wrote them, or after a retry by another node.

mod shell;

use delivery::Batcher;
use delivery::batch::{BatchNumber, Outcome};
use delivery::ledger::{self, Ask};
use stateright::{Model, Property};

use super::client::breach;
use super::inbox::Inbox;
use super::rules::{Rules, SHIPPED};

/// The scope, and what can be taken away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    pub(super) rules: Rules,
    pub(super) decide: fn(Option<BatchNumber>, BatchNumber, u64, u64) -> Ask,
    pub(super) messages: u8,
    /// Askings of all batches together.
    pub(super) asks: u8,
    pub(super) restarts: u8,
    pub(super) retries: u8,
    /// Command timeouts that pass.
    pub(super) ticks: u8,
    /// Mutant: a process finds the ledger of the one before it on this node.
    pub(super) ledger_by_node: bool,
    /// Mutant: a batch whose outcome is unknown is asked again under the next number.
    pub(super) new_number: bool,
}

pub(super) const SCOPE: Lane = Lane {
    rules: SHIPPED,
    decide: ledger::decide,
    messages: 2,
    asks: 3,
    restarts: 0,
    retries: 1,
    ticks: 3,
    ledger_by_node: false,
    new_number: false,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    inbox: Inbox,
    /// The number in the ledger of each process.
    ledgers: Vec<Option<BatchNumber>>,
    batcher: Batcher<u8>,
    current: Option<Copy>,
    /// The batch in flight was asked before, and nobody knows what became of it.
    may_have_run: bool,
    /// Written to the backplane and not yet there, sorted.
    network: Vec<Copy>,
    /// Answers on their way back to this process, sorted.
    answers: Vec<(BatchNumber, Ask)>,
    process: usize,
    /// Command timeouts that have passed, and microseconds in the present one.
    ticks: u8,
    micros: u8,
    asks: u8,
    retries: u8,
    messages: u8,
    /// What the senders were told, as sets of messages.
    sent: u8,
    unknown: u8,
    unavailable: u8,
    /// Stored by a retry, which may follow any answer.
    retried: u8,
    broken: u16,
}

/// One asking.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Copy {
    process: usize,
    number: BatchNumber,
    deadline_us: u64,
    items: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Send,
    Begin,
    /// The connection breaks under the command: the outcome is unknown.
    Break,
    /// The command times out: the outcome is unknown, and the senders are told so.
    TimeOut,
    /// There is nobody to ask: this asking did not run.
    Refuse,
    Tick,
    Expire,
    Restart,
    /// The sender of a message whose outcome is unknown asks another node.
    Retry {
        m: u8,
    },
    Arrive {
        index: usize,
    },
    Answer {
        index: usize,
    },
}

impl Model for Lane {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            inbox: Inbox::default(),
            ledgers: vec![None],
            batcher: Batcher::new(1 << 20),
            current: None,
            may_have_run: false,
            network: Vec::new(),
            answers: Vec::new(),
            process: 0,
            ticks: 0,
            micros: 0,
            asks: 0,
            retries: 0,
            messages: 0,
            sent: 0,
            unknown: 0,
            unavailable: 0,
            retried: 0,
            broken: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.messages < self.messages {
            actions.push(Action::Send);
        }
        match &state.current {
            None if state.batcher.bytes() > 0 && state.asks < self.asks => actions.push(Action::Begin),
            None => {}
            Some(_) => {
                if state.asks < self.asks {
                    actions.extend([Action::Break, Action::TimeOut]);
                }
                if state.may_have_run {
                    actions.push(Action::Refuse);
                }
            }
        }
        if state.ticks < self.ticks {
            actions.push(Action::Tick);
        }
        if state.batcher.bytes() > 0 {
            actions.push(Action::Expire);
        }
        if state.process < usize::from(self.restarts) {
            actions.push(Action::Restart);
        }
        if state.retries < self.retries {
            let unknown = (0..state.messages).filter(|m| state.unknown & (1 << m) != 0);
            actions.extend(unknown.map(|m| Action::Retry { m }));
        }
        actions.extend((0..state.network.len()).map(|index| Action::Arrive { index }));
        actions.extend((0..state.answers.len()).map(|index| Action::Answer { index }));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send => Self::send(&mut state),
            Action::Begin => Self::begin(&mut state),
            Action::Break => self.lose(&mut state, false),
            Action::TimeOut => self.lose(&mut state, true),
            Action::Refuse => self.end(&mut state, Outcome::NotRun),
            Action::Tick => {
                state.ticks += 1;
                state.micros = 0;
            }
            Action::Expire => Self::expire(&mut state)?,
            Action::Restart => self.restart(&mut state),
            Action::Retry { m } => self.retry(&mut state, m),
            Action::Arrive { index } => self.arrive(&mut state, index),
            Action::Answer { index } => self.answer(&mut state, index),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(STORED_ONCE, |_, state: &State| state.broken & breach::STORED == 0),
            Property::always(SENT_IS_STORED, |_, state: &State| state.sent & !state.stored() == 0),
            Property::always(UNAVAILABLE_IS_NOT, |_, state: &State| {
                state.unavailable & !state.retried & state.stored() == 0
            }),
            Property::sometimes("a batch was stale", |_, state: &State| {
                state.answers.iter().any(|(_, ask)| *ask == Ask::Stale)
            }),
            Property::sometimes("a batch was repeated", |_, state: &State| {
                state.answers.iter().any(|(_, ask)| *ask == Ask::Repeat)
            }),
        ];
        if self.retries > 0 {
            properties.push(Property::sometimes("a retry was stored", |_, state: &State| state.retried != 0));
        }
        properties
    }
}

pub(super) const STORED_ONCE: &str = "stored once";
pub(super) const SENT_IS_STORED: &str = "what was answered `sent` is stored";
pub(super) const UNAVAILABLE_IS_NOT: &str = "what was answered `unavailable` is not stored";

#[cfg(test)]
mod tests;
