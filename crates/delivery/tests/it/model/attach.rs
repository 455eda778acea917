//! Where a recipient can be reached: attach in one step, detach of exactly one registration, verify that puts back.
//!
//! Questions and detaches of connections that have ended may still be under way, in any order. What is published goes to
//! the nodes that the record names, and nowhere else.

mod node;

use delivery::Consumer;
use protocol::{Cursor, Stamp, Tag};
use stateright::{Model, Property};

use super::check::Memo;
use super::client::{Client, breach};
use super::inbox::Inbox;
use super::rules::{Rules, SHIPPED};

/// The scope, and what can be taken away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attach {
    pub(super) rules: Rules,
    pub(super) messages: u8,
    pub(super) connects: u8,
    pub(super) failover: bool,
    /// The client leaves the stream and joins it again on one connection, instead of opening another.
    pub(super) rejoins: bool,
    /// Mutant: the attach reads, and registers later.
    pub(super) in_two_steps: bool,
    /// Mutant: the answer to a connection that has ended is dropped, and its registration stays.
    pub(super) keeps_ghosts: bool,
}

pub(super) const SCOPE: Attach = Attach {
    rules: SHIPPED,
    messages: 2,
    connects: 3,
    failover: false,
    rejoins: false,
    in_two_steps: false,
    keeps_ghosts: false,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    master: Inbox,
    replica: Inbox,
    failed_over: bool,
    ticks: u8,
    messages: u8,
    connects: u8,
    /// Questions under way, sorted: also those of connections that have ended.
    asks: Vec<Ask>,
    /// Detaches under way, sorted.
    detaches: Vec<Place>,
    flight: Vec<Flying>,
    client: Client,
    live: Option<Live>,
    memo: Memo,
}

/// A registration: node, connection, number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    node: usize,
    connection: u8,
    reg: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ask {
    place: Place,
    kind: Kind,
    cursors: Vec<Cursor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Attach,
    /// The second half of an attach in two steps.
    Register,
    Verify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Flying {
    node: usize,
    at: Cursor,
    link: Stamp,
    tag: Tag,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Live {
    place: Place,
    consumer: Consumer,
    is_attached: bool,
    again_to: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Append,
    Replicate,
    Failover,
    Connect { node: usize },
    Disconnect,
    Verify,
    Run { index: usize },
    Detach { index: usize },
    Deliver { index: usize },
}

impl Model for Attach {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            master: Inbox::default(),
            replica: Inbox::default(),
            failed_over: false,
            ticks: 0,
            messages: 0,
            connects: 0,
            asks: Vec::new(),
            detaches: Vec::new(),
            flight: Vec::new(),
            client: Client::default(),
            live: None,
            memo: Memo::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.messages < self.messages {
            actions.push(Action::Append);
        }
        if self.failover && !state.failed_over {
            actions.push(Action::Failover);
            if state.replica != state.master {
                actions.push(Action::Replicate);
            }
        }
        actions.extend((0..state.asks.len()).map(|index| Action::Run { index }));
        actions.extend((0..state.detaches.len()).map(|index| Action::Detach { index }));
        match &state.live {
            None if state.connects < self.connects => {
                // The nodes are alike: the first connection is at A. One connection stays at its node.
                let nodes = if state.connects == 0 || self.rejoins { 1 } else { 2 };
                actions.extend((0..nodes).map(|node| Action::Connect { node }));
            }
            None => {}
            Some(live) => {
                let here = state.flight.iter().enumerate().filter(|(_, flying)| flying.node == live.place.node);
                actions.extend(here.map(|(index, _)| Action::Deliver { index }));
                actions.push(Action::Disconnect);
                let asks = state.asks.iter().any(|ask| ask.place == live.place);
                if live.is_attached && !asks {
                    actions.push(Action::Verify);
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Append => self.append(&mut state),
            Action::Replicate => state.replica = state.master.clone(),
            Action::Failover => {
                state.failed_over = true;
                state.master = std::mem::take(&mut state.replica);
            }
            Action::Connect { node } => self.connect(&mut state, node),
            Action::Disconnect => self.disconnect(&mut state),
            Action::Verify => Self::ask_verify(&mut state),
            Action::Run { index } => self.run(&mut state, index),
            Action::Detach { index } => self.detach(&mut state, index),
            Action::Deliver { index } => self.deliver(&mut state, index),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NOT_LOST, |model: &Self, state| model.holds(state, breach::LOST)),
            Property::always(NOT_TWICE, |model: &Self, state| model.holds(state, breach::TWICE)),
            Property::always(IN_ORDER, |model: &Self, state| model.holds(state, breach::ORDER)),
            Property::always(ROUTED_AFTER_CHECK, |model: &Self, state| model.holds(state, breach::BEHIND)),
        ];
        if !self.failover {
            properties.push(Property::always(ROUTED, |model: &Self, state| model.holds(state, breach::UNROUTED)));
            properties.push(Property::always(PROMPT, |model: &Self, state| model.holds(state, breach::LATE)));
            properties.push(Property::always(NO_GHOST, |model: &Self, state| model.holds(state, breach::GHOST)));
        }
        properties
    }
}

pub(super) const NOT_LOST: &str = "what the log keeps was received after one check";
pub(super) const NOT_TWICE: &str = "no message reaches the application twice";
pub(super) const IN_ORDER: &str = "in order and without a gap";
pub(super) const ROUTED_AFTER_CHECK: &str = "after one check a live connection is a location";
pub(super) const ROUTED: &str = "an attached connection is a location";
pub(super) const PROMPT: &str = "where nothing is lost on the way no check is needed";
pub(super) const NO_GHOST: &str = "when all is quiet nobody else is a location";

#[cfg(test)]
mod tests;
