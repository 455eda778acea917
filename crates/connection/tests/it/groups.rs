//! Which groups a connection follows: its user's set, joins and leaves, removals.

use connection::{Input, Joined, Request, SendFault, Unavailable, What};
use delivery::{Attached, OfUser, Start};
use protocol::client::From;
use protocol::{ErrorCode, Live, MessageId, Notice};
use serde_json::json;

use crate::harness::{Harness, address, at, entered, group, page, user};

const HELLO: &str = r#"{"type":"hello","device":"phone"}"#;
const PLAIN: &str = r#"{"type":"hello"}"#;
const DEN: &str = "group:den";

fn id(text: &str) -> MessageId {
    MessageId::parse(text).unwrap()
}

pub(crate) fn joined(bob: &mut Harness, text: &str, of: &str, mseq: u64) {
    bob.input(Input::Joined { id: id(text), group: group(of), result: Ok(Joined { mseq, members: 2 }) });
}

#[test]
fn welcome_names_the_groups_and_their_streams_follow() {
    let mut bob = Harness::in_groups(&["den", "attic"], HELLO);
    let frames = bob.get_all();
    assert_eq!(frames[0]["groups"], json!(["den", "attic"]));
    assert_eq!(frames[0]["streams"].as_array().unwrap().len(), 1, "the own inbox");
    let all =
        json!({"type": "stream", "of": "all", "status": "new", "cursor": at(0).to_text(), "head": 0, "replay": 0});
    assert_eq!(frames[1], all);
    let seat = bob.seat(DEN, 7, 3);
    assert!(seat.is_lasting && seat.joined == 0, "whether he is a member is asked");
    bob.seat("group:attic", 2, 1);
    let Request::Enter(enter) = bob.asked() else { panic!() };
    assert_eq!((enter.of, enter.from), (address(DEN), From::Oldest));
    assert_eq!(enter.device.unwrap().as_str(), "phone");
    let Request::Enter(_) = bob.asked() else { panic!() };
    bob.page(DEN, entered(DEN, Some(3), Start::Resumed, 5, 7));
    let frames = bob.get();
    let stream =
        json!({"type": "stream", "of": DEN, "status": "resumed", "cursor": at(5).to_text(), "head": 7, "replay": 2});
    assert_eq!(frames[0], stream);
    assert_eq!((&frames[1]["id"], &frames[2]["id"], frames.len()), (&json!("m6"), &json!("m7"), 3));
    let seat = bob.told();
    assert_eq!((seat.joined, seat.is_lasting), (3, true), "the node is told since when");
    bob.said(DEN, 8, 3);
    assert_eq!(bob.ids(), ["m8"]);
    assert!(bob.asked_nothing());
}

#[test]
fn a_cursor_in_hello_is_where_a_group_and_everybodys_stream_go_on() {
    let hello = json!({"type": "hello", "cursors": {DEN: [at(4).to_text(), "x"], "all": at(3).to_text()}}).to_string();
    let mut bob = Harness::in_groups(&["den"], &hello);
    bob.seat(DEN, 7, 3);
    let Request::Enter(enter) = bob.asked() else { panic!() };
    assert_eq!((enter.of, enter.cursors, enter.device), (address("all"), vec![Some(at(3))], None));
    let Request::Enter(enter) = bob.asked() else { panic!() };
    assert_eq!(enter.cursors, [Some(at(4)), None]);
    bob.page("all", entered("all", None, Start::Resumed, 3, 4));
    bob.get_all().iter().rfind(|f| f["of"] == "all" && f["status"] == "resumed" && f["replay"] == 1).unwrap();
}

#[test]
fn what_a_device_acknowledged_of_everybodys_stream_is_where_it_goes_on() {
    let mut bob = Harness::new(connection::Settings::default());
    bob.say(HELLO);
    bob.let_in();
    bob.asked();
    let of_user = OfUser { groups: Vec::new(), all: Some(at(2)) };
    bob.give(Ok(Some(Attached { user: Some(of_user), ..page(Start::Resumed, 0, 0, 0) })));
    let Request::Enter(enter) = bob.asked() else { panic!() };
    assert_eq!((enter.of, enter.cursors), (address("all"), vec![Some(at(2))]));
}

#[test]
fn a_stream_that_cannot_be_continued_is_told_so_and_its_replay_says_again() {
    let mut bob = Harness::in_groups(&["den"], HELLO);
    bob.seat(DEN, 7, 3);
    bob.asked();
    bob.get();
    let lost = Start::Reset { reason: delivery::Reason::Retention, lost: Some(4) };
    bob.page(DEN, entered(DEN, Some(3), lost, 5, 6));
    let frames = bob.get();
    let told = (&frames[0]["status"], &frames[0]["reason"], &frames[0]["lost"], &frames[1]["again"]);
    assert_eq!(told, (&json!("reset"), &json!("retention"), &json!(4), &json!(true)));
    bob.said(DEN, 7, 3);
    assert_eq!(bob.get()[0].get("again"), None);
}

/// Nobody receives before his join, whatever is in the page or on its way.
#[test]
fn an_entry_before_the_join_is_not_for_him() {
    let mut bob = Harness::in_groups(&["den"], HELLO);
    bob.seat(DEN, 7, 9);
    bob.asked();
    let mut first = entered(DEN, Some(9), Start::New, 5, 7);
    first.page.entries[0].mseq = Some(8);
    bob.get();
    bob.page(DEN, first);
    assert_eq!(bob.ids(), ["m7"]);
    bob.said(DEN, 8, 8);
    bob.said(DEN, 9, 9);
    assert_eq!(bob.ids(), ["m9"], "and the cursor moved over it");
}

#[test]
fn a_join_is_answered_when_its_stream_stands() {
    let mut bob = Harness::open(connection::Settings::default(), 0);
    bob.say(r#"{"type":"join","id":"1","group":"den"}"#);
    let Request::Join { id, group, user: who } = bob.asked() else { panic!() };
    assert_eq!((id.as_str(), group.as_str(), who), ("1", "den", user("bob")));
    joined(&mut bob, "1", "den", 9);
    let seat = bob.seat(DEN, 4, 9);
    assert_eq!((seat.joined, seat.is_lasting), (9, true));
    let Request::Enter(_) = bob.asked() else { panic!("what came between join and seat is his") };
    assert!(bob.get().is_empty());
    bob.page(DEN, entered(DEN, Some(9), Start::New, 3, 4));
    let frames = bob.get();
    assert_eq!((&frames[0]["type"], &frames[0]["status"]), (&json!("stream"), &json!("new")));
    assert_eq!(frames[1], json!({"type": "ok", "id": "1", "cursor": at(3).to_text()}));
    assert_eq!(frames[2]["id"], "m4");
    bob.say(r#"{"type":"join","id":"2","group":"den"}"#);
    assert_eq!(bob.get(), [json!({"type": "ok", "id": "2", "cursor": at(4).to_text()})], "in it already");
    assert!(bob.asked_nothing());
}

#[test]
fn without_a_device_a_join_starts_where_the_node_stands() {
    let mut bob = Harness::in_groups(&[], PLAIN);
    bob.say(r#"{"type":"join","id":"1","group":"den"}"#);
    bob.asked();
    joined(&mut bob, "1", "den", 9);
    bob.get();
    bob.seat(DEN, 4, 9);
    assert_eq!(bob.get()[1], json!({"type": "ok", "id": "1", "cursor": at(4).to_text()}));
    assert!(bob.asked_nothing());
    // Published before the join, and handed out behind it.
    bob.said(DEN, 5, 8);
    bob.said(DEN, 6, 9);
    assert_eq!(bob.ids(), ["m6"]);
}

#[test]
fn a_join_until_disconnect_lasts_as_long_as_the_connection() {
    let mut bob = Harness::open(connection::Settings::default(), 0);
    bob.say(r#"{"type":"join","id":"1","group":"den","until":"disconnect"}"#);
    let seat = bob.seat(DEN, 4, 9);
    assert!(!seat.is_lasting);
    assert_eq!(bob.get()[1], json!({"type": "ok", "id": "1", "cursor": at(4).to_text()}));
    bob.said(DEN, 5, 2);
    assert_eq!(bob.ids(), ["m5"]);
    bob.say(r#"{"type":"leave","id":"2","group":"den"}"#);
    assert!(matches!(bob.asked(), Request::Unseat { of } if of == address(DEN)));
    assert_eq!(bob.get(), [json!({"type": "ok", "id": "2"})]);
    bob.said(DEN, 6, 9);
    assert!(bob.get().is_empty());
    // With a cursor it goes on there; and one that cannot be read is a reset.
    let cursor = at(4).to_text();
    bob.say(&json!({"type": "join", "id": "3", "group": "den", "until": "disconnect", "cursor": cursor}).to_string());
    bob.seat(DEN, 6, 9);
    let Request::Enter(enter) = bob.asked() else { panic!() };
    assert_eq!(enter.cursors, [Some(at(4))]);
    bob.page(DEN, entered(DEN, None, Start::Resumed, 4, 6));
    assert_eq!(bob.ids(), ["m5", "m6"]);
}

#[test]
fn who_only_visits_is_told_when_nobody_can_be_asked() {
    let mut bob = Harness::open(connection::Settings::default(), 0);
    bob.say(r#"{"type":"join","id":"1","group":"den","until":"disconnect"}"#);
    bob.asked();
    bob.input(Input::Seated { of: address(DEN), result: Err(Unavailable) });
    let frames = bob.get();
    assert_eq!((&frames[0]["id"], &frames[0]["code"]), (&json!("1"), &json!("unavailable")));
    assert!(matches!(bob.asked(), Request::Unseat { .. }));
}

/// The membership stands, but its stream may have to wait for as long as the backplane is away: no `id` does.
#[test]
fn a_join_is_answered_although_its_stream_cannot_start_and_the_stream_comes_by_itself() {
    let mut bob = Harness::open(connection::Settings::default(), 0);
    bob.say(r#"{"type":"join","id":"1","group":"den"}"#);
    bob.asked();
    let joined = Joined { mseq: 3, members: 2 };
    bob.input(Input::Joined { id: id("1"), group: group("den"), result: Ok(joined) });
    bob.seat(DEN, 7, 3);
    bob.asked();
    bob.input(Input::Attached { of: address(DEN), result: Err(Unavailable) });
    let frames = bob.get();
    assert_eq!((&frames[0]["id"], &frames[0]["code"], frames.len()), (&json!("1"), &json!("unknown_outcome"), 1));
    // One who asks again meanwhile waits for the next try, and no longer.
    bob.say(r#"{"type":"join","id":"2","group":"den"}"#);
    assert!(bob.get().is_empty());
    bob.pass(500);
    assert!(matches!(bob.asked(), Request::Enter(_)));
    bob.input(Input::Attached { of: address(DEN), result: Err(Unavailable) });
    assert_eq!(bob.get()[0]["id"], "2");
    bob.pass(500);
    assert!(matches!(bob.asked(), Request::Enter(_)));
    bob.page(DEN, entered(DEN, Some(3), Start::New, 7, 8));
    let frames = bob.get();
    assert_eq!((&frames[0]["type"], &frames[1]["id"], frames.len()), (&json!("stream"), &json!("m8"), 2));
}

#[test]
fn what_could_not_be_begun_is_begun_again() {
    let mut bob = Harness::in_groups(&["den"], HELLO);
    bob.asked();
    bob.input(Input::Seated { of: address(DEN), result: Err(Unavailable) });
    bob.pass(500);
    bob.seat(DEN, 7, 3);
    bob.asked();
    bob.input(Input::Attached { of: address(DEN), result: Err(Unavailable) });
    assert!(bob.asked_nothing());
    bob.pass(500);
    assert!(matches!(bob.asked(), Request::Enter(_)));
    bob.input(Input::Attached { of: address(DEN), result: Ok(None) });
    bob.pass(500);
    assert!(matches!(bob.asked(), Request::Enter(_)));
}

#[test]
fn a_leave_is_answered_and_nothing_comes_behind_it() {
    let mut bob = Harness::member();
    bob.say(r#"{"type":"leave","id":"1","group":"den"}"#);
    bob.say(r#"{"type":"join","id":"2","group":"den"}"#);
    assert_eq!(bob.get()[0]["code"], "overloaded", "while the leave is on its way");
    assert!(matches!(bob.asked(), Request::Leave { .. }));
    bob.input(Input::Ended { of: DEN.into(), mseq: 5 });
    bob.said(DEN, 8, 5);
    bob.input(Input::Left { id: id("1"), group: group("den"), result: Ok(()) });
    assert_eq!(bob.get(), [json!({"type": "ok", "id": "1"})]);
    assert!(matches!(bob.asked(), Request::Unseat { .. }) && bob.asked_nothing());
}

/// He left and joined again elsewhere, and the node heard of neither: then of the set, and of the removal last. The set that
/// he is in again was known by then, so nothing else would begin his stream anew.
#[test]
fn a_join_behind_a_removal_is_found_though_the_set_was_known_before_the_stream_ended() {
    let mut bob = Harness::member();
    bob.input(Input::Groups { result: Ok((9, vec![group("den")])) });
    assert!(bob.asked_nothing(), "he has that stream");
    bob.input(Input::Ended { of: DEN.into(), mseq: 5 });
    assert_eq!(bob.get()[0]["type"], "member_change");
    assert!(matches!(bob.asked(), Request::Unseat { .. }) && bob.asked_nothing());
    bob.pass(5_000);
    assert!(matches!(bob.asked(), Request::Groups { .. }));
    bob.input(Input::Groups { result: Ok((9, vec![group("den")])) });
    bob.seat(DEN, 8, 6);
    assert!(matches!(bob.asked(), Request::Enter(_)));
    bob.page(DEN, entered(DEN, Some(6), Start::New, 7, 8));
    assert_eq!(bob.get()[0]["type"], "stream");
}

#[test]
fn a_leave_that_failed_changes_nothing() {
    let mut bob = Harness::member();
    bob.say(r#"{"type":"leave","id":"1","group":"den"}"#);
    let fault = SendFault { code: ErrorCode::UnknownOutcome, message: "m".into(), retry_ms: Some(9), is_final: false };
    bob.input(Input::Left { id: id("1"), group: group("den"), result: Err(fault) });
    assert_eq!(bob.get()[0]["code"], "unknown_outcome");
    bob.said(DEN, 8, 3);
    assert_eq!(bob.ids(), ["m8"]);
}

/// The set of groups is written before the group: a join may be on its way, or a crash has left a name too many.
#[test]
fn a_group_that_does_not_know_him_is_asked_again_and_then_the_set_is_put_right() {
    let mut bob = Harness::in_groups(&["den"], HELLO);
    bob.seat(DEN, 7, 3);
    bob.get();
    let mut asked = 0;
    let repair = loop {
        match bob.asked() {
            Request::Enter(_) => asked += 1,
            other => break other,
        }
        bob.page(DEN, entered(DEN, None, Start::New, 7, 7));
        if bob.asked_nothing() {
            bob.whispered(DEN);
            bob.pass(4_000);
        }
    };
    assert!(asked > 2);
    assert!(matches!(repair, Request::Repair { is_in: false, .. }));
    assert!(matches!(bob.asked(), Request::Unseat { .. }));
    assert_eq!(bob.get(), [json!({"type": "member_change", "group": "den", "user": "bob", "joined": false})]);
}

/// He left, his set of groups was read a moment too early, and the group is asked again later and later: who joins then does
/// not wait for that.
#[test]
fn a_join_between_two_looks_at_a_membership_that_was_not_there_looks_at_once() {
    let mut bob = Harness::in_groups(&["den"], HELLO);
    bob.seat(DEN, 7, 3);
    bob.get();
    for wait_ms in [500, 500, 1_000] {
        assert!(matches!(bob.asked(), Request::Enter(_)));
        bob.page(DEN, entered(DEN, None, Start::New, 7, 7));
        bob.pass(wait_ms);
    }
    assert!(matches!(bob.asked(), Request::Enter(_)));
    bob.page(DEN, entered(DEN, None, Start::New, 7, 7));
    bob.say(r#"{"type":"join","id":"1","group":"den"}"#);
    bob.asked();
    let joined = Joined { mseq: 5, members: 2 };
    bob.input(Input::Joined { id: id("1"), group: group("den"), result: Ok(joined) });
    assert_eq!(bob.told().joined, 5);
    assert!(matches!(bob.asked(), Request::Enter(_)), "two seconds before its time");
    bob.page(DEN, entered(DEN, Some(5), Start::New, 7, 7));
    let frames = bob.get();
    assert_eq!((&frames[0]["type"], &frames[1]["type"], frames.len()), (&json!("stream"), &json!("ok"), 2));
}

#[test]
fn a_cursor_for_a_group_outside_the_set_is_a_member_a_guest_or_refused() {
    let hello = json!({"type": "hello", "device": "phone", "cursors": {DEN: at(4).to_text()}}).to_string();
    for (joined, may_join) in [(Some(3), false), (None, true), (None, false)] {
        let mut bob = Harness::with_identity(&[], &hello, |who| {
            if !may_join {
                who.rights = connection::Rights::default();
            }
        });
        bob.get();
        assert!(!bob.seat(DEN, 7, 3).is_lasting);
        bob.asked();
        bob.whispered(DEN);
        bob.say(r#"{"type":"send","id":"1","to":"group:den","body":1}"#);
        if !may_join {
            assert_eq!(bob.get()[0]["code"], "forbidden", "it is not known to be his");
        } else {
            bob.asked();
            assert!(bob.get().is_empty());
        }
        bob.page(DEN, entered(DEN, joined, Start::Resumed, 4, 5));
        let frames = bob.get();
        if joined.is_none() && !may_join {
            assert_eq!((&frames[0]["code"], frames.len()), (&json!("forbidden"), 1));
            assert!(matches!(bob.asked(), Request::Unseat { .. }));
            continue;
        }
        assert_eq!((&frames[0]["type"], &frames[1]["id"]), (&json!("stream"), &json!("m5")));
        if joined.is_some() {
            assert!(matches!(bob.asked(), Request::Repair { is_in: true, .. }));
            assert!(bob.told().is_lasting);
        }
        assert!(bob.asked_nothing());
    }
}

#[test]
fn groups_of_the_token_are_followed_as_long_as_the_connection() {
    let mut bob = Harness::with_identity(&["attic"], HELLO, |who| who.groups = vec![group("den"), group("attic")]);
    assert_eq!(bob.get()[0]["groups"], json!(["attic"]), "the token's are none that last");
    assert!(bob.seat("group:attic", 1, 1).is_lasting);
    assert!(!bob.seat(DEN, 7, 3).is_lasting);
    assert_eq!(bob.get()[0]["of"], DEN);
}

/// Somebody else added him, or he joined on another device: the version of his set tells.
#[test]
fn another_version_of_the_set_begins_streams_and_asks_groups_that_are_not_in_it() {
    let mut bob = Harness::member();
    bob.live_with(Live::Notice(Notice::Groups), 5);
    assert!(bob.asked_nothing(), "that version is known");
    bob.live_with(Live::Notice(Notice::Groups), 6);
    assert!(matches!(bob.asked(), Request::Groups { .. }));
    bob.live_with(Live::Notice(Notice::Groups), 7);
    assert!(bob.asked_nothing());
    bob.input(Input::Groups { result: Ok((6, vec![group("den"), group("attic")])) });
    assert!(bob.seat("group:attic", 2, 1).is_lasting);
    assert!(matches!(bob.asked(), Request::Groups { .. }), "a newer one was heard of");
    assert!(matches!(bob.asked(), Request::Enter(_)));
    bob.input(Input::Groups { result: Ok((7, vec![group("attic")])) });
    let Request::Enter(enter) = bob.asked() else { panic!("the group's record decides") };
    assert_eq!((enter.of, enter.cursors), (address(DEN), vec![Some(at(7))]));
    bob.page(DEN, entered(DEN, None, Start::Resumed, 7, 8));
    assert_eq!(bob.get(), [json!({"type": "member_change", "group": "den", "user": "bob", "joined": false})]);
    assert!(matches!(bob.asked(), Request::Unseat { .. }));
}

#[test]
fn a_member_who_is_not_in_his_set_is_put_into_it() {
    let mut bob = Harness::member();
    bob.live_with(Live::Notice(Notice::Groups), 6);
    bob.asked();
    bob.input(Input::Groups { result: Ok((6, Vec::new())) });
    bob.asked();
    bob.page(DEN, entered(DEN, Some(3), Start::Resumed, 7, 8));
    assert_eq!(bob.ids(), ["m8"]);
    bob.told();
    assert!(matches!(bob.asked(), Request::Repair { is_in: true, .. }));
}

#[test]
fn a_set_that_could_not_be_read_is_asked_for_again() {
    let mut bob = Harness::member();
    bob.live_with(Live::Notice(Notice::Groups), 6);
    bob.asked();
    bob.input(Input::Groups { result: Err(Unavailable) });
    bob.pass(500);
    assert!(matches!(bob.asked(), Request::Groups { .. }));
}

#[test]
fn a_guest_who_joins_stays_where_he_is() {
    let mut bob = Harness::open(connection::Settings::default(), 0);
    bob.say(r#"{"type":"join","id":"1","group":"den","until":"disconnect"}"#);
    bob.seat(DEN, 4, 9);
    bob.get();
    bob.say(r#"{"type":"join","id":"2","group":"den"}"#);
    assert!(matches!(bob.asked(), Request::Join { .. }));
    joined(&mut bob, "2", "den", 12);
    assert_eq!(bob.get(), [json!({"type": "ok", "id": "2", "cursor": at(4).to_text()})]);
    assert!(bob.told().is_lasting);
    bob.said(DEN, 5, 9);
    assert_eq!(bob.ids(), ["m5"], "what he would have got as a guest");
    bob.say(r#"{"type":"leave","id":"3","group":"den"}"#);
    assert!(matches!(bob.asked(), Request::Leave { .. }));
}

#[test]
fn a_join_that_failed_is_answered_and_the_set_is_looked_at() {
    let mut bob = Harness::open(connection::Settings::default(), 0);
    bob.say(r#"{"type":"join","id":"1","group":"den"}"#);
    bob.asked();
    let message = "a group has at most 100000 members".to_owned();
    let fault = SendFault { code: ErrorCode::Forbidden, message, retry_ms: None, is_final: false };
    bob.input(Input::Joined { id: id("1"), group: group("den"), result: Err(fault) });
    assert_eq!(bob.get()[0]["code"], "forbidden");
    assert!(matches!(bob.asked(), Request::Groups { .. }));
}

#[test]
fn a_member_change_is_passed_on_and_the_own_leave_only_ends_the_stream() {
    let mut bob = Harness::member();
    let change = |who, members| What::Members { group: group("den"), who, members };
    bob.shared(DEN, change(Some((user("alice"), true)), 3));
    bob.shared(DEN, change(Some((user("bob"), false)), 2));
    bob.shared(DEN, change(None, 1_001));
    bob.shared(DEN, What::Read { user: user("alice"), cursor: at(5) });
    let frames = bob.get();
    assert_eq!(
        frames[0],
        json!({"type": "member_change", "group": "den", "user": "alice", "joined": true, "members": 3})
    );
    assert_eq!(frames[1], json!({"type": "member_change", "group": "den", "members": 1_001}));
    let read = json!({"type": "read_change", "of": DEN, "user": "alice", "cursor": at(5).to_text()});
    assert_eq!((&frames[2], frames.len()), (&read, 3));
}
