//! Stamp and link: one recipient with one client, nodes A and B, a master with an asynchronous replica, one failover.
//!
//! What is published may arrive in any order, late, or never, and from both masters: no rule about generations is on, so a
//! subscriber that outlives a demotion is in here. The old master still takes appends, reads and verifies from whoever has
//! not moved. Each state is healed in the worst way (all in flight is lost, one position check) and then judged.

mod world;

use delivery::{Consumer, Start, Step};
use protocol::{Cursor, Stamp, Tag};
use stateright::{Model, Property};

use super::check::Memo;
use super::client::{Client, breach};
use super::inbox::Inbox;
use super::rules::{Post, Rules, SHIPPED, bit};
use world::Asked;

/// The scope.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) rules: Rules,
    pub(super) messages: u8,
    pub(super) failover: bool,
    pub(super) retries: u8,
    pub(super) connects: u8,
    pub(super) inbox_max: u64,
    /// Two messages in one append.
    pub(super) batches: bool,
    /// A read takes time: live messages arrive between the question, the reading and the answer.
    pub(super) slow: bool,
    /// The client takes too little, and takes again.
    pub(super) pauses: bool,
    /// A connection can end within the page of its attach.
    pub(super) cuts: bool,
    /// The first try of a message can arrive after its retry.
    pub(super) late: bool,
}

pub(super) const SCOPE: Link = Link {
    rules: SHIPPED,
    messages: 2,
    failover: true,
    retries: 1,
    connects: 2,
    inbox_max: 100,
    batches: false,
    slow: false,
    pauses: false,
    cuts: false,
    late: false,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// The first master, and the one that the failover makes.
    masters: [Inbox; 2],
    replica: Inbox,
    /// Which master is the present one.
    era: usize,
    /// Which master each node's commands go to.
    commands: [usize; 2],
    /// How many appends each master's clock has seen.
    ticks: [u8; 2],
    /// Messages that were sent at all, and those whose first try ran.
    known: u8,
    tried: u8,
    retries: u8,
    connects: u8,
    /// A retry found the first try.
    found: bool,
    /// Published and not yet arrived, sorted.
    flight: Vec<Flying>,
    /// Nodes that have ever been a location: they may get whatever is published.
    located: u8,
    client: Client,
    live: Option<Live>,
    memo: Memo,
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
    node: usize,
    consumer: Consumer,
    /// Messages up to this number follow a reset.
    again_to: u64,
    /// A question under way, and its answer once the master has given it.
    asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Append {
        to: usize,
    },
    Retry {
        to: usize,
        m: u8,
    },
    LateFirst {
        to: usize,
        m: u8,
    },
    AppendTwo {
        to: usize,
    },
    AppendWithRetry {
        to: usize,
        retry_first: bool,
    },
    Replicate,
    Failover,
    CommandsMove {
        node: usize,
    },
    Deliver {
        index: usize,
    },
    Attach {
        node: usize,
    },
    /// The connection ends after so many messages of the page.
    AttachCut {
        node: usize,
        after: usize,
    },
    Disconnect,
    Pause,
    Resume,
    Verify,
    Run,
    Answer,
}

impl Model for Link {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            masters: [Inbox::default(), Inbox::default()],
            replica: Inbox::default(),
            era: 0,
            commands: [0, 0],
            ticks: [0, 0],
            known: 0,
            tried: 0,
            retries: 0,
            connects: 0,
            found: false,
            flight: Vec::new(),
            located: 0,
            client: Client::default(),
            live: None,
            memo: Memo::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.sender_actions(state, actions);
        if self.failover && state.era == 0 {
            actions.push(Action::Failover);
            if state.replica != state.masters[0] {
                actions.push(Action::Replicate);
            }
        }
        let late = (0..2).filter(|&node| state.commands[node] != state.era);
        actions.extend(late.map(|node| Action::CommandsMove { node }));
        let Some(live) = &state.live else {
            if state.connects < self.connects {
                // The nodes are alike: the first connection is at A.
                let nodes = if state.connects == 0 { 0..1 } else { 0..2 };
                for node in nodes {
                    actions.push(Action::Attach { node });
                    let most = if self.cuts { state.masters[state.commands[node]].retained().count() } else { 0 };
                    actions.extend((0..most).map(|after| Action::AttachCut { node, after }));
                }
            }
            return;
        };
        let here = |(_, flying): &(usize, &Flying)| flying.node == live.node;
        actions.extend(state.flight.iter().enumerate().filter(here).map(|(index, _)| Action::Deliver { index }));
        actions.push(Action::Disconnect);
        if live.consumer.is_paused() {
            actions.push(Action::Resume);
        } else if self.pauses {
            actions.push(Action::Pause);
        }
        match &live.asked {
            None => actions.push(Action::Verify),
            Some(Asked::Answered(..)) => actions.push(Action::Answer),
            Some(_) => actions.push(Action::Run),
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Append { to } => {
                let m = self.first_try(&mut state);
                self.append(&mut state, to, &[Post::first(m)]);
            }
            Action::Retry { to, m } => {
                state.known = state.known.max(m + 1);
                state.retries += 1;
                self.append(&mut state, to, &[Post::retry(m)]);
            }
            Action::LateFirst { to, m } => {
                state.tried |= 1 << m;
                self.append(&mut state, to, &[Post::first(m)]);
            }
            Action::AppendTwo { to } => {
                let batch = [0; 2].map(|_| Post::first(self.first_try(&mut state)));
                self.append(&mut state, to, &batch);
            }
            Action::AppendWithRetry { to, retry_first } => {
                let m = self.first_try(&mut state);
                state.retries += 1;
                let (one, other) =
                    if retry_first { (Post::retry(m), Post::first(m)) } else { (Post::first(m), Post::retry(m)) };
                self.append(&mut state, to, &[one, other]);
            }
            Action::Replicate => state.replica = state.masters[0].clone(),
            Action::Failover => {
                state.era = 1;
                state.masters[1] = std::mem::take(&mut state.replica);
            }
            Action::CommandsMove { node } => state.commands[node] = state.era,
            Action::Deliver { index } => self.deliver(&mut state, index),
            Action::Attach { node } => self.attach(&mut state, node),
            Action::AttachCut { node, after } => self.attach_cut(&mut state, node, after)?,
            Action::Disconnect => state.live = None,
            Action::Pause => state.live.iter_mut().for_each(|live| (self.rules.pause)(&mut live.consumer)),
            Action::Resume => self.resume(&mut state),
            Action::Verify => self.verify(&mut state)?,
            Action::Run => self.run(&mut state),
            Action::Answer => self.answer(&mut state),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NOT_LOST, |model: &Self, state| model.holds(state, breach::LOST)),
            Property::always(NOT_TWICE, |model: &Self, state| model.holds(state, breach::TWICE)),
            Property::always(NOT_AGAIN, |model: &Self, state| model.holds(state, breach::WIRE)),
            Property::always(IN_ORDER, |model: &Self, state| model.holds(state, breach::ORDER)),
            Property::always(NOT_NEEDLESS, |model: &Self, state| model.holds(state, breach::NEEDLESS)),
            Property::always(NOT_FAR, |model: &Self, state| model.holds(state, breach::FAR)),
            Property::always(STORED_ONCE, |model: &Self, state| model.holds(state, breach::STORED)),
            Property::always(REACHES_END, |model: &Self, state| model.holds(state, breach::BEHIND)),
            Property::always(ONE_READ, |model: &Self, state| model.holds(state, breach::TWO_READS)),
        ];
        if self.connects > 0 && (self.failover || self.inbox_max < u64::from(self.messages)) {
            properties.push(Property::sometimes("a client was told reset", |_, state: &State| state.client.was_reset));
        }
        if self.retries > 0 {
            properties.push(Property::sometimes("a retry was found", |_, state: &State| state.found));
        }
        if self.inbox_max < u64::from(self.messages) {
            let trimmed = |_: &Self, state: &State| state.masters.iter().any(Inbox::has_trimmed);
            properties.push(Property::sometimes("an inbox was trimmed", trimmed));
        }
        properties
    }
}

pub(super) const NOT_LOST: &str = "what the surviving log keeps was received";
pub(super) const NOT_TWICE: &str = "no message reaches the application twice";
pub(super) const NOT_AGAIN: &str = "on the wire again only after a reset";
pub(super) const IN_ORDER: &str = "in order and without a gap";
pub(super) const NOT_NEEDLESS: &str = "no reset where nothing is missing";
pub(super) const NOT_FAR: &str = "a replay starts at the newest place that holds";
pub(super) const STORED_ONCE: &str = "stored once";
pub(super) const ONE_READ: &str = "one read at a time";
pub(super) const REACHES_END: &str = "one position check reaches the end";

impl Link {
    fn sender_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for to in 0..=state.era {
            let left = self.messages - state.known;
            let may_retry = state.retries < self.retries;
            if left > 0 {
                actions.push(Action::Append { to });
            }
            if self.batches && left > 1 {
                actions.push(Action::AppendTwo { to });
            }
            if self.batches && left > 0 && may_retry {
                actions.extend([false, true].map(|retry_first| Action::AppendWithRetry { to, retry_first }));
            }
            if may_retry {
                let unseen = u8::from(left > 0 && self.late);
                actions.extend((0..state.known + unseen).map(|m| Action::Retry { to, m }));
            }
            let waits = (0..state.known).filter(|m| state.tried & (1 << m) == 0);
            actions.extend(waits.map(|m| Action::LateFirst { to, m }));
        }
    }

    fn first_try(&self, state: &mut State) -> u8 {
        let m = state.known;
        state.known += 1;
        state.tried |= 1 << m;
        m
    }

    fn deliver(&self, state: &mut State, index: usize) {
        let Flying { at, link, tag, .. } = state.flight.remove(index);
        let Some(live) = &mut state.live else { return };
        match (self.rules.on_live)(&mut live.consumer, at, link) {
            Step::Ignore => {}
            Step::Deliver => {
                let again = at.seq <= live.again_to;
                state.client.on_message(&self.rules, at, tag, again);
            }
            Step::Pull => self.pull(state, false),
        }
    }

    fn holds(&self, state: &State, what: u16) -> bool {
        state.memo.get(|| self.healed(state)) & what == 0
    }

    /// Notes what a start or a reset says is gone; counts a reset that was not needed, and a replay that is longer than
    /// it has to be.
    fn judge_start(client: &mut Client, inbox: &Inbox, asked: &[Cursor], start: Start, from: Cursor) {
        if start == Start::Resumed {
            return;
        }
        client.told_gone |= inbox.trimmed().fold(0, |told, tag| told | bit(tag));
        let Some(last) = asked.first() else { return };
        if inbox.holds(last) {
            client.broken |= breach::NEEDLESS;
        }
        if asked.iter().find(|c| inbox.holds(c)).is_some_and(|newest| newest.seq > from.seq) {
            client.broken |= breach::FAR;
        }
    }
}

#[cfg(test)]
mod tests;
