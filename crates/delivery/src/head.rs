//! A node's head: its place in the inbox of a group (or of everybody), the members who sit here, and which changes of the
//! membership it knows. One consumer for all of them: each message comes once a node, and is handed out here.
//!
//! Nobody receives what was stored before his join or behind his removal, whatever was lost on the way: every message, and
//! every answer, names the number of the newest change, and another number than the one that was applied has the log of
//! changes read first. Rules 3 and 7 of docs/delivery.md ("On the node"). Here is what happens when; who sits where is in
//! `table.rs`, what is known of the changes in `applied.rs`, and how it is asked for in `asking.rs`.
//!
//! Every input finishes at once. What is asked comes back as an input, and there is at most one question of a kind.

mod applied;
mod asking;
mod inbox;
mod newcomers;
mod table;

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use protocol::limits::NAMED_MEMBERS_MAX;
use protocol::{Change, ConnectionId, Cursor, Entry, Ephemeral, Live, Millis, Notice, UserId};

use crate::consumer::{Consumer, Step};
use crate::types::Attached;

pub use asking::Gate;

use applied::Applied;
use asking::Asking;
use newcomers::Newcomer;
use table::Table;

/// What could not be answered is asked again after this long.
const RETRY_MS: u64 = 500;
/// A head without members stays located for as long, because most who leave come back.
const LINGER_MS: u64 = 60_000;
/// Of a large group only numbers are told, and no more often.
const COUNT_MS: u64 = 1_000;
/// Ephemeral messages, and notices, that wait until the changes before them are known.
const HELD_MAX: usize = 64;

/// Something to be asked of the backplane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// Register this node, and read behind the newest of these places that holds; without any, begin at the end.
    Attach {
        places: Vec<Cursor>,
    },
    Read {
        after: Cursor,
    },
    Verify {
        cursor: Cursor,
    },
    /// The membership changes behind a number.
    Changes {
        after: u64,
    },
    /// Which of these users are members.
    Memberships {
        users: Vec<UserId>,
    },
}

/// Something for those who sit here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    Entry(Entry),
    Ephemeral(Ephemeral),
    /// The group has other members; without a name where it has too many to name each.
    Members {
        who: Option<(UserId, bool)>,
        members: u64,
    },
    /// A member has read up to a place.
    Read {
        user: UserId,
        cursor: Cursor,
    },
    /// The node's place holds in a new generation.
    At(Cursor),
    /// Something may be missing, or the log forked: everybody reads from his own place.
    Doubt,
    /// He has a seat: what comes follows this place; the number is the newest change that was applied.
    Seated {
        cursor: Cursor,
        version: u64,
    },
    /// There is no seat now.
    Unavailable,
    /// His membership ended by the change with this number.
    Ended {
        mseq: u64,
    },
    /// He is a member by another join than he knows, and goes on by that: he asks the group's record what it is.
    Renumbered,
}

/// What a head needs from around it.
pub trait Room<S> {
    fn ask(&mut self, question: Question);
    /// Says something to some of those who sit here, in the order of the calls.
    fn tell(&mut self, word: &Word, to: &mut dyn Iterator<Item = &S>);
    /// Answers that wait with a ticket up to this one are handed on; or, if not `is_known`, nobody can say whether those
    /// who asked are members still.
    fn open(&mut self, ticket: u64, is_known: bool);
    /// An ephemeral message was lost.
    fn dropped(&mut self);
}

/// What is asked of the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pull {
    Attach,
    /// An attach at the end: the first, or behind a fork. Members read what lies between by themselves.
    Jump,
    Read,
}

/// An answer, and the ticket that it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiting {
    attached: Box<Attached>,
    is_jump: bool,
    ticket: u64,
}

/// For models: two pages are the same where they have the same places.
impl Hash for Waiting {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Attached { start, cursor, page, version, .. } = &*self.attached;
        (start, cursor, page.end, page.more, version, self.is_jump, self.ticket).hash(state);
    }
}

/// An ephemeral message, and the number of the change before it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    mseq: u64,
    one: Ephemeral,
}

impl Hash for Held {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.mseq, self.one.at, self.one.envelope.id.as_str()).hash(state);
    }
}

/// A notice that came before it could be used.
type Early = (u64, u64, Vec<Change>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Head<S> {
    consumer: Consumer,
    seats: Table<S>,
    newcomers: Vec<Newcomer<S>>,
    applied: Applied,
    asking: Asking,
    early: VecDeque<Early>,
    held: VecDeque<Held>,
    /// The answer to a pull that waits for the changes before it.
    page: Option<Waiting>,
    pull: Option<Pull>,
    /// It has been attached once.
    is_begun: bool,
    reattach: bool,
    jump: bool,
    routed: bool,
    verifying: bool,
    /// What everybody is told once the head is where its inbox is.
    tell_place: bool,
    tell_doubt: bool,
    /// Where it was before a fork.
    old_places: Vec<Cursor>,
    /// Joins that somebody who sits here said of himself, and that no log has named yet.
    ahead: Vec<(UserId, u64)>,
    /// Members of the whole group, once that was said.
    members: Option<u64>,
    check_ms: u64,
    check_at: Millis,
    retry_at: Option<Millis>,
    count_at: Option<Millis>,
    empty_since: Option<Millis>,
}

impl<S> Head<S> {
    /// A head that is about to attach. `check_ms`: how often a quiet one compares its place.
    pub fn new(check_ms: u64, now: Millis, room: &mut impl Room<S>) -> Self {
        let mut head = Self {
            consumer: Consumer::attaching(Cursor::default()),
            seats: Table::default(),
            newcomers: Vec::new(),
            applied: Applied::default(),
            asking: Asking::default(),
            early: VecDeque::new(),
            held: VecDeque::new(),
            page: None,
            pull: None,
            is_begun: false,
            reattach: false,
            jump: true,
            routed: false,
            verifying: false,
            tell_place: false,
            tell_doubt: false,
            old_places: Vec::new(),
            ahead: Vec::new(),
            members: None,
            check_ms,
            check_at: now.plus(check_ms),
            retry_at: None,
            count_at: None,
            empty_since: Some(now),
        };
        head.ask_inbox(room);
        head
    }

    pub fn cursor(&self) -> Cursor {
        self.consumer.cursor()
    }

    /// The number of the newest change that was applied.
    pub fn version(&self) -> u64 {
        self.applied.number()
    }

    /// The places that a member at this one has had too, newest first: what his read is compared with behind a fork. Empty,
    /// unless he is where the head was, now or before its last fork. A place of another history would hold, and hide what
    /// he never had before it.
    pub fn places_before(&self, at: Cursor) -> Vec<Cursor> {
        let histories = [self.consumer.places(), self.old_places.clone()];
        let his = histories.into_iter().find(|places| places.contains(&at)).unwrap_or_default();
        his.into_iter().filter(|place| place.seq < at.seq).collect()
    }

    /// Users who sit here, each once.
    pub fn user_count(&mut self) -> usize {
        self.seats.sweep();
        self.seats.user_count()
    }

    pub fn seat_count(&self) -> usize {
        self.seats.seat_count()
    }

    /// True once nobody has sat here for a while.
    pub fn is_over(&self, now: Millis) -> bool {
        self.empty_since.is_some_and(|since| now >= since.plus(LINGER_MS))
    }

    /// Follow no more.
    pub fn unseat(&mut self, id: ConnectionId, now: Millis, room: &mut impl Room<S>) {
        self.refuse_newcomers(room, |newcomer| newcomer.id == id);
        self.seats.remove(id);
        self.look_for_empty(now);
    }

    fn look_for_empty(&mut self, now: Millis) {
        let is_empty = self.newcomers.is_empty() && self.seats.seat_count() == 0;
        self.empty_since = if is_empty { self.empty_since.or(Some(now)) } else { None };
    }

    /// Takes what the channel brings. `version`: the number of the newest change at that moment.
    pub fn on_live(&mut self, version: u64, live: &Live, now: Millis, room: &mut impl Room<S>) {
        match live {
            Live::Entry(entry) => self.on_entry(entry.mseq.unwrap_or(version), entry, now, room),
            Live::Ephemeral(one) => self.on_ephemeral(version, one, room),
            Live::Notice(Notice::Members { before, count, changes }) => {
                self.on_notice((*before, *count, changes.clone()), now, room);
            }
            Live::Notice(Notice::Read { user, cursor, .. }) => self.on_read(version, user, *cursor, room),
            Live::Notice(_) => {}
        }
        self.look_for_empty(now);
    }

    /// A member has read. In a large group only his own devices hear of it.
    fn on_read(&mut self, version: u64, user: &UserId, cursor: Cursor, room: &mut impl Room<S>) {
        let word = Word::Read { user: user.clone(), cursor };
        match self.members {
            Some(members) if members > NAMED_MEMBERS_MAX => room.tell(&word, &mut self.seats.of(user)),
            Some(_) => room.tell(&word, &mut self.seats.all()),
            None => {
                // Nobody has changed since this head began: how many they are is in the log.
                room.tell(&word, &mut self.seats.all());
                self.ask_changes(version, room);
            }
        }
    }

    fn on_entry(&mut self, mseq: u64, entry: &Entry, now: Millis, room: &mut impl Room<S>) {
        let is_known = self.applied.knows(mseq);
        if self.is_begun && !is_known {
            // The changes first, and then the entry again, from the own place.
            self.ask_changes(mseq, room);
            return self.doubt(room);
        }
        match self.consumer.on_live(entry.cursor, entry.link) {
            Step::Ignore => {}
            Step::Pull => self.ask_inbox(room),
            Step::Deliver => {
                self.postpone_check(now);
                room.tell(&Word::Entry(entry.clone()), &mut self.seats.at(mseq));
            }
        }
    }

    fn on_ephemeral(&mut self, mseq: u64, one: &Ephemeral, room: &mut impl Room<S>) {
        if self.applied.knows(mseq) {
            room.tell(&Word::Ephemeral(one.clone()), &mut self.seats.at(mseq));
        } else if !self.is_begun || self.held.len() >= HELD_MAX {
            room.dropped();
        } else {
            self.held.push_back(Held { mseq, one: one.clone() });
            self.ask_changes(mseq, room);
        }
    }

    /// Something that the channel brought was dropped, or may not have come.
    pub fn on_doubt(&mut self, room: &mut impl Room<S>) {
        self.doubt(room);
    }

    /// When [`Head::on_timer`] is due.
    pub fn deadline(&self) -> Millis {
        let due = [self.retry_at, self.asking.retry_at, self.count_at, self.empty_since.map(|at| at.plus(LINGER_MS))];
        due.into_iter().flatten().fold(self.check_at, Millis::min)
    }

    pub fn on_timer(&mut self, now: Millis, room: &mut impl Room<S>) {
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            self.doubt(room);
        }
        if self.asking.retry_at.is_some_and(|at| now >= at) {
            self.ask_again(room);
        }
        if self.count_at.is_some_and(|at| now >= at) {
            self.count_at = None;
            let count = Word::Members { who: None, members: self.members.unwrap_or(0) };
            room.tell(&count, &mut self.seats.all());
        }
        if now >= self.check_at {
            self.seats.sweep();
            self.postpone_check(now);
            if self.is_begun && !self.verifying && self.pull.is_none() {
                self.verifying = true;
                room.ask(Question::Verify { cursor: self.consumer.cursor() });
            }
        }
        self.look_for_empty(now);
    }
}

#[cfg(test)]
mod tests;
