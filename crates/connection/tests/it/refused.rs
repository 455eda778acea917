//! What is not allowed, and bad input, with the exact answers.

use connection::{Input, Pattern, Request, Right, Rights, Settings, Whom};
use delivery::Start;
use serde_json::{Value, json};

use crate::harness::{Harness, address, at, entered, group, user};

const DEN: &str = "group:den";
const HELLO: &str = r#"{"type":"hello","device":"phone"}"#;

fn right(patterns: &[&str], own: bool) -> std::sync::Arc<Right> {
    let patterns = patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect();
    Right { patterns, own, everything: false }.into()
}

/// The rights of a fleet with tokens that say nothing of their own.
fn plain() -> Rights {
    Rights { send: right(&["user:*"], true), join: right(&[], true), look: right(&[], true) }
}

/// A member of the group since change 3, with these rights.
fn member(rights: Rights) -> Harness {
    let mut bob = Harness::with_identity(&["den"], HELLO, |who| {
        who.rights = rights;
        who.groups = vec![group("club")];
    });
    bob.seat(DEN, 7, 3);
    bob.seat("group:club", 1, 9);
    bob.asked();
    bob.page(DEN, entered(DEN, Some(3), Start::Resumed, 7, 7));
    bob.asked();
    bob.get();
    bob
}

#[track_caller]
fn answer(bob: &mut Harness, frame: &Value) -> (String, String) {
    bob.say(&frame.to_string());
    assert!(bob.asked_nothing(), "{frame} is executed");
    let answers = bob.get();
    assert_eq!((answers.len(), &answers[0]["id"]), (1, &frame["id"]), "{frame}: {answers:?}");
    let text = |name: &str| answers[0][name].as_str().unwrap_or_default().to_owned();
    (text("code"), text("message"))
}

#[test]
fn bad_input_gets_exact_answers() {
    let mut bob = member(plain());
    let long = "g".repeat(129);
    let users: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let cursor = at(3).to_text();
    let table = [
        (json!({"type": "join", "id": "1", "group": "attic"}), "forbidden", "`group`: attic is not yours to join"),
        (
            json!({"type": "leave", "id": "1", "group": "attic"}),
            "not_found",
            "`group`: this connection has not joined attic",
        ),
        (
            json!({"type": "join", "id": "1", "group": long}),
            "bad_request",
            "`group`: an ID has at most 128 bytes of UTF-8, this one has 129",
        ),
        (
            json!({"type": "join", "id": "1", "group": "x", "until": "noon"}),
            "bad_request",
            "`until`: expected \"leave\" or \"disconnect\", got \"noon\"",
        ),
        (
            json!({"type": "history", "id": "1", "of": DEN, "limit": 0}),
            "bad_request",
            "`limit`: expected 1 to 200, got 0",
        ),
        (
            json!({"type": "history", "id": "1", "of": DEN, "limit": 1_000_000}),
            "bad_request",
            "`limit`: expected 1 to 200, got 1000000",
        ),
        (
            json!({"type": "members", "id": "1", "group": "den", "limit": 0}),
            "bad_request",
            "`limit`: expected 1 to 1000, got 0",
        ),
        (
            json!({"type": "members", "id": "1", "group": "den", "limit": 1_000_000}),
            "bad_request",
            "`limit`: expected 1 to 1000, got 1000000",
        ),
        (
            json!({"type": "history", "id": "1", "of": DEN, "before": "x"}),
            "bad_request",
            "`before`: expected a cursor as a message carries it",
        ),
        (
            json!({"type": "history", "id": "1", "of": DEN, "with": "user:alice"}),
            "bad_request",
            "`with`: only an inbox has conversations; expected `of` to be user:ID, got \"group:den\"",
        ),
        (
            json!({"type": "history", "id": "1", "of": "user:bob", "with": DEN}),
            "bad_request",
            "`with`: expected user:ID, got \"group:den\"",
        ),
        (
            json!({"type": "watch", "id": "1", "users": users}),
            "bad_request",
            "`users`: expected 1 to 1000 users, got 10000",
        ),
        (json!({"type": "watch", "id": "1", "users": []}), "bad_request", "`users`: expected 1 to 1000 users, got 0"),
        (json!({"type": "presence", "id": "1"}), "bad_request", "`users` or `group` is missing: expected one of them"),
        (
            json!({"type": "presence", "id": "1", "users": ["a"], "group": "den"}),
            "bad_request",
            "`users`, `group`: expected one of them, got both",
        ),
        (json!({"type": "presence", "id": "1", "users": ["a/b"]}), "bad_request", "`users`: \"a/b\": an ID has no '/'"),
        (json!({"type": "receipts", "id": "1", "ref": cursor}), "bad_request", ""),
        (
            json!({"type": "send", "id": "1", "to": DEN, "body": 1, "echo": true}),
            "bad_request",
            "`echo`: a copy is kept of what goes to a user; expected `to` to be user:ID, got \"group:den\"",
        ),
        (
            json!({"type": "send", "id": "1", "to": "all", "body": 1, "echo": true}),
            "bad_request",
            "`echo`: a copy is kept of what goes to a user; expected `to` to be user:ID, got \"all\"",
        ),
        (
            json!({"type": "send", "id": "1", "to": "service:x", "body": 1}),
            "bad_request",
            "`to`: expected user:ID, user:ID/DEVICE, group:ID or all, got service:x; no service is here yet",
        ),
        (json!({"type": "send", "id": "1", "to": "all", "body": 1}), "forbidden", "`to`: all is not yours to send to"),
        (
            json!({"type": "send", "id": "1", "to": "group:attic", "body": 1}),
            "forbidden",
            "`to`: group:attic is not yours to send to",
        ),
        (
            json!({"type": "read", "id": "1", "of": "all", "cursor": cursor}),
            "forbidden",
            "`of`: all is not yours to read",
        ),
        (
            json!({"type": "read", "id": "1", "of": "group:attic", "cursor": cursor}),
            "forbidden",
            "`of`: group:attic is not yours to read",
        ),
        (json!({"type": "read", "id": "1", "of": DEN}), "bad_request", "`cursor` is missing: expected a cursor"),
        (
            json!({"type": "counts", "id": "1", "of": "user:alice"}),
            "forbidden",
            "`of`: user:alice is not yours to read",
        ),
        (json!({"type": "counts", "id": "1", "of": "all"}), "forbidden", "`of`: all is not yours to read"),
        (
            json!({"type": "history", "id": "1", "of": "group:attic"}),
            "forbidden",
            "`of`: group:attic is not yours to read",
        ),
        (
            json!({"type": "members", "id": "1", "group": "attic"}),
            "forbidden",
            "`group`: attic is not yours to look into",
        ),
        (
            json!({"type": "watch", "id": "1", "group": "attic"}),
            "forbidden",
            "`group`: attic is not yours to look into",
        ),
    ];
    for (frame, code, message) in table {
        let (got, text) = answer(&mut bob, &frame);
        assert_eq!(got, code, "{frame}: {text}");
        assert!(message.is_empty() || text == message, "{frame}: {text}");
        // Answers of this table are many: the rate is not what is tested.
        bob.ms += 1_000;
    }
    assert!(bob.closed.is_none());
}

#[test]
fn a_member_may_do_with_his_groups_what_belongs_to_it() {
    let mut bob = member(plain());
    for frame in [
        json!({"type": "send", "id": "1", "to": DEN, "body": 1}),
        json!({"type": "send", "id": "2", "to": "group:club", "body": 1}),
        json!({"type": "send", "id": "3", "to": "user:alice", "body": 1}),
        json!({"type": "members", "id": "4", "group": "den"}),
        json!({"type": "presence", "id": "5", "group": "den"}),
        json!({"type": "counts", "id": "6", "of": DEN}),
        json!({"type": "read", "of": DEN, "cursor": at(7).to_text()}),
    ] {
        bob.say(&frame.to_string());
        bob.asked();
        assert!(bob.get().is_empty(), "{frame}");
    }
    bob.say(&json!({"type": "history", "id": "7", "of": DEN}).to_string());
    assert!(matches!(bob.asked(), Request::History { since: 3, .. }), "without the right to look: since he joined");
    bob.say(&json!({"type": "presence", "id": "8", "users": ["alice"]}).to_string());
    let Request::Ask { question: connection::Question::Presence(Whom::Users { users, shared }), .. } = bob.asked()
    else {
        panic!()
    };
    let shared = shared.unwrap();
    let groups: Vec<&str> = shared.groups.iter().map(protocol::GroupId::as_str).collect();
    assert_eq!((&users, groups), (&vec![user("alice")], vec!["club", "den"]));
    assert_eq!(shared.users, users);
}

#[test]
fn a_token_that_lists_rights_gives_those_and_no_more() {
    let rights = Rights {
        send: right(&["group:news-*"], false),
        join: right(&["group:open-*"], false),
        look: right(&["user:alice"], false),
    };
    let mut bob = member(rights);
    for frame in [
        json!({"type": "send", "id": "1", "to": DEN, "body": 1}),
        json!({"type": "send", "id": "1", "to": "user:alice", "body": 1}),
        json!({"type": "join", "id": "1", "group": "club-2"}),
        json!({"type": "presence", "id": "1", "users": ["alice", "carl"]}),
    ] {
        assert_eq!(answer(&mut bob, &frame).0, "forbidden", "{frame}");
    }
    for frame in [
        json!({"type": "send", "id": "1", "to": "group:news-1", "body": 1}),
        json!({"type": "join", "id": "2", "group": "open-1"}),
        json!({"type": "presence", "id": "3", "users": ["alice", "bob"]}),
        json!({"type": "members", "id": "4", "group": "den"}),
    ] {
        bob.say(&frame.to_string());
        bob.asked();
        assert!(bob.get().is_empty(), "{frame}");
    }
}

/// A frame that comes before a stream has started works, or is told when.
#[test]
fn a_group_of_the_set_can_be_written_to_before_its_stream_has_started() {
    let mut bob = Harness::with_identity(&["den"], HELLO, |who| who.rights = plain());
    bob.get();
    bob.asked();
    bob.say(&json!({"type": "send", "id": "1", "to": DEN, "body": 1}).to_string());
    assert!(matches!(bob.asked(), Request::Append { .. }));
    bob.say(&json!({"type": "ack", "of": DEN, "cursor": at(3).to_text()}).to_string());
    bob.say(&json!({"type": "history", "id": "2", "of": DEN}).to_string());
    let frames = bob.get();
    assert_eq!((&frames[0]["id"], &frames[0]["code"], frames.len()), (&json!("2"), &json!("unavailable"), 1));
}

#[test]
fn the_two_hundred_and_fifty_seventh_group_is_forbidden() {
    let names: Vec<String> = (0..255).map(|n| format!("g{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bob = Harness::in_groups(&names, HELLO);
    while !bob.asked_nothing() {
        bob.asked();
    }
    bob.get();
    bob.say(r#"{"type":"join","id":"1","group":"last"}"#);
    assert!(matches!(bob.asked(), Request::Join { .. }));
    let expected = ("forbidden".to_owned(), "`group`: a connection has at most 256 groups".to_owned());
    assert_eq!(answer(&mut bob, &json!({"type": "join", "id": "2", "group": "more"})), expected);
    let guest = json!({"type": "join", "id": "3", "group": "more", "until": "disconnect"});
    assert_eq!(answer(&mut bob, &guest), expected);
}

/// The number that a guest came at is that of the newest change, and messages older than he carry it, too.
#[test]
fn a_guest_sees_no_history_unless_he_may_look() {
    for may_look in [true, false] {
        let mut bob = Harness::with_identity(&[], HELLO, |who| {
            if !may_look {
                who.rights.look = Default::default();
            }
        });
        bob.say(r#"{"type":"join","id":"1","group":"den","until":"disconnect"}"#);
        bob.seat(DEN, 4, 9);
        bob.get();
        let history = json!({"type": "history", "id": "2", "of": DEN});
        if may_look {
            bob.say(&history.to_string());
            assert!(matches!(bob.asked(), Request::History { since: 0, .. }));
        } else {
            assert_eq!(answer(&mut bob, &history).0, "forbidden");
        }
    }
}

#[test]
fn a_cursor_of_somebody_elses_stream_is_refused_and_the_stream_left_out() {
    let hello =
        json!({"type": "hello", "cursors": {"user:alice": "x", "service:a": "y", "group:den": "z"}}).to_string();
    let mut bob = Harness::with_identity(&[], &hello, |who| who.rights = Rights::default());
    let frames = bob.get();
    assert_eq!(frames.iter().filter(|f| f["code"] == "forbidden").count(), 2);
    assert_eq!(bob.seat(DEN, 7, 3).of, address(DEN));
    bob.asked();
    bob.page(DEN, entered(DEN, None, Start::New, 7, 7));
    assert_eq!(bob.get()[0]["message"], "`cursors`: group:den is not yours to follow");
}

#[test]
fn a_read_past_the_end_and_a_before_of_another_stream_are_bad_requests() {
    let mut bob = Harness::open(Settings::default(), 9);
    bob.say(&json!({"type": "history", "id": "1", "of": "user:bob", "before": at(99).to_text()}).to_string());
    let Request::History { id, .. } = bob.asked() else { panic!() };
    bob.input(Input::History { id, result: Err(connection::HistoryFault::Before) });
    let error = &bob.get()[0];
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!("bad_request"), &json!("`before`: expected a cursor of this stream"))
    );
}
