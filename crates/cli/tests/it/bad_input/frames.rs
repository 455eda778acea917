//! Frames that cannot be read end the connection; frames that make no sense get one `error` each, and it stays.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Client, Frame, Raw};

use super::{check_error, said_goodbye};
use crate::gateway::{Gateway, SOON, check, hello};

const FORMATS: [&str; 2] = ["json", "msgpack"];

/// The largest frame that the default `max_bytes` allows.
const MAX_BYTES: usize = 65_536;

/// A ping in the connection's encoding.
fn ping(format: &str) -> Vec<u8> {
    if format == "json" { br#"{"type":"ping"}"#.to_vec() } else { b"\x81\xa4type\xa4ping".to_vec() }
}

fn message(format: &str, payload: impl Into<Vec<u8>>) -> Frame {
    if format == "json" { Frame::text(payload) } else { Frame::binary(payload) }
}

/// A `send` whose body is `depth` arrays within each other.
fn nested(format: &str, to: &str, depth: usize) -> Vec<u8> {
    if format == "json" {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"type":"send","id":"deep","to":"{to}","body":{open}{close}}}"#).into_bytes()
    } else {
        let text = |text: &str| [&[0xa0 | text.len() as u8], text.as_bytes()].concat();
        let fields = ["type", "send", "id", "deep", "to", to, "body"].map(text).concat();
        [&[0x84][..], &fields, &vec![0x91; depth - 1], &[0x90]].concat()
    }
}

/// Nothing else has come than what was looked at: the next thing is the answer to a ping.
async fn nothing_more(client: &mut Client) -> Result<()> {
    client.send(&json!({"type": "ping", "id": "nothing more"})).await?;
    let pong = client.next_json(SOON).await?;
    ensure!(pong == json!({"type": "pong", "id": "nothing more"}), "expected the pong, got {pong}");
    Ok(())
}

#[test]
fn a_frame_that_cannot_be_read_gets_a_bye_and_4000() {
    check(async |gateway| {
        let deep = |format| nested(format, "user:a", 32);
        let rows: Vec<(&str, &str, Vec<u8>)> = vec![
            ("nothing", "json", Vec::new()),
            ("a word", "json", b"hello".to_vec()),
            ("half a map", "json", br#"{"type":"ping""#.to_vec()),
            ("two maps", "json", br#"{"type":"ping"} {"type":"ping"}"#.to_vec()),
            ("a comma too many", "json", br#"{"type":"ping",}"#.to_vec()),
            ("a number", "json", b"42".to_vec()),
            ("null", "json", b"null".to_vec()),
            ("an array of numbers", "json", b"[1,2]".to_vec()),
            ("an array with one that is no map", "json", br#"[{"type":"ping"},1]"#.to_vec()),
            ("an array in an array", "json", br#"[[{"type":"ping"}]]"#.to_vec()),
            ("a bare control character", "json", b"{\"type\":\"ping\",\"x\":\"\x01\"}".to_vec()),
            ("nested one too deep", "json", deep("json")),
            ("nested very deep", "json", b"[".repeat(60_000)),
            ("nested maps", "json", br#"{"a":"#.repeat(10_000)),
            ("nothing", "msgpack", Vec::new()),
            ("a byte that is never used", "msgpack", b"\xc1".to_vec()),
            ("half a map", "msgpack", b"\x82\xa4type\xa4ping".to_vec()),
            ("bytes behind the map", "msgpack", b"\x81\xa4type\xa4ping\x00".to_vec()),
            ("a number", "msgpack", b"\x2a".to_vec()),
            ("an array of numbers", "msgpack", b"\x92\x01\x02".to_vec()),
            ("a map that claims four billion fields", "msgpack", b"\xdf\xff\xff\xff\xff".to_vec()),
            ("a text that claims four gigabytes", "msgpack", b"\x81\xa4type\xdb\xff\xff\xff\xff".to_vec()),
            ("an ext that claims four gigabytes", "msgpack", b"\x81\xa4body\xc9\xff\xff\xff\xff\x01".to_vec()),
            ("nested one too deep", "msgpack", deep("msgpack")),
            ("nested maps", "msgpack", b"\x81\xa1a".repeat(20_000)),
        ];
        for (what, format, payload) in rows {
            let mut raw = gateway.raw(format).await?;
            raw.send(&[message(format, payload)]).await?;
            said_goodbye(&raw.outcome(SOON).await, 4000).with_context(|| format!("{what} in {format}"))?;
        }
        Ok(())
    });
}

#[test]
fn depth_32_passes() {
    check(async |gateway| {
        for format in FORMATS {
            let mut raw = gateway.raw(format).await?;
            raw.send(&[message(format, nested(format, &format!("user:{}", gateway.user()), 31))]).await?;
            let answer = raw.wait_for(SOON, |frame| frame["id"] == "deep").await;
            ensure!(answer.as_ref().is_some_and(|answer| answer["type"] == "sent"), "{format}: {answer:?}");
        }
        Ok(())
    });
}

#[test]
fn a_first_frame_that_is_no_hello_gets_a_bye_and_4000_and_is_not_executed() {
    check(async |gateway| {
        let receiver = gateway.user();
        let mut receiving = gateway.client(&receiver, "json", &[]).await?;
        let early = json!({"type": "send", "id": "early", "to": format!("user:{receiver}"), "body": 1});
        for first in [
            json!({"type": "ping"}),
            early.clone(),
            json!({"type": "teleport"}),
            json!({}),
            json!([early, {"type": "hello"}]),
        ] {
            let target = format!("/v1/connect?user={}", gateway.user());
            let mut raw = Raw::open(gateway.node().listen(), &target, &[]).await?;
            raw.send(&[Frame::text(first.to_string())]).await?;
            let report = raw.outcome(SOON).await;
            said_goodbye(&report, 4000).with_context(|| first.to_string())?;
            ensure!(report.frames.len() == 1, "nothing but the bye: {:?}", report.frames);
        }
        nothing_more(&mut receiving).await
    });
}

#[test]
fn the_largest_frame_passes_and_one_byte_more_gets_a_bye_and_1009() {
    check(async |gateway| {
        for format in FORMATS {
            let grown = |bytes: usize| {
                if format == "json" {
                    let (start, end) = (r#"{"type":"ping","id":"large","pad":""#, r#""}"#);
                    format!("{start}{}{end}", "x".repeat(bytes - start.len() - end.len())).into_bytes()
                } else {
                    let start = b"\x83\xa4type\xa4ping\xa2id\xa5large\xa3pad\xc5";
                    let pad = bytes - start.len() - 2;
                    [&start[..], &(pad as u16).to_be_bytes(), &vec![0; pad]].concat()
                }
            };
            let mut raw = gateway.raw(format).await?;
            raw.send(&[message(format, grown(MAX_BYTES))]).await?;
            let pong = raw.wait_for(SOON, |frame| frame["id"] == "large").await;
            ensure!(pong.as_ref().is_some_and(|pong| pong["type"] == "pong"), "{format}: {pong:?}");
            raw.send(&[message(format, grown(MAX_BYTES + 1))]).await?;
            said_goodbye(&raw.outcome(SOON).await, 1009).with_context(|| format.to_owned())?;

            let large = grown(MAX_BYTES + 1);
            let (first, second) = large.split_at(MAX_BYTES / 2);
            let mut raw = gateway.raw(format).await?;
            raw.send(&[message(format, first).unfinished(), Frame::continuation(second)]).await?;
            said_goodbye(&raw.outcome(SOON).await, 1009).with_context(|| format!("{format} in two fragments"))?;
        }
        Ok(())
    });
}

/// What came, the frame (its `id` is added), and the field that the answer has to name.
fn senseless(own: &str) -> Vec<(&'static str, Value, &'static str)> {
    let long = "n".repeat(129);
    let to = |to: Value| json!({"type": "send", "to": to, "body": 1});
    let with = |name: &str, value: Value| {
        let mut frame = to(json!(own));
        frame[name] = value;
        frame
    };
    vec![
        ("an unknown type", json!({"type": "teleport"}), "type"),
        ("no type", json!({"to": own, "body": 1}), "type"),
        ("a type that is no text", json!({"type": 7}), "type"),
        ("no recipient", json!({"type": "send", "body": 1}), "to"),
        ("a recipient that is no text", to(json!(7)), "to"),
        ("a list of recipients", to(json!([own])), "to"),
        ("a bare recipient", to(json!("bob")), "user:"),
        ("an unknown kind of address", to(json!("planet:earth")), "to"),
        ("a broadcast in capitals", to(json!("ALL")), "to"),
        ("an address without an ID", to(json!("user:")), "to"),
        ("an ID of 129 bytes", to(json!(format!("user:{long}"))), "128"),
        ("an ID with a control character", to(json!("user:a\u{0}b")), "control"),
        ("an ID with line ends", to(json!("user:a\r\nb")), "control"),
        ("an ID with a slash", to(json!("group:a/b")), "/"),
        ("a durable message to one device", to(json!("user:a/phone")), "to"),
        ("no body", json!({"type": "send", "to": own}), "body"),
        ("a flag that is no boolean", with("ephemeral", json!("yes")), "ephemeral"),
        ("a retry without an age", with("retry", json!(true)), "age_ms"),
        (
            "an age that is no number",
            json!({"type": "send", "to": own, "body": 1, "retry": true, "age_ms": "old"}),
            "age_ms",
        ),
        (
            "a retry of what is not kept",
            json!({"type": "send", "to": own, "body": 1, "ephemeral": true, "retry": true, "age_ms": 1}),
            "retry",
        ),
        ("an expiry below zero", with("expires_ms", json!(-1)), "expires_ms"),
        ("an unknown level of ack", with("ack", json!("maybe")), "ack"),
        ("a limit of 0", json!({"type": "history", "of": own, "limit": 0}), "limit"),
        ("a limit of 201", json!({"type": "history", "of": own, "limit": 201}), "limit"),
        ("a limit below zero", json!({"type": "history", "of": own, "limit": -1}), "limit"),
        ("a limit that is no number", json!({"type": "history", "of": own, "limit": "all"}), "limit"),
        ("history of nothing", json!({"type": "history"}), "of"),
        ("history of a bare ID", json!({"type": "history", "of": "bob"}), "of"),
        ("history before a number", json!({"type": "history", "of": own, "before": 7}), "before"),
        ("an ack of nothing", json!({"type": "ack", "cursor": "x"}), "of"),
        ("an ack without a cursor", json!({"type": "ack", "of": own}), "cursor"),
    ]
}

#[test]
fn a_frame_that_makes_no_sense_gets_one_error_that_names_the_field_and_the_connection_stays() {
    check(async |gateway| {
        for format in FORMATS {
            let user = gateway.user();
            let mut client = gateway.client(&user, format, &[]).await?;
            for (n, (what, mut frame, field)) in senseless(&format!("user:{user}")).into_iter().enumerate() {
                let id = format!("bad-{n}");
                frame["id"] = json!(id);
                client.send(&frame).await?;
                let error = client.next_json(SOON).await.with_context(|| what.to_owned())?;
                check_error(&error, "bad_request", Some(&id), field).with_context(|| format!("{what} in {format}"))?;
            }
            nothing_more(&mut client).await?;
        }
        Ok(())
    });
}

#[test]
fn a_request_whose_id_is_none_gets_an_error_without_one_and_is_not_executed() {
    check(async |gateway| {
        for format in FORMATS {
            let user = gateway.user();
            let mut client = gateway.client(&user, format, &[]).await?;
            let ids =
                [json!(null), json!(7), json!(""), json!("a/b"), json!("x".repeat(129)), json!("a\nb"), json!(["id"])];
            for id in ids {
                client.send(&json!({"type": "send", "id": id, "to": format!("user:{user}"), "body": 1})).await?;
                let error = client.next_json(SOON).await?;
                check_error(&error, "bad_request", None, "id").with_context(|| format!("{id} in {format}"))?;
            }
            client.send(&json!({"type": "send", "to": format!("user:{user}"), "body": 1})).await?;
            check_error(&client.next_json(SOON).await?, "bad_request", None, "id")?;
            nothing_more(&mut client).await?;
        }
        Ok(())
    });
}

#[test]
fn an_id_of_128_bytes_and_any_other_character_is_an_id() {
    check(async |gateway| {
        let mut client = gateway.client(&gateway.user(), "json", &[]).await?;
        for id in ["n".repeat(128), "🦀".repeat(32), "a b:*{}%\"'".to_owned()] {
            let pong = client.ask(&json!({"type": "ping", "id": id})).await?;
            ensure!(pong == json!({"type": "pong", "id": id}), "{pong}");
        }
        Ok(())
    });
}

#[test]
fn a_second_hello_is_a_bad_request_and_so_is_one_after_auto() {
    check(async |gateway| {
        for format in FORMATS {
            let mut client = gateway.client(&gateway.user(), format, &[]).await?;
            client.send(&hello(&[])).await?;
            check_error(&client.next_json(SOON).await?, "bad_request", None, "hello")?;
            nothing_more(&mut client).await?;

            let url = gateway.node().ws_url(&format!("user={}&auto=1&format={format}", gateway.user()));
            let mut client = Client::connect(&url, None).await?;
            client.expect_type("welcome").await?;
            client.send(&hello(&[("device", json!("phone"))])).await?;
            check_error(&client.next_json(SOON).await?, "bad_request", None, "hello")?;
            nothing_more(&mut client).await?;
        }
        Ok(())
    });
}

/// It is a hello, so the row for frames with a wrong field holds, not the one for a first frame that is none.
#[test]
fn a_hello_with_a_wrong_field_gets_an_error_and_a_right_one_may_follow() {
    check(async |gateway| {
        for (name, value) in [
            ("device", json!(7)),
            ("device", json!("a/b")),
            ("device", json!("d".repeat(129))),
            ("cursors", json!(["x"])),
            ("cursors", json!({"alice": "x"})),
            ("cursors", json!({"user:a": ["1", "2", "3", "4", "5"]})),
            ("from", json!("yesterday")),
            ("batch", json!("yes")),
        ] {
            let mut client = Client::connect(&gateway.node().ws_url(&format!("user={}", gateway.user())), None).await?;
            client.send(&hello(&[(name, value.clone())])).await?;
            let error = client.next_json(SOON).await.with_context(|| format!("{name}: {value}"))?;
            check_error(&error, "bad_request", None, name).with_context(|| format!("{name}: {value}"))?;
            client.send(&hello(&[])).await?;
            client.expect_type("welcome").await?;
        }
        Ok(())
    });
}

#[test]
fn unknown_fields_are_ignored() {
    check(async |gateway| {
        for format in FORMATS {
            let user = gateway.user();
            let own = format!("user:{user}");
            let deep = json!({"a": [1, {"b": null}]});
            let mut client = gateway.client(&user, format, &[("future", deep.clone())]).await?;
            let frame = json!({"type": "send", "id": "1", "to": own, "body": 1, "colour": "green", "nested": deep});
            ensure!(client.ask(&frame).await?["type"] == "sent");
            let message = client.wait_for("the message", |frame| frame["type"] == "message").await?;
            ensure!(message["body"] == 1 && message.get("colour").is_none(), "{message}");
        }
        Ok(())
    });
}

#[test]
fn an_address_that_the_user_may_not_read_is_forbidden_and_the_connection_stays() {
    check(async |gateway| {
        for format in FORMATS {
            let other = format!("user:{}", gateway.user());
            let (mut client, welcome) = gateway.welcomed(&gateway.user(), format, &[]).await?;
            let cursor = own_stream(&welcome)?["cursor"].clone();
            client.send(&json!({"type": "ack", "of": other, "cursor": cursor})).await?;
            check_error(&client.next_json(SOON).await?, "forbidden", None, "").context("ack")?;
            client.send(&json!({"type": "history", "id": "h", "of": other})).await?;
            check_error(&client.next_json(SOON).await?, "forbidden", Some("h"), "").context("history")?;
            nothing_more(&mut client).await?;
        }
        Ok(())
    });
}

#[test]
fn a_hello_with_a_cursor_of_a_foreign_address_is_told_so_and_the_stream_is_left_out() {
    check(async |gateway| {
        let (user, other) = (gateway.user(), gateway.user());
        let (_, welcome) = gateway.welcomed(&other, "json", &[]).await?;
        let foreign = format!("user:{other}");
        let cursors = json!({(foreign.as_str()): own_stream(&welcome)?["cursor"]});
        let mut client = Client::connect(&gateway.node().ws_url(&format!("user={user}")), None).await?;
        client.send(&hello(&[("cursors", cursors)])).await?;
        let error = client.wait_for("the error", |frame| frame["type"] == "error").await?;
        check_error(&error, "forbidden", None, "")?;
        let welcome = client.wait_for("the welcome", |frame| frame["type"] == "welcome").await?;
        ensure!(own_stream(&welcome)?["of"] == format!("user:{user}"), "{welcome}");
        ensure!(!welcome["streams"].to_string().contains(&foreign), "{welcome}");
        nothing_more(&mut client).await
    });
}

#[test]
fn a_cursor_that_cannot_be_read_starts_its_stream_with_a_reset_of_reason_epoch() {
    check(async |gateway| {
        for format in FORMATS {
            for cursor in ["", "garbage", "🦀", &"A".repeat(32), &"x".repeat(10_000)] {
                let user = gateway.user();
                let own = format!("user:{user}");
                for cursors in [json!({(own.as_str()): cursor}), json!({(own.as_str()): [cursor, cursor]})] {
                    let (mut client, welcome) = gateway.welcomed(&user, format, &[("cursors", cursors)]).await?;
                    let stream = own_stream(&welcome)?;
                    ensure!(stream["status"] == "reset" && stream["reason"] == "epoch", "{welcome}");
                    ensure!(stream["cursor"].is_string(), "a stream has a cursor from the first moment: {welcome}");
                    nothing_more(&mut client).await?;
                }
            }
        }
        Ok(())
    });
}

/// The own inbox in a `welcome`.
fn own_stream(welcome: &Value) -> Result<&Value> {
    let own = format!("user:{}", welcome["user"].as_str().unwrap_or_default());
    let streams = welcome["streams"].as_array().context("a welcome without streams")?;
    streams.iter().find(|stream| stream["of"] == own).with_context(|| format!("no own inbox: {welcome}"))
}

#[test]
fn of_a_batch_with_bad_frames_the_others_are_executed_and_every_id_is_answered_once() {
    check(async |gateway| {
        for format in FORMATS {
            let (user, receiver) = (gateway.user(), gateway.user());
            let to = format!("user:{receiver}");
            let mut receiving = gateway.client(&receiver, format, &[]).await?;
            let mut client = gateway.client(&user, format, &[]).await?;
            let expected = [
                ("1", "sent", json!({"type": "send", "id": "1", "to": to, "body": 1})),
                ("2", "error", json!({"type": "send", "id": "2", "to": "nobody", "body": 2})),
                ("3", "pong", json!({"type": "ping", "id": "3"})),
                ("4", "error", json!({"type": "teleport", "id": "4"})),
                ("5", "error", json!({"type": "history", "id": "5", "of": format!("user:{user}"), "limit": 0})),
                ("6", "history", json!({"type": "history", "id": "6", "of": format!("user:{user}")})),
                ("7", "sent", json!({"type": "send", "id": "7", "to": to, "body": 7})),
            ];
            client.send(&expected.iter().map(|(_, _, frame)| frame.clone()).collect()).await?;
            let mut answered = HashSet::new();
            while answered.len() < expected.len() {
                let answer = client.next_json(SOON).await.with_context(|| format!("answered: {answered:?}"))?;
                let id = answer["id"].as_str().with_context(|| format!("no id: {answer}"))?.to_owned();
                let row = expected.iter().find(|(name, ..)| *name == id).with_context(|| format!("{answer}"))?;
                ensure!(answer["type"] == row.1, "expected {}, got {answer}", row.1);
                ensure!(answered.insert(id), "answered twice: {answer}");
            }
            nothing_more(&mut client).await?;
            for body in [1, 7] {
                let message = receiving.expect_type("message").await?;
                ensure!(message["body"] == body, "expected {body}, got {message}");
            }
            nothing_more(&mut receiving).await?;
        }
        Ok(())
    });
}

#[test]
fn an_empty_batch_is_nothing() {
    check(async |gateway| {
        for format in FORMATS {
            let mut client = gateway.client(&gateway.user(), format, &[]).await?;
            client.send(&json!([])).await?;
            nothing_more(&mut client).await?;
        }
        Ok(())
    });
}

#[test]
fn a_plain_ping_is_answered_without_an_id() {
    check(async |gateway: &'static Gateway| {
        for format in FORMATS {
            let mut raw = gateway.raw(format).await?;
            raw.send(&[message(format, ping(format))]).await?;
            let pong = raw.wait_for(SOON, |frame| frame["type"] == "pong").await;
            ensure!(pong == Some(json!({"type": "pong"})), "{format}: {pong:?}");
        }
        Ok(())
    });
}
