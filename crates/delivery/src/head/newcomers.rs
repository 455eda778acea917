//! Who wants a seat, and waits until it is certain what he is to get.
//!
//! The number of his join may be older than what was applied here, and a removal between the two would never be seen again:
//! he sits down once everything behind his join is known to have left him a member. Without a number he is let in as he is:
//! his connection asks the group's record behind its seat, which is never older than what was applied when it got it.

use protocol::{ConnectionId, Millis, UserId};

use super::{Head, Room, Word};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Newcomer<S> {
    pub(super) id: ConnectionId,
    user: UserId,
    joined: u64,
    is_lasting: bool,
    handle: S,
    /// The group's record was asked about him: its number, and that of his join, if he is a member.
    checked: Option<(u64, Option<u64>)>,
    /// The log was read for his number.
    is_waited_for: bool,
}

/// What becomes of a newcomer.
enum Verdict {
    Sits {
        joined: u64,
    },
    /// The number is that of the change.
    Ended(u64),
    /// His number is not known here yet.
    Changes(u64),
    Memberships,
}

impl<S: Clone> Head<S> {
    /// Follow from now on; each time answered once, by [`Word::Seated`] or [`Word::Unavailable`]. Said again, what is new of
    /// the member is learned.
    pub fn seat(
        &mut self,
        id: ConnectionId,
        (user, joined, is_lasting): (UserId, u64, bool),
        handle: S,
        now: Millis,
        room: &mut impl Room<S>,
    ) {
        match self.seats.update(id, &user, joined, is_lasting, handle.clone()) {
            Ok(()) => {
                room.tell(&self.seated(), &mut std::iter::once(&handle));
                if is_lasting && joined != 0 && !self.applied.is_old(joined) && !self.applied.knows(joined) {
                    // Of a change that is not known here yet; it may be lost before it is.
                    self.ahead.push((user, joined));
                    self.ask_changes(joined, room);
                }
            }
            Err(handle) => {
                let newcomer = Newcomer { id, user, joined, is_lasting, handle, checked: None, is_waited_for: false };
                self.newcomers.push(newcomer);
                self.admit(now, room);
            }
        }
        self.look_for_empty(now);
    }
}

impl<S> Head<S> {
    fn seated(&self) -> Word {
        Word::Seated { cursor: self.consumer.cursor(), version: self.applied.number() }
    }

    /// Lets in whoever may sit down.
    pub(super) fn admit(&mut self, now: Millis, room: &mut impl Room<S>) {
        if self.newcomers.is_empty() || !self.is_ready() {
            return;
        }
        let seated = self.seated();
        let (mut wanted, mut doubtful) = (None, Vec::new());
        for mut newcomer in std::mem::take(&mut self.newcomers) {
            let said = newcomer.joined;
            match self.judge(&mut newcomer) {
                Verdict::Sits { joined } => {
                    room.tell(&seated, &mut std::iter::once(&newcomer.handle));
                    if joined != said {
                        room.tell(&Word::Renumbered, &mut std::iter::once(&newcomer.handle));
                    }
                    let Newcomer { id, user, is_lasting, handle, .. } = newcomer;
                    self.seats.insert(id, user, joined, is_lasting, handle);
                }
                Verdict::Ended(mseq) => newcomer.end(mseq, &seated, room),
                Verdict::Changes(number) => {
                    wanted = Some(number);
                    newcomer.is_waited_for = true;
                    self.newcomers.push(newcomer);
                }
                Verdict::Memberships => {
                    doubtful.push(newcomer.user.clone());
                    self.newcomers.push(newcomer);
                }
            }
        }
        if let Some(number) = wanted {
            self.ask_changes(number, room);
        } else if !doubtful.is_empty() {
            self.ask_about(doubtful, now, room);
        }
    }

    fn judge(&self, newcomer: &mut Newcomer<S>) -> Verdict {
        if !newcomer.is_lasting || newcomer.joined == 0 {
            return Verdict::Sits { joined: newcomer.joined };
        }
        // What the group's record said counts, and is of the number that it said.
        let (behind, joined) = match newcomer.checked {
            Some((_, None)) => return Verdict::Ended(newcomer.joined.max(self.applied.number())),
            Some((version, Some(joined))) => (version, joined),
            None => (newcomer.joined, newcomer.joined),
        };
        if !self.applied.knows(behind) {
            // What is not in the log may have been lost with the master that said it, however low its number is.
            let is_hopeless = newcomer.is_waited_for || self.applied.is_old(behind);
            return if is_hopeless { Verdict::Memberships } else { Verdict::Changes(behind) };
        }
        match self.applied.last_of(&newcomer.user, behind) {
            None => Verdict::Memberships,
            Some(None) => Verdict::Sits { joined },
            Some(Some(change)) if change.is_join => Verdict::Sits { joined: change.mseq },
            Some(Some(change)) => Verdict::Ended(change.mseq),
        }
    }

    /// What the group's record says of a user, at this number.
    pub(super) fn settle_newcomers(&mut self, user: &UserId, joined: Option<u64>, version: u64) {
        for newcomer in self.newcomers.iter_mut().filter(|newcomer| newcomer.user == *user && newcomer.is_lasting) {
            (newcomer.checked, newcomer.is_waited_for) = (Some((version, joined)), false);
        }
    }

    /// A user was removed while somebody waited who is here for the life of his connection: no list tells of him later.
    pub(super) fn end_newcomers(&mut self, user: &UserId, mseq: u64, room: &mut impl Room<S>) {
        let seated = self.seated();
        let is_his = |newcomer: &mut Newcomer<S>| newcomer.user == *user && !newcomer.is_lasting;
        self.newcomers.extract_if(.., is_his).for_each(|newcomer| newcomer.end(mseq, &seated, room));
    }

    /// Nobody sits down without an answer.
    pub(super) fn refuse_newcomers(&mut self, room: &mut impl Room<S>, is_one: impl Fn(&Newcomer<S>) -> bool) {
        let refused: Vec<_> = self.newcomers.extract_if(.., |newcomer| is_one(newcomer)).collect();
        room.tell(&Word::Unavailable, &mut refused.iter().map(|newcomer| &newcomer.handle));
    }
}

impl<S> Newcomer<S> {
    /// It is over before it began; he is answered all the same, and has no seat.
    fn end(self, mseq: u64, seated: &Word, room: &mut impl Room<S>) {
        room.tell(&Word::Ended { mseq }, &mut std::iter::once(&self.handle));
        room.tell(seated, &mut std::iter::once(&self.handle));
    }
}
