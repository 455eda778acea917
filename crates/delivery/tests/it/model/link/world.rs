//! What the nodes do: append and publish, attach, read, verify, and what heals.

use std::sync::Arc;

use delivery::record::AttachRequest;
use delivery::{Attached, Consumer, Place, Reason, Standing, Start, Step};
use protocol::Cursor;
use protocol::client::From;

use super::{Flying, Link, Live, State};
use crate::model::client::breach;
use crate::model::rules::{Post, START_US, limits, registration};

/// A question of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    /// Not with the master yet.
    Attach(Vec<Cursor>),
    Read,
    /// The log forked under the cursor: the places before it are asked about.
    ReadAll,
    /// On its way back.
    Answered(Reply),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply(Arc<Attached>);

impl std::hash::Hash for Reply {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.0.start, self.0.cursor, self.0.page.end).hash(state);
    }
}

fn is_fork(attached: &Attached) -> bool {
    matches!(attached.start, Start::Reset { reason: Reason::Fork | Reason::Ahead, .. })
}

impl Link {
    /// Each master has a clock of its own: never the same microsecond, and the second one starts behind the first.
    fn now_us(state: &State, master: usize) -> u64 {
        START_US + 10 * u64::from(state.ticks[master]) + 5 * master as u64
    }

    pub(super) fn append(&self, state: &mut State, to: usize, batch: &[Post]) {
        let now_us = Self::now_us(state, to);
        state.ticks[to] += 1;
        let (appended, is_twice) = state.masters[to].append(&self.rules, now_us, batch, &limits(self.inbox_max));
        if is_twice {
            state.client.broken |= breach::STORED;
        }
        state.found |= appended.placed.iter().any(|p| matches!(p.place, Place::Found(_)));
        for row in appended.live {
            for node in (0..2).filter(|node| state.located & (1 << node) != 0) {
                state.flight.push(Flying { node, at: row.cursor, link: row.link, tag: row.stored.tag });
            }
        }
        state.flight.sort_unstable();
    }

    pub(super) fn attach(&self, state: &mut State, node: usize) {
        state.connects += 1;
        state.located |= 1 << node;
        let consumer = Consumer::attaching(Cursor::default());
        let cursors = (self.rules.names)(state.client.cursors());
        state.live = Some(Live { node, consumer, again_to: 0, asked: Some(Asked::Attach(cursors)) });
        if !self.slow {
            self.run(state);
            self.answer(state);
        }
    }

    /// An attach of which the client gets only the beginning; `None` if it gets all.
    pub(super) fn attach_cut(&self, state: &mut State, node: usize, after: usize) -> Option<()> {
        state.connects += 1;
        state.located |= 1 << node;
        let cursors = (self.rules.names)(state.client.cursors());
        let kept = state.client.cursors().to_vec();
        let mut attached = self.ask_attach(state, node, &cursors, &kept);
        if after >= attached.page.entries.len() {
            return None;
        }
        attached.page.entries.truncate(after);
        self.take(state, &attached);
        Some(())
    }

    /// `kept`: what whoever asks knows of the stream, and could have named.
    fn ask_attach(&self, state: &mut State, node: usize, cursors: &[Cursor], kept: &[Cursor]) -> Attached {
        let master = state.commands[node];
        let now_us = Self::now_us(state, master);
        let cursors = cursors.iter().copied().map(Some).collect();
        let request = AttachRequest::of(registration(node, 1, 1), cursors, From::Oldest);
        let epoch = protocol::Epoch((now_us + 1).to_be_bytes());
        let before = state.masters[master].clone();
        let attached = state.masters[master].with(|record| {
            let attached = (self.rules.attach)(record, epoch, now_us, &request, &limits(self.inbox_max));
            // Locations are the other model's: here whatever is published may arrive.
            record.iter_mut().for_each(|r| r.locations.clear());
            attached
        });
        if before.record().is_some() {
            state.masters[master] = before;
        } else {
            // It began a record: the clock moves, so that no other life of the inbox is called the same.
            state.ticks[master] += 1;
        }
        let inbox = state.masters[master].clone();
        Self::judge_start(&mut state.client, &inbox, kept, attached.start, attached.cursor);
        attached
    }

    /// Reads after the cursor, or attaches again.
    pub(super) fn pull(&self, state: &mut State, reattach: bool) {
        let Some(live) = &mut state.live else { return };
        if live.asked.is_some() {
            state.client.broken |= breach::TWO_READS;
        }
        live.asked = Some(if reattach { Asked::Attach(vec![live.consumer.cursor()]) } else { Asked::Read });
        if !self.slow {
            self.run(state);
            self.answer(state);
        }
    }

    /// The master answers.
    pub(super) fn run(&self, state: &mut State) {
        let Some(live) = &state.live else { return };
        let (node, cursor) = (live.node, live.consumer.cursor());
        let named = (self.rules.places)(&live.consumer);
        let places = live.consumer.places();
        let attached = match &live.asked {
            Some(Asked::Attach(cursors)) => {
                let cursors = cursors.clone();
                let is_first = cursor == Cursor::default();
                let kept = if is_first { state.client.cursors().to_vec() } else { vec![cursor] };
                self.ask_attach(state, node, &cursors, &kept)
            }
            asked => {
                let is_all = *asked == Some(Asked::ReadAll);
                let inbox = state.masters[state.commands[node]].clone();
                let after = if is_all { named } else { vec![cursor] };
                match (self.rules.read)(inbox.record(), 0, &after) {
                    Some(attached) if !is_all && is_fork(&attached) && places.len() > 1 => {
                        state.live.iter_mut().for_each(|live| live.asked = Some(Asked::ReadAll));
                        if !self.slow {
                            self.run(state);
                        }
                        return;
                    }
                    Some(attached) => {
                        Self::judge_start(&mut state.client, &inbox, &places, attached.start, attached.cursor);
                        attached
                    }
                    // No record: the connection attaches, which begins one.
                    None => self.ask_attach(state, node, &[cursor], &[cursor]),
                }
            }
        };
        if let Some(live) = &mut state.live {
            live.asked = Some(Asked::Answered(Reply(Arc::new(attached))));
        }
    }

    /// The answer arrives.
    pub(super) fn answer(&self, state: &mut State) {
        let Some(Live { asked, .. }) = &mut state.live else { return };
        let Some(Asked::Answered(Reply(attached))) = asked.take() else { return };
        self.take(state, &attached);
        let Some(live) = &mut state.live else { return };
        let places: Vec<Cursor> = attached.page.entries.iter().map(|e| e.cursor).collect();
        let step = live.consumer.on_page(attached.cursor, places, attached.page.end, attached.page.more);
        if step == Step::Pull {
            self.pull(state, false);
        }
    }

    /// The client gets a page.
    fn take(&self, state: &mut State, attached: &Attached) {
        let is_reset = matches!(attached.start, Start::Reset { .. });
        state.client.on_start(attached);
        let mut again_to = state.live.as_ref().map_or(0, |live| live.again_to);
        if is_reset {
            again_to = attached.head;
        }
        for entry in &attached.page.entries {
            state.client.on_message(&self.rules, entry.cursor, entry.tag, entry.cursor.seq <= again_to);
        }
        if let Some(live) = &mut state.live {
            live.again_to = again_to;
        }
    }

    /// The client takes messages again.
    pub(super) fn resume(&self, state: &mut State) {
        if let Some(live) = &mut state.live
            && live.consumer.resume() == Step::Pull
        {
            self.pull(state, false);
        }
    }

    /// The position check; `None` if it changes nothing.
    pub(super) fn verify(&self, state: &mut State) -> Option<()> {
        let live = state.live.as_ref()?;
        let (node, cursor) = (live.node, live.consumer.cursor());
        let mut inbox = state.masters[state.commands[node]].clone();
        let asked = registration(node, 1, 1);
        let standing = inbox.with(|r| (self.rules.verify)(r, 0, &asked, cursor, &limits(self.inbox_max))).standing;
        let live = state.live.as_mut()?;
        if standing == Standing::Current || live.consumer.on_doubt() != Step::Pull {
            return None;
        }
        self.pull(state, standing == Standing::Gone);
        Some(())
    }

    /// Everything in flight is lost, all nodes have moved, and one position check runs, or one attach. What is broken then?
    pub(super) fn healed(&self, last: &State) -> u16 {
        let mut state = last.clone();
        let model = Self { slow: false, ..*self };
        state.commands = [state.era; 2];
        if state.live.as_ref().is_some_and(|live| live.consumer.cursor() == Cursor::default()) {
            state.live = None;
        }
        match &mut state.live {
            Some(live) => {
                if live.asked.take().is_some() {
                    live.consumer.on_failed();
                }
                model.resume(&mut state);
                let _ = model.verify(&mut state);
            }
            None => model.attach(&mut state, 0),
        }
        let inbox = &state.masters[state.era];
        let mut broken = state.client.broken;
        if inbox.retained().any(|tag| !state.client.knows_of(tag)) {
            broken |= breach::LOST;
        }
        let end = inbox.record().map(delivery::Record::end);
        if state.live.as_ref().map(|live| live.consumer.cursor()) != end {
            broken |= breach::BEHIND;
        }
        broken
    }
}
