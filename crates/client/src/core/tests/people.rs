//! Told histories of groups, presence and read marks.

use super::*;
use crate::requests::{Ask, AskRequest, Whom};
use crate::wire::people::Online;

fn join(group: &str) -> Ask {
    Ask::Join { group: group.into(), until_disconnect: true, cursor: None }
}

fn watch() -> Ask {
    Ask::Watch(Whom::Users(vec!["bob".into(), "carol".into()]))
}

impl Story {
    fn ask(&mut self, id: &'static str, ask: Ask) {
        self.core.ask(id, AskRequest { id: id.into(), ask }, 30_000, self.now());
    }

    fn group_message(&mut self, group: &str, n: u64, again: bool) {
        self.says(
            &json!({"type": "message", "to": format!("group:{group}"), "from": "user:you", "id": format!("m{n}"),
            "at": 1, "seq": n, "cursor": format!("{group}{n}"), "again": again, "body": n}),
        );
    }
}

#[test]
fn a_group_that_was_joined_goes_on_at_its_cursor_after_a_reconnect() {
    let mut story = Story::open();
    story.ask("j", join("g"));
    let frame = story.frames().remove(0);
    assert_eq!(frame, json!({"type": "join", "id": "j", "group": "g", "until": "disconnect"}));
    story.says(&json!({"type": "stream", "of": "group:g", "status": "new", "cursor": "g0", "head": 0, "replay": 0}));
    story.group_message("g", 1, false);
    story.says(&json!({"type": "ok", "id": "j", "cursor": "g0"}));
    let outputs = story.outputs();
    assert!(matches!(&outputs[0], Output::Deliver(Event::Stream(stream)) if stream.of == "group:g"));
    assert!(matches!(&outputs[2], Output::Answer("j", Ok(Answer::Done(done))) if done.cursor.as_deref() == Some("g0")));
    story.closes(None);
    let cursors = story.hello()["cursors"].clone();
    assert_eq!(cursors["group:g"], json!(["g1", "g0"]), "the answer does not set the stream back");
}

/// A server that sends no `stream` frame: the answer alone says where the stream begins.
#[test]
fn the_answer_to_a_join_is_a_place_to_go_on_from() {
    let mut story = Story::open();
    story.ask("j", join("g"));
    story.says(&json!({"type": "ok", "id": "j", "cursor": "g0"}));
    story.outputs();
    story.closes(None);
    assert_eq!(story.hello()["cursors"]["group:g"], json!(["g0"]));
}

#[test]
fn whoever_left_or_was_removed_does_not_go_on_there() {
    for ends in ["leave", "removed"] {
        let mut story = Story::open();
        story
            .says(&json!({"type": "stream", "of": "group:g", "status": "new", "cursor": "g0", "head": 0, "replay": 0}));
        if ends == "leave" {
            story.ask("l", Ask::Leave { group: "g".into() });
            story.says(&json!({"type": "ok", "id": "l"}));
        } else {
            story.says(&json!({"type": "member_change", "group": "g", "user": "you", "joined": false, "members": 2}));
            story.says(&json!({"type": "member_change", "group": "g", "user": "me", "joined": false, "members": 1}));
        }
        story.outputs();
        story.closes(None);
        assert_eq!(story.hello()["cursors"], json!({"user:me": ["c0"]}), "{ends}");
    }
}

#[test]
fn a_leave_whose_answer_was_lost_is_asked_again_and_not_found_is_as_good() {
    let mut story = Story::open();
    story.ask("l", Ask::Leave { group: "g".into() });
    story.closes(None);
    story.comes_back();
    assert_eq!(story.frames().len(), 1);
    story.says(&json!({"type": "error", "id": "l", "code": "not_found", "message": "not in it"}));
    assert!(matches!(&*story.answers(), [("l", Ok(Answer::Done(_)))]));
    story.ask("m", Ask::Leave { group: "g".into() });
    story.says(&json!({"type": "error", "id": "m", "code": "not_found", "message": "not in it"}));
    assert!(matches!(&*story.answers(), [("m", Err(RequestError::Rejected { .. }))]), "at the first asking it is a no");
}

/// Each stream has its own reset and its own memory of what came.
#[test]
fn a_reset_of_one_group_is_none_of_another() {
    let mut story = Story::open();
    for group in ["g", "h"] {
        story.group_message(group, 1, false);
        story.group_message(group, 2, false);
    }
    story.says(&json!({"type": "reset", "of": "group:g", "reason": "fork", "cursor": "g0"}));
    story.outputs();
    story.group_message("g", 2, true);
    story.group_message("g", 3, true);
    story.group_message("h", 3, false);
    assert_eq!(story.delivered(), ["m3", "m3"]);
    story.closes(None);
    assert_eq!(story.hello()["cursors"], json!({"group:g": ["g3", "g0"], "group:h": ["h3", "h1"], "user:me": ["c0"]}));
}

#[test]
fn whoever_is_watched_is_watched_again_after_a_reconnect_and_how_he_is_now_is_told() {
    let mut story = Story::open();
    story.ask("w", watch());
    let frame = story.frames().remove(0);
    assert_eq!((&frame["type"], &frame["users"]), (&json!("watch"), &json!(["bob", "carol"])));
    let online = json!({"bob": {"version": 7, "online": true, "at": 5, "devices": [{"device": "d", "since": 5}]}, "carol": {"version": 0}});
    story.says(&json!({"type": "ok", "id": "w", "online": online}));
    let Ok(Answer::Done(done)) = story.answers().remove(0).1 else { panic!("no answer") };
    let Some(Online::Each(users)) = done.online else { panic!("nobody") };
    assert_eq!((users["bob"].version, users["bob"].devices.len(), users["carol"].devices.len()), (7, 1, 0));
    story.says(&json!({"type": "presence_change", "user": "bob", "online": false, "version": 8, "at": 9}));
    assert!(matches!(&*story.outputs(), [Output::Deliver(Event::PresenceChange(change))] if !change.is_online));

    story.closes(None);
    story.comes_back();
    let frame = story.frames().remove(0);
    assert_eq!((&frame["type"], &frame["users"]), (&json!("watch"), &json!(["bob", "carol"])));
    story.says(&json!({"type": "ok", "id": frame["id"], "online": online}));
    assert!(matches!(&*story.outputs(), [Output::Deliver(Event::Presence(_))]));

    story.ask("u", Ask::Unwatch(Whom::Users(vec!["carol".into()])));
    story.says(&json!({"type": "ok", "id": "u"}));
    story.closes(None);
    story.comes_back();
    let frame = story.frames().remove(0);
    assert_eq!(frame["users"], json!(["bob"]));
    story.says(&json!({"type": "error", "id": frame["id"], "code": "forbidden", "message": "not any more"}));
    assert!(matches!(&*story.outputs(), [Output::Deliver(Event::Error(_))]));
    story.closes(None);
    story.comes_back();
    assert_eq!(story.frames(), [] as [Value; 0]);
}

#[test]
fn a_watch_that_was_not_answered_is_asked_once_on_the_next_connection() {
    let mut story = Story::open();
    story.ask("w", watch());
    story.closes(None);
    story.comes_back();
    assert_eq!(story.frames().len(), 1);
    story.says(&json!({"type": "ok", "id": "w", "online": {}}));
    assert_eq!(story.answers().len(), 1);
}

#[test]
fn questions_get_their_own_answers() {
    let mut story = Story::open();
    story.ask("c", Ask::Counts { of: "user:me".into(), with: Some("user:you".into()) });
    story.ask("r", Ask::Receipts { reference: "ref".into() });
    story.ask("p", Ask::Presence(Whom::Group("g".into())));
    story.ask("m", Ask::Members { group: "g".into(), after: Some("b".into()), limit: Some(2) });
    story.ask("d", Ask::Read { of: "user:me".into(), with: Some("user:you".into()), cursor: "c1".into() });
    let frames = story.frames();
    assert_eq!(frames[0], json!({"type": "counts", "id": "c", "of": "user:me", "with": "user:you"}));
    assert_eq!(frames[1], json!({"type": "receipts", "id": "r", "ref": "ref"}));
    assert_eq!(frames[2], json!({"type": "presence", "id": "p", "group": "g"}));
    assert_eq!(frames[3], json!({"type": "members", "id": "m", "group": "g", "after": "b", "limit": 2}));
    assert_eq!(frames[4], json!({"type": "read", "id": "d", "of": "user:me", "cursor": "c1", "with": "user:you"}));
    story.says(&json!([
        {"type": "counts", "id": "c", "total": 3, "unread": 1, "by": {"you": 2, "me": 1}},
        {"type": "receipts", "id": "r", "delivered": {"you": ["phone"]}, "read": ["you"]},
        {"type": "presence", "id": "p", "count": 1_200, "members": 5_000},
        {"type": "members", "id": "m", "members": [{"user": "c", "profile": {"name": "C"}}, {"user": "d"}], "total": 9, "more": true, "after": "d"},
        {"type": "ok", "id": "d"},
        {"type": "read_change", "of": "user:me", "with": "user:you", "user": "me", "cursor": "c1"},
    ]));
    let outputs = story.outputs();
    assert!(matches!(&outputs[0], Output::Answer("c", Ok(Answer::Counts(c))) if c.unread == 1 && c.by["you"] == 2));
    assert!(matches!(&outputs[1], Output::Answer("r", Ok(Answer::Receipts(r))) if !r.is_expired));
    let Output::Answer("p", Ok(Answer::Presence(presence))) = &outputs[2] else { panic!("{:?}", outputs[2]) };
    assert_eq!(presence.online, Online::Count { online: 1_200, members: 5_000 });
    let Output::Answer("m", Ok(Answer::Members(members))) = &outputs[3] else { panic!("{:?}", outputs[3]) };
    assert_eq!(members.members[0].profile.as_ref().unwrap().to_value()["name"], "C");
    assert!(matches!(&outputs[4], Output::Answer("d", Ok(Answer::Done(_)))));
    assert!(matches!(&outputs[5], Output::Deliver(Event::ReadChange(change)) if change.user == "me"));
}

#[test]
fn what_names_nobody_is_told_at_once() {
    let mut story = Story::open();
    story.ask("group", join("a/b"));
    story.ask("user", Ask::Presence(Whom::Users(vec![String::new()])));
    story.ask("of", Ask::Counts { of: "me".into(), with: None });
    let answers = story.answers();
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|(_, result)| matches!(result, Err(RequestError::Invalid(_)))), "{answers:?}");
}
