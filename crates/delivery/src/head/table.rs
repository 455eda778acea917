//! Who sits at a group's table on one node. Ten thousand do, so a seat is small, and nothing here makes memory for each of
//! them while a message is handed out.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};

use protocol::{ConnectionId, UserId};

/// The flag of a lasting member beside his number, which is below 2^53.
const LASTING: u64 = 1 << 63;

/// One connection. `S` is how it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seat<S> {
    id: ConnectionId,
    /// The number of the join, and [`LASTING`].
    joined: u64,
    handle: S,
}

impl<S> Seat<S> {
    fn joined(&self) -> u64 {
        self.joined & !LASTING
    }

    fn is_lasting(&self) -> bool {
        self.joined & LASTING != 0
    }

    fn join(&mut self, mseq: u64) {
        self.joined = mseq | (self.joined & LASTING);
    }
}

/// Nearly every user has one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::box_collection, reason = "the box keeps a place as small as its one seat")]
enum Place<S> {
    One(Seat<S>),
    Several(Box<Vec<Seat<S>>>),
}

impl<S> Place<S> {
    fn seats(&self) -> &[Seat<S>] {
        match self {
            Self::One(seat) => std::slice::from_ref(seat),
            Self::Several(seats) => seats,
        }
    }

    fn seats_mut(&mut self) -> &mut [Seat<S>] {
        match self {
            Self::One(seat) => std::slice::from_mut(seat),
            Self::Several(seats) => seats,
        }
    }

    fn push(&mut self, seat: Seat<S>) {
        if let Self::One(_) = self {
            let Self::One(first) = std::mem::replace(self, Self::Several(Box::default())) else { return };
            self.push(first);
        }
        if let Self::Several(seats) = self {
            seats.push(seat);
        }
    }

    /// Takes out whoever is meant; false if nobody is left.
    fn retain(&mut self, stays: impl Fn(&Seat<S>) -> bool, gone: &mut Vec<Seat<S>>) -> bool {
        match self {
            Self::One(seat) if stays(seat) => true,
            Self::One(_) => {
                if let Self::One(seat) = std::mem::replace(self, Self::Several(Box::default())) {
                    gone.push(seat);
                }
                false
            }
            Self::Several(seats) => {
                let (rest, out): (Vec<_>, Vec<_>) = std::mem::take(&mut **seats).into_iter().partition(stays);
                gone.extend(out);
                **seats = rest;
                !seats.is_empty()
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table<S> {
    users: HashMap<UserId, Place<S>>,
    seats: usize,
    /// Those who left: taken out many at a time, because their users are not known here.
    leaving: HashSet<ConnectionId>,
}

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self { users: HashMap::new(), seats: 0, leaving: HashSet::new() }
    }
}

/// For models: the order of a map is nothing that two tables differ by.
impl<S: Hash> Hash for Table<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut seats: Vec<_> =
            self.users.iter().flat_map(|(u, place)| place.seats().iter().map(move |s| (u, s))).collect();
        seats.sort_unstable_by_key(|(user, seat)| (*user, seat.id));
        seats.hash(state);
        let mut leaving: Vec<_> = self.leaving.iter().collect();
        leaving.sort_unstable();
        leaving.hash(state);
    }
}

impl<S> Table<S> {
    /// Learns the number of one who sits here without. One who does not sit, or was about to go, is a newcomer: the handle
    /// comes back.
    pub(super) fn update(
        &mut self,
        id: ConnectionId,
        user: &UserId,
        joined: u64,
        is_lasting: bool,
        handle: S,
    ) -> Result<(), S> {
        // Who comes back has not left, also if his seat had ended before he did: the next sweep would take the new one.
        let was_leaving = self.leaving.remove(&id);
        let Some(place) = self.users.get_mut(user) else { return Err(handle) };
        if was_leaving {
            let mut gone = Vec::new();
            if !place.retain(|seat| seat.id != id, &mut gone) {
                self.users.remove(user);
            }
            self.take_out(gone);
            return Err(handle);
        }
        let Some(seat) = place.seats_mut().iter_mut().find(|seat| seat.id == id) else { return Err(handle) };
        if seat.joined() == 0 {
            seat.join(joined);
        }
        seat.joined |= if is_lasting { LASTING } else { 0 };
        Ok(())
    }

    pub(super) fn insert(&mut self, id: ConnectionId, user: UserId, joined: u64, is_lasting: bool, handle: S) {
        let Err(handle) = self.update(id, &user, joined, is_lasting, handle) else { return };
        let joined = joined | if is_lasting { LASTING } else { 0 };
        let seat = Seat { id, joined, handle };
        self.seats += 1;
        match self.users.get_mut(&user) {
            Some(place) => place.push(seat),
            None => drop(self.users.insert(user, Place::One(seat))),
        }
    }

    pub(super) fn remove(&mut self, id: ConnectionId) {
        self.leaving.insert(id);
        // A sweep looks at everybody: an eighth of them pays for it.
        if self.leaving.len() >= self.seats.min(16.max(self.seats / 8)) {
            self.sweep();
        }
    }

    /// Takes out those who left.
    pub(super) fn sweep(&mut self) {
        if !self.leaving.is_empty() {
            let leaving = self.leaving.clone();
            self.end(|seat| leaving.contains(&seat.id));
            self.leaving = HashSet::new();
        }
    }

    fn end(&mut self, is_over: impl Fn(&Seat<S>) -> bool) -> Vec<S> {
        let mut gone = Vec::new();
        self.users.retain(|_, place| place.retain(|seat| !is_over(seat), &mut gone));
        if self.users.len() < self.users.capacity() / 8 {
            self.users.shrink_to_fit();
        }
        self.take_out(gone)
    }

    fn end_of(&mut self, user: &UserId, is_over: impl Fn(&Seat<S>) -> bool) -> Vec<S> {
        let mut gone = Vec::new();
        if let Some(place) = self.users.get_mut(user)
            && !place.retain(|seat| !is_over(seat), &mut gone)
        {
            self.users.remove(user);
        }
        self.take_out(gone)
    }

    /// Those of them who had not left by themselves.
    fn take_out(&mut self, gone: Vec<Seat<S>>) -> Vec<S> {
        self.seats -= gone.len();
        gone.into_iter().filter(|seat| !self.leaving.remove(&seat.id)).map(|seat| seat.handle).collect()
    }

    /// The change `mseq` ended this user's membership: takes out those of his connections that joined before it.
    pub(super) fn end_user(&mut self, user: &UserId, mseq: u64) -> Vec<S> {
        self.end_of(user, |seat| mseq > seat.joined())
    }

    /// The user is no member.
    pub(super) fn end_lasting(&mut self, user: &UserId) -> Vec<S> {
        self.end_of(user, Seat::is_lasting)
    }

    /// Lasting members of this user who know another number of their join.
    pub(super) fn other_than(&self, user: &UserId, mseq: u64) -> impl Iterator<Item = &S> {
        let is_other = move |seat: &&Seat<S>| seat.is_lasting() && seat.joined() != 0 && seat.joined() != mseq;
        self.users.get(user).into_iter().flat_map(Place::seats).filter(is_other).map(|seat| &seat.handle)
    }

    /// Takes out those who are here for the life of their connection.
    pub(super) fn end_passing(&mut self) -> Vec<S> {
        self.end(|seat| !seat.is_lasting())
    }

    /// The user joined by this change. Who said a later join of himself keeps that: what ended this one lies between.
    pub(super) fn join(&mut self, user: &UserId, mseq: u64) {
        self.lasting_of(user).filter(|seat| seat.joined() < mseq).for_each(|seat| seat.join(mseq));
    }

    /// The user is a member by this join, whatever he said.
    pub(super) fn renumber(&mut self, user: &UserId, mseq: u64) {
        self.lasting_of(user).for_each(|seat| seat.join(mseq));
    }

    fn lasting_of(&mut self, user: &UserId) -> impl Iterator<Item = &mut Seat<S>> {
        let seats = self.users.get_mut(user).into_iter().flat_map(Place::seats_mut);
        seats.filter(|seat| seat.is_lasting())
    }

    /// Users with a lasting membership.
    pub(super) fn lasting(&self) -> Vec<UserId> {
        let is_lasting = |place: &Place<S>| place.seats().iter().any(Seat::is_lasting);
        self.users.iter().filter(|(_, place)| is_lasting(place)).map(|(user, _)| user.clone()).collect()
    }

    /// Of one user.
    pub(super) fn of(&self, user: &UserId) -> impl Iterator<Item = &S> {
        self.users.get(user).into_iter().flat_map(Place::seats).map(|seat| &seat.handle)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &S> {
        self.users.values().flat_map(Place::seats).map(|seat| &seat.handle)
    }

    /// Those who were members when what carries this number was stored.
    pub(super) fn at(&self, mseq: u64) -> impl Iterator<Item = &S> {
        let is_for = move |seat: &&Seat<S>| seat.joined() <= mseq;
        self.users.values().flat_map(Place::seats).filter(is_for).map(|seat| &seat.handle)
    }

    /// Everybody who left is out of it behind [`Table::sweep`].
    pub(super) fn user_count(&self) -> usize {
        self.users.len()
    }

    pub(super) fn seat_count(&self) -> usize {
        self.seats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn all(table: &Table<Arc<str>>) -> Vec<&str> {
        let mut all: Vec<&str> = table.all().map(|handle| &**handle).collect();
        all.sort_unstable();
        all
    }

    fn seat(table: &mut Table<Arc<str>>, id: u64, name: &str, joined: u64, is_lasting: bool) {
        let handle = format!("{name}{id}").as_str().into();
        table.insert(ConnectionId(id), user(name), joined, is_lasting, handle);
    }

    /// Ten thousand members of a node must not cost a megabyte more than they have to. The map has a place for each user,
    /// one control byte beside it, is never fuller than 7/8, and doubles: right behind that it is half empty.
    #[test]
    fn a_seat_costs_about_a_hundred_bytes_at_most() {
        let place = size_of::<(UserId, Place<Arc<str>>)>().min(size_of::<(UserId, Place<Arc<u8>>)>()) + 1;
        assert!(place * 16 / 7 <= 100, "{place} bytes a place");
        let mut table: Table<Arc<u8>> = Table::default();
        let handle = Arc::new(1);
        for n in 0..10_000 {
            table.insert(ConnectionId(n), user(&n.to_string()), n, true, handle.clone());
        }
        let bytes = (table.users.capacity() * 8 / 7 + 1) * place;
        assert!(bytes / 10_000 <= 100, "{} bytes a seat", bytes / 10_000);
    }

    #[test]
    fn a_message_is_for_those_who_were_members_when_it_was_stored() {
        let mut table = Table::default();
        seat(&mut table, 1, "a", 5, true);
        seat(&mut table, 2, "b", 7, true);
        seat(&mut table, 3, "c", 0, false);
        let at = |table: &Table<Arc<str>>, mseq| table.at(mseq).count();
        assert_eq!((at(&table, 4), at(&table, 5), at(&table, 7)), (1, 2, 3));
    }

    #[test]
    fn a_leave_ends_those_who_joined_before_it_and_nobody_who_joined_behind() {
        let mut table = Table::default();
        seat(&mut table, 1, "a", 5, true);
        seat(&mut table, 2, "a", 9, true);
        seat(&mut table, 3, "b", 5, true);
        assert_eq!(table.end_user(&user("a"), 7).len(), 1);
        assert_eq!(all(&table), ["a2", "b3"]);
        assert!(table.end_user(&user("a"), 9).is_empty());
        assert_eq!(table.end_user(&user("a"), 10).len(), 1);
        assert_eq!((all(&table), table.user_count(), table.seat_count()), (vec!["b3"], 1, 1));
    }

    #[test]
    fn what_the_record_says_is_for_lasting_members_only() {
        let mut table = Table::default();
        seat(&mut table, 1, "a", 5, true);
        seat(&mut table, 2, "a", 0, false);
        seat(&mut table, 3, "b", 9, true);
        assert_eq!(table.lasting().len(), 2);
        assert_eq!(table.end_lasting(&user("a")).len(), 1);
        assert_eq!(all(&table), ["a2", "b3"]);
        assert_eq!((table.other_than(&user("b"), 9).count(), table.other_than(&user("b"), 4).count()), (0, 1));
        seat(&mut table, 4, "c", 0, true);
        assert_eq!(table.other_than(&user("c"), 6).count(), 0, "who knows none learns it");
        table.renumber(&user("c"), 6);
        table.join(&user("c"), 4);
        seat(&mut table, 4, "c", 5, true);
        assert_eq!((table.at(5).count(), table.at(6).count()), (1, 2), "and believes nobody else");
        assert_eq!(table.end_passing().len(), 1);
        assert_eq!(all(&table), ["b3", "c4"]);
    }

    /// A connection says that it follows no more when its membership has ended, and its seat with it.
    #[test]
    fn who_comes_back_after_his_membership_ended_keeps_his_new_seat() {
        for others_of_his in [0, 1] {
            let mut table = Table::default();
            (0..20).for_each(|n| seat(&mut table, n, &format!("u{n}-"), 1, true));
            (0..others_of_his).for_each(|n| seat(&mut table, 50 + n, "a", 9, true));
            seat(&mut table, 40, "a", 2, true);
            assert_eq!(table.end_user(&user("a"), 5).len(), 1);
            table.remove(ConnectionId(40));
            seat(&mut table, 40, "a", 7, true);
            table.sweep();
            assert!(table.of(&user("a")).any(|handle| &**handle == "a40"), "others of his: {others_of_his}");
            assert_eq!(table.end_user(&user("a"), 8).len(), 1, "and hears of its end");
        }
    }

    #[test]
    fn who_left_is_swept_out_with_others_and_may_come_back_before() {
        let mut table = Table::default();
        for n in 0..100 {
            seat(&mut table, n, &format!("u{n}-"), 1, true);
        }
        (0..10).for_each(|n| table.remove(ConnectionId(n)));
        assert_eq!(table.seat_count(), 100, "not yet");
        seat(&mut table, 3, "u3-", 2, true);
        assert!(table.end_user(&user("u4-"), 9).is_empty(), "who has left is told no more");
        table.sweep();
        assert_eq!((table.seat_count(), table.user_count(), table.leaving.len()), (91, 91, 0));
        assert!(table.all().any(|handle| &**handle == "u3-3"));
        (10..100).chain([3]).for_each(|n| table.remove(ConnectionId(n)));
        table.sweep();
        assert_eq!((table.seat_count(), table.users.capacity()), (0, 0));
    }
}
