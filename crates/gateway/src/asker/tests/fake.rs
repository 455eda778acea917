//! A master that answers as the test says: at once, never, or that it has nothing any more. Other tests use it too.

use std::collections::{HashSet, VecDeque};
use std::future::{pending, ready};
use std::sync::atomic::{AtomicBool, Ordering};

use backplane::api::{Answer, Pulse};
use backplane::{
    BackplaneError, Batch, BatchAnswer, BatchResult, ChangeRequest, ChangeResult, Changed, Changes, CountRequest,
    FieldsPage, Groups, HistoryError, Log, MarkRequest, Marks, MembersPage, Memberships, Op, Presence, RegroupRequest,
};
use delivery::{Attached, Counted, Marked, Place, Placed, PresenceOf, Replication, Sender, Standing, Start, Verified};
use protocol::{Bundle, Cursor, GroupId, NodeId, Notice, Page, UnixMillis, UserId};

use super::super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Answers,
    Hangs,
    /// Others have its slots.
    Moved,
    /// A slot is on its way.
    TryAgain,
}

/// Notes what it was asked.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) groups: Vec<SlotGroup>,
    pub(crate) mode: Mutex<Mode>,
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) is_home: bool,
    /// What the fleet holds to; `None`: what the node would say.
    pub(crate) said: Option<String>,
    pub(crate) lineage: Option<String>,
    /// Its clock, which stands still.
    pub(crate) now_us: u64,
    /// Others have declared the node dead.
    pub(crate) is_dead: AtomicBool,
    /// A record that cannot be written.
    pub(crate) broken: Option<Text>,
    /// The numbers of entries that are where they were stored.
    pub(crate) held: HashSet<u64>,
    /// A group that nobody else can join.
    pub(crate) full: Option<Text>,
    pub(crate) gone: Notify,
    /// What the group's record says, in turn: of the inbox, of a place, of the changes, of members. Where none is left, that
    /// nothing happened.
    pub(crate) attached: Mutex<VecDeque<Attached>>,
    pub(crate) verified: Mutex<VecDeque<Verified>>,
    pub(crate) changes: Mutex<VecDeque<Changes>>,
    pub(crate) memberships: Mutex<VecDeque<Memberships>>,
    /// Who joined which group here.
    pub(crate) joined: Mutex<HashSet<(Text, UserId)>>,
}

impl Fake {
    pub(crate) fn of(groups: impl IntoIterator<Item = SlotGroup>, mode: Mode) -> Self {
        Self {
            groups: groups.into_iter().collect(),
            mode: Mutex::new(mode),
            asked: Mutex::default(),
            is_home: false,
            said: None,
            lineage: None,
            now_us: 0,
            is_dead: AtomicBool::new(false),
            broken: None,
            held: HashSet::new(),
            full: None,
            gone: Notify::new(),
            attached: Mutex::default(),
            verified: Mutex::default(),
            changes: Mutex::default(),
            memberships: Mutex::default(),
            joined: Mutex::default(),
        }
    }

    fn answer<'a, T: Send + 'a>(&'a self, asked: String, answer: T) -> Answer<'a, Result<T, BackplaneError>> {
        self.asked.lock().push(asked);
        match *self.mode.lock() {
            Mode::Answers => Box::pin(ready(Ok(answer))),
            Mode::Hangs => Box::pin(async {
                self.gone.notified().await;
                Err(BackplaneError::Unknown("it is gone".to_owned()))
            }),
            Mode::Moved => Box::pin(ready(Err(BackplaneError::Elsewhere("MOVED".to_owned())))),
            Mode::TryAgain => Box::pin(ready(Err(BackplaneError::NotRun("TRYAGAIN".to_owned())))),
        }
    }

    /// Whoever waits for it does so no longer.
    pub(crate) fn go(&self) {
        self.gone.notify_waiters();
    }

    fn next_page(&self) -> Attached {
        self.attached.lock().pop_front().unwrap_or_else(attached)
    }

    fn unasked<'a, T: Send + 'a>(&'a self) -> Answer<'a, T> {
        unreachable!("the queue does not ask this")
    }
}

pub(crate) fn attached() -> Attached {
    Attached {
        start: Start::Resumed,
        cursor: Cursor::default(),
        head: 0,
        page: Page::default(),
        routed: true,
        registered: Vec::new(),
        version: 0,
        joined: None,
        user: None,
    }
}

impl Log for Fake {
    fn append<'a>(&'a self, batch: &'a Batch) -> Answer<'a, Result<BatchResult, BackplaneError>> {
        let placed = Placed { place: Place::Stored(Cursor::default()), at: UnixMillis(0), online: false };
        let groups = batch.groups.iter().map(|group| match &self.broken {
            Some(broken) if *broken == group.record => Err("WRONGTYPE".to_owned()),
            _ => Ok(vec![placed; group.messages.len()]),
        });
        let answer = BatchAnswer { groups: groups.collect(), receivers: Vec::new(), is_elsewhere: false };
        self.answer(format!("append {}", batch.groups.len()), BatchResult::Answered(answer))
    }

    fn publish<'a>(&'a self, _: &'a NodeId, _: &'a Bundle) -> Answer<'a, Result<u64, BackplaneError>> {
        self.unasked()
    }

    fn attach<'a>(
        &'a self,
        requests: &'a [AttachRequest],
    ) -> Answer<'a, Result<Vec<Result<Attached, BackplaneError>>, BackplaneError>> {
        let answers = requests.iter().map(|_| Ok(self.next_page())).collect();
        self.answer(format!("attach {}", requests.len()), answers)
    }

    fn read<'a>(&'a self, request: &'a ReadRequest) -> Answer<'a, Result<Option<Attached>, BackplaneError>> {
        self.answer(format!("read {} {}", request.of.as_str(), request.after[0].seq), Some(self.next_page()))
    }

    fn verify<'a>(
        &'a self,
        requests: &'a [VerifyRequest],
    ) -> Answer<'a, Result<Vec<Result<Verified, BackplaneError>>, BackplaneError>> {
        let current = || Verified { standing: Standing::Current, registered: Vec::new(), version: 0 };
        let answers = requests.iter().map(|_| Ok(self.verified.lock().pop_front().unwrap_or_else(current))).collect();
        self.answer(format!("verify {}", requests.len()), answers)
    }

    fn detach<'a>(&'a self, requests: &'a [DetachRequest]) -> Answer<'a, Result<(), BackplaneError>> {
        self.answer(format!("detach {}", requests.len()), ())
    }

    fn history<'a>(&'a self, _: &'a HistoryRequest) -> Answer<'a, Result<(Page, bool), HistoryError>> {
        let answer = self.answer("history".to_owned(), (Page::default(), false));
        Box::pin(async move { Ok(answer.await?) })
    }

    fn ack<'a>(&'a self, acks: &'a [Ack]) -> Answer<'a, Result<(), BackplaneError>> {
        self.answer(format!("ack {}", acks.len()), ())
    }

    fn replicated(&self) -> Answer<'_, Result<(), BackplaneError>> {
        self.unasked()
    }

    fn heartbeat<'a>(&'a self, _: &'a str) -> Answer<'a, Result<Pulse, BackplaneError>> {
        // Death is final for a name; the next generation has another one.
        let is_dead = self.is_dead.swap(false, Ordering::Relaxed);
        self.answer("heartbeat".to_owned(), Pulse { is_dead, nodes: Vec::new() })
    }

    fn bury<'a>(&'a self, _: &'a NodeId, _: &'a str) -> Answer<'a, Result<bool, BackplaneError>> {
        self.unasked()
    }

    fn agree<'a>(&'a self, own: &'a str) -> Answer<'a, Result<String, BackplaneError>> {
        self.answer("agree".to_owned(), self.said.clone().unwrap_or_else(|| own.to_owned()))
    }

    fn holds<'a>(&'a self, entries: &'a [(Text, Cursor)]) -> Answer<'a, Result<Vec<bool>, BackplaneError>> {
        let held = entries.iter().map(|(_, at)| self.held.contains(&at.seq)).collect();
        self.answer(format!("holds {}", entries.len()), held)
    }

    fn reap<'a>(&'a self, _: &'a NodeId) -> Answer<'a, Result<u64, BackplaneError>> {
        self.unasked()
    }

    fn groups(&self) -> &[SlotGroup] {
        &self.groups
    }

    fn is_home(&self) -> bool {
        self.is_home
    }

    fn lineage(&self) -> Option<&str> {
        self.lineage.as_deref()
    }

    fn replication(&self) -> Answer<'_, Result<Replication, BackplaneError>> {
        Box::pin(pending())
    }

    fn now_us(&self) -> u64 {
        self.now_us
    }
}

impl Groups for Fake {
    /// What is asked is done, also where its answer does not come.
    fn change<'a>(&'a self, _: u64, requests: &'a [ChangeRequest]) -> Answer<'a, Result<ChangeResult, BackplaneError>> {
        if *self.mode.lock() == Mode::Moved {
            return self.answer("change".to_owned(), ChangeResult::Stale);
        }
        let (mut asked, mut answers) = ("change".to_owned(), Vec::new());
        let mut there = self.joined.lock();
        for ChangeRequest { of, user, op, again, .. } in requests {
            let member = (of.clone(), user.clone());
            let again = again.map(|number| format!(" again {number}")).unwrap_or_default();
            asked += &format!(", {op:?} {user} {}{again}", of.as_str());
            let count = there.len() as u64;
            answers.push(match (op, self.broken.as_ref() == Some(of)) {
                (_, true) => Err(BackplaneError::NotRun("WRONGTYPE".to_owned())),
                (Op::Join, _) if self.full.as_ref() == Some(of) => Ok(Changed::Full),
                (Op::Join, _) if there.insert(member.clone()) => {
                    Ok(Changed::Done { mseq: 7, before: 0, members: count + 1 })
                }
                (Op::Join, _) => Ok(Changed::Already { mseq: 7, members: count }),
                (Op::Leave | Op::Remove, _) if there.remove(&member) => {
                    Ok(Changed::Done { mseq: 8, before: 7, members: count - 1 })
                }
                (Op::Leave | Op::Remove, _) => Ok(Changed::NotMember),
            });
        }
        drop(there);
        self.answer(asked, ChangeResult::Answered(answers))
    }

    fn regroup<'a>(
        &'a self,
        _: u64,
        requests: &'a [RegroupRequest],
    ) -> Answer<'a, Result<Vec<Result<bool, BackplaneError>>, BackplaneError>> {
        let mut asked = "regroup".to_owned();
        for RegroupRequest { user, group, is_in } in requests {
            asked += &format!(", {} {user} {group}", if *is_in { "in" } else { "out" });
        }
        self.answer(asked, vec![Ok(true); requests.len()])
    }

    fn changes<'a>(&'a self, of: &'a Text, after: u64) -> Answer<'a, Result<Changes, BackplaneError>> {
        let nothing = || Changes { version: after, members: 0, list: Some(Vec::new()) };
        let changes = self.changes.lock().pop_front().unwrap_or_else(nothing);
        self.answer(format!("changes {} {after}", of.as_str()), changes)
    }

    fn memberships<'a>(&'a self, of: &'a Text, users: &'a [UserId]) -> Answer<'a, Result<Memberships, BackplaneError>> {
        let there = self.joined.lock().clone();
        let joined = |user: &UserId| there.contains(&(of.clone(), user.clone())).then_some(7);
        let found = || Memberships { joined: users.iter().map(joined).collect(), ..Memberships::default() };
        let memberships = self.memberships.lock().pop_front().unwrap_or_else(found);
        self.answer(format!("memberships {} {}", of.as_str(), users.len()), memberships)
    }

    fn members<'a>(&'a self, _: &'a Text, _: u64, _: usize) -> Answer<'a, Result<MembersPage, BackplaneError>> {
        self.unasked()
    }

    fn groups_of<'a>(&'a self, _: &'a UserId) -> Answer<'a, Result<(u64, Vec<GroupId>), BackplaneError>> {
        self.unasked()
    }
}

impl Presence for Fake {
    fn presence<'a>(
        &'a self,
        users: &'a [UserId],
        _: Option<u64>,
    ) -> Answer<'a, Result<Vec<Result<PresenceOf, BackplaneError>>, BackplaneError>> {
        let answers = users.iter().map(|_| Ok(PresenceOf::default())).collect();
        self.answer(format!("presence {}", users.len()), answers)
    }

    fn unwatch<'a>(&'a self, users: &'a [UserId]) -> Answer<'a, Result<(), BackplaneError>> {
        self.answer(format!("unwatch {}", users.len()), ())
    }

    fn audience<'a>(&'a self, _: &'a Text) -> Answer<'a, Result<u64, BackplaneError>> {
        self.answer("audience".to_owned(), 0)
    }

    fn notify<'a>(&'a self, notices: &'a [(Text, Notice)]) -> Answer<'a, Result<(), BackplaneError>> {
        self.answer(format!("notify {}", notices.len()), ())
    }
}

impl Marks for Fake {
    fn mark<'a>(
        &'a self,
        _: &'a [MarkRequest],
    ) -> Answer<'a, Result<Vec<Result<Marked, BackplaneError>>, BackplaneError>> {
        self.unasked()
    }

    fn count<'a>(&'a self, _: &'a CountRequest) -> Answer<'a, Result<Counted, BackplaneError>> {
        self.unasked()
    }

    fn sender<'a>(&'a self, _: &'a Text, _: Cursor) -> Answer<'a, Result<Sender, BackplaneError>> {
        self.unasked()
    }

    fn fields<'a>(&'a self, _: &'a Text, _: u64, _: usize) -> Answer<'a, Result<FieldsPage, BackplaneError>> {
        self.unasked()
    }
}
