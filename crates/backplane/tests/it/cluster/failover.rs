//! Masters that die, that are replaced by hand, that freeze and thaw as nobody, and that nobody listens to any more.

use std::time::Duration;

use backplane::{Backplane, BackplaneError, BatchResult, Loss};
use delivery::NewMessage;
use testkit::{Cluster, eventually};
use tokio::time::{Instant, sleep};

use super::{Member, answer, end_of, read_chain, slot_of, start, user_in};
use crate::fixtures::message;

fn address(cluster: &Cluster, server: usize) -> String {
    cluster.servers[server].address().to_string()
}

async fn wait_for_source(member: &Member, address: &str, within: Duration) {
    let sources = member.backplane.sources();
    eventually(&format!("{address} is a source"), within, async || {
        sources.borrow().iter().any(|source| source.0 == address).then_some(())
    })
    .await
    .unwrap();
}

/// The present time of the master that has this record, and three seconds, as a lane has it.
fn with_deadline(member: &Member, of: &str, number: u64, messages: &[NewMessage]) -> backplane::Batch {
    let mut batch = member.batch(of, Some(number), messages);
    batch.deadline_us = member.of(of).commands.now_us() + 3_000_000;
    batch
}

async fn a_killed_master_is_replaced_by_its_replica(cluster: &Cluster, a: &mut Member) {
    let of = user_in(2);
    a.store(&of, &["m1"]).await;
    let mut old = a.take(&of);
    old.commands.replicated().await.unwrap();
    let master = cluster.master_of(slot_of(&of)).unwrap();
    let replica = cluster.replica_of(master).unwrap();
    let lineage = old.commands.lineage().map(str::to_owned);
    cluster.servers[master].kill();
    let killed = Instant::now();
    let loss = end_of(&mut old, Duration::from_secs(1)).await;
    assert!(matches!(loss, Loss::Commands | Loss::Subscriber), "{loss:?}");
    wait_for_source(a, &address(cluster, replica), Duration::from_secs(15)).await;
    let named = killed.elapsed();
    a.open_all(Duration::from_secs(5)).await;
    println!("a killed master: its replica took over, was named after {named:?} and used after {:?}", killed.elapsed());
    assert_ne!(a.of(&of).commands.lineage().map(str::to_owned), lineage);
    assert_eq!(a.store(&of, &["m2"]).await[0].seq, 2);
    assert_eq!(read_chain(a, &of).await, ["m1", "m2"]);
}

async fn a_failover_by_hand_ends_the_generation(cluster: &Cluster, a: &mut Member) {
    let of = user_in(25);
    a.store(&of, &["m1"]).await;
    let mut old = a.take(&of);
    let master = cluster.master_of(slot_of(&of)).unwrap();
    let replica = cluster.replica_of(master).unwrap();
    tokio::task::block_in_place(|| cluster.failover(replica)).unwrap();
    let begun = Instant::now();
    assert_eq!(cluster.master_of(slot_of(&of)).unwrap(), replica, "the fault bit");
    // Nobody writes: nothing but asking who the master is tells.
    assert_eq!(end_of(&mut old, Duration::from_secs(4)).await, Loss::Slots);
    let ended = begun.elapsed();
    let error = old.commands.append(&a.batch(&of, None, &[message("astray")])).await;
    assert!(matches!(error, Err(BackplaneError::Elsewhere(_))), "{error:?}");
    a.open_all(Duration::from_secs(5)).await;
    println!("a failover by hand: the generation ended after {ended:?}, the next began after {:?}", begun.elapsed());
    assert_eq!(a.store(&of, &["m2"]).await[0].seq, 2);
    assert_eq!(read_chain(a, &of).await, ["m1", "m2"]);
}

/// The goal: what lay in the socket of a frozen master is not stored when it thaws, and its generation is given up
/// before.
async fn a_frozen_master_that_thaws_takes_nothing(cluster: &Cluster, a: &mut Member) {
    let of = user_in(50);
    a.store(&of, &["m1"]).await;
    a.of(&of).commands.replicated().await.unwrap();
    let master = cluster.master_of(slot_of(&of)).unwrap();
    let replica = cluster.replica_of(master).unwrap();
    let late = with_deadline(a, &of, 1, &[message("late")]);
    let mut old = a.take(&of);
    cluster.servers[master].stop().unwrap();
    let frozen = Instant::now();
    let asked = old.commands.append(&late).await;
    assert!(matches!(asked, Err(BackplaneError::Unknown(_))), "{asked:?}");
    wait_for_source(a, &address(cluster, replica), Duration::from_secs(20)).await;
    println!("a frozen master: its replica took over and was named after {:?}", frozen.elapsed());
    let loss = end_of(&mut old, Duration::from_millis(100)).await;
    assert!(matches!(loss, Loss::Slots | Loss::Silent), "{loss:?}");
    // The lane goes on with the next generation and the same number.
    a.open_all(Duration::from_secs(5)).await;
    let again = a.of(&of).commands.append(&a.batch(&of, Some(1), &[message("late")])).await.unwrap();
    assert!(answer(again).groups[0].is_ok());
    cluster.servers[master].cont().unwrap();
    // At once, before it has heard of its end: an old handle gets no answer that could be believed later.
    let mut batch = a.batch(&of, Some(2), &[message("astray")]);
    batch.deadline_us = late.deadline_us;
    let astray = old.commands.append(&batch).await;
    assert!(!matches!(astray, Ok(BatchResult::Answered(_))), "{astray:?}");
    cluster.wait_for_role(master, "slave", Duration::from_secs(10)).unwrap();
    let refused = old.commands.append(&a.batch(&of, Some(3), &[message("astray")])).await;
    assert!(matches!(refused, Err(BackplaneError::Elsewhere(_))), "{refused:?}");
    tokio::task::block_in_place(|| cluster.wait_well(Duration::from_secs(10))).unwrap();
    assert_eq!(read_chain(a, &of).await, ["m1", "late"]);
}

/// The goal: a master that claims its slots and takes writes, but that the others have replaced, is not believed. The
/// method: it forgets the others, so that it does not hear of its successor, who takes over without being voted for.
async fn a_master_that_the_others_have_replaced_is_not_believed(cluster: &Cluster, a: &mut Member) {
    let of = user_in(30);
    a.store(&of, &["m1"]).await;
    a.of(&of).commands.replicated().await.unwrap();
    let master = cluster.master_of(slot_of(&of)).unwrap();
    let replica = cluster.replica_of(master).unwrap();
    for other in (0..6).filter(|&n| n != master) {
        let id = cluster.cli(other, &["CLUSTER", "MYID"]).unwrap();
        cluster.cli(master, &["CLUSTER", "FORGET", &id]).unwrap();
    }
    let mut old = a.take(&of);
    cluster.cli(replica, &["CLUSTER", "FAILOVER", "TAKEOVER"]).unwrap();
    let begun = Instant::now();
    assert!(matches!(end_of(&mut old, Duration::from_secs(4)).await, Loss::Slots));
    println!("a master that was replaced behind its back: its generation ended after {:?}", begun.elapsed());
    let own = cluster.cli(master, &["CLUSTER", "NODES"]).unwrap();
    assert!(own.contains("myself,master") && own.lines().count() == 1, "the fault bit: {own}");
    // What is believed is told in two steps.
    sleep(Duration::from_millis(100)).await;
    for _ in 0..5 {
        let sources: Vec<String> = a.backplane.sources().borrow().iter().map(|s| s.0.clone()).collect();
        assert!(!sources.contains(&address(cluster, master)), "{sources:?}");
        sleep(Duration::from_millis(500)).await;
    }
    a.open_all(Duration::from_secs(5)).await;
    assert_eq!(a.store(&of, &["m2"]).await[0].seq, 2);
    assert_eq!(read_chain(a, &of).await, ["m1", "m2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_replaced_is_given_up_and_its_successor_found() {
    let mut cluster = start().await;
    let mut a = Member::start(cluster.url(), "a").await;
    a_failover_by_hand_ends_the_generation(&cluster, &mut a).await;
    a_frozen_master_that_thaws_takes_nothing(&cluster, &mut a).await;
    a_killed_master_is_replaced_by_its_replica(&cluster, &mut a).await;
    let dead = (0..6).find(|&n| !cluster.servers[n].process().is_running()).unwrap();
    cluster.restart(dead).unwrap();
    tokio::task::block_in_place(|| cluster.wait_well(Duration::from_secs(10))).unwrap();
    a_master_that_the_others_have_replaced_is_not_believed(&cluster, &mut a).await;
}

/// The goal: `replicated` is about the master that stored the message and its replica, whatever the others do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicated_asks_the_replica_of_the_master_that_stored_it() {
    let cluster = start().await;
    let a = Member::start(cluster.url(), "a").await;
    let users: Vec<String> = (0..3).map(|n| user_in(n * 20 + 7)).collect();
    for of in &users {
        a.store(of, &["m1"]).await;
        a.of(of).commands.replicated().await.unwrap();
    }
    let master = cluster.master_of(slot_of(&users[1])).unwrap();
    let replica = cluster.replica_of(master).unwrap();
    cluster.servers[replica].stop().unwrap();
    a.store(&users[1], &["m2"]).await;
    let (first, second, third) = tokio::join!(
        a.of(&users[0]).commands.replicated(),
        a.of(&users[1]).commands.replicated(),
        a.of(&users[2]).commands.replicated()
    );
    assert!(matches!(second, Err(BackplaneError::Unknown(_))), "{second:?}");
    first.and(third).expect("the other masters' replicas are well");
    cluster.servers[replica].cont().unwrap();
    // The key that is written before a WAIT may be in a slot that is on its way: another one is taken at once.
    let slot = super::topology().slot(a.of(&users[1]).commands.groups()[0]);
    let migration = cluster.begin_migration(slot, (master + 1) % 3).unwrap();
    while cluster.move_keys(migration, 100).unwrap() > 0 {}
    eventually("the replica is back", Duration::from_secs(5), async || {
        cluster.cli(master, &["INFO", "replication"]).unwrap().contains("state=online").then_some(())
    })
    .await
    .unwrap();
    a.of(&users[1]).commands.replicated().await.expect("with the key of another slot");
}

/// With `cluster-require-full-coverage` all masters refuse while one is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_down_stores_nothing_says_so_and_heals() {
    let options = testkit::cluster::ClusterOptions { full_coverage: true };
    let mut cluster = tokio::task::spawn_blocking(move || Cluster::start_with(options)).await.unwrap().unwrap();
    let mut a = Member::start(cluster.url(), "a").await;
    let of = user_in(5);
    a.store(&of, &["m1"]).await;
    let master = cluster.master_of(slot_of(&of)).unwrap();
    let other = (master + 1) % 3;
    let its_replica = cluster.replica_of(other).unwrap();
    cluster.servers[its_replica].kill();
    cluster.servers[other].kill();
    eventually("the cluster is down", Duration::from_secs(10), async || {
        cluster.cli(master, &["CLUSTER", "INFO"]).unwrap().contains("cluster_state:fail").then_some(())
    })
    .await
    .unwrap();
    let (one, two) = ([message("m2")], [message("m3")]);
    let (refused, beside) = tokio::join!(a.append(&of, &one), a.append(&of, &two));
    assert!(matches!(&refused, Err(BackplaneError::NotRun(why)) if why.contains("CLUSTERDOWN")), "{refused:?}");
    // The library ends the connection with it, under whatever is in flight.
    assert!(matches!(&beside, Err(BackplaneError::NotRun(_) | BackplaneError::Unknown(_))), "{beside:?}");
    cluster.restart(other).unwrap();
    tokio::task::block_in_place(|| cluster.wait_well(Duration::from_secs(15))).unwrap();
    a.open_all(Duration::from_secs(5)).await;
    assert_eq!(a.store(&of, &["m4"]).await[0].seq, 2);
    assert_eq!(read_chain(&a, &of).await, ["m1", "m4"], "what was refused was not stored");
}
