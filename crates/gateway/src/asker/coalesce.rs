//! Reads that are the same read: connections of one record that wait to read after the very same places share one, and
//! each gets the answer. It saves asking, never checking: a connection whose cursor is another one is never served by it,
//! because one connection's fork would be hidden by the other's place that holds.
//!
//! Only a read that was not asked yet is shared. One in flight may have been answered before the entry was stored that
//! made the next connection ask. Rule: docs/delivery.md, On the node, 3.

use std::collections::HashMap;
use std::hash::Hash;

use backplane::ReadRequest;
use protocol::{Cursor, Text};

/// What makes two reads the same: the record, and every place that is checked, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    of: Text,
    after: Vec<Cursor>,
}

impl Question {
    pub(super) fn of(request: &ReadRequest) -> Self {
        Self { of: request.of.clone(), after: request.after.clone() }
    }
}

/// Who waits for which question. `W`: one who asks.
#[derive(Debug)]
pub(super) struct Reads<W, Q = Question> {
    waiting: HashMap<Q, Vec<W>>,
}

impl<W, Q: Eq + Hash> Reads<W, Q> {
    pub(super) fn new() -> Self {
        Self { waiting: HashMap::new() }
    }

    /// True: somebody asks this already, and has no answer on its way.
    pub(super) fn is_waiting(&self, question: &Q) -> bool {
        self.waiting.contains_key(question)
    }

    pub(super) fn add(&mut self, question: Q, who: W) {
        self.waiting.entry(question).or_default().push(who);
    }

    /// It is asked now, for all of these; who comes later asks again.
    pub(super) fn take(&mut self, question: &Q) -> Vec<W> {
        let who = self.waiting.remove(question).unwrap_or_default();
        if self.waiting.is_empty() {
            self.waiting = HashMap::new();
        }
        who
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use delivery::record::Whose;
    use delivery::{Attached, Kind, Limits, NewMessage, Reason, Record, Start, record};
    use protocol::{Epoch, Stamp, Tag};

    fn at(seq: u64, stamp: u64) -> Cursor {
        Cursor { epoch: Epoch([1; 8]), seq, stamp: Stamp(stamp) }
    }

    fn question(of: &str, after: &[Cursor]) -> Question {
        Question::of(&ReadRequest { of: of.into(), after: after.to_vec() })
    }

    #[test]
    fn connections_that_read_after_the_same_places_share_one_read() {
        let mut reads = Reads::new();
        let same = question("user:b", &[at(5, 50), at(4, 40)]);
        assert!(!reads.is_waiting(&same));
        for who in 0..3 {
            reads.add(same.clone(), who);
        }
        assert!(reads.is_waiting(&same));
        assert_eq!(reads.take(&same), [0, 1, 2]);
    }

    #[test]
    fn another_place_record_stamp_or_order_is_another_read() {
        let one = question("user:b", &[at(5, 50), at(4, 40)]);
        for other in [
            question("user:c", &[at(5, 50), at(4, 40)]),
            question("user:b", &[at(5, 50)]),
            question("user:b", &[at(5, 51), at(4, 40)]),
            question("user:b", &[at(4, 40), at(5, 50)]),
            question("user:b", &[Cursor { epoch: Epoch([2; 8]), ..at(5, 50) }, at(4, 40)]),
        ] {
            assert_ne!(one, other);
        }
    }

    /// The answer on its way may be older than what made the next one ask.
    #[test]
    fn a_read_that_was_asked_serves_nobody_who_comes_later() {
        let mut reads = Reads::new();
        let same = question("user:b", &[at(5, 50)]);
        reads.add(same.clone(), "before");
        assert_eq!(reads.take(&same), ["before"]);
        assert!(!reads.is_waiting(&same));
        reads.add(same.clone(), "behind");
        assert_eq!(reads.take(&same), ["behind"]);
    }

    const LIMITS: Limits =
        Limits { retention_ms: 1_000_000, inbox_max: 100, inbox_bytes: 100_000, retry_young_us: 1_000 };

    fn store(record: &mut Option<Record>, now_us: u64, tag: u64) {
        let envelope = protocol::Envelope {
            to: "user:b".into(),
            from: "user:a".into(),
            id: "1".into(),
            encoding: protocol::Encoding::Json,
            body: bytes::Bytes::from_static(b"1"),
            expires_ms: None,
            traceparent: None,
            flags: 0,
        };
        let message =
            NewMessage { kind: Kind::Durable, tag: Tag(tag), envelope: envelope.encode().into(), search_us: None };
        let message = std::slice::from_ref(&message);
        drop(record::append(record, Whose::User, Epoch([1; 8]), now_us, 0, message, &LIMITS));
    }

    /// What each of two connections of one record is told, when reads are the same that `same` says: one of them took a
    /// second message that the backplane lost; the other one was away, and took what was stored in its place.
    fn told<Q: Eq + Hash + Clone>(same: impl Fn(&ReadRequest) -> Q) -> Vec<Start> {
        let mut old = None;
        store(&mut old, 1_000_000, 1);
        let mut new = old.clone();
        store(&mut old, 1_000_010, 2);
        store(&mut new, 1_000_020, 3);
        let cursors = [new.as_ref().unwrap().end(), old.as_ref().unwrap().end()];
        store(&mut new, 1_000_030, 4);

        let (mut reads, mut asked) = (Reads::new(), Vec::new());
        for (who, cursor) in cursors.into_iter().enumerate() {
            let request = ReadRequest { of: "user:b".into(), after: vec![cursor] };
            let question = same(&request);
            if !reads.is_waiting(&question) {
                asked.push((question.clone(), request));
            }
            reads.add(question, who);
        }
        let mut told = vec![None; 2];
        for (question, request) in asked {
            let answer: Attached = record::read(new.as_ref(), 1_000_040, &request.after).unwrap();
            for who in reads.take(&question) {
                told[who] = Some(answer.start);
            }
        }
        told.into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn a_fork_is_not_hidden_by_another_connections_place_that_holds() {
        let fork = Start::Reset { reason: Reason::Fork, lost: None };
        assert_eq!(told(Question::of), [Start::Resumed, fork]);
    }

    /// The mutant: what would happen if the record alone made two reads the same.
    #[test]
    fn reads_that_are_shared_by_record_alone_hide_a_fork() {
        assert_eq!(told(|request| request.of.clone()), [Start::Resumed, Start::Resumed]);
    }
}
