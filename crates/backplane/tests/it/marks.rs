//! What only a real Redis can show of read marks, counts and receipts: bounds, bad keys, expiry.

use backplane::{BackplaneError, CountRequest, MarkRequest};
use bytes::Bytes;
use delivery::{Marked, NewMessage, Place, Sender};
use protocol::limits::{COUNT_ENTRIES_MAX, FIELDS_MAX};
use protocol::{Cursor, Encoding, Envelope, Text};
use testkit::redis::Redis;

use crate::fixtures::{Generation, LIMITS, batch, message, open_redis, topology};

const LATER: u64 = u64::MAX >> 12;

async fn start() -> (Redis, Generation) {
    let redis = Redis::start().unwrap();
    let generation = open_redis(redis.url(), "sb", LIMITS).await;
    (redis, generation)
}

async fn store(generation: &Generation, of: &str, messages: &[NewMessage]) -> Vec<Cursor> {
    let answer = generation.commands.append(&batch(of, None, LATER, messages)).await.unwrap();
    let backplane::BatchResult::Answered(answer) = answer else { panic!("stale") };
    let place = |placed: &delivery::Placed| match placed.place {
        Place::Stored(cursor) => cursor,
        other => panic!("{other:?}"),
    };
    answer.groups[0].as_ref().unwrap().iter().map(place).collect()
}

fn mark(of: &str, field: &str, cursor: Cursor) -> MarkRequest {
    MarkRequest { of: of.into(), field: field.into(), cursor }
}

async fn mark_one(generation: &Generation, field: &str, cursor: Cursor) -> Result<Marked, BackplaneError> {
    generation.commands.mark(&[mark("user:b", field, cursor)]).await.unwrap().remove(0)
}

fn count(of: &str) -> CountRequest {
    CountRequest { of: of.into(), after: None, between: None, since: 0, mark: "/r".into(), reader: of.into() }
}

#[tokio::test]
async fn a_user_keeps_1_024_places_and_who_has_one_may_move_it() {
    let (redis, generation) = start().await;
    let places = store(&generation, "user:b", &[message("m1"), message("m2")]).await;
    mark_one(&generation, "/r", places[0]).await.unwrap();
    let fill = "for n = 2, tonumber(ARGV[1]) do redis.call('HSET', KEYS[1], 'd' .. n, 'x') end";
    let cursors = topology("sb").keys().record("user:b").cursors;
    redis.cli(&["EVAL", fill, "1", &cursors, &FIELDS_MAX.to_string()]);
    assert!(matches!(mark_one(&generation, "/r/ann", places[1]).await, Err(BackplaneError::NotRun(_))));
    assert_eq!(mark_one(&generation, "/r", places[1]).await, Ok(Marked::Moved));
    assert_eq!(mark_one(&generation, "/r", places[0]).await, Ok(Marked::Behind(places[1])));
}

#[tokio::test]
async fn a_mark_expires_with_its_inbox_and_a_bad_key_is_its_own_error() {
    let (redis, generation) = start().await;
    let (bob, cem) = (
        store(&generation, "user:b", &[message("m1")]).await[0],
        store(&generation, "user:c", &[message("m1")]).await[0],
    );
    let topology = topology("sb");
    let keys = |of: &str| topology.keys().record(of);
    redis.cli(&["SET", &keys("user:c").cursors, "x"]);
    let list = [mark("user:c", "/r", cem), mark("user:b", "/r", bob)];
    let answers = generation.commands.mark(&list).await.unwrap();
    assert!(matches!(answers[0], Err(BackplaneError::NotRun(_))), "{answers:?}");
    assert_eq!(answers[1], Ok(Marked::Moved));
    assert_eq!(
        redis.cli(&["PEXPIRETIME", &keys("user:b").cursors]),
        redis.cli(&["PEXPIRETIME", &keys("user:b").inbox])
    );
    assert!(generation.commands.count(&count("user:c")).await.is_err());
    redis.cli(&["DEL", &keys("user:c").inbox]);
    redis.cli(&["SET", &keys("user:c").inbox, "x"]);
    assert!(generation.commands.sender(&"user:c".into(), cem).await.is_err());
    assert!(generation.commands.fields(&"user:c".into(), 0, 10).await.is_err());
}

#[tokio::test]
async fn a_long_stream_is_counted_in_parts_of_a_thousand() {
    let (_redis, generation) = start().await;
    let mut places = Vec::new();
    for part in 0..5 {
        let messages: Vec<_> = (0..500).map(|n| message(&format!("m{part}-{n}"))).collect();
        places.extend(store(&generation, "user:b", &messages).await);
    }
    mark_one(&generation, "/r", places[1_499]).await.unwrap();
    let (mut request, mut parts) = (count("user:b"), Vec::new());
    loop {
        let part = generation.commands.count(&request).await.unwrap();
        parts.push((part.by, part.unread));
        request.after = part.next;
        if request.after.is_none() {
            break;
        }
        assert_eq!(request.after, Some(places[parts.len() * COUNT_ENTRIES_MAX as usize - 1]));
    }
    let from = Text::from("user:a");
    assert_eq!(parts, [(vec![(from.clone(), 1_000)], 0), (vec![(from.clone(), 1_000)], 500), (vec![(from, 500)], 500)]);
}

/// A thousand large messages at once held up Redis for everybody.
#[tokio::test]
async fn large_messages_end_a_part_of_a_count_early() {
    let (_redis, generation) = start().await;
    let large = |n: usize| {
        let envelope = Envelope {
            to: "user:b".into(),
            from: "user:a".into(),
            id: format!("m{n}").into(),
            encoding: Encoding::MessagePack,
            body: Bytes::from(vec![0xc0; 100_000]),
            expires_ms: None,
            traceparent: None,
            flags: 0,
        };
        NewMessage { envelope: envelope.encode().into(), ..message(&format!("m{n}")) }
    };
    for part in 0..4 {
        store(&generation, "user:b", &[0, 1, 2, 3, 4].map(|n| large(5 * part + n))).await;
    }
    let first = generation.commands.count(&count("user:b")).await.unwrap();
    assert_eq!(first.unread, 10, "a megabyte");
    let second = generation.commands.count(&CountRequest { after: first.next, ..count("user:b") }).await.unwrap();
    assert_eq!((second.unread, second.next), (10, None));
}

#[tokio::test]
async fn a_place_names_its_sender_as_long_as_it_is_kept() {
    let (redis, generation) = start().await;
    let places = store(&generation, "user:b", &[message("m1"), message("m2")]).await;
    let of = Text::from("user:b");
    assert_eq!(generation.commands.sender(&of, places[0]).await, Ok(Sender::From("user:a".into())));
    assert_eq!(generation.commands.sender(&"user:nobody".into(), places[0]).await, Ok(Sender::NoPlace));
    let keys = topology("sb").keys().record("user:b");
    redis.cli(&["LPOP", &keys.inbox]);
    redis.cli(&["EVAL", "redis.call('SETRANGE', KEYS[1], 9, struct.pack('>I8', 1))", "1", &keys.meta]);
    assert_eq!(generation.commands.sender(&of, places[0]).await, Ok(Sender::Expired));
    assert_eq!(generation.commands.sender(&of, places[1]).await, Ok(Sender::From("user:a".into())));
}
