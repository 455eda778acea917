//! One connection's place in one address's inbox.
//!
//! A [`Consumer`] decides what happens to each live envelope: deliver, ignore, or read the inbox again from the cursor.
//! It owns the cursor; nothing else moves it. Rule 2 of docs/delivery.md ("On the node"); this alone makes delivery safe,
//! whatever the subscription did.

use protocol::{Cursor, Stamp};

use crate::sabotage::{self, Rule};

/// What the caller does next: exactly one step per input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an ignored step is a lost message"]
pub enum Step {
    /// Hand it on. The cursor already stands on it.
    Deliver,
    /// Nothing: it was delivered before, or a pull in flight will bring it.
    Ignore,
    /// Read the inbox after the cursor; the backplane checks its stamp too.
    Pull,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Consumer {
    cursor: Cursor,
    /// The last few delivered, to tell a repeat from a fork. Made at the first delivery: most connections are idle.
    recent: Option<Box<Recent>>,
    /// False: it remembers its cursor only, because the head of its group on this node remembers for all members.
    has_ring: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// The cursor follows the channel.
    Live,
    /// A read is in flight (attach is the first); `again`: one more is due after it.
    Pulling { again: bool },
    /// The connection cannot take more; the inbox is its buffer.
    Paused,
    /// The same while a read is in flight: its page is taken, and no second read may begin before.
    PausedPulling,
}

/// Places delivered in a row whose repeat is nothing to wonder about.
const RECENT: usize = 16;

/// Entries whose number is a multiple of these are remembered longer, the last two of each: where a fork lies far back, the
/// replay starts there and not at the oldest that is kept.
const MARKS: [u64; 2] = [64, 512];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Recent {
    places: [(u64, Stamp); RECENT],
    next: usize,
    /// For each of [`MARKS`] the last two, the newer first.
    marks: [[Option<(u64, Stamp)>; 2]; MARKS.len()],
}

impl Consumer {
    /// A consumer whose first read is in flight. `cursor` is where it goes on from if that read fails.
    pub fn attaching(cursor: Cursor) -> Self {
        Self { cursor, recent: None, has_ring: true, state: State::Pulling { again: false } }
    }

    /// The same for a member of a group, or of everybody's stream: what he had before his cursor is in the head's ring.
    pub fn following(cursor: Cursor) -> Self {
        Self { has_ring: false, ..Self::attaching(cursor) }
    }

    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    pub fn is_paused(&self) -> bool {
        matches!(self.state, State::Paused | State::PausedPulling)
    }

    /// Takes an entry that was published while this connection was registered on this node.
    pub fn on_live(&mut self, at: Cursor, link: Stamp) -> Step {
        match &mut self.state {
            State::Pulling { again } => {
                *again = true;
                return Step::Ignore;
            }
            State::Paused | State::PausedPulling => return Step::Ignore,
            State::Live => {}
        }
        // The link names the entry before by its stamp, so neither a gap nor a reused number can pass for "the next one".
        if at.follows(&self.cursor) && link == self.cursor.stamp {
            self.advance(at);
            return Step::Deliver;
        }
        if self.is_recent(&at) {
            return Step::Ignore;
        }
        if sabotage::is_off(Rule::Lost) && at.epoch == self.cursor.epoch && at.seq > self.cursor.seq {
            self.advance(at);
            return Step::Deliver;
        }
        self.pull()
    }

    /// All places that this consumer knows to have delivered, newest first: what a fork is compared with, so that it
    /// replays little.
    pub fn places(&self) -> Vec<Cursor> {
        let mut known: Vec<(u64, Stamp)> = Vec::new();
        if let Some(recent) = self.recent.as_deref() {
            known.extend(recent.places.iter().filter(|(seq, _)| *seq > 0));
            known.extend(recent.marks.iter().flatten().flatten());
        }
        let epoch = self.cursor.epoch;
        let mut places: Vec<Cursor> = known.into_iter().map(|(seq, stamp)| Cursor { epoch, seq, stamp }).collect();
        places.push(self.cursor);
        places.sort_unstable_by_key(|at| std::cmp::Reverse((at.seq, at.stamp)));
        places.dedup();
        places
    }

    /// Something was missed: a full mailbox, a generation that ended.
    pub fn on_doubt(&mut self) -> Step {
        match &mut self.state {
            State::Pulling { again } => {
                *again = true;
                Step::Ignore
            }
            State::Paused | State::PausedPulling => Step::Ignore,
            State::Live if sabotage::is_off(Rule::Lost) => Step::Ignore,
            State::Live => self.pull(),
        }
    }

    /// Takes the answer to a pull: where it starts (the cursor, or after a reset another place), the places of its entries
    /// in order, and where it ends. The caller hands all of them on, whatever the step says.
    pub fn on_page(
        &mut self,
        start: Cursor,
        places: impl IntoIterator<Item = Cursor>,
        end: Cursor,
        more: bool,
    ) -> Step {
        let again = matches!(self.state, State::Pulling { again: true });
        let paused = self.is_paused();
        if start != self.cursor {
            self.cursor = start;
            self.recent = None;
        }
        places.into_iter().for_each(|at| self.advance(at));
        self.cursor = end;
        if paused {
            self.state = State::Paused;
            return Step::Ignore;
        }
        self.state = State::Live;
        if again || more { self.pull() } else { Step::Ignore }
    }

    /// The pull could not be answered: the caller asks again later, and until then nothing is skipped.
    pub fn on_failed(&mut self) {
        self.state = if self.is_paused() { State::Paused } else { State::Live };
    }

    /// The connection cannot take more.
    pub fn pause(&mut self) {
        self.state = match self.state {
            State::Live | State::Paused => State::Paused,
            State::Pulling { .. } | State::PausedPulling => State::PausedPulling,
        };
    }

    /// It can again: what came meanwhile is read from the inbox.
    pub fn resume(&mut self) -> Step {
        match self.state {
            State::Paused => self.pull(),
            State::PausedPulling => {
                // The read in flight is the first; what came meanwhile is read behind it.
                self.state = State::Pulling { again: true };
                Step::Ignore
            }
            State::Live | State::Pulling { .. } => Step::Ignore,
        }
    }

    fn pull(&mut self) -> Step {
        self.state = State::Pulling { again: false };
        Step::Pull
    }

    fn advance(&mut self, at: Cursor) {
        self.cursor = at;
        if !self.has_ring {
            return;
        }
        let recent = self.recent.get_or_insert_with(|| {
            Box::new(Recent { places: [(0, Stamp(0)); RECENT], next: 0, marks: [[None; 2]; MARKS.len()] })
        });
        recent.places[recent.next] = (at.seq, at.stamp);
        recent.next = (recent.next + 1) % RECENT;
        for (marks, every) in recent.marks.iter_mut().zip(MARKS) {
            if at.seq.is_multiple_of(every) {
                *marks = [Some((at.seq, at.stamp)), marks[0]];
            }
        }
    }

    fn is_recent(&self, at: &Cursor) -> bool {
        let same_epoch = at.epoch == self.cursor.epoch;
        let held = |recent: &Recent| recent.places.contains(&(at.seq, at.stamp));
        same_epoch && (*at == self.cursor || self.recent.as_deref().is_some_and(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Epoch;

    fn at(seq: u64) -> Cursor {
        Cursor { epoch: Epoch([1; 8]), seq, stamp: Stamp(seq * 100) }
    }

    fn live(consumer: &mut Consumer, seq: u64) -> Step {
        consumer.on_live(at(seq), at(seq - 1).stamp)
    }

    fn consumer_at(seq: u64) -> Consumer {
        let mut consumer = Consumer::attaching(at(0));
        assert_eq!(consumer.on_page(at(0), (1..=seq).map(at), at(seq), false), Step::Ignore);
        consumer
    }

    #[test]
    fn what_follows_and_links_is_delivered() {
        let mut consumer = consumer_at(7);
        assert_eq!(live(&mut consumer, 8), Step::Deliver);
        assert_eq!(consumer.cursor(), at(8));
    }

    /// A gap pulls from the cursor; what arrives during the pull causes one more, not one each.
    #[test]
    fn a_gap_pulls_once_and_never_jumps() {
        let mut consumer = consumer_at(7);
        assert_eq!(live(&mut consumer, 9), Step::Pull);
        assert_eq!(consumer.cursor(), at(7));
        assert_eq!(live(&mut consumer, 10), Step::Ignore);
        assert_eq!(live(&mut consumer, 11), Step::Ignore);
        assert_eq!(consumer.on_page(at(7), [at(8), at(9)], at(9), false), Step::Pull);
        assert_eq!(consumer.on_page(at(9), [at(10), at(11)], at(11), false), Step::Ignore);
        assert_eq!(live(&mut consumer, 12), Step::Deliver);
    }

    /// After a failover a number is used again for another message: the link tells, the number does not.
    #[test]
    fn the_right_number_behind_another_entry_pulls() {
        let mut consumer = consumer_at(7);
        assert_eq!(consumer.on_live(at(8), Stamp(1)), Step::Pull);
        assert_eq!(consumer.cursor(), at(7));
    }

    #[test]
    fn a_reused_number_pulls_and_a_repeat_does_not() {
        let mut consumer = consumer_at(7);
        assert_eq!(live(&mut consumer, 7), Step::Ignore);
        assert_eq!(live(&mut consumer, 3), Step::Ignore);
        let other = Cursor { stamp: Stamp(5), ..at(7) };
        assert_eq!(consumer.on_live(other, at(6).stamp), Step::Pull);
    }

    #[test]
    fn a_repeat_from_long_ago_pulls_rather_than_guesses() {
        let mut consumer = consumer_at(40);
        assert_eq!(live(&mut consumer, 25), Step::Ignore);
        assert_eq!(live(&mut consumer, 24), Step::Pull);
    }

    #[test]
    fn another_epoch_pulls_even_with_the_same_number_and_stamp() {
        let mut consumer = consumer_at(7);
        let other = Cursor { epoch: Epoch([2; 8]), ..at(7) };
        assert_eq!(consumer.on_live(other, at(6).stamp), Step::Pull);
    }

    #[test]
    fn a_reset_moves_the_cursor_and_forgets_what_was_recent() {
        let mut consumer = consumer_at(7);
        assert_eq!(consumer.on_doubt(), Step::Pull);
        let start = Cursor { epoch: Epoch([2; 8]), ..at(0) };
        let first = Cursor { epoch: Epoch([2; 8]), ..at(1) };
        assert_eq!(consumer.on_page(start, [first], first, false), Step::Ignore);
        assert_eq!(consumer.cursor(), first);
        assert_eq!(live(&mut consumer, 7), Step::Pull);
    }

    #[test]
    fn a_consumer_remembers_the_last_few_and_some_of_long_ago() {
        assert_eq!(Consumer::attaching(at(3)).places(), [at(3)]);
        let numbers: Vec<u64> = consumer_at(1_100).places().iter().map(|place| place.seq).collect();
        let expected: Vec<u64> = (1_085..=1_100).rev().chain([1_088, 1_024, 512]).collect();
        let mut expected = expected;
        expected.sort_unstable_by_key(|&n| std::cmp::Reverse(n));
        expected.dedup();
        assert_eq!(numbers, expected);
    }

    /// Thousands of members of a group are worth 300 bytes each; a repeat that is older than the cursor costs a read.
    #[test]
    fn a_follower_keeps_no_ring_and_reads_rather_than_guesses() {
        let mut member = Consumer::following(at(0));
        assert_eq!(member.on_page(at(0), (1..=7).map(at), at(7), false), Step::Ignore);
        assert_eq!(live(&mut member, 8), Step::Deliver);
        assert_eq!(member.places(), [at(8)]);
        assert_eq!(live(&mut member, 8), Step::Ignore);
        assert_eq!(live(&mut member, 7), Step::Pull);
        assert_eq!(size_of::<Consumer>(), 40);
    }

    #[test]
    fn a_paused_connection_takes_nothing_and_reads_the_inbox_when_it_can() {
        let mut consumer = consumer_at(7);
        consumer.pause();
        assert_eq!(live(&mut consumer, 8), Step::Ignore);
        assert_eq!(consumer.on_doubt(), Step::Ignore);
        assert_eq!(consumer.resume(), Step::Pull);
        assert_eq!(consumer.on_page(at(7), [at(8)], at(8), false), Step::Ignore);
        assert_eq!(live(&mut consumer, 9), Step::Deliver);
    }

    /// A pause in the middle of a pull, and its end before the answer: a second pull from the same cursor delivered its page
    /// twice, and moved the cursor back.
    #[test]
    fn a_pause_during_a_pull_begins_no_second_one() {
        let mut consumer = consumer_at(7);
        assert_eq!(consumer.on_doubt(), Step::Pull);
        consumer.pause();
        assert_eq!(live(&mut consumer, 8), Step::Ignore);
        assert_eq!(consumer.resume(), Step::Ignore, "one is in flight");
        assert_eq!(consumer.on_page(at(7), [at(8)], at(8), false), Step::Pull, "and one more is due behind it");
        assert_eq!(consumer.on_page(at(8), [], at(8), false), Step::Ignore);
        assert_eq!(live(&mut consumer, 9), Step::Deliver);
    }

    #[test]
    fn a_page_that_arrives_while_paused_moves_the_cursor_all_the_same() {
        let mut consumer = consumer_at(7);
        assert_eq!(consumer.on_doubt(), Step::Pull);
        consumer.pause();
        assert_eq!(consumer.on_page(at(7), [at(8)], at(8), true), Step::Ignore);
        assert_eq!(consumer.cursor(), at(8));
        assert_eq!(consumer.resume(), Step::Pull);
    }
}
