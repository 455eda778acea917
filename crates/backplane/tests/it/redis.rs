//! What only a real Redis can show: ledger, deadlines, bad keys, expiry, and every way a generation ends.

use std::time::Duration;

use backplane::{
    AttachRequest, BackplaneError, BatchAnswer, BatchBuilder, BatchResult, Loss, RedisBackplane, VerifyRequest,
};
use delivery::record;
use delivery::{Place, Reason, Standing, Start};
use protocol::client::From;
use protocol::{Cursor, Text};
use testkit::redis::Redis;

use crate::fixtures::{
    Generation, LIMITS, acked, batch, epoch, message, open, open_redis, redis_settings, registered, registration,
    replica_of, retry, topology,
};

const LATER: u64 = u64::MAX >> 12;

async fn start() -> (Redis, Generation) {
    let redis = Redis::start().unwrap();
    let generation = open_redis(redis.url(), "sb", LIMITS).await;
    (redis, generation)
}

async fn append(generation: &Generation, of: &str, number: Option<u64>, ids: &[&str]) -> BatchResult {
    let messages: Vec<_> = ids.iter().map(|id| message(id)).collect();
    generation.commands.append(&batch(of, number, LATER, &messages)).await.unwrap()
}

fn answer(result: BatchResult) -> BatchAnswer {
    match result {
        BatchResult::Answered(answer) => answer,
        BatchResult::Stale => panic!("stale"),
    }
}

fn stored(result: BatchResult) -> Vec<Cursor> {
    let place = |p: &delivery::Placed| match p.place {
        Place::Stored(cursor) => cursor,
        other => panic!("{other:?}"),
    };
    answer(result).groups.iter().flat_map(|g| g.as_ref().unwrap().iter().map(place).collect::<Vec<_>>()).collect()
}

fn attach(of: &str, reg: u64, cursors: Vec<Option<Cursor>>) -> AttachRequest {
    let registration = registration("a", 1, reg, None);
    let request = record::AttachRequest::of(registration, cursors, From::Oldest);
    AttachRequest { of: Text::from(of), epoch: epoch(&format!("{of}{reg}")), request }
}

/// A node stops, or a master has no slots any more, while its generation is being opened: one connection stayed for ever.
#[tokio::test]
async fn an_opening_that_is_dropped_leaves_no_connection() {
    let redis = Redis::start().unwrap();
    let backplane = RedisBackplane::new(redis_settings(redis.url(), "sb", LIMITS)).unwrap();
    let mut dropped = 0;
    for step in 0..150 {
        let opening = tokio::time::timeout(Duration::from_micros(step * 40), open(&backplane)).await;
        dropped += usize::from(opening.is_err());
    }
    assert!(dropped > 20, "the fault bit");
    let own = |clients: String| clients.lines().filter(|line| !line.contains("cmd=client|list")).count();
    testkit::eventually("no connection is left", Duration::from_secs(5), async || {
        (own(redis.cli(&["CLIENT", "LIST"])) == 0).then_some(())
    })
    .await
    .unwrap();
}

/// A batch that the node gave up on can still lie in a socket and arrive after its successor: it was stored twice before
/// there was a ledger.
#[tokio::test]
async fn a_batch_asked_twice_is_stored_once_and_one_that_was_overtaken_never() {
    let (redis, generation) = start().await;
    let first = append(&generation, "user:b", Some(1), &["m1", "m2"]).await;
    let BatchResult::Answered(again) = append(&generation, "user:b", Some(1), &["m1", "m2"]).await else {
        panic!("stale")
    };
    assert_eq!(again.groups, answer(first).groups, "the ledger's reply");
    append(&generation, "user:b", Some(2), &["m3"]).await;
    assert_eq!(append(&generation, "user:b", Some(1), &["m1", "m2"]).await, BatchResult::Stale);
    let inbox = topology("sb").keys().record("user:b").inbox;
    assert_eq!(redis.cli(&["LLEN", &inbox]), "4", "the base and three messages");
}

#[tokio::test]
async fn a_batch_past_its_deadline_does_nothing_but_a_stored_answer_is_given() {
    let (_redis, generation) = start().await;
    let now = generation.commands.now_us();
    let late = batch("user:b", Some(1), now - 1_000_000, &[message("m1")]);
    assert_eq!(generation.commands.append(&late).await.unwrap(), BatchResult::Stale);
    let first = append(&generation, "user:b", Some(2), &["m1"]).await;
    let again = batch("user:b", Some(2), now - 1_000_000, &[message("m1")]);
    let BatchResult::Answered(again) = generation.commands.append(&again).await.unwrap() else { panic!("stale") };
    assert_eq!(again.groups, answer(first).groups);
}

/// A clock that was stepped made every later batch stale, for ever: nothing but an answered append set it right.
#[tokio::test]
async fn a_stale_answer_sets_the_clock_right() {
    let (_redis, generation) = start().await;
    let real = generation.commands.now_us();
    // What a step of Redis' clock looks like from here: the deadline that was reckoned lies in its past.
    let late = batch("user:b", Some(1), real - 60_000_000, &[message("m1")]);
    assert_eq!(generation.commands.append(&late).await.unwrap(), BatchResult::Stale);
    let drift = generation.commands.now_us().abs_diff(real);
    assert!(drift < 2_000_000, "the clock is Redis' own again: {drift} us off");
    let next = batch("user:b", Some(2), generation.commands.now_us() + 3_000_000, &[message("m1")]);
    assert_eq!(stored(generation.commands.append(&next).await.unwrap()).len(), 1);
}

/// Two passes, and the whole work on one address inside one pcall: one bad key stored half a batch twice before.
#[tokio::test]
async fn a_bad_key_is_an_error_for_its_own_messages_only() {
    let (redis, generation) = start().await;
    let topology = topology("sb");
    let keys = |of: &str| topology.keys().record(of);
    append(&generation, "user:inbox", None, &["m0"]).await;
    append(&generation, "user:version", None, &["m0"]).await;
    append(&generation, "user:old", None, &["m0"]).await;
    redis.cli(&["HSET", &keys("user:type").meta, "a", "b"]);
    redis.cli(&["DEL", &keys("user:inbox").inbox]);
    redis.cli(&["SET", &keys("user:inbox").inbox, "text"]);
    redis.cli(&["SETRANGE", &keys("user:version").meta, "0", "X"]);
    let mut builder = BatchBuilder::default();
    for of in ["user:good", "user:type", "user:inbox", "user:old", "user:version", "user:other"] {
        builder.push(&Text::from(of), message(&format!("to {of}")), || epoch(of));
    }
    let batch = builder.finish(topology.lane("user:good"), Some(delivery::BatchNumber(1)), LATER);
    for _ in 0..2 {
        let BatchResult::Answered(answer) = generation.commands.append(&batch).await.unwrap() else { panic!("stale") };
        let is_stored: Vec<bool> = answer.groups.iter().map(Result::is_ok).collect();
        assert_eq!(is_stored, [true, false, false, true, false, true], "{answer:?}");
        assert!(answer.groups[1].as_ref().unwrap_err().contains("WRONGTYPE"), "{answer:?}");
    }
    for of in ["user:good", "user:other"] {
        assert_eq!(redis.cli(&["LLEN", &keys(of).inbox]), "2", "once");
    }
    assert_eq!(redis.cli(&["LLEN", &keys("user:old").inbox]), "3", "once");
    let newest = redis.cli(&["LINDEX", &keys("user:old").inbox, "-1"]);
    assert!(newest.contains("to user:old"), "what follows a failure is stored as its own: {newest}");
    let verify = |of: &str| VerifyRequest {
        of: of.into(),
        registration: registration("a", 1, 1, None),
        cursor: Cursor::default(),
    };
    let answers = generation.commands.verify(&[verify("user:version"), verify("user:good")]).await.unwrap();
    assert!(answers[0].is_err() && answers[1].is_ok(), "{answers:?}");
}

#[tokio::test]
async fn a_full_batch_to_one_address_is_stored_in_pieces_and_in_order() {
    let (_redis, generation) = start().await;
    let messages: Vec<_> = (0..1_000).map(|n| message(&format!("m{n}"))).collect();
    let result = generation.commands.append(&batch("user:b", Some(1), LATER, &messages)).await.unwrap();
    let places = stored(result);
    assert!(places.iter().zip(1..).all(|(cursor, seq)| cursor.seq == seq));
    assert!(places.windows(2).all(|two| two[0].stamp < two[1].stamp));
    let more = stored(append(&generation, "user:b", Some(2), &["next"]).await);
    assert!(more[0].stamp > places[999].stamp, "no stamp is given twice");
}

/// A week-old inbox reappeared as number 1 when meta and inbox could expire apart.
#[tokio::test]
async fn a_record_of_which_one_half_is_gone_begins_a_new_epoch_and_keeps_its_locations() {
    let (redis, generation) = start().await;
    let topology = topology("sb");
    let keys = topology.keys().record("user:b");
    let attached = generation.commands.attach(&[attach("user:b", 1, vec![])]).await.unwrap().remove(0).unwrap();
    let first = stored(append(&generation, "user:b", None, &["m1"]).await)[0];
    assert_eq!(first.epoch, attached.cursor.epoch);
    redis.cli(&["DEL", &keys.inbox]);
    let BatchResult::Answered(answer) = append(&generation, "user:b", None, &["m2"]).await else { panic!("stale") };
    let placed = answer.groups[0].as_ref().unwrap()[0];
    let Place::Stored(second) = placed.place else { panic!("{placed:?}") };
    assert!(placed.online, "the location stayed");
    assert_eq!(second.seq, 1);
    redis.cli(&["DEL", &keys.meta]);
    let lost = generation.commands.attach(&[attach("user:b", 2, vec![Some(second)])]).await.unwrap().remove(0).unwrap();
    assert_eq!(lost.start, Start::Reset { reason: Reason::Epoch, lost: None });
    assert_eq!(redis.cli(&["LLEN", &keys.inbox]), "1", "the old inbox is unlinked");
}

#[tokio::test]
async fn meta_and_inbox_expire_at_the_same_moment_and_not_before_the_retention() {
    let (redis, generation) = start().await;
    let topology = topology("sb");
    let keys = topology.keys().record("user:b");
    append(&generation, "user:b", None, &["m1"]).await;
    let first = (redis.cli(&["PEXPIRETIME", &keys.meta]), redis.cli(&["PEXPIRETIME", &keys.inbox]));
    assert_eq!(first.0, first.1);
    let left: u64 = redis.cli(&["PTTL", &keys.meta]).parse().unwrap();
    assert!(left > LIMITS.retention_ms && left <= LIMITS.life_ms(), "{left}");
    append(&generation, "user:b", None, &["m2"]).await;
    assert_eq!(redis.cli(&["PEXPIRETIME", &keys.meta]), first.0, "moved in steps, not with every message");
    let cursor = stored(append(&generation, "user:b", None, &["m3"]).await)[0];
    generation.commands.ack(&[acked("user:b", "phone", cursor)]).await.unwrap();
    // The expiry as meta has it, long ago: as if the steps had been waited for.
    let due = "return redis.call('SETRANGE', KEYS[1], 41, string.rep('\\0', 8))";
    redis.cli(&["EVAL", due, "1", &keys.meta]);
    append(&generation, "user:b", None, &["m4"]).await;
    let moved: Vec<_> = [&keys.meta, &keys.inbox, &keys.cursors].map(|key| redis.cli(&["PEXPIRETIME", key])).into();
    assert!(moved[0] > first.0 && moved.iter().all(|one| *one == moved[0]), "{first:?} {moved:?}");
}

/// The one message of two attempts: the first is answered to a node that died, the second comes through another.
#[tokio::test]
async fn a_retry_through_another_generation_is_found() {
    let (redis, generation) = start().await;
    let first = stored(append(&generation, "user:b", Some(1), &["m1"]).await)[0];
    let other = open_redis(redis.url(), "sb", LIMITS).await;
    let result = other.commands.append(&batch("user:b", Some(9), LATER, &[retry("m1")])).await.unwrap();
    assert_eq!(answer(result).groups[0].as_ref().unwrap()[0].place, Place::Found(first));
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_loaded_again_without_anybody_noticing() {
    let (redis, generation) = start().await;
    append(&generation, "user:b", Some(1), &["m1"]).await;
    redis.cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(stored(append(&generation, "user:b", Some(2), &["m2"]).await)[0].seq, 2);
}

#[tokio::test]
async fn verify_puts_back_a_location_that_was_lost() {
    let (redis, generation) = start().await;
    let attached = generation.commands.attach(&[attach("user:b", 5, vec![])]).await.unwrap().remove(0).unwrap();
    let topology = topology("sb");
    let meta = topology.keys().record("user:b").meta;
    // What a lost tail leaves: the record as it was before the attach.
    redis.cli(&[
        "EVAL",
        "local m = redis.call('GET', KEYS[1]) redis.call('SET', KEYS[1], string.sub(m, 1, 73), 'KEEPTTL')",
        "1",
        &meta,
    ]);
    let request =
        VerifyRequest { of: "user:b".into(), registration: registration("a", 1, 6, None), cursor: attached.cursor };
    let verified = generation.commands.verify(&[request]).await.unwrap().remove(0).unwrap();
    assert_eq!((verified.standing, verified.registered), (Standing::Current, vec![registered(1, 6)]));
    let BatchResult::Answered(answer) = append(&generation, "user:b", None, &["m1"]).await else { panic!("stale") };
    assert_eq!(answer.receivers, [(crate::fixtures::node("a"), 1)]);
}

async fn end_of(generation: &mut Generation) -> Loss {
    let end = async {
        loop {
            if let Err(loss) = generation.subscription.next().await {
                return loss;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(15), end).await.expect("the generation ends")
}

#[tokio::test]
async fn a_generation_ends_with_either_of_its_connections_and_says_which() {
    let (redis, mut generation) = start().await;
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(end_of(&mut generation).await, Loss::Subscriber);
    let mut generation = open_redis(redis.url(), "sb", LIMITS).await;
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert_eq!(end_of(&mut generation).await, Loss::Commands);
    let mut generation = open_redis(redis.url(), "sb", LIMITS).await;
    redis.kill();
    assert!(matches!(end_of(&mut generation).await, Loss::Subscriber | Loss::Commands));
    let error = generation.commands.append(&batch("user:b", Some(1), LATER, &[message("m1")])).await.unwrap_err();
    assert!(matches!(error, BackplaneError::Unknown(_) | BackplaneError::NotRun(_)), "{error}");
}

#[tokio::test]
async fn a_generation_ends_when_its_own_channel_reaches_nobody() {
    let (redis, mut generation) = start().await;
    generation.commands.attach(&[attach("user:b", 1, vec![])]).await.unwrap();
    // The subscriber's connection stays, its subscription does not: nothing but the count of receivers tells.
    let list = redis.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]);
    let id = list.split("id=").nth(1).and_then(|s| s.split(' ').next()).unwrap();
    redis.cli(&["CLIENT", "KILL", "ID", id]);
    append(&generation, "user:b", Some(1), &["m1"]).await;
    assert!(matches!(end_of(&mut generation).await, Loss::Unheard | Loss::Subscriber));
}

#[tokio::test]
async fn a_demoted_master_ends_the_generation() {
    let (redis, mut generation) = start().await;
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = generation.commands.append(&batch("user:b", Some(1), LATER, &[message("m1")])).await;
    assert!(!matches!(error, Ok(BatchResult::Answered(ref a)) if a.groups[0].is_ok()), "{error:?}");
    assert_eq!(end_of(&mut generation).await, Loss::NotMaster);
    let refused = RedisBackplane::new(redis_settings(redis.url(), "sb", LIMITS)).unwrap();
    let opened = backplane::Backplane::open(&refused, &backplane::Source::default()).await;
    assert!(matches!(opened.err(), Some(BackplaneError::NotRun(why)) if why.contains("not a master")));
}

/// A demoted master keeps its subscribers and answers reads: nothing but asking it tells.
#[tokio::test]
async fn a_master_that_is_demoted_while_nobody_writes_ends_the_generation_too() {
    let (redis, mut generation) = start().await;
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_eq!(end_of(&mut generation).await, Loss::NotMaster);
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_said_at_once_and_used_when_it_comes() {
    let mut redis = Redis::start().unwrap();
    redis.kill();
    let backplane = RedisBackplane::new(redis_settings(redis.url(), "sb", LIMITS)).unwrap();
    let refused = backplane::Backplane::open(&backplane, &backplane::Source::default()).await;
    assert!(matches!(refused.err(), Some(BackplaneError::NotRun(_))));
    redis.restart().unwrap();
    let generation = open(&backplane).await;
    assert_eq!(stored(append(&generation, "user:b", Some(1), &["m1"]).await)[0].seq, 1);
}

/// A frozen Redis executes what lies in its socket when it thaws: asked again with the same number, it is stored once.
#[tokio::test]
async fn a_redis_that_freezes_and_thaws_stores_once_what_was_asked_twice() {
    let (redis, generation) = start().await;
    redis.stop().unwrap();
    let one = batch("user:b", Some(1), LATER, &[message("m1")]);
    let error = generation.commands.append(&one).await.unwrap_err();
    assert!(matches!(error, BackplaneError::Unknown(_)), "{error}");
    redis.cont().unwrap();
    let places = stored(generation.commands.append(&one).await.unwrap());
    assert_eq!(places[0].seq, 1);
    let topology = topology("sb");
    assert_eq!(redis.cli(&["LLEN", &topology.keys().record("user:b").inbox]), "2");
}

#[test]
fn a_url_that_is_none_is_refused_without_being_shown() {
    let settings = |url: &str| redis_settings(url.to_owned(), "sb", LIMITS);
    let error = RedisBackplane::new(settings("http://user:secret@host")).unwrap_err();
    assert!(error.contains("expected redis://") && !error.contains("secret"));
    assert!(!format!("{:?}", settings("redis://user:secret@host")).contains("secret"));
}

/// A lane asks right behind its batch's answer, and the master may have died in between. Whoever had asked then waited for
/// ever, and with him the sender.
#[tokio::test]
async fn replicated_is_answered_when_the_generation_has_ended() {
    let (redis, mut generation) = start().await;
    redis.kill();
    let end = async { while generation.subscription.next().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), end).await.expect("the generation ends with its server");
    for _ in 0..3 {
        let asked = tokio::time::timeout(Duration::from_secs(5), generation.commands.replicated());
        asked.await.expect("an answer").unwrap_err();
    }
}

/// WAIT on a connection that wrote nothing lies; behind a write of its own it covers every append before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicated_is_confirmed_by_a_replica_that_has_it_and_by_nobody_else() {
    let (redis, generation) = start().await;
    stored(append(&generation, "user:b", Some(1), &["m1"]).await);
    let alone = generation.commands.replicated().await.unwrap_err();
    assert!(matches!(alone, BackplaneError::Unknown(_)), "there is no replica: {alone}");
    let replica = replica_of(&redis).await;
    stored(append(&generation, "user:b", Some(2), &["m2"]).await);
    // Many at once share a WAIT or two.
    let one = || {
        let commands = generation.commands.clone();
        tokio::spawn(async move { commands.replicated().await })
    };
    let many: Vec<_> = (0..50).map(|_| one()).collect();
    for confirmed in many {
        confirmed.await.unwrap().unwrap();
    }
    let waits = redis.cli(&["INFO", "commandstats"]);
    let waits =
        waits.lines().find_map(|line| line.strip_prefix("cmdstat_wait:calls=")?.split(',').next()?.parse::<u32>().ok());
    assert!(waits.is_some_and(|count| count < 30), "{waits:?} calls for 51 askers");
    let topology = topology("sb");
    assert_eq!(replica.cli(&["LLEN", &topology.keys().record("user:b").inbox]), "3", "the base and both");
    replica.stop().unwrap();
    stored(append(&generation, "user:b", Some(3), &["m3"]).await);
    let begun = tokio::time::Instant::now();
    assert!(generation.commands.replicated().await.is_err(), "the replica stands still");
    assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());
    replica.cont().unwrap();
    generation.commands.replicated().await.unwrap();
}
