//! Behind real sentinels: the master is found, and found again after a failover.

use std::time::Duration;

use backplane::{Backplane, BatchResult, HistoryRequest, RedisBackplane, Source};
use testkit::sentinel::{DOWN_AFTER, Sentinel};

use crate::fixtures::{Generation, LIMITS, batch, message, redis_settings};

async fn open_within(backplane: &RedisBackplane, within: Duration) -> Generation {
    let begun = tokio::time::Instant::now();
    loop {
        match backplane.open(&Source::default()).await {
            Ok((commands, subscription)) => return Generation { commands, subscription },
            Err(error) => assert!(begun.elapsed() < within, "no generation within {within:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn store(generation: &Generation, number: u64, id: &str) {
    let result =
        generation.commands.append(&batch("user:b", Some(number), u64::MAX >> 12, &[message(id)])).await.unwrap();
    let BatchResult::Answered(answer) = result else { panic!("stale") };
    answer.groups[0].as_ref().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_ends_the_generation_and_the_next_finds_the_new_master() {
    let sentinel = tokio::task::spawn_blocking(Sentinel::start).await.unwrap().unwrap();
    let backplane = RedisBackplane::new(redis_settings(sentinel.url(), "sb", LIMITS)).unwrap();
    let mut generation = open_within(&backplane, Duration::from_secs(5)).await;
    store(&generation, 1, "m1").await;
    // What the replica has is what survives.
    let master = sentinel.master().unwrap();
    let offset = |text: &str, name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.split_once(name)?.1.split(',').next()?.trim().parse().ok())
    };
    let wanted = offset(&master.cli(&["INFO", "replication"]), "master_repl_offset:").unwrap();
    testkit::eventually("the replica has it", Duration::from_secs(5), async || {
        let replicas = master.cli(&["INFO", "replication"]);
        offset(&replicas, "state=online,offset=").filter(|&has| has >= wanted)
    })
    .await
    .unwrap();
    let old = master.port();
    master.kill();
    let killed = tokio::time::Instant::now();
    let end = async { while generation.subscription.next().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(2), end).await.expect("the generation ends with its master");
    let next = open_within(&backplane, DOWN_AFTER + Duration::from_secs(8)).await;
    println!("the next generation began {:?} after the kill", killed.elapsed());
    assert_ne!(sentinel.master().unwrap().port(), old, "the fault bit: another server is the master");
    store(&next, 2, "m2").await;
    let request = HistoryRequest { of: "user:b".into(), before: None, limit: 10 };
    let (page, _) = next.commands.history(&request).await.unwrap();
    let ids: Vec<&str> = page.entries.iter().map(|e| e.envelope.id.as_str()).collect();
    assert_eq!(ids, ["m1", "m2"]);
}

#[tokio::test]
async fn sentinels_that_do_not_know_the_service_are_told_apart_from_none_at_all() {
    let sentinel = tokio::task::spawn_blocking(Sentinel::start).await.unwrap().unwrap();
    let url = sentinel.url().replace("/main", "/other");
    let backplane = RedisBackplane::new(redis_settings(url, "sb", LIMITS)).unwrap();
    let error = backplane.open(&Source::default()).await.err().unwrap().to_string();
    assert!(error.contains("3 of 3 sentinels answered") && error.contains("other"), "{error}");
}
