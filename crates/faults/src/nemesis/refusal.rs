//! A Redis that is there and refuses: no replicas, no memory, no permission, no disk.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use super::Stage;
use crate::world::servers::{config, error_count, info_number, info_text};

/// More replicas than any topology here has.
const TOO_MANY: &str = "3";

/// Until an error has been counted a few times: nodes ask again and again.
const BITES_WITHIN: Duration = Duration::from_secs(10);

/// Fault 5.
pub(super) async fn too_few_replicas(stage: &Stage, hold: Duration) -> Result<String> {
    let n = stage.some_master()?;
    let before = stage.server(n, |server| config(server, "min-replicas-to-write", TOO_MANY))?;
    let refused = errors(stage, n, "NOREPLICAS", hold).await;
    stage.server(n, |server| config(server, "min-replicas-to-write", &before))?;
    refused
}

/// Fault 6.
pub(super) async fn memory_full(stage: &Stage, hold: Duration) -> Result<String> {
    let n = stage.some_master()?;
    let limit = stage.server(n, |server| info_number(server, "memory", "used_memory"))? / 2;
    let before = stage.server(n, |server| config(server, "maxmemory", &limit.max(1).to_string()))?;
    let refused = errors(stage, n, "OOM", hold).await;
    stage.server(n, |server| config(server, "maxmemory", &before))?;
    refused
}

/// Fault 7.
pub(super) async fn eviction(stage: &Stage, hold: Duration) -> Result<String> {
    let n = stage.some_master()?;
    let evicted = |server: &testkit::Redis| info_number(server, "stats", "evicted_keys");
    let begun = stage.server(n, evicted)?;
    let used = stage.server(n, |server| info_number(server, "memory", "used_memory"))?;
    let policy = stage.server(n, |server| config(server, "maxmemory-policy", "allkeys-lru"))?;
    // A little below what it has: some inboxes go, not all.
    let limit = (used - used / 20).to_string();
    let before = stage.server(n, |server| config(server, "maxmemory", &limit))?;
    sleep(hold).await;
    stage.server(n, |server| config(server, "maxmemory", &before))?;
    stage.server(n, |server| config(server, "maxmemory-policy", &policy))?;
    let gone = stage.server(n, evicted)? - begun;
    ensure!(gone > 0, "no key was evicted");
    Ok(format!("{gone} keys were evicted"))
}

/// Fault 15.
pub(super) async fn publish(stage: &Stage, hold: Duration) -> Result<String> {
    let n = stage.some_master()?;
    let denied = |stage: &Stage| stage.server(n, |server| error_count(server, "NOPERM"));
    let begun = denied(stage)?;
    stage.server(n, |server| server.try_cli(&["ACL", "SETUSER", "default", "-publish", "-spublish"]))?;
    sleep(hold).await;
    stage.server(n, |server| server.try_cli(&["ACL", "SETUSER", "default", "+publish", "+spublish"]))?;
    let count = denied(stage)? - begun;
    ensure!(count > 0, "no PUBLISH was refused");
    Ok(format!("{count} commands were refused with NOPERM"))
}

/// Fault 16.
pub(super) async fn writes(stage: &Stage, hold: Duration) -> Result<String> {
    let n = stage.some_master()?;
    // A snapshot is renamed to its name at its end, which fails where a directory stands.
    let folder = stage.server(n, |server| server.directory().join("dump.rdb"));
    let _ = std::fs::remove_file(&folder);
    std::fs::create_dir(&folder).context("a directory in the snapshot's place")?;
    let before = stage.server(n, |server| config(server, "save", "3600 1"))?;
    stage.server(n, |server| server.try_cli(&["BGSAVE"]))?;
    let end = Instant::now() + BITES_WITHIN;
    while stage.server(n, |server| info_text(server, "persistence", "rdb_last_bgsave_status"))? != "err" {
        ensure!(Instant::now() < end, "the snapshot did not fail");
        sleep(Duration::from_millis(100)).await;
    }
    let refused = errors(stage, n, "MISCONF", hold).await;
    stage.server(n, |server| config(server, "save", &before))?;
    std::fs::remove_dir(&folder)?;
    refused
}

/// Waits, and then says how often the server has answered with this error.
async fn errors(stage: &Stage, n: usize, error: &str, hold: Duration) -> Result<String> {
    let begun = stage.server(n, |server| error_count(server, error))?;
    sleep(hold).await;
    let count = stage.server(n, |server| error_count(server, error))? - begun;
    ensure!(count > 0, "server {n} never answered {error}");
    Ok(format!("{count} commands were refused with {error}"))
}
