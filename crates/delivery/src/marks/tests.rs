use super::*;
use bytes::Bytes;
use protocol::node::Stored;
use protocol::{Encoding, Epoch, Stamp, Tag};

use crate::types::Limits;

const LIMITS: Limits = Limits { retention_ms: 600_000, inbox_max: 100, inbox_bytes: 1 << 20, retry_young_us: 1 };

fn record() -> Record {
    Record::begin(Whose::User, Epoch([1; 8]), 1_000, &LIMITS)
}

/// Stores a message, and says where.
fn put(record: &mut Record, from: &str, to: &str, mseq: Option<u64>, expires_ms: Option<u64>) -> Cursor {
    let envelope = Envelope {
        to: to.into(),
        from: from.into(),
        id: "m".into(),
        encoding: Encoding::Json,
        body: Bytes::from_static(b"1"),
        expires_ms,
        traceparent: None,
        flags: 0,
    };
    let stamp = Stamp(record.end().stamp.0 + 1_000);
    record.entries.push_back(Stored { tag: Tag(1), stamp, mseq, envelope: envelope.encode().into() });
    record.end()
}

fn asked(between: Option<(&str, &str)>) -> CountRequest {
    CountRequest {
        of: "user:bob".into(),
        after: None,
        between: between.map(|(one, other)| (one.into(), other.into())),
        since: 0,
        mark: "/r".into(),
        reader: "user:bob".into(),
    }
}

/// Everything that is counted, in parts of two entries.
fn counted(record: &Record, now_us: u64, mut request: CountRequest) -> (Vec<(String, u64)>, u64) {
    let (mut by, mut unread) = (std::collections::BTreeMap::<String, u64>::new(), 0);
    loop {
        let part = count(Some(record), now_us, &request, 2, COUNT_BYTES_MAX);
        part.by.iter().for_each(|(from, n)| *by.entry(from.to_string()).or_default() += n);
        unread += part.unread;
        match part.next {
            Some(next) => request.after = Some(next),
            None => return (by.into_iter().collect(), unread),
        }
    }
}

#[test]
fn a_read_mark_never_goes_back_and_stands_at_places_only() {
    let mut record = record();
    let places: Vec<Cursor> = (0..3).map(|_| put(&mut record, "user:ann", "user:bob", None, None)).collect();
    let to = |record: &mut Record, cursor| mark(Some(record), Whose::User, &"/r".into(), cursor);
    assert_eq!(to(&mut record, places[1]), Ok(Marked::Moved));
    assert_eq!(to(&mut record, places[0]), Ok(Marked::Behind(places[1])));
    assert_eq!(to(&mut record, places[1]), Ok(Marked::Behind(places[1])));
    let ahead = Cursor { seq: 9, ..places[2] };
    assert_eq!(to(&mut record, ahead), Ok(Marked::NoPlace(Reason::Ahead)));
    assert_eq!(to(&mut record, Cursor { epoch: Epoch([2; 8]), ..ahead }), Ok(Marked::NoPlace(Reason::Epoch)));
    assert_eq!(mark(None, Whose::User, &"/r".into(), ahead), Ok(Marked::NoPlace(Reason::Epoch)));
    // What holds no more gives way.
    record.cursors.insert("/r".into(), ahead);
    assert_eq!(to(&mut record, places[0]), Ok(Marked::Moved));
}

#[test]
fn a_user_keeps_1_024_places_and_a_group_as_many_as_it_has_readers() {
    let mut record = record();
    let place = put(&mut record, "user:ann", "user:bob", None, None);
    for n in 0..FIELDS_MAX {
        record.cursors.insert(format!("/r/{n}").into(), Cursor::default());
    }
    assert_eq!(mark(Some(&mut record), Whose::User, &"/r".into(), place), Err(NoRoom));
    assert_eq!(mark(Some(&mut record), Whose::User, &"/r/7".into(), place), Ok(Marked::Moved));
    assert_eq!(mark(Some(&mut record), Whose::Group, &"/r".into(), place), Ok(Marked::Moved));
}

#[test]
fn messages_are_counted_by_sender_and_unread_behind_the_mark() {
    let mut record = record();
    put(&mut record, "user:ann", "user:bob", None, None);
    let read = put(&mut record, "user:bob", "user:ann", None, None);
    put(&mut record, "user:ann", "user:bob", None, None);
    put(&mut record, "user:bob", "user:ann", None, None);
    put(&mut record, "user:cem", "user:bob", None, None);
    let all = vec![("user:ann".to_owned(), 2), ("user:bob".to_owned(), 2), ("user:cem".to_owned(), 1)];
    assert_eq!(counted(&record, 0, asked(None)), (all.clone(), 3));
    record.cursors.insert("/r".into(), read);
    assert_eq!(counted(&record, 0, asked(None)), (all, 2));
    let of_two = (vec![("user:ann".to_owned(), 2), ("user:bob".to_owned(), 2)], 1);
    assert_eq!(counted(&record, 0, asked(Some(("user:bob", "user:ann")))), of_two);
    assert_eq!(counted(&record, 0, asked(Some(("user:ann", "user:bob")))), of_two);
}

#[test]
fn what_expired_and_what_a_member_may_not_have_is_not_counted() {
    let mut record = record();
    put(&mut record, "user:ann", "group:g", Some(5), Some(1_000));
    put(&mut record, "user:ann", "group:g", Some(5), None);
    put(&mut record, "user:ann", "group:g", Some(7), None);
    assert_eq!(counted(&record, 0, asked(None)).1, 3);
    assert_eq!(counted(&record, 2_000_000, asked(None)).1, 2);
    assert_eq!(counted(&record, 0, CountRequest { since: 6, ..asked(None) }).1, 1);
}

#[test]
fn large_entries_end_a_part_early_and_one_is_always_looked_at() {
    let mut record = record();
    let places: Vec<Cursor> = (0..3).map(|_| put(&mut record, "user:ann", "user:bob", None, None)).collect();
    let part = count(Some(&record), 0, &asked(None), 1_000, 1);
    assert_eq!((part.unread, part.next), (1, Some(places[0])));
}

#[test]
fn a_place_says_who_sent_it_unless_it_is_trimmed_or_was_never_there() {
    let mut record = record();
    let start = record.end();
    let places: Vec<Cursor> = (0..3).map(|_| put(&mut record, "user:ann", "user:bob", None, None)).collect();
    assert_eq!(sender(Some(&record), &places[0]), Sender::From("user:ann".into()));
    assert_eq!(sender(Some(&record), &start), Sender::NoPlace, "the stub is no message");
    assert_eq!(sender(Some(&record), &Cursor { seq: 9, ..places[0] }), Sender::NoPlace);
    assert_eq!(sender(None, &places[0]), Sender::NoPlace);
    record.entries.drain(..2);
    record.base_seq = 2;
    assert_eq!(sender(Some(&record), &places[0]), Sender::Expired);
    assert_eq!(sender(Some(&record), &places[1]), Sender::Expired, "the base is there to be compared only");
}

#[test]
fn places_come_in_parts_and_none_is_left_out() {
    let mut record = record();
    for n in 0..5 {
        record.cursors.insert(format!("d{n}").into(), Cursor { seq: n, ..Cursor::default() });
    }
    let first = fields(Some(&record), 0, 2);
    let second = fields(Some(&record), first.next, 2);
    let third = fields(Some(&record), second.next, 2);
    assert_eq!((first.total, third.next), (5, 0));
    let seen: Vec<u64> = [first.fields, second.fields, third.fields].concat().iter().map(|(_, at)| at.seq).collect();
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}
