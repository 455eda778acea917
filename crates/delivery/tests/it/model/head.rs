//! A group on one node: the shipped head over the shipped record, two users, and what comes between.
//!
//! Users join, leave and are removed while messages are stored. What the channel carries may be lost, each item by itself;
//! what the head asks is answered by the group's record at one moment and arrives at another, with the channel running on
//! between the two. A failover takes the newest messages and changes away, to a master whose clock is behind, so that it
//! gives numbers below those that were lost. Each state is healed in the worst way: all in flight is lost, the head checks
//! its place once, and everybody who is asked answers.

mod group;
mod member;
mod node;

use std::collections::VecDeque;

use delivery::Head;
use stateright::{Model, Property};

use super::check::Memo;
use group::Group;
use member::Member;
use node::{Answer, Flying};

/// What is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// A message is handed out first, and the changes before it are asked for behind it.
    ChangesBehind,
    /// Only a higher number than the applied one is wondered about.
    OnlyHigher,
    /// Where the log does not know the applied number nothing more is asked.
    NoMemberships,
    /// Everybody who sits gets everything.
    NoFilter,
    /// A leave ends whoever sits, also who joined behind it.
    LeaveEndsAll,
    /// A newcomer is not asked about, however old his join.
    NewcomerUnasked,
    /// A page goes to a member past the head.
    PagePastHead,
    /// A member's read names where the head is.
    PlacesOfOthers,
    /// A member who is one by another join than his connection knows is not told.
    NumberUntold,
}

/// The scope, and what is taken away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) mutant: Option<Mutant>,
    pub(super) messages: u8,
    pub(super) changes: u8,
    /// Items of the channel that are lost.
    pub(super) losses: u8,
    pub(super) failover: bool,
}

pub(super) const SCOPE: Table = Table { mutant: None, messages: 2, changes: 3, losses: 1, failover: false };

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    master: Group,
    replica: Group,
    failed_over: bool,
    ticks: u8,
    messages: u8,
    changes: u8,
    losses: u8,
    head: Head<u8>,
    /// What the head has asked, by kind, and the answer once it is given.
    asked: [Option<Asked>; 3],
    channel: VecDeque<Flying>,
    members: [Member; 2],
    broken: u16,
    memo: Memo,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    question: delivery::head::Question,
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Append,
    /// He joins at his connection.
    Join {
        user: usize,
    },
    /// Somebody makes him a member.
    Add {
        user: usize,
    },
    Remove {
        user: usize,
    },
    /// His connection asks for a seat.
    Seat {
        user: usize,
    },
    /// The group's record answers the head.
    Answer {
        kind: usize,
    },
    /// The answer arrives.
    Arrive {
        kind: usize,
    },
    /// A member's own read.
    Read {
        user: usize,
    },
    Deliver,
    Lose,
    Replicate,
    Failover,
}

impl Model for Table {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.begin()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.messages < self.messages {
            actions.push(Action::Append);
        }
        for (user, member) in state.members.iter().enumerate() {
            if state.changes < self.changes {
                match state.master.joined(user) {
                    Some(_) => actions.push(Action::Remove { user }),
                    // One by each way in.
                    None if member.is_out() && user == 0 => actions.push(Action::Join { user }),
                    None if member.is_out() => actions.push(Action::Add { user }),
                    None => {}
                }
            }
            if member.wants_seat() {
                actions.push(Action::Seat { user });
            }
            if member.wants_page() {
                actions.push(Action::Read { user });
            }
        }
        for (kind, asked) in state.asked.iter().enumerate() {
            match asked {
                Some(Asked { answer: None, .. }) => actions.push(Action::Answer { kind }),
                Some(_) => actions.push(Action::Arrive { kind }),
                None => {}
            }
        }
        if !state.channel.is_empty() {
            actions.push(Action::Deliver);
            if state.losses < self.losses {
                actions.push(Action::Lose);
            }
        }
        if self.failover && !state.failed_over {
            actions.push(Action::Failover);
            if state.replica != state.master {
                actions.push(Action::Replicate);
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Append => self.append(&mut state),
            Action::Join { user } => self.change(&mut state, user, true, true),
            Action::Add { user } => self.change(&mut state, user, true, false),
            Action::Remove { user } => self.change(&mut state, user, false, false),
            Action::Seat { user } => self.seat(&mut state, user),
            Action::Answer { kind } => self.answer(&mut state, kind),
            Action::Arrive { kind } => self.arrive(&mut state, kind),
            Action::Read { user } => self.read(&mut state, user),
            Action::Deliver => self.deliver(&mut state),
            Action::Lose => {
                state.losses += 1;
                state.channel.pop_front();
            }
            Action::Replicate => state.replica = state.master.clone(),
            Action::Failover => self.fail_over(&mut state),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONLY_MEMBERS, |model: &Self, state| model.holds(state, breach::OUTSIDER)),
            Property::always(IN_ORDER, |model: &Self, state| model.holds(state, breach::ORDER)),
            Property::always(NOT_MISSED, |model: &Self, state| model.holds(state, breach::MISSED)),
            Property::always(NOBODY_LINGERS, |model: &Self, state| model.holds(state, breach::LINGERS)),
            Property::always(NOBODY_THROWN_OUT, |model: &Self, state| model.holds(state, breach::THROWN_OUT)),
            Property::always(ONE_QUESTION, |model: &Self, state| model.holds(state, breach::TWO_QUESTIONS)),
        ]
    }
}

/// What was broken, as a set of bits.
mod breach {
    pub(super) const OUTSIDER: u16 = 1;
    pub(super) const ORDER: u16 = 1 << 1;
    pub(super) const MISSED: u16 = 1 << 2;
    pub(super) const LINGERS: u16 = 1 << 3;
    pub(super) const THROWN_OUT: u16 = 1 << 4;
    pub(super) const TWO_QUESTIONS: u16 = 1 << 5;
}

pub(super) const ONLY_MEMBERS: &str = "nobody receives what was stored before his join or behind his removal";
pub(super) const IN_ORDER: &str = "in order, unless told of a reset";
pub(super) const NOT_MISSED: &str = "who is a member and stays one has everything after one check";
pub(super) const NOBODY_LINGERS: &str = "after one check only members sit";
pub(super) const NOBODY_THROWN_OUT: &str = "a member whom nobody removed sits after one check";
pub(super) const ONE_QUESTION: &str = "one question of a kind, and an end of asking";

#[cfg(test)]
mod tests;
