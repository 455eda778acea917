//! The way of a group's messages to one of its members: the link, pauses, another place than the node's.

use connection::{Input, Request, Settings, What};
use delivery::{Attached, Reason, Start};
use protocol::{Envelope, Ephemeral, UnixMillis};
use serde_json::json;

use crate::harness::{Harness, address, at, entered, group, group_entry, page, user};

const DEN: &str = "group:den";

#[test]
fn what_follows_is_delivered_and_a_gap_is_read() {
    let mut bob = Harness::member();
    bob.said(DEN, 8, 3);
    bob.said(DEN, 10, 3);
    assert_eq!(bob.ids(), ["m8"]);
    let Request::Read { of, after, with_head } = bob.asked() else { panic!() };
    assert_eq!((of, after, with_head), (address(DEN), vec![at(8)], false));
    bob.said(DEN, 11, 3);
    bob.page(DEN, entered(DEN, None, Start::Resumed, 8, 10));
    assert_eq!(bob.ids(), ["m9", "m10"]);
    assert!(matches!(bob.asked(), Request::Read { .. }), "what came meanwhile");
}

#[test]
fn the_frame_is_the_same_for_all_and_says_again_only_where_it_has_to() {
    let mut bob = Harness::member();
    bob.said(DEN, 9, 3);
    bob.asked();
    bob.page(DEN, entered(DEN, None, Start::Reset { reason: Reason::Retention, lost: Some(1) }, 8, 9));
    let frames = bob.get();
    let reset = json!({"type": "reset", "of": DEN, "reason": "retention", "cursor": at(8).to_text(), "lost": 1});
    assert_eq!((&frames[0], &frames[1]["again"]), (&reset, &json!(true)));
    bob.said(DEN, 10, 3);
    assert_eq!(bob.get()[0].get("again"), None);
}

/// A failover took the newest messages back: before everything is replayed, the places that the node remembers are asked
/// about.
#[test]
fn a_fork_asks_for_what_the_node_remembers_too() {
    let mut bob = Harness::member();
    bob.input(Input::Doubt { of: DEN.into() });
    bob.asked();
    let fork = Start::Reset { reason: Reason::Ahead, lost: None };
    bob.page(DEN, entered(DEN, None, fork, 0, 6));
    let Request::Read { after, with_head, .. } = bob.asked() else { panic!() };
    assert_eq!((after, with_head), (vec![at(7)], true));
    assert!(bob.get().is_empty());
    bob.page(DEN, entered(DEN, None, fork, 5, 6));
    let frames = bob.get();
    assert_eq!((&frames[0]["reason"], &frames[1]["again"], frames.len()), (&json!("ahead"), &json!(true), 2));
}

#[test]
fn a_member_at_another_place_than_the_node_reads_in_a_new_generation() {
    let mut bob = Harness::member();
    bob.input(Input::Generation);
    assert!(matches!(bob.asked(), Request::Attach(attach) if attach.groups_known == Some(5)), "the own inbox");
    assert!(bob.asked_nothing(), "the node looks after its groups");
    bob.input(Input::HeadAt { of: DEN.into(), cursor: at(7) });
    assert!(bob.asked_nothing());
    bob.input(Input::HeadAt { of: DEN.into(), cursor: at(9) });
    assert!(matches!(bob.asked(), Request::Read { after, .. } if after == [at(7)]));
}

#[test]
fn a_read_that_failed_is_asked_again() {
    let mut bob = Harness::member();
    bob.said(DEN, 9, 3);
    bob.asked();
    bob.input(Input::Attached { of: address(DEN), result: Err(connection::Unavailable) });
    bob.pass(500);
    assert!(matches!(bob.asked(), Request::Read { after, .. } if after == [at(7)]));
}

#[test]
fn a_slow_client_is_paused_in_its_groups_too_and_reads_on() {
    let mut bob = Harness::with_identity(&["den"], r#"{"type":"hello","device":"phone"}"#, |_| {});
    bob.seat(DEN, 7, 3);
    bob.asked();
    bob.page(DEN, entered(DEN, Some(3), Start::Resumed, 7, 7));
    bob.told();
    bob.get();
    let many = 8..3_000;
    many.for_each(|seq| bob.said(DEN, seq, 3));
    assert!(!bob.connection.wants_input());
    bob.whispered(DEN);
    bob.shared(DEN, What::Members { group: group("den"), who: Some((user("alice"), true)), members: 2 });
    let counts = bob.connection.take_counts();
    assert_eq!((counts.dropped_ephemeral, counts.dropped_changes), (1, 1));
    let got = bob.ids().len() as u64;
    assert!(got < 2_992);
    let Request::Read { after, .. } = bob.asked() else { panic!() };
    assert_eq!(after, [at(7 + got)]);
    assert!(bob.asked_nothing());
    bob.page(DEN, entered(DEN, None, Start::Resumed, 7 + got, 8 + got));
    assert_eq!(bob.ids(), [format!("m{}", 8 + got)]);
}

/// A client that comes back after a day is behind in all of its groups: their pages would be 16 MiB.
#[test]
fn only_eight_groups_are_read_at_once() {
    let names: Vec<String> = (0..30).map(|n| format!("g{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bob = Harness::in_groups(&names, r#"{"type":"hello","device":"phone"}"#);
    names.iter().for_each(|name| drop(bob.seat(&format!("group:{name}"), 7, 3)));
    let mut entering = Vec::new();
    while !bob.asked_nothing() {
        let Request::Enter(enter) = bob.asked() else { panic!() };
        entering.push(enter.of);
    }
    assert_eq!(entering.len(), 8);
    let of = entering[0].to_string();
    bob.page(&of, entered(&of, Some(1), Start::Resumed, 7, 7));
    assert!(matches!(bob.asked(), Request::Seat(_)));
    assert!(matches!(bob.asked(), Request::Enter(_)) && bob.asked_nothing());
}

#[test]
fn an_expired_message_is_skipped_live_and_in_a_page() {
    let mut bob = Harness::member();
    bob.ms = 100;
    let mut first = group_entry(DEN, 8, 3);
    first.envelope = Envelope { expires_ms: Some(5), ..(*first.envelope).clone() }.into();
    let mut paged = entered(DEN, None, Start::Resumed, 9, 11);
    paged.page.entries[0].envelope = first.envelope.clone();
    let one = Ephemeral { at: UnixMillis(1), envelope: first.envelope.clone() };
    bob.shared(DEN, What::Entry(first));
    bob.shared(DEN, What::Ephemeral(one));
    bob.said(DEN, 9, 3);
    bob.input(Input::Doubt { of: DEN.into() });
    bob.asked();
    bob.page(DEN, paged);
    assert_eq!(bob.ids(), ["m9", "m11"]);
    assert_eq!(bob.connection.take_counts().expired, 3);
}

#[test]
fn everybodys_stream_is_delivered_to_everybody() {
    let mut bob = Harness::open(Settings::default(), 0);
    bob.said("all", 1, 0);
    bob.whispered("all");
    assert_eq!(bob.get_all().iter().filter(|f| f["type"] == "message").count(), 2);
    bob.said("all", 3, 0);
    assert!(matches!(bob.asked(), Request::Read { of, .. } if of == address("all")));
}

#[test]
fn acks_of_groups_and_of_everybodys_stream_are_held_back_and_handed_on() {
    let mut bob = Harness::member();
    for (of, seq) in [(DEN, 5), (DEN, 4), ("all", 2)] {
        bob.say(&json!({"type": "ack", "of": of, "cursor": at(seq).to_text()}).to_string());
    }
    bob.pass(1_000);
    let mut acks = Vec::new();
    while !bob.asked_nothing() {
        let Request::Ack { of, user, device, cursor } = bob.asked() else { panic!() };
        acks.push((of.to_string(), user.to_string(), device.to_string(), cursor));
    }
    let expected = [("all", at(2)), (DEN, at(5))].map(|(of, cursor)| (of.into(), "bob".into(), "phone".into(), cursor));
    assert_eq!(acks, expected);
    bob.say(&json!({"type": "ack", "of": DEN, "cursor": at(7).to_text()}).to_string());
    bob.input(Input::Gone);
    assert!(matches!(bob.asked(), Request::Ack { cursor, .. } if cursor == at(7)));
}

#[test]
fn the_own_inbox_is_not_read_for_a_doubt_about_a_group() {
    let mut bob = Harness::member();
    bob.input(Input::Dirty);
    assert!(matches!(bob.asked(), Request::Read { of, .. } if of == address("user:bob")));
    bob.give(Ok(Some(Attached { version: 5, user: None, ..page(Start::Resumed, 0, 0, 0) })));
    assert!(bob.asked_nothing());
}
