//! A real Redis Cluster: one generation a master, each with its own slots. What moving slots do is in `moving.rs` and
//! `wandering.rs`, to users and members in `people.rs`, what failovers do in `failover.rs`, what URLs may say in `urls.rs`.

mod changing;
mod failover;
mod moving;
mod people;
mod urls;
mod wandering;

use std::time::Duration;

use backplane::{
    AttachRequest, Backplane, BackplaneError, Batch, BatchAnswer, BatchBuilder, BatchResult, DetachRequest,
    HistoryRequest, Loss, ReadRequest, RedisBackplane, RedisSettings, SharedNode, Source, VerifyRequest,
};
use delivery::{BatchNumber, NewMessage, Standing, Start, record};
use protocol::client::From;
use protocol::{Bundle, ConnectionId, Cursor, Page, Text};
use routing::{Layout, Settings, SlotGroup, Topology};
use testkit::Cluster;
use tokio::time::{Instant, timeout};

use crate::fixtures::{Generation, LIMITS, acked, epoch, message, node, redis_settings, registered, registration};

const LATER: u64 = u64::MAX >> 12;

pub(crate) fn topology() -> Topology {
    Topology::new(Settings { layout: Layout::Cluster, ..Settings::default() }).unwrap()
}

/// A user whose inbox is in this slot group.
fn user_in(group: u16) -> String {
    let topology = topology();
    (0..).map(|n| format!("user:u{n}")).find(|of| topology.group(of) == SlotGroup(group)).unwrap()
}

fn slot_of(of: &str) -> u16 {
    let topology = topology();
    topology.slot(topology.group(of))
}

fn settings_of(url: String, name: &str) -> RedisSettings {
    let process = u64::from(name.as_bytes()[0]);
    let node = SharedNode::new(node(name));
    RedisSettings { topology: topology(), node, process, ..redis_settings(url, "sb", LIMITS) }
}

async fn start() -> Cluster {
    tokio::task::spawn_blocking(Cluster::start).await.unwrap().unwrap()
}

/// One node of a fleet, with a generation a master.
struct Member {
    name: String,
    backplane: RedisBackplane,
    generations: Vec<(Source, Generation)>,
}

impl Member {
    async fn start(url: String, name: &str) -> Self {
        let backplane = RedisBackplane::new(settings_of(url, name)).unwrap();
        let mut this = Self { name: name.to_owned(), backplane, generations: Vec::new() };
        this.open_all(Duration::from_secs(10)).await;
        this
    }

    /// Opens every source anew, until all groups are reached.
    async fn open_all(&mut self, within: Duration) {
        let end = Instant::now() + within;
        loop {
            self.generations.clear();
            let sources = self.backplane.sources().borrow().clone();
            for source in sources {
                if let Ok((commands, subscription)) = self.backplane.open(&source).await {
                    self.generations.push((source, Generation { commands, subscription }));
                }
            }
            let reached: usize = self.generations.iter().map(|(_, g)| g.commands.groups().len()).sum();
            if reached == topology().groups().count() {
                return;
            }
            assert!(Instant::now() < end, "{} reaches {reached} groups only", self.name);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn of(&self, record: &str) -> &Generation {
        let group = topology().group(record);
        &self.generations.iter().find(|(_, g)| g.commands.groups().contains(&group)).unwrap().1
    }

    fn of_mut(&mut self, record: &str) -> &mut Generation {
        let group = topology().group(record);
        &mut self.generations.iter_mut().find(|(_, g)| g.commands.groups().contains(&group)).unwrap().1
    }

    fn take(&mut self, record: &str) -> Generation {
        let group = topology().group(record);
        let place = self.generations.iter().position(|(_, g)| g.commands.groups().contains(&group)).unwrap();
        self.generations.remove(place).1
    }

    fn attach_of(&self, of: &str, connection: u64, device: Option<&str>, cursors: &[Cursor]) -> AttachRequest {
        let cursors = cursors.iter().copied().map(Some).collect();
        let registration = registration(&self.name, connection, 1, device);
        let request = record::AttachRequest::of(registration, cursors, From::Oldest);
        AttachRequest { of: of.into(), epoch: epoch(&format!("{} attaches {of} {connection}", self.name)), request }
    }

    fn verify_of(&self, of: &str, connection: u64, cursor: Cursor) -> VerifyRequest {
        VerifyRequest { of: of.into(), registration: registration(&self.name, connection, 1, None), cursor }
    }

    fn batch(&self, of: &str, number: Option<u64>, messages: &[NewMessage]) -> Batch {
        let mut builder = BatchBuilder::default();
        for message in messages {
            builder.push(&Text::from(of), message.clone(), || epoch(&format!("{} appends to {of}", self.name)));
        }
        builder.finish(topology().lane(of), number.map(BatchNumber), LATER)
    }

    async fn append(&self, of: &str, messages: &[NewMessage]) -> Result<BatchResult, BackplaneError> {
        self.of(of).commands.append(&self.batch(of, None, messages)).await
    }

    /// Appends where nothing is in the way.
    async fn store(&self, of: &str, ids: &[&str]) -> Vec<Cursor> {
        let messages: Vec<_> = ids.iter().map(|id| message(id)).collect();
        let answer = answer(self.append(of, &messages).await.unwrap());
        answer.groups[0].as_ref().unwrap().iter().map(|placed| placed.place.cursor().unwrap()).collect()
    }
}

fn answer(result: BatchResult) -> BatchAnswer {
    match result {
        BatchResult::Answered(answer) => answer,
        BatchResult::Stale => panic!("stale"),
    }
}

fn ids(page: &Page) -> Vec<String> {
    page.entries.iter().map(|entry| entry.envelope.id.as_str().to_owned()).collect()
}

fn history_of(of: &str) -> HistoryRequest {
    HistoryRequest { of: of.into(), before: None, limit: 200 }
}

/// Waits for the end of a generation; bundles that come before are dropped.
async fn end_of(generation: &mut Generation, within: Duration) -> Loss {
    let end = async {
        loop {
            if let Err(loss) = generation.subscription.next().await {
                return loss;
            }
        }
    };
    timeout(within, end).await.expect("the generation ends")
}

/// Reads a whole inbox through attach pages, and checks that each entry follows from the one before.
async fn read_chain(member: &Member, of: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut cursor: Option<Cursor> = None;
    loop {
        let attach = member.attach_of(of, 999, None, cursor.as_slice());
        let attached = member.of(of).commands.attach(&[attach]).await.unwrap().remove(0).unwrap();
        assert!(matches!(attached.start, Start::New | Start::Resumed), "{of}: {attached:?}");
        let mut before = attached.cursor;
        for entry in &attached.page.entries {
            assert_eq!(entry.cursor.epoch, before.epoch, "{of}");
            assert_eq!(entry.cursor.seq, before.seq + 1, "{of}: numbers are dense");
            assert_eq!(entry.link, before.stamp, "{of}: {:?} links to the one before", entry.envelope.id);
            // The stub that an epoch begins with has the time of its first entry.
            let rises = entry.cursor.stamp > before.stamp || before.seq == 0 && entry.cursor.stamp == before.stamp;
            assert!(rises, "{of}: stamps rise");
            before = entry.cursor;
        }
        all.extend(ids(&attached.page));
        cursor = Some(attached.page.end);
        if !attached.page.more {
            assert_eq!(attached.head, before.seq, "{of}: that is the end");
            return all;
        }
    }
}

/// The goal: three masters, three generations, and together they reach all; each call is answered where its slot is.
async fn three_masters_are_three_sources_and_their_groups_are_all(cluster: &Cluster, a: &mut Member) {
    let sources: Vec<String> = a.backplane.sources().borrow().iter().map(|source| source.0.clone()).collect();
    let mut masters: Vec<String> = cluster.servers[..3].iter().map(|s| s.address().to_string()).collect();
    masters.sort();
    assert_eq!(sources, masters);
    let mut groups: Vec<SlotGroup> = a.generations.iter().flat_map(|(_, g)| g.commands.groups().to_vec()).collect();
    groups.sort();
    assert_eq!(groups, topology().groups().collect::<Vec<_>>());
    let counts: Vec<usize> = a.generations.iter().map(|(_, g)| g.commands.groups().len()).collect();
    assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 2, "{counts:?}");
    assert_eq!(a.generations.iter().filter(|(_, g)| g.commands.is_home()).count(), 1);
    let lineages: std::collections::BTreeSet<_> = a.generations.iter().map(|(_, g)| g.commands.lineage()).collect();
    assert_eq!(lineages.len(), 3, "each master has a history of its own");
}

async fn everything_is_answered_by_the_master_that_has_it(a: &mut Member) {
    for master in 0..3 {
        let group = a.generations[master].1.commands.groups()[3];
        let of = user_in(group.0);
        let stored = a.store(&of, &["m1", "m2", "m3"]).await;
        let commands = a.of(&of).commands.clone();
        let attached = commands.attach(&[a.attach_of(&of, 1, Some("phone"), &[])]).await.unwrap().remove(0).unwrap();
        assert_eq!(ids(&attached.page), ["m1", "m2", "m3"]);
        // What is published comes back on that master's subscription.
        a.store(&of, &["m4"]).await;
        let generation = &mut a.generations[master].1;
        let bundle = timeout(Duration::from_secs(2), generation.subscription.next()).await.unwrap().unwrap();
        assert_eq!(&*bundle.items[0].record, of);
        let verified = commands.verify(&[a.verify_of(&of, 1, stored[2])]).await.unwrap().remove(0).unwrap();
        assert_eq!((verified.standing, verified.registered.len()), (Standing::Behind, 1));
        let read = ReadRequest { of: of.as_str().into(), after: vec![stored[1]] };
        assert_eq!(ids(&commands.read(&read).await.unwrap().unwrap().page), ["m3", "m4"]);
        assert_eq!(ids(&commands.history(&history_of(&of)).await.unwrap().0), ["m1", "m2", "m3", "m4"]);
        commands.ack(&[acked(&of, "phone", stored[0])]).await.unwrap();
        let attached = commands.attach(&[a.attach_of(&of, 1, Some("phone"), &[])]).await.unwrap().remove(0).unwrap();
        assert_eq!((attached.start, ids(&attached.page).len()), (Start::Resumed, 3), "behind what it acknowledged");
        let detach = DetachRequest { of: of.as_str().into(), connection: ConnectionId(1), reg: 1 };
        commands.detach(&[detach]).await.unwrap();
        let verified = commands.verify(&[a.verify_of(&of, 2, stored[2])]).await.unwrap().remove(0).unwrap();
        assert_eq!(verified.registered, [registered(2, 1)], "the first one is gone");
        assert!(commands.reap(&node(&a.name)).await.unwrap() >= 1);
        let heard = commands.publish(&node(&a.name), &Bundle::default()).await.unwrap();
        assert_eq!(heard, 1, "the node itself");
    }
    let home = a.generations.iter().find(|(_, g)| g.commands.is_home()).unwrap().1.commands.clone();
    let pulse = home.heartbeat("1").await.unwrap();
    assert!(!pulse.is_dead && pulse.nodes.iter().any(|(name, _)| *name == node(&a.name)));
    assert_eq!(home.agree("these").await.unwrap(), "these");
    assert_eq!(home.agree("those").await.unwrap(), "these");
    assert!(home.bury(&node(&a.name), "1").await.unwrap());
    assert!(home.heartbeat("2").await.unwrap().is_dead);
}

/// The goal: whoever asks the wrong master is told so at once, and never believes that generation again.
async fn the_wrong_master_says_so_and_its_generation_ends(a: &mut Member) {
    for call in 0..4 {
        let of = user_in(a.generations[0].1.commands.groups()[5].0);
        let wrong = &mut a.generations[1].1;
        let commands = wrong.commands.clone();
        let read = ReadRequest { of: of.as_str().into(), after: vec![] };
        let error = match call {
            0 => {
                let mut builder = BatchBuilder::default();
                builder.push(&Text::from(of.as_str()), message("astray"), || epoch("x"));
                let lane = topology().lane(&of);
                commands.append(&builder.finish(lane, None, LATER)).await.err()
            }
            1 => commands.read(&read).await.err(),
            2 => {
                let registration = registration("a", 1, 1, None);
                let cursor = Cursor::default();
                commands.verify(&[VerifyRequest { of: of.as_str().into(), registration, cursor }]).await.err()
            }
            _ => {
                let detach = DetachRequest { of: of.as_str().into(), connection: ConnectionId(1), reg: 1 };
                commands.detach(&[detach]).await.err()
            }
        };
        assert!(matches!(error, Some(BackplaneError::Elsewhere(_))), "{call}: {error:?}");
        let begun = Instant::now();
        assert_eq!(end_of(wrong, Duration::from_secs(1)).await, Loss::Slots);
        assert!(begun.elapsed() < Duration::from_millis(100), "at once");
        a.open_all(Duration::from_secs(5)).await;
    }
}

/// The goal: after a slot has gone, both generations are replaced in time, and nobody stays subscribed where nothing is
/// published any more without being told.
async fn a_slot_that_has_gone_ends_both_generations(cluster: &Cluster, a: &mut Member) {
    let group = a.generations[0].1.commands.groups()[0];
    let of = user_in(group.0);
    let stored = a.store(&of, &["m1"]).await;
    let (slot, channel) = (slot_of(&of), topology().channel(&node(&a.name), group).0);
    let from = cluster.master_of(slot).unwrap();
    let to = (from + 1) % 3;
    assert_eq!(cluster.cli(from, &["PUBSUB", "SHARDNUMSUB", &channel]).unwrap().lines().nth(1), Some("1"));
    cluster.migrate_slot(slot, to).unwrap();
    let begun = Instant::now();
    assert_eq!(cluster.master_of(slot).unwrap(), to, "the fault bit");
    let heard = cluster.cli(from, &["PUBSUB", "SHARDNUMSUB", &channel]).unwrap();
    assert_eq!(heard.lines().nth(1), Some("0"), "the old master has dropped the subscriber");
    let (target, mut ended) = (cluster.servers[to].address().to_string(), 0);
    for (source, generation) in &mut a.generations {
        if source.0 == target || generation.commands.groups().contains(&group) {
            assert_eq!(end_of(generation, Duration::from_millis(2_500)).await, Loss::Slots);
            println!("the generation of {} ended {:?} after the migration", source.0, begun.elapsed());
            ended += 1;
        }
    }
    assert_eq!(ended, 2);
    a.open_all(Duration::from_secs(5)).await;
    let new = a.generations.iter().find(|(source, _)| source.0 == target).unwrap();
    assert!(new.1.commands.groups().contains(&group));
    assert_eq!(ids(&a.of(&of).commands.history(&history_of(&of)).await.unwrap().0), ["m1"]);
    assert_eq!(a.store(&of, &["m2"]).await[0].epoch, stored[0].epoch);
    // Back again, and the generation is told by what it publishes to itself: MOVED says it before the map does.
    cluster.migrate_slot(slot, from).unwrap();
    let mut old = a.take(&of);
    let error = old.commands.publish(&node(&a.name), &Bundle::default()).await;
    let first = old.commands.groups()[0];
    if first == group {
        assert!(matches!(error, Err(BackplaneError::Elsewhere(_))), "{error:?}");
    }
    assert_eq!(end_of(&mut old, Duration::from_millis(2_500)).await, Loss::Slots);
    a.open_all(Duration::from_secs(5)).await;
    assert_eq!(read_chain(a, &of).await, ["m1", "m2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_master_has_a_generation_with_its_own_slots() {
    let cluster = start().await;
    let mut a = Member::start(cluster.url(), "a").await;
    three_masters_are_three_sources_and_their_groups_are_all(&cluster, &mut a).await;
    everything_is_answered_by_the_master_that_has_it(&mut a).await;
    the_wrong_master_says_so_and_its_generation_ends(&mut a).await;
    a_slot_that_has_gone_ends_both_generations(&cluster, &mut a).await;
}
