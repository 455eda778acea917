//! A slot on its way, in each of its phases: every call has the right answer or none, and when it has arrived nothing is
//! lost, doubled or out of order.

use std::collections::BTreeSet;
use std::time::Duration;

use backplane::{BackplaneError, BatchResult, DetachRequest, ReadRequest};
use delivery::{Kind, NewMessage, Place, Standing, Start};
use protocol::{ConnectionId, Cursor, Stamp};
use testkit::Cluster;
use testkit::cluster::Migration;
use tokio::time::Instant;

use super::{Member, answer, history_of, ids, read_chain, slot_of, start, topology, user_in};
use crate::fixtures::{acked, message, registered, retry};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Before,
    /// The new master is told, the old one not yet.
    Importing,
    Migrating,
    MetaMoved,
    InboxMoved,
    /// The record, but not what devices acknowledged.
    RecordMoved,
    AllMoved,
    /// The old master has not heard of it.
    FinishedOnTarget,
    Finished,
}

impl Phase {
    const ALL: [Self; 9] = [
        Self::Before,
        Self::Importing,
        Self::Migrating,
        Self::MetaMoved,
        Self::InboxMoved,
        Self::RecordMoved,
        Self::AllMoved,
        Self::FinishedOnTarget,
        Self::Finished,
    ];

    fn is_half(self) -> bool {
        matches!(self, Self::MetaMoved | Self::InboxMoved)
    }
}

/// One record on its way.
pub(super) struct Way<'c> {
    cluster: &'c Cluster,
    of: String,
    slot: u16,
    from: usize,
    to: usize,
    is_open: bool,
}

impl<'c> Way<'c> {
    pub(super) fn new(cluster: &'c Cluster, of: &str) -> Self {
        let slot = slot_of(of);
        let from = cluster.master_of(slot).unwrap();
        Self { cluster, of: of.to_owned(), slot, from, to: (from + 1) % 3, is_open: false }
    }

    fn migration(&self) -> Migration {
        Migration { slot: self.slot, from: self.from, to: self.to }
    }

    fn id(&self, server: usize) -> String {
        self.cluster.cli(server, &["CLUSTER", "MYID"]).unwrap()
    }

    fn set_slot(&self, on: usize, words: &[&str]) {
        let slot = self.slot.to_string();
        self.cluster.cli(on, &[&["CLUSTER", "SETSLOT", &slot][..], words].concat()).unwrap();
    }

    fn open(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.cluster.begin_migration(self.slot, self.to).unwrap();
        }
    }

    /// MIGRATE of one key; refused where the new master has one of that name.
    fn move_key(&self, key: &str) {
        let port = self.cluster.servers[self.to].port().to_string();
        let moved = self.cluster.cli(self.from, &["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).unwrap();
        assert_eq!(moved, "OK", "{key} was there");
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        let topology = topology();
        let keys = topology.keys().record(&self.of);
        let is_new = self.cluster.cli(self.from, &["EXISTS", &keys.meta]).is_ok_and(|answer| answer == "0");
        match phase {
            Phase::Before => return,
            Phase::Importing => return self.set_slot(self.to, &["IMPORTING", &self.id(self.from)]),
            _ => self.open(),
        }
        match phase {
            _ if is_new => {}
            Phase::MetaMoved => self.move_key(&keys.meta),
            Phase::InboxMoved => self.move_key(&keys.inbox),
            Phase::RecordMoved => [&keys.meta, &keys.inbox].into_iter().for_each(|key| self.move_key(key)),
            _ => {}
        }
        if phase >= Phase::AllMoved {
            self.move_all();
        }
        match phase {
            // Its words about itself do not reach the old master: that one is asked before it has read them.
            Phase::FinishedOnTarget => self.set_slot(self.to, &["NODE", &self.id(self.to)]),
            Phase::Finished => self.cluster.finish_migration(self.migration()).unwrap(),
            _ => {}
        }
    }

    fn move_all(&self) {
        while self.cluster.move_keys(self.migration(), 100).unwrap() > 0 {}
    }

    pub(super) fn finish(&mut self, phase: Phase) {
        match phase {
            Phase::Before | Phase::Finished => {}
            Phase::Importing => self.set_slot(self.to, &["STABLE"]),
            _ => {
                self.move_all();
                self.cluster.finish_migration(self.migration()).unwrap();
            }
        }
    }
}

/// What a call in the middle of a migration may answer: the right thing, or that it did not run.
fn judge<T>(what: &str, phase: Phase, answer: Result<T, BackplaneError>, right: impl FnOnce(T)) -> bool {
    match answer {
        Ok(answer) => {
            right(answer);
            true
        }
        Err(BackplaneError::NotRun(_)) if phase.is_half() => false,
        Err(BackplaneError::Elsewhere(_)) if phase >= Phase::FinishedOnTarget => false,
        Err(error) => panic!("{what} in {phase:?}: {error}"),
    }
}

pub(super) fn ephemeral(id: &str) -> NewMessage {
    NewMessage { kind: Kind::Ephemeral, ..message(id) }
}

/// The place of the only message, or why there is none.
pub(super) fn only_place(result: Result<BatchResult, BackplaneError>) -> Result<Place, BackplaneError> {
    let answer = answer(result?);
    match &answer.groups[0] {
        Ok(placed) => Ok(placed[0].place),
        Err(why) => Err(BackplaneError::NotRun(why.clone())),
    }
}

/// Every call on a record that has three messages, a device that acknowledged one, and two connections.
async fn on_a_record(cluster: &Cluster, a: &Member, of: &str, phase: Phase) -> BTreeSet<String> {
    let stored = a.store(of, &["m1", "m2", "m3"]).await;
    let commands = a.of(of).commands.clone();
    let before = [a.attach_of(of, 1, Some("phone"), &[]), a.attach_of(of, 2, None, &[])];
    commands.attach(&before).await.unwrap().into_iter().for_each(|attached| drop(attached.unwrap()));
    commands.ack(&[acked(of, "phone", stored[0])]).await.unwrap();
    let mut way = Way::new(cluster, of);
    way.enter(phase);
    let begun = Instant::now();
    let first = async { only_place(a.append(of, &[message("f1")]).await) };
    let again = async { only_place(a.append(of, &[retry("m2")]).await) };
    let fleeting = async { only_place(a.append(of, &[ephemeral("e1")]).await) };
    let attach = |connection, device, cursors: &[Cursor]| {
        let (commands, request) = (commands.clone(), a.attach_of(of, connection, device, cursors));
        async move { commands.attach(&[request]).await?.remove(0) }
    };
    let (new_device, known_device) = (attach(3, Some("tablet"), &[]), attach(4, Some("phone"), &[]));
    let (from_cursor, forked) =
        (attach(5, Some("phone"), &[stored[1]]), attach(6, Some("phone"), &[Cursor { stamp: Stamp(7), ..stored[2] }]));
    let verify = async { commands.verify(&[a.verify_of(of, 2, stored[2])]).await?.remove(0) };
    let request = ReadRequest { of: of.into(), after: vec![stored[0]] };
    let read = commands.read(&request);
    let request = history_of(of);
    let history = commands.history(&request);
    let removals = [DetachRequest { of: of.into(), connection: ConnectionId(1), reg: 1 }];
    let detach = commands.detach(&removals);
    let (first, again, fleeting, new_device, known_device, from_cursor, forked, verify, read, history, detach) = tokio::join!(
        first,
        again,
        fleeting,
        new_device,
        known_device,
        from_cursor,
        forked,
        verify,
        read,
        history,
        detach
    );
    assert!(begun.elapsed() < Duration::from_secs(8), "{phase:?}: answered after {:?}", begun.elapsed());
    let epoch = stored[0].epoch;
    let mut expected: BTreeSet<String> = ["m1", "m2", "m3"].map(str::to_owned).into();
    let is_stored = judge("append", phase, first, |place| {
        let Place::Stored(cursor) = place else { panic!("{place:?}") };
        assert_eq!((cursor.epoch, cursor.seq), (epoch, 4));
    });
    expected.extend(is_stored.then(|| "f1".to_owned()));
    judge("retry", phase, again, |place| assert_eq!(place, Place::Found(stored[1])));
    judge("ephemeral", phase, fleeting, |place| assert_eq!(place, Place::Published));
    // The first message of each page, and that the page goes on to the end. What is appended meanwhile may be in it.
    let page = |what: &str, attached: Result<delivery::Attached, BackplaneError>, start: Start, after: u64| {
        judge(what, phase, attached, |attached| {
            assert_eq!((attached.start, attached.cursor.seq, attached.cursor.epoch), (start, after, epoch), "{what}");
            let begins: Vec<String> = (after..3).map(|n| format!("m{}", n + 1)).collect();
            assert!(ids(&attached.page).starts_with(&begins), "{what}: {:?}", ids(&attached.page));
            assert!(attached.routed, "{what}");
        });
    };
    page("a new device", new_device, Start::New, 0);
    page("a known device", known_device, Start::Resumed, 1);
    page("a cursor", from_cursor, Start::Resumed, 2);
    page("a fork", forked, Start::Reset { reason: delivery::Reason::Fork, lost: None }, 1);
    judge("verify", phase, verify, |verified| {
        assert!(matches!(verified.standing, Standing::Current | Standing::Behind), "{verified:?}");
        assert!(verified.registered.contains(&registered(2, 1)));
    });
    judge("read", phase, read, |read| {
        assert!(ids(&read.unwrap().page).starts_with(&["m2".to_owned(), "m3".to_owned()]))
    });
    let history = history.map_err(|error| match error {
        backplane::HistoryError::Backplane(error) => error,
        backplane::HistoryError::Before => panic!("{phase:?}: it has no `before`"),
    });
    judge("history", phase, history, |(page, _)| {
        assert!(ids(&page).starts_with(&["m1".to_owned(), "m2".to_owned(), "m3".to_owned()]), "{page:?}");
    });
    judge("detach", phase, detach, drop);
    way.finish(phase);
    expected
}

/// The same on a record that nobody has named before; two nodes begin it at once.
async fn on_no_record(cluster: &Cluster, [a, b]: [&Member; 2], of: &str, phase: Phase) -> BTreeSet<String> {
    let mut way = Way::new(cluster, of);
    way.enter(phase);
    let begun = Instant::now();
    let commands = a.of(of).commands.clone();
    // Nothing is there: said so, or not answered at all, and nothing is made by asking.
    let removals = [DetachRequest { of: of.into(), connection: ConnectionId(9), reg: 1 }];
    let verify = async { commands.verify(&[a.verify_of(of, 9, Cursor::default())]).await?.remove(0) };
    let request = ReadRequest { of: of.into(), after: vec![] };
    let history = history_of(of);
    let (verify, read, history, detach) =
        tokio::join!(verify, commands.read(&request), commands.history(&history), commands.detach(&removals));
    judge("verify", phase, verify, |verified| assert_eq!(verified.standing, Standing::Gone));
    judge("read", phase, read, |read| assert!(read.is_none(), "{read:?}"));
    let history = history.map_err(|error| BackplaneError::NotRun(error.to_string()));
    if phase < Phase::FinishedOnTarget {
        judge("history", phase, history, |(page, _)| assert!(page.entries.is_empty()));
    }
    judge("detach", phase, detach, drop);
    assert!(begun.elapsed() < Duration::from_secs(1), "{phase:?}: what is nowhere is said at once");

    let mut expected = BTreeSet::new();
    let mut epochs = BTreeSet::new();
    let attach = async |member: &Member| {
        member.of(of).commands.attach(&[member.attach_of(of, 1, Some("phone"), &[])]).await?.remove(0)
    };
    let (first, second, third, fourth) = tokio::join!(
        async { only_place(a.append(of, &[message("a1")]).await) },
        async { only_place(b.append(of, &[message("b1")]).await) },
        attach(a),
        attach(b),
    );
    for (id, place) in [("a1", first), ("b1", second)] {
        let is_stored = judge("append", phase, place, |place| {
            let Place::Stored(cursor) = place else { panic!("{place:?}") };
            epochs.insert(cursor.epoch.0);
        });
        expected.extend(is_stored.then(|| id.to_owned()));
    }
    for attached in [third, fourth] {
        judge("attach", phase, attached, |attached| {
            assert_eq!(attached.start, Start::New);
            epochs.insert(attached.cursor.epoch.0);
        });
    }
    assert!(epochs.len() <= 1, "{phase:?}: one record, one epoch");
    // What the new master says of itself may have come to the old one at once.
    assert!(phase == Phase::FinishedOnTarget || epochs.is_empty() == (phase == Phase::Finished), "{phase:?}");
    // No key of ours is in the way of what moves.
    way.finish(phase);
    expected
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_whose_slot_moves_is_answered_rightly_or_not_at_all() {
    let cluster = start().await;
    let (mut a, b) = (Member::start(cluster.url(), "a").await, Member::start(cluster.url(), "b").await);
    let mut all = Vec::new();
    // Phases in which nothing can be answered take two seconds each, so all go at once.
    let old = futures_of(Phase::ALL.into_iter().zip(0u16..).map(|(phase, n)| {
        let (cluster, a) = (&cluster, &a);
        async move {
            let of = user_in(n * 7 + 1);
            (on_a_record(cluster, a, &of, phase).await, of, phase)
        }
    }));
    all.extend(old.await);
    let whole = Phase::ALL.into_iter().filter(|phase| !phase.is_half() && *phase != Phase::RecordMoved);
    let new = futures_of(whole.zip(0u16..).map(|(phase, n)| {
        let (cluster, members) = (&cluster, [&a, &b]);
        async move {
            let of = user_in(n * 7 + 3);
            (on_no_record(cluster, members, &of, phase).await, of, phase)
        }
    }));
    all.extend(new.await);
    tokio::task::block_in_place(|| cluster.wait_well(Duration::from_secs(5))).unwrap();
    a.open_all(Duration::from_secs(5)).await;
    for (expected, of, phase) in all {
        let chain = read_chain(&a, &of).await;
        assert_eq!(chain.iter().cloned().collect::<BTreeSet<_>>(), expected, "{phase:?}");
        assert_eq!(chain.len(), expected.len(), "{phase:?}: none twice");
    }
}

/// Runs all at once, one after the other's first step: what a test does to the cluster blocks.
async fn futures_of<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pinned: Vec<_> = all.map(|one| Some(Box::pin(one))).collect();
    let mut done = Vec::with_capacity(pinned.len());
    std::future::poll_fn(|context| {
        for place in &mut pinned {
            let Some(one) = place else { continue };
            if let std::task::Poll::Ready(answer) = one.as_mut().poll(context) {
                done.push(answer);
                *place = None;
            }
        }
        if pinned.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}
