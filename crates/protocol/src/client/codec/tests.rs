//! Frames in and out, in both encodings.

use std::sync::Arc;

use serde_json::{Value, json};

mod people;

use super::*;
use crate::client::event::{Bye, ErrorFrame, HistoryFrame, MessageFrame, Status, StreamStatus, Welcome};
use crate::client::frame::{From, Hello};
use crate::{
    Address, CloseCode, ConnectionId, Cursor, DeviceId, Entry, Envelope, Epoch, ErrorCode, MessageId, Stamp, Tag,
    UnixMillis,
};

fn frames(value: &Value) -> [(Codec, Bytes); 2] {
    let packed = rmp_serde::to_vec_named(value).unwrap();
    [(Codec::JSON, Bytes::from(value.to_string())), (Codec::MSGPACK, Bytes::from(packed))]
}

fn one(codec: Codec, frame: &Bytes) -> Result<ClientFrame, FrameError> {
    codec.decode(frame).unwrap().pop().unwrap()
}

fn cursor() -> Cursor {
    Cursor { epoch: Epoch(*b"12345678"), seq: 7, stamp: Stamp(1_000_000) }
}

#[test]
fn a_hello_is_read_in_both_encodings() {
    let value = json!({"type": "hello", "token": "t", "device": "phone", "batch": true, "from": "now", "future": [1],
        "takes_over": "00000000000000fF", "exclusive": true,
        "cursors": {"user:alice": [cursor().to_text(), "garbage"], "all": cursor().to_text(), "group:x": []}});
    for (codec, frame) in frames(&value) {
        let Ok(ClientFrame::Hello(hello)) = one(codec, &frame) else { panic!("no hello") };
        let mut cursors = hello.cursors.clone();
        cursors.sort();
        assert_eq!(
            Hello { cursors, ..hello },
            Hello {
                id: None,
                token: Some("t".to_owned()),
                device: Some(DeviceId::parse("phone").unwrap()),
                cursors: vec![
                    (Address::parse("user:alice").unwrap(), vec![Some(cursor()), None]),
                    (Address::All, vec![Some(cursor())]),
                ],
                from: Some(From::Now),
                takes_over: Some(ConnectionId(255)),
                exclusive: true,
                batch: true,
            }
        );
    }
}

#[test]
fn a_send_keeps_its_body_as_it_came() {
    let text =
        r#"{"type":"send","id":"m1","to":"user:bob","body": { "z" : 1.50, "a":"\u00e9" } ,"retry":true,"age_ms":12}"#;
    let Ok(ClientFrame::Send(send)) = one(Codec::JSON, &Bytes::from(text)) else { panic!("no send") };
    assert_eq!(&send.body.bytes[..], br#"{ "z" : 1.50, "a":"\u00e9" }"#);
    assert_eq!((send.retry_age_ms, send.ephemeral, send.expires_ms), (Some(12), false, None));
}

#[test]
fn a_frame_that_cannot_be_executed_says_which_field_what_was_expected_and_what_came() {
    let table = [
        (json!({"type": "send", "id": "1", "to": "bob", "body": 1}), "`to`: \"bob\" is no address"),
        (json!({"type": "send", "id": "1", "to": "user:bob"}), "`body` is missing"),
        (json!({"type": "send", "to": "user:bob", "body": 1}), "`id` is missing"),
        (json!({"type": "send", "id": 5, "to": "user:bob", "body": 1}), "`id`: expected a text, got a number"),
        (
            json!({"type": "send", "id": "1", "to": "user:bob", "body": 1, "ephemeral": 1}),
            "`ephemeral`: expected true or false",
        ),
        (json!({"type": "send", "id": "1", "to": "user:bob", "body": 1, "retry": true}), "`age_ms` is missing"),
        (json!({"type": "send", "id": "1", "to": "user:bob", "body": 1, "retry": true, "ephemeral": true}), "`retry`"),
        (json!({"type": "send", "id": "1", "to": "user:bob/phone", "body": 1}), "ephemeral messages only"),
        (
            json!({"type": "send", "id": "1", "to": "user:bob", "body": 1, "expires_ms": -1}),
            "`expires_ms`: expected a whole",
        ),
        (json!({"type": "history", "id": "1", "of": "user:bob", "limit": 0}), "`limit`: expected 1 to 200, got 0"),
        (json!({"type": "history", "id": "1", "of": "user:bob", "limit": 1_000_000}), "`limit`"),
        (json!({"type": "history", "id": "1", "of": "user:bob", "before": "x"}), "`before`: expected a cursor"),
        (json!({"type": "ack", "id": "1", "of": "user:bob"}), "`cursor` is missing"),
        (json!({"type": "fly", "id": "1"}), "`type` \"fly\" is none of this protocol"),
        (json!({"id": "1"}), "`type` is missing"),
        (json!({"type": "hello", "id": "1", "cursors": []}), "`cursors`: expected a map"),
        (json!({"type": "hello", "id": "1", "cursors": {"alice": "c"}}), "`cursors`: \"alice\" is no stream"),
        (json!({"type": "hello", "id": "1", "cursors": {"all": ["", "", "", "", ""]}}), "at most 4 cursors"),
        (json!({"type": "hello", "id": "1", "from": "middle"}), "`from`: expected \"oldest\" or \"now\""),
        (
            json!({"type": "hello", "id": "1", "takes_over": "bob"}),
            "`takes_over`: expected the `connection` of a welcome",
        ),
        (json!({"type": "hello", "id": "1", "exclusive": 1}), "`exclusive`: expected true or false, got a number"),
        (json!({"type": "join", "id": "1"}), "`group` is missing: expected the ID of a group"),
        (json!({"type": "join", "id": "1", "group": "a/b"}), "`group`: an ID has no '/'"),
        (json!({"type": "join", "id": "1", "group": "g".repeat(129)}), "`group`: an ID has at most 128 bytes"),
        (json!({"type": "join", "id": "1", "group": "den", "until": "noon"}), "`until`: expected \"leave\" or"),
        (json!({"type": "join", "id": "1", "group": "den", "cursor": 1}), "`cursor`: expected a text, got a number"),
        (json!({"type": "leave", "group": "den"}), "`id` is missing"),
        (json!({"type": "read", "id": "1", "of": "user:bob"}), "`cursor` is missing: expected a cursor"),
        (json!({"type": "read", "id": "1", "of": "user:bob", "cursor": "x"}), "`cursor`: expected a cursor as"),
        (json!({"type": "counts", "id": "1", "of": "den"}), "`of`: \"den\" is no address"),
        (
            json!({"type": "counts", "id": "1", "of": "group:den", "with": "user:bob"}),
            "`with`: only an inbox has conversations; expected `of` to be user:ID, got \"group:den\"",
        ),
        (
            json!({"type": "history", "id": "1", "of": "user:bob", "with": "group:den"}),
            "`with`: expected user:ID, got \"group:den\"",
        ),
        (json!({"type": "receipts", "id": "1"}), "`ref` is missing: expected the `ref` of a sent"),
        (json!({"type": "receipts", "id": "1", "ref": cursor().to_text()}), "`ref`: expected the `ref` of a sent"),
        (json!({"type": "presence", "id": "1"}), "`users` or `group` is missing: expected one of them"),
        (
            json!({"type": "watch", "id": "1", "users": ["bob"], "group": "den"}),
            "`users`, `group`: expected one of them, got both",
        ),
        (json!({"type": "watch", "id": "1", "users": "bob"}), "`users`: expected an array of IDs of users, got a text"),
        (json!({"type": "watch", "id": "1", "users": [1]}), "`users`: expected an array of IDs of users, got a number"),
        (json!({"type": "watch", "id": "1", "users": []}), "`users`: expected 1 to 1000 users, got 0"),
        (json!({"type": "watch", "id": "1", "users": vec!["u"; 1_001]}), "`users`: expected 1 to 1000 users, got 1001"),
        (json!({"type": "unwatch", "id": "1", "users": ["a/b"]}), "`users`: \"a/b\": an ID has no '/'"),
        (
            json!({"type": "members", "id": "1", "group": "den", "limit": 1_001}),
            "`limit`: expected 1 to 1000, got 1001",
        ),
        (json!({"type": "members", "id": "1", "group": "den", "after": 1}), "`after`: expected a text, got a number"),
        (
            json!({"type": "send", "id": "1", "to": "all", "body": 1, "echo": true}),
            "`echo`: a copy is kept of what goes to a user; expected `to` to be user:ID, got \"all\"",
        ),
    ];
    for (value, expected) in table {
        for (codec, frame) in frames(&value) {
            let error = one(codec, &frame).unwrap_err();
            assert!(error.message.contains(expected), "{value}: {}", error.message);
            let readable = value["id"].is_string();
            assert_eq!(error.id, readable.then(|| MessageId::parse("1").unwrap()), "{value}");
        }
    }
}

#[test]
fn a_body_that_json_cannot_say_is_refused_and_the_batch_goes_on() {
    let mut frame = vec![0x92];
    frame.extend_from_slice(b"\x84\xa4type\xa4send\xa2id\xa11\xa2to\xa6user:b\xa4body\xd4\x01\x00");
    frame.extend_from_slice(b"\x81\xa4type\xa4ping");
    let decoded = Codec::MSGPACK.decode(&Bytes::from(frame)).unwrap();
    assert!(decoded[0].as_ref().unwrap_err().message.contains("`body`: MessagePack ext"));
    assert_eq!(decoded[1], Ok(ClientFrame::Ping { id: None }));
}

fn entry() -> Entry {
    let envelope = Envelope {
        to: "user:bob".into(),
        from: "user:alice".into(),
        id: "m\"1".into(),
        encoding: Encoding::Json,
        body: Bytes::from_static(b"{\"a\":[1]}"),
        expires_ms: None,
        traceparent: None,
        flags: 0,
    };
    Entry { cursor: cursor(), link: Stamp(1), tag: Tag(2), mseq: None, envelope: Arc::new(envelope) }
}

/// Goal: every server frame is what docs/protocol.md says, in both encodings. Method: compared as plain values.
#[test]
fn server_frames_say_the_same_in_both_encodings() {
    let (entry, alice) = (entry(), Address::parse("user:alice").unwrap());
    let text = cursor().to_text();
    let stream = StreamStatus {
        of: alice.clone(),
        status: Status::Reset("retention"),
        cursor: cursor(),
        head: 9,
        replay: 2,
        lost: Some(17),
    };
    let welcome = Welcome {
        user: "alice",
        device: "phone",
        connection: "c",
        node: "n",
        heartbeat_ms: 25_000,
        max_bytes: 65_536,
        streams: vec![stream.clone()],
        groups: vec!["den", "attic"],
    };
    let message = json!({"to": "user:bob", "from": "user:alice", "id": "m\"1", "at": 1000, "seq": 7, "cursor": text,
        "body": {"a": [1]}});
    let with = |more: Value| {
        let mut all = message.as_object().unwrap().clone();
        all.extend(more.as_object().unwrap().clone());
        Value::Object(all)
    };
    let table = [
        (ServerFrame::Message(MessageFrame::durable(&entry, true)), with(json!({"type": "message", "again": true}))),
        (
            ServerFrame::History(HistoryFrame {
                id: "h",
                messages: std::slice::from_ref(&entry),
                more: true,
                before: Some(cursor()),
            }),
            json!({"type": "history", "id": "h", "messages": [message], "more": true, "before": text}),
        ),
        (
            ServerFrame::Welcome(welcome),
            json!({"type": "welcome", "user": "alice", "device": "phone", "connection": "c", "node": "n",
                "heartbeat_ms": 25000, "max_bytes": 65536, "streams": [{"of": "user:alice", "status": "reset",
                "cursor": text, "head": 9, "replay": 2, "reason": "retention", "lost": 17}], "groups": ["den", "attic"]}),
        ),
        (
            ServerFrame::Stream(stream),
            json!({"type": "stream", "of": "user:alice", "status": "reset", "cursor": text, "head": 9, "replay": 2,
                "reason": "retention", "lost": 17}),
        ),
        (
            ServerFrame::Sent { id: "1", reference: Some("r".to_owned()), at: UnixMillis(5), online: Some(true) },
            json!({"type": "sent", "id": "1", "ref": "r", "at": 5, "online": true}),
        ),
        (
            ServerFrame::Reset { of: &alice, reason: "fork", cursor: cursor(), lost: None },
            json!({"type": "reset", "of": "user:alice", "reason": "fork", "cursor": text}),
        ),
        (
            ServerFrame::Error(ErrorFrame {
                id: Some("1"),
                code: ErrorCode::UnknownOutcome,
                message: "m",
                retry_ms: Some(3),
                is_final: true,
            }),
            json!({"type": "error", "id": "1", "code": "unknown_outcome", "message": "m", "retry_ms": 3, "final": true,
                "docs": "/docs/unknown_outcome"}),
        ),
        (
            ServerFrame::Bye(Bye { code: CloseCode::Draining, reason: "update", reconnect_ms: Some(9) }),
            json!({"type": "bye", "code": 4500, "reason": "update", "reconnect_ms": 9}),
        ),
        (ServerFrame::Pong { id: Some("1") }, json!({"type": "pong", "id": "1"})),
    ];
    for (frame, expected) in table {
        let json: Value = serde_json::from_slice(&Codec::JSON.encode(&frame)).unwrap();
        let pack: Value = rmp_serde::from_slice(&Codec::MSGPACK.encode(&frame)).unwrap();
        assert_eq!(json, expected);
        assert_eq!(pack, expected);
    }
}

#[test]
fn frames_join_to_an_array_and_one_stays_as_it_is() {
    for codec in [Codec::JSON, Codec::MSGPACK] {
        let pong = codec.encode(&ServerFrame::Pong { id: None });
        assert_eq!(codec.join(std::slice::from_ref(&pong)).bytes, pong);
        let joined = codec.join(&[pong.clone(), pong]).bytes;
        assert_eq!(fields::split(codec.0, &joined).unwrap().len(), 2);
    }
}
