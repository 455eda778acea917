//! What the fleet does when its Redis or its subscription misbehaves: nodes are processes, Redis is real.
//!
//! Every history is judged by `delivery::invariants`: nothing lost that was answered `sent`, nothing twice, in order.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use delivery::invariants::{Received, check};
use protocol::Cursor;
use serde_json::{Value, json};
use testkit::{Client, Node, NodeOptions, Redis, WaitFor};

const BINARY: &str = env!("CARGO_BIN_EXE_switchboard");

struct Fleet {
    redis: Redis,
    a: Node,
    b: Node,
}

impl Fleet {
    async fn start() -> Result<Self> {
        let redis = tokio::task::spawn_blocking(Redis::start).await??;
        let node = |name: &str| NodeOptions {
            binary: BINARY.into(),
            redis: Some(redis.url()),
            args: ["--node-name", name, "--rate-limit", "off"].map(str::to_owned).into(),
            wait_for: WaitFor::Ready,
            ..NodeOptions::default()
        };
        let (a, b) = (Node::start(node("a")).await?, Node::start(node("b")).await?);
        Ok(Self { redis, a, b })
    }

    async fn alice(&self) -> Result<Client> {
        let mut alice = Client::connect(&self.a.ws_url("user=alice"), None).await?;
        alice.send(&json!({"type": "hello"})).await?;
        alice.expect_type("welcome").await?;
        Ok(alice)
    }

    async fn bob(&self) -> Result<Client> {
        let mut bob = Client::connect(&self.b.ws_url("user=bob"), None).await?;
        bob.send(&json!({"type": "hello", "device": "phone"})).await?;
        bob.expect_type("welcome").await?;
        Ok(bob)
    }
}

fn message(n: usize) -> Value {
    json!({"type": "send", "id": format!("m{n}"), "to": "user:bob", "body": n})
}

/// Sends a message until it is answered `sent`, as an SDK does: again with the same id, `retry` and its age.
async fn send(alice: &mut Client, n: usize) -> Result<()> {
    let started = tokio::time::Instant::now();
    let mut frame = message(n);
    loop {
        let answer = alice.ask(&frame).await?;
        if answer["type"] == "sent" {
            return Ok(());
        }
        let code = answer["code"].as_str().unwrap_or_default();
        ensure!(["unavailable", "unknown_outcome", "overloaded"].contains(&code), "{answer}");
        ensure!(started.elapsed() < Duration::from_secs(30), "never stored: {answer}");
        tokio::time::sleep(Duration::from_millis(answer["retry_ms"].as_u64().unwrap_or(100).min(300))).await;
        frame["retry"] = json!(true);
        frame["age_ms"] = json!(started.elapsed().as_millis() as u64);
    }
}

fn received(frame: &Value) -> Result<Received> {
    Ok(Received {
        at: frame["cursor"].as_str().and_then(Cursor::from_text).context("a cursor")?,
        from: frame["from"].as_str().unwrap_or_default().to_owned(),
        id: frame["id"].as_str().unwrap_or_default().to_owned(),
        again: frame["again"] == true,
    })
}

/// Reads until message `last` has come; a `reset` is a failure here, for this Redis loses nothing.
async fn read_to(bob: &mut Client, last: usize) -> Result<Vec<Received>> {
    let mut all = Vec::new();
    loop {
        let frame = bob.next_json(Duration::from_secs(20)).await?;
        ensure!(frame["type"] == "message", "{frame}");
        all.push(received(&frame)?);
        if frame["id"] == format!("m{last}") {
            return Ok(all);
        }
    }
}

fn judge(all: &[Received], count: usize) -> Result<()> {
    let sent: Vec<(String, String)> = (0..count).map(|n| ("user:alice".to_owned(), format!("m{n}"))).collect();
    let breaches = check(all, &sent, &sent);
    ensure!(breaches.is_empty(), "{breaches:?}");
    Ok(())
}

/// The subscription is cut again and again while messages flow: what a dead one did not hear is read from the inbox.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_is_killed_under_load_loses_nothing_and_doubles_nothing() -> Result<()> {
    const COUNT: usize = 600;
    let fleet = Fleet::start().await?;
    let (mut alice, mut bob) = (fleet.alice().await?, fleet.bob().await?);
    let reading = tokio::spawn(async move { read_to(&mut bob, COUNT - 1).await });
    let mut kills = 0;
    for n in 0..COUNT {
        if n % 60 == 30 {
            let killed: u32 = fleet.redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).parse()?;
            kills += killed;
        }
        send(&mut alice, n).await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ensure!(kills >= 8, "the fault did not bite: {kills} connections were cut");
    judge(&reading.await??, COUNT)?;
    ensure!(fleet.b.metric("switchboard_generations_total").await? >= 3.0, "the node noticed");
    Ok(())
}

/// The connection that asks is cut under load: what it had asked is asked again with the same number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_are_cut_under_load_are_stored_once() -> Result<()> {
    const COUNT: usize = 400;
    let fleet = Fleet::start().await?;
    let (mut alice, mut bob) = (fleet.alice().await?, fleet.bob().await?);
    let reading = tokio::spawn(async move { read_to(&mut bob, COUNT - 1).await });
    let mut kills = 0;
    for n in 0..COUNT {
        if n % 80 == 40 {
            kills += fleet.redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).parse::<u32>()?;
        }
        send(&mut alice, n).await?;
    }
    ensure!(kills >= 5, "the fault did not bite: {kills} connections were cut");
    judge(&reading.await??, COUNT)
}

/// Redis stands still and goes on: what lay in its socket runs late, and its second asking finds it in the ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_freezes_for_seconds_stores_once_and_delivers_in_order() -> Result<()> {
    const COUNT: usize = 60;
    let fleet = Fleet::start().await?;
    let (mut alice, mut bob) = (fleet.alice().await?, fleet.bob().await?);
    let reading = tokio::spawn(async move { read_to(&mut bob, COUNT - 1).await });
    for n in 0..COUNT {
        if n == 20 {
            fleet.redis.stop()?;
            alice.send(&message(n)).await?;
            // Longer than a command may take, shorter than the deadline of its batch.
            tokio::time::sleep(Duration::from_millis(2_300)).await;
            fleet.redis.cont()?;
            let answer = alice.answer(&format!("m{n}")).await?;
            ensure!(answer["type"] == "sent" || answer["code"] == "unknown_outcome", "{answer}");
        }
        if n != 20 {
            send(&mut alice, n).await?;
        } else {
            let again = json!({"retry": true, "age_ms": 2_400});
            let mut frame = message(n);
            frame.as_object_mut().context("a map")?.extend(again.as_object().context("a map")?.clone());
            let answer = alice.ask(&frame).await?;
            ensure!(answer["type"] == "sent", "{answer}");
        }
    }
    judge(&reading.await??, COUNT)
}

/// A client that stops reading: its delivery pauses, the node's memory does not grow with what it does not read, and
/// when it reads again nothing is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_for_a_while_misses_nothing() -> Result<()> {
    const COUNT: usize = 4_000;
    let fleet = Fleet::start().await?;
    let (mut alice, mut bob) = (fleet.alice().await?, fleet.bob().await?);
    let before = fleet.b.rss_bytes()?;
    let body = "x".repeat(4_000);
    for n in 0..COUNT {
        alice.send(&json!({"type": "send", "id": format!("m{n}"), "to": "user:bob", "body": body})).await?;
        if n % 100 == 99 {
            for sent in n - 99..=n {
                ensure!(alice.answer(&format!("m{sent}")).await?["type"] == "sent");
            }
        }
    }
    // Sixteen megabytes were sent to somebody who read none of it.
    let grown = fleet.b.rss_bytes()?.saturating_sub(before);
    ensure!(grown < 12 << 20, "the node grew by {grown} bytes");
    judge(&read_to(&mut bob, COUNT - 1).await?, COUNT)?;
    ensure!(fleet.b.metric("switchboard_pulls_total").await? > 0.0, "the inbox was the buffer");
    Ok(())
}

/// Cuts the end off the append-only file, as a power failure does.
fn cut_tail(redis: &Redis, bytes: u64) -> Result<()> {
    let folder = redis.directory().join("appendonlydir");
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.to_string_lossy().ends_with(".incr.aof") {
            let file = std::fs::OpenOptions::new().write(true).open(&path)?;
            let length = file.metadata()?.len();
            ensure!(length > bytes, "the file has only {length} bytes");
            file.set_len(length - bytes)?;
            return Ok(());
        }
    }
    anyhow::bail!("no append-only file")
}

/// Redis loses what it had answered, and the node that answered is still there: it appends it again, so that a recipient
/// who was offline never learns of it, and one who was connected is told `reset` and sees nothing twice but `again`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_redis_lost_is_appended_again_by_the_node_that_answered() -> Result<()> {
    const COUNT: usize = 100;
    let mut fleet = Fleet::start().await?;
    let (mut alice, mut bob) = (fleet.alice().await?, fleet.bob().await?);
    for n in 0..COUNT {
        send(&mut alice, n).await?;
    }
    judge(&read_to(&mut bob, COUNT - 1).await?, COUNT)?;
    fleet.redis.kill();
    cut_tail(&fleet.redis, 8_192)?;
    fleet.redis.restart()?;
    let again = testkit::eventually("the node appends again", Duration::from_secs(10), async || {
        fleet.a.metric("switchboard_appended_again_total").await.ok().filter(|&n| n > 0.0)
    })
    .await?;
    println!("{again} messages were appended again");
    ensure!(again > 5.0 && again < COUNT as f64, "the fault did not bite as meant: {again}");
    // A device that never was here before gets every message once, in order.
    let mut tablet = Client::connect(&fleet.b.ws_url("user=bob"), None).await?;
    tablet.send(&json!({"type": "hello", "device": "tablet"})).await?;
    ensure!(tablet.expect_type("welcome").await?["streams"][0]["status"] == "new");
    judge(&read_to(&mut tablet, COUNT - 1).await?, COUNT)?;
    // The one that was connected had them all: it is told why it gets some again.
    let reset = bob.expect_type("reset").await?;
    ensure!(["fork", "ahead"].contains(&reset["reason"].as_str().unwrap_or_default()), "{reset}");
    send(&mut alice, COUNT).await?;
    let replayed = read_to(&mut bob, COUNT).await?;
    // Some say `again`, and those that were appended after this node had told the reset do not: to the server they are
    // new. A client compares ids; each comes at most once behind the reset, and nothing is missing.
    let ids: Vec<&str> = replayed.iter().map(|one| one.id.as_str()).collect();
    let unique: std::collections::HashSet<&str> = ids.iter().copied().collect();
    ensure!(unique.len() == ids.len(), "twice behind one reset: {ids:?}");
    ensure!(ids.contains(&format!("m{}", COUNT - 1).as_str()), "what was appended again came again: {ids:?}");
    Ok(())
}

/// `online` as somebody who sends is told it.
async fn is_online(alice: &mut Client, n: &mut usize) -> Result<bool> {
    *n += 1;
    let frame = json!({"type": "send", "id": format!("ask{n}"), "to": "user:bob", "body": 0, "ephemeral": true});
    let answer = alice.ask(&frame).await?;
    answer["online"].as_bool().with_context(|| format!("no `online` in {answer}"))
}

/// A node that was killed said goodbye to nobody: the others see its count stand still, and remove what it left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_nodes_locations_are_removed_within_twenty_five_seconds() -> Result<()> {
    let fleet = Fleet::start().await?;
    let (mut alice, _bob) = (fleet.alice().await?, fleet.bob().await?);
    let mut asked = 0;
    ensure!(is_online(&mut alice, &mut asked).await?);
    fleet.b.kill();
    ensure!(is_online(&mut alice, &mut asked).await?, "nobody knows it yet");
    let end = tokio::time::Instant::now() + Duration::from_secs(25);
    while is_online(&mut alice, &mut asked).await? {
        ensure!(tokio::time::Instant::now() < end, "bob still counts as online");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    ensure!(fleet.a.metric("switchboard_nodes_buried_total").await? == 1.0);
    let left = fleet.redis.cli(&["KEYS", "sb:*:at:b.*"]);
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

/// A node that stood still for so long that it was declared dead goes on under a new name: its clients, who noticed
/// nothing, get what came meanwhile and what comes from now on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_declared_dead_and_lives_goes_on_under_a_new_name() -> Result<()> {
    let fleet = Fleet::start().await?;
    let (mut alice, mut bob) = (fleet.alice().await?, fleet.bob().await?);
    send(&mut alice, 0).await?;
    judge(&read_to(&mut bob, 0).await?, 1)?;
    fleet.b.stop()?;
    testkit::eventually("the other one buries it", Duration::from_secs(25), async || {
        fleet.a.metric("switchboard_nodes_buried_total").await.ok().filter(|&n| n == 1.0)
    })
    .await?;
    send(&mut alice, 1).await?;
    fleet.b.cont()?;
    ensure!(read_to(&mut bob, 1).await?.len() == 1);
    let log = testkit::eventually("the node says so", Duration::from_secs(10), async || {
        fleet.b.log().contains("it goes on under a new name").then_some(())
    });
    log.await?;
    // Registered under the new name: live again, not by the position check.
    testkit::eventually("bob is online again", Duration::from_secs(10), async || {
        let frame = json!({"to": "user:bob", "body": 0, "ephemeral": true}).to_string();
        let answer =
            testkit::http::request(fleet.a.internal(), "POST", "/v1/send", &[], frame.as_bytes()).await.ok()?;
        String::from_utf8_lossy(&answer.body).contains("\"online\":true").then_some(())
    })
    .await?;
    let begun = tokio::time::Instant::now();
    send(&mut alice, 2).await?;
    read_to_durable(&mut bob, 2).await?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "live, not found later");
    Ok(())
}

/// As [`read_to`], past ephemeral ones.
async fn read_to_durable(bob: &mut Client, last: usize) -> Result<()> {
    bob.wait_for("the message", |frame| frame["id"] == format!("m{last}")).await.map(drop)
}

/// Without a replica nobody can confirm it: the message is stored and delivered, and its sender is told what is not known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_no_replica_confirms_is_delivered_and_its_outcome_unknown() -> Result<()> {
    let fleet = Fleet::start().await?;
    let (mut alice, mut bob) = (fleet.alice().await?, fleet.bob().await?);
    let mut frame = message(0);
    frame["ack"] = json!("replicated");
    alice.send(&frame).await?;
    judge(&read_to(&mut bob, 0).await?, 1)?;
    let answer = alice.answer("m0").await?;
    ensure!(answer["code"] == "unknown_outcome" && answer.get("final").is_none(), "{answer}");
    // A sender that asks only for `stored` does not wait behind it.
    let begun = tokio::time::Instant::now();
    frame["id"] = json!("m1");
    alice.send(&frame).await?;
    send(&mut alice, 2).await?;
    ensure!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    Ok(())
}

/// A client whose answers filled the queue, and who then reads them all: its next frames were read only when a timer woke
/// the connection, up to half a minute later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_late_is_read_from_again_at_once() -> Result<()> {
    const AT_ONCE: usize = 500;
    let fleet = Fleet::start().await?;
    let mut bob = fleet.bob().await?;
    let mut sent = 0;
    let padding = "x".repeat(100);
    // Pings until nobody takes any more: the node's queue, both kernels' buffers and the client's own are full.
    loop {
        let pings: Vec<Value> =
            (sent..sent + AT_ONCE).map(|n| json!({"type": "ping", "id": format!("{padding}{n}")})).collect();
        sent += AT_ONCE;
        let batch = Value::Array(pings);
        if tokio::time::timeout(Duration::from_millis(300), bob.send(&batch)).await.is_err() {
            break;
        }
        ensure!(sent < 1_000_000, "the node never stopped reading");
    }
    let last = format!("{padding}{}", sent - AT_ONCE - 1);
    loop {
        let pong = bob.next_json(Duration::from_secs(4)).await.context("the node went on late")?;
        if pong["id"] == last {
            return Ok(());
        }
    }
}
