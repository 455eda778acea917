//! What nodes of a fleet hold to, and what they clean up after each other.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::{Client, Node, NodeOptions, Redis, WaitFor};

const BINARY: &str = env!("CARGO_BIN_EXE_switchboard");

fn options(redis: &Redis, name: &str, args: &[&str]) -> NodeOptions {
    NodeOptions {
        binary: BINARY.into(),
        redis: Some(redis.url()),
        args: ["--node-name", name].iter().chain(args).map(|&arg| arg.to_owned()).collect(),
        wait_for: WaitFor::Ready,
        ..NodeOptions::default()
    }
}

/// With other partitions a node looks for every inbox at another place: its users get nothing, and nobody sees an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_settings_differ_does_not_start_and_says_which() -> Result<()> {
    let redis = tokio::task::spawn_blocking(Redis::start).await??;
    let first = Node::start(options(&redis, "a", &[])).await?;
    let refused = Node::start(options(&redis, "b", &["--partitions", "128"])).await;
    let Err(error) = refused else { anyhow::bail!("it started") };
    let error = format!("{error:#}");
    ensure!(error.contains("partitions=64") && error.contains("partitions=128"), "{error}");
    ensure!(error.contains("--partitions") && error.contains("--redis-prefix"), "what to do: {error}");
    ensure!(first.get("/readyz").await.is_ok_and(|r| r.status() == 200), "the first one goes on");
    Node::start(options(&redis, "c", &["--partitions", "128", "--redis-prefix", "other"])).await?;
    Ok(())
}

/// The node that declared a neighbour dead may end before it has cleaned up; then only those who publish to nobody know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_location_of_a_node_that_nobody_counts_is_removed_by_who_publishes_to_it() -> Result<()> {
    let redis = tokio::task::spawn_blocking(Redis::start).await??;
    let dead = Node::start(options(&redis, "dead", &[])).await?;
    let mut bob = Client::connect(&dead.ws_url("user=bob"), None).await?;
    bob.send(&json!({"type": "hello", "device": "phone"})).await?;
    bob.expect_type("welcome").await?;
    dead.kill();
    // As if it had been buried by a node that ended then.
    redis.cli(&["DEL", "sb:nodes"]);
    let living = Node::start(options(&redis, "living", &[])).await?;
    let mut alice = Client::connect(&living.ws_url("user=alice"), None).await?;
    alice.send(&json!({"type": "hello"})).await?;
    alice.expect_type("welcome").await?;
    let (mut n, begun) = (0, tokio::time::Instant::now());
    loop {
        n += 1;
        let answer = alice.ask(&json!({"type": "send", "id": format!("m{n}"), "to": "user:bob", "body": n})).await?;
        if answer["online"] == false {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(12), "still published to: {answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(n > 1, "the first one was published to the dead node");
    Ok(())
}

/// A key that something else left behind: nobody would have said that deaths are not seen any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_count_itself_serves_and_says_so_once() -> Result<()> {
    let redis = tokio::task::spawn_blocking(Redis::start).await??;
    redis.cli(&["SADD", "sb:nodes", "left-over"]);
    let node = Node::start(options(&redis, "a", &[])).await?;
    let complaints = || node.log().since(0).matches("this node cannot count itself").count();
    testkit::eventually("a line", Duration::from_secs(5), async || (complaints() > 0).then_some(())).await?;
    // Past the next heartbeat.
    tokio::time::sleep(Duration::from_secs(6)).await;
    ensure!(complaints() == 1, "{} lines", complaints());
    ensure!(node.get("/readyz").await.is_ok_and(|r| r.status() == 200));
    Ok(())
}
