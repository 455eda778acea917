//! What comes on the streams: where they start, what they bring, when they end.

use super::Core;
use crate::event::Event;
use crate::wire::people::MemberChange;
use crate::wire::{Message, Reset, Status, StreamStart};

impl<T> Core<T> {
    pub(super) fn start_stream(&mut self, start: &StreamStart) {
        self.streams.start(start);
        if start.status == Status::Reset {
            self.acks.forget(&start.of);
        }
    }

    pub(super) fn on_message(&mut self, message: Message) {
        if self.streams.take(&message, &self.user) {
            self.deliver(Event::Message(message));
        }
    }

    /// Who is out of a group does not go on there after a reconnect.
    pub(super) fn on_member_change(&mut self, change: MemberChange) {
        if change.who.as_ref().is_some_and(|(user, joined)| *user == self.user && !joined) {
            self.end_stream(&change.group);
        }
        self.deliver(Event::MemberChange(change));
    }

    pub(super) fn end_stream(&mut self, group: &str) {
        let of = format!("group:{group}");
        self.streams.end(&of);
        self.acks.forget(&of);
    }

    pub(super) fn on_reset(&mut self, reset: Reset) {
        self.streams.place(&reset.of, &reset.cursor);
        self.acks.forget(&reset.of);
        self.deliver(Event::Reset(reset));
    }
}
