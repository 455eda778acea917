//! The streams of one device, over all its connections: the cursors that it resumes with, as a client keeps them, and what
//! of them goes into the history.

use std::collections::{BTreeMap, BTreeSet};

use protocol::Cursor;
use serde_json::{Value, json};
use switchboard_client::wire::StreamStart;
use switchboard_client::{CursorTrail, Status};

use super::shared::Shared;
use crate::history::{To, What};

pub(crate) struct Streams {
    /// The device's place in [`Shared::places`].
    index: usize,
    own: To,
    trails: BTreeMap<To, CursorTrail>,
    /// What the opening of this session named.
    named: BTreeSet<To>,
    running: BTreeSet<To>,
}

impl Streams {
    pub(crate) fn new(index: usize, recipient: u32) -> Self {
        let (trails, named, running) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { index, own: To::User(recipient), trails, named, running }
    }

    /// The cursors of a `hello`.
    pub(crate) fn name(&mut self) -> Value {
        self.named = self.trails.keys().copied().collect();
        self.running.clear();
        self.trails.iter().map(|(of, trail)| (of.to_string(), json!(trail.newest_first()))).collect()
    }

    pub(crate) fn runs(&self, of: To) -> bool {
        self.running.contains(&of)
    }

    /// What is acknowledged.
    pub(crate) fn acks(&self) -> impl Iterator<Item = Value> {
        let running = self.trails.iter().filter(|(of, _)| self.running.contains(of));
        running.map(|(of, trail)| json!({"type": "ack", "of": of.to_string(), "cursor": trail.last()}))
    }

    /// A stream begins, the own inbox with `welcome`; says how, as the history does.
    pub(crate) fn start(&mut self, shared: &Shared, session: u32, start: &StreamStart) -> String {
        let of = To::of_address(&start.of);
        let word = match start.status {
            Status::New => "new",
            Status::Resumed => "resumed",
            Status::Reset => start.reason.as_deref().unwrap_or("reset"),
        };
        if start.status == Status::Reset {
            shared.counts.count(&format!("reset {word}"));
        }
        if start.status != Status::Resumed || !self.trails.contains_key(&of) {
            self.trails.insert(of, CursorTrail::starting_at(&start.cursor));
        }
        self.running.insert(of);
        let (word, cursor) = (word.to_owned(), Cursor::from_text(&start.cursor));
        if of == self.own {
            shared.stands(self.index, |place| (place.session, place.cursor) = (Some(session), cursor));
        } else {
            let (is_named, start, lost) = (self.named.remove(&of), word.clone(), start.lost);
            shared.recorder.record(What::Stream { session, of, start, lost, is_named });
            shared.stands(self.index, |place| place.streams.extend([(of, cursor)]));
        }
        word
    }

    /// The membership is over: who comes back later begins anew.
    pub(crate) fn end(&mut self, shared: &Shared, session: u32, of: To) {
        let was_there = self.trails.remove(&of).is_some();
        if self.running.remove(&of) || was_there {
            shared.recorder.record(What::StreamEnded { session, of });
            shared.stands(self.index, |place| {
                place.streams.remove(&of);
            });
        }
    }

    pub(crate) fn reset(&mut self, shared: &Shared, of: To, cursor: &str) {
        self.trails.insert(of, CursorTrail::starting_at(cursor));
        self.stand(shared, of, Cursor::from_text(cursor));
    }

    pub(crate) fn take(&mut self, shared: &Shared, to: To, cursor: &str) {
        let of = if matches!(to, To::User(_)) { self.own } else { to };
        if let Some(trail) = self.trails.get_mut(&of) {
            trail.push(cursor);
        }
        self.stand(shared, of, Cursor::from_text(cursor));
    }

    fn stand(&self, shared: &Shared, of: To, cursor: Option<Cursor>) {
        shared.stands(self.index, |place| {
            if of == self.own {
                place.cursor = cursor;
            } else if let Some(stands) = place.streams.get_mut(&of) {
                *stands = cursor;
            }
        });
    }
}
