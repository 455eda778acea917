//! What a URL may name, and what is said where it names something else.

use std::time::Duration;

use backplane::doctor::{Facts, examine};
use backplane::redis::doctor::{ask, ask_masters};
use backplane::{Backplane, BackplaneError, RedisBackplane, Source};
use testkit::redis::Redis;

use super::{Member, settings_of, start, user_in};
use crate::fixtures::{LIMITS, redis_settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_server_of_a_cluster_leads_to_all_of_them() {
    let cluster = start().await;
    let address = |n: usize| cluster.servers[n].address().to_string();
    // A port where nobody is, then replicas only.
    for seeds in [format!("127.0.0.1:1,{}", address(1)), format!("{},{}", address(4), address(5))] {
        let a = Member::start(format!("redis-cluster://{seeds}"), "a").await;
        assert_eq!(a.generations.len(), 3, "{seeds}");
        let of = user_in(1);
        a.store(&of, &["m"]).await;
    }

    // The doctor looks at a master, also where the URL names a replica.
    let facts = ask(&format!("redis-cluster://{}", address(4)), Duration::from_secs(5), || 0).await.unwrap();
    assert!(!says(&facts, "it is a replica") && !says(&facts, "Cluster"), "{:?}", examine(&facts));
    // And at each of them, where it is asked to.
    cluster.servers[2].cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let all = ask_masters(&cluster.url(), Duration::from_secs(5), || 0).await.unwrap();
    let mut masters = [0, 1, 2].map(|n| Some(address(n)));
    masters.sort();
    assert_eq!(all.iter().map(|(address, _)| address.clone()).collect::<Vec<_>>(), masters);
    let found: Vec<_> =
        all.iter().filter(|(_, facts)| says(facts, "allkeys-lru")).map(|(address, _)| address.clone()).collect();
    assert_eq!(found, [Some(address(2))]);

    // One Redis is asked for, and a cluster is there.
    let url = format!("redis://{}", address(0));
    let single = RedisBackplane::new(redis_settings(url, "sb", LIMITS)).unwrap();
    let error = single.open(&Source::default()).await.err().unwrap();
    assert!(matches!(&error, BackplaneError::NotRun(why) if why.contains("redis-cluster://")), "{error}");

    for server in &cluster.servers {
        server.cli(&["CONFIG", "SET", "requirepass", "other"]);
    }
    let url = format!("redis-cluster://:secret@{}", address(0));
    let locked = RedisBackplane::new(settings_of(url, "a")).unwrap();
    let why = trouble_of(&locked).await;
    assert!(why.contains("WRONGPASS") && !why.contains("secret"), "{why}");
}

#[tokio::test]
async fn a_redis_that_is_no_cluster_is_said_to_be_none() {
    let redis = Redis::start().unwrap();
    let url = format!("redis-cluster://{}", redis.address());
    let backplane = RedisBackplane::new(settings_of(url, "a")).unwrap();
    let why = trouble_of(&backplane).await;
    assert!(why.contains("cluster support disabled"), "{why}");
    let facts = ask(&format!("redis-cluster://{}", redis.address()), Duration::from_secs(5), || 0).await.unwrap();
    assert!(says(&facts, "it is no node of a Redis Cluster"), "{:?}", examine(&facts));
}

fn says(facts: &Facts, text: &str) -> bool {
    examine(facts).iter().any(|finding| finding.what.contains(text))
}

/// There is nothing to open, and opening it all the same says why.
async fn trouble_of(backplane: &RedisBackplane) -> String {
    let sources = backplane.sources();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(sources.borrow().is_empty());
    match backplane.open(&Source("nowhere:1".to_owned())).await {
        Err(BackplaneError::NotRun(why)) => why,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("there is nothing to open"),
    }
}
