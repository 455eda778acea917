//! Errands on a node with the embedded backplane, and what a history takes of a page.

use protocol::{Encoding, Envelope, Stamp, Tag};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::mailbox::MailboxReceiver;
use crate::questions::tests::world::{World, next, user};

fn entry(seq: u64, from: &str, to: &str, mseq: Option<u64>, expires_ms: Option<u64>) -> Entry {
    let envelope = Envelope {
        to: to.into(),
        from: from.into(),
        id: "1".into(),
        encoding: Encoding::Json,
        body: bytes::Bytes::from_static(b"1"),
        expires_ms,
        traceparent: None,
        flags: 0,
    };
    let cursor = Cursor { seq, stamp: Stamp(seq), ..Cursor::default() };
    Entry { cursor, link: Stamp(0), tag: Tag(0), mseq, envelope: envelope.into() }
}

fn found(limit: usize) -> Found {
    Found { limit, entries: Vec::new(), bytes: 0, looked_at: 0, before: None }
}

fn numbers(found: &Found) -> Vec<u64> {
    found.entries.iter().map(|entry| entry.cursor.seq).collect()
}

#[test]
fn a_conversation_is_what_two_said_to_each_other_and_says_where_to_go_on() {
    let wanted = Wanted { between: Some(("user:me".into(), "user:bob".into())), since: 0 };
    let page = || {
        vec![
            entry(9, "user:bob", "user:me", None, None),
            entry(8, "user:eve", "user:me", None, None),
            entry(7, "user:me", "user:eve", None, None),
            entry(6, "user:me", "user:bob", None, None),
            entry(5, "user:bob", "user:me", None, Some(0)),
            entry(4, "user:bob", "user:me", None, None),
        ]
    };
    let now = UnixMillis(1);
    let mut all = found(10);
    assert_eq!(all.take(page(), &wanted, now, true), None, "not as many as were asked for");
    assert_eq!(numbers(&all), [9, 6, 4]);
    let mut two = found(2);
    assert_eq!(two.take(page(), &wanted, now, false), Some(true));
    let listing = two.listing(true);
    assert_eq!((listing.entries.len(), listing.before.map(|at| at.seq)), (2, Some(6)));
    let mut last = found(3);
    assert_eq!(last.take(page(), &wanted, now, false), Some(false), "that was the oldest");
}

#[test]
fn a_member_sees_what_was_stored_from_his_join_on() {
    let wanted = Wanted { between: None, since: 7 };
    let page = [(9, Some(8)), (8, Some(7)), (7, Some(6)), (6, None)];
    let page = page.map(|(seq, mseq)| entry(seq, "user:a", "group:den", mseq, None)).to_vec();
    let mut found = found(10);
    assert_eq!(found.take(page, &wanted, UnixMillis(1), true), Some(false));
    assert_eq!(numbers(&found), [9, 8]);
}

#[test]
fn a_history_looks_at_so_many_messages_and_no_more() {
    let wanted = Wanted { between: Some(("user:me".into(), "user:bob".into())), since: 0 };
    let mut found = found(10);
    let page = || (0..SCAN_ENTRIES_MAX as u64 / 2).map(|seq| entry(seq, "user:eve", "user:me", None, None)).collect();
    assert_eq!(found.take(page(), &wanted, UnixMillis(1), true), None);
    assert_eq!(found.take(page(), &wanted, UnixMillis(1), true), Some(true));
    assert!(found.entries.is_empty() && found.before.is_some());
}

/// A world whose queue of requests runs, and a connection of it.
async fn world() -> (World, Mailbox, MailboxReceiver) {
    let world = World::start().await;
    tokio::spawn(crate::asker::run(world.node.asker.clone(), CancellationToken::new()));
    let (sender, receiver) = mailbox();
    (world, sender, receiver)
}

fn request(of: &str, before: Option<Cursor>, limit: usize) -> HistoryRequest {
    HistoryRequest { of: of.into(), before, limit }
}

async fn listing(receiver: &mut MailboxReceiver) -> Listing {
    match next(receiver).await {
        Input::History { result, .. } => result.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_conversation_in_a_long_inbox_is_read_part_by_part_to_its_beginning() {
    let (world, sender, mut receiver) = world().await;
    let first = world.send("user:bob", "user:me").await;
    for _ in 0..3 {
        world.send_many("user:eve", "user:me", 900).await;
        world.send("user:bob", "user:me").await;
    }
    let wanted = || Wanted { between: Some(("user:me".into(), "user:bob".into())), since: 0 };
    let id = || MessageId::parse("1").unwrap();
    history(&world.node, id(), request("user:me", None, 10), wanted(), &sender);
    let part = listing(&mut receiver).await;
    assert!(part.more && part.entries.len() == 3, "{} of 4, {}", part.entries.len(), part.more);
    history(&world.node, id(), request("user:me", part.before, 10), wanted(), &sender);
    let rest = listing(&mut receiver).await;
    assert!(!rest.more && rest.before.is_none());
    let names: Vec<_> = rest.entries.iter().map(|entry| entry.cursor.to_ref("user:me")).collect();
    assert_eq!(names, [first]);
}

#[tokio::test]
async fn a_history_and_a_read_mark_without_a_backplane_are_answered_unavailable() {
    let (world, sender, mut receiver) = world().await;
    world.lose_the_backplane().await;
    let wanted = Wanted { between: None, since: 1 };
    history(&world.node, MessageId::parse("1").unwrap(), request("group:den", None, 10), wanted, &sender);
    let input = next(&mut receiver).await;
    assert!(matches!(input, Input::History { result: Err(HistoryFault::Unavailable), .. }), "{input:?}");
    mark(&world.node, Address::parse("group:den").unwrap(), None, user("me"), Cursor::default(), &sender);
    let input = next(&mut receiver).await;
    assert!(matches!(input, Input::Marked { result: Err(Unavailable), .. }), "{input:?}");
    groups(&world.node, user("me"), &sender);
    let input = next(&mut receiver).await;
    assert!(matches!(input, Input::Groups { result: Err(Unavailable) }), "{input:?}");
}

#[tokio::test]
async fn a_read_mark_moves_and_does_not_go_back() {
    let (world, sender, mut receiver) = world().await;
    let places = [world.send("user:bob", "user:me").await, world.send("user:bob", "user:me").await];
    let places = places.map(|name| Cursor::from_ref(&name).unwrap().0);
    let mut results = Vec::new();
    for cursor in [places[1], places[0]] {
        mark(&world.node, Address::parse("user:me").unwrap(), Some(user("bob")), user("me"), cursor, &sender);
        let Input::Marked { with, result, .. } = next(&mut receiver).await else { panic!("another input") };
        assert_eq!(with, Some(user("bob")));
        results.push(result);
    }
    assert_eq!(results, [Ok(Marked::Moved), Ok(Marked::Behind(places[1]))]);
}

#[tokio::test]
async fn who_joined_finds_the_group_in_his_set() {
    let (world, sender, mut receiver) = world().await;
    let den = protocol::GroupId::parse("den").unwrap();
    world.connect("me", "phone").await;
    world.node.joins.add(user("me"), den.clone()).await.unwrap();
    groups(&world.node, user("me"), &sender);
    let Input::Groups { result } = next(&mut receiver).await else { panic!("another input") };
    let (version, there) = result.unwrap();
    assert!(version > 0);
    assert_eq!(there, [den]);
}
