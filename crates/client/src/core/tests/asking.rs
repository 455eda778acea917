//! Told histories of requests: retries, refusals, deadlines, and who is to blame for an ended connection.

use super::*;
use crate::requests::HistoryRequest;

#[test]
fn what_was_unanswered_goes_out_again_in_order_as_a_retry() {
    let mut story = Story::open();
    ["a", "b", "c"].into_iter().for_each(|id| story.send(id));
    let first: Vec<Value> = story.frames();
    assert!(first.iter().all(|frame| frame["retry"].is_null()));
    story.says(&json!({"type": "sent", "id": "b", "ref": "r", "at": 5}));
    assert!(matches!(&*story.answers(), [("b", result)] if is_sent(result)));
    story.closes(None);
    story.now_ms += 700;
    story.send("d");
    assert_eq!(story.answers(), [], "it waits for the next connection");
    story.comes_back();
    let frames = story.frames();
    let told: Vec<_> = frames.iter().map(|f| (f["id"].as_str().unwrap(), &f["retry"], &f["age_ms"])).collect();
    assert_eq!(
        told,
        [("a", &json!(true), &json!(700)), ("c", &json!(true), &json!(700)), ("d", &Value::Null, &Value::Null)]
    );
    assert_eq!(frames[0]["body"], "a");
}

#[test]
fn refusals_for_now_are_tried_again_until_the_deadline() {
    for code in ["overloaded", "unavailable", "unknown_outcome"] {
        let mut story = Story::open();
        story.send("a");
        story.frames();
        story.says(&json!({"type": "error", "id": "a", "code": code, "message": "later", "retry_ms": 300}));
        story.passes(299);
        assert_eq!(story.frames(), [] as [Value; 0], "{code}");
        story.passes(1);
        let retried = story.frames().remove(0);
        assert_eq!((&retried["id"], &retried["retry"], &retried["age_ms"]), (&json!("a"), &json!(true), &json!(300)));
        story.passes(30_000);
        assert_eq!(story.answers(), [("a", Err(RequestError::Deadline { maybe_stored: true }))], "{code}");
    }
}

#[test]
fn a_final_unknown_outcome_and_other_errors_are_answers() {
    let mut story = Story::open();
    story.send("a");
    story.send("b");
    story.says(&json!({"type": "error", "id": "a", "code": "unknown_outcome", "message": "gone", "final": true}));
    story.says(&json!({"type": "error", "id": "b", "code": "forbidden", "message": "no"}));
    let rejected = RequestError::Rejected { code: "forbidden".into(), message: "no".into() };
    assert_eq!(
        story.answers(),
        [("a", Err(RequestError::UnknownOutcome { message: "gone".into() })), ("b", Err(rejected))]
    );
}

#[test]
fn a_rate_limit_holds_everything_and_a_first_try_stays_one() {
    let mut story = Story::open();
    story.send("a");
    story.frames();
    story.says(&json!({"type": "error", "id": "a", "code": "rate_limited", "message": "slow", "retry_ms": 100}));
    story.send("b");
    assert_eq!(story.frames(), [] as [Value; 0]);
    story.passes(100);
    let frames = story.frames();
    assert_eq!((&frames[0]["id"], &frames[1]["id"]), (&json!("a"), &json!("b")), "the older one goes first");
    assert_eq!(frames[0]["retry"], Value::Null, "it was not executed");
}

#[test]
fn nothing_waits_longer_than_its_deadline() {
    let mut story = Story::new();
    story.send("a");
    story.passes(29_999);
    assert_eq!(story.answers(), []);
    story.passes(1);
    assert_eq!(story.answers(), [("a", Err(RequestError::Deadline { maybe_stored: false }))]);
}

#[test]
fn the_frame_that_ended_the_connection_is_not_sent_again() {
    for code in [1002, 1003, 1007, 1009] {
        let mut story = Story::open();
        story.send("big");
        story.frames();
        assert!(matches!(story.closes(Some(code)), Next::Again { .. }));
        assert_eq!(story.answers(), [("big", Err(RequestError::Refused { close_code: code }))]);
        story.comes_back();
        assert_eq!(story.frames(), [] as [Value; 0]);
    }
}

/// Three are out, and one of them, "b", ends every connection that it is sent on.
#[test]
fn where_several_could_be_to_blame_they_go_one_at_a_time() {
    let mut story = Story::open();
    ["a", "b", "c"].into_iter().for_each(|id| story.send(id));
    story.closes(Some(1009));
    assert_eq!(story.answers(), []);
    story.comes_back();
    story.send("d");
    let ids = |frames: Vec<Value>| frames.iter().map(|f| f["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(story.frames()), ["a"]);
    story.says(&json!({"type": "sent", "id": "a", "at": 1}));
    assert_eq!(ids(story.frames()), ["b"]);
    story.closes(Some(1009));
    assert_eq!(story.answers(), [("b", Err(RequestError::Refused { close_code: 1009 }))]);
    story.comes_back();
    assert_eq!(ids(story.frames()), ["c"]);
    story.says(&json!({"type": "sent", "id": "c", "at": 1}));
    assert_eq!(ids(story.frames()), ["d"]);
    story.send("e");
    assert_eq!(ids(story.frames()), ["e"], "and then side by side again");
}

#[test]
fn a_frame_that_the_server_would_not_take_is_not_sent() {
    let mut story = Story::open();
    story.send_with("a", |request| request.body = Body::from("x".repeat(1_000)));
    assert!(matches!(story.answers()[0], ("a", Err(RequestError::TooLarge { bytes_max: 1_000, .. }))));
}

#[test]
fn what_makes_no_sense_is_told_at_once() {
    let mut story = Story::open();
    story.send_with("to", |request| request.to = "bob".into());
    story.send_with("id", |request| request.id = "a/b".into());
    story.send_with("body", |request| request.body = Body::encoded(Encoding::Json, "{"));
    story.send_with("device", |request| request.to = "user:you/phone".into());
    story.send_with("expires", |request| request.expires_ms = Some(0));
    story.send_with("retry", |request| (request.ephemeral, request.retry_age_ms) = (true, Some(1)));
    let answers = story.answers();
    assert_eq!(answers.len(), 6);
    assert!(answers.iter().all(|(_, result)| matches!(result, Err(RequestError::Invalid(_)))), "{answers:?}");
}

#[test]
fn one_id_is_out_once() {
    let mut story = Story::open();
    story.send("a");
    story.send("a");
    assert!(matches!(&*story.answers(), [("a", Err(RequestError::Invalid(_)))]));
}

#[test]
fn a_retry_of_an_earlier_process_is_marked_from_the_first_try_on() {
    let mut story = Story::open();
    story.send_with("a", |request| request.retry_age_ms = Some(60_000));
    let frame = story.frames().remove(0);
    assert_eq!((&frame["retry"], &frame["age_ms"]), (&json!(true), &json!(60_000)));
}

#[test]
fn ephemeral_messages_are_never_kept_nor_sent_twice() {
    let mut story = Story::open();
    let ephemeral = |request: &mut SendRequest| request.ephemeral = true;
    story.send_with("a", ephemeral);
    assert_eq!(story.frames()[0]["ephemeral"], true);
    story.closes(None);
    assert_eq!(story.answers(), [("a", Err(RequestError::Lost))]);
    story.send_with("b", ephemeral);
    assert_eq!(story.answers(), [("b", Err(RequestError::NotConnected))]);
    story.comes_back();
    assert_eq!(story.frames(), [] as [Value; 0]);
    story.send_with("c", ephemeral);
    story.frames();
    story.says(&json!({"type": "error", "id": "c", "code": "unavailable", "message": "m", "retry_ms": 1}));
    assert!(matches!(&*story.answers(), [("c", Err(RequestError::Rejected { .. }))]));
}

#[test]
fn history_is_asked_again_after_a_reconnect() {
    let mut story = Story::open();
    let request = HistoryRequest { id: "h".into(), of: "user:me".into(), with: None, before: None, limit: Some(5) };
    story.core.history("h", request, 30_000, story.now());
    assert_eq!(story.frames()[0]["limit"], 5);
    story.closes(None);
    story.comes_back();
    let frame = story.frames().remove(0);
    assert_eq!((&frame["type"], &frame["retry"]), (&json!("history"), &Value::Null));
    story.says(&json!({"type": "history", "id": "h", "messages": [], "more": false}));
    assert!(matches!(&*story.answers(), [("h", Ok(Answer::History(_)))]));
}

#[test]
fn no_more_is_out_than_allowed_and_nothing_follows_a_goodbye() {
    const IDS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let mut story = Story::open();
    IDS.into_iter().for_each(|id| story.send(id));
    assert_eq!(story.frames().len(), 8);
    story.says(&json!({"type": "bye", "code": 4500, "reason": "draining"}));
    story.says(&json!({"type": "sent", "id": "0", "at": 1}));
    assert_eq!(story.frames(), [] as [Value; 0]);
    story.closes(Some(4500));
    story.comes_back();
    assert_eq!(story.frames().len(), 8);
}
