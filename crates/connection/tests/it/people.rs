//! Questions about people and streams, read marks, presence, and connections that hand over.

use connection::{
    Answer, Input, Member, People, Person, Question, Receipts, Request, SendFault, Settings, Unavailable, Whom,
};
use delivery::{Claim, Marked, Place, Placed, PresenceOf, Reason, Start};
use protocol::{ConnectionId, Cursor, ErrorCode, HandOver, Live, MessageId, Notice, UnixMillis};
use serde_json::{Value, json};

use crate::harness::{Harness, address, at, group, own, page, user};

fn id(text: &str) -> MessageId {
    MessageId::parse(text).unwrap()
}

fn open() -> Harness {
    Harness::open(Settings::default(), 9)
}

/// Asks, answers, and gives what the client gets.
fn ask(bob: &mut Harness, frame: &Value, answer: Answer) -> (Question, Value) {
    bob.say(&frame.to_string());
    let Request::Ask { id, question } = bob.asked() else { panic!("a question") };
    bob.input(Input::Answered { id, result: Ok(answer) });
    (question, bob.get().remove(0))
}

fn person(name: &str, version: u64) -> Person {
    let devices = vec![("phone".into(), UnixMillis(7))];
    let presence =
        PresenceOf { version, is_online: true, at: UnixMillis(7), devices, profile: Some(r#"{"name":"A"}"#.into()) };
    Person { user: user(name), presence }
}

#[test]
fn counts_are_by_the_ids_of_senders() {
    let by = vec![("user:alice".into(), 2), ("service:api".into(), 1)];
    let answer = Answer::Counts { total: 3, unread: 1, by };
    let (question, got) =
        ask(&mut open(), &json!({"type": "counts", "id": "1", "of": "user:bob", "with": "user:alice"}), answer);
    assert_eq!(question, Question::Counts { of: own(), with: Some(user("alice")), user: user("bob") });
    let by = json!({"alice": 2, "service:api": 1});
    assert_eq!(got, json!({"type": "counts", "id": "1", "total": 3, "unread": 1, "by": by}));
}

#[test]
fn receipts_are_names_or_numbers() {
    let reference = at(3).to_ref("group:den");
    let receipts = Receipts {
        delivered: vec![("alice".into(), vec!["phone".into(), "tv".into()])],
        read: vec!["alice".into()],
        counts: None,
        is_expired: false,
    };
    let frame = json!({"type": "receipts", "id": "1", "ref": reference});
    let (question, got) = ask(&mut open(), &frame, Answer::Receipts(receipts));
    assert_eq!(question, Question::Receipts { reference, user: user("bob") });
    let expected = json!({"type": "receipts", "id": "1", "delivered": {"alice": ["phone", "tv"]}, "read": ["alice"]});
    assert_eq!(got, expected);
    let many = Receipts { counts: Some((1_200, 3)), is_expired: true, ..Receipts::default() };
    let (_, got) = ask(&mut open(), &frame, Answer::Receipts(many));
    let expected = json!({"type": "receipts", "id": "1", "delivered_count": 1200, "read_count": 3, "expired": true});
    assert_eq!(got, expected);
}

#[test]
fn presence_says_how_each_is_or_how_many_are_there() {
    let frame = json!({"type": "presence", "id": "1", "users": ["alice", "nobody"]});
    let nobody = Person { user: user("nobody"), presence: PresenceOf::default() };
    let people = People::Each(vec![person("alice", 4), nobody]);
    let (question, got) = ask(&mut open(), &frame, Answer::Presence(people));
    let users = vec![user("alice"), user("nobody")];
    assert_eq!(question, Question::Presence(Whom::Users { users, shared: None }));
    let alice = json!({"version": 4, "online": true, "at": 7, "devices": [{"device": "phone", "since": 7}],
        "profile": {"name": "A"}});
    let nobody = json!({"version": 0, "online": false, "at": 0, "devices": []});
    assert_eq!(got, json!({"type": "presence", "id": "1", "online": {"alice": alice, "nobody": nobody}}));
    let frame = json!({"type": "presence", "id": "1", "group": "den"});
    let count = Answer::Presence(People::Count { online: 900, members: 1_500 });
    let (question, got) = ask(&mut open(), &frame, count);
    assert_eq!(question, Question::Presence(Whom::Group(group("den"))));
    assert_eq!(got, json!({"type": "presence", "id": "1", "count": 900, "members": 1500}));
}

#[test]
fn members_come_with_their_profiles_and_where_to_go_on() {
    let alice = Member { user: user("alice"), profile: Some("{\"a\":1}".into()) };
    let members = vec![alice, Member { user: user("carl"), profile: None }];
    let answer = Answer::Members { members, total: 7, next: Some("carl".into()) };
    let frame = json!({"type": "members", "id": "1", "group": "den", "after": "a", "limit": 2});
    let (question, got) = ask(&mut open(), &frame, answer);
    assert_eq!(question, Question::Members { group: group("den"), after: Some("a".into()), limit: 2 });
    let members = json!([{"user": "alice", "profile": {"a": 1}}, {"user": "carl"}]);
    assert_eq!(
        got,
        json!({"type": "members", "id": "1", "members": members, "total": 7, "more": true, "after": "carl"})
    );
}

/// A late "offline" can be told from a newer "online".
#[test]
fn a_change_is_told_only_if_its_version_is_greater_than_what_was_told() {
    let mut bob = open();
    let frame = json!({"type": "watch", "id": "1", "users": ["alice"]});
    let (question, got) = ask(&mut bob, &frame, Answer::Watching(People::Each(vec![person("alice", 4)])));
    assert!(matches!(question, Question::Watch(_)));
    assert_eq!((&got["type"], &got["online"]["alice"]["version"]), (&json!("ok"), &json!(4)));
    for (version, is_online) in [(4, true), (3, false), (5, false), (5, true), (9, true)] {
        bob.input(Input::Presence { user: user("alice"), version, is_online, at: UnixMillis(version) });
    }
    let change = |version: u64, online| json!({"type": "presence_change", "user": "alice", "online": online, "version": version, "at": version});
    assert_eq!(bob.get(), [change(5, false), change(9, true)]);
    let (question, got) = ask(&mut bob, &json!({"type": "unwatch", "id": "2", "users": ["alice"]}), Answer::Unwatched);
    assert!(matches!(question, Question::Unwatch(_)));
    assert_eq!(got, json!({"type": "ok", "id": "2"}));
}

#[test]
fn a_client_that_does_not_read_is_told_the_last_of_each_later() {
    let mut bob = Harness::open(Settings { queue_bytes: 300, ..Settings::default() }, 9);
    (0..5).for_each(|n| bob.say(&json!({"type": "ping", "id": format!("{n}-{}", "x".repeat(90))}).to_string()));
    for version in 1..100 {
        bob.input(Input::Presence { user: user("alice"), version, is_online: version % 2 == 1, at: UnixMillis(1) });
    }
    assert!(bob.connection.queued_bytes() < 700);
    let frames = bob.get();
    let changes: Vec<&Value> = frames.iter().filter(|f| f["type"] == "presence_change").collect();
    assert_eq!((changes.len(), &changes[0]["version"]), (1, &json!(99)));
}

#[test]
fn at_most_eight_questions_are_on_their_way() {
    let mut bob = open();
    let many: Vec<_> = (0..10).map(|n| json!({"type": "presence", "id": n.to_string(), "users": ["a"]})).collect();
    bob.say(&Value::from(many).to_string());
    let refused = bob.get();
    assert_eq!((refused.len(), &refused[0]["code"], &refused[0]["id"]), (2, &json!("overloaded"), &json!("8")));
    let fault = SendFault { code: ErrorCode::Unavailable, message: "away".into(), retry_ms: Some(9), is_final: false };
    bob.input(Input::Answered { id: id("0"), result: Err(fault) });
    assert_eq!(bob.get()[0]["code"], "unavailable");
    bob.say(r#"{"type":"read","id":"r","of":"user:bob","cursor":"x"}"#);
    assert_eq!(bob.get()[0]["code"], "bad_request");
    bob.say(&json!({"type": "read", "id": "r", "of": "user:bob", "cursor": at(3).to_text()}).to_string());
    bob.say(&json!({"type": "read", "of": "user:bob", "cursor": at(4).to_text()}).to_string());
    assert_eq!(bob.get()[0]["code"], "overloaded");
}

fn mark(bob: &mut Harness, frame: &Value, result: Result<Marked, Unavailable>) -> Vec<Value> {
    bob.say(&frame.to_string());
    let Request::Mark { of, with, user: who, cursor } = bob.asked() else { panic!("a mark") };
    assert_eq!(who, user("bob"));
    bob.input(Input::Marked { of, with, cursor, result });
    bob.get()
}

#[test]
fn a_read_mark_moves_forward_only_and_to_places_only() {
    let mut bob = open();
    let frame =
        |cursor: Cursor| json!({"type": "read", "of": "user:bob", "with": "user:alice", "cursor": cursor.to_text()});
    let with_id = |cursor| {
        let mut frame = frame(cursor);
        frame["id"] = json!("1");
        frame
    };
    assert!(mark(&mut bob, &frame(at(3)), Ok(Marked::Moved)).is_empty());
    assert_eq!(mark(&mut bob, &with_id(at(3)), Ok(Marked::Moved)), [json!({"type": "ok", "id": "1"})]);
    let stands = json!({"type": "read_change", "of": "user:bob", "with": "user:alice", "user": "bob", "cursor": at(5).to_text()});
    assert_eq!(mark(&mut bob, &frame(at(2)), Ok(Marked::Behind(at(5)))), std::slice::from_ref(&stands));
    assert_eq!(mark(&mut bob, &with_id(at(2)), Ok(Marked::Behind(at(5)))), [stands, json!({"type": "ok", "id": "1"})]);
    let error = &mark(&mut bob, &with_id(at(99)), Ok(Marked::NoPlace(Reason::Ahead)))[0];
    assert_eq!((&error["code"], &error["id"]), (&json!("bad_request"), &json!("1")));
    assert_eq!(error["message"], "`cursor`: expected a place of user:bob");
    let error = &mark(&mut bob, &frame(at(99)), Err(Unavailable))[0];
    assert_eq!((&error["code"], error.get("id")), (&json!("unavailable"), None));
}

#[test]
fn what_another_device_or_the_other_side_has_read_is_passed_on() {
    let mut bob = open();
    let notice =
        Notice::Read { of: "user:bob".into(), with: Some("user:alice".into()), user: user("alice"), cursor: at(5) };
    bob.live_with(Live::Notice(notice), 0);
    let change = json!({"type": "read_change", "of": "user:bob", "with": "user:alice", "user": "alice", "cursor": at(5).to_text()});
    assert_eq!(bob.get(), [change]);
}

#[test]
fn an_echo_is_asked_for_and_whoever_may_not_look_is_not_told_who_is_there() {
    let hello = r#"{"type":"hello","device":"phone"}"#;
    for (may_look, online) in [(true, Some(true)), (false, None)] {
        let mut bob = Harness::with_identity(&[], hello, |who| {
            if !may_look {
                who.rights.look = Default::default();
            }
        });
        bob.get();
        bob.say(r#"{"type":"send","id":"1","to":"user:alice","body":1,"echo":true}"#);
        let Request::Append { message, echo: true, .. } = bob.asked() else { panic!() };
        let placed = Placed { place: Place::Stored(at(4)), at: UnixMillis(4), online: true };
        bob.input(Input::Appended { id: message.id, to: message.to, result: Ok(placed) });
        assert_eq!(bob.get()[0].get("online").and_then(Value::as_bool), online);
        bob.say(r#"{"type":"send","id":"2","to":"user:alice","body":1,"echo":true,"ephemeral":true}"#);
        assert!(matches!(bob.asked(), Request::Publish { echo: true, .. }));
    }
}

#[test]
fn hello_claims_the_place_of_another_connection_or_of_all_of_its_device() {
    let claim = |hello: Value| {
        let mut bob = Harness::new(Settings::default());
        bob.say(&hello.to_string());
        bob.let_in();
        let Request::Attach(attach) = bob.asked() else { panic!() };
        attach.claim
    };
    let takes_over = "00000000000000ff";
    let named = json!({"type": "hello", "takes_over": takes_over});
    assert_eq!(claim(named), Some(Claim::TakesOver(ConnectionId(255))));
    let both = json!({"type": "hello", "device": "phone", "takes_over": takes_over, "exclusive": true});
    assert_eq!(claim(both), Some(Claim::Exclusive));
    assert_eq!(claim(json!({"type": "hello", "exclusive": true})), None, "without a name it has no others");
    let mut bob = Harness::new(Settings::default());
    bob.say(r#"{"type":"hello","id":"h","takes_over":"bob"}"#);
    let error = &bob.get()[0];
    assert_eq!((&error["code"], &error["id"]), (&json!("bad_request"), &json!("h")));
}

#[test]
fn who_is_taken_over_ends_with_1000_and_who_is_replaced_with_4004() {
    for (why, code) in [(HandOver::TakenOver, 1000), (HandOver::Exclusive, 4004)] {
        let mut bob = open();
        bob.input(Input::HandOver(why));
        let bye = bob.get().remove(0);
        assert_eq!((&bye["code"], bye.get("reconnect_ms")), (&json!(code), None));
        assert_eq!(bob.closed.unwrap().unwrap().number(), code);
        // The same as a notice that names this connection, and not for another one.
        let mut bob = open();
        let notice = |connection| Live::Notice(Notice::HandOver { connection: ConnectionId(connection), why });
        bob.live_with(notice(8), 0);
        assert!(bob.closed.is_none());
        bob.live_with(notice(7), 0);
        assert!(bob.closed.is_some());
    }
}

#[test]
fn a_profile_is_said_with_every_registration() {
    let hello = r#"{"type":"hello","device":"phone"}"#;
    let mut bob = Harness::with_identity(&[], hello, |who| who.profile = Some("{}".into()));
    bob.input(Input::Generation);
    let Request::Attach(attach) = bob.asked() else { panic!() };
    assert_eq!((attach.profile.as_deref(), attach.claim), (Some("{}"), None));
    bob.give(Ok(Some(page(Start::Resumed, 0, 0, 0))));
}

#[test]
fn a_history_is_of_one_conversation_or_of_a_group_from_the_join_on() {
    let mut bob = Harness::member();
    bob.say(r#"{"type":"history","id":"1","of":"user:bob","with":"user:alice"}"#);
    bob.say(r#"{"type":"history","id":"2","of":"group:den"}"#);
    assert!(matches!(bob.asked(), Request::History { with: Some(with), since: 0, .. } if with == user("alice")));
    assert!(matches!(bob.asked(), Request::History { of, since: 0, .. } if of == address("group:den")), "he may look");
}
