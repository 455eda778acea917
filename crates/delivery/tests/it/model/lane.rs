//! One lane of a node: a batch that is asked again until its outcome is known, its ledger, copies of it that lie in a
//! socket and arrive late, and what the node keeps of what it answered `sent`, to append it again where a failover lost it.
//!
//! Each asking is a copy on its way to one master: it may arrive after its successor, after the process that wrote it,
//! after a retry by another node, or at a master that is none any more and still takes appends.

mod keeper;
mod master;
mod shell;

use delivery::batch::{self, BatchNumber, Outcome};
use delivery::ledger::{self, Ask};
use delivery::{Batcher, Window};
use stateright::{Model, Property};

use super::check::Memo;
use super::client::breach;
use super::rules::{Rules, SHIPPED};
use keeper::Watch;
use master::{Master, Told};

/// The scope, and what can be taken away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    pub(super) rules: Rules,
    pub(super) decide: fn(Option<BatchNumber>, BatchNumber, u64, u64) -> Ask,
    pub(super) wait: fn(u32, bool, u64, u64) -> Option<u64>,
    pub(super) mutant: Option<Mutant>,
    pub(super) messages: u8,
    /// Which of them are ephemeral, as a set.
    pub(super) ephemeral: u8,
    /// Askings of all batches together.
    pub(super) asks: u8,
    pub(super) restarts: u8,
    /// Of senders that do not know, through another node or this one.
    pub(super) retries: u8,
    /// Command timeouts that pass.
    pub(super) ticks: u8,
    /// Each makes the replica a master; the old one goes on taking what lies in its sockets.
    pub(super) failovers: u8,
    /// Timeouts by which the clock of each next master is behind.
    pub(super) behind: u64,
    /// Writes of other nodes to other addresses.
    pub(super) others: u8,
    /// Askings go address by address, without number and ledger, as while a slot of a Cluster moves: from the second on
    /// they are retries, and each has a deadline of its own.
    pub(super) by_record: bool,
}

/// One decision of the shell around the rules, taken wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// A process finds the ledger of the one before it on this node.
    LedgerByNode,
    /// A batch whose outcome is unknown is asked again under the next number.
    NewNumber,
    /// Each asking has a deadline of its own.
    DeadlineRenewed,
    /// Askings without number have no deadline.
    RecordWithoutDeadline,
    /// Askings without number are first tries, all of them.
    RecordNotSearched,
    /// An asking that is answered from the ledger publishes again.
    EphemeralAgain,
    /// A new master gets nothing again.
    NoAppendAgain,
    /// What a new master lacks is appended at some time, not before anything new.
    AppendAgainLate,
    /// What is appended again is not searched for.
    AppendAgainUnseen,
    /// The window lets go by time, as if there were no replica.
    WindowByTime,
    /// The offsets of the old master stay.
    OldMarks,
    /// What is covered by an answer is counted when it comes, not when it was asked for.
    QuestionLate,
    /// A retry whose first try was found is answered, and not kept.
    FoundNotKept,
    /// An answer of the old master counts behind the end of its generation.
    OldAnswers,
}

pub(super) const SCOPE: Lane = Lane {
    rules: SHIPPED,
    decide: ledger::decide,
    wait: batch::wait_before,
    mutant: None,
    messages: 2,
    ephemeral: 0,
    asks: 3,
    restarts: 0,
    retries: 1,
    ticks: 3,
    failovers: 0,
    behind: 0,
    others: 0,
    by_record: false,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// The last one is the present one.
    masters: Vec<Master>,
    replica: Master,
    /// The master of this node's generation.
    at: usize,
    batcher: Batcher<Item>,
    current: Option<Copy>,
    /// Askings of the batch in flight that went out, and whether one of them went to another master than the present.
    asked: u32,
    is_other: bool,
    /// It has to be asked, and was not yet.
    is_due: bool,
    /// Nobody knows what became of its last asking.
    may_have_run: bool,
    /// Written to a master and not yet there, sorted.
    network: Vec<Copy>,
    /// Answers on their way back to this process, sorted.
    answers: Vec<Reply>,
    window: Window,
    watch: Watch,
    /// What the present master may lack is still to be appended: only where a mutant puts it off.
    owes: bool,
    process: usize,
    /// Command timeouts that have passed.
    ticks: u8,
    asks: u8,
    retries: u8,
    others: u8,
    messages: u8,
    /// What the senders were told, as sets of messages.
    sent: u8,
    unknown: u8,
    unavailable: u8,
    /// Answered `sent` by the process that lives.
    promised: u8,
    /// Given up by the window, and counted.
    unconfirmed: u32,
    /// Tried again by its sender, which may follow any answer.
    retried: u8,
    /// Ephemeral ones that were published, by whichever master.
    published: u8,
    broken: u16,
    memo: Memo,
}

/// A message in the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Item {
    m: u8,
    is_retry: bool,
}

/// One asking.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Copy {
    process: usize,
    number: BatchNumber,
    master: usize,
    deadline_us: u64,
    items: Vec<Item>,
}

/// Its answer; `None`: stale.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Reply {
    number: BatchNumber,
    is_repeat: bool,
    told: Option<Vec<Told>>,
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
    /// A batch that waited for its deadline is asked.
    Ask,
    Tick,
    Expire,
    Restart,
    /// The sender of a message whose outcome is unknown asks another node.
    Retry {
        m: u8,
    },
    /// Or this one.
    RetryHere {
        m: u8,
    },
    Arrive {
        index: usize,
    },
    Answer {
        index: usize,
    },
    Replicate,
    Failover,
    /// The generation ends, and the next begins on the present master.
    Move,
    AppendAgain,
    /// The node is about to ask how far the replicas are; the master answers; the answer arrives.
    Question,
    Offsets,
    Confirm,
    /// Another node writes something.
    Other,
}

impl Model for Lane {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.lane_actions(state, actions);
        self.sender_actions(state, actions);
        self.master_actions(state, actions);
        if state.ticks < self.ticks {
            actions.push(Action::Tick);
        }
        if state.process < usize::from(self.restarts) {
            actions.push(Action::Restart);
        }
        actions.extend((0..state.network.len()).map(|index| Action::Arrive { index }));
        actions.extend((0..state.answers.len()).map(|index| Action::Answer { index }));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send => Self::send(&mut state),
            Action::Begin => self.begin(&mut state),
            Action::Break => self.lose(&mut state, false),
            Action::TimeOut => self.lose(&mut state, true),
            Action::Refuse => self.end(&mut state, Outcome::NotRun),
            Action::Ask => self.ask(&mut state),
            Action::Tick => state.ticks += 1,
            Action::Expire => Self::expire(&mut state)?,
            Action::Restart => self.restart(&mut state),
            Action::Retry { m } => self.retry(&mut state, m),
            Action::RetryHere { m } => Self::retry_here(&mut state, m),
            Action::Arrive { index } => self.arrive(&mut state, index),
            Action::Answer { index } => self.answer(&mut state, index),
            Action::Replicate => state.replica = state.master().clone(),
            Action::Failover => state.masters.push(state.replica.clone()),
            Action::Move => self.move_on(&mut state),
            Action::AppendAgain => self.append_again(&mut state),
            Action::Question => state.watch = Watch::Asked(state.window.question()),
            Action::Offsets => Self::offsets(&mut state),
            Action::Confirm => self.confirm(&mut state),
            Action::Other => {
                state.others += 1;
                let present = state.masters.len() - 1;
                state.masters[present].offset += 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(STORED_ONCE, |_, state: &State| state.broken & breach::STORED == 0),
            Property::always(PUBLISHED_ONCE, |_, state: &State| state.broken & breach::PUBLISHED == 0),
            Property::always(UNAVAILABLE_IS_NOT, |model: &Self, state| model.holds(state, breach::REFUSED)),
            Property::always(SENT_SURVIVES, |model: &Self, state| model.holds(state, breach::LOST)),
            Property::always(IN_ORDER, |model: &Self, state| model.holds(state, breach::ORDER)),
        ];
        if !self.by_record {
            let is_repeated = |_: &Self, state: &State| state.answers.iter().any(|answer| answer.is_repeat);
            properties.push(Property::sometimes("a batch was repeated", is_repeated));
        }
        if self.failovers == 0 {
            properties.push(Property::always(SENT_IS_STORED, |model: &Self, state: &State| {
                state.sent & !model.ephemeral & !state.stored() == 0
            }));
        } else {
            properties.push(Property::sometimes("a failover lost what was answered `sent`", |_, state: &State| {
                state.at + 1 < state.masters.len() && state.promised & !state.stored() != 0
            }));
            properties.push(Property::sometimes("the window let go", |_, state: &State| {
                state.promised != 0 && state.window.is_empty()
            }));
        }
        if self.ticks > 1 && !self.by_record {
            properties.push(Property::sometimes("a batch was stale", |_, state: &State| {
                state.answers.iter().any(|answer| answer.told.is_none())
            }));
        }
        if self.retries > 0 {
            properties.push(Property::sometimes("a message was retried", |_, state: &State| state.retried != 0));
        }
        properties
    }
}

pub(super) const STORED_ONCE: &str = "stored once";
pub(super) const PUBLISHED_ONCE: &str = "an ephemeral message is published once";
pub(super) const SENT_IS_STORED: &str = "what was answered `sent` is stored";
pub(super) const SENT_SURVIVES: &str = "what a living node answered `sent` survives a failover, or was counted";
pub(super) const UNAVAILABLE_IS_NOT: &str = "what was answered `unavailable` is not stored";
pub(super) const IN_ORDER: &str = "what a lane was given in order is stored in order";

#[cfg(test)]
mod tests;
