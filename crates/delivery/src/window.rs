//! What a node has acknowledged and Redis may still lose: kept until every replica is known to have it, so that the node
//! can append it again after a failover that lost a tail.
//!
//! Pure: the shell asks the master for its replication offsets and hands the answers in. Rule: docs/delivery.md, Promises.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use protocol::{Cursor, Millis, Text};

use crate::sabotage::{self, Rule};
use crate::types::NewMessage;

/// Without a replica nobody can confirm; after this long a restart finds the message on its disk.
const ALONE_MS: u64 = 10_000;
/// However slow the replicas are, nothing is kept longer.
const AGE_MS_MAX: u64 = 300_000;

/// Something that was answered.
pub trait Answered {
    /// Bytes that it costs the window.
    fn weight(&self) -> usize;
}

/// A message that was answered `sent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub record: Text,
    pub message: NewMessage,
    /// Where it was stored, and when by the backplane's clock.
    pub cursor: Cursor,
    /// No try of it is older than this, by the backplane's clock in microseconds: a master that comes back may have the
    /// first one.
    pub first_us: u64,
}

impl Hash for Acknowledged {
    /// A stamp names the entry; the message would say no more.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.record, self.cursor.stamp).hash(state);
    }
}

impl Answered for Acknowledged {
    fn weight(&self) -> usize {
        self.message.envelope.len() + self.record.len() + 160
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kept<T> {
    answered: T,
    at: Millis,
}

/// What was answered and is not known to be safe, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window<T = Acknowledged> {
    kept: VecDeque<Kept<T>>,
    bytes: usize,
    bytes_max: usize,
    /// How many answers have ever gone before the first one that is kept.
    gone: u64,
    /// Offsets of the master and what was answered before each was asked for.
    marks: VecDeque<Mark>,
    /// When a replica was there last. One that went away may be the next master.
    replica_seen: Option<Millis>,
    unconfirmed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Mark {
    before: u64,
    master_offset: u64,
}

/// What a master says of its replication.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replication {
    pub master_offset: u64,
    pub replica_offsets: Vec<u64>,
}

/// When a question was asked: covers everything acknowledged before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question(u64);

impl<T: Answered> Window<T> {
    pub fn new(bytes_max: usize) -> Self {
        let (kept, marks) = (VecDeque::new(), VecDeque::new());
        Self { kept, bytes: 0, bytes_max, gone: 0, marks, replica_seen: None, unconfirmed: 0 }
    }

    /// Something was answered.
    pub fn push(&mut self, answered: T, now: Millis) {
        // What is appended again would hide what becomes of messages without these rules.
        if sabotage::is_off(Rule::LostReplicated) || sabotage::is_off(Rule::MissingReset) {
            return;
        }
        self.bytes += answered.weight();
        self.kept.push_back(Kept { answered, at: now });
        while self.bytes > self.bytes_max && self.kept.len() > 1 {
            self.drop_first();
            self.unconfirmed += 1;
        }
    }

    /// To be called before the master is asked for its offsets.
    pub fn question(&self) -> Question {
        Question(self.gone + self.kept.len() as u64)
    }

    /// Takes the answer: what every replica has is let go.
    pub fn on_replication(&mut self, question: Question, answer: &Replication, now: Millis) {
        let Some(&slowest) = answer.replica_offsets.iter().min() else {
            // Nobody will ever confirm these marks.
            self.marks.clear();
            let had_replica = self.replica_seen.is_some_and(|seen| now.since(seen) < AGE_MS_MAX);
            while self.kept.front().is_some_and(|k| now.since(k.at) >= ALONE_MS) {
                self.drop_first();
                self.unconfirmed += u64::from(had_replica);
            }
            return;
        };
        self.replica_seen = Some(now);
        // An offset that was asked for after an acknowledgement is at or past that write. A later offset for the same messages
        // says less than the earlier one.
        if self.marks.back().is_none_or(|last| last.before < question.0) {
            self.marks.push_back(Mark { before: question.0, master_offset: answer.master_offset });
        }
        let confirmed = self.marks.iter().rev().find(|m| m.master_offset <= slowest).map(|m| m.before);
        if let Some(before) = confirmed {
            while self.gone < before && !self.kept.is_empty() {
                self.drop_first();
            }
            self.marks.retain(|m| m.before > before);
        }
        while self.kept.front().is_some_and(|k| now.since(k.at) >= AGE_MS_MAX) {
            self.drop_first();
            self.unconfirmed += 1;
        }
        let gone = self.gone;
        self.marks.retain(|m| m.before > gone);
    }

    /// Everything that is not known to be safe, oldest first: to be asked again of another master, each unless it is there.
    /// It stays until that master's replicas have it. The old master's offsets say nothing about the new one.
    pub fn replay(&mut self) -> impl Iterator<Item = &T> {
        self.marks.clear();
        self.kept.iter().map(|k| &k.answered)
    }

    /// True while something is kept that a replica will soon have, or was lately there to have.
    pub fn awaits_replica(&self, now: Millis) -> bool {
        !self.kept.is_empty() && self.replica_seen.is_some_and(|seen| now.since(seen) < ALONE_MS)
    }

    /// How many fell out without being confirmed since the last time.
    pub fn take_unconfirmed(&mut self) -> u64 {
        std::mem::take(&mut self.unconfirmed)
    }

    pub fn len(&self) -> usize {
        self.kept.len()
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.kept.pop_front() {
            self.bytes -= first.answered.weight();
            self.gone += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Kind;
    use bytes::Bytes;
    use protocol::{Stamp, Tag};

    fn acknowledged(n: u64) -> Acknowledged {
        let message =
            NewMessage { kind: Kind::Durable, tag: Tag(n), envelope: Bytes::from_static(b"x"), search_us: None };
        let cursor = Cursor { stamp: Stamp(n), ..Cursor::default() };
        Acknowledged { record: Text::from("user:b"), message, cursor, first_us: n }
    }

    fn at(master_offset: u64, replicas: &[u64]) -> Replication {
        Replication { master_offset, replica_offsets: replicas.to_vec() }
    }

    fn kept(window: &mut Window) -> Vec<u64> {
        window.replay().map(|a| a.cursor.stamp.0).collect()
    }

    #[test]
    fn a_message_is_kept_until_every_replica_is_past_an_offset_that_was_asked_for_after_it() {
        let mut window: Window = Window::new(1 << 20);
        window.push(acknowledged(1), Millis(0));
        let first = window.question();
        window.push(acknowledged(2), Millis(0));
        window.on_replication(first, &at(100, &[100, 90]), Millis(1));
        assert_eq!(window.len(), 2, "one replica is behind");
        let second = window.question();
        window.on_replication(second, &at(200, &[150, 120]), Millis(2));
        assert_eq!(window.len(), 1, "the first mark is reached by all, the second by none");
        window.on_replication(window.question(), &at(200, &[200, 200]), Millis(3));
        assert!(window.is_empty());
    }

    /// The offset in an answer may be older than a message that was acknowledged while the answer was on its way.
    #[test]
    fn what_was_acknowledged_after_the_question_is_not_covered_by_its_answer() {
        let mut window: Window = Window::new(1 << 20);
        let early = window.question();
        window.push(acknowledged(1), Millis(0));
        window.on_replication(early, &at(100, &[100]), Millis(1));
        assert_eq!(kept(&mut window), [1]);
    }

    #[test]
    fn without_a_replica_ten_seconds_have_to_do() {
        let mut window: Window = Window::new(1 << 20);
        window.push(acknowledged(1), Millis(0));
        window.push(acknowledged(2), Millis(5_000));
        window.on_replication(window.question(), &at(1, &[]), Millis(9_999));
        assert_eq!(window.len(), 2);
        window.on_replication(window.question(), &at(1, &[]), Millis(10_000));
        assert_eq!(kept(&mut window), [2]);
        assert_eq!(window.take_unconfirmed(), 0);
    }

    /// A master that was cut off from its replica goes on answering, and the replica becomes the master.
    #[test]
    fn beside_a_replica_that_went_away_what_falls_out_is_counted() {
        let mut window: Window = Window::new(1 << 20);
        window.on_replication(window.question(), &at(1, &[1]), Millis(0));
        window.push(acknowledged(1), Millis(0));
        window.on_replication(window.question(), &at(2, &[]), Millis(ALONE_MS));
        assert_eq!((window.len(), window.take_unconfirmed()), (0, 1));
        window.push(acknowledged(2), Millis(AGE_MS_MAX));
        window.on_replication(window.question(), &at(3, &[]), Millis(AGE_MS_MAX + ALONE_MS));
        assert_eq!((window.len(), window.take_unconfirmed()), (0, 0), "it has been alone for long");
    }

    /// A node that leaves takes its memory along; a replica that is there has everything within a moment.
    #[test]
    fn who_leaves_waits_for_a_replica_that_is_there_and_for_nobody_else() {
        let mut window: Window = Window::new(1 << 20);
        window.push(acknowledged(1), Millis(0));
        assert!(!window.awaits_replica(Millis(0)), "nobody is there");
        let question = window.question();
        window.on_replication(question, &at(5, &[4]), Millis(1));
        assert!(window.awaits_replica(Millis(2)));
        assert!(!window.awaits_replica(Millis(1 + ALONE_MS)), "it went away");
        window.on_replication(window.question(), &at(5, &[5]), Millis(3));
        assert!(!window.awaits_replica(Millis(3)), "it has everything");
    }

    #[test]
    fn what_falls_out_unconfirmed_is_counted() {
        let mut window = Window::new(2 * acknowledged(1).weight());
        (1..=5).for_each(|n| window.push(acknowledged(n), Millis(0)));
        assert_eq!(kept(&mut window), [4, 5]);
        assert_eq!(window.take_unconfirmed(), 3);
        window.on_replication(window.question(), &at(100, &[0]), Millis(AGE_MS_MAX));
        assert!(window.is_empty());
        assert_eq!(window.take_unconfirmed(), 2);
    }

    /// After a failover the offsets begin anew: a mark of the old master must not let go what the new one lost.
    #[test]
    fn a_replay_forgets_the_old_masters_offsets_and_keeps_the_messages() {
        let mut window: Window = Window::new(1 << 20);
        window.push(acknowledged(1), Millis(0));
        window.on_replication(window.question(), &at(100, &[50]), Millis(1));
        assert_eq!(kept(&mut window), [1]);
        let early = Question(0);
        window.on_replication(early, &at(500, &[500]), Millis(2));
        assert_eq!(window.len(), 1);
    }
}
