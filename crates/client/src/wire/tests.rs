//! Goal: what the protocol crate's server side writes is read back, and what this side writes it reads, in both encodings.

use bytes::Bytes;
use protocol::address::Address;
use protocol::client::{self as server, Codec};
use protocol::code::{CloseCode, ErrorCode};
use protocol::{ConnectionId, Cursor, Entry, Envelope, Stamp, Tag, Text};

use super::people::{Delivered, Online, Readers};
use super::write::{ClientFrame, Hello, Send, StartFrom};
use super::*;
use crate::requests::{Ask, Whom};

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
    Entry { cursor: cursor(seq), link: Stamp(0), tag: Tag(0), mseq: None, envelope: envelope.into() }
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
        groups: vec!["g", "h"],
    });
    for encoding in ENCODINGS {
        let ServerEvent::Welcome(welcome) = one(encoding, &frame) else { panic!("no welcome") };
        assert_eq!((&*welcome.user, &*welcome.device, &*welcome.connection), ("bob", "phone", "c1"));
        assert_eq!((welcome.heartbeat_ms, welcome.bytes_max), (25_000, 65_536));
        assert_eq!(welcome.groups, ["g", "h"]);
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
        let history = server::HistoryFrame { id: "h", messages: &entries, more: true, before: Some(cursor(1)) };
        let ServerEvent::History(history) = one(encoding, &server::ServerFrame::History(history)) else {
            panic!("no history")
        };
        assert_eq!(history.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [Some(2), Some(1)]);
        assert!(history.more);
        assert_eq!(history.before, Some(cursor(1).to_text()));
    }
}

#[test]
fn an_array_is_read_in_order_and_what_is_unknown_stays_apart() {
    let frame = br#"[{"type":"pong"},{"type":"presence_changes","user":"x"},{"type":"sent"},{"type":"pong","id":"2"}]"#;
    let events = read(Encoding::Json, frame).unwrap();
    assert_eq!(
        events,
        [
            ServerEvent::Pong { id: None },
            ServerEvent::Unknown { kind: "presence_changes".into() },
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
        takes_over: Some("00000000000000c0"),
        exclusive: true,
        batch: true,
    };
    let send = Send {
        id: "m1",
        to: "user:bob",
        body: &body,
        ephemeral: false,
        echo: true,
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
        assert_eq!((read.token.as_deref(), read.batch, read.exclusive), (Some("t"), true, true));
        assert_eq!(read.takes_over, Some(ConnectionId(192)));
        assert_eq!(read.cursors.len(), 40, "more streams than a small map has fields");
        assert_eq!(read.cursors[3].1, [Some(cursor(3)), Some(cursor(0))]);
        let server::ClientFrame::Send(read) = decode(&ClientFrame::Send(send)) else { panic!("no send") };
        assert_eq!((read.retry_age_ms, read.expires_ms, read.ephemeral), (Some(8), Some(7), false));
        assert!(read.replicated && read.echo);
        let at = cursor(4).to_text();
        let ack = decode(&ClientFrame::Ack { of: "user:bob", cursor: &at });
        assert_eq!(ack, server::ClientFrame::Ack { of: Address::parse("user:bob").unwrap(), cursor: cursor(4) });
        let history = ClientFrame::History { id: "h", of: "user:bob", with: None, before: Some(&at), limit: Some(3) };
        let server::ClientFrame::History(history) = decode(&history) else { panic!("no history") };
        assert_eq!((history.before, history.limit), (Some(cursor(4)), 3));
        assert_eq!(decode(&ClientFrame::Ping { id: None }), server::ClientFrame::Ping { id: None });
    }
}

#[test]
fn what_is_said_about_people_is_read_and_printed() {
    let devices = [(Text::from("phone"), UnixMillis(5))];
    let person = |user, is_online| server::PersonFrame {
        user,
        version: 7,
        is_online,
        at: UnixMillis(6),
        devices: if is_online { &devices } else { &[] },
        profile: is_online.then_some(r#"{"name":"Bob"}"#),
    };
    for encoding in ENCODINGS {
        let online = server::OnlineFrame::Each(vec![person("bob", true), person("carol", false)]);
        let frame = server::ServerFrame::Ok { id: "w", cursor: Some(cursor(1)), online: Some(online) };
        let ServerEvent::Done(done) = one(encoding, &frame) else { panic!("no ok") };
        let Some(Online::Each(users)) = done.online else { panic!("nobody") };
        assert_eq!(done.cursor, Some(cursor(1).to_text()));
        assert_eq!((users["bob"].version, users["bob"].at, users["bob"].is_online), (7, UnixMillis(6), true));
        assert_eq!(users["bob"].devices[0].device, "phone");
        assert_eq!(users["bob"].profile.as_ref().unwrap().to_value()["name"], "Bob");
        assert!(!users["carol"].is_online && users["carol"].devices.is_empty());

        let online = server::OnlineFrame::Count { online: 3, members: 5 };
        let ServerEvent::Presence(presence) = one(encoding, &server::ServerFrame::Presence { id: "p", online }) else {
            panic!("no presence")
        };
        assert_eq!(presence.online, Online::Count { online: 3, members: 5 });

        let delivered = [(Text::from("bob"), vec![Text::from("phone"), Text::from("web")])];
        let readers = [Text::from("bob")];
        let receipts = |counts| {
            server::ServerFrame::Receipts(server::ReceiptsFrame {
                id: "r",
                delivered: &delivered,
                read: &readers,
                counts,
                is_expired: false,
            })
        };
        let ServerEvent::Receipts(few) = one(encoding, &receipts(None)) else { panic!("no receipts") };
        let Delivered::Devices(devices) = few.delivered else { panic!("a number") };
        assert_eq!(
            (&*devices["bob"], few.read),
            (&["phone".to_owned(), "web".into()][..], Readers::Users(vec!["bob".into()]))
        );
        let ServerEvent::Receipts(many) = one(encoding, &receipts(Some((9, 8)))) else { panic!("no receipts") };
        assert_eq!((many.delivered, many.read), (Delivered::Count(9), Readers::Count(8)));

        let frame = server::MembersFrame {
            id: "m",
            members: vec![("bob", Some("{}")), ("c", None)],
            total: 7,
            after: Some("c"),
        };
        let ServerEvent::Members(members) = one(encoding, &server::ServerFrame::Members(frame)) else {
            panic!("no members")
        };
        assert_eq!((members.members.len(), members.total, members.after.as_deref()), (2, 7, Some("c")));
        let frame = server::ServerFrame::Counts { id: "c", total: 5, unread: 2, by: vec![("bob", 3)] };
        let ServerEvent::Counts(counts) = one(encoding, &frame) else { panic!("no counts") };
        assert_eq!((counts.total, counts.unread, counts.by["bob"]), (5, 2, 3));
    }
    let (encoding, codec) = (Encoding::Json, Codec::JSON);
    let printed = |frame: &server::ServerFrame<'_>| {
        let line = match one(encoding, frame) {
            ServerEvent::PresenceChange(change) => change.to_json(),
            ServerEvent::MemberChange(change) => change.to_json(),
            ServerEvent::ReadChange(change) => change.to_json(),
            other => panic!("{other:?}"),
        };
        assert_eq!(line.as_bytes(), &*codec.encode(frame));
    };
    printed(&server::ServerFrame::PresenceChange { user: "bob", is_online: true, version: 8, at: UnixMillis(9) });
    printed(&server::ServerFrame::MemberChange(server::MemberChange {
        group: "g",
        who: Some(("bob", false)),
        members: Some(2),
    }));
    printed(&server::ServerFrame::MemberChange(server::MemberChange { group: "g", who: None, members: Some(2_000) }));
    let read = server::ReadChange { of: "user:bob", with: Some("user:alice"), user: "alice", cursor: cursor(3) };
    printed(&server::ServerFrame::ReadChange(read));
}

#[test]
fn the_server_reads_what_this_side_asks() {
    let (g, at) = (|| "g".to_owned(), cursor(4).to_text());
    let asks = [
        Ask::Join { group: g(), until_disconnect: true, cursor: Some(at.clone()) },
        Ask::Leave { group: g() },
        Ask::Read { of: "user:bob".into(), with: Some("user:alice".into()), cursor: at.clone() },
        Ask::Counts { of: "group:g".into(), with: None },
        Ask::Receipts { reference: cursor(4).to_ref("user:bob") },
        Ask::Presence(Whom::Users((0..40).map(|n| format!("u{n}")).collect())),
        Ask::Watch(Whom::Group(g())),
        Ask::Unwatch(Whom::Group(g())),
        Ask::Members { group: g(), after: Some("c".into()), limit: Some(9) },
    ];
    for encoding in ENCODINGS {
        for ask in &asks {
            let mut out = Vec::new();
            ClientFrame::Ask { id: "q", ask }.encode(encoding, &mut out);
            let read = Codec(encoding).decode(&Bytes::from(out)).unwrap().remove(0).unwrap();
            match (ask, read) {
                (Ask::Join { .. }, server::ClientFrame::Join(join)) => {
                    assert_eq!((join.until_disconnect, join.cursors), (true, vec![Some(cursor(4))]));
                }
                (Ask::Read { .. }, server::ClientFrame::Read { id, with, cursor: at, .. }) => {
                    assert!(id.is_some() && with.is_some() && at == cursor(4));
                }
                (Ask::Presence(_), server::ClientFrame::Presence { whom: server::Named::Users(users), .. }) => {
                    assert_eq!(users.len(), 40);
                }
                (Ask::Members { .. }, server::ClientFrame::Members { after, limit, .. }) => {
                    assert_eq!((after.as_deref(), limit), (Some("c"), 9));
                }
                (Ask::Watch(_), server::ClientFrame::Watch { .. })
                | (Ask::Unwatch(_), server::ClientFrame::Unwatch { .. })
                | (Ask::Leave { .. }, server::ClientFrame::Leave { .. })
                | (Ask::Counts { .. }, server::ClientFrame::Counts { .. })
                | (Ask::Receipts { .. }, server::ClientFrame::Receipts { .. }) => {}
                (ask, read) => panic!("{ask:?} was read as {read:?}"),
            }
        }
    }
}

#[test]
fn debug_of_a_hello_does_not_show_the_token() {
    let hello = Hello { token: Some("geheim"), ..Hello::default() };
    assert!(!format!("{:?}", ClientFrame::Hello(hello)).contains("geheim"));
}
