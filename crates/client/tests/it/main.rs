//! The client against a server in the same process that says and does exactly what each test tells it.
//!
//! Goal: what the core decides happens on real sockets: reconnects, resumes, retries, back-pressure, goodbyes.

#![allow(clippy::unwrap_used, reason = "what helpers of a test meet unexpectedly fails the test")]

mod fake;

use std::time::Duration;

use fake::{Fake, Session, patience};
use serde_json::json;
use switchboard_client::{
    Client, Config, Credentials, Encoding, Event, Events, JoinOptions, Message, Online, RequestError, SendOptions,
    StopReason, Whom,
};
use tokio::time::{Instant, timeout};

fn config(fake: &Fake) -> Config {
    let mut config = Config::new(fake.url(), Credentials::User("me".to_owned()));
    config.backoff_base_ms = 20;
    config.backoff_cap_ms = 50;
    config
}

async fn open(config: Config, fake: &Fake) -> (Client, Events, Session) {
    let (client, mut events) = Client::connect(config).unwrap();
    let mut session = fake.accept().await;
    session.hear_hello().await;
    session.welcome("new", "c0").await;
    assert!(matches!(next(&mut events).await, Event::Welcome(_)));
    (client, events, session)
}

async fn next(events: &mut Events) -> Event {
    timeout(patience(), events.next()).await.expect("an event in time").expect("one more event")
}

async fn message(events: &mut Events) -> Message {
    loop {
        if let Event::Message(message) = next(events).await {
            return message;
        }
    }
}

async fn stopped(events: &mut Events) -> StopReason {
    loop {
        if let Event::Stopped(reason) = next(events).await {
            return reason;
        }
    }
}

#[tokio::test]
async fn it_connects_says_hello_sends_and_receives() {
    let fake = Fake::start().await;
    let (client, mut events) = Client::connect(config(&fake)).unwrap();
    let mut session = fake.accept().await;
    assert_eq!(session.path, "/v1/connect?user=me");
    assert_eq!(session.hear_hello().await, json!({"type": "hello", "batch": true}));
    session.welcome("new", "c0").await;
    let sending = tokio::spawn(async move { client.send("user:you", json!({"n": 1})).await });
    let frame = session.hear().await;
    assert_eq!((&frame["to"], &frame["body"]), (&json!("user:you"), &json!({"n": 1})));
    session.say(json!([{"type": "sent", "id": frame["id"], "ref": "r1", "at": 5}, session.message(1)])).await;
    assert_eq!(sending.await.unwrap().unwrap().reference.as_deref(), Some("r1"));
    let message = message(&mut events).await;
    assert_eq!((message.seq, message.body.to_value()), (Some(1), json!(1)));
}

#[tokio::test]
async fn a_socket_cut_in_the_middle_of_a_frame_is_resumed_and_its_message_is_sent_once_more() {
    let fake = Fake::start().await;
    let (client, mut events, mut session) = open(config(&fake), &fake).await;
    for n in 1..=3 {
        session.say(session.message(n)).await;
    }
    let sending = tokio::spawn(async move { client.send("user:you", "important").await });
    let first = session.hear().await;
    session.cut_in_a_frame().await;

    let mut session = fake.accept().await;
    let hello = session.hear_hello().await;
    assert_eq!(hello["cursors"], json!({"user:me": ["c3", "c0"]}));
    assert_eq!(hello["takes_over"], "connection-1");
    session.welcome("resumed", "c3").await;
    let again = session.hear().await;
    assert_eq!((&again["id"], &again["body"], &again["retry"]), (&first["id"], &json!("important"), &json!(true)));
    assert!(again["age_ms"].is_u64());
    session.say(json!({"type": "sent", "id": again["id"], "ref": "r", "at": 5})).await;
    sending.await.unwrap().unwrap();
    session.say(session.message(4)).await;
    for n in 1..=4 {
        assert_eq!(message(&mut events).await.seq, Some(n));
    }
}

#[tokio::test]
async fn what_comes_again_after_a_reset_reaches_the_application_once() {
    let fake = Fake::start().await;
    let (_client, mut events, mut session) = open(config(&fake), &fake).await;
    for n in 1..=5 {
        session.say(session.message(n)).await;
    }
    session.say(json!({"type": "reset", "of": "user:me", "reason": "fork", "cursor": "c2"})).await;
    for n in 3..=6 {
        let mut frame = session.message(n);
        frame["again"] = json!(true);
        session.say(frame).await;
    }
    session.say(session.message(7)).await;
    let mut seen = Vec::new();
    let mut resets = 0;
    while seen.last() != Some(&7) {
        match next(&mut events).await {
            Event::Message(message) => seen.push(message.seq.unwrap()),
            Event::Reset(reset) => resets += usize::from(reset.reason == "fork"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((seen, resets), (vec![1, 2, 3, 4, 5, 6, 7], 1));
}

#[tokio::test]
async fn a_draining_node_says_when_to_come_back() {
    let fake = Fake::start().await;
    let (_client, mut events, mut session) = open(config(&fake), &fake).await;
    let told = Instant::now();
    session.say(json!({"type": "bye", "code": 4500, "reason": "draining", "reconnect_ms": 400})).await;
    session.close(4500).await;
    let Event::Disconnected { code, again_ms, .. } = next(&mut events).await else { panic!("not disconnected") };
    assert_eq!((code, again_ms), (Some(4500), 400));
    let mut session = fake.accept().await;
    assert!(told.elapsed() >= Duration::from_millis(395), "not before it was told to");
    session.hear_hello().await;
    session.welcome("resumed", "c0").await;
    assert!(matches!(next(&mut events).await, Event::Welcome(_)));
}

#[tokio::test]
async fn a_group_that_was_joined_until_disconnect_goes_on_after_a_cut() {
    let fake = Fake::start().await;
    let (client, mut events, mut session) = open(config(&fake), &fake).await;
    let joining = tokio::spawn(async move {
        let options = JoinOptions { until_disconnect: true, ..JoinOptions::default() };
        let cursor = client.join_with("den", options).await.unwrap();
        let online = client.watch(Whom::Users(vec!["you".into()])).await.unwrap();
        (client, cursor, online)
    });
    let join = session.hear().await;
    assert_eq!((&join["type"], &join["group"], &join["until"]), (&json!("join"), &json!("den"), &json!("disconnect")));
    let stream = json!({"type": "stream", "of": "group:den", "status": "new", "cursor": "g0", "head": 0, "replay": 0});
    session.say(json!([stream, {"type": "ok", "id": join["id"], "cursor": "g0"}])).await;
    let watch = session.hear().await;
    let online = json!({"you": {"version": 3, "online": true, "at": 5, "devices": []}});
    session.say(json!({"type": "ok", "id": watch["id"], "online": online})).await;
    let (client, cursor, online) = joining.await.unwrap();
    let Online::Each(users) = online else { panic!("a number") };
    assert_eq!((cursor.as_deref(), users["you"].is_online), (Some("g0"), true));
    session.cut_in_a_frame().await;

    let mut session = fake.accept().await;
    assert_eq!(session.hear_hello().await["cursors"], json!({"group:den": ["g0"], "user:me": ["c0"]}));
    session.welcome("resumed", "c0").await;
    let watch = session.hear().await;
    assert_eq!((&watch["type"], &watch["users"]), (&json!("watch"), &json!(["you"])));
    let online = json!({"you": {"version": 4, "online": false, "at": 6, "devices": []}});
    session.say(json!({"type": "ok", "id": watch["id"], "online": online})).await;
    loop {
        if let Event::Presence(Online::Each(users)) = next(&mut events).await {
            assert!(!users["you"].is_online, "what changed meanwhile is told");
            break;
        }
    }
    client.close().await;
}

#[tokio::test]
async fn a_refused_user_stops_and_so_do_his_requests() {
    let fake = Fake::start().await;
    let (client, mut events) = Client::connect(config(&fake)).unwrap();
    let mut session = fake.accept().await;
    session.say(json!({"type": "bye", "code": 4001, "reason": "unauthorized"})).await;
    session.close(4001).await;
    let expected = StopReason::Closed { code: 4001, reason: "unauthorized".into() };
    assert_eq!(stopped(&mut events).await, expected);
    assert_eq!(events.next().await, None, "nothing comes after it");
    assert_eq!(client.send("user:you", "x").await, Err(RequestError::Stopped));
    assert!(timeout(Duration::from_millis(300), fake.accept()).await.is_err(), "it does not come back");
}

#[tokio::test]
async fn an_expired_token_is_replaced_and_a_single_one_is_not() {
    let fake = Fake::start().await;
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut settings = config(&fake);
    settings.credentials = Credentials::source(move || {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move { Ok(format!("token-{n}")) }
    });
    let (client, _events) = Client::connect(settings).unwrap();
    for expected in ["token-0", "token-1"] {
        let mut session = fake.accept().await;
        assert_eq!(session.hear_hello().await["token"], expected);
        session.say(json!({"type": "bye", "code": 4002, "reason": "expired"})).await;
        session.close(4002).await;
    }
    client.close().await;

    let mut settings = config(&fake);
    settings.credentials = Credentials::Token("only".into());
    let (_client, mut events) = Client::connect(settings).unwrap();
    let mut session = fake.accept().await;
    session.hear_hello().await;
    session.close(4002).await;
    assert!(matches!(stopped(&mut events).await, StopReason::NoToken(_)));
}

#[tokio::test]
async fn a_server_that_says_nothing_for_two_heartbeats_is_left() {
    let fake = Fake::start().await;
    let (_client, mut events) = Client::connect(config(&fake)).unwrap();
    let mut session = fake.accept().await;
    session.hear_hello().await;
    session.heartbeat_ms = 100;
    session.welcome("new", "c0").await;
    let welcomed = Instant::now();
    // The socket stays open and is not read, so that not even a ping is answered: a half-open connection.
    let mut second = fake.accept().await;
    let silent_ms = welcomed.elapsed().as_millis();
    assert!((190..2_000).contains(&silent_ms), "{silent_ms} ms");
    assert_eq!(second.hear_hello().await["takes_over"], "connection-1");
    assert!(matches!(next(&mut events).await, Event::Welcome(_)));
    let Event::Disconnected { reason, .. } = next(&mut events).await else { panic!("not disconnected") };
    assert!(reason.contains("two heartbeats"), "{reason}");
    drop(session);
}

#[tokio::test]
async fn a_quiet_server_that_answers_pings_is_kept() {
    let fake = Fake::start().await;
    let (_client, _events) = Client::connect(config(&fake)).unwrap();
    let mut session = fake.accept().await;
    session.hear_hello().await;
    session.heartbeat_ms = 100;
    session.welcome("new", "c0").await;
    // Reading answers pings; no frame comes for ten heartbeats.
    assert!(timeout(Duration::from_secs(1), session.hear()).await.is_err());
    assert!(timeout(Duration::from_millis(10), fake.accept()).await.is_err(), "no second connection");
}

/// Goal: an application that takes nothing stops the server, not the memory, and then gets everything in order.
#[tokio::test]
async fn events_that_nobody_takes_hold_the_server_back_and_are_not_lost() {
    const MESSAGES: u64 = 2_000;
    let fake = Fake::start().await;
    let mut settings = config(&fake);
    settings.events_bytes_max = 64 * 1024;
    let (_client, mut events, mut session) = open(settings, &fake).await;
    let written = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = std::sync::Arc::clone(&written);
    let writing = tokio::spawn(async move {
        for n in 1..=MESSAGES {
            let mut frame = session.message(n);
            frame["body"] = json!("x".repeat(16 * 1024));
            session.say(frame).await;
            count.store(n, std::sync::atomic::Ordering::Relaxed);
        }
        session
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stalled = written.load(std::sync::atomic::Ordering::Relaxed);
    assert!(stalled < MESSAGES, "32 MB went nowhere");
    for n in 1..=MESSAGES {
        assert_eq!(message(&mut events).await.seq, Some(n));
    }
    writing.await.unwrap();
}

/// An application that sends before it takes the next event: the answer is behind messages for which there is no room.
#[tokio::test]
async fn an_answer_comes_through_although_events_wait() {
    let fake = Fake::start().await;
    let mut settings = config(&fake);
    settings.events_bytes_max = 64 * 1024;
    let (client, _events, mut session) = open(settings, &fake).await;
    let fill = json!("x".repeat(1_000));
    for n in 1..=150 {
        let mut frame = session.message(n);
        frame["body"] = fill.clone();
        session.say(frame).await;
    }
    let sending = tokio::spawn(async move { client.send("user:you", "x").await });
    let frame = session.hear().await;
    session.say(json!({"type": "sent", "id": frame["id"], "at": 1})).await;
    assert!(timeout(patience(), sending).await.expect("in time").unwrap().is_ok());
}

#[tokio::test]
async fn close_says_goodbye_with_1000_after_the_last_ack() {
    let fake = Fake::start().await;
    let (client, mut events, mut session) = open(config(&fake), &fake).await;
    session.say(session.message(1)).await;
    session.say(session.message(2)).await;
    for _ in 0..2 {
        let message = message(&mut events).await;
        client.ack(&message).await;
    }
    let serving = tokio::spawn(async move {
        let mut acks = Vec::new();
        while let Some(frame) = session.hear_until_closed().await {
            acks.push(frame["cursor"].clone());
        }
        (acks, session.closed_with)
    });
    client.close().await;
    let (acks, code) = serving.await.unwrap();
    assert_eq!(acks.last(), Some(&json!("c2")));
    assert_eq!(code, Some(1000));
    assert_eq!(stopped(&mut events).await, StopReason::Own);
}

#[tokio::test]
async fn a_client_that_nobody_holds_ends() {
    let fake = Fake::start().await;
    let (client, events, mut session) = open(config(&fake), &fake).await;
    drop(events);
    session.say(session.message(1)).await;
    let sending = client.clone();
    let sending = tokio::spawn(async move { sending.send("user:you", "x").await });
    let frame = session.hear().await;
    session.say(json!({"type": "sent", "id": frame["id"], "at": 1})).await;
    sending.await.unwrap().expect("without a listener it still sends");
    drop(client);
    assert_eq!(timeout(patience(), session.hear_until_closed()).await.unwrap(), None);
    assert_eq!(session.closed_with, Some(1000));
}

#[tokio::test]
async fn it_waits_for_a_server_that_is_not_there_yet() {
    let fake = Fake::start().await;
    let url = fake.url();
    drop(fake);
    let mut settings = Config::new(&*url, Credentials::Url);
    settings.backoff_base_ms = 20;
    settings.backoff_cap_ms = 20;
    let (client, mut events) = Client::connect(settings).unwrap();
    let Event::Disconnected { reason, .. } = next(&mut events).await else { panic!("connected to nobody") };
    assert!(reason.contains("no TCP connection"), "{reason}");
    let options = SendOptions { deadline_ms: Some(50), ..SendOptions::default() };
    let result = client.send_with("user:you", "x", options).await;
    assert_eq!(result, Err(RequestError::Deadline { maybe_stored: false }));
    let options = SendOptions { ephemeral: true, ..SendOptions::default() };
    assert_eq!(client.send_with("user:you", "x", options).await, Err(RequestError::NotConnected));
    let fake = Fake::start_at(&url).await;
    fake.accept().await.hear_hello().await;
}

#[tokio::test]
async fn messagepack_is_asked_for_by_name_and_spoken() {
    let fake = Fake::start().await;
    let mut settings = config(&fake);
    settings.encoding = Encoding::MessagePack;
    let (_client, mut events) = Client::connect(settings).unwrap();
    let mut session = fake.accept().await;
    assert_eq!(session.path, "/v1/connect?user=me&format=msgpack");
    let hello = session.hear_binary().await;
    assert!(hello.starts_with(b"\x82\xa4type\xa5hello"), "{hello:?}");
    session.say_binary(b"\x82\xa4type\xa7welcome\xa4user\xa2me").await;
    assert!(matches!(next(&mut events).await, Event::Welcome(_)));
}

#[tokio::test]
async fn tls_is_refused_with_a_clear_word() {
    let error = Client::connect(Config::new("wss://gate.example", Credentials::Url)).unwrap_err();
    assert!(error.to_string().contains("wss:// is not supported"), "{error}");
}
