//! Redis servers that die, freeze, or cut their clients off.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::Redis;
use tokio::time::{Instant, sleep};

use super::Stage;
use crate::world::servers::{config, info_number, info_text};

/// What a power failure takes from the end of the file: less than one second of load.
const CUT_BYTES: usize = 8 * 1024;

/// Beside other faults little is appended: more is cut off then.
const CUT_MESSAGES: usize = 10;

/// As the file says it.
const APPEND: &[u8] = b"RPUSHX\r\n";

pub(super) fn run_id(server: &Redis) -> Result<String> {
    info_text(server, "server", "run_id")
}

/// Fault 1.
pub(super) async fn killed(stage: &Stage, hold: Duration) -> Result<String> {
    let n = stage.some_master()?;
    let before = stage.server(n, run_id)?;
    stage.server(n, Redis::kill);
    if !stage.world.topology.has_replicas() {
        sleep(hold).await;
    }
    stage.servers(|servers| servers.get_mut(n).restart())?;
    let after = stage.server(n, run_id)?;
    ensure!(before != after, "server {n} still has the run id {before}");
    stage.wait_well()?;
    Ok(format!("server {n} has run id {:.8} after {:.8}", after, before))
}

/// Fault 2.
pub(super) async fn cut_tail(stage: &Stage) -> Result<String> {
    let n = stage.some_master()?;
    let asked_again = stage.node_sum("switchboard_appended_again_total").await;
    let (cut, messages) = stage.servers(|servers| {
        servers.all()[n].kill();
        let cut = cut_file(&servers.all()[n])?;
        servers.get_mut(n).restart()?;
        Ok::<_, anyhow::Error>(cut)
    })?;
    stage.wait_well()?;
    sleep(Duration::from_secs(3)).await;
    let again = stage.node_sum("switchboard_appended_again_total").await - asked_again;
    ensure!(messages > 0, "{cut} bytes were cut off, and no message was in them");
    Ok(format!("{cut} bytes with {messages} appends cut off, {again} messages appended again"))
}

/// Cuts the end of the file off, so far back that messages are in it; gives bytes and messages.
fn cut_file(server: &Redis) -> Result<(u64, usize)> {
    for file in std::fs::read_dir(server.directory().join("appendonlydir"))? {
        let path = file?.path();
        if path.to_string_lossy().ends_with(".incr.aof") {
            let bytes = std::fs::read(&path)?;
            let mut at = bytes.len().saturating_sub(CUT_BYTES);
            while appends(&bytes[at..]) < CUT_MESSAGES && at > 0 {
                at = at.saturating_sub(CUT_BYTES);
            }
            std::fs::OpenOptions::new().write(true).open(&path)?.set_len(at as u64)?;
            return Ok(((bytes.len() - at) as u64, appends(&bytes[at..])));
        }
    }
    anyhow::bail!("no append-only file")
}

/// Commands that put entries into inboxes.
fn appends(file: &[u8]) -> usize {
    file.windows(APPEND.len()).filter(|window| *window == APPEND).count()
}

/// Fault 8.
pub(super) async fn subscriptions_killed(stage: &Stage, hold: Duration) -> Result<String> {
    let end = Instant::now() + hold;
    let mut killed = 0;
    while Instant::now() < end {
        killed += stage.sum(|server| Ok(server.try_cli(&["CLIENT", "KILL", "TYPE", "pubsub"])?.parse()?));
        sleep(Duration::from_secs(2)).await;
    }
    ensure!(killed >= 2, "{killed} subscriptions were killed");
    Ok(format!("{killed} subscriptions were killed"))
}

/// Fault 9.
pub(super) async fn subscriber_too_slow(stage: &Stage, hold: Duration) -> Result<String> {
    const OPTION: &str = "client-output-buffer-limit";
    let told = |server: &Redis| server.process().log().contains("overcoming of output buffer limits");
    let seat = &stage.world.seats[1];
    let before = stage.servers(|servers| {
        servers.all().iter().map(|server| config(server, OPTION, "pubsub 256kb 128kb 2")).collect::<Result<Vec<_>>>()
    })?;
    // What lies in the kernel's buffers counts for nothing: only much more than they hold reaches the limit.
    stage.load.padding_bytes.store(8_000, Ordering::Relaxed);
    seat.node().await.stop()?;
    let end = Instant::now() + hold;
    while Instant::now() < end && !stage.servers(|servers| servers.all().iter().any(told)) {
        sleep(Duration::from_millis(500)).await;
    }
    stage.load.padding_bytes.store(0, Ordering::Relaxed);
    seat.node().await.cont()?;
    let cut = stage.servers(|servers| servers.all().iter().filter(|server| told(server)).count());
    for (n, value) in before.iter().enumerate() {
        stage.server(n, |server| config(server, OPTION, value))?;
    }
    ensure!(cut > 0, "no subscription was over the limit");
    Ok(format!("{cut} servers cut a subscription off for its buffer"))
}

/// Fault 11.
pub(super) async fn frozen(stage: &Stage, hold: Duration) -> Result<String> {
    let n = stage.some_master()?;
    let before = stage.load.counts.acked.load(Ordering::Relaxed);
    stage.server(n, Redis::stop)?;
    let begun = Instant::now();
    sleep(hold).await;
    let during = stage.load.counts.acked.load(Ordering::Relaxed) - before;
    stage.server(n, Redis::cont)?;
    let stood = begun.elapsed();
    stage.wait_well()?;
    let uptime =
        stage.server(n, |server| info_number(server, "server", "uptime_in_seconds")).context("after the thaw")?;
    ensure!(u128::from(uptime) * 1_000 + 999 >= stood.as_millis(), "it was started anew");
    let master = stage.some_master()?;
    Ok(format!(
        "server {n} stood still for {} ms, {during} messages were acknowledged meanwhile; a master now: {master}",
        stood.as_millis()
    ))
}
