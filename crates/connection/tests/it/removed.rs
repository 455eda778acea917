//! Removals and seats that are lost: nobody receives behind his removal, and nobody misses what is his.

use connection::{Input, Request, Unavailable};
use delivery::Start;
use serde_json::json;

use crate::groups::joined;
use crate::harness::{Harness, address, at, entered};

const HELLO: &str = r#"{"type":"hello","device":"phone"}"#;
const DEN: &str = "group:den";

#[test]
fn who_is_removed_is_told_and_gets_nothing_more() {
    let mut bob = Harness::member();
    bob.input(Input::Ended { of: DEN.into(), mseq: 4 });
    assert!(matches!(bob.asked(), Request::Unseat { .. }));
    assert_eq!(bob.get(), [json!({"type": "member_change", "group": "den", "user": "bob", "joined": false})]);
    bob.said(DEN, 8, 4);
    bob.whispered(DEN);
    bob.input(Input::Doubt { of: DEN.into() });
    assert!(bob.get().is_empty() && bob.asked_nothing());
}

/// He has joined again since, or the node knows another join of his: his membership is looked at, and he goes on.
#[test]
fn who_loses_his_seat_by_an_older_change_sits_down_again_and_misses_nothing() {
    for mseq in [0, 2, 3] {
        let mut bob = Harness::member();
        bob.input(Input::Ended { of: DEN.into(), mseq });
        bob.whispered(DEN);
        let seat = bob.seat(DEN, 9, 5);
        assert_eq!((seat.joined, seat.is_lasting), (0, true), "as one whose number is not known");
        let Request::Enter(enter) = bob.asked() else { panic!() };
        assert_eq!(enter.cursors, [Some(at(7))]);
        bob.page(DEN, entered(DEN, Some(5), Start::Resumed, 7, 9));
        assert_eq!(bob.told().joined, 5);
        assert_eq!(bob.ids(), ["m8", "m9"]);
        bob.said(DEN, 10, 5);
        assert_eq!(bob.ids(), ["m10"]);
    }
}

#[test]
fn a_guest_who_loses_his_seat_by_an_older_change_sits_down_again() {
    let mut bob = Harness::open(connection::Settings::default(), 0);
    bob.say(r#"{"type":"join","id":"1","group":"den","until":"disconnect"}"#);
    bob.seat(DEN, 4, 9);
    bob.get();
    bob.input(Input::Ended { of: DEN.into(), mseq: 9 });
    bob.seat(DEN, 5, 9);
    assert!(matches!(bob.asked(), Request::Read { after, .. } if after == [at(4)]), "what came meanwhile is read");
    bob.page(DEN, entered(DEN, None, Start::Resumed, 4, 5));
    assert_eq!(bob.ids(), ["m5"]);
    bob.input(Input::Ended { of: DEN.into(), mseq: 10 });
    assert_eq!(bob.get()[0]["joined"], false);
}

/// The node answers a seat with the end of a membership that it knows to be over.
#[test]
fn a_join_that_is_over_before_it_has_a_seat_is_refused() {
    let mut bob = Harness::open(connection::Settings::default(), 0);
    bob.say(r#"{"type":"join","id":"1","group":"den"}"#);
    bob.asked();
    joined(&mut bob, "1", "den", 9);
    assert_eq!(bob.told().joined, 9);
    bob.input(Input::Ended { of: DEN.into(), mseq: 10 });
    let frames = bob.get();
    assert_eq!((&frames[0]["id"], &frames[0]["code"], frames.len()), (&json!("1"), &json!("forbidden"), 1));
    // A number that the node does not find: the group's record decides.
    bob.asked();
    bob.say(r#"{"type":"join","id":"2","group":"den"}"#);
    bob.asked();
    joined(&mut bob, "2", "den", 12);
    bob.told();
    bob.input(Input::Ended { of: DEN.into(), mseq: 12 });
    assert_eq!(bob.seat(DEN, 7, 12).joined, 0);
    bob.asked();
    bob.page(DEN, entered(DEN, None, Start::New, 7, 7));
    assert_eq!(bob.get()[0]["code"], "forbidden");
}

#[test]
fn a_seat_that_was_lost_and_refused_is_asked_for_again() {
    let mut bob = Harness::in_groups(&["den"], HELLO);
    bob.seat(DEN, 7, 3);
    bob.asked();
    bob.input(Input::Ended { of: DEN.into(), mseq: 2 });
    bob.told();
    bob.input(Input::Seated { of: address(DEN), result: Err(Unavailable) });
    bob.pass(500);
    bob.seat(DEN, 8, 3);
    bob.page(DEN, entered(DEN, Some(3), Start::Resumed, 7, 7));
    assert_eq!(bob.told().joined, 3);
    assert!(matches!(bob.asked(), Request::Read { after, .. } if after == [at(7)]));
}

/// The removal was heard of while the answer that still calls him a member was on its way.
#[test]
fn a_removal_while_entering_is_not_forgotten() {
    let mut bob = Harness::in_groups(&["den"], HELLO);
    bob.seat(DEN, 7, 3);
    bob.asked();
    bob.get();
    bob.input(Input::Ended { of: DEN.into(), mseq: 4 });
    bob.told();
    bob.page(DEN, entered(DEN, Some(3), Start::Resumed, 5, 7));
    assert_eq!(bob.get(), [json!({"type": "member_change", "group": "den", "user": "bob", "joined": false})]);
    assert!(matches!(bob.asked(), Request::Unseat { .. }) && bob.asked_nothing());
}

/// Removed and joined again, while a page of his first membership is on its way: it could pass for the first of the second.
#[test]
fn a_join_behind_a_removal_waits_for_what_was_asked_before() {
    let mut bob = Harness::member();
    bob.said(DEN, 9, 3);
    assert!(matches!(bob.asked(), Request::Read { .. }));
    bob.input(Input::Ended { of: DEN.into(), mseq: 4 });
    assert!(matches!(bob.asked(), Request::Unseat { .. }));
    bob.get();
    bob.say(r#"{"type":"join","id":"1","group":"den"}"#);
    bob.asked();
    joined(&mut bob, "1", "den", 6);
    assert!(bob.asked_nothing());
    bob.page(DEN, entered(DEN, None, Start::Resumed, 7, 9));
    assert!(bob.get().is_empty(), "that page is nobody's");
    bob.seat(DEN, 9, 6);
    assert!(matches!(bob.asked(), Request::Enter(_)));
    bob.page(DEN, entered(DEN, Some(6), Start::New, 9, 10));
    let frames = bob.get();
    assert_eq!((&frames[1]["type"], &frames[2]["id"], frames.len()), (&json!("ok"), &json!("m10"), 3));
}
