//! How a head learns of membership changes: by notices while it knows the one before, else by the group's log, and where the
//! log does not know the number that was applied last, by the memberships of those who sit here.
//!
//! A number is only ever compared for equality. A master that took over may have lost changes and given lower numbers since.

use protocol::limits::NAMED_MEMBERS_MAX;
use protocol::{Change, Millis, UserId};

use crate::members::{Changes, Memberships};

use super::{Applied, COUNT_MS, Early, HELD_MAX, Head, Held, Question, RETRY_MS, Room, Word};

/// Users of one question.
const USERS_MAX: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Flight {
    Changes {
        after: u64,
    },
    Memberships {
        /// Of everybody who sits here: the log does not reach back to what was applied. Else of some.
        is_lost: bool,
        /// Of the first answer.
        version: Option<u64>,
        /// A later answer had another one.
        differs: bool,
        asked: Vec<UserId>,
        left: Vec<UserId>,
    },
}

/// What is asked about members, and what is to be asked behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Asking {
    flight: Option<Flight>,
    /// Questions so far. The number of one is the ticket of those who wait for its end.
    begun: u64,
    /// A number was met meanwhile: unless the answer brings it, the log is read once more.
    wanted: Option<u64>,
    /// It could not be answered.
    pub(super) retry_at: Option<Millis>,
}

/// Several numbers were met.
const SEVERAL: u64 = u64::MAX;

impl Asking {
    /// What was applied is not all that there is, or nobody knows.
    pub(super) fn is_on(&self) -> bool {
        self.flight.is_some() || self.retry_at.is_some()
    }

    /// Somebody here may be a member by another join than he says, or none.
    fn is_settling(&self) -> bool {
        matches!(self.flight, Some(Flight::Memberships { .. }))
    }

    fn want(&mut self, version: u64) {
        let is_other = self.wanted.is_some_and(|wanted| wanted != version);
        self.wanted = Some(if is_other { SEVERAL } else { version });
    }
}

/// Whether an answer that somebody else asked for can be handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// Once [`Room::open`] names this ticket.
    Later(u64),
    /// The head knows nothing yet: it cannot be.
    Closed,
}

impl<S> Head<S> {
    /// An answer from the group's record is about to be handed to a member. What it holds may have been stored behind his
    /// removal: the change that the answer names is applied first.
    pub fn gate(&mut self, version: u64, room: &mut impl Room<S>) -> Gate {
        if !self.is_begun {
            return Gate::Closed;
        }
        // What is asked already may be answered by another master than this one, and by numbers that it never gave.
        let is_certain = !self.asking.is_settling() && self.ahead.is_empty();
        if version == self.applied.number() && is_certain {
            return Gate::Open;
        }
        Gate::Later(self.ask_changes(version, room))
    }

    /// Another number than the applied one was met. Answers the ticket of a question that is asked from now on.
    pub(super) fn ask_changes(&mut self, version: u64, room: &mut impl Room<S>) -> u64 {
        if self.asking.is_on() {
            self.asking.want(version);
            return self.asking.begun + 1;
        }
        let after = self.applied.number();
        self.asking.begun += 1;
        self.asking.flight = Some(Flight::Changes { after });
        room.ask(Question::Changes { after });
        self.asking.begun
    }

    /// A question that could not be answered is due again.
    pub(super) fn ask_again(&mut self, room: &mut impl Room<S>) {
        self.asking.retry_at = None;
        self.ask_changes(SEVERAL, room);
    }

    pub(super) fn on_notice(&mut self, notice: Early, now: Millis, room: &mut impl Room<S>) {
        if self.is_begun && !self.asking.is_on() {
            return self.take_notice(notice, now, room);
        }
        if self.early.len() < HELD_MAX {
            self.early.push_back(notice);
        } else {
            self.asking.want(SEVERAL);
        }
    }

    fn take_notice(&mut self, (before, members, changes): Early, now: Millis, room: &mut impl Room<S>) {
        let Some(newest) = changes.last().map(|change| change.mseq) else { return };
        if before == self.applied.number() {
            self.apply(changes, members, now, room);
        } else if !self.applied.knows(newest) {
            self.ask_changes(newest, room);
        }
    }

    /// What came before it could be used. What does not follow is to be asked for.
    pub(super) fn take_early(&mut self, now: Millis, room: &mut impl Room<S>) {
        for (before, members, changes) in std::mem::take(&mut self.early) {
            let Some(newest) = changes.last().map(|change| change.mseq) else { continue };
            if before == self.applied.number() {
                self.apply(changes, members, now, room);
            } else if !self.applied.knows(newest) {
                self.asking.want(newest);
            }
        }
    }

    /// Asks once more, for what was met while the last question was asked.
    pub(super) fn ask_wanted(&mut self, room: &mut impl Room<S>) {
        if let Some(wanted) = self.asking.wanted.take() {
            self.ask_changes(wanted, room);
        }
    }

    fn apply(&mut self, changes: Vec<Change>, members: u64, now: Millis, room: &mut impl Room<S>) {
        self.members = Some(members);
        for change in changes.into_iter().filter(|change| change.mseq > self.applied.number()).collect::<Vec<_>>() {
            let Change { mseq, user, is_join } = &change;
            if *is_join {
                self.seats.join(user, *mseq);
            } else {
                let gone = self.seats.end_user(user, *mseq);
                room.tell(&Word::Ended { mseq: *mseq }, &mut gone.iter());
                self.end_newcomers(user, *mseq, room);
            }
            if members <= NAMED_MEMBERS_MAX {
                let word = Word::Members { who: Some((user.clone(), *is_join)), members };
                room.tell(&word, &mut self.seats.all());
            } else {
                self.count_at.get_or_insert(now.plus(COUNT_MS));
            }
            self.applied.push(change);
        }
    }

    /// The answer to [`Question::Changes`]; `None`: nobody could be asked.
    pub fn on_changes(&mut self, answer: Option<Changes>, now: Millis, room: &mut impl Room<S>) {
        let Some(Flight::Changes { after }) = self.asking.flight else { return };
        let Some(Changes { version, members, list }) = answer else { return self.ask_failed(now, room) };
        match list {
            Some(list) => {
                self.apply(list, members, now, room);
                self.applied.raise(version);
                self.look_ahead(now, room);
            }
            None if version == after => self.look_ahead(now, room),
            // What was applied may never have been. Nobody can tell who was removed meanwhile of those who are in no list.
            None => {
                self.members = Some(members);
                let gone = self.seats.end_passing();
                room.tell(&Word::Ended { mseq: version }, &mut gone.iter());
                self.ahead.clear();
                let users = self.seats.lasting();
                self.ask_memberships(users, true, Some(version), now, room);
            }
        }
        self.look_for_empty(now);
    }

    /// A join that the log does not name may have been lost with the master that answered it: before anything goes on, the
    /// group's record is asked what is true.
    fn look_ahead(&mut self, now: Millis, room: &mut impl Room<S>) {
        let ahead = std::mem::take(&mut self.ahead).into_iter();
        let users: Vec<UserId> =
            ahead.filter(|(_, joined)| !self.applied.knows(*joined)).map(|(user, _)| user).collect();
        if users.is_empty() {
            return self.finish(now, room);
        }
        self.ask_memberships(users, false, None, now, room);
    }

    /// Users of whom nobody can tell by the log what became of their joins.
    pub(super) fn ask_about(&mut self, users: Vec<UserId>, now: Millis, room: &mut impl Room<S>) {
        self.asking.begun += 1;
        self.ask_memberships(users, false, None, now, room);
    }

    fn ask_memberships(
        &mut self,
        mut asked: Vec<UserId>,
        is_lost: bool,
        version: Option<u64>,
        now: Millis,
        room: &mut impl Room<S>,
    ) {
        let left = asked.split_off(asked.len().min(USERS_MAX));
        let is_done = asked.is_empty();
        if !is_done {
            room.ask(Question::Memberships { users: asked.clone() });
        }
        self.asking.flight = Some(Flight::Memberships { is_lost, version, differs: false, asked, left });
        if is_done {
            self.on_settled(now, room);
        }
    }

    /// The answer to [`Question::Memberships`]; `None`: nobody could be asked.
    pub fn on_memberships(&mut self, answer: Option<Memberships>, now: Millis, room: &mut impl Room<S>) {
        let Some(Flight::Memberships { version, differs, asked, left, .. }) = &mut self.asking.flight else { return };
        let Some(answer) = answer else { return self.ask_failed(now, room) };
        *differs |= version.is_some_and(|version| version != answer.version);
        version.get_or_insert(answer.version);
        let asked = std::mem::take(asked);
        let next = left.split_off(left.len().saturating_sub(USERS_MAX));
        self.members = Some(answer.members);
        let mseq = answer.version.max(self.applied.number());
        for (user, joined) in asked.iter().zip(answer.joined) {
            match joined {
                Some(joined) => {
                    room.tell(&Word::Renumbered, &mut self.seats.other_than(user, joined));
                    self.seats.renumber(user, joined);
                }
                None => {
                    let gone = self.seats.end_lasting(user);
                    room.tell(&Word::Ended { mseq }, &mut gone.iter());
                }
            }
            self.settle_newcomers(user, joined, answer.version);
        }
        if next.is_empty() {
            self.on_settled(now, room);
        } else if let Some(Flight::Memberships { asked, .. }) = &mut self.asking.flight {
            asked.clone_from(&next);
            room.ask(Question::Memberships { users: next });
        }
        self.look_for_empty(now);
    }

    /// All memberships are known, of this number or behind it: changes behind it are applied once more, which changes
    /// nothing.
    fn on_settled(&mut self, now: Millis, room: &mut impl Room<S>) {
        let Some(Flight::Memberships { is_lost, version: Some(version), differs, .. }) = self.asking.flight else {
            return self.finish(now, room);
        };
        if is_lost {
            self.applied = Applied::at(version);
            self.count_at.get_or_insert(now);
        }
        if differs || version != self.applied.number() {
            self.asking.want(SEVERAL);
        }
        self.finish(now, room);
    }

    fn ask_failed(&mut self, now: Millis, room: &mut impl Room<S>) {
        self.asking.flight = None;
        self.asking.wanted = None;
        self.asking.retry_at = Some(now.plus(RETRY_MS));
        room.open(self.asking.begun, false);
        if self.page.take().is_some() {
            self.consumer.on_failed();
            self.retry_at = Some(now.plus(RETRY_MS));
        }
        self.held.drain(..).for_each(|_| room.dropped());
        self.refuse_newcomers(room, |_| true);
        self.look_for_empty(now);
    }

    /// What was waiting for the changes goes on, in the order of its way: the page, answers, ephemeral messages.
    fn finish(&mut self, now: Millis, room: &mut impl Room<S>) {
        self.asking.flight = None;
        self.take_early(now, room);
        if self.asking.wanted == Some(self.applied.number()) {
            // The answer brought what the next question was for.
            self.asking.wanted = None;
            self.asking.begun += 1;
        }
        let ticket = self.asking.begun;
        if self.page.as_ref().is_some_and(|page| page.ticket <= ticket) {
            self.take_page(now, room);
        }
        room.open(ticket, true);
        for Held { mseq, one } in std::mem::take(&mut self.held) {
            if mseq <= self.applied.number() {
                room.tell(&Word::Ephemeral(one), &mut self.seats.at(mseq));
            } else {
                room.dropped();
            }
        }
        self.ask_wanted(room);
        self.admit(now, room);
    }
}
