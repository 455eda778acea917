//! More frames than a connection may send: the surplus is refused, frame by frame, and says when to come again.
//!
//! The default is 100 a second with bursts of 200. Ten seconds of it are in `slow`.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::Client;

use super::check_error;
use crate::gateway::{SOON, check};

const BURST: usize = 200;
const SENT: usize = 300;

/// Every answer to these ids, each exactly once.
async fn answers(client: &mut Client, ids: &[String]) -> Result<Vec<Value>> {
    let mut answers = Vec::with_capacity(ids.len());
    for id in ids {
        answers.push(client.answer(id).await?);
    }
    let end = "the end of the answers";
    let last = answers.iter().filter_map(|answer| answer["retry_ms"].as_u64()).max().unwrap_or_default();
    // The promise of `retry_ms`: after it, the next frame is welcome.
    tokio::time::sleep(Duration::from_millis(last)).await;
    let pong = client.ask(&json!({"type": "ping", "id": end})).await?;
    ensure!(pong["type"] == "pong", "after {last} ms: {pong}");
    ensure!(client.unread().all(|frame| frame.get("id").is_none()), "answered twice: {:?}", client.unread().next());
    Ok(answers)
}

/// How many were let through; the others were refused as they should be.
fn passed(answers: &[Value], ids: &[String], kind: &str) -> Result<usize> {
    let (passed, refused): (Vec<_>, Vec<_>) = answers.iter().zip(ids).partition(|(answer, _)| answer["type"] == kind);
    for (answer, id) in refused {
        check_error(answer, "rate_limited", Some(id), "")?;
        ensure!(answer["retry_ms"].as_u64().is_some_and(|ms| (1..=10_000).contains(&ms)), "{answer}");
    }
    Ok(passed.len())
}

#[test]
fn of_300_frames_at_once_the_surplus_is_rate_limited_and_says_when_to_come_again() {
    check(async |gateway| {
        let mut client = gateway.client(&gateway.user(), "json", &[]).await?;
        let ids: Vec<String> = (0..SENT).map(|n| format!("p{n}")).collect();
        for id in &ids {
            client.send(&json!({"type": "ping", "id": id})).await?;
        }
        let answers = answers(&mut client, &ids).await?;
        let passed = passed(&answers, &ids, "pong")?;
        // The hello counts too; while 300 frames are on their way, some more are earned.
        ensure!((BURST - 5..SENT - 10).contains(&passed), "{passed} of {SENT} passed");
        Ok(())
    });
}

#[test]
fn each_map_of_a_batch_counts_as_one_frame_and_what_is_refused_is_not_executed() {
    check(async |gateway| {
        for format in ["json", "msgpack"] {
            let (sender, receiver) = (gateway.user(), gateway.user());
            let mut receiving = gateway.client(&receiver, format, &[]).await?;
            let mut sending = gateway.client(&sender, format, &[]).await?;
            let ids: Vec<String> = (0..SENT).map(|n| format!("s{n}")).collect();
            let to = format!("user:{receiver}");
            let batch = ids.iter().map(|id| json!({"type": "send", "id": id, "to": to, "body": id})).collect();
            sending.send(&Value::Array(batch)).await?;
            let answers = answers(&mut sending, &ids).await?;
            let passed = passed(&answers, &ids, "sent")?;
            ensure!((BURST - 5..BURST + 60).contains(&passed), "{passed} of {SENT} passed");
            let sent = answers.iter().filter(|answer| answer["type"] == "sent").map(|answer| &answer["id"]);
            for id in sent {
                let message = receiving.expect_type("message").await?;
                ensure!(message["body"] == *id, "expected {id}, got {message}");
            }
            // The bucket is empty now: what was refused says when the next frame passes.
            let retry_ms = answers.iter().filter_map(|answer| answer["retry_ms"].as_u64()).max().unwrap_or_default();
            tokio::time::sleep(std::time::Duration::from_millis(retry_ms + 5)).await;
            let marker = json!({"type": "send", "id": "marker", "to": to, "body": "marker"});
            ensure!(sending.ask(&marker).await?["type"] == "sent");
            let message = receiving.next_json(SOON).await.context("the marker")?;
            ensure!(message["body"] == "marker", "refused, but delivered: {message}");
        }
        Ok(())
    });
}

#[test]
fn the_rate_is_a_connections_own() {
    check(async |gateway| {
        let user = gateway.user();
        let mut first = gateway.client(&user, "json", &[]).await?;
        let mut second = gateway.client(&user, "json", &[]).await?;
        let batch = (0..SENT).map(|n| json!({"type": "ping", "id": format!("p{n}")})).collect();
        first.send(&Value::Array(batch)).await?;
        let mut kinds: HashMap<String, usize> = HashMap::new();
        for n in 0..SENT {
            let answer = first.answer(&format!("p{n}")).await?;
            *kinds.entry(answer["type"].to_string()).or_default() += 1;
        }
        ensure!(kinds.len() == 2, "the first one was over its rate: {kinds:?}");
        let pong = second.ask(&json!({"type": "ping", "id": "mine"})).await?;
        ensure!(pong["type"] == "pong", "{pong}");
        Ok(())
    });
}
