//! Who is here: a sharded map from a record to the mailboxes of its connections, all connections by id, and this node's heads
//! of groups.
//!
//! A connection is entered before its attach is asked, so that a message that is published right behind the attach finds
//! it. Removal names exactly one connection.

use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use protocol::{ConnectionId, HandOver, Live, Text};

use crate::heads::HeadMailbox;
use crate::mailbox::{Mailbox, Offer};

/// Connections of one user on one node. Every attach and verify of an address carries all its locations, so their number
/// is what one user can cost everybody: with 6,000 Redis stood still for seconds.
const RECORD_CONNECTIONS_MAX: usize = 128;

#[derive(Debug, Default)]
pub(crate) struct Registry {
    by_record: DashMap<Text, Vec<(ConnectionId, Mailbox)>>,
    by_connection: DashMap<ConnectionId, Mailbox>,
    /// Of groups, and of everybody's stream.
    pub(crate) heads: DashMap<Text, HeadMailbox>,
    /// Counting the map would lock every shard.
    count: AtomicUsize,
}

/// What a delivery did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) taken: usize,
    pub(crate) full: usize,
}

impl Registry {
    /// A connection opened.
    pub(crate) fn open(&self, id: ConnectionId, mailbox: Mailbox) {
        self.by_connection.insert(id, mailbox);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// It closed.
    pub(crate) fn close(&self, id: ConnectionId) {
        if self.by_connection.remove(&id).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Live messages of this record go to this connection from now on. False: it has as many here as are allowed.
    #[must_use]
    pub(crate) fn insert(&self, record: &Text, id: ConnectionId, mailbox: &Mailbox) -> bool {
        let mut there = self.by_record.entry(record.clone()).or_default();
        if there.iter().any(|(other, _)| *other == id) {
            return true;
        }
        if there.len() >= RECORD_CONNECTIONS_MAX {
            return false;
        }
        there.push((id, mailbox.clone()));
        true
    }

    /// True while the connection is entered for the record; of the node itself, while it has a head there.
    pub(crate) fn contains(&self, record: &Text, id: ConnectionId) -> bool {
        if id == ConnectionId::NODE {
            return self.heads.contains_key(record);
        }
        self.by_record.get(record).is_some_and(|there| there.iter().any(|(other, _)| *other == id))
    }

    /// Another connection took this one's place, if it is here.
    pub(crate) fn hand_over(&self, id: ConnectionId, why: HandOver) {
        if let Some(mailbox) = self.by_connection.get(&id) {
            mailbox.hand_over(why);
        }
    }

    /// Removes exactly this connection from the record.
    pub(crate) fn remove(&self, record: &Text, id: ConnectionId) {
        self.by_record.remove_if_mut(record, |_, there| {
            there.retain(|(other, _)| *other != id);
            there.is_empty()
        });
    }

    /// Hands a message to every connection of its record.
    pub(crate) fn deliver(&self, record: &Text, version: u64, live: &Live) -> Delivered {
        let mut delivered = Delivered::default();
        let Some(there) = self.by_record.get(record) else { return delivered };
        for (_, mailbox) in there.iter() {
            match mailbox.offer(record, version, live) {
                Offer::Taken => delivered.taken += 1,
                Offer::Full => delivered.full += 1,
                Offer::Gone => {}
            }
        }
        delivered
    }

    /// The mailboxes of these records, as they are now, each once for a record; those that had something to do last come
    /// first.
    pub(crate) fn mailboxes_of(&self, is_one: impl Fn(&Text) -> bool) -> Vec<Mailbox> {
        let mut all = Vec::new();
        for entry in self.by_record.iter().filter(|entry| is_one(entry.key())) {
            // Each number once: it may change while they are sorted.
            all.extend(entry.value().iter().map(|(_, mailbox)| (mailbox.active_at(), mailbox.clone())));
        }
        all.sort_unstable_by_key(|(active_at, _)| std::cmp::Reverse(*active_at));
        all.into_iter().map(|(_, mailbox)| mailbox).collect()
    }

    /// All mailboxes, as they are now.
    pub(crate) fn mailboxes(&self) -> Vec<Mailbox> {
        self.by_connection.iter().map(|entry| entry.value().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::mailbox;
    use protocol::{Encoding, Envelope, Ephemeral, Millis, UnixMillis};

    fn live() -> Live {
        let envelope = Envelope {
            to: "user:b".into(),
            from: "user:a".into(),
            id: "1".into(),
            encoding: Encoding::Json,
            body: bytes::Bytes::from_static(b"1"),
            expires_ms: None,
            traceparent: None,
            flags: 0,
        };
        Live::Ephemeral(Ephemeral { at: UnixMillis(0), envelope: envelope.into() })
    }

    #[test]
    fn a_message_reaches_every_connection_of_its_record_and_a_removal_names_one() {
        let registry = Registry::default();
        let (record, other) = (Text::from("user:b"), Text::from("user:c"));
        let (first, _first) = mailbox();
        let (second, _second) = mailbox();
        assert!(registry.insert(&record, ConnectionId(1), &first));
        assert!(registry.insert(&record, ConnectionId(1), &first));
        assert!(registry.insert(&record, ConnectionId(2), &second));
        assert_eq!(registry.deliver(&record, 0, &live()).taken, 2);
        assert_eq!(registry.deliver(&other, 0, &live()), Delivered::default());
        registry.remove(&record, ConnectionId(1));
        assert!(!registry.contains(&record, ConnectionId(1)) && registry.contains(&record, ConnectionId(2)));
        registry.remove(&record, ConnectionId(2));
        assert!(registry.by_record.is_empty());
    }

    #[test]
    fn the_mailboxes_of_some_records_come_with_the_most_active_first() {
        let registry = Registry::default();
        let receivers: Vec<_> = [300, 100, 400, 200, 500]
            .into_iter()
            .zip(["user:a", "user:b", "user:b", "user:c", "user:other"])
            .enumerate()
            .map(|(n, (active_ms, record))| {
                let (sender, receiver) = mailbox();
                receiver.mark_active(Millis(active_ms));
                assert!(registry.insert(&Text::from(record), ConnectionId(n as u64), &sender));
                receiver
            })
            .collect();
        let active: Vec<_> =
            registry.mailboxes_of(|of| of.as_str() != "user:other").iter().map(|m| m.active_at().0).collect();
        assert_eq!(active, [400, 300, 200, 100]);
        drop(receivers);
    }

    #[test]
    fn one_user_has_so_many_connections_and_no_more() {
        let (registry, record) = (Registry::default(), Text::from("user:b"));
        let (mailbox, _receiver) = mailbox();
        let taken = (0..1_000).filter(|&n| registry.insert(&record, ConnectionId(n), &mailbox)).count();
        assert_eq!(taken, RECORD_CONNECTIONS_MAX);
        assert!(registry.insert(&Text::from("user:c"), ConnectionId(2_000), &mailbox), "others are not concerned");
    }
}
