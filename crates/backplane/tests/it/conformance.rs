//! The pure rules, the embedded backplane and the Lua scripts answer every step of random histories alike, and tell nodes
//! the same.
//!
//! Method: a seeded generator makes histories of 50 operations on a few addresses, with cursors that hold, once held, or
//! never did. The scripts read their clock off a key that the suite turns, so that every stamp and number is compared.
//! `CONFORMANCE_SEED=n` replays one history.

mod operations;
mod pure;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backplane::{BackplaneError, BatchAnswer, BatchResult, ChangeResult, HistoryError, RedisBackplane};
use delivery::{Attached, Limits, Place, PresenceOf, Start};
use protocol::bundle::Item;
use protocol::{Bundle, Cursor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use testkit::redis::Redis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixtures::{Generation, embedded, open, redis_settings};
use operations::{Generator, Operation};
use pure::Pure;

const HISTORIES: u64 = 512;
const STEPS: usize = 50;
/// After every deadline of this suite.
const LATER: u64 = u64::MAX >> 12;

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

/// What the scripts take for the time. Keys expire by the real one, so that this begins there and hardly leaves it.
struct Clock {
    socket: TcpStream,
    now_us: u64,
}

impl Clock {
    const REAL: &str = "local time = call('TIME')\n  return time[1] * 1000000 + time[2]";
    const TURNED: &str = "return tonumber(call('GET', 'clock'))";

    fn edit(text: &str) -> String {
        assert_eq!(text.matches(Self::REAL).count(), 1, "the clock has moved");
        text.replace(Self::REAL, Self::TURNED)
    }

    async fn start(redis: &Redis) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
        let time: Vec<u64> = redis.cli(&["TIME"]).lines().map(|line| line.parse().unwrap()).collect();
        Self { socket, now_us: time[0] * 1_000_000 + time[1] }
    }

    async fn turn(&mut self, by_us: u64) -> u64 {
        self.now_us += by_us;
        self.socket.write_all(format!("SET clock {}\r\n", self.now_us).as_bytes()).await.unwrap();
        let mut said = [0; 5];
        self.socket.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"+OK\r\n");
        self.now_us
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
    let mut clock = Clock::start(&redis).await;
    let mut seen = BTreeMap::new();
    for kind in 0..4 {
        let settings = redis_settings(redis.url(), &format!("c{kind}"), limits(kind));
        let mut lua = open(&RedisBackplane::with_script_edit(settings, &Clock::edit).unwrap()).await;
        for history in (kind..HISTORIES).step_by(4) {
            let mut rng = StdRng::seed_from_u64(seed.wrapping_add(history));
            let (embedded, embedded_clock) = embedded(limits(kind));
            let (embedded, pure) = (open(&embedded).await, Pure::new(limits(kind)));
            let mut world = World { embedded, embedded_clock, pure, seen: &mut seen, context: String::new() };
            let mut generator = Generator::new(history);
            for step in 0..STEPS {
                let now_us = clock.turn(rng.random_range(20..2_000)).await;
                world.pure.now_us = now_us;
                world.embedded_clock.store(now_us, Ordering::Relaxed);
                let operation = generator.operation(&mut rng);
                world.context = format!("CONFORMANCE_SEED={seed} history {history} step {step}: {operation:?}");
                generator.cursors.extend(world.run(&mut lua, operation).await);
            }
        }
    }
    // A generator that stopped making one of these would compare nothing there.
    println!("{seen:?}");
    let all = [
        "stored",
        "found",
        "published",
        "unprovable",
        "new",
        "resumed",
        "retention",
        "epoch",
        "ahead",
        "fork",
        "joined",
        "floor",
        "of user",
        "handed over",
        "online",
        "offline",
        "told",
        "audience",
        "all acked",
        "group entry",
    ];
    for what in all {
        assert!(seen.get(what).is_some_and(|&count| count >= 20), "{what} hardly ever happens: {seen:?}");
    }
}

struct World<'s> {
    embedded: Generation,
    embedded_clock: Arc<AtomicU64>,
    pure: Pure,
    /// How often each kind of answer was compared.
    seen: &'s mut BTreeMap<&'static str, u32>,
    context: String,
}

/// Answers have no order in some places.
fn sorted_user(mut attached: Attached) -> Attached {
    attached.user.iter_mut().for_each(|user| user.groups.sort());
    attached
}

/// `None`: there is no record, and none was begun.
fn attached(answer: Result<Attached, BackplaneError>) -> Option<Attached> {
    match answer {
        Ok(attached) => Some(attached),
        Err(BackplaneError::NotRun(why)) if why.starts_with("no record") => None,
        Err(error) => panic!("{error}"),
    }
}

fn sorted_devices(mut presence: PresenceOf) -> PresenceOf {
    presence.devices.sort_by(|one, other| one.0.as_str().cmp(&other.0));
    presence
}

impl World<'_> {
    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_insert(0) += 1;
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, lua: &T, embedded: &T, pure: &T) {
        assert_eq!(lua, pure, "Lua: {}", self.context);
        assert_eq!(embedded, pure, "embedded: {}", self.context);
    }

    /// Runs one operation on all three; the places that were seen.
    async fn run(&mut self, redis: &mut Generation, operation: Operation) -> Vec<Cursor> {
        let (commands, embedded) = (redis.commands.clone(), self.embedded.commands.clone());
        let (mut items, mut cursors) = (Vec::new(), Vec::new());
        match operation {
            Operation::Append(batch) => {
                let lua = answered(commands.append(&batch).await.unwrap());
                let own = answered(embedded.append(&batch).await.unwrap());
                let (groups, published, receivers) = self.pure.append(&batch);
                items = published;
                let of = |answer: &BatchAnswer| answer.groups.iter().map(|g| g.clone().unwrap()).collect::<Vec<_>>();
                self.same(&of(&lua), &of(&own), &groups);
                let mut told: Vec<_> = lua.receivers.into_iter().map(|(node, _)| node).collect();
                told.sort();
                assert_eq!(told, receivers, "{}", self.context);
                for placed in groups.iter().flatten() {
                    self.count(match placed.place {
                        Place::Stored(_) => "stored",
                        Place::Found(_) => "found",
                        Place::Published => "published",
                        Place::Unprovable => "unprovable",
                    });
                    cursors.extend(placed.place.cursor());
                }
            }
            Operation::Attach(list) => {
                let unwrap = |answers: Vec<Result<Attached, BackplaneError>>| -> Vec<Option<Attached>> {
                    answers.into_iter().map(|one| attached(one).map(sorted_user)).collect()
                };
                let lua = unwrap(commands.attach(&list).await.unwrap());
                let own = unwrap(embedded.attach(&list).await.unwrap());
                let pure: Vec<_> = list.iter().map(|one| self.pure.attach(one, &mut items).map(sorted_user)).collect();
                self.same(&lua, &own, &pure);
                for (request, attached) in list.iter().zip(pure).filter_map(|(r, a)| Some((r, a?))) {
                    self.count_attached(&attached, request.request.member.is_some());
                    cursors.extend([attached.cursor, attached.page.end]);
                }
            }
            Operation::Read(request) => {
                let lua = commands.read(&request).await.unwrap();
                let own = embedded.read(&request).await.unwrap();
                let pure = self.pure.read(&request);
                self.same(&lua, &own, &pure);
            }
            Operation::Verify(list) => {
                let lua: Vec<_> = commands.verify(&list).await.unwrap().into_iter().map(Result::unwrap).collect();
                let own: Vec<_> = embedded.verify(&list).await.unwrap().into_iter().map(Result::unwrap).collect();
                let pure: Vec<_> = list.iter().map(|one| self.pure.verify(one, &mut items)).collect();
                self.same(&lua, &own, &pure);
            }
            Operation::Detach(list) => {
                commands.detach(&list).await.unwrap();
                embedded.detach(&list).await.unwrap();
                list.iter().for_each(|one| self.pure.detach(one, &mut items));
            }
            Operation::History(request) => {
                let lua = commands.history(&request).await;
                let own = embedded.history(&request).await;
                let pure = self.pure.history(&request).map_err(|_| HistoryError::Before);
                self.same(&lua, &own, &pure);
            }
            Operation::Ack(acks) => {
                commands.ack(&acks).await.unwrap();
                embedded.ack(&acks).await.unwrap();
                acks.iter().for_each(|one| self.pure.ack(one));
            }
            Operation::Change(list) => {
                let unwrap = |answer: ChangeResult| match answer {
                    ChangeResult::Answered(answers) => answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
                    ChangeResult::Stale => panic!("no change of this suite is stale"),
                };
                let lua = unwrap(commands.change(LATER, &list).await.unwrap());
                let own = unwrap(embedded.change(LATER, &list).await.unwrap());
                let pure = self.pure.change(&list, &mut items);
                self.same(&lua, &own, &pure);
            }
            Operation::Regroup(list) => {
                let unwrap = |answers: Vec<Result<bool, BackplaneError>>| -> Vec<bool> {
                    answers.into_iter().map(Result::unwrap).collect()
                };
                let lua = unwrap(commands.regroup(LATER, &list).await.unwrap());
                let own = unwrap(embedded.regroup(LATER, &list).await.unwrap());
                let pure = self.pure.regroup(&list, &mut items);
                self.same(&lua, &own, &pure);
            }
            Operation::Presence(users, watch_ms) => {
                let unwrap = |answers: Vec<Result<PresenceOf, BackplaneError>>| -> Vec<PresenceOf> {
                    answers.into_iter().map(|one| sorted_devices(one.unwrap())).collect()
                };
                let lua = unwrap(commands.presence(&users, watch_ms).await.unwrap());
                let own = unwrap(embedded.presence(&users, watch_ms).await.unwrap());
                let mut pure = Vec::new();
                for user in &users {
                    pure.push(sorted_devices(self.pure.presence(user, watch_ms, &mut items)));
                }
                self.same(&lua, &own, &pure);
                for one in pure.iter().filter(|one| one.version > 0) {
                    self.count(if one.is_online { "online" } else { "offline" });
                }
            }
            Operation::Unwatch(users) => {
                commands.unwatch(&users).await.unwrap();
                embedded.unwatch(&users).await.unwrap();
                users.iter().for_each(|one| self.pure.unwatch(one));
            }
            Operation::Audience(of) => {
                let lua = commands.audience(&of).await.unwrap();
                let own = embedded.audience(&of).await.unwrap();
                let pure = self.pure.audience(&of);
                self.same(&lua, &own, &pure);
                if pure > 0 {
                    self.count("audience");
                }
            }
            Operation::Notify(list) => {
                commands.notify(&list).await.unwrap();
                embedded.notify(&list).await.unwrap();
                self.pure.notify(&list, &mut items);
            }
        }
        self.compare_told(redis, items).await;
        cursors
    }

    fn count_attached(&mut self, attached: &Attached, is_member: bool) {
        self.count(match attached.start {
            Start::New => "new",
            Start::Resumed => "resumed",
            Start::Reset { reason, .. } => reason.as_str(),
        });
        if attached.joined.is_some() {
            self.count("joined");
        }
        if is_member && attached.start == Start::New && attached.cursor.seq > 0 && !attached.page.entries.is_empty() {
            self.count("floor");
        }
        if let Some(user) = &attached.user {
            self.count("of user");
            if user.all.is_some() {
                self.count("all acked");
            }
        }
        if attached.registered.iter().any(|one| one.hand_over.is_some()) {
            self.count("handed over");
        }
        if attached.page.entries.iter().any(|entry| entry.mseq.is_some()) {
            self.count("group entry");
        }
    }

    /// What this node hears of one call is one bundle, and the same one.
    async fn compare_told(&mut self, redis: &mut Generation, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        if items.iter().any(|item| item.live.envelope().is_none()) {
            self.count("told");
        }
        let pure = Bundle { items };
        let (lua, own) = (next(redis).await, next(&mut self.embedded).await);
        self.same(&lua, &own, &pure);
    }
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
