//! Live messages and writers while a slot is on its way.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backplane::{BackplaneError, ReadRequest};
use delivery::Place;
use protocol::{Live, Stamp};
use testkit::Cluster;
use tokio::time::{Instant, sleep, timeout};

use super::moving::{Phase, Way, ephemeral, only_place};
use super::{Member, answer, ids, read_chain, slot_of, start, topology, user_in};
use crate::fixtures::{message, retry};

/// The goal: a node that still listens at the old master hears of what was stored on the new one. The method: both keys
/// have moved, and another node appends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_at_the_old_master_hears_of_what_the_new_one_stored() {
    let cluster = start().await;
    let (mut a, b) = (Member::start(cluster.url(), "a").await, Member::start(cluster.url(), "b").await);
    let of = user_in(9);
    let stored = a.store(&of, &["m1"]).await;
    let commands = a.of(&of).commands.clone();
    commands.attach(&[a.attach_of(&of, 1, None, &[])]).await.unwrap().remove(0).unwrap();
    let mut way = Way::new(&cluster, &of);
    way.enter(Phase::AllMoved);
    let mut listening = a.take(&of);
    let appended = answer(b.append(&of, &[message("m2"), ephemeral("e1")]).await.unwrap());
    assert!(appended.is_elsewhere, "the fault bit: the other master has it");
    let placed = appended.groups[0].as_ref().unwrap();
    assert!(placed[0].online, "somebody is attached");
    let (mut heard, mut fleeting) = (0, 0);
    while heard + fleeting < 2 {
        let bundle =
            timeout(Duration::from_secs(1), listening.subscription.next()).await.expect("it is heard").unwrap();
        for item in bundle.items {
            match item.live {
                Live::Entry(entry) => {
                    assert_eq!((Some(entry.cursor), entry.link), (placed[0].place.cursor(), Stamp(0)));
                    heard += 1;
                }
                Live::Ephemeral(_) => fleeting += 1,
                Live::Notice(notice) => panic!("{notice:?}"),
            }
        }
    }
    assert_eq!((heard, fleeting), (1, 1));
    // And who is told pulls.
    let read = ReadRequest { of: of.as_str().into(), after: stored };
    assert_eq!(ids(&commands.read(&read).await.unwrap().unwrap().page), ["m2"]);
    way.finish(Phase::AllMoved);
    a_slot_of_which_only_the_old_master_was_told(&cluster, &mut a, &user_in(40)).await;
}

/// The two send each other whoever asks for what is new: it waits for an end of that, and is nobody's word for another
/// master.
async fn a_slot_of_which_only_the_old_master_was_told(cluster: &Cluster, a: &mut Member, of: &str) {
    a.open_all(Duration::from_secs(5)).await;
    let (slot, from) = (slot_of(of).to_string(), cluster.master_of(slot_of(of)).unwrap());
    let to = (from + 1) % 3;
    let id = |server| cluster.cli(server, &["CLUSTER", "MYID"]).unwrap();
    cluster.cli(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]).unwrap();
    let refused = only_place(a.append(of, &[message("m1")]).await);
    assert!(matches!(&refused, Err(BackplaneError::NotRun(why)) if why.contains("between two")), "{refused:?}");
    let told = async {
        sleep(Duration::from_millis(300)).await;
        cluster.cli(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]).unwrap();
    };
    let messages = [message("m2")];
    let (stored, ()) = tokio::join!(a.append(of, &messages), told);
    assert!(matches!(only_place(stored), Ok(Place::Stored(_))), "as soon as the other one is told");
}

/// What was stored by an asking whose answer was lost was stored again, or called unavailable, by the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_asked_again_while_its_slot_moves_is_neither_doubled_nor_called_unstored() {
    let cluster = start().await;
    let a = Member::start(cluster.url(), "a").await;
    a_batch_that_was_stored_long_ago_is_found(&cluster, &a, &user_in(11)).await;
    nobody_says_that_nothing_was_stored(&cluster, &a, &user_in(12)).await;
}

/// The goal: a batch that was stored before a long time without any master is found, however long that was. The method:
/// its entry, another node's behind it, and its deadline are put a minute into the past.
async fn a_batch_that_was_stored_long_ago_is_found(cluster: &Cluster, a: &Member, of: &str) {
    let commands = a.of(of).commands.clone();
    let mut batch = a.batch(of, Some(1), &[message("m1")]);
    batch.deadline_us = commands.now_us() + 3_000_000;
    assert!(matches!(only_place(commands.append(&batch).await), Ok(Place::Stored(_))));
    a.store(of, &["m2"]).await;
    let older = "for at = 1, 2 do \
                 local e = redis.call('LINDEX', KEYS[1], at) \
                 local stamp = struct.pack('>I8', struct.unpack('>I8', e, 10) - 60000000) \
                 redis.call('LSET', KEYS[1], at, e:sub(1, 9) .. stamp .. e:sub(18)) end return 'OK'";
    let inbox = topology().keys().record(of).inbox;
    cluster.cli(cluster.master_of(slot_of(of)).unwrap(), &["EVAL", older, "1", &inbox]).unwrap();
    batch.deadline_us -= 60_000_000;
    let mut way = Way::new(cluster, of);
    way.enter(Phase::Migrating);
    let again = only_place(commands.append(&batch).await);
    assert!(matches!(again, Ok(Place::Found(_))), "{again:?}");
    way.finish(Phase::Migrating);
}

/// The goal: `unavailable` says that nothing was stored. The method: a batch is stored, nobody hears the answer, and its
/// record is between two masters when it is asked again.
async fn nobody_says_that_nothing_was_stored(cluster: &Cluster, a: &Member, of: &str) {
    let commands = a.of(of).commands.clone();
    let mut batch = a.batch(of, Some(1), &[message("m1")]);
    batch.deadline_us = commands.now_us() + 10_000_000;
    let Ok(Place::Stored(stored)) = only_place(commands.append(&batch).await) else { panic!("not stored") };
    let mut way = Way::new(cluster, of);
    way.enter(Phase::MetaMoved);
    let again = commands.append(&batch).await;
    assert!(matches!(again, Err(BackplaneError::Unknown(_))), "{again:?}");
    way.enter(Phase::AllMoved);
    assert_eq!(only_place(commands.append(&batch).await), Ok(Place::Found(stored)));
    way.finish(Phase::AllMoved);
}

/// Asks as a lane does, until it is stored: the same number again where the outcome is not known, and the next one, as a
/// retry, where it did not run. Answers how often it was not known.
async fn insist(member: &mut Member, number: &mut u64, of: &str, id: &str) -> usize {
    let (begun, mut unknown) = (Instant::now(), 0);
    let mut messages = [message(id), ephemeral(&format!("e{id}"))];
    *number += 1;
    loop {
        let mut batch = member.batch(of, Some(*number), &messages);
        batch.deadline_us = member.of(of).commands.now_us() + 3_000_000;
        match only_place(member.of(of).commands.append(&batch).await) {
            Ok(Place::Stored(_) | Place::Found(_)) => return unknown,
            Ok(other) => panic!("{id}: {other:?}"),
            Err(BackplaneError::Elsewhere(_)) => member.open_all(Duration::from_secs(5)).await,
            Err(BackplaneError::Unknown(_)) => {
                unknown += 1;
                member.open_all(Duration::from_secs(5)).await;
            }
            Err(BackplaneError::NotRun(_)) => {
                *number += 1;
                messages[0] = retry(id);
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{id} is never stored");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The goal: nothing is lost, doubled or out of order under two nodes that write while a slot wanders, key by key, with
/// pauses in between, connections are cut under their calls, and records begin in the middle of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_wanders_under_two_writers_loses_nothing_and_doubles_nothing() {
    let cluster = start().await;
    let (mut a, mut b) = (Member::start(cluster.url(), "a").await, Member::start(cluster.url(), "b").await);
    let group = 20;
    let users: Vec<String> = {
        let topology = topology();
        (0..).map(|n| format!("user:w{n}")).filter(|of| topology.group(of).0 == group).take(8).collect()
    };
    let slot = slot_of(&users[0]);
    let is_over = AtomicBool::new(false);
    let mover = async {
        for _ in 0..4 {
            let from = cluster.master_of(slot).unwrap();
            let migration = cluster.begin_migration(slot, (from + 1) % 3).unwrap();
            sleep(Duration::from_millis(60)).await;
            while cluster.move_keys(migration, 1).unwrap() > 0 {
                sleep(Duration::from_millis(8)).await;
                for server in [migration.from, migration.to] {
                    cluster.cli(server, &["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
                }
                sleep(Duration::from_millis(30)).await;
            }
            sleep(Duration::from_millis(60)).await;
            while cluster.move_keys(migration, 100).unwrap() > 0 {}
            cluster.finish_migration(migration).unwrap();
            sleep(Duration::from_millis(300)).await;
        }
        is_over.store(true, Ordering::Relaxed);
        cluster.master_of(slot).unwrap()
    };
    let write = async |member: &mut Member| {
        let (mut sent, mut number, mut unknown) = (0, 0, 0);
        while !is_over.load(Ordering::Relaxed) {
            // One more user each round, until all are there.
            let of = users[sent % users.len().min(1 + sent / 6)].clone();
            let id = format!("{}{sent}", member.name);
            unknown += insist(member, &mut number, &of, &id).await;
            sent += 1;
            sleep(Duration::from_millis(2)).await;
        }
        (sent, unknown)
    };
    let begun = cluster.master_of(slot).unwrap();
    let (end, (from_a, unknown_a), (from_b, unknown_b)) = tokio::join!(mover, write(&mut a), write(&mut b));
    assert_ne!(begun, end, "the fault bit");
    println!("{from_a} and {from_b} messages were stored, {unknown_a} and {unknown_b} times not known at first");
    assert!(unknown_a + unknown_b > 0, "the fault bit: calls were cut");
    tokio::task::block_in_place(|| cluster.wait_well(Duration::from_secs(5))).unwrap();
    a.open_all(Duration::from_secs(5)).await;
    let (mut all, mut count) = (BTreeSet::new(), 0);
    for of in &users {
        let chain = read_chain(&a, of).await;
        count += chain.len();
        for name in ["a", "b"] {
            let own: Vec<u32> = chain.iter().filter_map(|id| id.strip_prefix(name)?.parse().ok()).collect();
            assert!(own.is_sorted(), "{of}: each sender's own order: {own:?}");
        }
        all.extend(chain);
    }
    assert_eq!((all.len(), count), (from_a + from_b, from_a + from_b), "all of them, and none twice");
}
