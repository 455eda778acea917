//! The node: its head, what it asks, and what it hands to its members.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use delivery::head::{Gate, Head, Question, Room, Word};
use delivery::members::{Changes, Memberships};
use delivery::record::{self, AttachRequest};
use delivery::{Attached, Registration, Standing};
use protocol::client::From;
use protocol::{Change, ConnectionId, Cursor, Entry, Envelope, Epoch, Live, Millis, Notice, Stamp, Tag};

use super::group::{Group, USERS, index_of};
use super::member::{Held, Member};
use super::{Asked, Mutant, State, Table, breach};
use crate::model::check::Memo;
use crate::model::rules::{NODES, Post, START_US, limits, message};

const CHECK_MS: u64 = 1_000;
const NOW: Millis = Millis(0);
/// Rounds in which everything that is asked is answered.
const ROUNDS_MAX: usize = 64;

/// What the channel carries to this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Flying {
    Entry { at: Cursor, link: Stamp, tag: Tag, mseq: u64 },
    Change { before: u64, count: u64, mseq: u64, user: usize, is_join: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Attached(Option<Attached>),
    Verified(Standing, u64),
    Changes(Changes),
    Memberships(Memberships),
}

impl Hash for Answer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Attached(Some(a)) => (a.start, a.cursor, a.page.end, a.version).hash(state),
            Self::Attached(None) => state.write_u8(1),
            Self::Verified(standing, version) => (*standing == Standing::Current, version).hash(state),
            Self::Changes(changes) => (changes.version, &changes.list).hash(state),
            Self::Memberships(memberships) => (memberships.version, &memberships.joined).hash(state),
        }
    }
}

/// What the head says while it is given one thing.
#[derive(Default)]
struct Hall {
    events: Vec<Event>,
}

enum Event {
    Ask(Question),
    Tell(Word, Vec<u8>),
    Open(u64),
}

impl Room<u8> for Hall {
    fn ask(&mut self, question: Question) {
        self.events.push(Event::Ask(question));
    }

    fn tell(&mut self, word: &Word, to: &mut dyn Iterator<Item = &u8>) {
        self.events.push(Event::Tell(word.clone(), to.copied().collect()));
    }

    fn open(&mut self, ticket: u64, _: bool) {
        self.events.push(Event::Open(ticket));
    }

    fn dropped(&mut self) {}
}

static ENVELOPE: LazyLock<Arc<Envelope>> =
    LazyLock::new(|| Arc::new(Envelope::decode(&message(Post::first(0)).envelope).expect("it is one")));

impl State {
    /// The time at the present master. The second one's clock is behind; no number is given by both.
    fn now_us(&self) -> u64 {
        let behind = if self.failed_over { 3 * 16 - 8 } else { 0 };
        START_US + 16 * (u64::from(self.ticks) + 4) - behind
    }
}

impl Table {
    /// The first user is a member and sits, and the replica has everything.
    pub(super) fn begin(&self) -> State {
        let mut hall = Hall::default();
        let mut state = State {
            master: Group::default(),
            replica: Group::default(),
            failed_over: false,
            ticks: 0,
            messages: 0,
            changes: 0,
            losses: 0,
            head: Head::new(CHECK_MS, NOW, &mut hall),
            asked: [None, None, None],
            channel: std::collections::VecDeque::new(),
            members: [Member::new(0), Member::new(1)],
            broken: 0,
            memo: Memo::default(),
        };
        self.perform(&mut state, hall);
        self.change(&mut state, 0, true, true);
        self.calm(&mut state);
        assert!(state.members[0].sits() && state.broken == 0);
        state.channel.clear();
        state.changes = 0;
        state.replica = state.master.clone();
        state
    }

    pub(super) fn append(&self, state: &mut State) {
        state.ticks += 1;
        let flying = state.master.append(state.now_us(), state.messages);
        state.messages += 1;
        state.channel.extend(flying);
    }

    pub(super) fn change(&self, state: &mut State, user: usize, is_join: bool, is_own: bool) {
        state.ticks += 1;
        state.changes += 1;
        let (mseq, flying) = state.master.change(state.now_us(), user, is_join);
        state.channel.extend(flying);
        if is_join {
            state.members[user].begin(is_own.then_some(mseq));
        }
    }

    pub(super) fn seat(&self, state: &mut State, user: usize) {
        state.members[user].ask();
        self.say_seat(state, user);
    }

    fn say_seat(&self, state: &mut State, user: usize) {
        let id = ConnectionId(user as u64 + 1);
        let joined = match self.mutant {
            Some(Mutant::NoFilter) => 0,
            Some(Mutant::NewcomerUnasked) if state.members[user].joined > 0 => state.head.version(),
            _ => state.members[user].joined,
        };
        self.give(state, |head, hall| head.seat(id, (USERS[user].clone(), joined, true), user as u8, NOW, hall));
    }

    fn unseat(&self, state: &mut State, user: usize) {
        self.give(state, |head, hall| head.unseat(ConnectionId(user as u64 + 1), NOW, hall));
    }

    fn give(&self, state: &mut State, input: impl FnOnce(&mut Head<u8>, &mut Hall)) {
        let mut hall = Hall::default();
        input(&mut state.head, &mut hall);
        self.perform(state, hall);
    }

    /// Does what the head says, in its order.
    fn perform(&self, state: &mut State, hall: Hall) {
        for event in hall.events {
            match event {
                Event::Ask(question) => {
                    let kind = match question {
                        Question::Attach { .. } | Question::Read { .. } => 0,
                        Question::Verify { .. } => 1,
                        Question::Changes { .. } | Question::Memberships { .. } => 2,
                    };
                    state.broken |= if state.asked[kind].is_some() { breach::TWO_QUESTIONS } else { 0 };
                    state.asked[kind] = Some(Asked { question, answer: None });
                }
                Event::Tell(word, to) => to.into_iter().for_each(|user| self.tell(state, usize::from(user), &word)),
                Event::Open(ticket) => {
                    for user in 0..2 {
                        let member = &mut state.members[user];
                        if let Some(held) = member.page.take_if(|held| held.ticket <= ticket) {
                            member.on_page(&held.attached, &state.master);
                        }
                    }
                }
            }
        }
    }

    fn tell(&self, state: &mut State, user: usize, word: &Word) {
        let member = &mut state.members[user];
        match word {
            Word::Entry(entry) => member.on_entry(entry, &state.master),
            Word::At(cursor) => member.on_head_at(*cursor),
            Word::Doubt => member.doubt(true),
            Word::Renumbered if self.mutant == Some(Mutant::NumberUntold) => {}
            Word::Renumbered => member.on_renumbered(),
            Word::Ended { mseq } => member.on_ended(*mseq),
            Word::Seated { cursor, .. } => {
                let learned = member.on_seated(*cursor, &state.master);
                if learned.is_some() {
                    self.say_seat(state, user);
                } else if !state.members[user].sits() {
                    self.unseat(state, user);
                }
            }
            Word::Ephemeral(_) | Word::Members { .. } | Word::Read { .. } | Word::Unavailable => {}
        }
    }

    /// The group's record answers.
    pub(super) fn answer(&self, state: &mut State, kind: usize) {
        let now_us = state.now_us();
        let Some(asked) = &mut state.asked[kind] else { return };
        let registration =
            Registration { node: NODES[0].clone(), connection: ConnectionId::NODE, reg: 1, device: None };
        let master = &mut state.master;
        asked.answer = Some(match &asked.question {
            Question::Attach { places } => {
                let cursors = places.iter().copied().map(Some).collect();
                let request = AttachRequest::of(registration, cursors, From::Now);
                let epoch = Epoch(now_us.to_be_bytes());
                Answer::Attached(
                    master.with(|r, beside| record::attach(r, epoch, now_us, &request, beside, &limits(100))),
                )
            }
            Question::Read { after } => Answer::Attached(record::read(master.record(), now_us, &[*after])),
            Question::Verify { cursor } => {
                let verified = master.with(|r, _| record::verify(r, now_us, &registration, *cursor, &limits(100)));
                Answer::Verified(verified.standing, verified.version)
            }
            Question::Changes { after } => Answer::Changes(master.members().changes(master.record(), *after)),
            Question::Memberships { users } => {
                Answer::Memberships(master.members().memberships(master.record(), users))
            }
        });
    }

    /// Only a higher number is another one, where that is what is taken away.
    fn number(&self, state: &State, number: u64) -> u64 {
        if self.mutant == Some(Mutant::OnlyHigher) { number.max(state.head.version()) } else { number }
    }

    pub(super) fn arrive(&self, state: &mut State, kind: usize) {
        let Some(Asked { answer: Some(answer), .. }) = state.asked[kind].take() else { return };
        match answer {
            Answer::Attached(mut attached) => {
                attached.iter_mut().for_each(|a| a.version = self.number(state, a.version));
                self.give(state, |head, hall| head.on_attached(Some(attached), NOW, hall));
            }
            Answer::Verified(standing, version) => {
                let version = self.number(state, version);
                self.give(state, |head, hall| head.on_verified(Some((standing, version)), NOW, hall));
            }
            Answer::Changes(mut changes) => {
                if self.mutant == Some(Mutant::NoMemberships) {
                    changes.list.get_or_insert_default();
                }
                let left = self.lefts(changes.list.iter().flatten());
                if self.mutant == Some(Mutant::NoFilter) {
                    changes.list.iter_mut().for_each(|list| list.retain(|change| !change.is_join));
                }
                self.give(state, |head, hall| head.on_changes(Some(changes), NOW, hall));
                self.end_all(state, left);
            }
            Answer::Memberships(memberships) => {
                self.give(state, |head, hall| head.on_memberships(Some(memberships), NOW, hall));
            }
        }
    }

    /// Who left, where a leave ends all.
    fn lefts<'a>(&self, changes: impl Iterator<Item = &'a Change>) -> Vec<usize> {
        let is_meant = |change: &&Change| self.mutant == Some(Mutant::LeaveEndsAll) && !change.is_join;
        changes.filter(is_meant).map(|change| index_of(&change.user)).collect()
    }

    fn end_all(&self, state: &mut State, users: Vec<usize>) {
        for user in users {
            self.unseat(state, user);
            state.members[user].on_ended(u64::MAX);
        }
    }

    /// A member reads, and the answer goes by way of the head.
    pub(super) fn read(&self, state: &mut State, user: usize) {
        let Some(place) = state.members[user].place() else { return };
        let mut places = vec![place];
        places.extend(match self.mutant {
            Some(Mutant::PlacesOfOthers) => {
                state.head.places_before(state.head.cursor()).into_iter().chain([state.head.cursor()]).collect()
            }
            _ => state.head.places_before(place),
        });
        let Some(attached) = record::read(state.master.record(), state.now_us(), &places) else { return };
        let version = self.number(state, attached.version);
        let mut gate = Gate::Open;
        if self.mutant != Some(Mutant::PagePastHead) {
            self.give(state, |head, hall| gate = head.gate(version, hall));
        }
        match gate {
            Gate::Open => state.members[user].on_page(&attached, &state.master),
            Gate::Later(ticket) => state.members[user].page = Some(Held { ticket, attached }),
            Gate::Closed => {}
        }
    }

    pub(super) fn deliver(&self, state: &mut State) {
        let Some(flying) = state.channel.pop_front() else { return };
        match flying {
            Flying::Entry { at, link, tag, mseq } => {
                let is_behind = self.mutant == Some(Mutant::ChangesBehind);
                let said = if is_behind { state.head.version() } else { self.number(state, mseq) };
                let entry = Entry { cursor: at, link, tag, mseq: Some(said), envelope: ENVELOPE.clone() };
                self.give(state, |head, hall| head.on_live(said, &Live::Entry(entry), NOW, hall));
                if is_behind && state.asked[1].is_none() {
                    self.give(state, |head, hall| head.on_verified(Some((Standing::Current, mseq)), NOW, hall));
                }
            }
            Flying::Change { before, count, mseq, user, is_join } => {
                let change = Change { mseq, user: USERS[user].clone(), is_join };
                let left = self.lefts(std::iter::once(&change));
                let before = self.number(state, before);
                let notice = Notice::Members { before, count, changes: vec![change] };
                if self.mutant != Some(Mutant::NoFilter) || !is_join {
                    self.give(state, |head, hall| head.on_live(mseq, &Live::Notice(notice), NOW, hall));
                }
                self.end_all(state, left);
            }
        }
    }

    pub(super) fn fail_over(&self, state: &mut State) {
        state.failed_over = true;
        state.master = std::mem::take(&mut state.replica);
        state.channel.clear();
        self.give(state, |head, hall| head.on_generation(hall));
    }

    /// Everything that is asked is answered, until nothing is.
    fn calm(&self, state: &mut State) {
        for _ in 0..ROUNDS_MAX {
            let before = state.clone();
            for kind in 0..3 {
                if state.asked[kind].as_ref().is_some_and(|asked| asked.answer.is_none()) {
                    self.answer(state, kind);
                }
                self.arrive(state, kind);
            }
            for user in 0..2 {
                if state.members[user].wants_seat() {
                    self.seat(state, user);
                }
                if state.members[user].wants_page() {
                    self.read(state, user);
                }
            }
            if *state == before {
                return;
            }
        }
        state.broken |= breach::TWO_QUESTIONS;
    }

    /// What is broken, or is once all is calm again.
    pub(super) fn holds(&self, state: &State, bit: u16) -> bool {
        let broken = state.memo.get(|| {
            let mut healed = state.clone();
            healed.channel.clear();
            self.calm(&mut healed);
            self.give(&mut healed, |head, hall| head.on_timer(Millis(CHECK_MS), hall));
            self.calm(&mut healed);
            let mut broken = healed.broken;
            for (user, member) in healed.members.iter().enumerate() {
                let joined = healed.master.joined(user);
                broken |= member.broken | member.judge(joined, healed.failed_over, &healed.master);
            }
            broken
        });
        broken & bit == 0
    }
}
