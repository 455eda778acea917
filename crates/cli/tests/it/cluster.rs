//! Two nodes over a real Redis Cluster: every master has recipients, and none of them misses anything when slots move or
//! a master dies.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use delivery::invariants::{Received, check};
use protocol::Cursor;
use serde_json::{Value, json};
use testkit::cluster::Migration;
use testkit::{Client, Cluster, Node, NodeOptions, WaitFor};
use tokio::task::JoinSet;
use tokio::time::Instant;

const BINARY: &str = env!("CARGO_BIN_EXE_switchboard");

/// Enough that each master has some.
const USERS: usize = 24;

struct Fleet {
    cluster: Cluster,
    a: Node,
    b: Node,
}

impl Fleet {
    async fn start() -> Result<Self> {
        let cluster = tokio::task::spawn_blocking(Cluster::start).await??;
        let node = |name: &str| NodeOptions {
            binary: BINARY.into(),
            redis: Some(cluster.url()),
            args: ["--node-name", name, "--rate-limit", "off", "--log", "info"].map(str::to_owned).into(),
            wait_for: WaitFor::Ready,
            ..NodeOptions::default()
        };
        let (a, b) = (Node::start(node("a")).await?, Node::start(node("b")).await?);
        Ok(Self { cluster, a, b })
    }

    async fn alice(&self) -> Result<Client> {
        connect(&self.a, "alice").await
    }

    /// Every user reads on the other node until message `last` has come to him.
    async fn readers(&self, last: usize) -> Result<JoinSet<Result<(usize, Vec<Received>)>>> {
        let mut readers = JoinSet::new();
        for user in 0..USERS {
            let mut client = connect(&self.b, &format!("u{user}")).await?;
            readers.spawn(async move { Ok((user, read_to(&mut client, user, last).await?)) });
        }
        Ok(readers)
    }
}

async fn connect(node: &Node, user: &str) -> Result<Client> {
    let mut client = Client::connect(&node.ws_url(&format!("user={user}")), None).await?;
    client.send(&json!({"type": "hello", "device": "d"})).await?;
    client.expect_type("welcome").await?;
    Ok(client)
}

/// Sends one message to each user until it is answered `sent`; answers how long the slowest took.
async fn send_round(alice: &mut Client, n: usize) -> Result<Duration> {
    let begun = Instant::now();
    for user in 0..USERS {
        let mut frame = json!({"type": "send", "id": format!("{user}-{n}"), "to": format!("user:u{user}"), "body": n});
        loop {
            let answer = alice.ask(&frame).await?;
            if answer["type"] == "sent" {
                break;
            }
            let code = answer["code"].as_str().unwrap_or_default();
            ensure!(["unavailable", "unknown_outcome", "overloaded"].contains(&code), "{answer}");
            ensure!(begun.elapsed() < Duration::from_secs(30), "never stored: {answer}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            frame["retry"] = json!(true);
            frame["age_ms"] = json!(begun.elapsed().as_millis() as u64);
        }
    }
    Ok(begun.elapsed())
}

async fn read_to(client: &mut Client, user: usize, last: usize) -> Result<Vec<Received>> {
    let mut all = Vec::new();
    loop {
        let frame: Value = client.next_json(Duration::from_secs(45)).await.with_context(|| format!("user {user}"))?;
        ensure!(frame["type"] == "message", "user {user}: {frame}");
        all.push(Received {
            at: frame["cursor"].as_str().and_then(Cursor::from_text).context("a cursor")?,
            from: frame["from"].as_str().unwrap_or_default().to_owned(),
            id: frame["id"].as_str().unwrap_or_default().to_owned(),
            again: frame["again"] == true,
        });
        if frame["id"] == format!("{user}-{last}") {
            return Ok(all);
        }
    }
}

/// The slot of a user's inbox, which is there by now.
fn slot_of(cluster: &Cluster, user: usize) -> Result<u16> {
    for server in 0..3 {
        let keys = cluster.cli(server, &["KEYS", &format!("sb:*:i:user:u{user}")])?;
        if let Some(key) = keys.lines().next().filter(|key| !key.is_empty()) {
            return cluster.slot_of(key);
        }
    }
    anyhow::bail!("user {user} has no inbox")
}

async fn judge(mut readers: JoinSet<Result<(usize, Vec<Received>)>>, count: usize) -> Result<()> {
    while let Some(read) = readers.join_next().await {
        let (user, all) = read??;
        let sent: Vec<_> = (0..count).map(|n| ("user:alice".to_owned(), format!("{user}-{n}"))).collect();
        let breaches = check(&all, &sent, &sent);
        ensure!(breaches.is_empty(), "user {user}: {breaches:?}");
    }
    Ok(())
}

/// Slots of every master are moved while messages flow: live ones, and records that are new at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_under_load_lose_nothing_and_double_nothing() -> Result<()> {
    const ROUNDS: usize = 60;
    let fleet = Fleet::start().await?;
    let mut alice = fleet.alice().await?;
    let readers = fleet.readers(ROUNDS - 1).await?;
    let mut slowest = Duration::ZERO;
    let mut moving: Vec<(usize, Migration)> = Vec::new();
    for n in 0..ROUNDS {
        slowest = slowest.max(send_round(&mut alice, n).await?);
        // Half of the keys, then the rest some rounds later: in between both masters have a part.
        if n % 10 == 5 {
            let user = n / 10 * 4;
            let slot = slot_of(&fleet.cluster, user)?;
            let from = fleet.cluster.master_of(slot)?;
            let migration = fleet.cluster.begin_migration(slot, (from + 1) % 3)?;
            fleet.cluster.move_keys(migration, 1)?;
            moving.push((n, migration));
        }
        while moving.first().is_some_and(|(since, _)| n >= since + 3) {
            let (_, migration) = moving.remove(0);
            while fleet.cluster.move_keys(migration, 100)? > 0 {}
            fleet.cluster.finish_migration(migration)?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    judge(readers, ROUNDS).await?;
    println!("the slowest round of {USERS} messages took {slowest:?}");
    Ok(())
}

/// A master is killed under load; its replica takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_costs_a_pause_and_nothing_else() -> Result<()> {
    const ROUNDS: usize = 40;
    let fleet = Fleet::start().await?;
    let mut alice = fleet.alice().await?;
    let readers = fleet.readers(ROUNDS - 1).await?;
    let mut slowest = Duration::ZERO;
    for n in 0..ROUNDS {
        if n == 15 {
            fleet.cluster.servers[1].kill();
        }
        slowest = slowest.max(send_round(&mut alice, n).await?);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("the slowest round of {USERS} messages took {slowest:?}");
    judge(readers, ROUNDS).await
}
