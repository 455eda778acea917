//! Goal: what the protocol crate's server side writes is read back, and what this side writes it reads, in both encodings.

use bytes::Bytes;
use protocol::address::Address;
use protocol::client::{self as server, Codec};
use protocol::code::{CloseCode, ErrorCode};
use protocol::{Cursor, Entry, Envelope, Stamp, Tag, Text};

use super::write::{ClientFrame, Hello, Send, StartFrom};
use super::*;

const ENCODINGS: [Encoding; 2] = [Encoding::Json, Encoding::MessagePack];

fn cursor(seq: u64) -> Cursor {
    Cursor { seq, stamp: Stamp(seq * 1_000), ..Cursor::default() }
}

fn entry(seq: u64) -> Entry {
    let envelope = Envelope {
        to: Text::from("user:bob"),
        from: Text::from("user:alice"),
        id: Text::from(format!("m-{seq}")),
        encoding: Encoding::Json,
        body: Bytes::from_static(br#"{"n": [1, "x\"y"]}"#),
        expires_ms: None,
        traceparent: None,
        flags: 0,
    };
    Entry { cursor: cursor(seq), link: Stamp(0), tag: Tag(0), envelope: envelope.into() }
}

fn one(encoding: Encoding, frame: &server::ServerFrame<'_>) -> ServerEvent {
    let bytes = Codec(encoding).encode(frame);
    let mut events = read(encoding, &bytes).unwrap();
    assert_eq!(events.len(), 1);
    events.remove(0)
}

#[test]
fn a_welcome_with_its_streams_is_read_in_both_encodings() {
    let of = Address::parse("user:bob").unwrap();
    let stream =
        |status, lost| server::StreamStatus { of: of.clone(), status, cursor: cursor(7), head: 9, replay: 2, lost };
    let frame = server::ServerFrame::Welcome(server::Welcome {
        user: "bob",
        device: "phone",
        connection: "c1",
        node: "a",
        heartbeat_ms: 25_000,
        max_bytes: 65_536,
        streams: vec![stream(server::Status::Resumed, None), stream(server::Status::Reset("retention"), Some(3))],
    });
    for encoding in ENCODINGS {
        let ServerEvent::Welcome(welcome) = one(encoding, &frame) else { panic!("no welcome") };
        assert_eq!((&*welcome.user, &*welcome.device, &*welcome.connection), ("bob", "phone", "c1"));
        assert_eq!((welcome.heartbeat_ms, welcome.bytes_max), (25_000, 65_536));
        assert_eq!(welcome.streams[0].status, Status::Resumed);
        assert_eq!(welcome.streams[0].cursor, cursor(7).to_text());
        assert_eq!(welcome.streams[1].status, Status::Reset);
        assert_eq!((welcome.streams[1].reason.as_deref(), welcome.streams[1].lost), (Some("retention"), Some(3)));
        let printed: serde_json::Value = serde_json::from_str(&welcome.to_json()).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&Codec::JSON.encode(&frame)).unwrap();
        assert_eq!(printed, written);
    }
}

#[test]
fn a_message_is_printed_exactly_as_the_server_writes_it() {
    let entry = entry(5);
    let frame = server::ServerFrame::Message(server::MessageFrame::durable(&entry, true));
    for encoding in ENCODINGS {
        let ServerEvent::Message(message) = one(encoding, &frame) else { panic!("no message") };
        assert_eq!(message.seq, Some(5));
        assert_eq!(message.cursor, Some(cursor(5).to_text()));
        assert!(message.again);
        assert_eq!(message.body.to_value()["n"][1], "x\"y");
        if encoding == Encoding::Json {
            assert_eq!(message.to_json().as_bytes(), &*Codec::JSON.encode(&frame));
        }
    }
}

#[test]
fn answers_and_goodbyes_are_read() {
    for encoding in ENCODINGS {
        let sent = server::ServerFrame::Sent {
            id: "1",
            reference: Some("r".to_owned()),
            at: UnixMillis(9),
            online: Some(false),
        };
        let expected = Sent { id: "1".into(), reference: Some("r".into()), at: UnixMillis(9), online: Some(false) };
        assert_eq!(one(encoding, &sent), ServerEvent::Sent(expected));
        let error = server::ServerFrame::Error(server::ErrorFrame {
            id: Some("1"),
            code: ErrorCode::UnknownOutcome,
            message: "m",
            retry_ms: Some(5),
            is_final: true,
        });
        let ServerEvent::Error(error) = one(encoding, &error) else { panic!("no error") };
        assert_eq!((&*error.code, error.retry_ms, error.is_final), ("unknown_outcome", Some(5), true));
        let bye = server::Bye { code: CloseCode::Draining, reason: "drain", reconnect_ms: Some(0) };
        let expected = Bye { code: 4500, reason: "drain".into(), reconnect_ms: Some(0) };
        assert_eq!(one(encoding, &server::ServerFrame::Bye(bye)), ServerEvent::Bye(expected));
        assert_eq!(one(encoding, &server::ServerFrame::Pong { id: None }), ServerEvent::Pong { id: None });
        let entries = [entry(2), entry(1)];
        let history = server::HistoryFrame { id: "h", messages: &entries, more: true };
        let ServerEvent::History(history) = one(encoding, &server::ServerFrame::History(history)) else {
            panic!("no history")
        };
        assert_eq!(history.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [Some(2), Some(1)]);
        assert!(history.more);
    }
}

#[test]
fn an_array_is_read_in_order_and_what_is_unknown_stays_apart() {
    let frame = br#"[{"type":"pong"},{"type":"presence_change","user":"x"},{"type":"sent"},{"type":"pong","id":"2"}]"#;
    let events = read(Encoding::Json, frame).unwrap();
    assert_eq!(
        events,
        [
            ServerEvent::Pong { id: None },
            ServerEvent::Unknown { kind: "presence_change".into() },
            ServerEvent::Unknown { kind: "sent".into() },
            ServerEvent::Pong { id: Some("2".into()) },
        ]
    );
    assert!(read(Encoding::Json, b"{").is_err());
}

/// A peer that speaks only the plain subset: no device, no streams, no seq, no cursor.
#[test]
fn a_simpler_server_is_understood() {
    let frame =
        br#"[{"type":"welcome","user":"u"},{"type":"message","to":"user:u","from":"user:v","id":"1","body":null}]"#;
    let events = read(Encoding::Json, frame).unwrap();
    let ServerEvent::Welcome(welcome) = &events[0] else { panic!("no welcome") };
    assert_eq!((welcome.heartbeat_ms, welcome.bytes_max), (HEARTBEAT_DEFAULT_MS, u64::MAX));
    let ServerEvent::Message(message) = &events[1] else { panic!("no message") };
    assert_eq!((message.seq, message.cursor.as_deref(), message.body.to_json().as_str()), (None, None, "null"));
}

#[test]
fn the_server_reads_what_this_side_writes() {
    let body = Body::from(serde_json::json!({"a": "b"}));
    let cursors: Vec<(String, Vec<String>)> =
        (0..40).map(|n| (format!("group:g{n}"), vec![cursor(n).to_text(), cursor(0).to_text()])).collect();
    let hello = Hello {
        token: Some("t"),
        device: Some("phone"),
        cursors: cursors.iter().map(|(of, list)| (&**of, list.clone())).collect(),
        from: Some(StartFrom::Oldest),
        takes_over: Some("c0"),
        batch: true,
    };
    let send = Send {
        id: "m1",
        to: "user:bob",
        body: &body,
        ephemeral: false,
        echo: false,
        expires_ms: Some(7),
        retry_age_ms: Some(8),
        replicated: true,
    };
    for encoding in ENCODINGS {
        let decode = |frame: &ClientFrame<'_>| {
            let mut out = Vec::new();
            frame.encode(encoding, &mut out);
            Codec(encoding).decode(&Bytes::from(out)).unwrap().remove(0).unwrap()
        };
        let server::ClientFrame::Hello(read) = decode(&ClientFrame::Hello(hello.clone())) else { panic!("no hello") };
        assert_eq!((read.token.as_deref(), read.batch), (Some("t"), true));
        assert_eq!(read.cursors.len(), 40, "more streams than a small map has fields");
        assert_eq!(read.cursors[3].1, [Some(cursor(3)), Some(cursor(0))]);
        let server::ClientFrame::Send(read) = decode(&ClientFrame::Send(send)) else { panic!("no send") };
        assert_eq!((read.retry_age_ms, read.expires_ms, read.ephemeral), (Some(8), Some(7), false));
        assert!(read.replicated);
        let at = cursor(4).to_text();
        let ack = decode(&ClientFrame::Ack { of: "user:bob", cursor: &at });
        assert_eq!(ack, server::ClientFrame::Ack { of: Address::parse("user:bob").unwrap(), cursor: cursor(4) });
        let history = ClientFrame::History { id: "h", of: "user:bob", with: None, before: Some(&at), limit: Some(3) };
        let server::ClientFrame::History { before, limit, .. } = decode(&history) else { panic!("no history") };
        assert_eq!((before, limit), (Some(cursor(4)), 3));
        assert_eq!(decode(&ClientFrame::Ping { id: None }), server::ClientFrame::Ping { id: None });
    }
}

#[test]
fn debug_of_a_hello_does_not_show_the_token() {
    let hello = Hello { token: Some("geheim"), ..Hello::default() };
    assert!(!format!("{:?}", ClientFrame::Hello(hello)).contains("geheim"));
}
