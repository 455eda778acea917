//! The backplane of a single node, in its own memory: the same rules ([`delivery::Record`]), nothing outlives the process.
//!
//! Tests can make it lose what it publishes and end its generation, as a real one does.

mod groups;
mod marks;
mod presence;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use delivery::presence::{Presence, Watchers};
use delivery::record::{self, Record, Whose};
use delivery::{Ack, Attached, Kind, Limits, Members, Replication, Standing, Verified};
use parking_lot::Mutex;
use protocol::bundle::Item;
use protocol::{Bundle, Cursor, Entry, Envelope, Ephemeral, GroupId, Live, NodeId, Page, Text, UserId};
use routing::{SlotGroup, fanout};
use tokio::sync::{mpsc, watch};

use crate::api::{
    Answer, AttachRequest, Backplane, Batch, BatchAnswer, BatchResult, Commands, DetachRequest, HistoryRequest, Log,
    Opened, Pulse, ReadRequest, Source, Subscription, VerifyRequest,
};
use crate::error::{BackplaneError, HistoryError, Loss};

/// Bytes of bundles between an append and the node's own dispatcher: a generation that lags more ends.
const BUS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The same in bundles.
const BUS_BUNDLES_MAX: usize = 65_536;
/// How often an append also looks for records that have outlived their expiry.
const SWEEP_EVERY: u64 = 4_096;

/// Microseconds since 1970; an argument, so that tests can turn it.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Inboxes in memory.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    limits: Limits,
    bytes_max: u64,
    clock: Clock,
    records: Mutex<HashMap<Text, Record>>,
    /// Of groups, by their record. Locked behind `records`, as `groups` is.
    members: Mutex<HashMap<Text, Members>>,
    /// The groups of users.
    groups: Mutex<HashMap<UserId, BTreeSet<GroupId>>>,
    /// How users are, and whether this node wants to hear of it: by their record. Locked behind `records`.
    people: Mutex<HashMap<Text, Person>>,
    bytes: AtomicU64,
    last_us: AtomicU64,
    appends: AtomicU64,
    is_deaf: AtomicBool,
    bus: Mutex<Option<Bus>>,
}

#[derive(Default)]
struct Person {
    presence: Presence,
    watchers: Watchers,
}

struct Bus {
    sender: mpsc::Sender<(Bundle, usize)>,
    queued: Arc<AtomicUsize>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("node", &self.shared.node).finish_non_exhaustive()
    }
}

impl Embedded {
    /// `bytes_max` bounds all inboxes together: when they are full, appends are refused as a full Redis refuses them.
    pub fn new(node: NodeId, limits: Limits, bytes_max: u64, clock: Clock) -> Self {
        let shared = Shared {
            node,
            limits,
            bytes_max,
            clock,
            records: Mutex::default(),
            members: Mutex::default(),
            groups: Mutex::default(),
            people: Mutex::default(),
            bytes: AtomicU64::new(0),
            last_us: AtomicU64::new(0),
            appends: AtomicU64::new(0),
            is_deaf: AtomicBool::new(false),
            bus: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Tests: from now on what is published reaches nobody, as with a subscription that hangs.
    pub fn set_deaf(&self, is_deaf: bool) {
        self.shared.is_deaf.store(is_deaf, Ordering::Relaxed);
    }

    /// Tests: ends the generation.
    pub fn cut(&self) {
        self.shared.bus.lock().take();
    }

    /// A copy of one record, as it is.
    pub fn record(&self, of: &str) -> Option<Record> {
        self.shared.records.lock().get(&Text::from(of)).cloned()
    }
}

impl Shared {
    /// The clock; never the same or earlier again, for stamps have to be unique. `count` stamps are taken.
    fn tick(&self, count: u64) -> u64 {
        let now = (self.clock)();
        let next = |last: u64| Some(now.max(last + 1) + count.saturating_sub(1));
        match self.last_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(last) | Err(last) => now.max(last + 1),
        }
    }

    /// Runs one rule on one record, and keeps the count of bytes.
    fn with<R>(&self, of: &Text, rule: impl FnOnce(&mut Option<Record>) -> R) -> R {
        let mut records = self.records.lock();
        let mut record = records.remove(of);
        let before = record.as_ref().map_or(0, |r| r.bytes);
        let result = rule(&mut record);
        let after = record.as_ref().map_or(0, |r| r.bytes);
        if let Some(record) = record {
            records.insert(of.clone(), record);
        }
        self.bytes.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        result
    }

    fn sweep(&self, now_us: u64) {
        let mut freed = 0;
        self.records.lock().retain(|_, record| {
            let keep = record.is_alive(now_us / 1_000);
            freed += if keep { 0 } else { record.bytes };
            keep
        });
        self.bytes.fetch_sub(freed, Ordering::Relaxed);
        self.forget_people(now_us);
        self.forget_logs();
    }

    fn append(&self, batch: &Batch) -> BatchAnswer {
        let count = batch.groups.iter().map(|g| g.messages.len() as u64).sum();
        let now_us = self.tick(count);
        if self.appends.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.sweep(now_us);
        }
        let mut place = 0;
        let mut items = Vec::new();
        let mut groups = Vec::with_capacity(batch.groups.len());
        for group in &batch.groups {
            let first = place;
            place += group.messages.len() as u64;
            if self.bytes.load(Ordering::Relaxed) >= self.bytes_max {
                groups.push(Err("the embedded backplane is full: raise --embedded-bytes or use Redis".to_owned()));
                continue;
            }
            let whose = Whose::of(&group.record);
            let (appended, version) = self.with(&group.record, |record| {
                let appended = record::append(record, whose, batch.epoch, now_us, first, &group.messages, &self.limits);
                (appended, record.as_ref().filter(|r| r.nodes().contains(&&self.node)).map(|r| r.version))
            });
            if let Some(version) = version {
                let live = appended.live.iter().filter_map(live);
                items.extend(live.map(|live| Item { record: group.record.clone(), version, live }));
            }
            groups.push(Ok(appended.placed));
        }
        let receivers = self.fan_out(items);
        BatchAnswer { groups, receivers, is_elsewhere: false }
    }

    fn fan_out(&self, items: Vec<Item>) -> Vec<(NodeId, u64)> {
        let here = items.into_iter().map(|item| (item, vec![&self.node]));
        let bundles = fanout::bundles(here);
        bundles.into_iter().map(|(node, bundle)| (node, u64::from(self.offer(bundle)))).collect()
    }

    /// Hands a bundle to the subscription. One that cannot take it has lagged: it ends.
    fn offer(&self, bundle: Bundle) -> bool {
        if self.is_deaf.load(Ordering::Relaxed) {
            return true;
        }
        let mut place = self.bus.lock();
        let Some(bus) = place.as_ref() else { return false };
        let weight = bundle.items.iter().map(|i| i.live.weight()).sum();
        let queued = bus.queued.fetch_add(weight, Ordering::Relaxed) + weight;
        if queued > BUS_BYTES_MAX || bus.sender.try_send((bundle, weight)).is_err() {
            *place = None;
            return false;
        }
        true
    }
}

fn live(row: &record::LiveRow) -> Option<Live> {
    let envelope = Arc::new(Envelope::decode(&row.stored.envelope).ok()?);
    Some(match row.kind {
        Kind::Durable | Kind::Late => Live::Entry(Entry {
            cursor: row.cursor,
            link: row.link,
            tag: row.stored.tag,
            mseq: row.stored.mseq,
            envelope,
        }),
        Kind::Ephemeral => Live::Ephemeral(Ephemeral { at: row.stored.stamp.at(), envelope }),
    })
}

#[derive(Debug)]
struct Handle(Embedded);

impl Log for Handle {
    fn append<'a>(&'a self, batch: &'a Batch) -> Answer<'a, Result<BatchResult, BackplaneError>> {
        Box::pin(async move { Ok(BatchResult::Answered(self.0.shared.append(batch))) })
    }

    fn publish<'a>(&'a self, node: &'a NodeId, bundle: &'a Bundle) -> Answer<'a, Result<u64, BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move { Ok(u64::from(*node == shared.node && shared.offer(bundle.clone()))) })
    }

    fn attach<'a>(
        &'a self,
        requests: &'a [AttachRequest],
    ) -> Answer<'a, Result<Vec<Result<Attached, BackplaneError>>, BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let (now_us, mut items) = (shared.tick(1), Vec::new());
            let answers = requests.iter().map(|one| shared.attach(one, now_us, &mut items)).collect();
            shared.fan_out(items);
            Ok(answers)
        })
    }

    fn read<'a>(&'a self, request: &'a ReadRequest) -> Answer<'a, Result<Option<Attached>, BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let records = shared.records.lock();
            Ok(record::read(records.get(&request.of), (shared.clock)(), &request.after))
        })
    }

    fn verify<'a>(
        &'a self,
        requests: &'a [VerifyRequest],
    ) -> Answer<'a, Result<Vec<Result<Verified, BackplaneError>>, BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let (now_us, mut items) = ((shared.clock)(), Vec::new());
            let one = |VerifyRequest { of, registration, cursor }: &VerifyRequest| {
                shared.with(of, |record| {
                    let verified = record::verify(record, now_us, registration, *cursor, &shared.limits);
                    if verified.standing != Standing::Gone {
                        items.extend(shared.settle(of, record.as_ref(), now_us, None));
                    }
                    Ok(verified)
                })
            };
            let answers = requests.iter().map(one).collect();
            shared.fan_out(items);
            Ok(answers)
        })
    }

    fn detach<'a>(&'a self, requests: &'a [DetachRequest]) -> Answer<'a, Result<(), BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let (now_us, mut items) = ((shared.clock)(), Vec::new());
            for DetachRequest { of, connection, reg } in requests {
                shared.with(of, |record| {
                    if let Some(record) = record {
                        record.detach(&shared.node, *connection, *reg);
                    }
                    items.extend(shared.settle(of, record.as_ref(), now_us, None));
                });
            }
            shared.fan_out(items);
            Ok(())
        })
    }

    fn history<'a>(&'a self, request: &'a HistoryRequest) -> Answer<'a, Result<(Page, bool), HistoryError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let records = shared.records.lock();
            let alive = records.get(&request.of).filter(|r| r.is_alive((shared.clock)() / 1_000));
            match alive {
                None => Ok((Page::default(), false)),
                Some(record) => record.history(request.before, request.limit).map_err(|_| HistoryError::Before),
            }
        })
    }

    fn ack<'a>(&'a self, acks: &'a [Ack]) -> Answer<'a, Result<(), BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let mut records = shared.records.lock();
            for Ack { of, field, cursor } in acks {
                if let Some(record) = records.get_mut(of) {
                    record.ack(Whose::of(of), field, *cursor);
                }
            }
            Ok(())
        })
    }

    fn replicated(&self) -> Answer<'_, Result<(), BackplaneError>> {
        Box::pin(async { Err(BackplaneError::NotRun("the embedded backplane has no replica".to_owned())) })
    }

    fn heartbeat<'a>(&'a self, _counter: &'a str) -> Answer<'a, Result<Pulse, BackplaneError>> {
        // There is nobody else.
        Box::pin(async { Ok(Pulse::default()) })
    }

    fn bury<'a>(&'a self, _node: &'a NodeId, _counter: &'a str) -> Answer<'a, Result<bool, BackplaneError>> {
        Box::pin(async { Ok(false) })
    }

    fn agree<'a>(&'a self, own: &'a str) -> Answer<'a, Result<String, BackplaneError>> {
        Box::pin(async move { Ok(own.to_owned()) })
    }

    fn holds<'a>(&'a self, entries: &'a [(Text, Cursor)]) -> Answer<'a, Result<Vec<bool>, BackplaneError>> {
        // It loses nothing while its node lives.
        Box::pin(async move { Ok(vec![true; entries.len()]) })
    }

    fn reap<'a>(&'a self, _node: &'a NodeId) -> Answer<'a, Result<u64, BackplaneError>> {
        Box::pin(async { Ok(0) })
    }

    fn groups(&self) -> &[SlotGroup] {
        &[SlotGroup(0)]
    }

    fn is_home(&self) -> bool {
        true
    }

    fn lineage(&self) -> Option<&str> {
        None
    }

    fn replication(&self) -> Answer<'_, Result<Replication, BackplaneError>> {
        Box::pin(async { Ok(Replication { master_offset: 0, replica_offsets: Vec::new() }) })
    }

    fn now_us(&self) -> u64 {
        (self.0.shared.clock)()
    }
}

struct Channel {
    receiver: mpsc::Receiver<(Bundle, usize)>,
    queued: Arc<AtomicUsize>,
}

impl Subscription for Channel {
    fn next(&mut self) -> Answer<'_, Result<Bundle, Loss>> {
        Box::pin(async move {
            let (bundle, weight) = self.receiver.recv().await.ok_or(Loss::Lagged)?;
            self.queued.fetch_sub(weight, Ordering::Relaxed);
            Ok(bundle)
        })
    }
}

impl Backplane for Embedded {
    fn sources(&self) -> watch::Receiver<Vec<Source>> {
        // Nobody sends: there is one, always.
        watch::channel(vec![Source::default()]).1
    }

    fn open<'a>(&'a self, _source: &'a Source) -> Answer<'a, Opened> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(BUS_BUNDLES_MAX);
            let queued = Arc::new(AtomicUsize::new(0));
            *self.shared.bus.lock() = Some(Bus { sender, queued: queued.clone() });
            let commands: Commands = Arc::new(Handle(self.clone()));
            let subscription: Box<dyn Subscription> = Box::new(Channel { receiver, queued });
            Ok((commands, subscription))
        })
    }
}
