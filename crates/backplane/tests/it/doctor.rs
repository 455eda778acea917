//! What is found about a Redis: from recorded answers, one change at a time, and from real servers.
//!
//! The texts in `recorded/` are what real servers answered, but for that of Redis 7.4: see its README.md.

use std::time::Duration;

use backplane::doctor::{Facts, Finding, Measured, Severity, examine, fine};
use backplane::redis::doctor::{AskError, ask};
use testkit::redis::Redis;

const REDIS_6_2: &str = include_str!("recorded/redis-6.2.txt");
const REDIS_7_0: &str = include_str!("recorded/redis-7.0.txt");
const REDIS_7_4: &str = include_str!("recorded/redis-7.4.txt");
const REDIS_8_0: &str = include_str!("recorded/redis-8.0.txt");
const VALKEY_8_0: &str = include_str!("recorded/valkey-8.0.txt");

const SNAPSHOTS: (&str, &str) = ("save", "3600 1 300 100 60 10000");
const NO_SNAPSHOTS: (&str, &str) = ("save", "");
const EVERYSEC: (&str, &str) = ("appendfsync", "everysec");
const NO_REPLICAS: (&str, &str) = ("min-replicas-to-write", "0");
const ONE_REPLICA: (&str, &str) = ("min-replicas-to-write", "1");
const BUFFERS: (&str, &str) =
    ("client-output-buffer-limit", "normal 0 0 0 slave 268435456 67108864 60 pubsub 67108864 16777216 30");
const DEFAULT_BUFFERS: (&str, &str) =
    ("client-output-buffer-limit", "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60");

/// What is said about the recorded Valkey, which is as it should be.
const GOOD: [(&str, &str); 4] = [NO_SNAPSHOTS, ("appendfsync", "always"), ONE_REPLICA, BUFFERS];
const NEAR: Measured = Measured { latency_us: 180, clock_offset_us: -400 };

use Severity::{Loses, Note, Risk};

type Settings = &'static [(&'static str, &'static str)];
type Expected = &'static [(Severity, &'static str)];

fn facts(info: &str, config: &[(&str, &str)], measured: Measured) -> Facts {
    let config: Vec<_> = config.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    Facts::parse(info, &config, measured)
}

/// The findings have these severities and say these words, in this order.
fn assert_found(found: &[Finding], expected: &[(Severity, &str)]) {
    let fits = found.len() == expected.len()
        && found.iter().zip(expected).all(|(f, (severity, what))| f.severity == *severity && f.what.contains(what));
    assert!(fits, "expected {expected:?}, found {found:#?}");
    assert!(found.iter().all(|f| !f.why.is_empty() && !f.how.is_empty()));
}

#[test]
fn recorded_servers_are_judged() {
    let table: [(&str, Settings, &str, Expected); 5] = [
        (
            REDIS_6_2,
            &[SNAPSHOTS, EVERYSEC, NO_REPLICAS, DEFAULT_BUFFERS],
            "Redis 6.2.14",
            &[
                (Loses, "Redis 6.2.14 is older than 7.0"),
                (Loses, "snapshots only"),
                (Note, "maxmemory is 0"),
                (Note, "32mb 8mb 60"),
            ],
        ),
        (
            REDIS_7_0,
            &[NO_SNAPSHOTS, EVERYSEC, NO_REPLICAS, DEFAULT_BUFFERS],
            "Redis 7.0.15",
            &[(Note, "maxmemory is 0"), (Note, "flushed every second"), (Note, "32mb 8mb 60")],
        ),
        (
            REDIS_7_4,
            &[NO_SNAPSHOTS, EVERYSEC, NO_REPLICAS, DEFAULT_BUFFERS],
            "Redis 7.4.1",
            &[
                (Loses, "maxmemory-policy is allkeys-lru"),
                (Loses, "keeps nothing on disk"),
                (Risk, "min-replicas-to-write is 0"),
                (Note, "32mb 8mb 60"),
            ],
        ),
        (
            REDIS_8_0,
            &[NO_SNAPSHOTS, EVERYSEC, NO_REPLICAS, DEFAULT_BUFFERS],
            "Redis 8.0.2",
            &[(Loses, "maxmemory-policy is allkeys-lru"), (Loses, "keeps nothing on disk"), (Note, "32mb 8mb 60")],
        ),
        (VALKEY_8_0, &GOOD, "Valkey 8.0.1", &[]),
    ];
    for (info, config, server, expected) in table {
        // As Redis sends it, and as a file has it.
        for info in [info.to_owned(), info.replace('\n', "\r\n")] {
            let facts = facts(&info, config, NEAR);
            assert_eq!(facts.server(), server);
            assert_found(&examine(&facts), expected);
        }
    }
}

#[test]
fn one_change_is_one_finding() {
    let table: &[(Settings, Settings, Severity, &str)] = &[
        (&[("redis_version:7.2.4", "redis_version:6.2.14"), ("valkey_version:8.0.1\n", "")], &[], Loses, "6.2.14"),
        (&[("cluster_enabled:0", "cluster_enabled:1")], &[], Loses, "Redis Cluster"),
        (&[("role:master", "role:slave")], &[], Loses, "replica"),
        (&[("loading:0\n", "loading:1\n")], &[], Risk, "loading"),
        (&[], &[("min-replicas-to-write", "2")], Loses, "2 or more, and 1 are"),
        (&[("good_slaves:1", "good_slaves:0")], &[], Loses, "0 are"),
        (&[("min_slaves_good_slaves:1\n", "")], &[NO_REPLICAS], Risk, "min-replicas-to-write is 0"),
        (&[("policy:noeviction", "policy:volatile-ttl")], &[], Loses, "it evicts: maxmemory-policy is volatile-ttl"),
        (&[("used_memory:1175808", "used_memory:4000000000")], &[], Risk, "93 % of its memory"),
        (&[("maxmemory:4294967296", "maxmemory:0")], &[], Note, "maxmemory is 0"),
        (&[("aof_enabled:1", "aof_enabled:0")], &[], Loses, "keeps nothing on disk"),
        (&[("aof_enabled:1", "aof_enabled:0")], &[SNAPSHOTS], Loses, "snapshots only"),
        (&[], &[EVERYSEC], Note, "every second"),
        (&[], &[("appendfsync", "no")], Risk, "appendfsync is no"),
        (&[("aof_last_write_status:ok", "aof_last_write_status:err")], &[], Loses, "aof_last_write_status is err"),
        (&[("rdb_last_bgsave_status:ok", "rdb_last_bgsave_status:err")], &[], Loses, "rdb_last_bgsave_status is err"),
        (&[], &[DEFAULT_BUFFERS], Note, "32mb 8mb 60"),
        (
            &[],
            &[("client-output-buffer-limit", "pubsub 33554432 1000000 5")],
            Risk,
            "32mb 1000000 5, below the default",
        ),
        (&[("role:master", "rolle:master")], &[], Loses, "not known: its role"),
        (&[("aof_enabled:1", ""), ("maxmemory_policy", "policy")], &[], Loses, "its eviction policy, its persistence"),
    ];
    for (changes, settings, severity, what) in table {
        let mut info = VALKEY_8_0.to_owned();
        for (from, to) in *changes {
            assert!(info.contains(from), "{from}");
            info = info.replacen(from, to, 1);
        }
        // The first of two settings counts.
        let config = [*settings, &GOOD].concat();
        assert_found(&examine(&facts(&info, &config, NEAR)), &[(*severity, what)]);
    }
}

#[test]
fn a_policy_that_waits_for_a_limit_is_a_risk() {
    let info =
        VALKEY_8_0.replace("maxmemory:4294967296", "maxmemory:0").replace("policy:noeviction", "policy:allkeys-lfu");
    assert_found(&examine(&facts(&info, &GOOD, NEAR)), &[(Risk, "it would evict"), (Note, "maxmemory is 0")]);
}

#[test]
fn what_was_measured_counts_too() {
    let measured =
        |latency_us, clock_offset_us| examine(&facts(VALKEY_8_0, &GOOD, Measured { latency_us, clock_offset_us }));
    assert_found(&measured(5_000, 1_000_000), &[]);
    assert_found(&measured(5_010, 0), &[(Risk, "a round trip takes 5.01 ms")]);
    assert_found(&measured(0, 1_500_000), &[(Note, "its clock is 1500.00 ms ahead of this machine's")]);
    assert_found(&measured(0, -1_000_001), &[(Note, "behind this machine's")]);
    assert_found(&measured(0, i64::MIN), &[(Note, "behind")]);
}

/// A managed Redis refuses CONFIG: what INFO says still counts, and what is not known is said.
#[test]
fn without_config_info_still_counts() {
    assert_found(&examine(&facts(VALKEY_8_0, &[], NEAR)), &[(Note, "CONFIG GET is refused")]);
    let unbound = VALKEY_8_0.replace("min_slaves_good_slaves:1\n", "");
    assert_found(
        &examine(&facts(&unbound, &[], NEAR)),
        &[(Risk, "min-replicas-to-write is 0"), (Note, "CONFIG GET is refused")],
    );
    let few = VALKEY_8_0.replace("good_slaves:1", "good_slaves:0");
    let few = few.replace("aof_enabled:1", "aof_enabled:0");
    assert_found(
        &examine(&facts(&few, &[], NEAR)),
        &[(Loses, "min-replicas-to-write"), (Loses, "its append-only file is off"), (Note, "CONFIG GET is refused")],
    );
}

#[test]
fn what_is_no_redis_is_not_trusted() {
    for text in ["", "HTTP/1.1 400 Bad Request\r\n\r\n", ":::\n:\n", "redis_version:\nmaxmemory:-1\nloading:x"] {
        let found = examine(&facts(text, &GOOD, NEAR));
        assert_found(&found, &[(Loses, "not known: its version, its role, its eviction policy, its persistence")]);
    }
}

#[test]
fn what_is_fine_is_said_in_few_words() {
    let fine = fine(&facts(VALKEY_8_0, &GOOD, NEAR)).join(", ");
    for part in ["Valkey 8.0.1", "a master", "evicts nothing", "every write is flushed to disk", "0.18 ms away"] {
        assert!(fine.contains(part), "{part}: {fine}");
    }
}

const WITHIN: Duration = Duration::from_secs(10);

#[allow(clippy::disallowed_methods, reason = "the clock of the machine is what a server's is compared with")]
fn now_us() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_micros()).unwrap()
}

/// What a real server is found to do, notes and the busy machine's latency aside.
async fn found(redis: &Redis) -> Vec<Finding> {
    let facts = ask(&redis.url(), WITHIN, now_us).await.unwrap();
    assert!(facts.server().starts_with("Redis ") || facts.server().starts_with("Valkey "), "{facts:?}");
    let found = examine(&facts).into_iter();
    found.filter(|f| f.severity != Note && !f.what.contains("round trip")).collect()
}

#[tokio::test]
async fn a_real_redis_as_it_should_be_has_no_finding() {
    let redis = Redis::start().unwrap();
    assert_found(&found(&redis).await, &[]);
    redis.cli(&["CONFIG", "SET", "appendfsync", "no"]);
    assert_found(&found(&redis).await, &[(Risk, "appendfsync is no")]);
}

#[tokio::test]
async fn a_real_redis_that_loses_is_found_out() {
    let redis = Redis::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "no"])
        .unwrap();
    assert_found(&found(&redis).await, &[(Loses, "allkeys-lru"), (Loses, "nothing on disk")]);
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    redis.cli(&["CONFIG", "SET", "save", "60 1"]);
    assert_found(&found(&redis).await, &[(Loses, "snapshots only")]);
    redis.cli(&["CONFIG", "SET", "appendonly", "yes"]);
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert_found(&found(&redis).await, &[(Loses, "1 or more, and 0 are")]);
}

#[tokio::test]
async fn a_real_replica_and_a_real_cluster_node_are_found_out() {
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1 1"]).unwrap();
    assert_found(&found(&replica).await, &[(Loses, "it is a replica")]);
    let node = Redis::start_with(&["--cluster-enabled", "yes"]).unwrap();
    assert_found(&found(&node).await, &[(Loses, "Redis Cluster")]);
}

#[tokio::test]
async fn a_refused_question_is_told_apart_from_nobody_there() {
    let redis = Redis::start().unwrap();
    let port = redis.port();
    let url = |user: &str| format!("redis://{user}@127.0.0.1:{port}");
    redis.cli(&["ACL", "SETUSER", "noconfig", "on", ">hush", "~*", "&*", "+@all", "-config"]);
    let facts = ask(&url("noconfig:hush"), WITHIN, now_us).await.unwrap();
    assert!(examine(&facts).iter().any(|f| f.what.contains("CONFIG GET is refused")), "{facts:?}");
    redis.cli(&["ACL", "SETUSER", "noinfo", "on", ">hush", "~*", "&*", "+@all", "-info"]);
    for user in ["noinfo:hush", "nobody:hush"] {
        let error = ask(&url(user), WITHIN, now_us).await.unwrap_err();
        assert!(matches!(error, AskError::Refused(_)), "{user}: {error}");
        assert!(!error.to_string().contains("hush"), "{error}");
    }
    drop(redis);
    let error = ask(&url(":hush"), WITHIN, now_us).await.unwrap_err();
    assert!(matches!(error, AskError::Unreachable(_)) && !error.to_string().contains("hush"), "{error}");
    assert!(matches!(ask("http://hush@x", WITHIN, now_us).await, Err(AskError::Url(text)) if !text.contains("hush")));
}

#[tokio::test]
async fn a_frozen_redis_is_given_up_in_time() {
    let redis = Redis::start().unwrap();
    redis.stop().unwrap();
    let asked = tokio::time::timeout(WITHIN, ask(&redis.url(), Duration::from_millis(300), now_us)).await.unwrap();
    assert!(matches!(asked, Err(AskError::Unreachable(_))), "{asked:?}");
}

#[tokio::test]
async fn a_far_redis_is_measured() {
    let redis = Redis::start().unwrap();
    let proxy = testkit::Proxy::start(redis.address()).await.unwrap();
    proxy.delay(Duration::from_millis(10));
    let facts = ask(&format!("redis://{}", proxy.address()), WITHIN, now_us).await.unwrap();
    let found = examine(&facts);
    assert!(found.iter().any(|f| f.severity == Risk && f.what.contains("a round trip takes")), "{found:?}");
    let near = ask(&redis.url(), WITHIN, now_us).await.unwrap();
    assert!(fine(&near).iter().any(|text| text.contains(" ms away")), "{near:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_sentinels_the_master_is_examined() {
    let sentinel = tokio::task::spawn_blocking(testkit::Sentinel::start).await.unwrap().unwrap();
    let facts = ask(&sentinel.url(), WITHIN, now_us).await.unwrap();
    assert!(fine(&facts).iter().any(|text| text == "a master"), "{facts:?}");
    let found = examine(&facts);
    assert!(found.iter().all(|f| f.severity != Loses), "{facts:?}");
    assert!(found.iter().any(|f| f.severity == Risk && f.what.contains("min-replicas-to-write is 0")), "{found:?}");
}
