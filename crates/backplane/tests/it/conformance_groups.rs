//! The pure rules of groups and marks, the embedded backplane and the Lua scripts answer every step of random histories
//! alike.
//!
//! Method: as in `conformance.rs`. Half of the histories have bounds so small that they are reached; there the scripts are
//! told so, and the embedded backplane, whose bounds are the real ones, is left out. `CONFORMANCE_SEED=n` replays.

mod streams;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backplane::{ChangeRequest, ChangeResult, Changed, Op, RedisBackplane, RegroupRequest};
use delivery::Limits;
use delivery::marks::COUNT_BYTES_MAX;
use delivery::members::{self, Bounds, Members, Regrouped};
use delivery::record::Record;
use protocol::bundle::Item;
use protocol::limits::COUNT_ENTRIES_MAX;
use protocol::{Bundle, Cursor, Epoch, GroupId, Live, Notice, Stamp, Text, UserId};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use testkit::redis::Redis;

use crate::fixtures::{Generation, embedded, epoch, node, open, redis_settings};

const HISTORIES: u64 = 256;
const STEPS: usize = 80;
const LATER: u64 = u64::MAX >> 12;

const LIMITS: Limits = Limits { retention_ms: 600_000, inbox_max: 5, inbox_bytes: 1 << 20, retry_young_us: 6_000_000 };
const SMALL: Bounds = Bounds { members: 3, changes: 5, groups: 1 };
/// Entries and bytes of one part of a count.
const SMALL_COUNT: (u64, u64) = (3, 400);

/// What the scripts are told beside [`SMALL`]: each place is in one of them.
const SMALL_EDITS: [(&str, &str); 4] = [
    ("-(log.read + 64)", "-(log.read + 2)"),
    ("members_max, changes_max = tonumber(ARGV[3]), tonumber(ARGV[4])", "members_max, changes_max = 3, 5"),
    ("groups_max = tonumber(ARGV[2])", "groups_max = 1"),
    (
        "after, entries_max, bytes_max, field, reader = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])",
        "after, entries_max, bytes_max, field, reader = ARGV[1], 3, 400",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_and_marks_are_answered_alike_by_record_embedded_and_lua() {
    let redis = Redis::start().unwrap();
    let seed: u64 = match std::env::var("CONFORMANCE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::rng().random::<u32>().into(),
    };
    println!("CONFORMANCE_SEED={seed}: {HISTORIES} histories of {STEPS} operations");
    let mut seen = BTreeMap::new();
    for is_small in [false, true] {
        let edited = AtomicU64::new(0);
        let edit = |text: &str| {
            SMALL_EDITS.iter().filter(|_| is_small).fold(text.to_owned(), |text, (from, to)| {
                edited.fetch_add(text.matches(from).count() as u64, Ordering::Relaxed);
                text.replace(from, to)
            })
        };
        let settings = redis_settings(redis.url(), if is_small { "small" } else { "real" }, LIMITS);
        let mut redis = open(&RedisBackplane::with_script_edit(settings, &edit).unwrap()).await;
        assert_eq!(edited.into_inner(), if is_small { 4 } else { 0 }, "the bounds have moved");
        for history in 0..HISTORIES / 2 {
            let mut rng = StdRng::seed_from_u64(seed.wrapping_add(2 * history + u64::from(is_small)));
            let mut world = World::new(history, is_small).await;
            for step in 0..STEPS {
                let context = format!("CONFORMANCE_SEED={seed} small {is_small} history {history} step {step}");
                world.step(&mut redis, &mut rng, &context).await;
            }
            world.seen.into_iter().for_each(|(what, count)| *seen.entry(what).or_insert(0) += count);
        }
    }
    // A generator that stopped making one of these would compare nothing there.
    println!("{seen:?}");
    for what in [
        "done",
        "already",
        "not member",
        "full",
        "in force",
        "done again",
        "known",
        "unknown",
        "regrouped",
        "set full",
        "moved",
        "behind",
        "no place",
        "more to count",
        "unread",
        "from",
        "expired",
        "nobody",
    ] {
        assert!(seen.get(what).is_some_and(|&count| count >= 20), "{what} hardly ever happens: {seen:?}");
    }
}

struct World {
    history: u64,
    bounds: Bounds,
    count: (u64, u64),
    records: HashMap<Text, Option<Record>>,
    members: HashMap<Text, Members>,
    sets: HashMap<UserId, BTreeSet<GroupId>>,
    /// With small bounds: nothing.
    embedded: Option<Generation>,
    clock: Arc<AtomicU64>,
    now_us: u64,
    /// Places and numbers that were seen, whatever became of them.
    cursors: Vec<(Text, Cursor)>,
    numbers: Vec<u64>,
    epochs: u64,
    seen: BTreeMap<&'static str, u32>,
}

impl World {
    async fn new(history: u64, is_small: bool) -> Self {
        let (backplane, clock) = embedded(LIMITS);
        let embedded = if is_small { None } else { Some(open(&backplane).await) };
        Self {
            history,
            bounds: if is_small { SMALL } else { Bounds::default() },
            count: if is_small { SMALL_COUNT } else { (COUNT_ENTRIES_MAX, COUNT_BYTES_MAX) },
            records: HashMap::new(),
            members: HashMap::new(),
            sets: HashMap::new(),
            embedded,
            clock,
            now_us: 1,
            cursors: Vec::new(),
            numbers: vec![0],
            epochs: 0,
            seen: BTreeMap::new(),
        }
    }

    fn group(&self, rng: &mut StdRng) -> Text {
        format!("group:{}-{}", self.history, rng.random_range(0..2)).into()
    }

    fn user(&self, rng: &mut StdRng) -> UserId {
        UserId::parse(&format!("{}-{}", self.history, rng.random_range(0..5))).unwrap()
    }

    fn address(&self, rng: &mut StdRng) -> Text {
        let user = format!("user:{}-{}", self.history, rng.random_range(0..2));
        if rng.random_bool(0.6) { self.group(rng) } else { user.into() }
    }

    fn epoch(&mut self) -> Epoch {
        self.epochs += 1;
        epoch(&format!("{}/{}", self.history, self.epochs))
    }

    /// Nearly always of this address.
    fn cursor(&self, of: &Text, rng: &mut StdRng) -> Cursor {
        let is_any = rng.random_bool(0.1);
        let some: Vec<Cursor> =
            self.cursors.iter().filter(|(there, _)| is_any || there == of).map(|(_, cursor)| *cursor).collect();
        let Some(mut cursor) = some.choose(rng).copied() else { return Cursor::default() };
        match rng.random_range(0..16) {
            0 => cursor.seq += rng.random_range(1..20),
            1 => cursor.stamp = Stamp(cursor.stamp.0 + 1),
            2 => cursor.seq = cursor.seq.saturating_sub(rng.random_range(1..20)),
            3 => cursor.epoch = epoch("nobody's"),
            _ => {}
        }
        cursor
    }

    fn number(&self, rng: &mut StdRng) -> u64 {
        // The newest are asked for more often than they are many.
        let newest = &self.numbers[self.numbers.len().saturating_sub(8)..];
        let number = *if rng.random_bool(0.7) { newest } else { &self.numbers[..] }.choose(rng).unwrap();
        if rng.random_bool(0.2) { number + 1 } else { number }
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_insert(0) += 1;
    }

    fn set_clock(&mut self, now_us: u64) {
        self.now_us = now_us;
        self.clock.store(now_us, Ordering::Relaxed);
    }

    fn record(&self, of: &Text) -> Option<&Record> {
        self.records.get(of).and_then(Option::as_ref)
    }

    fn is_here(&self, of: &Text) -> bool {
        self.record(of).is_some_and(|record| record.nodes().contains(&&node("a")))
    }

    async fn step(&mut self, redis: &mut Generation, rng: &mut StdRng, context: &str) {
        match rng.random_range(0..100) {
            0..28 => self.change(redis, rng, context).await,
            28..38 => self.regroup(redis, rng, context).await,
            38..50 => self.append(redis, rng).await,
            50..56 => self.attach(redis, rng).await,
            56..68 => self.look(redis, rng, context).await,
            68..80 => self.mark(redis, rng, context).await,
            80..90 => self.count(redis, rng, context).await,
            _ => self.sender(redis, rng, context).await,
        }
    }

    async fn change(&mut self, redis: &mut Generation, rng: &mut StdRng, context: &str) {
        let mut list = Vec::new();
        for _ in 0..rng.random_range(1..5) {
            let op = *[Op::Join, Op::Join, Op::Join, Op::Leave, Op::Remove].choose(rng).unwrap();
            let again = rng.random_bool(0.3).then(|| self.number(rng));
            list.push(ChangeRequest { of: self.group(rng), epoch: self.epoch(), user: self.user(rng), op, again });
        }
        let context = format!("{context}: {list:?}");
        let answers = |result: ChangeResult| match result {
            ChangeResult::Answered(answers) => answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
            ChangeResult::Stale => panic!("stale: {context}"),
        };
        let lua = answers(redis.commands.change(LATER, &list).await.unwrap());
        // The first change says what the time was; in a record that began with it, the number before.
        let first = list.iter().zip(&lua).find_map(|(request, changed)| match changed {
            Changed::Done { mseq, before, .. } => Some((request, *mseq, *before)),
            _ => None,
        });
        if let Some((request, mseq, before)) = first {
            self.set_clock(if self.record(&request.of).is_none() { before } else { mseq });
        }
        let (now_us, bounds) = (self.now_us, self.bounds);
        let mut pure = Vec::new();
        for request in &list {
            let record = self.records.entry(request.of.clone()).or_default();
            let members = self.members.entry(request.of.clone()).or_default();
            pure.push(members::change(record, members, now_us, request, &bounds, &LIMITS));
        }
        assert_eq!(lua, pure, "{context}");
        for (request, changed) in list.iter().zip(&pure) {
            if let Changed::Done { mseq, .. } = changed {
                self.numbers.push(*mseq);
            }
            self.saw(match changed {
                Changed::Done { .. } if request.again.is_some() => "done again",
                Changed::Done { .. } => "done",
                Changed::Already { .. } => "already",
                Changed::NotMember => "not member",
                Changed::Full => "full",
                Changed::InForce => "in force",
            });
        }
        if let Some(embedded) = &self.embedded {
            assert_eq!(answers(embedded.commands.change(LATER, &list).await.unwrap()), pure, "{context}");
        }
        let told = members::told(list.iter().zip(pure)).into_iter().filter(|told| self.is_here(&told.of));
        let item =
            |told: members::Told| Item { record: told.of, version: told.version, live: Live::Notice(told.notice) };
        let items = told.map(item).collect();
        self.hear(redis, items, &context).await;
    }

    async fn regroup(&mut self, redis: &mut Generation, rng: &mut StdRng, context: &str) {
        let (list, user) = (rng.random_range(1..4), self.user(rng));
        let one = |rng: &mut StdRng| RegroupRequest {
            user: user.clone(),
            group: GroupId::parse(&format!("g{}", rng.random_range(0..3))).unwrap(),
            is_in: rng.random_bool(0.6),
        };
        let list: Vec<RegroupRequest> = (0..list).map(|_| one(rng)).collect();
        let context = format!("{context}: {list:?}");
        let unwrap = |answers: Vec<Result<bool, _>>| answers.into_iter().map(Result::unwrap).collect::<Vec<bool>>();
        let lua = unwrap(redis.commands.regroup(LATER, &list).await.unwrap());
        let told = redis.commands.groups_of(&user).await.unwrap();
        let of = Text::from(format!("user:{user}"));
        // The set's version says what the time was, less one for every change behind the first.
        let before = self.sets.get(&user).cloned().unwrap_or_default();
        let mut set = before.clone();
        let mut changes = 0;
        for RegroupRequest { group, is_in, .. } in &list {
            let room = !is_in || (set.len() as u64) < self.bounds.groups;
            let is_changed = set.contains(group) != *is_in && room;
            changes += u64::from(is_changed);
            if is_changed && !set.insert(group.clone()) {
                set.remove(group);
            }
        }
        if changes > 0 && self.record(&of).is_some() {
            self.set_clock(told.0 - (changes - 1));
        }
        let (now_us, bounds) = (self.now_us, self.bounds);
        let set = self.sets.entry(user.clone()).or_default();
        let (mut pure, mut items) = (Vec::new(), Vec::new());
        for RegroupRequest { group, is_in, .. } in &list {
            let record = self.records.get_mut(&of).and_then(Option::as_mut);
            let regrouped = members::regroup(record, set, now_us, group, *is_in, &bounds);
            pure.push(regrouped != Regrouped::Full);
            if let Regrouped::Changed(Some(version)) = regrouped {
                items = vec![Item { record: of.clone(), version, live: Live::Notice(Notice::Groups) }];
            }
        }
        assert_eq!(lua, pure, "{context}");
        let version = self.record(&of).map_or(0, |record| record.version);
        let expected = (version, self.sets[&user].clone());
        assert_eq!((told.0, told.1.into_iter().collect()), expected, "{context}");
        if let Some(embedded) = &self.embedded {
            assert_eq!(unwrap(embedded.commands.regroup(LATER, &list).await.unwrap()), pure, "{context}");
            let told = embedded.commands.groups_of(&user).await.unwrap();
            assert_eq!((told.0, told.1.into_iter().collect()), expected, "{context}");
        }
        self.saw(if pure.contains(&false) { "set full" } else { "regrouped" });
        items.retain(|item| self.is_here(&item.record));
        self.hear(redis, items, &context).await;
    }

    /// Both buses bring exactly this.
    async fn hear(&mut self, redis: &mut Generation, items: Vec<Item>, context: &str) {
        if items.is_empty() {
            return;
        }
        let expected = Bundle { items };
        assert_eq!(next(redis).await, expected, "{context}");
        if let Some(embedded) = &mut self.embedded {
            assert_eq!(next(embedded).await, expected, "{context}");
        }
    }

    async fn look(&mut self, redis: &mut Generation, rng: &mut StdRng, context: &str) {
        let (of, after) = (self.group(rng), self.number(rng));
        let after = match self.record(&of) {
            Some(record) if rng.random_bool(0.2) => record.version,
            _ => after,
        };
        let users: Vec<UserId> = (0..rng.random_range(0..6)).map(|_| self.user(rng)).collect();
        let context = format!("{context}: {of:?} after {after}");
        let members = self.members.get(&of).cloned().unwrap_or_default();
        let (changes, memberships) =
            (members.changes(self.record(&of), after), members.memberships(self.record(&of), &users));
        self.saw(if changes.list.is_some() { "known" } else { "unknown" });
        let names: BTreeSet<String> = members.joined.keys().map(ToString::to_string).collect();
        for generation in [Some(&*redis), self.embedded.as_ref()].into_iter().flatten() {
            let commands = &generation.commands;
            assert_eq!(commands.changes(&of, after).await.unwrap(), changes, "{context}");
            assert_eq!(commands.memberships(&of, &users).await.unwrap(), memberships, "{context}");
            let (mut seen, mut from) = (BTreeSet::new(), 0);
            loop {
                let page = commands.members(&of, from, 2).await.unwrap();
                assert_eq!(page.members, members.count(), "{context}");
                seen.extend(page.users.iter().map(ToString::to_string));
                from = page.next;
                if from == 0 {
                    break;
                }
            }
            assert_eq!(seen, names, "{context}");
        }
    }
}

async fn next(generation: &mut Generation) -> Bundle {
    tokio::time::timeout(Duration::from_secs(5), generation.subscription.next()).await.expect("a bundle").unwrap()
}
