//! What is kept, and what another master is asked again.

use super::*;
use crate::asker::tests::fake::{Fake, Mode};
use backplane::Group;
use bytes::Bytes;
use delivery::{InSet, Membership, Place, Placed};
use protocol::{Cursor, Epoch, GroupId, Stamp, Tag, Text, UserId};
use routing::{Layout, Settings};

fn keeper() -> (Keeper, crate::metrics::Metrics) {
    let settings = Settings { partitions: 1, layout: Layout::Cluster, ..Settings::default() };
    let topology = Topology::new(settings).unwrap();
    let metrics = crate::metrics::Metrics::new();
    let counters = (metrics.appended_again.clone(), metrics.unconfirmed.clone());
    let current = Arc::new(Current::new(topology.clone()));
    (Keeper::new(topology, current, Clock::start(), counters), metrics)
}

fn master(lineage: &str, broken: Option<&str>) -> Commands {
    let (lineage, broken) = (Some(lineage.to_owned()), broken.map(Into::into));
    Arc::new(Fake { lineage, broken, ..Fake::of([SlotGroup(0)], Mode::Answers) })
}

fn message(record: &str, n: u64) -> Promise {
    let envelope = Bytes::from_static(b"x");
    let message = NewMessage { kind: Kind::Durable, tag: Tag(n), envelope, search_us: None };
    Promise::Message(Acknowledged { record: record.into(), message, cursor: Cursor::default(), first_us: 0 })
}

fn answered(keeper: &Keeper, records: &[&str]) {
    keeper.promise(SlotGroup(0), records.iter().zip(1..).map(|(record, n)| message(record, n)));
}

/// A message was stored on a master that went away, and its retry on the next one. Then the first master came back, and
/// the node that had stored the retry looked back to that only: the message was there twice.
#[tokio::test]
async fn what_was_a_retry_is_looked_for_as_far_back_as_its_first_try() {
    let (keeper, _metrics) = keeper();
    keeper.restore(&master("old", None)).await.unwrap();
    let (tag, envelope) = (Tag(1), Bytes::from_static(b"x"));
    let message = |search_us, kind| NewMessage { kind, tag, envelope: envelope.clone(), search_us };
    let messages =
        vec![message(Some(30_000_000), Kind::Durable), message(None, Kind::Durable), message(Some(7), Kind::Late)];
    let record = "user:a".into();
    let batch = Batch {
        lane: routing::Lane(0),
        number: None,
        deadline_us: 0,
        epoch: Epoch::default(),
        groups: vec![Group { record, messages }],
    };
    let cursor = Cursor { stamp: Stamp(100_000_000), ..Cursor::default() };
    let placed = |place| Placed { place, at: Stamp(0).at(), online: false };
    let places = [Place::Found(cursor), Place::Stored(cursor), Place::Stored(cursor)].map(placed);
    let answer = BatchAnswer { groups: vec![Ok(places.to_vec())], receivers: Vec::new(), is_elsewhere: false };
    keeper.keep(&batch, &answer);
    let mut window = keeper.parts[0].window.lock();
    let kept = window.replay().filter_map(|one| match one {
        Promise::Message(one) => Some((one.first_us, one.message.kind, one.message.search_us)),
        Promise::Member(_) | Promise::Set(_) => None,
    });
    let kept: Vec<_> = kept.collect();
    let durable = |first_us| (first_us, Kind::Durable, None);
    assert_eq!(kept, [durable(70_000_000), durable(100_000_000), durable(99_999_993)]);
}

/// A key of another type under one user's inbox kept every generation of its master from beginning, for ever.
#[tokio::test]
async fn a_record_that_refuses_is_given_up_after_a_few_generations_and_the_others_are_appended() {
    let (keeper, metrics) = keeper();
    keeper.restore(&master("old", None)).await.unwrap();
    answered(&keeper, &["user:a", "user:bad", "user:c"]);
    let new = master("new", Some("user:bad"));
    for _ in 1..REFUSALS_MAX {
        keeper.restore(&new).await.unwrap_err();
    }
    assert!(metrics.render().contains("switchboard_unconfirmed_total 0"), "not given up yet");
    keeper.restore(&new).await.unwrap();
    assert!(metrics.render().contains("switchboard_unconfirmed_total 1"), "{}", metrics.render());
    assert_eq!(keeper.parts[0].lineage.lock().as_deref(), Some("new"));
    assert_eq!(keeper.parts[0].window.lock().len(), 3, "until the replicas have it, or the next master");
}

/// Whoever joined between two messages is to get the second one, and not the first: their numbers say so.
#[tokio::test]
async fn messages_and_joins_of_a_group_are_asked_again_in_their_order() {
    let (keeper, _metrics) = keeper();
    keeper.restore(&master("old", None)).await.unwrap();
    let (record, user) = (Text::from("group:den"), UserId::parse("bob").unwrap());
    let join = Promise::Member(Membership { record, user, is_join: true, mseq: 5 });
    keeper.promise(SlotGroup(0), [message("group:den", 1), join, message("group:den", 2), message("user:x", 3)]);
    let fake = Arc::new(Fake { lineage: Some("new".to_owned()), ..Fake::of([SlotGroup(0)], Mode::Answers) });
    let new: Commands = fake.clone();
    keeper.restore(&new).await.unwrap();
    let appends_and_changes: Vec<_> =
        fake.asked.lock().iter().filter(|one| !one.starts_with("holds")).cloned().collect();
    assert_eq!(appends_and_changes, ["append 2", "change, Join bob group:den again 5", "append 1"]);
}

/// A slot that was on its way kept every generation of its master from beginning, as long as that took.
#[tokio::test]
async fn a_join_in_a_slot_that_moves_does_not_keep_a_master_from_beginning() {
    let (keeper, metrics) = keeper();
    keeper.restore(&master("old", None)).await.unwrap();
    let user = UserId::parse("bob").unwrap();
    let set = InSet { user: user.clone(), group: GroupId::parse("den").unwrap(), is_in: true };
    let join = Membership { record: "group:den".into(), user, is_join: true, mseq: 5 };
    keeper.promise(SlotGroup(0), [Promise::Set(set), Promise::Member(join)]);
    let fake = Fake { lineage: Some("new".to_owned()), ..Fake::of([SlotGroup(0)], Mode::TryAgain) };
    let new: Commands = Arc::new(fake);
    for _ in 1..REFUSALS_MAX {
        keeper.restore(&new).await.unwrap_err();
    }
    keeper.restore(&new).await.unwrap();
    assert!(metrics.render().contains("switchboard_unconfirmed_total 2"), "{}", metrics.render());
}

/// Somebody else has the last place by now. No other generation would find room.
#[tokio::test]
async fn a_join_that_has_no_room_any_more_is_counted_and_delays_nobody() {
    let (keeper, metrics) = keeper();
    keeper.restore(&master("old", None)).await.unwrap();
    let user = UserId::parse("bob").unwrap();
    let join = Promise::Member(Membership { record: "group:full".into(), user, is_join: true, mseq: 5 });
    keeper.promise(SlotGroup(0), [join]);
    let lineage = Some("new".to_owned());
    let full = Some("group:full".into());
    let new: Commands = Arc::new(Fake { lineage, full, ..Fake::of([SlotGroup(0)], Mode::Answers) });
    keeper.restore(&new).await.unwrap();
    assert!(metrics.render().contains("switchboard_unconfirmed_total 1"), "{}", metrics.render());
}

/// Only a tail is lost. Where people join and write in turns each turn was a call of its own, and nobody was served until the
/// last of thousands.
#[tokio::test]
async fn what_is_there_makes_no_calls_of_its_own_between_joins() {
    let (keeper, _metrics) = keeper();
    keeper.restore(&master("old", None)).await.unwrap();
    let record = Text::from("group:den");
    for n in 1..=50 {
        let user = UserId::parse(&format!("u{n}")).unwrap();
        let join = Promise::Member(Membership { record: record.clone(), user, is_join: true, mseq: 2 * n });
        let Promise::Message(stored) = message("group:den", n) else { panic!() };
        let cursor = Cursor { seq: n, ..Cursor::default() };
        keeper.promise(SlotGroup(0), [Promise::Message(Acknowledged { cursor, ..stored }), join]);
    }
    let (lineage, held) = (Some("new".to_owned()), (1..=49).collect());
    let fake = Arc::new(Fake { lineage, held, ..Fake::of([SlotGroup(0)], Mode::Answers) });
    let new: Commands = fake.clone();
    keeper.restore(&new).await.unwrap();
    let asked = fake.asked.lock().clone();
    let what: Vec<_> = asked.iter().map(|one| one.split([' ', ',']).next().unwrap()).collect();
    assert_eq!(what, ["holds", "change", "append", "change"], "{asked:?}");
}

#[tokio::test]
async fn a_group_that_refuses_a_join_is_given_up_after_a_few_generations() {
    let (keeper, metrics) = keeper();
    keeper.restore(&master("old", None)).await.unwrap();
    let user = UserId::parse("bob").unwrap();
    let join = Promise::Member(Membership { record: "group:bad".into(), user, is_join: true, mseq: 5 });
    keeper.promise(SlotGroup(0), [join]);
    let new = master("new", Some("group:bad"));
    for _ in 1..REFUSALS_MAX {
        keeper.restore(&new).await.unwrap_err();
    }
    keeper.restore(&new).await.unwrap();
    assert!(metrics.render().contains("switchboard_unconfirmed_total 1"), "{}", metrics.render());
}
