//! The rules of the Lua scripts, each taken away: what only a real Redis can show. docs/delivery.md names them.
//!
//! A mutant is the shipped text with one place replaced. The same short history is told to the shipped script and to the
//! mutant, and asks one question: the answer has to be yes for the first and no for the second. The place has to be in the
//! text exactly once, so that a rule that moves breaks its own test.

mod presence;

use std::time::Duration;

use backplane::{AttachRequest, BatchAnswer, BatchResult, RedisBackplane, VerifyRequest};
use delivery::{Kind, NewMessage, Place, Reason, Standing, record};
use protocol::client::From;
use protocol::{Cursor, Stamp};
use testkit::redis::Redis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixtures::{
    Generation, LIMITS, batch, epoch, message, node, open, redis_settings, registration, replica_of, retry, topology,
};

const APPEND: &str = include_str!("../../src/redis/lua/append.lua");
const COMMON: &str = include_str!("../../src/redis/lua/common.lua");
const LATER: u64 = u64::MAX >> 12;

/// What is replaced in one of the texts, and by what.
type Edit<'a> = (&'a str, &'a str);

/// The history is answered yes by the shipped scripts and no by those with the edits.
pub(crate) async fn caught(file: &str, edits: &[Edit<'_>], is_kept: impl AsyncFn(&Redis, &mut Generation) -> bool) {
    let redis = Redis::start().unwrap();
    let mut mutant = file.to_owned();
    for (from, to) in edits {
        assert_eq!(mutant.matches(from).count(), 1, "the rule has moved: {from}");
        mutant = mutant.replace(from, to);
    }
    for is_mutant in [false, true] {
        redis.cli(&["FLUSHALL"]);
        let edit = |text: &str| if is_mutant { text.replace(file, &mutant) } else { text.to_owned() };
        let settings = redis_settings(redis.url(), "sb", LIMITS);
        let mut generation = open(&RedisBackplane::with_script_edit(settings, &edit).unwrap()).await;
        assert_eq!(is_kept(&redis, &mut generation).await, !is_mutant, "mutant: {is_mutant}");
    }
}

async fn ask(generation: &Generation, number: Option<u64>, deadline_us: u64, messages: &[NewMessage]) -> BatchResult {
    generation.commands.append(&batch("user:b", number, deadline_us, messages)).await.unwrap()
}

fn answered(result: BatchResult) -> Option<BatchAnswer> {
    match result {
        BatchResult::Answered(answer) => Some(answer),
        BatchResult::Stale => None,
    }
}

/// Appends to the one address; where each message is, or nothing if it was refused.
async fn places(generation: &Generation, messages: &[NewMessage]) -> Vec<Place> {
    let answer = answered(ask(generation, None, LATER, messages).await).unwrap();
    answer.groups[0].iter().flatten().map(|placed| placed.place).collect()
}

pub(crate) async fn cursor(generation: &Generation, id: &str) -> Option<Cursor> {
    places(generation, &[message(id)]).await.first().and_then(Place::cursor)
}

/// A connection of a node at the one address.
async fn attach(generation: &Generation, node: &str) -> Cursor {
    let registration = registration(node, 1, 1, None);
    let request = record::AttachRequest::of(registration, vec![], From::Oldest);
    let request = AttachRequest { of: "user:b".into(), epoch: epoch("attached"), request };
    generation.commands.attach(&[request]).await.unwrap().remove(0).unwrap().cursor
}

async fn standing(generation: &Generation, cursor: Cursor) -> Standing {
    let request = VerifyRequest { of: "user:b".into(), registration: registration("a", 1, 1, None), cursor };
    generation.commands.verify(&[request]).await.unwrap().remove(0).unwrap().standing
}

fn length(redis: &Redis, of: &str) -> String {
    redis.cli(&["LLEN", &topology("sb").keys().record(of).inbox])
}

/// A batch to three addresses, of which the second is broken by then, asked twice with one number.
async fn ask_around(redis: &Redis, generation: &Generation) -> bool {
    let mut builder = backplane::BatchBuilder::default();
    for of in ["user:a", "user:b", "user:c"] {
        builder.push(&of.into(), message("m1"), || protocol::Epoch([1; 8]));
    }
    let batch = builder.finish(topology("sb").lane("user:a"), Some(delivery::BatchNumber(1)), LATER);
    for _ in 0..2 {
        let Ok(BatchResult::Answered(answer)) = generation.commands.append(&batch).await else { continue };
        assert!(answer.groups[1].is_err(), "it is broken");
    }
    ["user:a", "user:c"].iter().all(|of| length(redis, of) == "2")
}

#[tokio::test]
async fn mutant_first_pass_fails_as_a_whole() {
    caught(APPEND, &[("run(read_all)", "read_all()")], async |redis, generation| {
        redis.cli(&["HSET", &topology("sb").keys().record("user:b").meta, "a", "b"]);
        ask_around(redis, generation).await
    })
    .await;
}

/// What fails in the middle of the second pass has stored half a batch, and has no ledger: asked again it is stored twice.
#[tokio::test]
async fn mutant_no_pcall_around_an_address() {
    let edit = ("local ok, err = pcall(pass)", "pass()\n    local ok, err = true");
    caught(APPEND, &[edit], async |redis, generation| {
        cursor(generation, "m0").await;
        let inbox = topology("sb").keys().record("user:b").inbox;
        redis.cli(&["DEL", &inbox]);
        redis.cli(&["SET", &inbox, "text"]);
        ask_around(redis, generation).await
    })
    .await;
}

#[tokio::test]
async fn mutant_no_pieces() {
    let pieces = "for from = 1, #rows, 1000 do
    length = call('RPUSHX', inbox, unpack(rows, from, min(from + 999, #rows)))";
    let whole = "for from = 1, 1 do
    length = call('RPUSHX', inbox, unpack(rows))";
    caught(APPEND, &[(pieces, whole)], async |_, generation| {
        let many: Vec<NewMessage> = (0..8_100).map(|n| message(&format!("m{n}"))).collect();
        cursor(generation, "m").await;
        places(generation, &many).await.len() == many.len()
    })
    .await;
}

#[tokio::test]
async fn mutant_equal_number_runs_again() {
    let edit = ("if last == tonumber(number) then return 'P' .. sub(held, 9) end", "");
    caught(APPEND, &[edit], async |redis, generation| {
        for _ in 0..2 {
            ask(generation, Some(1), LATER, &[message("m1")]).await;
        }
        length(redis, "user:b") == "2"
    })
    .await;
}

/// Nobody retries an ephemeral message: a lane that asks again must not be heard again.
#[tokio::test]
async fn mutant_ephemeral_with_every_asking() {
    let edit = ("if last == tonumber(number) then return 'P' .. sub(held, 9) end", "");
    caught(APPEND, &[edit], async |_, generation| {
        attach(generation, "a").await;
        let one = NewMessage { kind: Kind::Ephemeral, ..message("m1") };
        for _ in 0..2 {
            ask(generation, Some(1), LATER, std::slice::from_ref(&one)).await;
        }
        let mut heard = 0;
        while let Ok(Ok(bundle)) =
            tokio::time::timeout(Duration::from_millis(300), generation.subscription.next()).await
        {
            heard += bundle.items.len();
        }
        heard == 1
    })
    .await;
}

#[tokio::test]
async fn mutant_lower_number_runs() {
    let edit = ("if last > tonumber(number) then return 'S' .. pack('>I8', now) end", "");
    caught(APPEND, &[edit], async |_, generation| {
        ask(generation, Some(2), LATER, &[message("m2")]).await;
        ask(generation, Some(1), LATER, &[message("m1")]).await == BatchResult::Stale
    })
    .await;
}

#[tokio::test]
async fn mutant_no_deadline() {
    let edit = ("if now > tonumber(ARGV[2]) then return 'S' .. pack('>I8', now) end", "");
    caught(APPEND, &[edit], async |_, generation| {
        ask(generation, Some(1), 1, &[message("m1")]).await == BatchResult::Stale
    })
    .await;
}

#[tokio::test]
async fn mutant_deadline_before_the_equal_number() {
    let held = "  local held = call('GET', KEYS[1])";
    let late = format!("  if now > tonumber(ARGV[2]) then return 'S' .. pack('>I8', now) end\n{held}");
    caught(APPEND, &[(held, &late)], async |_, generation| {
        ask(generation, Some(1), LATER, &[message("m1")]).await;
        ask(generation, Some(1), 1, &[message("m1")]).await != BatchResult::Stale
    })
    .await;
}

/// A call that belongs to no lane: what was found in its place at the first try is stored again by a copy that comes when
/// the search does not reach back so far.
#[tokio::test]
async fn mutant_no_deadline_without_a_number() {
    let checked = "if now > tonumber(ARGV[2]) then return 'S' .. pack('>I8', now) end";
    let edit = (checked, &*format!("if number ~= '' and{} ", &checked[2..]));
    caught(APPEND, &[edit], async |_, generation| {
        ask(generation, None, 1, &[message("m1")]).await == BatchResult::Stale
    })
    .await;
}

/// PUBLISH fails, and the batch is asked again: with the ledger behind it, it is stored again.
#[tokio::test]
async fn mutant_publish_before_the_ledger() {
    let edits = [
        ("pcall_redis('SET', KEYS[1], concat(reply), 'PX', '3600000')", "held_back = concat(reply)"),
        ("if number ~= '' then\n  reply[1]", "local held_back\nif number ~= '' then\n  reply[1]"),
        ("pcall_redis(ARGV[8]", "call(ARGV[8]"),
        ("return concat(reply)", "if held_back then call('SET', KEYS[1], held_back) end\nreturn concat(reply)"),
    ];
    caught(APPEND, &edits, async |redis, generation| {
        attach(generation, "a").await;
        redis.cli(&["ACL", "SETUSER", "default", "-publish"]);
        for _ in 0..2 {
            drop(generation.commands.append(&batch("user:b", Some(1), LATER, &[message("m1")])).await);
        }
        redis.cli(&["ACL", "SETUSER", "default", "+publish"]);
        length(redis, "user:b") == "2"
    })
    .await;
}

/// PUBLISH says that nobody heard it: a hint. The node may be subscribing at this moment.
#[tokio::test]
async fn mutant_append_removes_a_location() {
    let publish =
        "local heard = pcall_redis(ARGV[8], node == '' and ARGV[10] or ARGV[7] .. node, concat(payloads[node]))";
    let remove = format!(
        "{publish}
  if heard == 0 then call('SET', KEYS[2], sub(call('GET', KEYS[2]), 1, HEAD_BYTES), 'KEEPTTL') end"
    );
    caught(APPEND, &[(publish, &remove)], async |_, generation| {
        attach(generation, "c").await;
        places(generation, &[message("m1")]).await;
        let answer = answered(ask(generation, None, LATER, &[message("m2")]).await).unwrap();
        answer.receivers == [(node("c"), 0)]
    })
    .await;
}

#[tokio::test]
async fn mutant_search_without_a_bound() {
    caught(APPEND, &[("seen >= 4096 or bytes >= 524288", "false")], async |_, generation| {
        for batch in 0..5 {
            let many: Vec<NewMessage> = (0..1_000).map(|n| message(&format!("{batch}-{n}"))).collect();
            places(generation, &many).await;
        }
        places(generation, &[retry("never sent")]).await == [Place::Unprovable]
    })
    .await;
}

#[tokio::test]
async fn mutant_no_retry_mark() {
    caught(APPEND, &[("if one.is_retry then m.t = now end", "")], async |_, generation| {
        places(generation, &[message("m0")]).await;
        places(generation, &[retry("m1")]).await;
        matches!(places(generation, &[message("m1")]).await[..], [Place::Found(_)])
    })
    .await;
}

#[tokio::test]
async fn mutant_late_first_try_not_searched() {
    let late = |id| NewMessage { kind: Kind::Late, search_us: Some(60_000_000), ..message(id) };
    let edit = ("local search = (kind == 'r' or kind == 'l') and", "local search = kind == 'r' and");
    caught(APPEND, &[edit], async |_, generation| {
        places(generation, &[message("m1")]).await;
        matches!(places(generation, &[late("m1")]).await[..], [Place::Found(_)])
    })
    .await;
}

#[tokio::test]
async fn mutant_batch_not_compared() {
    caught(APPEND, &[("local earlier = before[one.tag]", "local earlier")], async |redis, generation| {
        places(generation, &[message("m1"), retry("m1")]).await;
        length(redis, "user:b") == "2"
    })
    .await;
}

#[tokio::test]
async fn mutant_inbox_does_not_expire_with_its_meta() {
    let edit = ("call('PEXPIREAT', inbox, expiry)", "");
    caught(APPEND, &[edit], async |redis, generation| {
        cursor(generation, "m1").await;
        let keys = topology("sb").keys().record("user:b");
        redis.cli(&["PEXPIRETIME", &keys.meta]) == redis.cli(&["PEXPIRETIME", &keys.inbox])
    })
    .await;
}

/// A week-old message reappeared as number 1.
#[tokio::test]
async fn mutant_old_inbox_stays() {
    caught(APPEND, &[("call('UNLINK', a.inbox)", "")], async |redis, generation| {
        cursor(generation, "m1").await;
        redis.cli(&["DEL", &topology("sb").keys().record("user:b").meta]);
        cursor(generation, "m2").await.is_some_and(|cursor| cursor.seq == 1)
    })
    .await;
}

#[tokio::test]
async fn mutant_half_a_record_loses_its_locations() {
    caught(COMMON, &[("tail = old and old.tail or ''", "tail = ''")], async |redis, generation| {
        attach(generation, "a").await;
        redis.cli(&["DEL", &topology("sb").keys().record("user:b").inbox]);
        cursor(generation, "m1").await;
        let answer = answered(ask(generation, None, LATER, &[message("m2")]).await).unwrap();
        answer.groups[0].as_ref().unwrap()[0].online
    })
    .await;
}

#[tokio::test]
async fn mutant_half_a_record_keeps_its_epoch() {
    let edit = ("return { epoch = epoch, b = 0", "return { epoch = old and old.epoch or epoch, b = 0");
    caught(COMMON, &[edit], async |redis, generation| {
        let attached = attach(generation, "a").await;
        redis.cli(&["DEL", &topology("sb").keys().record("user:b").inbox]);
        cursor(generation, "m1").await.is_some_and(|cursor| cursor.epoch != attached.epoch)
    })
    .await;
}

/// A place before the base is a negative index, which counts from the end.
#[tokio::test]
async fn mutant_index_before_the_base() {
    caught(COMMON, &[("if seq < m.b then return RETENTION end", "")], async |redis, generation| {
        let first = cursor(generation, "m1").await.unwrap();
        let meta = topology("sb").keys().record("user:b").meta;
        // The number of the base, as if everything up to there had been trimmed.
        redis.cli(&["EVAL", "redis.call('SETRANGE', KEYS[1], 9, struct.pack('>I8', 100))", "1", &meta]);
        standing(generation, first).await == Standing::Forked(Reason::Retention)
    })
    .await;
}

#[tokio::test]
async fn mutant_index_behind_the_end() {
    caught(COMMON, &[("if seq >= m.b + length then return AHEAD end", "")], async |_, generation| {
        let first = cursor(generation, "m1").await.unwrap();
        let ahead = Cursor { seq: protocol::limits::NUMBER_MAX - 1, ..first };
        standing(generation, ahead).await == Standing::Forked(Reason::Ahead)
    })
    .await;
}

#[tokio::test]
async fn mutant_check_by_number() {
    caught(COMMON, &[("if not entry or stamp_of(entry) ~= stamp then return FORK end", "")], async |_, generation| {
        let first = cursor(generation, "m1").await.unwrap();
        let other = Cursor { stamp: Stamp(first.stamp.0 + 1), ..first };
        standing(generation, other).await == Standing::Forked(Reason::Fork)
    })
    .await;
}

/// Not Lua: what `Replicas` sends, with and without the write before the WAIT. A replica that stands still confirms nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutant_wait_without_a_write_of_its_own() {
    let redis = Redis::start().unwrap();
    let replica = replica_of(&redis).await;
    replica.stop().unwrap();
    redis.cli(&["SET", "somebody's", "write"]);
    let confirmed = async |commands: &str| {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
        socket.write_all(commands.as_bytes()).await.unwrap();
        let mut said = [0; 64];
        let mut length = 0;
        while !said[..length].contains(&b':') {
            length += socket.read(&mut said[length..]).await.unwrap();
        }
        String::from_utf8_lossy(&said[..length]).contains(":1")
    };
    assert!(!confirmed("SET sb:{p0}:wait:a 1 PX 60000\r\nWAIT 1 300\r\n").await, "the replica stands still");
    assert!(confirmed("WAIT 1 300\r\n").await, "a connection that wrote nothing has nothing to wait for");
    replica.cont().unwrap();
}
