//! The histories.

use connection::{
    Attach, Credential, Input, Listing, Message, Opening, Refused, Request, SendFault, Settings, Unavailable,
};
use delivery::{Place, Placed, Reason, Standing, Start};
use protocol::client::{Codec, From};
use protocol::{CloseCode, ErrorCode, Live, MessageId, UnixMillis};
use serde_json::json;

use crate::harness::{Harness, at, entry, own, page};

fn settings() -> Settings {
    Settings { node: "a.1".to_owned(), ..Settings::default() }
}

#[test]
fn a_hello_is_answered_by_welcome_the_replay_and_then_live_messages() {
    let mut bob = Harness::new(settings());
    bob.say(&json!({"type": "hello", "device": "phone", "cursors": {"user:bob": at(2).to_text()}}).to_string());
    bob.let_in();
    let Request::Attach(attach) = bob.asked() else { panic!() };
    assert_eq!(attach.cursors, [Some(at(2))]);
    bob.give(Ok(Some(page(Start::Resumed, 2, 4, 4))));
    let frames = bob.get();
    assert_eq!(frames[0]["streams"][0]["status"], "resumed");
    assert_eq!(frames[0]["streams"][0]["replay"], 2);
    assert_eq!(frames[0]["streams"][0]["cursor"], at(2).to_text());
    assert_eq!((&frames[1]["id"], &frames[2]["id"]), (&json!("m3"), &json!("m4")));
    bob.live(5);
    assert_eq!(bob.ids(), ["m5"]);
}

#[test]
fn the_first_frame_is_a_hello_or_the_connection_ends_with_4000() {
    let mut bob = Harness::new(settings());
    bob.say(r#"{"type":"ping","id":"1"}"#);
    assert_eq!(bob.get()[0]["code"], 4000);
    assert_eq!(bob.closed, Some(Some(CloseCode::BadFrame)));
}

#[test]
fn a_hello_with_a_wrong_field_can_be_said_again() {
    let mut bob = Harness::new(settings());
    bob.say(r#"{"type":"hello","device":""}"#);
    assert_eq!(bob.get()[0]["code"], "bad_request");
    bob.say(r#"{"type":"hello"}"#);
    bob.let_in();
}

#[test]
fn no_hello_in_eight_seconds_ends_with_4506() {
    let mut bob = Harness::new(settings());
    bob.pass(7_999);
    assert_eq!(bob.closed, None);
    bob.pass(1);
    assert_eq!(bob.closed, Some(Some(CloseCode::HelloTimeout)));
    assert_eq!(bob.get()[0]["code"], 4506);
}

#[test]
fn auto_needs_no_hello_and_takes_its_cursor_from_the_request() {
    let opening = Opening {
        codec: Codec::JSON,
        credential: Some(Credential::User("bob".into())),
        auto: true,
        cursor: Some(at(3).to_text()),
    };
    let mut bob = Harness::with(settings(), opening);
    bob.input(Input::Activity);
    bob.let_in();
    let Request::Attach(attach) = bob.asked() else { panic!() };
    let expected = Attach {
        of: own(),
        device: None,
        cursors: vec![Some(at(3))],
        from: From::Now,
        groups_known: Some(0),
        claim: None,
        profile: None,
    };
    assert_eq!(attach, expected);
    bob.give(Ok(Some(page(Start::Resumed, 3, 3, 3))));
    bob.say(r#"{"type":"hello"}"#);
    let frames = bob.get();
    assert_eq!((&frames[0]["type"], &frames[1]["code"]), (&json!("welcome"), &json!("bad_request")));
}

#[test]
fn bad_credentials_get_a_bye_and_4001_and_expired_ones_4002() {
    for (refused, code) in
        [(Refused::Unauthorized("no".into()), CloseCode::Unauthorized), (Refused::Expired, CloseCode::TokenExpired)]
    {
        let mut bob = Harness::new(settings());
        bob.say(r#"{"type":"hello"}"#);
        bob.asked();
        bob.input(Input::Authenticated(Err(refused)));
        assert_eq!(bob.get()[0]["code"], code.number());
        assert_eq!(bob.closed, Some(Some(code)));
    }
}

#[test]
fn frames_behind_a_hello_in_one_batch_wait_for_welcome() {
    let mut bob = Harness::new(settings());
    bob.say(r#"[{"type":"hello"},{"type":"ping","id":"1"},{"type":"ping","id":"2"}]"#);
    assert!(!bob.connection.wants_input());
    bob.let_in();
    bob.asked();
    bob.give(Ok(Some(page(Start::New, 0, 0, 0))));
    let types: Vec<_> = bob.get().into_iter().map(|f| f["type"].clone()).collect();
    assert_eq!(types, ["welcome", "pong", "pong"]);
}

#[test]
fn a_backplane_that_is_away_at_hello_ends_with_4503_and_when_to_come_back() {
    let mut bob = Harness::new(settings());
    bob.say(r#"{"type":"hello"}"#);
    bob.let_in();
    bob.give(Err(Unavailable));
    let bye = &bob.get()[0];
    assert_eq!(bye["code"], 4503);
    assert!(bye["reconnect_ms"].as_u64().unwrap() >= 500);
}

#[test]
fn what_cannot_be_proven_is_reset_and_the_replay_says_again() {
    let mut bob = Harness::open(settings(), 7);
    bob.live(9);
    let Request::Read { after, .. } = bob.asked() else { panic!() };
    assert_eq!(after, [at(7)]);
    bob.give(Ok(Some(page(Start::Reset { reason: Reason::Fork, lost: None }, 4, 6, 6))));
    let frames = bob.get();
    assert_eq!(frames[0], json!({"type": "reset", "of": "user:bob", "reason": "fork", "cursor": at(4).to_text()}));
    assert!(frames[1..].iter().all(|f| f["again"] == true) && frames.len() == 3);
    bob.live(7);
    assert_eq!(bob.get()[0].get("again"), None, "a message after the replay is new");
}

/// A failover took the last message back: without its own places the whole inbox would be replayed.
#[test]
fn a_fork_under_a_running_stream_asks_about_the_places_before_it() {
    let mut bob = Harness::open(settings(), 0);
    (1..=5).for_each(|seq| bob.live(seq));
    bob.get();
    bob.input(Input::Generation);
    assert!(matches!(bob.asked(), Request::Attach(attach) if attach.cursors == [Some(at(5))]));
    bob.give(Ok(Some(page(Start::Reset { reason: Reason::Ahead, lost: None }, 0, 4, 4))));
    let Request::Read { after, .. } = bob.asked() else { panic!() };
    assert_eq!(after, [at(5), at(4), at(3), at(2), at(1)]);
    assert!(bob.get().is_empty(), "nothing is replayed before the answer");
    bob.give(Ok(Some(page(Start::Reset { reason: Reason::Ahead, lost: None }, 4, 4, 4))));
    let frames = bob.get();
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!((&frames[0]["type"], &frames[0]["cursor"]), (&json!("reset"), &json!(at(4).to_text())));
    bob.live(5);
    assert_eq!(bob.ids(), ["m5"]);
}

#[test]
fn a_trimmed_cursor_is_told_exactly_how_many_were_lost() {
    let mut bob = Harness::new(settings());
    bob.say(r#"{"type":"hello","cursors":{"user:bob":"unreadable"}}"#);
    bob.let_in();
    let Request::Attach(attach) = bob.asked() else { panic!() };
    assert_eq!(attach.cursors, [None]);
    bob.give(Ok(Some(page(Start::Reset { reason: Reason::Retention, lost: Some(17) }, 20, 21, 21))));
    let frames = bob.get();
    let stream = &frames[0]["streams"][0];
    assert_eq!(
        (&stream["status"], &stream["reason"], &stream["lost"]),
        (&json!("reset"), &json!("retention"), &json!(17))
    );
    assert_eq!(frames[1]["again"], true);
}

#[test]
fn a_send_is_answered_once_with_its_place_or_with_what_to_do() {
    let mut bob = Harness::open(settings(), 0);
    bob.say(r#"{"type":"send","id":"1","to":"user:alice","body":{"x":1}}"#);
    let Request::Append {
        message: Message { id, to, from, body, .. },
        retry_age_ms: None,
        late_ms: None,
        replicated: false,
        echo: false,
    } = bob.asked()
    else {
        panic!()
    };
    assert_eq!((from, &body.bytes[..]), (own(), &b"{\"x\":1}"[..]));
    let placed = Placed { place: Place::Stored(at(4)), at: UnixMillis(4), online: true };
    bob.input(Input::Appended { id, to: to.clone(), result: Ok(placed) });
    let sent = json!({"type": "sent", "id": "1", "ref": at(4).to_ref("user:alice"), "at": 4, "online": true});
    assert_eq!(bob.get(), [sent]);
    let fault = SendFault { code: ErrorCode::Unavailable, message: "away".into(), retry_ms: Some(9), is_final: false };
    bob.input(Input::Appended { id: MessageId::parse("2").unwrap(), to: to.clone(), result: Err(fault) });
    let placed = Placed { place: Place::Unprovable, ..placed };
    bob.input(Input::Appended { id: MessageId::parse("3").unwrap(), to, result: Ok(placed) });
    let frames = bob.get();
    assert_eq!((&frames[0]["code"], &frames[0]["retry_ms"]), (&json!("unavailable"), &json!(9)));
    assert_eq!((&frames[1]["code"], &frames[1]["final"]), (&json!("unknown_outcome"), &json!(true)));
}

#[test]
fn a_send_may_wait_for_a_replica_and_an_ephemeral_one_may_not() {
    let mut bob = Harness::open(settings(), 0);
    bob.say(r#"{"type":"send","id":"1","to":"user:alice","body":1,"ack":"replicated"}"#);
    assert!(matches!(bob.asked(), Request::Append { replicated: true, .. }));
    bob.say(r#"{"type":"send","id":"2","to":"user:alice","body":1,"ack":"replicated","ephemeral":true}"#);
    bob.say(r#"{"type":"send","id":"3","to":"user:alice","body":1,"ack":"carved"}"#);
    assert!(
        bob.get().iter().all(|f| f["code"] == "bad_request" && f["message"].as_str().unwrap().starts_with("`ack`"))
    );
    assert!(bob.asked_nothing());
}

#[test]
fn a_frame_that_cannot_be_executed_is_answered_and_the_rest_of_its_batch_is_executed() {
    let mut bob = Harness::open(settings(), 0);
    bob.say(r#"[{"type":"send","id":"1","to":"alice","body":1},{"type":"ping","id":"2"},{"type":"send","id":"3","to":"service:x","body":1}]"#);
    let frames = bob.get();
    assert_eq!((&frames[0]["id"], &frames[0]["code"]), (&json!("1"), &json!("bad_request")));
    assert_eq!(frames[1], json!({"type": "pong", "id": "2"}));
    assert_eq!((&frames[2]["id"], &frames[2]["code"]), (&json!("3"), &json!("bad_request")));
    assert!(bob.closed.is_none() && bob.asked_nothing());
}

#[test]
fn what_is_no_frame_ends_the_connection_and_the_other_encoding_too() {
    for (input, code) in [
        (Input::Text("{".into()), 4000),
        (Input::Text("1".into()), 4000),
        (Input::Binary("\u{1}".into()), 1003),
        (Input::Broken(CloseCode::TooBig), 1009),
    ] {
        let mut bob = Harness::open(settings(), 0);
        bob.input(input);
        assert_eq!(bob.get()[0]["code"], code);
        assert!(bob.closed.is_some());
    }
}

#[test]
fn frames_over_the_rate_are_answered_and_not_executed() {
    let mut bob = Harness::open(settings(), 0);
    (0..250).for_each(|n| bob.say(&json!({"type": "ping", "id": n.to_string()}).to_string()));
    let frames = bob.get();
    assert_eq!(frames.iter().filter(|f| f["type"] == "pong").count(), 200);
    let limited: Vec<_> = frames.iter().filter(|f| f["code"] == "rate_limited").collect();
    assert_eq!((limited.len(), &limited[0]["id"]), (50, &json!("200")));
    assert!(limited[0]["retry_ms"].as_u64().unwrap() > 0);
}

#[test]
fn acks_are_held_back_the_last_wins_and_leaving_hands_it_on() {
    let mut bob = Harness::open(settings(), 9);
    for seq in [3, 4, 5] {
        bob.say(&json!({"type": "ack", "of": "user:bob", "cursor": at(seq).to_text()}).to_string());
    }
    assert!(bob.asked_nothing());
    bob.pass(1_000);
    let Request::Ack { cursor, device, .. } = bob.asked() else { panic!() };
    assert_eq!((cursor, device.as_str()), (at(5), "phone"));
    bob.say(&json!({"type": "ack", "of": "user:bob", "cursor": at(6).to_text()}).to_string());
    bob.input(Input::Gone);
    assert!(matches!(bob.asked(), Request::Ack { cursor, .. } if cursor == at(6)));
    assert_eq!(bob.closed, Some(None));
}

#[test]
fn what_belongs_to_somebody_else_is_forbidden() {
    let mut bob = Harness::open(settings(), 9);
    bob.say(&json!({"type": "ack", "of": "user:alice", "cursor": at(3).to_text()}).to_string());
    bob.say(r#"{"type":"history","id":"1","of":"user:alice"}"#);
    assert!(bob.get().iter().all(|f| f["code"] == "forbidden"));
    assert!(bob.asked_nothing());
}

#[test]
fn history_is_answered_newest_first() {
    let mut bob = Harness::open(settings(), 9);
    bob.say(
        &json!({"type": "history", "id": "1", "of": "user:bob", "before": at(9).to_text(), "limit": 2}).to_string(),
    );
    let Request::History { id, before, limit, .. } = bob.asked() else { panic!() };
    assert_eq!((before, limit), (Some(at(9)), 2));
    bob.input(Input::History {
        id,
        result: Ok(Listing { entries: vec![entry(8), entry(7)], more: true, before: Some(at(7)) }),
    });
    let frames = bob.get();
    assert_eq!(frames[0]["messages"][0]["seq"], 8);
    assert_eq!((&frames[0]["more"], &frames[0]["before"]), (&json!(true), &json!(at(7).to_text())));
}

/// A client that does not read: durable delivery pauses, ephemeral is dropped, and the inbox is the buffer.
#[test]
fn a_slow_client_is_paused_reads_on_from_the_inbox_and_is_closed_if_it_stays_stuck() {
    let mut bob = Harness::open(Settings { queue_bytes: 600, ..settings() }, 0);
    (1..=20).for_each(|seq| bob.live(seq));
    let ephemeral = protocol::Ephemeral { at: UnixMillis(1), envelope: entry(1).envelope };
    bob.live_with(Live::Ephemeral(ephemeral), 0);
    assert!(!bob.connection.wants_input());
    assert_eq!(bob.connection.take_counts().dropped_ephemeral, 1);
    let got = bob.ids();
    assert!(got.len() < 20);
    let Request::Read { after, .. } = bob.asked() else { panic!("it reads on") };
    assert_eq!(after, [at(got.len() as u64)]);
    bob.give(Ok(Some(page(Start::Resumed, got.len() as u64, 20, 20))));
    assert!(!bob.connection.wants_input());
    bob.pass(30_000);
    assert_eq!(bob.closed, Some(Some(CloseCode::SlowConsumer)));
}

#[test]
fn silence_is_pinged_once_and_ends_with_4501() {
    let mut bob = Harness::open(settings(), 0);
    bob.pass(25_000);
    assert!(bob.get().contains(&json!("ping")));
    bob.input(Input::Activity);
    bob.pass(25_000);
    bob.pass(25_000);
    assert_eq!(bob.closed, Some(Some(CloseCode::HeartbeatTimeout)));
}

#[test]
fn a_new_generation_registers_again_from_the_cursor_and_loses_nothing() {
    let mut bob = Harness::open(settings(), 7);
    bob.input(Input::Generation);
    let Request::Attach(attach) = bob.asked() else { panic!() };
    assert_eq!(attach.cursors, [Some(at(7))]);
    bob.input(Input::Generation);
    bob.give(Ok(Some(page(Start::Resumed, 7, 8, 8))));
    assert_eq!(bob.ids(), ["m8"]);
    let Request::Attach(attach) = bob.asked() else { panic!("once more, for the second one") };
    assert_eq!(attach.cursors, [Some(at(8))]);
}

#[test]
fn a_pull_that_fails_is_asked_again_and_nothing_is_skipped_meanwhile() {
    let mut bob = Harness::open(settings(), 7);
    bob.live(9);
    bob.asked();
    bob.give(Err(Unavailable));
    bob.pass(500);
    assert!(matches!(bob.asked(), Request::Read { after, .. } if after == [at(7)]));
    bob.give(Ok(None));
    bob.pass(0);
    assert!(matches!(bob.asked(), Request::Attach(_)), "no record: attach begins one");
}

#[test]
fn a_quiet_stream_checks_its_place_and_reads_what_it_missed() {
    let mut bob = Harness::open(settings(), 7);
    let mut asked = None;
    for _ in 0..5 {
        bob.pass(10_000);
        bob.input(Input::Activity);
        if !bob.asked_nothing() {
            asked = Some(bob.asked());
            break;
        }
    }
    assert!(matches!(asked, Some(Request::Verify { cursor, .. }) if cursor == at(7)));
    bob.input(Input::Verified { of: own(), result: Ok((Standing::Behind, 0)) });
    assert!(matches!(bob.asked(), Request::Read { .. }));
}

/// One pull at a time, whatever pauses: two of them delivered a page twice and moved the cursor back.
#[test]
fn a_pause_while_a_pull_is_in_flight_begins_no_second_one() {
    let mut bob = Harness::open(Settings { queue_bytes: 600, ..settings() }, 0);
    bob.live(2);
    let Request::Read { after, .. } = bob.asked() else { panic!() };
    assert_eq!(after, [at(0)]);
    (0..10).for_each(|n| bob.say(&json!({"type": "ping", "id": "x".repeat(100 + n)}).to_string()));
    assert!(!bob.connection.wants_input(), "its answers fill the queue");
    bob.live(3);
    bob.get();
    assert!(bob.asked_nothing(), "the first pull is still in flight");
    bob.give(Ok(Some(page(Start::Resumed, 0, 3, 3))));
    assert_eq!(bob.ids(), ["m1", "m2", "m3"]);
    let Request::Read { after, .. } = bob.asked() else { panic!("what came meanwhile") };
    assert_eq!(after, [at(3)]);
}

/// A message stored between the attach and its answer waited for the position check: half a minute.
#[test]
fn a_live_message_during_the_opening_is_read_right_behind_the_first_page() {
    let mut bob = Harness::new(settings());
    bob.say(r#"{"type":"hello"}"#);
    bob.let_in();
    bob.asked();
    bob.live(1);
    bob.give(Ok(Some(page(Start::New, 0, 0, 0))));
    let Request::Read { after, .. } = bob.asked() else { panic!() };
    assert_eq!(after, [at(0)]);
}

#[test]
fn a_registration_that_failed_is_tried_again_as_one() {
    let mut bob = Harness::open(settings(), 7);
    bob.input(Input::Generation);
    assert!(matches!(bob.asked(), Request::Attach(_)));
    bob.give(Err(Unavailable));
    bob.pass(500);
    assert!(matches!(bob.asked(), Request::Attach(_)), "a read would leave it without a location");
}

#[test]
fn an_older_ack_does_not_replace_a_newer_one() {
    let mut bob = Harness::open(settings(), 9);
    for seq in [9, 3] {
        bob.say(&json!({"type": "ack", "of": "user:bob", "cursor": at(seq).to_text()}).to_string());
    }
    bob.pass(1_000);
    assert!(matches!(bob.asked(), Request::Ack { cursor, .. } if cursor == at(9)));
}

/// Two hundred histories in one frame cost the node 280 MB.
#[test]
fn only_two_histories_are_on_their_way_and_the_others_are_told() {
    let mut bob = Harness::open(settings(), 9);
    let many: Vec<_> = (0..10).map(|n| json!({"type": "history", "id": n.to_string(), "of": "user:bob"})).collect();
    bob.say(&serde_json::Value::from(many).to_string());
    assert!(matches!((bob.asked(), bob.asked()), (Request::History { .. }, Request::History { .. })));
    assert!(bob.asked_nothing());
    let refused = bob.get();
    assert_eq!(refused.len(), 8);
    assert!(refused.iter().all(|f| f["code"] == "overloaded"));
    let id = MessageId::parse("0").unwrap();
    bob.input(Input::History { id, result: Ok(Listing { entries: Vec::new(), more: false, before: None }) });
    bob.say(r#"{"type":"history","id":"again","of":"user:bob"}"#);
    assert!(matches!(bob.asked(), Request::History { .. }));
}

#[test]
fn a_drain_says_bye_4500_and_when_to_come_back() {
    let mut bob = Harness::open(settings(), 7);
    bob.input(Input::Drain { reconnect_ms: 1_234 });
    let bye = json!({"type": "bye", "code": 4500, "reason": "the node is being stopped", "reconnect_ms": 1234});
    assert_eq!(bob.get(), [bye]);
    assert_eq!(bob.closed, Some(Some(CloseCode::Draining)));
    bob.say("{}");
    assert!(bob.get().is_empty(), "after the close nothing counts");
}

#[test]
fn a_message_for_another_device_is_not_for_this_one() {
    let mut bob = Harness::open(settings(), 0);
    for (to, expected) in [("user:bob/phone", 1), ("user:bob/tablet", 0), ("user:bob", 1)] {
        let mut envelope = (*entry(1).envelope).clone();
        envelope.to = to.into();
        let one = protocol::Ephemeral { at: UnixMillis(1), envelope: envelope.into() };
        bob.live_with(Live::Ephemeral(one), 0);
        assert_eq!(bob.get().len(), expected, "{to}");
    }
}

#[test]
fn an_expired_message_is_skipped_and_the_cursor_moves_over_it() {
    let mut bob = Harness::open(settings(), 0);
    let mut first = entry(1);
    first.envelope = protocol::Envelope { expires_ms: Some(5), ..(*first.envelope).clone() }.into();
    bob.ms = 100;
    bob.live_with(Live::Entry(first), 0);
    bob.live(2);
    assert_eq!(bob.ids(), ["m2"]);
    assert!(bob.asked_nothing());
}
