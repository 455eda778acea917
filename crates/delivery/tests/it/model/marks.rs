//! Told, not explored: a stream that has come far, and a failover that loses its end. How much is replayed to a client?
//!
//! The ring holds the last sixteen places, the marks the last two of every 64 and of every 512.

use delivery::record::{self, Record};
use delivery::{Consumer, Start, Step};
use protocol::{Cursor, Epoch};

use super::rules::{self, Post, START_US, limits, message};

/// Messages that were delivered before the failover.
const DELIVERED: u64 = 1_300;

fn append(record: &mut Option<Record>, now_us: u64) -> (Cursor, protocol::Stamp) {
    let epoch = Epoch([1; 8]);
    let appended = rules::append(record, epoch, now_us, 0, &[message(Post::first(0))], &limits(10_000));
    (appended.live[0].cursor, appended.live[0].link)
}

/// How many messages of before the fork are replayed where the last `lost` were lost and others took their numbers.
fn replayed(places: fn(&Consumer) -> Vec<Cursor>, lost: u64) -> u64 {
    let mut record = None;
    let mut consumer = Consumer::attaching(Cursor::default());
    let mut survivor = None;
    for n in 1..=DELIVERED {
        let (at, link) = append(&mut record, START_US + n);
        if n == 1 {
            let start = record.as_ref().map(Record::start).unwrap_or_default();
            assert_eq!(consumer.on_page(start, [at], at, false), Step::Ignore);
        } else {
            assert_eq!(consumer.on_live(at, link), Step::Deliver);
        }
        if n == DELIVERED - lost {
            survivor.clone_from(&record);
        }
    }
    for n in 0..=lost {
        append(&mut survivor, 2 * START_US + n);
    }
    let attached = record::read(survivor.as_ref(), 0, &places(&consumer)).expect("there is a record");
    match attached.start {
        Start::Reset { .. } => (DELIVERED - lost) - attached.cursor.seq,
        other => panic!("{other:?}: the cursor itself was lost"),
    }
}

fn only_marks(consumer: &Consumer) -> Vec<Cursor> {
    let is_mark = |place: &Cursor| place.seq.is_multiple_of(64) || *place == consumer.cursor();
    consumer.places().into_iter().filter(is_mark).collect()
}

fn only_ring(consumer: &Consumer) -> Vec<Cursor> {
    let newest = consumer.cursor().seq;
    consumer.places().into_iter().filter(|place| place.seq + 16 > newest).collect()
}

fn only_cursor(consumer: &Consumer) -> Vec<Cursor> {
    vec![consumer.cursor()]
}

#[test]
fn a_fork_replays_nothing_from_the_ring_and_little_from_a_mark() {
    // Lost, and the most that may come again: none within the ring, 64 and 512 within the marks.
    for (lost, most) in [(1, 0), (15, 0), (16, 63), (80, 63), (200, 511), (700, 511)] {
        let replayed = replayed(Consumer::places, lost);
        println!("{lost} lost: {replayed} come again");
        assert!(replayed <= most, "{lost} lost: {replayed} come again");
    }
}

#[test]
fn mutant_no_marks() {
    assert_eq!(replayed(only_ring, 80), DELIVERED - 80, "all of it");
    assert_eq!(replayed(only_ring, 15), 0);
}

#[test]
fn mutant_no_ring() {
    assert!(replayed(only_marks, 1) > 0);
}

#[test]
fn mutant_no_earlier_places() {
    assert_eq!(replayed(only_cursor, 1), DELIVERED - 1, "all of it");
}
