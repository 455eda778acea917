//! `switchboard doctor` and `serve --strict` against real servers: what is said, and the exit status.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::{Node, NodeOptions, Redis, WaitFor, eventually, free_port};

const BINARY: &str = env!("CARGO_BIN_EXE_switchboard");

/// `strict` waits for ten seconds.
const SOON: Duration = Duration::from_secs(25);

struct Said {
    status: Option<i32>,
    out: String,
    err: String,
}

async fn doctor(args: &[&str], env: &[(&str, &str)]) -> Result<Said> {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SWITCHBOARD_") {
            command.env_remove(&name);
        }
    }
    command.arg("doctor").args(args).envs(env.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = Said {
        status: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    };
    Ok(said)
}

fn ensure_said(said: &Said, status: i32, out: &[&str], err: &str) -> Result<()> {
    let fits = said.status == Some(status)
        && out.iter().all(|part| said.out.contains(part))
        && said.err.contains(err)
        && (status != 0 || said.err.is_empty());
    ensure!(fits, "expected {status}, {out:?} and {err:?}; got {:?}\n{}\n{}", said.status, said.out, said.err);
    Ok(())
}

async fn start(extra: &'static [&'static str]) -> Result<Redis> {
    tokio::task::spawn_blocking(move || Redis::start_with(extra)).await?
}

async fn serve(redis: String, args: &[&str], wait_for: WaitFor) -> Result<Node> {
    let options = NodeOptions {
        binary: BINARY.into(),
        redis: Some(redis),
        args: args.iter().map(|&argument| argument.to_owned()).collect(),
        wait_for,
        ..NodeOptions::default()
    };
    Node::start(options).await
}

const CACHE: &[&str] = &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "no"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_as_it_should_be_is_fine() -> Result<()> {
    let redis = start(&["--maxmemory", "100mb", "--maxmemory-policy", "noeviction"]).await?;
    let fine = ["Settings: fine", "NOTES", "every second", "Fine: Redis 7", "evicts nothing", "a master"];
    ensure_said(&doctor(&["--redis", &redis.url()], &[]).await?, 0, &fine, "")?;
    let node = serve(redis.url(), &["--strict"], WaitFor::Ready).await?;
    ensure!(!node.log().contains("can lose messages"), "{}", node.process().story());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_loses_is_explained_refused_and_said_loudly() -> Result<()> {
    let redis = start(CACHE).await?;
    let said = doctor(&[], &[("SWITCHBOARD_REDIS", &redis.url())]).await?;
    let parts = ["LOSES MESSAGES", "allkeys-lru", "nothing on disk", "why: ", "how: `CONFIG SET appendonly yes`"];
    ensure_said(&said, 1, &parts, "see the 2 findings above")?;

    let refused = serve(redis.url(), &["--strict"], WaitFor::Nothing).await?;
    ensure!(refused.process().wait(SOON).await?.code() == Some(1));
    for part in ["`strict` is set, and this Redis (Redis 7", "allkeys-lru", "nothing on disk", "how: "] {
        ensure!(refused.log().contains(part), "{part}: {}", refused.process().story());
    }
    ensure!(!refused.log().contains("listening"), "it never was there: {}", refused.process().story());

    let loud = serve(redis.url(), &[], WaitFor::Ready).await?;
    eventually("both are in the log", SOON, || async {
        let log = loud.log().tail(50);
        let errors = log.lines().filter(|line| line.contains("ERROR") && line.contains("Redis can lose messages"));
        (errors.count() == 2).then_some(())
    })
    .await
    .context(loud.process().story())
}

/// A replica never gets a generation, and is named all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_and_missing_replicas_are_named() -> Result<()> {
    let replica = start(&["--replicaof", "127.0.0.1 1"]).await?;
    ensure_said(&doctor(&["--redis", &replica.url()], &[]).await?, 1, &["it is a replica"], "the finding above")?;
    let node = serve(replica.url(), &[], WaitFor::Healthy).await?;
    eventually("it is in the log", SOON, || async { node.log().contains("it is a replica").then_some(()) }).await?;
    let refused = serve(replica.url(), &["--strict"], WaitFor::Nothing).await?;
    ensure!(refused.process().wait(SOON).await?.code() == Some(1));

    let alone = start(&["--min-replicas-to-write", "1"]).await?;
    ensure_said(&doctor(&["--redis", &alone.url()], &[]).await?, 1, &["1 or more, and 0 are"], "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_an_error_and_strict_waits_ten_seconds_for_somebody() -> Result<()> {
    let port = free_port()?;
    let url = format!("redis://me:hush@127.0.0.1:{port}");
    let said = doctor(&["--redis", &url], &[]).await?;
    ensure_said(
        &said,
        1,
        &["Settings: fine"],
        &format!("Redis redis://me:***@127.0.0.1:{port}: it cannot be reached"),
    )?;
    ensure!(!said.out.contains("hush") && !said.err.contains("hush"), "{}{}", said.out, said.err);

    let begun = tokio::time::Instant::now();
    let refused = serve(url.clone(), &["--strict"], WaitFor::Nothing).await?;
    let patient = serve(url, &[], WaitFor::Healthy).await?;
    ensure!(refused.process().wait(SOON).await?.code() == Some(1));
    ensure!(begun.elapsed() > Duration::from_secs(9), "after {:?}", begun.elapsed());
    ensure!(refused.log().contains("Redis cannot be reached within 10s"), "{}", refused.process().story());
    ensure!(patient.is_running(), "without strict a node waits");
    for node in [&refused, &patient] {
        ensure!(!node.log().contains("hush"), "{}", node.process().story());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_read_as_serve_reads_them() -> Result<()> {
    let said = doctor(&[], &[]).await?;
    ensure_said(&said, 0, &["Settings: fine", "embedded backplane", "RISKS", "memory of one node only"], "")?;
    let said = doctor(&["--listen", "0.0.0.0:1"], &[]).await?;
    ensure_said(&said, 1, &[], "auth: is missing")?;
    let said = doctor(&["--partitions", "0"], &[]).await?;
    ensure_said(&said, 2, &[], "partitions (--partitions): expected")?;
    let said = doctor(&[], &[("SWITCHBOARD_STRICT", "maybe"), ("SWITCHBOARD_LOG_FORMAT", "xml")]).await?;
    ensure_said(&said, 1, &[], "strict (SWITCHBOARD_STRICT): expected true or false")?;

    let redis = start(&[]).await?;
    let file = redis.directory().join("switchboard.toml");
    std::fs::write(&file, format!("redis = \"{}\"\nstrict = true\n", redis.url()))?;
    let file = file.to_str().context("a path in UTF-8")?;
    ensure_said(&doctor(&["--config", file], &[]).await?, 0, &["Fine: Redis 7"], "")
}
