//! Connections that ended: their locations stay for a moment, because who comes back within it was never away.
//!
//! All wait for the same time, so the order of leaving is the order of going, and one task is enough for everybody. What was
//! removed is remembered for a while: a master with another history may have it again, and nobody would look after a user
//! who has no connection. Rule: docs/delivery.md, On the node, 8.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use backplane::DetachRequest;
use parking_lot::Mutex;
use protocol::{Millis, Text};
use routing::SlotGroup;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::asker::Asker;
use crate::clock::Clock;
use crate::current::Current;

/// Locations that wait: as many as the asker's queue takes.
const WAITING_MAX: usize = 131_072;

/// Removals that are remembered, and for how long: longer than a failover takes.
const REMOVED_MAX: usize = 131_072;
const REMOVED_MS: u64 = 60_000;

/// At least so long between two looks, so that those who leave together go together.
const PAUSE: Duration = Duration::from_millis(10);

/// Who waits, and until when: the last one of each user only, for he is there as long as that one. So one who comes and goes
/// a hundred times a second has no more locations than connections. Pure.
#[derive(Debug)]
struct Leaving<T> {
    /// Empty places are of those who were followed by another one of their user.
    waiting: VecDeque<(Millis, Text, Option<T>)>,
    /// Where each user's is: how many have ever waited before it.
    places: HashMap<Text, u64>,
    /// How many have ever been taken off the front.
    gone: u64,
    delay_ms: u64,
}

impl<T> Leaving<T> {
    fn new(delay_ms: u64) -> Self {
        Self { waiting: VecDeque::new(), places: HashMap::new(), gone: 0, delay_ms }
    }

    /// Somebody leaves. Gives back who goes at once: he himself where nobody waits, else the one before of his user, or the
    /// oldest where there is no room.
    fn push(&mut self, of: &Text, one: T, now: Millis) -> Option<T> {
        if self.delay_ms == 0 {
            return Some(one);
        }
        let place = self.gone + self.waiting.len() as u64;
        let before = self.places.insert(of.clone(), place);
        self.waiting.push_back((now.plus(self.delay_ms), of.clone(), Some(one)));
        let at = before.and_then(|place| usize::try_from(place.checked_sub(self.gone)?).ok());
        let before = at.and_then(|at| self.waiting.get_mut(at)?.2.take());
        if before.is_none() && self.waiting.len() > WAITING_MAX { self.pop() } else { before }
    }

    fn pop(&mut self) -> Option<T> {
        let (_, of, one) = self.waiting.pop_front()?;
        if one.is_some() {
            self.places.remove(&of);
        }
        self.gone += 1;
        one
    }

    /// Those whose time has come.
    fn due(&mut self, now: Millis) -> Vec<T> {
        let count = self.waiting.partition_point(|(due, ..)| *due <= now);
        let due = (0..count).filter_map(|_| self.pop()).collect();
        if self.waiting.is_empty() {
            (self.waiting, self.places) = (VecDeque::new(), HashMap::new());
        }
        due
    }

    /// When the next one goes, and the last one.
    fn next(&self) -> Option<Millis> {
        self.waiting.front().map(|(due, ..)| *due)
    }

    fn last(&self) -> Option<Millis> {
        self.waiting.back().map(|(due, ..)| *due)
    }

    /// The rest goes now, and from now on nobody waits.
    fn end(&mut self) -> Vec<T> {
        self.delay_ms = 0;
        let rest = std::mem::take(&mut self.waiting);
        rest.into_iter().filter_map(|(_, _, one)| one).collect()
    }
}

/// What was removed lately, the oldest first, and of which history each slot group's master was then.
#[derive(Debug, Default)]
struct Removed {
    list: VecDeque<(Millis, DetachRequest)>,
    lineages: HashMap<SlotGroup, String>,
}

impl Removed {
    fn push(&mut self, request: DetachRequest, now: Millis) {
        self.forget(now);
        if self.list.len() >= REMOVED_MAX {
            self.list.pop_front();
        }
        self.list.push_back((now, request));
    }

    fn forget(&mut self, now: Millis) {
        let old = self.list.partition_point(|(at, _)| now.since(*at) > REMOVED_MS);
        self.list.drain(..old);
    }

    /// Takes the histories of the masters there are: the slot groups where one gave way to another.
    fn compare<'a>(&mut self, masters: impl Iterator<Item = (SlotGroup, &'a str)>) -> HashSet<SlotGroup> {
        let mut other = HashSet::new();
        for (group, lineage) in masters {
            match self.lineages.get_mut(&group) {
                Some(known) if known == lineage => {}
                Some(known) => {
                    lineage.clone_into(known);
                    other.insert(group);
                }
                None => drop(self.lineages.insert(group, lineage.to_owned())),
            }
        }
        other
    }
}

/// The locations of one node that are to be removed.
#[derive(Debug)]
pub(crate) struct Departures {
    asker: Arc<Asker>,
    current: Arc<Current>,
    clock: Clock,
    leaving: Mutex<Leaving<DetachRequest>>,
    removed: Mutex<Removed>,
    wake: Notify,
}

impl Departures {
    pub(crate) fn new(asker: Arc<Asker>, current: Arc<Current>, clock: Clock, delay_ms: u64) -> Self {
        let (leaving, removed) = (Mutex::new(Leaving::new(delay_ms)), Mutex::default());
        Self { asker, current, clock, leaving, removed, wake: Notify::new() }
    }

    /// It goes now.
    fn remove(&self, request: DetachRequest) {
        self.removed.lock().push(request.clone(), self.clock.now());
        self.asker.detach(request);
    }

    /// What was removed lately is removed again where the master has another history: exactly these registrations, which
    /// no connection gets again.
    fn on_generations(&self) {
        let groups = (0..self.current.group_count()).filter_map(|group| u16::try_from(group).ok()).map(SlotGroup);
        let masters: Vec<_> = groups.filter_map(|group| Some((group, self.current.get(group)?))).collect();
        let lineages = masters.iter().filter_map(|(group, commands)| Some((*group, commands.lineage()?)));
        let again: Vec<DetachRequest> = {
            let mut removed = self.removed.lock();
            removed.forget(self.clock.now());
            let other = removed.compare(lineages);
            let is_lost = |request: &DetachRequest| other.contains(&self.current.group(&request.of));
            removed.list.iter().map(|(_, request)| request).filter(|request| is_lost(request)).cloned().collect()
        };
        again.into_iter().for_each(|request| self.asker.detach(request));
    }

    /// A connection ended: its registration is removed a moment later.
    pub(crate) fn leave(&self, request: DetachRequest) {
        let (at_once, is_first) = {
            let mut leaving = self.leaving.lock();
            let at_once = leaving.push(&request.of.clone(), request, self.clock.now());
            (at_once, leaving.waiting.len() == 1)
        };
        if is_first {
            self.wake.notify_one();
        }
        if let Some(request) = at_once {
            self.remove(request);
        }
    }

    /// Hands on what is due; says when the next one is.
    fn turn(&self) -> Option<Millis> {
        let (due, next) = {
            let mut leaving = self.leaving.lock();
            (leaving.due(self.clock.now()), leaving.next())
        };
        due.into_iter().for_each(|request| self.remove(request));
        next
    }

    /// Waits until everybody who left so far may go: at most the delay.
    pub(crate) async fn settle(&self) {
        let last = self.leaving.lock().last();
        if let Some(last) = last {
            tokio::time::sleep_until(self.clock.instant(last)).await;
        }
    }

    /// The node ends: the rest goes now, and whoever leaves from now on at once.
    pub(crate) fn end(&self) {
        let rest = self.leaving.lock().end();
        rest.into_iter().for_each(|request| self.remove(request));
    }
}

/// Lets everybody go in time, until `stop`.
pub(crate) async fn run(departures: Arc<Departures>, stop: CancellationToken) {
    let mut began = departures.current.began();
    departures.on_generations();
    let rounds = async {
        loop {
            let next = departures.turn();
            let wait = async {
                match next {
                    Some(due) => tokio::time::sleep_until(departures.clock.instant(due)).await,
                    None => departures.wake.notified().await,
                }
            };
            tokio::select! {
                () = wait => {}
                _ = began.changed() => departures.on_generations(),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let _: Option<()> = stop.run_until_cancelled(rounds).await;
    departures.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asker::Measures;
    use crate::asker::tests::fake::{Fake, Mode};
    use crate::metrics::Metrics;
    use backplane::Commands;
    use protocol::ConnectionId;
    use routing::{Layout, Settings, Topology};

    /// The replica that became master had not got the removal: a user who was nowhere was here for ever.
    #[tokio::test]
    async fn what_was_removed_lately_is_removed_again_of_a_master_with_another_history() {
        let settings = Settings { partitions: 1, layout: Layout::Cluster, ..Settings::default() };
        let current = Arc::new(Current::new(Topology::new(settings).unwrap()));
        let (metrics, clock) = (Metrics::new(), Clock::start());
        let (waiting, late_checks) = (metrics.backplane_waiting.clone(), metrics.checks_late.clone());
        let measures = Measures { waiting, late_checks, late_ms: 30_000 };
        let asker = Arc::new(Asker::new(current.clone(), Arc::default(), clock, measures));
        let departures = Arc::new(Departures::new(asker.clone(), current.clone(), clock, 0));
        let stop = CancellationToken::new();
        tokio::spawn(crate::asker::run(asker, stop.clone()));
        tokio::spawn(run(departures.clone(), stop.clone()));
        let begin = |lineage: &str| {
            let lineage = Some(lineage.to_owned());
            let fake = Arc::new(Fake { lineage, ..Fake::of([SlotGroup(0)], Mode::Answers) });
            let commands: Commands = fake.clone();
            current.set(&commands);
            (fake, commands)
        };
        let (first, commands) = begin("a");
        let asked = async |fake: &Fake, count: usize| {
            let wait = async {
                while fake.asked.lock().len() < count {
                    tokio::time::sleep(PAUSE).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(3), wait).await.expect("it is removed");
        };
        tokio::time::sleep(5 * PAUSE).await;
        departures.leave(DetachRequest { of: "user:bob".into(), connection: ConnectionId(1), reg: 3 });
        asked(&first, 1).await;
        current.clear(&commands);
        let (same, commands) = begin("a");
        tokio::time::sleep(5 * PAUSE).await;
        current.clear(&commands);
        let (other, _commands) = begin("b");
        asked(&other, 1).await;
        assert_eq!(*other.asked.lock(), ["detach 1"]);
        assert!(same.asked.lock().is_empty(), "the same master has it");
        stop.cancel();
    }

    #[test]
    fn a_removal_is_remembered_for_a_minute_and_so_many_are() {
        let request = |reg| DetachRequest { of: "user:bob".into(), connection: ConnectionId(1), reg };
        let mut removed = Removed::default();
        (0..=REMOVED_MAX as u64).for_each(|reg| removed.push(request(reg), Millis(5)));
        assert_eq!((removed.list.len(), removed.list[0].1.reg), (REMOVED_MAX, 1));
        removed.push(request(7), Millis(6 + REMOVED_MS));
        assert_eq!(removed.list.len(), 1);
    }

    fn push<'a>(leaving: &mut Leaving<&'a str>, user: &str, one: &'a str, at: u64) -> Option<&'a str> {
        leaving.push(&Text::from(user), one, Millis(at))
    }

    #[test]
    fn who_left_goes_behind_the_delay_in_the_order_of_leaving() {
        let mut leaving = Leaving::new(5_000);
        assert_eq!(push(&mut leaving, "a", "a", 0), None);
        assert_eq!(push(&mut leaving, "b", "b", 100), None);
        assert_eq!(push(&mut leaving, "c", "c", 9_000), None);
        assert_eq!((leaving.next(), leaving.last()), (Some(Millis(5_000)), Some(Millis(14_000))));
        assert!(leaving.due(Millis(4_999)).is_empty());
        assert_eq!(leaving.due(Millis(5_100)), ["a", "b"]);
        assert_eq!(leaving.end(), ["c"], "the node ends");
        assert_eq!(push(&mut leaving, "d", "d", 9_100), Some("d"), "and nobody waits any more");
    }

    #[test]
    fn without_a_delay_everybody_goes_at_once() {
        let mut leaving = Leaving::new(0);
        assert_eq!((push(&mut leaving, "a", "a", 0), leaving.next()), (Some("a"), None));
    }

    /// One user came and went 170 times a second: within the delay he had 3,000 locations, and whoever sent to him waited.
    #[test]
    fn of_one_user_only_the_last_waits() {
        let mut leaving = Leaving::new(5_000);
        assert_eq!(push(&mut leaving, "bob", "first", 0), None);
        assert_eq!(push(&mut leaving, "eve", "other", 5), None);
        assert_eq!(push(&mut leaving, "bob", "second", 10), Some("first"));
        assert_eq!(leaving.due(Millis(5_009)), ["other"]);
        assert_eq!(push(&mut leaving, "bob", "third", 5_009), Some("second"));
        assert!(leaving.due(Millis(5_010)).is_empty());
        assert_eq!(leaving.due(Millis(10_009)), ["third"]);
        assert!(leaving.places.is_empty() && leaving.next().is_none());
    }

    #[test]
    fn of_too_many_the_oldest_goes_early() {
        let mut leaving = Leaving::new(5_000);
        let users = (0..WAITING_MAX + 2).map(|n| Text::from(n.to_string()));
        let early: Vec<_> = users.enumerate().filter_map(|(n, user)| leaving.push(&user, n, Millis(0))).collect();
        assert_eq!((early, leaving.waiting.len(), leaving.places.len()), (vec![0, 1], WAITING_MAX, WAITING_MAX));
    }
}
