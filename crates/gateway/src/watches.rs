//! Whom this node's connections watch. The node watches each user once, however many of its connections do, and hands what
//! it hears to all of them.
//!
//! A notice may be lost: each watched user's state is read again every ten minutes and in every generation, and what was
//! missed is said then. Versions of a user's presence only grow, so what does not grow is old.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use backplane::{Commands, Presence};
use connection::{Input, Person};
use delivery::PresenceOf;
use futures_util::stream::{self, StreamExt};
use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use protocol::limits::WATCHED_MAX;
use protocol::{ConnectionId, GroupId, Millis, Text, UnixMillis, UserId};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::current::Current;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::questions::{Job, asked, user_record};

/// How long the backplane tells this node of a user's changes: two refreshes may fail before it forgets.
pub(crate) const WATCH_MS: u64 = 20 * 60_000;
/// How often that is renewed, and the state read again; up to a quarter sooner, so that not all come at once.
const REFRESH_MS: u64 = 10 * 60_000;
/// A refresh that failed is asked again after this, and up to as long again.
const AGAIN_MS: u64 = 5_000;
/// In a new generation all are refreshed over a second, and as much longer as so many a second take.
const SPREAD_MS: u64 = 1_000;
const SPREAD_A_SECOND: u64 = 5_000;
/// Nobody watches him any more: he is forgotten a little later, because pages are reloaded.
const LINGER_MS: u64 = 10_000;

/// Users that one node watches, and what all its connections watch together. One pair is about 100 bytes.
const USERS_MAX: usize = 100_000;
const PAIRS_MAX: usize = 1_000_000;

const TICK: Duration = Duration::from_secs(1);
/// Users of one refresh, and refreshes in flight.
const CALL_USERS: usize = 100;
const CALLS: usize = 8;
/// Users that are refreshed in one turn.
const TURN_USERS: usize = 10_000;

/// Why nobody else can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// This connection watches as many as one may.
    Connection,
    /// All connections of this node together do.
    Node,
    /// The connection has ended.
    Gone,
}

/// A state of a user, as it was heard last.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    version: u64,
    is_online: bool,
    at: UnixMillis,
}

impl From<&PresenceOf> for Heard {
    fn from(presence: &PresenceOf) -> Self {
        Self { version: presence.version, is_online: presence.is_online, at: presence.at }
    }
}

/// One who is watched.
#[derive(Debug)]
struct Watched {
    user: UserId,
    heard: Heard,
    by: HashSet<ConnectionId>,
    /// When his state is read again; without watchers, when he is forgotten.
    due: Millis,
}

/// One who watches.
#[derive(Debug)]
struct Watcher {
    mailbox: Mailbox,
    users: HashMap<Text, Pair>,
    /// What it asks about watching is done in its order.
    line: VecDeque<Job>,
    is_busy: bool,
}

/// One who watches another one.
#[derive(Debug)]
struct Pair {
    /// The connection has been told how he was.
    is_told: bool,
    /// Which group's watch began it.
    of: Option<GroupId>,
}

#[derive(Debug, Default)]
struct State {
    users: HashMap<Text, Watched>,
    watchers: HashMap<ConnectionId, Watcher>,
    pairs: usize,
}

/// Who watches whom on this node.
#[derive(Debug)]
pub(crate) struct Watches {
    state: Mutex<State>,
    current: Arc<Current>,
    clock: Clock,
    watched: Gauge,
    changes: Counter,
}

impl Watches {
    pub(crate) fn new(current: Arc<Current>, clock: Clock, metrics: &Metrics) -> Self {
        let (watched, changes) = (metrics.watched_users.clone(), metrics.presence_changes.clone());
        Self { state: Mutex::default(), current, clock, watched, changes }
    }

    /// Puts a question about watching behind those that the connection asked before. True: nobody sees to them, so the
    /// caller has to.
    #[must_use]
    pub(crate) fn line_up(&self, connection: ConnectionId, job: Job) -> bool {
        let mut state = self.state.lock();
        let watcher = state.watchers.entry(connection).or_insert_with(|| Watcher {
            mailbox: job.mailbox.clone(),
            users: HashMap::new(),
            line: VecDeque::new(),
            is_busy: false,
        });
        watcher.line.push_back(job);
        !std::mem::replace(&mut watcher.is_busy, true)
    }

    /// The next question of the connection; `None`: there is none, and whoever saw to them is done.
    pub(crate) fn next_of(&self, connection: ConnectionId) -> Option<Job> {
        let mut state = self.state.lock();
        let watcher = state.watchers.get_mut(&connection)?;
        let next = watcher.line.pop_front();
        watcher.is_busy = next.is_some();
        if next.is_none() {
            watcher.line = VecDeque::new();
        }
        next
    }

    /// The connection watches these users from now on, and hears of them once it has been told how they are. Answers which
    /// of them are new to it, for [`Watches::take_back`].
    ///
    /// # Errors
    /// [`Refusal`]: it watches none of them more than before.
    pub(crate) fn begin(
        &self,
        connection: ConnectionId,
        users: &[UserId],
        of: Option<&GroupId>,
    ) -> Result<Vec<Text>, Refusal> {
        let now = self.clock.now();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let watcher = state.watchers.get_mut(&connection).ok_or(Refusal::Gone)?;
        let new: HashMap<Text, &UserId> = users
            .iter()
            .map(|user| (user_record(user), user))
            .filter(|(record, _)| !watcher.users.contains_key(record))
            .collect();
        let unknown = new.keys().filter(|record| !state.users.contains_key(*record)).count();
        if watcher.users.len() + new.len() > WATCHED_MAX {
            return Err(Refusal::Connection);
        }
        if state.users.len() + unknown > USERS_MAX || state.pairs + new.len() > PAIRS_MAX {
            return Err(Refusal::Node);
        }
        state.pairs += new.len();
        for (record, user) in &new {
            watcher.users.insert(record.clone(), Pair { is_told: false, of: of.cloned() });
            let watched = state.users.entry(record.clone()).or_insert_with(|| Watched {
                user: (*user).clone(),
                heard: Heard::default(),
                by: HashSet::new(),
                due: Millis(0),
            });
            if watched.by.is_empty() {
                watched.due = now.plus(refresh_ms());
            }
            watched.by.insert(connection);
        }
        let new = new.into_keys().collect();
        self.count(state);
        Ok(new)
    }

    /// The connection is told how they are, and then of what happened since that was read.
    pub(crate) fn tell(&self, connection: ConnectionId, people: &[Person], answer: Input) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(watcher) = state.watchers.get_mut(&connection) else { return };
        watcher.mailbox.answer(answer);
        for Person { user, presence } in people {
            let record = user_record(user);
            let Some(pair) = watcher.users.get_mut(&record) else { continue };
            let was_told = std::mem::replace(&mut pair.is_told, true);
            let heard = state.users.get(&record).map(|watched| watched.heard).unwrap_or_default();
            if !was_told && heard.version > presence.version {
                self.changes.increment(1);
                watcher.mailbox.answer(change(user, heard));
            }
        }
        for Person { user, presence } in people {
            self.hear(state, &user_record(user), presence.into(), Some(connection));
        }
    }

    /// What [`Watches::begin`] began and nobody was told of.
    pub(crate) fn take_back(&self, connection: ConnectionId, new: &[Text]) {
        self.end(connection, |_| new.to_vec());
    }

    /// The connection watches these users no more.
    pub(crate) fn unwatch(&self, connection: ConnectionId, users: &[UserId]) {
        self.end(connection, |_| users.iter().map(user_record).collect());
    }

    /// The connection watches those no more whom its watch of this group began to watch.
    pub(crate) fn unwatch_group(&self, connection: ConnectionId, group: &GroupId) {
        self.end(connection, |watcher| {
            let began = watcher.users.iter().filter(|(_, pair)| pair.of.as_ref() == Some(group));
            began.map(|(record, _)| record.clone()).collect()
        });
    }

    /// The connection has ended.
    pub(crate) fn leave(&self, connection: ConnectionId) {
        self.end(connection, |watcher| watcher.users.keys().cloned().collect());
        let left = self.state.lock().watchers.remove(&connection);
        drop(left);
    }

    fn end(&self, connection: ConnectionId, whom: impl FnOnce(&Watcher) -> Vec<Text>) {
        let gone = self.clock.now().plus(LINGER_MS);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(watcher) = state.watchers.get_mut(&connection) else { return };
        for record in whom(watcher) {
            if watcher.users.remove(&record).is_none() {
                continue;
            }
            state.pairs -= 1;
            if let Some(watched) = state.users.get_mut(&record) {
                watched.by.remove(&connection);
                if watched.by.is_empty() {
                    watched.due = gone;
                }
            }
        }
    }

    /// A user came or went, as the backplane said it.
    pub(crate) fn on_presence(&self, record: &Text, version: u64, is_online: bool, at: UnixMillis) {
        self.hear(&mut self.state.lock(), record, Heard { version, is_online, at }, None);
    }

    /// Takes a state, and tells it to all watchers but one, if it is newer than what was heard before.
    fn hear(&self, state: &mut State, record: &Text, heard: Heard, but: Option<ConnectionId>) {
        let Some(watched) = state.users.get_mut(record).filter(|watched| watched.heard.version < heard.version) else {
            return;
        };
        watched.heard = heard;
        for connection in watched.by.iter().filter(|connection| Some(**connection) != but) {
            let watcher = state.watchers.get(connection);
            // Who has not been told how he is hears of it behind that.
            if let Some(watcher) = watcher.filter(|watcher| watcher.users.get(record).is_some_and(|pair| pair.is_told))
            {
                self.changes.increment(1);
                watcher.mailbox.answer(change(&watched.user, heard));
            }
        }
    }

    /// A new generation: its master may know nothing of this node's watching, and notices were lost meanwhile.
    pub(crate) fn on_generation(&self, commands: &Commands) {
        let now = self.clock.now();
        let groups: HashSet<_> = commands.groups().iter().copied().collect();
        let mut state = self.state.lock();
        let spread_ms = SPREAD_MS + state.users.len() as u64 * 1_000 / SPREAD_A_SECOND;
        for (record, watched) in &mut state.users {
            if !watched.by.is_empty() && groups.contains(&self.current.group(record)) {
                watched.due = watched.due.min(now.plus(rand::random_range(0..spread_ms)));
            }
        }
    }

    /// Those whose state is to be read again, by slot group; and those who are forgotten now.
    fn take_due(&self) -> (Vec<Vec<UserId>>, Vec<Vec<UserId>>) {
        let now = self.clock.now();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let (mut again, mut gone) = (Vec::new(), Vec::new());
        for watched in state.users.values_mut().filter(|watched| watched.due <= now) {
            if watched.by.is_empty() {
                gone.push(watched.user.clone());
            } else if again.len() < TURN_USERS {
                watched.due = now.plus(AGAIN_MS + rand::random_range(0..AGAIN_MS));
                again.push(watched.user.clone());
            }
        }
        for user in &gone {
            state.users.remove(&user_record(user));
        }
        self.count(state);
        drop(guard);
        (self.calls(again), self.calls(gone))
    }

    /// So many users of one slot group each.
    fn calls(&self, users: Vec<UserId>) -> Vec<Vec<UserId>> {
        let mut by_group: HashMap<_, Vec<UserId>> = HashMap::new();
        for user in users {
            by_group.entry(self.current.group(&user_record(&user))).or_default().push(user);
        }
        by_group.values().flat_map(|users| users.chunks(CALL_USERS).map(<[_]>::to_vec)).collect()
    }

    async fn turn(&self) {
        let (again, gone) = self.take_due();
        stream::iter(again).for_each_concurrent(CALLS, |users| self.refresh(users)).await;
        stream::iter(gone).for_each_concurrent(CALLS, |users| self.forget(users)).await;
    }

    /// Reads how they are, and says that this node goes on watching.
    async fn refresh(&self, users: Vec<UserId>) {
        let Some(first) = users.first() else { return };
        let asking = |commands: Commands| {
            let users = &users;
            async move { Presence::presence(&*commands, users, Some(WATCH_MS)).await }
        };
        // Who was not answered is due again soon.
        let Ok(answers) = asked(&self.current, &user_record(first), asking).await else { return };
        let mut guard = self.state.lock();
        for (user, presence) in users.iter().zip(answers) {
            let (Ok(presence), record) = (presence, user_record(user)) else { continue };
            self.hear(&mut guard, &record, (&presence).into(), None);
            if let Some(watched) = guard.users.get_mut(&record).filter(|watched| !watched.by.is_empty()) {
                watched.due = self.clock.now().plus(refresh_ms());
            }
        }
    }

    /// Tells the backplane that nobody here watches them.
    async fn forget(&self, users: Vec<UserId>) {
        let Some(first) = users.first() else { return };
        let asking = |commands: Commands| {
            let users = &users;
            async move { Presence::unwatch(&*commands, users).await }
        };
        let _ = asked(&self.current, &user_record(first), asking).await;
        // Who is watched again since then may have been forgotten behind that.
        let mut state = self.state.lock();
        for user in &users {
            if let Some(watched) = state.users.get_mut(&user_record(user)) {
                watched.due = Millis(0);
            }
        }
    }

    fn count(&self, state: &State) {
        #[allow(clippy::cast_precision_loss, reason = "at most 100,000")]
        self.watched.set(state.users.len() as f64);
    }
}

fn refresh_ms() -> u64 {
    REFRESH_MS - rand::random_range(0..REFRESH_MS / 4)
}

fn change(user: &UserId, heard: Heard) -> Input {
    let Heard { version, is_online, at } = heard;
    Input::Presence { user: user.clone(), version, is_online, at }
}

/// Keeps this node's watching alive until `stop`. One task a node.
pub(crate) async fn run(watches: Arc<Watches>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if stop.run_until_cancelled(watches.turn()).await.is_none() {
            break;
        }
    }
}

#[cfg(test)]
mod tests;
