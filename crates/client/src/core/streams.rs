//! Where each stream stands, and what the client has had of it.

use std::collections::BTreeMap;

use crate::trail::CursorTrail;
use crate::window::IdWindow;
use crate::wire::{Message, Status, StreamStart};

/// All streams of a session, over all its connections.
#[derive(Debug, Default)]
pub(super) struct Streams {
    by_name: BTreeMap<String, Stream>,
}

#[derive(Debug)]
struct Stream {
    trail: CursorTrail,
    window: IdWindow,
}

impl Stream {
    fn at(trail: CursorTrail) -> Self {
        Self { trail, window: IdWindow::default() }
    }
}

impl Streams {
    /// What was kept of an earlier process: cursors by stream, newest first.
    pub(super) fn kept(cursors: &[(String, Vec<String>)]) -> Self {
        let streams = cursors.iter().filter_map(|(of, list)| {
            let trail = CursorTrail::from_newest_first(list.iter().map(String::as_str))?;
            Some((of.clone(), Stream::at(trail)))
        });
        Self { by_name: streams.collect() }
    }

    /// As `hello` names them.
    pub(super) fn cursors(&self) -> Vec<(&str, Vec<String>)> {
        self.by_name.iter().map(|(of, stream)| (&**of, stream.trail.newest_first())).collect()
    }

    /// The server says where a stream starts.
    pub(super) fn start(&mut self, start: &StreamStart) {
        let goes_on = start.status == Status::Resumed
            && self.by_name.get(&start.of).is_some_and(|stream| stream.trail.last() == start.cursor);
        if !goes_on {
            self.place(&start.of, &start.cursor);
        }
    }

    /// The stream stands at this cursor now. What was received stays known: it may come again.
    pub(super) fn place(&mut self, of: &str, cursor: &str) {
        let trail = CursorTrail::starting_at(cursor);
        match self.by_name.get_mut(of) {
            Some(stream) => stream.trail = trail,
            None => drop(self.by_name.insert(of.to_owned(), Stream::at(trail))),
        }
    }

    /// A stream that was asked for stands here, unless the server has told more of it already.
    pub(super) fn begin(&mut self, of: &str, cursor: &str) {
        if !self.by_name.contains_key(of) {
            self.place(of, cursor);
        }
    }

    /// The stream is over: the next connection does not go on there.
    pub(super) fn end(&mut self, of: &str) {
        self.by_name.remove(of);
    }

    /// Takes a message; false if the application has had it. Every durable one is compared, not only those that say
    /// `again`: a message that a failover lost and its sender's retry brought back is new to the server. An ephemeral one
    /// has no place, and is never left out.
    pub(super) fn take(&mut self, message: &Message, own_user: &str) -> bool {
        let Some(cursor) = &message.cursor else { return true };
        let stream = self
            .by_name
            .entry(message.stream(own_user))
            .or_insert_with(|| Stream::at(CursorTrail::starting_at(cursor)));
        stream.trail.push(cursor);
        stream.window.insert(&message.from, &message.id)
    }
}
