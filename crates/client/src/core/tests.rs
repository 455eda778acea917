//! Told histories: what a server says and does, and what the session makes of it. Time is whatever the story says.

use serde_json::{Value, json};

mod asking;
mod people;

use super::*;
use crate::body::Body;
use crate::requests::SendRequest;
use crate::wire::Reset;
use protocol::UnixMillis;

/// One session and the story's clock. Requests are named by their ids.
struct Story {
    core: Core<&'static str>,
    now_ms: u64,
}

fn settings() -> Settings {
    Settings {
        encoding: Encoding::Json,
        device: Some("phone".into()),
        renews_token: true,
        from: None,
        exclusive: false,
        batch: true,
        cursors: Vec::new(),
        open_timeout_ms: 10_000,
        backoff_base_ms: 200,
        backoff_cap_ms: 20_000,
        in_flight_max: 8,
    }
}

impl Story {
    fn new() -> Self {
        Self { core: Core::new(settings()), now_ms: 1_000 }
    }

    /// A session that is open and stands at cursor "c0" of the own inbox.
    fn open() -> Self {
        let mut story = Self::new();
        story.hello();
        story.welcome(&json!([{"of": "user:me", "status": "new", "cursor": "c0", "head": 0, "replay": 0}]));
        story.outputs();
        story
    }

    fn now(&self) -> Now {
        Now { monotonic: Millis(self.now_ms), wall: UnixMillis(1_700_000_000_000 + self.now_ms) }
    }

    /// Opens the socket; gives the `hello`.
    fn hello(&mut self) -> Value {
        self.core.on_open(None, self.now());
        self.frames().remove(0)
    }

    fn welcome(&mut self, streams: &Value) {
        let (user, connection) = ("me", "conn-1");
        self.says(&json!({"type": "welcome", "user": user, "device": "phone", "connection": connection, "node": "a",
            "heartbeat_ms": 25_000, "max_bytes": 1_000, "streams": streams}));
    }

    /// Comes back and is resumed where it was.
    fn comes_back(&mut self) -> Value {
        let hello = self.hello();
        let cursor = hello["cursors"]["user:me"][0].clone();
        self.welcome(&json!([{"of": "user:me", "status": "resumed", "cursor": cursor, "head": 0, "replay": 0}]));
        hello
    }

    fn says(&mut self, frame: &Value) {
        self.core.on_frame(frame.to_string().as_bytes(), self.now());
    }

    fn message(&mut self, n: u64, again: bool) {
        self.says(&json!({"type": "message", "to": "user:me", "from": "user:you", "id": format!("m{n}"), "at": 1,
            "seq": n, "cursor": format!("c{n}"), "again": again, "body": n}));
    }

    fn send(&mut self, id: &'static str) {
        self.send_with(id, |_| {});
    }

    fn send_with(&mut self, id: &'static str, change: impl FnOnce(&mut SendRequest)) {
        let mut request = SendRequest {
            id: id.into(),
            to: "user:you".into(),
            body: Body::from(id),
            ephemeral: false,
            echo: false,
            expires_ms: None,
            retry_age_ms: None,
            replicated: false,
        };
        change(&mut request);
        self.core.send(id, request, 30_000, self.now());
    }

    fn closes(&mut self, code: Option<u16>) -> Next {
        self.core.on_close(Ending { code, reason: "told".into() }, self.now(), 1.0)
    }

    /// Time passes, and the timer is heard whenever it is due.
    fn passes(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some(due) = self.core.deadline().filter(|due| due.0 <= end) {
            let before = self.now_ms;
            self.now_ms = self.now_ms.max(due.0);
            self.core.on_timer(self.now());
            assert!(before < self.now_ms || self.core.deadline() != Some(due), "a timer that never ends");
        }
        self.now_ms = end;
        self.core.on_timer(self.now());
    }

    fn outputs(&mut self) -> Vec<Output<&'static str>> {
        std::iter::from_fn(|| self.core.poll_output()).collect()
    }

    /// The frames that go out; everything else is thrown away.
    fn frames(&mut self) -> Vec<Value> {
        let frame = |output| match output {
            Output::Write(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
            _ => None,
        };
        self.outputs().into_iter().filter_map(frame).collect()
    }

    fn answers(&mut self) -> Vec<(&'static str, Result<Answer, RequestError>)> {
        let answer = |output| match output {
            Output::Answer(handle, result) => Some((handle, result)),
            _ => None,
        };
        self.outputs().into_iter().filter_map(answer).collect()
    }

    /// The ids of the messages that the application gets.
    fn delivered(&mut self) -> Vec<String> {
        let id = |output| match output {
            Output::Deliver(Event::Message(message)) => Some(message.id),
            _ => None,
        };
        self.outputs().into_iter().filter_map(id).collect()
    }
}

fn again(after_ms: u64) -> Next {
    Next::Again { after_ms, new_token: false }
}

fn is_sent(result: &Result<Answer, RequestError>) -> bool {
    matches!(result, Ok(Answer::Sent(_)))
}

#[test]
fn a_reconnect_names_the_last_cursor_and_older_ones() {
    let mut story = Story::open();
    (1..=20).for_each(|n| story.message(n, false));
    assert_eq!(story.delivered().len(), 20);
    assert_eq!(story.closes(None), again(200));
    let hello = story.comes_back();
    assert_eq!(hello["cursors"], json!({"user:me": ["c20", "c8", "c0"]}));
    assert_eq!((&hello["device"], &hello["batch"]), (&json!("phone"), &json!(true)));
    assert_eq!(hello["takes_over"], "conn-1", "its remains are to be replaced: it ended without a word");
    story.message(21, false);
    assert_eq!(story.delivered(), ["m21"]);
    story.closes(Some(1011));
    let hello = story.hello();
    assert_eq!(hello["cursors"]["user:me"], json!(["c21", "c8", "c0"]), "a resumed stream keeps its older marks");
    assert_eq!(hello["takes_over"], Value::Null, "the server has closed that one itself");
}

#[test]
fn after_a_reset_what_was_had_is_left_out_and_the_rest_is_not() {
    let mut story = Story::open();
    (1..=3).for_each(|n| story.message(n, false));
    story.closes(None);
    story.hello();
    story.welcome(
        &json!([{"of": "user:me", "status": "reset", "reason": "fork", "cursor": "d1", "head": 4, "replay": 3}]),
    );
    story.outputs();
    story.message(2, true);
    story.message(3, true);
    story.message(4, true);
    assert_eq!(story.delivered(), ["m4"], "m4 was stored while this one was away, and comes for the first time");
    story.message(4, false);
    assert_eq!(story.delivered(), [""; 0], "lost by a failover and brought back by its retry: new to the server only");
    story.closes(None);
    assert_eq!(story.hello()["cursors"]["user:me"], json!(["c4", "d1"]), "cursors from before the reset are gone");
}

#[test]
fn a_reset_of_a_running_stream_moves_it_and_is_told() {
    let mut story = Story::open();
    story.message(1, false);
    story.outputs();
    story.says(&json!({"type": "reset", "of": "user:me", "reason": "epoch", "cursor": "e0", "lost": 2}));
    let events = story.outputs();
    assert!(matches!(&*events, [Output::Deliver(Event::Reset(Reset { lost: Some(2), .. }))]), "{events:?}");
    story.message(1, true);
    assert_eq!(story.delivered(), [""; 0]);
    story.closes(None);
    assert_eq!(story.hello()["cursors"]["user:me"], json!(["c1", "e0"]));
}

#[test]
fn an_ephemeral_message_has_no_place_and_is_never_left_out() {
    let mut story = Story::open();
    for _ in 0..2 {
        story.says(&json!({"type": "message", "to": "user:me", "from": "user:you", "id": "e", "at": 1, "body": 1}));
    }
    assert_eq!(story.delivered(), ["e", "e"]);
    story.closes(None);
    assert_eq!(story.hello()["cursors"]["user:me"], json!(["c0"]));
}

#[test]
fn groups_have_streams_of_their_own() {
    let mut story = Story::open();
    story.says(&json!({"type": "stream", "of": "group:g", "status": "new", "cursor": "g0", "head": 0, "replay": 0}));
    story.says(&json!({"type": "message", "to": "group:g", "from": "user:you", "id": "1", "at": 1, "seq": 1,
        "cursor": "g1", "body": 1}));
    // An echo copy: to another user, but on the own inbox.
    story.says(&json!({"type": "message", "to": "user:you", "from": "user:me", "id": "2", "at": 1, "seq": 1,
        "cursor": "c1", "body": 1}));
    assert_eq!(story.delivered(), ["1", "2"]);
    story.closes(None);
    assert_eq!(story.hello()["cursors"], json!({"group:g": ["g1", "g0"], "user:me": ["c1", "c0"]}));
}

#[test]
fn bye_says_when_to_come_back_and_its_code_counts() {
    let mut story = Story::open();
    story.says(&json!({"type": "bye", "code": 4500, "reason": "draining", "reconnect_ms": 1_234}));
    assert_eq!(story.closes(Some(1000)), again(1_234));
    let told = story.outputs();
    let expected = Event::Disconnected { code: Some(4500), reason: "draining".into(), again_ms: 1_234 };
    assert_eq!(told, [Output::Deliver(expected)]);
    story.comes_back();
    story.says(&json!({"type": "bye", "code": 4005, "reason": "kicked"}));
    assert_eq!(story.closes(None), Next::Stop(StopReason::Closed { code: 4005, reason: "kicked".into() }));
}

#[test]
fn an_expired_token_comes_back_with_a_new_one() {
    let mut story = Story::open();
    story.says(&json!({"type": "bye", "code": 4002, "reason": "expired", "reconnect_ms": 0}));
    assert_eq!(story.closes(Some(4002)), Next::Again { after_ms: 0, new_token: true });

    let mut story = Story::new();
    story.core = Core::new(Settings { renews_token: false, ..settings() });
    story.comes_back();
    assert!(
        matches!(story.closes(Some(4002)), Next::Stop(StopReason::NoToken(_))),
        "there is nothing to come back with"
    );
}

#[test]
fn an_error_never_closes() {
    let mut story = Story::open();
    story.says(&json!({"type": "error", "code": "forbidden", "message": "no"}));
    assert!(matches!(&*story.outputs(), [Output::Deliver(Event::Error(_))]));
    assert_eq!(story.closes(None), again(200));
}

#[test]
fn pauses_grow_until_a_connection_has_lasted() {
    let mut story = Story::new();
    let pauses: Vec<Next> = (0..3).map(|_| story.closes(None)).collect();
    assert_eq!(pauses, [again(200), again(400), again(800)]);
    story.comes_back();
    assert_eq!(story.closes(None), again(1_600), "a welcome alone proves nothing");
    story.comes_back();
    story.passes(5_000);
    assert_eq!(story.closes(None), again(200));
}

#[test]
fn after_the_own_close_nothing_comes_back() {
    let mut story = Story::open();
    story.send("a");
    story.outputs();
    story.core.leave();
    story.send("b");
    assert_eq!(story.answers(), [("b", Err(RequestError::Stopped))]);
    assert_eq!(story.closes(Some(4500)), Next::Stop(StopReason::Own));
    let outputs = story.outputs();
    assert_eq!(outputs[0], Output::Answer("a", Err(RequestError::Stopped)));
    assert_eq!(outputs[1], Output::Deliver(Event::Stopped(StopReason::Own)));
}

#[test]
fn one_silent_heartbeat_asks_two_give_up() {
    let mut story = Story::open();
    story.passes(24_999);
    assert_eq!(story.outputs(), []);
    story.passes(1);
    assert_eq!(story.outputs(), [Output::Ping]);
    story.core.on_traffic(story.now());
    story.passes(25_000);
    assert_eq!(story.outputs(), [Output::Ping], "a pong was enough");
    story.passes(24_999);
    assert_eq!(story.outputs(), []);
    story.passes(1);
    assert!(matches!(&*story.outputs(), [Output::GiveUp { .. }]));
}

#[test]
fn silence_counts_for_nothing_while_the_socket_is_not_read() {
    let mut story = Story::open();
    story.core.on_reading(false, story.now());
    story.passes(3_600_000);
    assert_eq!(story.outputs(), []);
    story.core.on_reading(true, story.now());
    story.passes(24_999);
    assert_eq!(story.outputs(), []);
}

#[test]
fn a_server_that_never_welcomes_is_left() {
    let mut story = Story::new();
    story.hello();
    story.passes(10_000);
    assert!(matches!(&story.outputs()[0], Output::GiveUp { reason } if reason.contains("10000 ms")));
}

#[test]
fn what_is_no_frame_ends_the_connection_but_not_the_session() {
    let mut story = Story::open();
    story.core.on_frame(b"{", story.now());
    assert!(matches!(&*story.outputs(), [Output::GiveUp { .. }]));
    assert_eq!(story.closes(None), again(200));
}

#[test]
fn acks_are_bundled_and_said_again() {
    let mut story = Story::open();
    (1..=3).for_each(|n| story.message(n, false));
    let messages: Vec<Message> = story
        .outputs()
        .into_iter()
        .filter_map(|output| if let Output::Deliver(Event::Message(m)) = output { Some(m) } else { None })
        .collect();
    messages.iter().for_each(|message| story.core.ack_message(message, story.now()));
    assert_eq!(story.frames(), [json!({"type": "ack", "of": "user:me", "cursor": "c1"})]);
    story.passes(250);
    assert_eq!(story.frames(), [json!({"type": "ack", "of": "user:me", "cursor": "c3"})]);
    story.closes(None);
    story.comes_back();
    story.passes(250);
    assert_eq!(story.frames(), [json!({"type": "ack", "of": "user:me", "cursor": "c3"})], "it may not have arrived");
    story.core.ack("user:me", "c4", story.now());
    story.core.leave();
    assert_eq!(story.frames(), [json!({"type": "ack", "of": "user:me", "cursor": "c4"})], "leaving waits for no pause");
}

#[test]
fn messagepack_speaks_the_same() {
    let mut core: Core<()> = Core::new(Settings { encoding: Encoding::MessagePack, ..settings() });
    let now = Now::default();
    core.on_open(Some("t"), now);
    let Some(Output::Write(hello)) = core.poll_output() else { panic!("no hello") };
    let fields = &protocol::client::fields::split(Encoding::MessagePack, &hello).unwrap()[0];
    assert_eq!(fields.get("token").unwrap().text().unwrap(), "t");
    core.on_frame(b"\x82\xa4type\xa7welcome\xa4user\xa2me", now);
    assert!(matches!(core.poll_output(), Some(Output::Deliver(Event::Welcome(_)))));
}
