//! The pure record, the embedded backplane and the Lua scripts answer every step of random histories alike.
//!
//! Method: a seeded generator makes histories of 50 operations on a few addresses, with cursors that hold, once held, or
//! never did. Redis is asked first; its clock is read off its answer and given to the other two. `CONFORMANCE_SEED=n`
//! replays one history.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backplane::{
    AttachRequest, Batch, BatchAnswer, BatchBuilder, BatchResult, DetachRequest, HistoryError, HistoryRequest,
    ReadRequest, VerifyRequest,
};
use delivery::record::{self, Record};
use delivery::{BatchNumber, Kind, Limits, Place, Standing, Start, Verified};
use protocol::client::From;
use protocol::node::Item;
use protocol::{Bundle, ConnectionId, Cursor, DeviceId, Entry, Envelope, Ephemeral, Live, NodeId, Stamp, Text};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use testkit::redis::Redis;

use crate::fixtures::{Generation, embedded, epoch, message, node, open, open_redis, registration, topology};

const HISTORIES: u64 = 256;
const STEPS: usize = 50;

/// Limits that trim by number, by bytes, by age, and hardly at all.
fn limits(kind: u64) -> Limits {
    let base = Limits { retention_ms: 600_000, inbox_max: 8, inbox_bytes: 1 << 20, retry_young_us: 6_000_000 };
    match kind {
        0 => base,
        1 => Limits { inbox_max: 1_000, inbox_bytes: 900, retry_young_us: 4_000, ..base },
        2 => Limits { inbox_max: 1_000, retention_ms: 5, retry_young_us: 1, ..base },
        _ => Limits { inbox_max: 10_000, retention_ms: 604_800_000, ..base },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_embedded_and_lua_answer_every_step_alike() {
    let redis = Redis::start().unwrap();
    let seed: u64 = match std::env::var("CONFORMANCE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::rng().random::<u32>().into(),
    };
    println!("CONFORMANCE_SEED={seed}: {HISTORIES} histories of {STEPS} operations");
    let mut seen = std::collections::BTreeMap::new();
    for kind in 0..4 {
        let mut redis = open_redis(redis.url(), &format!("c{kind}"), limits(kind)).await;
        for history in (kind..HISTORIES).step_by(4) {
            let mut rng = StdRng::seed_from_u64(seed.wrapping_add(history));
            let mut world = World::new(history, kind).await;
            for step in 0..STEPS {
                let operation = world.operation(&mut rng);
                let context = format!("CONFORMANCE_SEED={seed} history {history} step {step}: {operation:?}");
                world.run(&mut redis, operation, &context).await;
            }
            world.seen.into_iter().for_each(|(what, count)| *seen.entry(what).or_insert(0) += count);
        }
    }
    // A generator that stopped making one of these would compare nothing there.
    println!("{seen:?}");
    let all = ["stored", "found", "published", "unprovable", "new", "resumed", "retention", "epoch", "ahead", "fork"];
    for what in all {
        assert!(seen.get(what).is_some_and(|&count| count >= 20), "{what} hardly ever happens: {seen:?}");
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Append(Batch),
    Attach(Vec<AttachRequest>),
    Read(ReadRequest),
    Verify(Vec<VerifyRequest>),
    Detach(Vec<DetachRequest>),
    History(HistoryRequest),
    Ack(Vec<(Text, DeviceId, Cursor)>),
}

struct World {
    history: u64,
    limits: Limits,
    records: HashMap<Text, Option<Record>>,
    embedded: Generation,
    clock: std::sync::Arc<std::sync::atomic::AtomicU64>,
    /// Places that were seen, whatever became of them.
    cursors: Vec<Cursor>,
    now_us: u64,
    number: u64,
    epochs: u64,
    /// How often each kind of answer was compared.
    seen: std::collections::BTreeMap<&'static str, u32>,
}

impl World {
    async fn new(history: u64, kind: u64) -> Self {
        let limits = limits(kind);
        let (embedded, clock) = embedded(limits);
        let embedded = open(&embedded).await;
        let (records, cursors) = (HashMap::new(), Vec::new());
        Self {
            history,
            limits,
            records,
            embedded,
            clock,
            cursors,
            now_us: 1,
            number: history * 1_000,
            epochs: 0,
            seen: Default::default(),
        }
    }

    fn address(&self, rng: &mut StdRng) -> Text {
        Text::from(format!("user:{}-{}", self.history, rng.random_range(0..3)))
    }

    fn epoch(&mut self) -> protocol::Epoch {
        self.epochs += 1;
        epoch(&format!("{}/{}", self.history, self.epochs))
    }

    fn cursor(&self, rng: &mut StdRng) -> Cursor {
        let Some(mut cursor) = self.cursors.choose(rng).copied() else { return Cursor::default() };
        match rng.random_range(0..12) {
            0 => cursor.seq += rng.random_range(1..20),
            1 => cursor.stamp = Stamp(cursor.stamp.0 + 1),
            2 => cursor.seq = protocol::limits::NUMBER_MAX - 1,
            3 => cursor.seq = cursor.seq.saturating_sub(rng.random_range(1..20)),
            4 => cursor.epoch = epoch("nobody's"),
            _ => {}
        }
        cursor
    }

    fn batch(&mut self, rng: &mut StdRng) -> Batch {
        let mut builder = BatchBuilder::default();
        for _ in 0..rng.random_range(1..7) {
            let mut one = message(&format!("m{}", rng.random_range(0..30)));
            match rng.random_range(0..8) {
                0 => one.kind = Kind::Ephemeral,
                what @ 1..=3 => {
                    one.search_us = Some([70_000_000, 3_000, 0][rng.random_range(0..3)]);
                    one.kind = if what == 3 { Kind::Late } else { Kind::Durable };
                }
                _ => {}
            }
            let (of, epoch) = (self.address(rng), self.epoch());
            builder.push(&of, one, || epoch);
        }
        self.number += 1;
        builder.finish(topology("c").lane("x"), Some(BatchNumber(self.number)), u64::MAX >> 12)
    }

    fn operation(&mut self, rng: &mut StdRng) -> Operation {
        let count = rng.random_range(1..4);
        let device = |rng: &mut StdRng| ["phone", "tablet"].choose(rng).map(|d| DeviceId::parse(d).unwrap()).unwrap();
        match rng.random_range(0..100) {
            0..45 => Operation::Append(self.batch(rng)),
            45..60 => Operation::Attach((0..count).map(|_| self.attach(rng)).collect()),
            60..68 => {
                let after = (0..rng.random_range(1..4)).map(|_| self.cursor(rng)).collect();
                Operation::Read(ReadRequest { of: self.address(rng), after })
            }
            68..78 => {
                let one = |rng: &mut StdRng| {
                    let registration = registration("a", rng.random_range(1..4), rng.random_range(1..9), None);
                    VerifyRequest { of: self.address(rng), registration, cursor: self.cursor(rng) }
                };
                Operation::Verify((0..count).map(|_| one(rng)).collect())
            }
            78..85 => {
                let one = |rng: &mut StdRng| {
                    let (connection, reg) = (ConnectionId(rng.random_range(1..4)), rng.random_range(1..9));
                    DetachRequest { of: self.address(rng), connection, reg }
                };
                Operation::Detach((0..count).map(|_| one(rng)).collect())
            }
            85..92 => {
                let before = rng.random_bool(0.6).then(|| self.cursor(rng));
                Operation::History(HistoryRequest { of: self.address(rng), before, limit: rng.random_range(1..12) })
            }
            _ => Operation::Ack((0..count).map(|_| (self.address(rng), device(rng), self.cursor(rng))).collect()),
        }
    }

    fn attach(&mut self, rng: &mut StdRng) -> AttachRequest {
        let name = if rng.random_bool(0.7) { "a" } else { "b" };
        let device = [None, Some("phone"), Some("tablet")][rng.random_range(0..3)];
        let registration = registration(name, rng.random_range(1..4), rng.random_range(1..9), device);
        let one = |rng: &mut StdRng| rng.random_bool(0.9).then(|| self.cursor(rng));
        let cursors = (0..rng.random_range(0..4)).map(|_| one(rng)).collect();
        let from = if rng.random_bool(0.5) { From::Oldest } else { From::Now };
        let request = record::AttachRequest { registration, cursors, from };
        AttachRequest { of: self.address(rng), epoch: self.epoch(), request }
    }

    /// Gives the others the clock that Redis had.
    fn set_clock(&mut self, now_us: u64) {
        self.now_us = now_us;
        self.clock.store(now_us, Ordering::Relaxed);
    }

    fn record(&mut self, of: &Text) -> &mut Option<Record> {
        self.records.entry(of.clone()).or_default()
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_insert(0) += 1;
    }

    fn alive(&mut self, of: &Text) -> Option<&mut Record> {
        self.record(of).as_mut()
    }

    async fn run(&mut self, redis: &mut Generation, operation: Operation, context: &str) {
        match operation {
            Operation::Append(batch) => self.append(redis, &batch, context).await,
            Operation::Attach(list) => self.attach_all(redis, &list, context).await,
            Operation::Read(request) => {
                let lua = redis.commands.read(&request).await.unwrap();
                let embedded = self.embedded.commands.read(&request).await.unwrap();
                let now_us = self.now_us;
                let pure = record::read(self.alive(&request.of).as_deref(), now_us, &request.after);
                assert_eq!(lua, pure, "{context}");
                assert_eq!(embedded, pure, "{context}");
            }
            Operation::Verify(list) => {
                let unwrap =
                    |answers: Vec<Result<Verified, _>>| answers.into_iter().map(Result::unwrap).collect::<Vec<_>>();
                let lua = unwrap(redis.commands.verify(&list).await.unwrap());
                let embedded = unwrap(self.embedded.commands.verify(&list).await.unwrap());
                let (now_us, limits) = (self.now_us, self.limits);
                let one =
                    |r: &VerifyRequest| record::verify(self.record(&r.of), now_us, &r.registration, r.cursor, &limits);
                let pure: Vec<Verified> = list.iter().map(one).collect();
                assert_eq!(lua, pure, "{context}");
                assert_eq!(embedded, pure, "{context}");
                assert!(pure.iter().all(|v| v.standing != Standing::Gone || v.registered.is_empty()));
            }
            Operation::Detach(list) => {
                redis.commands.detach(&list).await.unwrap();
                self.embedded.commands.detach(&list).await.unwrap();
                for request in &list {
                    if let Some(record) = self.alive(&request.of) {
                        record.detach(&node("a"), request.connection, request.reg);
                    }
                }
            }
            Operation::History(request) => {
                let lua = redis.commands.history(&request).await;
                let embedded = self.embedded.commands.history(&request).await;
                let pure = self.alive(&request.of).map(|r| r.history(request.before, request.limit));
                let pure = pure.unwrap_or_else(|| Ok(Default::default())).map_err(|_| HistoryError::Before);
                assert_eq!(lua, pure, "{context}");
                assert_eq!(embedded, pure, "{context}");
            }
            Operation::Ack(acks) => {
                redis.commands.ack(&acks).await.unwrap();
                self.embedded.commands.ack(&acks).await.unwrap();
                for (of, device, cursor) in &acks {
                    if let Some(record) = self.alive(of) {
                        record.ack(device, *cursor);
                    }
                }
            }
        }
    }

    async fn attach_all(&mut self, redis: &mut Generation, list: &[AttachRequest], context: &str) {
        let lua: Vec<_> = redis.commands.attach(list).await.unwrap().into_iter().map(Result::unwrap).collect();
        // A stream that begins says what the time was.
        if let Some((_, lua)) = list.iter().zip(&lua).find(|(request, _)| self.alive(&request.of).is_none()) {
            self.set_clock(lua.cursor.stamp.0);
        }
        let embedded = self.embedded.commands.attach(list).await.unwrap();
        for ((request, lua), embedded) in list.iter().zip(lua).zip(embedded) {
            let (now_us, limits) = (self.now_us, self.limits);
            let pure = record::attach(self.record(&request.of), request.epoch, now_us, &request.request, &limits);
            assert_eq!(lua, pure, "{context}");
            assert_eq!(embedded.unwrap(), pure, "{context}");
            self.count(match pure.start {
                Start::New => "new",
                Start::Resumed => "resumed",
                Start::Reset { reason, .. } => reason.as_str(),
            });
            self.cursors.push(pure.cursor);
            self.cursors.push(pure.page.end);
        }
    }

    async fn append(&mut self, redis: &mut Generation, batch: &Batch, context: &str) {
        let lua = answered(redis.commands.append(batch).await.unwrap());
        // The first message that was stored or published says what the time was.
        for (place, placed) in (0..).zip(lua.groups.iter().flat_map(|g| g.as_ref().unwrap())) {
            if let Place::Stored(cursor) = placed.place {
                self.set_clock(cursor.stamp.0 - place);
                break;
            }
        }
        let embedded = answered(self.embedded.commands.append(batch).await.unwrap());
        let (now_us, limits) = (self.now_us, self.limits);
        let (mut groups, mut items, mut place) = (Vec::new(), Vec::new(), 0);
        for group in &batch.groups {
            let record = self.record(&group.record);
            let appended = record::append(record, batch.epoch, now_us, place, &group.messages, &limits);
            place += group.messages.len() as u64;
            let nodes: Vec<NodeId> = record.iter().flat_map(Record::nodes).cloned().collect();
            items.extend(appended.live.iter().map(|row| (item(&group.record, row), nodes.clone())));
            groups.push(appended.placed);
        }
        // Where nothing was stored, nobody can read the clock off an answer: only the places are compared then.
        let is_timed = groups.iter().flatten().any(|p| matches!(p.place, Place::Stored(_)));
        let strip = |groups: &[Vec<delivery::Placed>]| -> Vec<Vec<(Place, bool)>> {
            groups.iter().map(|g| g.iter().map(|p| (p.place, p.online)).collect()).collect()
        };
        let unwrap = |answer: &BatchAnswer| answer.groups.iter().map(|g| g.clone().unwrap()).collect::<Vec<_>>();
        if is_timed {
            assert_eq!(unwrap(&lua), groups, "{context}");
            assert_eq!(unwrap(&embedded), groups, "{context}");
        } else {
            assert_eq!(strip(&unwrap(&lua)), strip(&groups), "{context}");
            assert_eq!(strip(&unwrap(&embedded)), strip(&groups), "{context}");
        }
        for placed in groups.iter().flatten() {
            self.count(match placed.place {
                Place::Stored(_) => "stored",
                Place::Found(_) => "found",
                Place::Published => "published",
                Place::Unprovable => "unprovable",
            });
            if let Place::Stored(cursor) = placed.place {
                self.cursors.push(cursor);
            }
        }
        let bundles =
            routing::fanout::bundles(items.iter().map(|(item, nodes)| (item.clone(), nodes.iter().collect())));
        let mut published: Vec<NodeId> = lua.receivers.iter().map(|(node, _)| node.clone()).collect();
        published.sort();
        assert_eq!(published, bundles.keys().cloned().collect::<Vec<_>>(), "{context}");
        if let Some(expected) = bundles.get(&node("a")) {
            let lua = next(redis).await;
            let embedded = next(&mut self.embedded).await;
            if is_timed {
                assert_eq!(&lua, expected, "{context}");
                // The embedded bus knows one node only.
                assert_eq!(embedded.items.len(), batch_items(&items), "{context}");
            } else {
                assert_eq!(lua.items.len(), expected.items.len(), "{context}");
            }
        } else if batch_items(&items) > 0 {
            next(&mut self.embedded).await;
        }
    }
}

/// Items that are published at all.
fn batch_items(items: &[(Item, Vec<NodeId>)]) -> usize {
    items.iter().filter(|(_, nodes)| !nodes.is_empty()).count()
}

fn item(record: &Text, row: &record::LiveRow) -> Item {
    let envelope = std::sync::Arc::new(Envelope::decode(&row.stored.envelope).unwrap());
    let live = match row.kind {
        Kind::Durable | Kind::Late => {
            Live::Entry(Entry { cursor: row.cursor, link: row.link, tag: row.stored.tag, envelope })
        }
        Kind::Ephemeral => Live::Ephemeral(Ephemeral { at: row.stored.stamp.at(), envelope }),
    };
    Item { record: record.clone(), version: 0, live }
}

fn answered(result: BatchResult) -> BatchAnswer {
    match result {
        BatchResult::Answered(answer) => answer,
        BatchResult::Stale => panic!("no batch of this suite is stale"),
    }
}

async fn next(generation: &mut Generation) -> Bundle {
    tokio::time::timeout(Duration::from_secs(5), generation.subscription.next()).await.expect("a bundle").unwrap()
}
