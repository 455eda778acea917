//! Frames about groups and people.

use serde_json::{Value, json};

use super::{cursor, frames, one};
use crate::client::people::{MemberChange, MembersFrame, OnlineFrame, PersonFrame, ReadChange, ReceiptsFrame};
use crate::client::{ClientFrame, Codec, History, Join, Named, ServerFrame};
use crate::{Address, GroupId, MessageId, Text, UnixMillis, UserId};

/// Goal: as for the other frames. Names that nobody knows before are keys: as many as there are.
#[test]
fn what_is_said_about_people_is_the_same_in_both_encodings() {
    let text = cursor().to_text();
    let devices = [(Text::from("tv"), UnixMillis(5))];
    let names: Vec<String> = (0..300).map(|n| format!("u\"{n}")).collect();
    let person = |user, profile| PersonFrame {
        user,
        version: 3,
        is_online: true,
        at: UnixMillis(4),
        devices: &devices,
        profile,
    };
    let each = || OnlineFrame::Each(vec![person("bob", Some("{\"a\":[1]}")), person("carl", None)]);
    let how = json!({"version": 3, "online": true, "at": 4, "devices": [{"device": "tv", "since": 5}]});
    let mut bob = how.clone();
    bob["profile"] = json!({"a": [1]});
    let count = || OnlineFrame::Count { online: 900, members: 1_200 };
    let many: Value = names.iter().map(|name| (name.clone(), json!(7))).collect::<serde_json::Map<_, _>>().into();
    let receipts = ReceiptsFrame {
        id: "1",
        delivered: &[("bob".into(), vec!["tv".into(), "phone".into()])],
        read: &["bob".into()],
        counts: None,
        is_expired: false,
    };
    let member_change = |who, members| ServerFrame::MemberChange(MemberChange { group: "den", who, members });
    let read_change =
        |with| ServerFrame::ReadChange(ReadChange { of: "user:bob", with, user: "carl", cursor: cursor() });
    let by = names.iter().map(|name| (name.as_str(), 7)).collect();
    let table = [
        (ServerFrame::Ok { id: "1", cursor: None, online: None }, json!({"type": "ok", "id": "1"})),
        (
            ServerFrame::Ok { id: "1", cursor: Some(cursor()), online: None },
            json!({"type": "ok", "id": "1", "cursor": text}),
        ),
        (
            ServerFrame::Ok { id: "1", cursor: None, online: Some(each()) },
            json!({"type": "ok", "id": "1", "online": {"bob": bob, "carl": how}}),
        ),
        (
            ServerFrame::Presence { id: "1", online: each() },
            json!({"type": "presence", "id": "1", "online": {"bob": bob, "carl": how}}),
        ),
        (
            ServerFrame::Presence { id: "1", online: count() },
            json!({"type": "presence", "id": "1", "count": 900, "members": 1200}),
        ),
        (
            ServerFrame::Counts { id: "1", total: 2_100, unread: 5, by },
            json!({"type": "counts", "id": "1", "total": 2100, "unread": 5, "by": many}),
        ),
        (
            ServerFrame::Receipts(receipts.clone()),
            json!({"type": "receipts", "id": "1", "delivered": {"bob": ["tv", "phone"]}, "read": ["bob"]}),
        ),
        (
            ServerFrame::Receipts(ReceiptsFrame { counts: Some((4, 2)), is_expired: true, ..receipts }),
            json!({"type": "receipts", "id": "1", "delivered_count": 4, "read_count": 2, "expired": true}),
        ),
        (
            ServerFrame::PresenceChange { user: "bob", is_online: false, version: 3, at: UnixMillis(4) },
            json!({"type": "presence_change", "user": "bob", "online": false, "version": 3, "at": 4}),
        ),
        (
            member_change(Some(("bob", true)), Some(3)),
            json!({"type": "member_change", "group": "den", "user": "bob", "joined": true, "members": 3}),
        ),
        (member_change(None, Some(2_000)), json!({"type": "member_change", "group": "den", "members": 2000})),
        (
            member_change(Some(("bob", false)), None),
            json!({"type": "member_change", "group": "den", "user": "bob", "joined": false}),
        ),
        (
            read_change(Some("user:carl")),
            json!({"type": "read_change", "of": "user:bob", "with": "user:carl", "user": "carl", "cursor": text}),
        ),
        (read_change(None), json!({"type": "read_change", "of": "user:bob", "user": "carl", "cursor": text})),
        (
            ServerFrame::Members(MembersFrame {
                id: "1",
                members: vec![("bob", Some("[1]")), ("carl", None)],
                total: 9,
                after: Some("carl"),
            }),
            json!({"type": "members", "id": "1", "members": [{"user": "bob", "profile": [1]}, {"user": "carl"}],
                "total": 9, "more": true, "after": "carl"}),
        ),
        (
            ServerFrame::Members(MembersFrame { id: "1", members: Vec::new(), total: 0, after: None }),
            json!({"type": "members", "id": "1", "members": [], "total": 0, "more": false}),
        ),
    ];
    for (frame, expected) in table {
        let json: Value = serde_json::from_slice(&Codec::JSON.encode(&frame)).unwrap();
        let pack: Value = rmp_serde::from_slice(&Codec::MSGPACK.encode(&frame)).unwrap();
        assert_eq!(json, expected);
        assert_eq!(pack, expected);
    }
}

#[test]
fn frames_about_groups_and_people_are_read_in_both_encodings() {
    let id = || MessageId::parse("1").unwrap();
    let (den, bob) = (GroupId::parse("den").unwrap(), UserId::parse("bob").unwrap());
    let (own, of) = (Address::parse("user:bob").unwrap(), Address::Group(den.clone()));
    let text = cursor().to_text();
    let join =
        |until_disconnect, cursors| ClientFrame::Join(Join { id: id(), group: den.clone(), until_disconnect, cursors });
    let reference = cursor().to_ref("group:den");
    let table = [
        (json!({"type": "join", "id": "1", "group": "den"}), join(false, vec![])),
        (
            json!({"type": "join", "id": "1", "group": "den", "until": "leave", "cursor": text}),
            join(false, vec![Some(cursor())]),
        ),
        (
            json!({"type": "join", "id": "1", "group": "den", "until": "disconnect", "cursor": "?"}),
            join(true, vec![None]),
        ),
        (json!({"type": "leave", "id": "1", "group": "den"}), ClientFrame::Leave { id: id(), group: den.clone() }),
        (
            json!({"type": "read", "of": "user:bob", "with": "user:bob", "cursor": text}),
            ClientFrame::Read { id: None, of: own.clone(), with: Some(bob.clone()), cursor: cursor() },
        ),
        (
            json!({"type": "read", "id": "1", "of": "group:den", "cursor": text}),
            ClientFrame::Read { id: Some(id()), of: of.clone(), with: None, cursor: cursor() },
        ),
        (json!({"type": "counts", "id": "1", "of": "group:den"}), ClientFrame::Counts { id: id(), of, with: None }),
        (
            json!({"type": "history", "id": "1", "of": "user:bob", "with": "user:bob", "limit": 3}),
            ClientFrame::History(History { id: id(), of: own, with: Some(bob.clone()), before: None, limit: 3 }),
        ),
        (json!({"type": "receipts", "id": "1", "ref": reference}), ClientFrame::Receipts { id: id(), reference }),
        (
            json!({"type": "presence", "id": "1", "users": ["bob"]}),
            ClientFrame::Presence { id: id(), whom: Named::Users(vec![bob.clone()]) },
        ),
        (
            json!({"type": "watch", "id": "1", "group": "den", "users": null}),
            ClientFrame::Watch { id: id(), whom: Named::Group(den.clone()) },
        ),
        (
            json!({"type": "unwatch", "id": "1", "users": ["bob"]}),
            ClientFrame::Unwatch { id: id(), whom: Named::Users(vec![bob]) },
        ),
        (
            json!({"type": "members", "id": "1", "group": "den"}),
            ClientFrame::Members { id: id(), group: den.clone(), after: None, limit: 100 },
        ),
        (
            json!({"type": "members", "id": "1", "group": "den", "after": "a/b", "limit": 1000}),
            ClientFrame::Members { id: id(), group: den.clone(), after: Some("a/b".to_owned()), limit: 1_000 },
        ),
    ];
    for (value, expected) in table {
        for (codec, frame) in frames(&value) {
            assert_eq!(one(codec, &frame), Ok(expected.clone()), "{value}");
        }
    }
    let echo = json!({"type": "send", "id": "1", "to": "user:bob", "body": 1, "echo": true});
    for (codec, frame) in frames(&echo) {
        assert!(matches!(one(codec, &frame), Ok(ClientFrame::Send(send)) if send.echo));
    }
}
