//! Masters that change, with and without what they had acknowledged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use testkit::Redis;
use tokio::time::{Instant, sleep};

use super::Stage;
use super::clock::WrongClock;
use super::server::run_id;
use crate::world::Servers;
use crate::world::servers::{error_count, info_number, info_text};

/// Until another one is the master: `down-after` or the node timeout, an election, and a busy machine.
const TAKES_OVER_WITHIN: Duration = Duration::from_secs(30);

/// Fault 12.
pub(super) async fn failover(stage: &Stage) -> Result<String> {
    let mut proof = String::new();
    if stage.world.topology.has_replicas() {
        let (old, new) = kill_until_replaced(stage).await?;
        proof = format!("server {new} is the master after {old}, ");
    }
    let count = |stage: &Stage| stage.sum(|server| error_count(server, "NOSCRIPT"));
    let begun = count(stage);
    stage.sum(|server| server.try_cli(&["SCRIPT", "FLUSH"]).map(|_| 0));
    sleep(Duration::from_secs(2)).await;
    let flushed = count(stage).saturating_sub(begun);
    ensure!(flushed > 0, "{proof}and no script was missing after SCRIPT FLUSH");
    Ok(format!("{proof}{flushed} scripts were missing after SCRIPT FLUSH"))
}

/// Kills a master, waits for the next one, and starts the old one again as its replica.
async fn kill_until_replaced(stage: &Stage) -> Result<(usize, usize)> {
    let old = stage.some_master()?;
    let new = stage.servers(|servers| servers.replica_of(old))?;
    let before = stage.server(old, run_id)?;
    stage.server(old, Redis::kill);
    wait_for_master(stage, new).await?;
    stage.servers(|servers| servers.get_mut(old).restart())?;
    stage.wait_well()?;
    ensure!(before != stage.server(old, run_id)?, "the old master was not started anew");
    Ok((old, new))
}

async fn wait_for_master(stage: &Stage, n: usize) -> Result<()> {
    let end = Instant::now() + TAKES_OVER_WITHIN;
    loop {
        let says_so = stage.server(n, |server| info_text(server, "replication", "role"))? == "master";
        // Sentinels and the rest of a cluster have to say the same.
        if says_so && stage.servers(|servers| servers.masters()).is_ok_and(|masters| masters.contains(&n)) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "server {n} did not become the master");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Fault 3.
pub(super) async fn lost_tail(stage: &Stage, hold: Duration) -> Result<String> {
    lose(stage, hold, false).await
}

/// Fault 22.
pub(super) async fn lost_registration(stage: &Stage, hold: Duration) -> Result<String> {
    lose(stage, hold, true).await
}

/// The replica is cut off, the master goes on for a while and is killed, the replica takes over.
async fn lose(stage: &Stage, hold: Duration, reattach: bool) -> Result<String> {
    let old = stage.some_master()?;
    let new = stage.servers(|servers| servers.replica_of(old))?;
    let offset = |server: &Redis| info_number(server, "replication", "master_repl_offset");
    let opened = stage.load.counts.opened.load(Ordering::Relaxed);
    stage.server(old, |server| {
        server.try_cli(&["ACL", "SETUSER", "default", "-psync", "-sync"])?;
        server.try_cli(&["CLIENT", "KILL", "TYPE", "replica"])
    })?;
    let stood_at = stage.server(new, |server| info_number(server, "replication", "slave_repl_offset"))?;
    if reattach {
        stage.world.seats.iter().for_each(|seat| seat.front.cut());
    }
    sleep(hold).await;
    let went_to = stage.server(old, offset)?;
    stage.server(old, Redis::kill);
    wait_for_master(stage, new).await?;
    stage.servers(|servers| servers.get_mut(old).restart())?;
    stage.wait_well()?;
    ensure!(went_to > stood_at, "the replica had everything: {stood_at} of {went_to}");
    let mut proof = format!("server {new} took over without the last {} bytes of server {old}", went_to - stood_at);
    if reattach {
        let attached = stage.load.counts.opened.load(Ordering::Relaxed) - opened;
        ensure!(attached > 0, "nobody attached meanwhile");
        proof.push_str(&format!(", {attached} connections were opened meanwhile"));
    }
    Ok(proof)
}

/// Fault 4.
pub(super) async fn stalled(stage: &Stage, hold: Duration) -> Result<String> {
    let masters = stage.servers(|servers| servers.masters())?;
    let replicas: Vec<usize> =
        stage.servers(|servers| masters.iter().map(|&master| servers.replica_of(master)).collect::<Result<_>>())?;
    for &n in &replicas {
        stage.server(n, Redis::stop)?;
    }
    let counts = &stage.load.counts;
    // Answers to what was confirmed before are still on their way.
    sleep(Duration::from_millis(1_500)).await;
    let (acked, unknown) =
        (counts.acked_replicated.load(Ordering::Relaxed), counts.replicated_unknown.load(Ordering::Relaxed));
    sleep(hold).await;
    let confirmed = counts.acked_replicated.load(Ordering::Relaxed) - acked;
    let unknown = counts.replicated_unknown.load(Ordering::Relaxed) - unknown;
    for &n in &replicas {
        stage.server(n, Redis::cont)?;
    }
    stage.wait_well()?;
    ensure!(confirmed == 0, "{confirmed} messages were answered `replicated` while every replica stood still");
    ensure!(unknown > 0, "nobody asked for `replicated`");
    Ok(format!("{} replicas stood still, {unknown} answers `unknown_outcome` and none `replicated`", replicas.len()))
}

/// Fault 26.
pub(super) async fn clock_jumps(stage: &Stage, hold: Duration) -> Result<String> {
    let wrong = WrongClock::build()?;
    wrong.set(-30)?;
    let env = wrong.env()?;
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let old = stage.some_master()?;
    let new = stage.servers(|servers| servers.replica_of(old))?;
    stage.servers(|servers| servers.get_mut(new).restart_with_env(&env))?;
    stage.wait_well()?;
    let clock =
        |server: &Redis| -> Result<i64> { Ok(server.try_cli(&["TIME"])?.lines().next().context("no time")?.parse()?) };
    let behind = stage.server(old, clock)? - stage.server(new, clock)?;
    ensure!(behind > 20, "the clock of server {new} is only {behind} s behind");
    take_turns(stage)?;
    wait_for_master(stage, new).await?;
    sleep(hold).await;
    // Back to a master with the right time, then the other one gets its clock back.
    stage.wait_well()?;
    take_turns(stage)?;
    wait_for_master(stage, old).await?;
    stage.servers(|servers| servers.get_mut(new).restart_with_env(&[]))?;
    stage.wait_well()?;
    Ok(format!("server {new}, {behind} s behind, was the master for a while"))
}

/// Asks the sentinels for a failover, until they take the request: they refuse one right behind another.
fn take_turns(stage: &Stage) -> Result<()> {
    stage.servers(|servers| {
        let Servers::Sentinel(sentinel) = servers else { bail!("there are no sentinels") };
        let end = Instant::now() + TAKES_OVER_WITHIN;
        loop {
            match sentinel.ask(&["SENTINEL", "FAILOVER", testkit::sentinel::SERVICE]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    })
}
