//! What the nodes do with questions, answers and detaches, and how a state is judged.

use delivery::record::AttachRequest;
use delivery::{Attached, Consumer, Registered, Standing, Start, Step};
use protocol::client::From;
use protocol::{ConnectionId, Cursor, Epoch};

use super::{Ask, Attach, Flying, Kind, Live, Place, State};
use crate::model::client::breach;
use crate::model::rules::{NODES, Post, START_US, limits, registration};

const LIMITS: delivery::Limits = limits(100);

impl State {
    fn now_us(&self) -> u64 {
        START_US + 10 * u64::from(self.ticks) + 5 * u64::from(self.failed_over)
    }

    fn is_live(&self, place: Place) -> bool {
        self.live.as_ref().is_some_and(|l| l.place.node == place.node && l.place.connection == place.connection)
    }

    fn ask(&mut self, place: Place, kind: Kind, cursors: Vec<Cursor>) {
        self.asks.push(Ask { place, kind, cursors });
        self.asks.sort_unstable();
    }

    fn ask_detach(&mut self, place: Place) {
        if !self.detaches.contains(&place) {
            self.detaches.push(place);
            self.detaches.sort_unstable();
        }
    }

    fn is_routed(&self, place: Place) -> bool {
        let wanted = registration(place.node, place.connection, place.reg);
        self.master.record().is_some_and(|r| r.locations.iter().any(|l| l.registration == wanted))
    }
}

impl Attach {
    pub(super) fn append(&self, state: &mut State) {
        let (now_us, m) = (state.now_us(), state.messages);
        state.ticks += 1;
        state.messages += 1;
        let (appended, _) = state.master.append(&self.rules, now_us, &[Post::first(m)], &LIMITS);
        let named = state.master.record().map(|r| r.nodes()).unwrap_or_default();
        let nodes: Vec<usize> = (0..2).filter(|&n| named.contains(&&NODES[n])).collect();
        for row in appended.live {
            let tag = row.stored.tag;
            state.flight.extend(nodes.iter().map(|&node| Flying { node, at: row.cursor, link: row.link, tag }));
        }
        state.flight.sort_unstable();
    }

    pub(super) fn connect(&self, state: &mut State, node: usize) {
        state.connects += 1;
        let reg = state.connects;
        let place = Place { node, connection: if self.rejoins { 1 } else { reg }, reg };
        let consumer = Consumer::attaching(Cursor::default());
        state.live = Some(Live { place, consumer, is_attached: false, again_to: 0 });
        let cursors = (self.rules.names)(state.client.cursors());
        state.ask(place, Kind::Attach, cursors);
    }

    pub(super) fn disconnect(&self, state: &mut State) {
        if let Some(live) = state.live.take() {
            state.ask_detach(live.place);
        }
    }

    pub(super) fn ask_verify(state: &mut State) {
        if let Some(live) = &state.live {
            let (place, cursor) = (live.place, live.consumer.cursor());
            state.ask(place, Kind::Verify, vec![cursor]);
        }
    }

    /// The master answers one question, and the node acts on the answer.
    pub(super) fn run(&self, state: &mut State, index: usize) {
        let Ask { place, kind, cursors } = state.asks.remove(index);
        let now_us = state.now_us();
        let asked = registration(place.node, place.connection, place.reg);
        let (registered, step) = match kind {
            Kind::Attach => {
                let had_record = state.master.record().is_some();
                let cursors = cursors.into_iter().map(Some).collect();
                let request = AttachRequest::of(asked.clone(), cursors, From::Oldest);
                let epoch = Epoch((now_us + 1).to_be_bytes());
                let attached = state.master.with(|r| (self.rules.attach)(r, epoch, now_us, &request, &LIMITS));
                state.ticks += u8::from(!had_record);
                if self.in_two_steps {
                    state.master.with(|r| {
                        let node = &NODES[place.node];
                        r.iter_mut().for_each(|r| r.detach(node, asked.connection, u64::MAX));
                    });
                    state.ask(place, Kind::Register, Vec::new());
                }
                (attached.registered.clone(), self.on_attached(state, place, &attached))
            }
            Kind::Register | Kind::Verify => {
                let cursor = cursors.first().copied().unwrap_or_default();
                let verified = state.master.with(|r| (self.rules.verify)(r, now_us, &asked, cursor, &LIMITS));
                let step = if kind == Kind::Verify { Self::on_verified(state, place, verified.standing) } else { None };
                (verified.registered, step)
            }
        };
        // Whom the node does not know, it detaches: also the one that asked, if it has ended meanwhile.
        if !self.keeps_ghosts {
            for Registered { connection: ConnectionId(connection), reg, .. } in registered {
                let found = Place { node: place.node, connection: connection as u8, reg: reg as u8 };
                if !state.is_live(found) {
                    state.ask_detach(found);
                }
            }
        }
        match step {
            Some(Pull::Read) => self.pull(state),
            Some(Pull::Attach) => {
                let cursor = state.live.as_ref().map(|l| l.consumer.cursor()).unwrap_or_default();
                state.ask(place, Kind::Attach, vec![cursor]);
            }
            None => {}
        }
    }

    fn on_attached(&self, state: &mut State, place: Place, attached: &Attached) -> Option<Pull> {
        let live = state.live.as_mut().filter(|l| l.place == place)?;
        live.is_attached = true;
        self.take(state, attached)
    }

    /// The client gets a page.
    fn take(&self, state: &mut State, attached: &Attached) -> Option<Pull> {
        let live = state.live.as_mut()?;
        if let Start::Reset { .. } = attached.start {
            live.again_to = attached.head;
        }
        state.client.on_start(attached);
        for entry in &attached.page.entries {
            let again = entry.cursor.seq <= live.again_to;
            state.client.on_message(&self.rules, entry.cursor, entry.tag, again);
        }
        let places: Vec<Cursor> = attached.page.entries.iter().map(|e| e.cursor).collect();
        let step = live.consumer.on_page(attached.cursor, places, attached.page.end, attached.page.more);
        (step == Step::Pull).then_some(Pull::Read)
    }

    fn on_verified(state: &mut State, place: Place, standing: Standing) -> Option<Pull> {
        let live = state.live.as_mut().filter(|l| l.place == place)?;
        if standing == Standing::Current || live.consumer.on_doubt() != Step::Pull {
            return None;
        }
        Some(if standing == Standing::Gone { Pull::Attach } else { Pull::Read })
    }

    /// Reads after the cursor: other models let this take time.
    fn pull(&self, state: &mut State) {
        let Some(live) = &mut state.live else { return };
        let (place, cursor) = (live.place, live.consumer.cursor());
        match (self.rules.read)(state.master.record(), 0, &[cursor]) {
            Some(attached) => {
                if let Some(Pull::Read) = self.take(state, &attached) {
                    self.pull(state);
                }
            }
            None => state.ask(place, Kind::Attach, vec![cursor]),
        }
    }

    pub(super) fn detach(&self, state: &mut State, index: usize) {
        let Place { node, connection, reg } = state.detaches.remove(index);
        let detach = self.rules.detach;
        let connection = ConnectionId(u64::from(connection));
        state.master.with(|r| r.iter_mut().for_each(|r| detach(r, &NODES[node], connection, u64::from(reg))));
    }

    pub(super) fn deliver(&self, state: &mut State, index: usize) {
        let Flying { at, link, tag, .. } = state.flight.remove(index);
        let Some(live) = &mut state.live else { return };
        match (self.rules.on_live)(&mut live.consumer, at, link) {
            Step::Ignore => {}
            Step::Deliver => state.client.on_message(&self.rules, at, tag, at.seq <= live.again_to),
            Step::Pull => self.pull(state),
        }
    }

    pub(super) fn holds(&self, state: &State, what: u16) -> bool {
        state.memo.get(|| self.judge(state)) & what == 0
    }

    fn judge(&self, state: &State) -> u16 {
        let mut broken = state.client.broken | self.after_a_check(state.clone());
        if let Some(live) = state.live.as_ref().filter(|l| l.is_attached)
            && !state.asks.iter().any(|ask| ask.place == live.place && ask.kind == Kind::Attach)
            && !state.is_routed(live.place)
        {
            broken |= breach::UNROUTED;
        }
        broken | self.when_all_arrives(state.clone())
    }

    /// Everything published is lost, everything else that was under way ends, and one check runs.
    fn after_a_check(&self, mut state: State) -> u16 {
        state.flight.clear();
        self.settle(&mut state);
        if state.live.is_none() {
            self.connect(&mut state, 0);
            self.settle(&mut state);
        }
        Self::ask_verify(&mut state);
        self.settle(&mut state);
        let mut broken = state.client.broken;
        if state.master.retained().any(|tag| !state.client.knows_of(tag)) {
            broken |= breach::LOST;
        }
        if !state.live.as_ref().is_some_and(|live| state.is_routed(live.place)) {
            broken |= breach::BEHIND;
        }
        broken
    }

    /// Everything under way arrives, and nothing is checked.
    fn when_all_arrives(&self, mut state: State) -> u16 {
        self.settle(&mut state);
        while let Some(index) =
            state.flight.iter().position(|f| state.live.as_ref().is_some_and(|l| l.place.node == f.node))
        {
            self.deliver(&mut state, index);
        }
        self.settle(&mut state);
        let mut broken = state.client.broken;
        if state.live.is_some() && state.master.retained().any(|tag| !state.client.knows_of(tag)) {
            broken |= breach::LATE;
        }
        let located = state.master.record().map_or(0, |r| r.locations.len());
        let wanted = usize::from(state.live.as_ref().is_some_and(|live| state.is_routed(live.place)));
        if located > wanted {
            broken |= breach::GHOST;
        }
        broken
    }

    /// Questions first, then detaches, until there are none.
    fn settle(&self, state: &mut State) {
        loop {
            if !state.asks.is_empty() {
                self.run(state, 0);
            } else if !state.detaches.is_empty() {
                self.detach(state, 0);
            } else {
                return;
            }
        }
    }
}

/// How a connection goes on.
enum Pull {
    Read,
    /// There is no record.
    Attach,
}
