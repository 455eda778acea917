//! Acknowledged positions on their way to the server: the last one of each stream wins, and they go out in bundles.

use std::collections::{BTreeMap, BTreeSet};

use protocol::Millis;

/// Pause between two bundles. A receiver that acknowledges every message must not meet the rate limit of 100 frames a
/// second; the server stores acks once a second anyway.
const PAUSE_MS: u64 = 250;

/// There is no answer to an ack, so the last one of every stream is kept and said again after a reconnect.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    latest: BTreeMap<String, String>,
    unsaid: BTreeSet<String>,
    next: Millis,
}

impl Acks {
    pub(crate) fn set(&mut self, of: &str, cursor: &str) {
        self.latest.insert(of.to_owned(), cursor.to_owned());
        self.unsaid.insert(of.to_owned());
    }

    /// After a reset the old position means nothing.
    pub(crate) fn forget(&mut self, of: &str) {
        self.latest.remove(of);
        self.unsaid.remove(of);
    }

    /// A new connection: whether the last ones arrived is not known.
    pub(crate) fn say_again(&mut self) {
        self.unsaid = self.latest.keys().cloned().collect();
    }

    /// When the next bundle may go out; `None`: there is nothing to say.
    pub(crate) fn due(&self) -> Option<Millis> {
        (!self.unsaid.is_empty()).then_some(self.next)
    }

    /// What is to be said now.
    pub(crate) fn take(&mut self) -> Vec<(String, String)> {
        let unsaid = std::mem::take(&mut self.unsaid);
        unsaid.into_iter().filter_map(|of| self.latest.get(&of).cloned().map(|cursor| (of, cursor))).collect()
    }

    pub(crate) fn written(&mut self, now: Millis) {
        self.next = now.plus(PAUSE_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_position_of_a_stream_wins_and_bundles_keep_their_distance() {
        let mut acks = Acks::default();
        assert_eq!(acks.due(), None);
        acks.set("all", "1");
        acks.set("all", "2");
        assert_eq!(acks.due(), Some(Millis(0)), "the first goes out at once");
        assert_eq!(acks.take(), [("all".to_owned(), "2".to_owned())]);
        acks.written(Millis(10));
        assert_eq!(acks.due(), None);
        acks.set("all", "3");
        assert_eq!(acks.due(), Some(Millis(10 + PAUSE_MS)));
    }

    #[test]
    fn a_new_connection_hears_them_again_unless_a_reset_made_them_void() {
        let mut acks = Acks::default();
        acks.set("all", "1");
        acks.set("user:a", "2");
        acks.take();
        acks.forget("all");
        acks.say_again();
        assert_eq!(acks.take(), [("user:a".to_owned(), "2".to_owned())]);
    }
}
