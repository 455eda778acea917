//! Told histories of one record.

use protocol::client::From;
use protocol::{Encoding, Envelope, Page};

use super::*;
use crate::types::{Attached, Kind, NewMessage, Place, Standing, Start};

const LIMITS: Limits =
    Limits { retention_ms: 1_000_000, inbox_max: 5, inbox_bytes: 1 << 20, retry_young_us: 6_000_000 };
const EPOCH: Epoch = Epoch([7; 8]);

fn message(tag: u64) -> NewMessage {
    let envelope = Envelope {
        to: "user:b".into(),
        from: "user:a".into(),
        id: tag.to_string().into(),
        encoding: Encoding::Json,
        body: Bytes::from_static(b"1"),
        expires_ms: None,
        traceparent: None,
        flags: 0,
    };
    NewMessage { kind: Kind::Durable, tag: Tag(tag), envelope: Bytes::from(envelope.encode()), search_us: None }
}

fn retry(tag: u64) -> NewMessage {
    NewMessage { search_us: Some(70_000_000), ..message(tag) }
}

fn store(record: &mut Option<Record>, now_us: u64, messages: &[NewMessage]) -> Vec<Place> {
    append(record, Whose::User, EPOCH, now_us, 0, messages, &LIMITS).placed.into_iter().map(|p| p.place).collect()
}

fn filled(tags: impl IntoIterator<Item = u64>) -> (Option<Record>, u64) {
    let (mut record, mut now) = (None, 1_000_000_000);
    for tag in tags {
        now += 10;
        store(&mut record, now, &[message(tag)]);
    }
    (record, now)
}

fn resume(record: &Option<Record>, cursors: &[Option<Cursor>]) -> Attached {
    record.as_ref().unwrap().resume(cursors, None, From::Oldest, None)
}

fn tags(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|e| e.tag.0).collect()
}

#[test]
fn numbers_are_dense_and_every_entry_links_to_the_one_before() {
    let mut record = None;
    let appended = append(&mut record, Whose::User, EPOCH, 1_000, 3, &[message(1), message(2)], &LIMITS);
    let record = record.unwrap();
    let [first, second] = &appended.live[..] else { panic!("two rows") };
    assert_eq!((first.cursor.seq, first.cursor.stamp, first.link), (1, Stamp(1_003), record.start().stamp));
    assert_eq!((second.cursor.seq, second.cursor.stamp, second.link), (2, Stamp(1_004), Stamp(1_003)));
}

#[test]
fn a_retry_is_stored_once_and_gets_the_first_answer() {
    let (mut record, now) = filled([]);
    let [Place::Stored(first)] = store(&mut record, now, &[message(9)])[..] else { panic!("stored") };
    assert_eq!(store(&mut record, now + 50, &[retry(9)]), [Place::Found(first)]);
    let [Place::Stored(_)] = store(&mut record, now + 60, &[message(9)])[..] else {
        panic!("the same id without `retry` is a new message")
    };
}

#[test]
fn a_retry_in_the_batch_of_its_first_try_is_the_same_message() {
    let mut record = None;
    let places = store(&mut record, 1_000, &[message(1), retry(1)]);
    let Place::Stored(first) = places[0] else { panic!("stored") };
    assert_eq!(places[1], Place::Found(first));
}

/// The first try is still on its way from another node while the retry is stored: it must find the retry.
#[test]
fn a_late_first_try_finds_the_retry_that_was_stored_before_it() {
    let (mut record, now) = filled([1, 2]);
    let [Place::Stored(retried)] = store(&mut record, now + 10, &[retry(5)])[..] else { panic!("stored") };
    assert_eq!(store(&mut record, now + 1_000_000, &[message(5)]), [Place::Found(retried)]);
    assert!(
        matches!(store(&mut record, now + 7_000_000, &[message(5)])[..], [Place::Stored(_)]),
        "refused by deadline then"
    );
}

#[test]
fn a_retry_that_the_bound_of_the_search_cannot_rule_out_is_not_stored() {
    let (mut record, now) = filled(1..=8);
    assert_eq!(record.as_ref().unwrap().base_seq, 3, "three were trimmed");
    assert_eq!(store(&mut record, now, &[retry(1)]), [Place::Unprovable]);
    let narrow = NewMessage { search_us: Some(5), ..message(1) };
    assert!(matches!(store(&mut record, now + 10, &[narrow])[..], [Place::Stored(_)]), "older than the window");
}

/// A network stood still; the sender tried again through another node, which stored it; long after the mark that retries
/// leave the first try arrived, and was stored a second time.
#[test]
fn a_first_try_that_comes_late_is_looked_for_and_not_refused_for_a_deep_inbox() {
    let (mut record, now) = filled(1..=8);
    let late = |n| NewMessage { kind: Kind::Late, search_us: Some(60_000_000), ..message(n) };
    let now = now + 20_000_000;
    assert!(matches!(store(&mut record, now, &[late(8)])[..], [Place::Found(_)]));
    assert!(matches!(store(&mut record, now, &[late(9)])[..], [Place::Stored(_)]), "the bound does not refuse it");
    assert_eq!(record.as_ref().unwrap().retry_mark_us, 0, "it is no retry");
}

#[test]
fn what_is_trimmed_leaves_a_base_and_the_lost_are_counted_exactly() {
    let (record, _) = filled(1..=5);
    let early = record.as_ref().unwrap().place(2).unwrap();
    let (record, _) = filled(1..=9);
    let inner = record.as_ref().unwrap();
    assert_eq!((inner.base_seq, inner.entries.len()), (4, 6));
    let attached = resume(&record, &[Some(early)]);
    assert_eq!(attached.start, Start::Reset { reason: Reason::Retention, lost: Some(2) });
    assert_eq!(tags(&attached.page), [5, 6, 7, 8, 9]);
    let base = inner.start();
    assert_eq!(resume(&record, &[Some(base)]).start, Start::Resumed, "a cursor on the base still holds");
}

#[test]
fn a_cursor_that_does_not_hold_says_why_and_an_earlier_one_that_does_saves_the_replay() {
    let (record, _) = filled(1..=4);
    let good = record.as_ref().unwrap().place(2).unwrap();
    let fork = Cursor { stamp: Stamp(1), ..record.as_ref().unwrap().place(3).unwrap() };
    let ahead = Cursor { seq: 77, ..good };
    let far = Cursor { seq: protocol::limits::NUMBER_MAX - 1, ..good };
    let other = Cursor { epoch: Epoch([1; 8]), ..good };
    for (cursor, reason) in [
        (Some(fork), Reason::Fork),
        (Some(ahead), Reason::Ahead),
        (Some(far), Reason::Ahead),
        (Some(other), Reason::Epoch),
        (None, Reason::Epoch),
    ] {
        let attached = resume(&record, &[cursor]);
        assert_eq!(attached.start, Start::Reset { reason, lost: None });
        assert_eq!(tags(&attached.page), [1, 2, 3, 4]);
        let attached = resume(&record, &[cursor, Some(other), Some(good)]);
        assert_eq!((attached.start, attached.cursor), (Start::Reset { reason, lost: None }, good));
        assert_eq!(tags(&attached.page), [3, 4]);
    }
}

#[test]
fn a_device_goes_on_where_it_acknowledged_and_never_goes_back() {
    let (mut record, _) = filled(1..=4);
    let phone = Text::from("phone");
    let inner = record.as_mut().unwrap();
    let (two, three) = (inner.place(2).unwrap(), inner.place(3).unwrap());
    inner.ack(Whose::User, &phone, three);
    inner.ack(Whose::User, &phone, two);
    inner.ack(Whose::User, &phone, Cursor { stamp: Stamp(1), ..inner.end() });
    let attached = inner.resume(&[], Some(&phone), From::Oldest, None);
    assert_eq!((attached.start, attached.cursor), (Start::Resumed, three));
    let fresh = Text::from("tablet");
    assert_eq!(tags(&inner.resume(&[], Some(&fresh), From::Oldest, None).page), [1, 2, 3, 4]);
    assert_eq!(inner.resume(&[], Some(&fresh), From::Now, None).page.entries, []);
}

#[test]
fn a_late_detach_removes_only_its_own_registration() {
    let (mut record, now) = filled([1]);
    let registration = |connection, reg| Registration {
        node: NodeId::new("a", 1).unwrap(),
        connection: ConnectionId(connection),
        reg,
        device: None,
    };
    let node = registration(1, 1).node;
    for (connection, reg) in [(1, 1), (2, 2), (1, 5), (1, 4)] {
        let request = AttachRequest::of(registration(connection, reg), Vec::new(), From::Now);
        attach(&mut record, EPOCH, now, &request, &Beside::default(), &LIMITS);
    }
    let inner = record.as_mut().unwrap();
    let there =
        |inner: &Record| -> Vec<_> { inner.registered(&node).iter().map(|r| (r.connection.0, r.reg)).collect() };
    assert_eq!(there(inner), [(1, 5), (2, 2)]);
    inner.detach(&node, ConnectionId(1), 4);
    assert_eq!(inner.registered(&node).len(), 2, "it registered again since");
    inner.detach(&node, ConnectionId(1), 5);
    assert_eq!(there(inner), [(2, 2)]);
}

#[test]
fn verify_says_where_a_cursor_stands_and_puts_a_lost_location_back() {
    let (mut record, now) = filled(1..=3);
    let registration =
        Registration { node: NodeId::new("a", 1).unwrap(), connection: ConnectionId(1), reg: 1, device: None };
    let (end, behind) = (record.as_ref().unwrap().end(), record.as_ref().unwrap().place(1).unwrap());
    let mut ask = |cursor| verify(&mut record, now, &registration, cursor, &LIMITS).standing;
    assert_eq!(ask(end), Standing::Current);
    assert_eq!(ask(behind), Standing::Behind);
    assert_eq!(ask(Cursor { stamp: Stamp(0), ..end }), Standing::Forked(Reason::Fork));
    assert_eq!(record.as_ref().unwrap().locations, [Located { registration: registration.clone(), hand_over: None }]);
    assert_eq!(verify(&mut None, now, &registration, end, &LIMITS).standing, Standing::Gone);
}

#[test]
fn history_goes_backwards_in_pages() {
    let (record, _) = filled(1..=5);
    let inner = record.as_ref().unwrap();
    let (page, more) = inner.history(None, 2).unwrap();
    assert_eq!((tags(&page), more), (vec![4, 5], true));
    let (page, more) = inner.history(Some(page.entries[0].cursor), 200).unwrap();
    assert_eq!((tags(&page), more), (vec![1, 2, 3], false));
    let (page, more) = inner.history(Some(page.entries[0].cursor), 200).unwrap();
    assert_eq!((tags(&page), more), (vec![], false));
    assert_eq!(inner.history(Some(Cursor { stamp: Stamp(0), ..inner.end() }), 5), Err(BadBefore));
}

#[test]
fn age_and_bytes_trim_too_and_the_newest_stays() {
    let (mut record, now) = filled(1..=4);
    let later = now + 2_000_000_000;
    store(&mut record, later, &[message(5)]);
    assert_eq!(tags(&resume(&record, &[]).page), [5], "four are older than the retention");
    let narrow = Limits { inbox_bytes: 1, ..LIMITS };
    append(&mut record, Whose::User, EPOCH, later + 1, 0, &[message(6)], &narrow);
    assert_eq!(tags(&resume(&record, &[]).page), [6]);
}

#[test]
fn a_record_that_nobody_touched_for_its_life_begins_a_new_epoch() {
    let (mut record, now) = filled([1]);
    let late = now + LIMITS.life_ms() * 1_000 + 1_000;
    let other = Epoch([9; 8]);
    append(&mut record, Whose::User, other, late, 0, &[message(2)], &LIMITS);
    assert_eq!(record.unwrap().epoch, other);
}

#[test]
fn an_ephemeral_message_leaves_no_trace() {
    let mut record = None;
    let message = NewMessage { kind: Kind::Ephemeral, ..message(1) };
    assert_eq!(store(&mut record, 1_000, &[message]), [Place::Published]);
    assert_eq!(record, None);
}
